"""Run `make demo` on this machine; the report checks the run against the operator's own log.

The demo imports 10,000 contacts in many spellings, records consents for four fifths of the people, runs a campaign with
a personalised text and STOP replies, then a second campaign, which must not reach the people who stopped. The
demonstration policy opens the sending hours at any time of day; everything else is as in production.
"""

import asyncio
import contextlib
import csv
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from stack.environment import SERVICES
from stack.processes import DidNotStart, Died
from stack.report import Campaign, Fact, Facts, Imported, Report, folded, report
from stack.running import Stack, kafka_asked, running_stack
from stack.simulator import STOP_SPELLINGS

SENDER = {
    "sender_id": "maison-lune",
    "legal_name": "Maison Lune SAS",
    "brand": "Maison Lune",
    "contact": "contact@maison-lune.example",
    "country": "FR",
    "oadc": "MAISONLUNE",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Recevoir nos offres par SMS"}],
}
FORM = {
    "source": "form",
    "form_id": "checkout",
    "form_version": "2026-03",
    "text_shown": "[ ] Oui, je veux recevoir les offres de Maison Lune par SMS. STOP au 36111 à tout moment.",
    "actor": "person",
}
CONSENT_BATCH = 500
STOP_SHARE = 0.03  # of the recipients, while the first campaign runs
POLL_S = 0.25
STANDSTILL_S = 60.0  # a failure even on a busy machine
QUIET_POLLS = 8  # longer than `reply_delay_s`
CALL_AGAIN_S = 0.3  # repeated calls are safe
CALL_WITHIN_S = 120.0  # four services may be starting


FIGURES = ("audience", "pending", "denied", "deferred", "expired", "handed_off", "accepted", "rejected", "unknown")


class DemoFailed(RuntimeError):
    """An expected change did not happen in time, or an answer was not as expected."""


