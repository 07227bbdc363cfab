"""Messages and MOs under chaos, over SMPP, on each of three servers that nobody here wrote.

SMPP_MESSAGES=1000 is the whole form: so many messages, and half as many MOs, of which half are STOPs. The server and
the process of dispatch-svc are killed, the SMSC throttles and unbinds, and the wire is cut, silent, deaf and slow, at
times drawn by PLACET_TEST_SEED. Every MO reaches inbound-svc, every STOP is enforced, no part of a text is taken twice,
and a text of which the SMSC had some parts only is `unknown`.
"""

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest

from chaos.wire import Wire, wire_to
from common.contracts import CAMPAIGN_REQUESTS, CONTROLS, INBOUND_MESSAGES, operator_topics
from common.contracts.inbound import MessageReceived
from common.contracts.operator import MessageDelivered
from common.sms.sms_length import segments
from consent.service import Settings as Consent
from consent.service import build as build_consent
from dispatch.service import Settings, build
from inbound.service import Settings as Inbound
from inbound.service import build as build_inbound
from tests.support.builders import SENDER, STOP_CODE, controlled, now, number, requested, subject
from tests.support.eventually import eventually
from tests.support.failing import Process, start
from tests.support.operators import jasmin
from tests.support.operators.smsc import CLOUDHOPPERS, JASMINS, NPMS, Smsc, smsc
from tests.support.publish import publish
from tests.support.reading import reading
from tests.support.running import Surroundings, running
from tests.support.seed import seed

