"""Run `make demo` on this machine; the report checks the run against the operator's own log.

Two organisations share a short code. The first imports 10,000 contacts in many spellings, records consents for four
fifths of the people, runs a campaign with a personalised text and STOP replies, then a second campaign, which must not
reach the people who stopped. The second organisation runs a campaign before and one after: a STOP stops the brand that
wrote last, a STOP TOUT both. During the first organisation's campaign a hostile caller of the second tries what no
caller may do. The demonstration policy opens the sending hours at any time of day; everything else is as in production.

`--rotating` replaces the keys of the services meanwhile, takes the old ones out, and goes on with further campaigns
(`rotation.py`).
"""

import asyncio
import os
import random
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from stack.calling import Api, DemoFailed, Patience, together
from stack.demo.brands import EVERYONE, Attempt, Fact
from stack.demo.hostile import MARK, PER_HOUR, Hostile, Target
from stack.demo.house import LUNE, NORD, POLL_S, House
from stack.demo.report import Facts, Report, report
from stack.demo.rotation import Rotation
from stack.environment import SERVICES, refuse_settings
from stack.processes import DidNotStart, Died
from stack.running import Stack, kafka_asked, running_stack
from stack.simulator import STOP_SPELLINGS

NORDS_TEXT = "{first_name|Bonjour}, les nouveautés de printemps sont chez Atelier Nord {city|et en ligne}. {stop}"
WITHOUT, NORDS_WITHOUT = 5, 6  # every fifth person has given no consent to the first brand, every sixth to the second
NORDS_PEOPLE = 600  # lines of the first organisation's contacts
STOP_NORD, STOP_BOTH, STOP_LUNE = 30, 15, 30  # people of both brands
STOP_RATE = 0.015  # of the recipients reply STOP while the first campaign runs, and as many stop by themselves
STOP_AFTERWARDS = 10  # people of both brands, once the old keys have gone
QUIET_POLLS = 8  # longer than `reply_delay_s`
FIGURES = ("audience", "pending", "denied", "deferred", "expired", "handed_off", "accepted", "rejected", "unknown")

FOLDER = Path(".placet/demo")