During = Callable[[Stack], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Patience:
    """Detects a standstill: a run may be slow, but must progress.

    Patience ends once `seen` stays the same for STANDSTILL_S. `now`: seconds on a monotonic clock.
    """

    seen: object = None
    since: float = 0.0

    def ends(self, seen: object, now: float) -> bool:
        if self.seen is None or seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since > STANDSTILL_S


@dataclass(slots=True)
class Api:
    """Calls the services; repeats a call while a service is away (all are idempotent)."""

    session: aiohttp.ClientSession
    urls: Mapping[str, str]

    async def call(
        self,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        csv: bytes | None = None,
    ) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        data = csv if csv is not None else (msgspec.json.encode(body) if body is not None else None)
        if data is not None:
            headers["Content-Type"] = "text/csv" if csv is not None else "application/json"
        deadline = asyncio.get_running_loop().time() + CALL_WITHIN_S
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                async with self.session.request(
                    method, self.urls[service] + path, data=data, headers=headers
                ) as answer:
                    content = await answer.read()
                    if answer.status < 400:
                        return msgspec.json.decode(content) if content else None
                    if answer.status < 500:
                        raise DemoFailed(f"{method} {path}: {answer.status} {content.decode()[:500]}")
            if asyncio.get_running_loop().time() > deadline:
                raise DemoFailed(f"{method} {path}: no good answer within {CALL_WITHIN_S:g} s")
            await asyncio.sleep(CALL_AGAIN_S)

    async def pages(self, service: str, path: str) -> AsyncIterator[Any]:
        """Yield every item of a list."""
        cursor = ""
        while True:
            page = await self.call("GET", service, path + cursor)
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            cursor = f"{'&' if '?' in path else '?'}cursor={page['next']}"


@dataclass(slots=True)
class Demo:
    """A run of the demo. `during` is called after the first campaign has begun."""

    api: Api
    contacts: Path
    text: str
    progress: Progress
    during: Callable[[], Coroutine[Any, Any, None]] | None = None
    imported: Imported = field(default_factory=Imported)
    lines: list[str] = field(default_factory=list)
    consented: list[str] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(36111))

    async def run(self) -> tuple[Facts, Report]:
        started = datetime.now(UTC)
        await self.api.call("POST", "consent", "/v1/senders", SENDER)
        await self._import()
        await self._consent()
        await self._behave()
        first = await self._campaign("Campaign 1", stops=True)
        await self._stops_enforced()
        second = await self._campaign("Campaign 2")
        await self._receipts()
        facts = Facts(
            log=await self._log(),
            campaigns=[await self._told("Campaign 1", first), await self._told("Campaign 2", second)],
            enforcements=[e async for e in self.api.pages("dispatch", "/v1/enforcements?limit=1000")],
            imported=self.imported,
            lines_in_file=len(self.lines),
            consented=frozenset(self.consented),
            stop_code=str(SENDER["stop_code"]),
            started_at=started,
            ended_at=datetime.now(UTC),
        )
        return facts, report(facts)

    async def _import(self) -> None:
        task = self._task("Contacts imported", 1)
        content = self.contacts.read_bytes()
        rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines(), delimiter=";"))
        self.lines = [row["number"] or "" for row in rows]
        answer = await self.api.call(
            "POST", "campaign", f"/v1/imports?sender_id={SENDER['sender_id']}", csv=content, key="demo-contacts"
        )
        self.imported = msgspec.convert(answer, Imported)
        self.progress.update(task, total=self.imported.lines, completed=self.imported.lines)

    async def _consent(self) -> None:
        """Record evidence for four fifths of the people, with numbers as written by the people."""
        people: dict[str, str] = {}
        for written in self.lines:
            if (e164 := folded(written)) is not None:
                people.setdefault(e164, written)
        self.consented = [e164 for at, e164 in enumerate(people) if at % 5]
        task = self._task("Consents recorded", len(self.consented))
        given = (datetime.now(UTC) - timedelta(days=40)).isoformat()
        items = [
            {
                "sender_id": SENDER["sender_id"],
                "purpose": "promotions",
                "number": people[e164],
                "basis": "opt_in",
                "occurred_at": given,
                "evidence": FORM,
            }
            for e164 in self.consented
        ]
        for at in range(0, len(items), CONSENT_BATCH):
            batch = items[at : at + CONSENT_BATCH]
            answer = await self.api.call("POST", "consent", "/v1/consents/batch", {"items": batch}, key=f"demo-{at}")
            refused = [r for r in answer["results"] if r["verdict"] == "refused"]
            if refused:
                raise DemoFailed(f"{len(refused)} consents refused: {refused[0]['reasons']}")
            self.progress.advance(task, len(batch))

    async def _behave(self) -> None:
        """Set the operator's behaviour: DLRs late, out of order and repeated, and STOP replies.

        Half of the people who stop reply to a message; the others stop whether or not theirs has left.
        """
        await self.api.call(
            "POST",
            "simulator",
            "/control/behaviour",
            {
                "receipt_delay_s": [0.2, 2.0],
                "receipt_twice": 0.1,
                "receipt_out_of_order": 0.1,
                "reject_rate": 0.005,
                "latency_s": 0.02,
                "stop_rate": STOP_SHARE / 2,
                "reply_delay_s": [0.1, 1.0],
            },
        )

    async def _campaign(self, name: str, *, stops: bool = False) -> str:
        campaign = await self.api.call(
            "POST",
            "campaign",
            "/v1/campaigns",
            {
                "sender_id": SENDER["sender_id"],
                "name": name,
                "purpose": "promotions",
                "text": self.text,
                "audience": {"all": True},
            },
            key=f"demo {name}",
        )
        identity = str(campaign["campaign_id"])
        await self.api.call("POST", "campaign", f"/v1/campaigns/{identity}/schedule", {})
        stopping = asyncio.create_task(self._some_stop()) if stops else None
        disturbing = asyncio.create_task(self.during()) if stops and self.during else None
        await self._watch(identity, name)
        for task in (stopping, disturbing):
            if task is not None:
                await task
        return identity

    async def _watch(self, identity: str, name: str) -> None:
        """Wait until the campaign is finished; repeated deferrals of a message are no progress."""
        task: TaskID | None = None
        patience = Patience()
        while True:
            told = await self.api.call("GET", "campaign", f"/v1/campaigns/{identity}")
            s = told["statistics"]
            decided = s["audience"] - s["pending"] - s["deferred"]
            if s["audience"] and task is None:
                task = self._task(f"{name} decided", s["audience"])
            if task is not None:
                self.progress.update(task, completed=decided)
            if told["status"] == "finished":
                return
            if patience.ends((told["status"], s["audience"], decided), asyncio.get_running_loop().time()):
                raise DemoFailed(f"{name} is {told['status']}, and nothing has moved for {STANDSTILL_S:g} s: {s}")
            await asyncio.sleep(POLL_S)

    async def _some_stop(self) -> None:
        """Send STOP replies during the campaign."""
        leaving = self.chance.sample(self.consented, int(len(self.consented) * STOP_SHARE / 2))
        replies = [
            {
                "from": number,
                "to": SENDER["stop_code"],
                "text": self.chance.choice(STOP_SPELLINGS),
                "after_s": round(self.chance.uniform(0.0, 4.0), 3),
            }
            for number in leaving
        ]
        await self.api.call("POST", "simulator", "/control/replies", {"replies": replies})

    async def _stops_enforced(self) -> None:
        """Wait until every STOP reply is enforced, or nothing changes any more."""
        await self.api.call("POST", "simulator", "/control/behaviour", {"stop_rate": 0.0})
        task = self._task("STOPs enforced", None)
        patience = Patience()
        quiet, replies = 0, -1
        while True:
            counts = await self.api.call("GET", "simulator", "/counts")
            enforced = [e async for e in self.api.pages("dispatch", "/v1/enforcements?limit=1000") if e["enforced_at"]]
            self.progress.update(task, total=counts["replies"], completed=len(enforced))
            done = len(enforced) >= counts["replies"] == counts["replies_acknowledged"]
            quiet = quiet + 1 if done and counts["replies"] == replies else 0
            replies = counts["replies"]
            if quiet >= QUIET_POLLS:
                return
            if patience.ends((counts, len(enforced)), asyncio.get_running_loop().time()):
                return  # the report counts the missing STOPs
            await asyncio.sleep(POLL_S)

    async def _receipts(self) -> None:
        """Wait until the operator has no DLR left, or nothing changes any more."""
        task = self._task("Receipts taken", None)
        patience = Patience()
        while True:
            counts = await self.api.call("GET", "simulator", "/counts")
            acknowledged, pending = counts["receipts_acknowledged"], counts["receipts_pending"]
            self.progress.update(task, total=acknowledged + pending, completed=acknowledged)
            if not pending or patience.ends(acknowledged, asyncio.get_running_loop().time()):
                return
            await asyncio.sleep(POLL_S)

    async def _told(self, name: str, identity: str) -> Campaign:
        """Return the API's account of a campaign."""
        recipients = {
            r["message_id"]: r["status"]
            async for r in self.api.pages("campaign", f"/v1/campaigns/{identity}/recipients?limit=1000")
        }
        told = await self.api.call("GET", "campaign", f"/v1/campaigns/{identity}")
        return Campaign(name, told["statistics"], recipients)

    async def _log(self) -> list[Fact]:
        async with self.api.session.get(self.api.urls["simulator"] + "/log") as answer:
            return [msgspec.json.decode(line) for line in (await answer.read()).splitlines()]

    def _task(self, what: str, total: float | None) -> TaskID:
        return self.progress.add_task(what, total=total)