MESSAGES = int(os.environ.get("SMPP_MESSAGES", "100"))
ROUNDS = max(6, MESSAGES // 40)
CALM_S = 300.0  # after the last fault
# the last two digits have a meaning to the servers below 20 and above 90
PEOPLE = [n for n in range(10_000) if 20 <= n % 100 <= 90]
AGREED = 1000  # opt-ins of one call
PARTS = (1, 1, 2, 3, 5)  # of a text, by turns
MARK, AFTERWARDS = "Offre", "Ensuite"
FAULTS = ("server", "dispatch", "throttle", "unbind", "cut", "silent", "deaf", "slow")
HEAD = 6  # octets of a user data header


def text_of(n: int) -> str:
    """A text of so many parts as its person's turn says, of which each part says MARK."""
    parts, wide = PARTS[n % len(PARTS)], n % 7 == 0
    sentence = f"{MARK} {n:04d}{' ça' if wide else ''}. "
    each = 60 if wide else 140
    return sentence * max(1, parts * each // len(sentence) - 3) + f"{MARK}. STOP au {STOP_CODE}"


@dataclass
class Mo:
    """`pdus`: what the SMSC delivers, by name."""

    n: int
    stops: bool
    pdus: dict[str, dict[str, Any]]


def mo_of(n: int, at: int) -> Mo:
    stops, source = at % 2 == 0, number(n).removeprefix("+")
    if at % 10 == 4:  # a STOP in two parts
        text = b"Bonjour, je ne veux plus rien recevoir de votre part, ni offres ni nouvelles. " * 2 + b"STOP"
        halves = [bytes((5, 0, 3, at % 256, 2, k)) + half for k, half in enumerate((text[:150], text[150:]), 1)]
        pdus = {f"{at}.{k}": {"text": half.hex(), "headed": True} for k, half in enumerate(halves)}
    else:
        pdus = {str(at): {"text": (b"STOP" if stops else f"Bonjour, {at} fois merci".encode()).hex()}}
    return Mo(n, stops, {name: {"source": source, **told} for name, told in pdus.items()})


@dataclass
class Play:
    """One server, one process of dispatch-svc, and all that was asked of both."""

    surroundings: Surroundings
    server: Smsc
    wire: Wire
    settings: Settings
    dice: random.Random
    process: Process | None = None
    told: dict[str, dict[str, Any]] = field(default_factory=dict)  # PDUs that the SMSC has to deliver
    faults: Counter[str] = field(default_factory=Counter)
    listening: asyncio.Task[None] | None = None

    async def up(self) -> None:
        await self.server.start()
        self.listening = asyncio.create_task(self.server.listen())
        for name, told in self.told.items():
            if name not in self.delivered:
                self.server.deliver(name, **told)

    async def down(self) -> None:
        """Kill the server. An SMSC keeps what it has not delivered: `up` tells its next process."""
        self.server.kill()
        if self.listening is not None:
            await self.listening
        await self.server.stop()

    @property
    def delivered(self) -> set[str]:
        return {fact["name"] for fact in self.server.facts if (fact["kind"], fact.get("status")) == GOOD}

    def receive(self, mo: Mo) -> None:
        for name, told in mo.pdus.items():
            self.told[name] = told
            self.server.deliver(name, **told)

    async def begun(self) -> None:
        self.process = await start(build, self.settings)

    async def suffer(self, fault: str) -> None:
        self.faults[fault] += 1
        if fault == "server":
            await self.down()
            await asyncio.sleep(self.dice.uniform(0, 1.5))
            await self.up()
        elif fault == "dispatch":
            assert self.process is not None
            self.process.kill()
            await asyncio.to_thread(self.process.join)
            await self.begun()
        elif fault == "throttle":
            self.server.order("throttle", s=self.dice.uniform(0.3, 2.0))
        elif fault == "unbind":
            self.server.order("unbind")
        else:
            self.wire.become(fault, self.dice.uniform(0.1, 1.0))  # type: ignore[arg-type]
            await asyncio.sleep(self.dice.uniform(0.2, 4.0))
            self.wire.heal()


GOOD = ("delivered", "ESME_ROK")


@asynccontextmanager
async def play(surroundings: Surroundings, module: str, people: Sequence[int]) -> AsyncIterator[Play]:
    """With a person's consent for each of these."""
    async with AsyncExitStack() as stack:
        whole = await surroundings.settings("consent", page_url="https://placet.example")
        consent = await stack.enter_async_context(running(build_consent(Consent(**whole))))
        whole = await surroundings.settings("inbound", kafka_operators=("orange",))
        await stack.enter_async_context(running(build_inbound(Inbound(**whole))))
        await _agree(consent, people)
        server = await stack.enter_async_context(smsc(module))
        wire = await stack.enter_async_context(wire_to("127.0.0.1", server.port))
        account = {
            "provider": "smpp",
            "account": "orange",
            "user": jasmin.USER,
            "secret": jasmin.PASSWORD,
            "url": f"smpp://127.0.0.1:{wire.port}",
            "options": {"binds": "2", "window": "8"},
        }
        settings = await surroundings.settings(
            "dispatch",
            roles={"worker", "relay", "projection"},
            hours="demonstration",
            max_staleness_s=60.0,
            gateway_url=None,
            gateways=[account],
        )
        played = Play(surroundings, server, wire, Settings(**settings), random.Random(seed()))
        await played.down()
        await played.up()
        await publish(surroundings, CONTROLS, [controlled("running")])
        await played.begun()
        try:
            await eventually(lambda: _knows(surroundings, len(people)))
            yield played
        finally:
            await played.down()
            if played.process is not None:
                played.process.kill()
                await asyncio.to_thread(played.process.join)


async def _agree(consent: httpx.AsyncClient, people: Sequence[int]) -> None:
    names = {"legal_name": "Maison Lune SAS", "brand": "Maison Lune", "contact": "contact@maison-lune.example"}
    more = {"country": "FR", "controller": "lune", "sender_id": SENDER, "oadc": "MAISONLUNE", "stop_code": STOP_CODE}
    purposes = [{"id": "promotions", "wording": "Nos offres"}]
    answer = await consent.post("/v1/senders", json={**names, **more, "purposes": purposes})
    assert answer.status_code == 201, answer.text
    form = {"source": "shop", "form_id": "checkout", "form_version": "3", "text_shown": "Oui"}
    whole = {"sender_id": SENDER, "purpose": "promotions", "occurred_at": (now() - timedelta(days=1)).isoformat()}
    for at in range(0, len(people), AGREED):
        items = [{**whole, "number": number(n), "evidence": form} for n in people[at : at + AGREED]]
        answer = await consent.post("/v1/consents/batch", json={"items": items}, timeout=120)
        assert answer.status_code == 200, answer.text


async def _knows(surroundings: Surroundings, people: int) -> bool:
    async with surroundings.sql("dispatch") as sql:
        found = await sql.fetchval("SELECT count(*) FROM subject WHERE version > 0")
        return bool(found == people and await sql.fetchval("SELECT count(*) FROM sender"))


def parts_at(server: Smsc, mark: str) -> Counter[tuple[str, int]]:
    """Count each part of the texts with the mark that the server has taken, by recipient and number of the part.

    Of all texts only those with MARK have several parts.
    """
    taken: Counter[tuple[str, int]] = Counter()
    for fact in server.submits:
        octets = bytes.fromhex(fact["text"])
        place = fact["part"][-1:] if "part" in fact else octets[HEAD - 1 : HEAD] if fact["esm_class"] & 0x40 else ()
        marked = mark.encode() in octets or mark.encode("utf-16-be") in octets
        if mark == MARK if place else marked:
            taken[fact["to"], place[0] if place else 1] += 1
    return taken


def segments_of(n: int) -> int:
    return segments(text_of(n))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("module", [JASMINS, NPMS, CLOUDHOPPERS], ids=["jasmin", "npm", "cloudhopper"])
async def test_chaos_loses_no_mo_and_halves_no_text_in_silence(
    surroundings: Surroundings, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    people = PEOPLE[:MESSAGES]
    mos = [mo_of(n, at) for at, n in enumerate(people[: MESSAGES // 2])]
    requests = {n: requested(n, text=text_of(n)) for n in people}
    messages, _ = operator_topics("orange")
    async with (
        play(surroundings, module, people) as p,
        reading(surroundings, messages) as published,
        reading(surroundings, INBOUND_MESSAGES) as journalled,
    ):
        order = list(people)
        p.dice.shuffle(order)
        faults = [*FAULTS, *p.dice.choices(FAULTS, k=max(0, ROUNDS - len(FAULTS)))]
        p.dice.shuffle(faults)
        for at, fault in enumerate(faults):
            await publish(surroundings, CAMPAIGN_REQUESTS, [requests[n] for n in order[at :: len(faults)]])
            for mo in mos[at :: len(faults)]:
                p.receive(mo)
            await asyncio.sleep(p.dice.uniform(0, 1.0))
            await p.suffer(fault)

        async def all_delivered() -> bool:
            missing = len(p.told.keys() - p.delivered)
            assert not missing, f"{missing} of {len(p.told)} PDUs are not acknowledged"
            return True

        await eventually(all_delivered, CALM_S)

        async def all_ended() -> dict[str, tuple[str, str | None]]:
            async with surroundings.sql("dispatch") as sql:
                rows = await sql.fetch("SELECT message_id::text, status, code FROM message WHERE campaign_id = 'c1'")
            found = {row["message_id"]: (row["status"], row["code"]) for row in rows}
            waiting = Counter(status for status, _ in found.values() if status in ("pending", "deferred", "sending"))
            assert len(found) == len(requests)
            assert not waiting, waiting
            return found

        ledger = await eventually(all_ended, CALM_S)

        # no MO is lost, from the bind to the topic to the journal
        async def all_published() -> dict[tuple[str, str, int | None], set[str]]:
            """Return the names of each PDU."""
            found: dict[tuple[str, str, int | None], set[str]] = {}
            for event in await published():
                assert isinstance(event, MessageDelivered)
                part = event.part.number if event.part else None
                found.setdefault((event.sender, event.text, part), set()).add(event.repeats or event.message_id)
            assert len(found) == len(p.told), f"{len(found)} of {len(p.told)} PDUs are in the log"
            return found

        names = await eventually(all_published)

        async def all_journalled() -> Counter[str]:
            found = Counter(e.subject_id for e in await journalled() if isinstance(e, MessageReceived))
            assert found.keys() == {subject(mo.n) for mo in mos}, (len(found), len(mos))
            return found

        heard = await eventually(all_journalled)

        # every STOP is enforced: who texted it gets nothing more, and who did not gets the next message
        stopped = {mo.n for mo in mos if mo.stops}
        again = {n: requested(n, text=f"{AFTERWARDS} {n}. STOP au {STOP_CODE}") for n in people}

        async def all_known() -> bool:
            async with surroundings.sql("dispatch") as sql:
                found = await sql.fetchval("SELECT count(*) FROM subject WHERE version > 1")
            assert found >= len(stopped), f"{found} of {len(stopped)} STOPs are known"
            return True

        await eventually(all_known)
        await publish(surroundings, CAMPAIGN_REQUESTS, list(again.values()))

        async def second_ones() -> bool:
            async with surroundings.sql("dispatch") as sql:
                rows = dict(await sql.fetch("SELECT message_id::text, status FROM message WHERE campaign_id = 'c1'"))
            wrong = Counter(
                (n in stopped, rows.get(each.message_id))
                for n, each in again.items()
                if rows.get(each.message_id) != ("denied" if n in stopped else "accepted")
            )
            assert not wrong, wrong
            return True

        await eventually(second_ones, CALM_S)

    taken, half, states = parts_at(p.server, MARK), 0, Counter(status for status, _ in ledger.values())
    for n in people:
        status, code = ledger[requests[n].message_id]
        counts = [taken[number(n).removeprefix("+"), part] for part in range(1, segments_of(n) + 1)]
        assert max(counts) <= 1, f"a part was taken twice: {counts}, {status} {code}"
        assert status in ("accepted", "unknown", "denied"), (status, code)
        assert status != "accepted" or all(counts), f"an accepted text lacks parts: {counts}"
        assert status != "denied" or not any(counts), f"a denied text left: {counts}"
        half += any(counts) and not all(counts)
    twice = sum(len(found) > 1 for found in names.values())
    killed = p.faults["dispatch"] + p.faults["server"]
    assert set(parts_at(p.server, AFTERWARDS)) == {(number(n).removeprefix("+"), 1) for n in people if n not in stopped}
    with capsys.disabled():
        sys.stdout.write(
            f"\n{module}: {len(people)} messages {dict(states)}, {half} of them half sent; {len(mos)} MOs in"
            f" {len(names)} PDUs, {twice} journalled twice after {killed} kills, {sum(heard.values())} journalled in"
            f" all; {len(stopped)} STOPs enforced; faults {dict(p.faults)}\n"
        )