During = Callable[[Stack], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Demo:
    """A run of the demo.

    `before` is called while the first organisation signs its people up, and `during` once its first campaign has begun.
    """

    lune: House
    nord: House
    hostile: Callable[[Target], Hostile]
    contacts: Path
    progress: Progress
    before: Callable[[], Coroutine[Any, Any, None]] | None = None
    during: Callable[[], Coroutine[Any, Any, None]] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    single: dict[str, str] = field(default_factory=dict)
    certain: list[str] = field(default_factory=list)
    of_both: list[str] = field(default_factory=list)  # who have no task yet
    leaving: list[str] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(36111))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def api(self) -> Api:
        return self.lune.api

    async def run(self) -> tuple[Facts, Report]:
        self._choose()
        await self._behave()
        await together(self.lune.register(), self.nord.register())
        await together(self.lune.invite(), self._nord_writes(), *([self.before()] if self.before else ()))
        await self._behave(stop_rate=STOP_RATE)
        meanwhile = [self._some_stop(), self._be_hostile(), *([self.during()] if self.during else ())]
        await self.lune.campaign(*meanwhile)
        await self._behave()
        await together(self._stops_enforced(quiet_polls=QUIET_POLLS), self.lune.known())
        await self._stop_one(self.lune, STOP_LUNE)
        await together(self.lune.campaign(), self.nord.campaign())
        return await self._judged()

    async def afterwards(self) -> tuple[Facts, Report]:
        """Let the first brand write, people stop that brand, and both brands write; judge the run from its start."""
        await self.lune.campaign()
        await self.lune.known()
        await self._stop_one(self.lune, STOP_AFTERWARDS)
        await together(self.lune.campaign(), self.nord.campaign())
        return await self._judged()

    async def _judged(self) -> tuple[Facts, Report]:
        await self._receipts()
        facts = Facts(
            log=await self._log(),
            campaigns=[*await self.lune.accounts(), *await self.nord.accounts()],
            enforcements=[e async for e in self.api.pages("dispatch", "/v1/enforcements?limit=1000")],
            imported=self.lune.imported,
            lines_in_file=len(self.lune.lines),
            brands=(self.lune.brand, self.nord.brand),
            certain=frozenset(self.certain),
            attempts=self.attempts,
            hostile_mark=MARK,
            per_number=PER_HOUR,
            single=self.single,
            stop_code=str(LUNE["stop_code"]),
            started_at=self.started_at,
            ended_at=datetime.now(UTC),
        )
        found = report(facts)
        for other in found.cut_off:
            house = next(each for each in (self.lune, self.nord) if each.brand == other.brand)
            found.explained.extend(await house.account_of(other))
        return facts, found

    def _choose(self) -> None:
        """Choose who consents to which brand, and who may stop. The choice is the same on every run."""
        contacts = self.contacts.read_bytes()
        self.lune.read(contacts, without=WITHOUT)
        self.nord.read(b"\n".join(contacts.splitlines()[: NORDS_PEOPLE + 1]), without=NORDS_WITHOUT)
        of_lune, of_nord = set(self.lune.consented), set(self.nord.consented)
        self.of_both = [number for number in self.nord.consented if number in of_lune and _stays(number)]
        self.chance.shuffle(self.of_both)
        of_lune_alone = [number for number in self.lune.consented if number not in of_nord]
        self.leaving = self.chance.sample(of_lune_alone, int(len(self.lune.consented) * STOP_RATE))

    async def _nord_writes(self) -> None:
        """Let the second brand write first, and people stop that brand, or both."""
        await self.nord.invite()
        await self.nord.campaign()
        await self.nord.known()
        await self._stop_one(self.nord, STOP_NORD)
        await self._stop(self._next(STOP_BOTH), ["STOP TOUT", "stop tout", "Stop tout svp"])

    async def _behave(self, stop_rate: float = 0.0) -> None:
        """Set the operator's behaviour: DLRs late, out of order and repeated, and STOP replies.

        Half of the people who stop during a campaign reply to a message; the others may stop before theirs has left.
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
                "stop_rate": stop_rate,
                "reply_delay_s": [0.1, 1.0],
            },
        )

    async def _stop_one(self, last: House, people: int) -> None:
        """Let people of both brands stop the brand that wrote last: no hand-off to them is in doubt."""
        numbers: list[str] = []
        while self.of_both and len(numbers) < people:
            numbers += [number for number in self._next(1) if await last.knows(number)]
        self.certain += numbers
        await self._stop(numbers, [text for text in STOP_SPELLINGS if not EVERYONE.search(text)])

    async def _be_hostile(self) -> None:
        """Let a caller of the second organisation try what no caller may do, once the first campaign has sent."""
        accepted = f"/v1/campaigns/{self.lune.campaigns[-1]}/recipients?status=accepted&limit=1"
        patience = Patience()
        while not (found := (await self.api.call("GET", "campaign", accepted))["items"]):
            if patience.ends(0, asyncio.get_running_loop().time()):
                raise DemoFailed("no message of the first campaign has left")
            await asyncio.sleep(POLL_S)
        taken = {*self.lune.people, *self.nord.people}
        target = Target(
            owner=self.api,
            sender=LUNE,
            campaign_id=self.lune.campaigns[-1],
            message_id=found[0]["message_id"],
            person=next(
                number
                for number in self.lune.consented
                if number not in self.nord.people and number not in self.leaving and _stays(number)
            ),
            unknown=next(number for n in range(10_000) if (number := f"+3363998{n:04d}") not in taken),
            willing=self._next(1)[0],
            stopped=self.certain[0],
        )
        hostile = self.hostile(target)
        self.attempts = await hostile.attempts()
        self.single = hostile.single

    def _next(self, people: int) -> list[str]:
        """Return people of both brands, each once, who never reply to a message of their own accord."""
        taken, self.of_both = self.of_both[:people], self.of_both[people:]
        return taken

    async def _stop(self, numbers: Sequence[str], texts: Sequence[str]) -> None:
        """Send STOP replies, and wait until they are enforced."""
        before = (await self.api.call("GET", "simulator", "/counts"))["replies"]
        await self._reply(numbers, texts, within_s=0.5)
        await self._stops_enforced(at_least=before + len(numbers))

    async def _some_stop(self) -> None:
        """Send STOP replies of people of the first brand alone, whether or not their message has left."""
        await self._reply(self.leaving, STOP_SPELLINGS, within_s=4.0)

    async def _reply(self, numbers: Sequence[str], texts: Sequence[str], *, within_s: float) -> None:
        replies = [
            {
                "from": number,
                "to": LUNE["stop_code"],
                "text": self.chance.choice(texts),
                "after_s": round(self.chance.uniform(0.0, within_s), 3),
            }
            for number in numbers
        ]
        await self.api.call("POST", "simulator", "/control/replies", {"replies": replies})

    async def _stops_enforced(self, *, at_least: int = 0, quiet_polls: int = 0) -> None:
        """Wait until every STOP reply is enforced, for every brand, or nothing changes any more.

        `at_least`: the replies to wait for. `quiet_polls`: polls without a further reply, if more may be on their way.
        """
        task = self.progress.add_task("STOPs enforced", total=None)
        patience = Patience()
        quiet, replies = 0, -1
        while True:
            counts = await self.api.call("GET", "simulator", "/counts")
            found = [e async for e in self.api.pages("dispatch", "/v1/enforcements?limit=1000")]
            enforced = {e["reference"] for e in found} - {e["reference"] for e in found if not e["enforced_at"]}
            self.progress.update(task, total=counts["replies"], completed=len(enforced))
            done = len(enforced) >= counts["replies"] == counts["replies_acknowledged"] >= at_least
            quiet = quiet + 1 if done and counts["replies"] == replies else 0
            replies = counts["replies"]
            if done and quiet >= quiet_polls:
                return
            if patience.ends((counts, len(enforced)), asyncio.get_running_loop().time()):
                return  # the report counts the missing STOPs
            await asyncio.sleep(POLL_S)

    async def _receipts(self) -> None:
        """Wait until the operator has no DLR left, or nothing changes any more."""
        task = self.progress.add_task("Receipts taken", total=None)
        patience = Patience()
        while True:
            counts = await self.api.call("GET", "simulator", "/counts")
            acknowledged, pending = counts["receipts_acknowledged"], counts["receipts_pending"]
            self.progress.update(task, total=acknowledged + pending, completed=acknowledged)
            if not pending or patience.ends(acknowledged, asyncio.get_running_loop().time()):
                return
            await asyncio.sleep(POLL_S)

    async def _log(self) -> list[Fact]:
        async with self.api.session.get(self.api.urls["simulator"] + "/log") as answer:
            return [msgspec.json.decode(line) for line in (await answer.read()).splitlines()]


def _stays(number: str) -> bool:
    """Return whether the person never replies STOP of their own accord: as the simulator decides by `stop_rate`."""
    return zlib.crc32(number.encode()) / 2**32 >= STOP_RATE


async def demonstrate(
    folder: Path,
    *,
    console: Console,
    during: During | None = None,
    examples: Path = Path("examples"),
    kafka: int = 0,
    durable: bool = True,
    rotating: bool = False,
) -> Report:
    """Start a stack under `folder`, run the demo and print the report. Raises DemoFailed, DidNotStart, Died.

    `kafka`: brokers of Apache Kafka; 0: the local broker. `rotating`: with a rotation of keys instead of `during`, and
    a second report once the old keys have gone, unless the first one does not hold.
    """
    bars = _bars(console)
    with bars:
        starting = bars.add_task("Starting", total=None)
        async with running_stack(
            folder, kafka=kafka, durable=durable, say=lambda what: bars.update(starting, description=what)
        ) as stack:
            bars.update(starting, description="Everything is up", total=1, completed=1)
            rotation = Rotation(stack, bars) if rotating else None
            disturb = None if during is None else partial(during, stack)
            async with _demo(stack.urls, stack.environment.tokens(), bars, examples, disturb) as demo:
                if rotation is not None:
                    demo.before, demo.during = rotation.prepare, partial(rotation.begin, demo.nord)
                facts, found = await demo.run()
                if rotation is not None and found.holds:
                    show(console, facts, found)
                    await rotation.end(demo.nord)
                    facts, found = await demo.afterwards()
    show(console, facts, found)
    return found


async def visit(told: Mapping[str, str], *, console: Console, examples: Path = Path("examples")) -> Report:
    """Run the demo on a running stack without an earlier demo. Raises DemoFailed."""
    bars = _bars(console)
    urls = {name: told[f"{name.upper()}_URL"] for name in (*SERVICES, "simulator")}
    with bars:
        async with _demo(urls, told, bars, examples, None) as demo:
            facts, found = await demo.run()
    show(console, facts, found)
    return found


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip


@asynccontextmanager
async def _demo(
    urls: Mapping[str, str],
    tokens: Mapping[str, str],
    bars: Progress,
    examples: Path,
    during: Callable[[], Coroutine[Any, Any, None]] | None,
) -> AsyncIterator[Demo]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        first, second, colleague = (
            Api(session, urls, tokens[name]) for name in ("TOKEN", "NEIGHBOUR_TOKEN", "NEIGHBOUR_COLLEAGUE_TOKEN")
        )
        text = (examples / "campaign.fr.txt").read_text(encoding="utf-8").strip()
        yield Demo(
            lune=House(first, LUNE, text, bars),
            nord=House(second, NORD, NORDS_TEXT, bars),
            hostile=partial(Hostile, second, colleague, NORD),
            contacts=examples / "contacts.csv",
            progress=bars,
            during=during,
        )


def show(console: Console, facts: Facts, found: Report) -> None:
    """Print the report."""
    console.print(
        "\nSending hours: the [bold]demonstration policy[/] (always open), so that this runs at any time of day."
    )
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(facts.imported.reasons.items()))
    taken = facts.imported.created + facts.imported.updated
    console.print(
        f"Contacts: {facts.imported.lines} lines, {taken} taken, {facts.imported.duplicates} duplicates,"
        f" {facts.imported.refused} refused ({reasons})."
        f" Consents: {', '.join(f'{len(brand.consented)} to {brand.name}' for brand in facts.brands)}."
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
        f"Messages: {found.messages} at the operator, {found.messages_per_s:,.0f} per second in the largest campaign;"
        f" {(facts.ended_at - facts.started_at).total_seconds():.0f} s in all."
    )
    tried = Table("", "tried", "answered", title=f"A hostile caller of {facts.brands[-1].name}'s organisation")
    for attempt in facts.attempts:
        tried.add_row("[green]refused[/]" if attempt.refused else "[red]LET IN[/]", attempt.tried, attempt.answered)
    console.print(tried)
    checks = Table("", "what", "found", "", title="Checked against the operator's own log")
    for check in found.checks:
        checks.add_row(
            "[green]ok[/]" if check.holds else "[red]FAILED[/]", check.promise, str(check.offenders), check.detail
        )
    console.print(checks)
    for line in found.explained:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("[bold green]Every check holds.[/]" if found.holds else "[bold red]A check failed.[/]")


def run(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 when every check holds. `arguments`: `--rotating`, or none."""
    console, rotating = Console(), "--rotating" in arguments
    try:
        if on := os.environ.get("ON"):
            if rotating:
                raise DemoFailed("--rotating replaces keys of a stack of its own: leave out ON")
            told = dict(line.split("=", 1) for line in Path(on).read_text(encoding="utf-8").splitlines())
            found = asyncio.run(visit(told, console=console))
        else:
            refuse_settings(os.environ)
            brokers = kafka_asked(os.environ)
            found = asyncio.run(demonstrate(FOLDER, console=console, kafka=brokers, rotating=rotating))
    except (DemoFailed, DidNotStart, Died) as error:
        console.print(f"[bold red]The demo did not finish:[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