async def demonstrate(
    folder: Path,
    *,
    console: Console,
    during: During | None = None,
    examples: Path = Path("examples"),
    kafka: int = 0,
    durable: bool = True,
) -> Report:
    """Start a stack under `folder`, run the demo and print the report. Raises DemoFailed, DidNotStart, Died.

    `kafka`: brokers of Apache Kafka; 0: the local broker.
    """
    bars = _bars(console)
    with bars:
        starting = bars.add_task("Starting", total=None)
        async with running_stack(
            folder, kafka=kafka, durable=durable, say=lambda what: bars.update(starting, description=what)
        ) as stack:
            bars.update(starting, description="Everything is up", total=1, completed=1)
            disturb = None if during is None else partial(during, stack)
            facts, found = await _walk(stack.urls, stack.token, bars, examples, disturb)
    show(console, facts, found)
    return found


async def visit(told: Mapping[str, str], *, console: Console, examples: Path = Path("examples")) -> Report:
    """Run the demo on a running stack without an earlier demo. Raises DemoFailed."""
    bars = _bars(console)
    urls = {name: told[f"{name.upper()}_URL"] for name in (*SERVICES, "simulator")}
    with bars:
        facts, found = await _walk(urls, told["TOKEN"], bars, examples, None)
    show(console, facts, found)
    return found


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip


async def _walk(
    urls: Mapping[str, str],
    token: str,
    bars: Progress,
    examples: Path,
    during: Callable[[], Coroutine[Any, Any, None]] | None,
) -> tuple[Facts, Report]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {token}"}) as session:
        demo = Demo(
            api=Api(session, urls),
            contacts=examples / "contacts.csv",
            text=(examples / "campaign.fr.txt").read_text(encoding="utf-8").strip(),
            progress=bars,
            during=during,
        )
        return await demo.run()


def show(console: Console, facts: Facts, found: Report) -> None:
    """Print the report."""
    console.print(
        "\nSending hours: the [bold]demonstration policy[/] (always open), so that this runs at any time of day."
    )
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(facts.imported.reasons.items()))
    taken = facts.imported.created + facts.imported.updated
    console.print(
        f"Contacts: {facts.imported.lines} lines, {taken} taken, {facts.imported.duplicates} duplicates,"
        f" {facts.imported.refused} refused ({reasons}). Consents: {len(facts.consented)}."
    )
    table = Table("", *(c.name for c in facts.campaigns), title="Verdicts and outcomes")
    for name in (*FIGURES, "delivered"):
        table.add_row(name, *(str(c.statistics.get(name, 0)) for c in facts.campaigns))
    for reason in sorted({r for c in facts.campaigns for r in c.statistics["denied_reasons"]}):
        table.add_row(
            f"  denied: {reason}", *(str(c.statistics["denied_reasons"].get(reason, 0)) for c in facts.campaigns)
        )
    console.print(table)
    console.print(
        f"STOP, webhook to enforced: p50 {found.percentile_ms(50):.0f} ms, p99 {found.percentile_ms(99):.0f} ms"
        f" over {len(found.enforced_ms)} STOPs."
    )
    console.print(
        f"Messages: {found.messages} at the operator, {found.messages_per_s:,.0f} per second while a campaign ran;"
        f" {(facts.ended_at - facts.started_at).total_seconds():.0f} s in all."
    )
    checks = Table("", "what", "found", "", title="Checked against the operator's own log")
    for check in found.checks:
        checks.add_row(
            "[green]ok[/]" if check.holds else "[red]FAILED[/]", check.promise, str(check.offenders), check.detail
        )
    console.print(checks)
    console.print("[bold green]Every check holds.[/]" if found.holds else "[bold red]A check failed.[/]")


def run(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 when every check holds."""
    console = Console()
    try:
        if on := os.environ.get("ON"):
            told = dict(line.split("=", 1) for line in Path(on).read_text(encoding="utf-8").splitlines())
            found = asyncio.run(visit(told, console=console))
        else:
            found = asyncio.run(demonstrate(Path(".placet/demo"), console=console, kafka=kafka_asked(os.environ)))
    except (DemoFailed, DidNotStart, Died) as error:
        console.print(f"[bold red]The demo did not finish:[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(run())
