"""The pipeline driven at random against a real Postgres, a real broker and a strict fake operator over HTTP.

Consents, STOPs, requests, other words for them, codes, pauses, erasures and receipts come in any order, late and twice,
for one gateway or two, of which one's receipts name nothing but its own ids; records are handed over again;
what waits is woken; workers die, stall, fail or are told to stop at any moment of their two transactions and their
submit, and what happens meanwhile happens within that moment: whoever then waits for a lock goes on waiting, and the
worker goes on. After each step, of everything:

    promise 1   what the operator was handed left on an opt-in, newer than any opt-out enforced by then, and on
                knowledge that was fresh; a question likewise, where the opt-out is as new as it is; a code needs none;
                of each opt-out that is applied an enforcement is told, once, when it is
    promise 4   what was asked for is in the ledger once, in one status; what the operator has is what the ledger says,
                once but for what a crash left and an idempotent gateway has again; what is published or waits to be is
                the same at each step; who was not killed leaves nothing behind; of a campaign that is paused no more
                nothing waits for it but what is to be woken still; in the end nothing waits at all
    promise 7   of who is erased nothing leaves that was asked for before, and nothing of it is kept
    all         the checker that runs with the service finds nothing

What is right is judged by what was told from here (`Heard`: states, watermarks, controls, texts, erasures) and by when
who decided had it; not by what dispatch wrote of itself.

What it draws is of the commit and of the kind of broker: a run's header names it, and PLACET_TEST_SEED repeats it.
One partition, so that everything meets. Time is stood still for nobody: who stalls finds their permits lapsed.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Generic, Literal, TypeVar, cast
from uuid import uuid4

import httpx
import hypothesis
import msgspec
import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from common.contracts import (
    CAMPAIGN_REQUESTS,
    CONTROLS,
    DISPATCH_MESSAGES,
    DISPATCH_REQUESTS,
    ERASURE_ACKS,
    ERASURES,
    INBOUND_RECEIPTS,
    STATES,
    Event,
    Topic,
    Watermark,
)
from common.contracts.campaign import CampaignControlled, MessageRequested, MessageReworded, MessagesRequested
from common.contracts.consent import ConsentStateChanged, Suppression
from common.contracts.dispatch import MessageChanged, OptOutEnforced
from common.contracts.rights import ErasureRequested
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka import packing
from common.kafka.consumer import Consumer
from common.kafka.outbox import Numbers, Relay
from common.kafka.subscription import Hold, Subscription
from common.law import at_hand_off
from dispatch.audit.invariants import Checker
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HttpGateway, gateway_name
from dispatch.gateways.pool import Traffic
from dispatch.messages import store as messages
from dispatch.privacy.erasure import eraser
from dispatch.projection import apply as projection
from dispatch.projection import store as projection_store
from dispatch.projection.limits import Limits
from dispatch.sending import receipts
from dispatch.sending import store as sending_store
from dispatch.sending.pipeline import Handoff, Intake
from dispatch.sending.timers import Timers
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    codes_sender_changed,
    controlled,
    erasure_requested,
    field_keys,
    now,
    number,
    opted_in,
    opted_out,
    receipt,
    requested,
    reworded,
    sender_changed,
    subject,
    subject_keys,
    together,
)
from tests.support.eventually import eventually
from tests.support.infrastructure import KAFKA, Broker, Postgres
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.reading import changes_in, requests_in
from tests.support.running import Surroundings, running
from tests.support.seed import seed

REQUESTS = (CAMPAIGN_REQUESTS, DISPATCH_REQUESTS)
TOPICS: tuple[Topic, ...] = (STATES, CONTROLS, ERASURES, *REQUESTS, INBOUND_RECEIPTS, DISPATCH_MESSAGES)
FRESH = timedelta(seconds=30)  # what a stale watermark is stale by in here is an hour
TTL_S = 5.0
# its receipts name nothing but its own ids
SECOND: dict[str, Any] = {"provider": "simulator", "account": "second", "secret": TOKEN, "echoes_reference": False}
SLOTS = 2
EXAMPLES = 10 if KAFKA else 25  # each kind of broker draws others; what a broker may change, few of them need
LOOKS = 4  # of a timer, with all of its slots taken before the last
LIMITS = Limits(max_staleness=FRESH, recheck=timedelta(0), review_recheck=timedelta(0))
AT_REST = msgspec.structs.replace(LIMITS, registry_grace=timedelta(0))  # what might still come has come
PEOPLE = (1, 2, 3)
CAMPAIGNS = ("c1", "c2")
EMPTIED = (
    *("message", "sending", "begun", "subject", "campaign", "enforcement", "early_receipt", "provider_block", "outbox"),
    *("consumer_offset", "erasing"),
)
FORGOTTEN = (
    "SELECT count(*) FROM message AS m JOIN campaign AS c USING (campaign_id) WHERE 'campaign_paused' = ANY(m.reasons)"
    " AND m.due_at > now() AND c.control <> 'paused' AND c.woken = c.version"
)
OURS = {"t": DISPATCH_MESSAGES.name}
SUM = ("pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired")

Moment = Literal["decided", "committed", "to be submitted", "answered", "settling"]
Happening = (
    Literal["opt out", "pause", "goes on", "comes twice", "another wakes"]
    | Literal["is late", "is overtaken", "stalls", "dies", "fails", "is to stop"]
)
Meanwhile = list[tuple[Moment, Happening]]
AT_ANY: list[tuple[Moment, Happening]] = [
    ("decided", "opt out"),
    ("decided", "pause"),
    ("decided", "goes on"),
    ("decided", "comes twice"),
    ("decided", "another wakes"),
    ("decided", "is to stop"),
    ("decided", "dies"),
    ("committed", "opt out"),
    ("committed", "another wakes"),
    ("committed", "is late"),
    ("committed", "is overtaken"),
    ("committed", "stalls"),  # a submit that has begun ends within its timeout, and so does a transaction
    ("committed", "dies"),
    ("to be submitted", "opt out"),
    ("to be submitted", "another wakes"),
    ("to be submitted", "is to stop"),
    ("to be submitted", "dies"),
    ("answered", "opt out"),
    ("answered", "is overtaken"),
    ("answered", "dies"),
    ("settling", "opt out"),
    ("settling", "dies"),
]
OF_A_CODE: list[tuple[Moment, Happening]] = [*AT_ANY, ("to be submitted", "fails")]
OF_A_REWORDING: list[tuple[Moment, Happening]] = [("decided", "another wakes"), ("decided", "dies")]
OF_AN_ERASURE: list[tuple[Moment, Happening]] = [("decided", "another wakes"), ("answered", "dies")]
OF_A_PAUSED_ONE: list[tuple[Moment, Happening]] = [("decided", "goes on")]
meanwhile = st.lists(st.sampled_from(AT_ANY), max_size=2)
something = st.lists(st.sampled_from(AT_ANY), min_size=1, max_size=2)
to_a_code = st.lists(st.sampled_from(OF_A_CODE), min_size=1, max_size=2)
# what is drawn depends on nothing that dispatch does: drawn otherwise the second time, Hypothesis calls it flaky
orders = st.integers(0, 2**16)
acting: ContextVar["Worker | None"] = ContextVar("acting", default=None)


class Clock:
    """The clock of everybody's permits, which may jump: a process that was not run for a while."""

    ahead_s = 0.0

    def clock_gettime(self, which: int) -> float:
        return time.clock_gettime(which) + self.ahead_s


T = TypeVar("T")
EVER = datetime.min.replace(tzinfo=UTC)
Span = tuple[datetime, datetime]  # in which somebody decided


@dataclass
class _Telling(Generic[T]):
    version: int
    value: T
    since: datetime  # it may be known
    by: datetime | None = None  # it surely was


class Heard(Generic[T]):
    """What dispatch was told of one thing. Whoever decides knows of all that it was told before, and perhaps of what it
    is told meanwhile; the greatest version counts."""

    def __init__(self, at_first: T) -> None:
        self._told = [_Telling(-1, at_first, EVER, EVER)]

    @property
    def last(self) -> _Telling[T]:
        return max(self._told, key=lambda telling: telling.version)

    def tell(self, version: int, value: T) -> "_Telling[T]":
        """About to be told. `by` is the caller's to set."""
        self._told.append(told := _Telling(version, value, now()))
        return told

    def takes_back(self, told: "_Telling[T]") -> None:
        self._told.remove(told)

    def at(self, span: Span) -> list[T]:
        """What who decided in this span may stand on."""
        begun, ended = span
        surely = max(t.version for t in self._told if t.by is not None and t.by <= begun)
        return [t.value for t in self._told if t.version >= surely and t.since <= ended]


@dataclass
class Asked:
    """A message, as it was asked for."""

    subject_id: str
    to: str
    category: str
    campaign_id: str | None
    requested_at: datetime
    text: Heard[str | None]


@dataclass
class Noted:
    """What is seen of workers while they work."""

    clock: Clock = field(default_factory=Clock)
    cleared: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))  # when a message was allowed
    claimed: Counter[str] = field(default_factory=Counter)  # how often it was found left behind by a crash
    begun: set[str] = field(default_factory=set)  # what was marked: its submit may have begun


@dataclass
class Witness(Operator):
    """The operator, with an eye on the ledger at the moment it is handed something. `broken`: what breaks a promise."""

    database: Database | None = None
    noted: Noted = field(default_factory=Noted)
    broken: list[str] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    consents: dict[str, Heard[ConsentStateChanged | None]] = field(default_factory=dict)
    controls: dict[str, Heard[str]] = field(default_factory=dict)
    erased: dict[str, Heard[datetime]] = field(default_factory=dict)  # what was asked for by then
    vouched: Heard[datetime | None] = field(default_factory=lambda: Heard(None))
    texts: dict[str, str] = field(default_factory=dict)  # as each left first

    def forgets(self) -> None:
        self.answer = "accept"
        self.noted.cleared.clear()
        self.noted.claimed.clear()
        self.noted.begun.clear()
        for kept in (self.messages, self.broken, self.asked, self.texts):
            kept.clear()
        self.consents = {subject(person): Heard(None) for person in PEOPLE}
        self.controls = {campaign: Heard("unknown") for campaign in CAMPAIGNS}
        self.erased = {subject(person): Heard(EVER) for person in PEOPLE}
        self.vouched = Heard(None)

    def asks(self, request: MessageRequested, to: str, said: str) -> None:
        self.asked[request.message_id] = Asked(
            request.subject_id, to, request.category, request.campaign_id, request.requested_at, Heard(said)
        )

    async def submits(self, request: web.Request) -> web.StreamResponse:
        handed = (await request.json())["messages"]
        assert self.database is not None
        async with self.database.begin() as tx:
            rows = await tx.execute(
                text(
                    "SELECT m.message_id, m.consent_version, m.as_of, (SELECT max(e.consent_version)"
                    " FROM enforcement e WHERE e.subject_id = m.subject_id AND e.enforced_at IS NOT NULL"
                    " AND (m.category = 'marketing' OR e.received_at >= m.requested_at)) AS enforced"
                    " FROM message m WHERE m.message_id = ANY(CAST(:ids AS uuid[]))"
                ),
                {"ids": [message["reference"] for message in handed]},
            )
            found = {str(row.message_id): row for row in rows}
        had = len(self.messages)
        try:
            for message in handed:
                self._looks_at(message, found.get(message["reference"]))
            return await super().submits(request)
        except AssertionError as error:  # else it would be one more answer that cannot be read
            self.broken.append(f"not as agreed: {error!r}")
            raise
        finally:
            for message in self.messages[had:]:
                self.texts.setdefault(message["reference"], message["text"])

    def _looks_at(self, message: dict[str, Any], row: Any) -> None:
        identity = message["reference"]
        asked = self.asked.get(identity)
        if row is None or asked is None:
            self.broken.append(f"{identity}: handed off before it was in the ledger, or of nobody's asking")
            return
        if (message["to"], message["category"]) != (asked.to, asked.category):
            self.broken.append(f"{identity} is not what was asked for")
        found = [self._against(asked, message["text"], row, span) for span in self.noted.cleared[identity]]
        if not found or all(found):
            self.broken.append(f"{identity}: {found[-1] if found else 'nobody has allowed it'}")

    def _against(self, asked: Asked, said: str, row: Any, span: Span) -> list[str]:
        """What speaks against its leaving by what was decided then."""
        against = []
        first = self.texts.get(str(row.message_id))
        if said not in ([first] if first else asked.text.at(span)):
            against.append("another text")
        marketing = asked.category == "marketing"
        if all(
            erased is not EVER and (marketing or asked.requested_at <= erased)
            for erased in self.erased[asked.subject_id].at(span)
        ):
            against.append("its person was erased")
        if asked.category == "transactional":
            return against
        states = self.consents[asked.subject_id].at(span)
        if row.consent_version not in {state and state.version for state in states}:
            against.append("on another consent than there was")
        if row.enforced is not None and row.enforced >= row.consent_version:
            against.append("after an opt-out was enforced")
        if marketing and row.consent_version not in {
            s.version for s in states if s and s.consents[0].state == "opted_in"
        }:
            against.append("without an opt-in")
        if asked.campaign_id and "running" not in self.controls[asked.campaign_id].at(span):
            against.append("of a campaign that may not go on")
        if row.as_of is None or row.as_of not in self.vouched.at(span):
            against.append("on a watermark that nobody has told")
        elif span[0] - row.as_of > FRESH or now() - row.as_of > FRESH + timedelta(seconds=TTL_S + 1):
            against.append("on stale knowledge")
        return against


class Failed(Exception):
    """What nobody has thought of."""


class Worker:
    """One process of dispatch-svc, its parts moved by hand. `meanwhile`: what happens at which of its moments; `batch`:
    how many it takes or wakes at once."""

    def __init__(self, machine: "Pipeline", meanwhile: Meanwhile, *, batch: int = 100) -> None:
        world = machine.world
        told = {**world.told, "gateway_idempotent": machine.idempotent, "gateways": [SECOND] if machine.two else []}
        told["gateways"] = [
            {**each, "url": f"{world.operator.url}/{each['account']}", "idempotent": machine.idempotent}
            for each in told["gateways"]
        ]
        gateways = Settings(**told).every_gateway
        self.traffic = Traffic(
            [each.gateway_with_secrets(world.settings, timeout_s=60.0, submits=8) for each in gateways]
        )
        clearance = Clearance(
            subject_keys, field_keys, self.traffic, at_hand_off(world.settings.policy), machine.limits, TTL_S
        )
        self.handoff = handoff = Handoff(world.database, self.traffic, clearance, SLOTS)
        self.intake = Intake(clearance, handoff, batch=batch, partitions=1)
        self.timers = Timers(
            world.database, clearance, handoff, batch=batch, partitions=range(1), sending_timeout=timedelta(seconds=-1)
        )
        self.meanwhile = list(meanwhile)
        self.dead = asyncio.Event()
        self.has_failed = False
        self.stop = asyncio.Event()
        self.watching = asyncio.ensure_future(handoff.watch(self.stop))
        self.others: list[asyncio.Task[None]] = []
        self.machine = machine

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What goes on in it besides what it was called for: codes being handed off, outcomes on their way into the
        ledger."""
        storing = [task for lane in self.handoff._storing.values() for task in (*lane.writers, *lane.stubborn)]
        marking = [lane.writer for lane in self.handoff._marks.values() if lane.writer]
        return [self.watching, *self.handoff.codes.going, *marking, *storing]

    async def does(self, something: Callable[["Worker"], Awaitable[Any]]) -> None:
        """And stops once all codes that it has begun have left, or when it is to."""
        await something(self)
        stopping = asyncio.ensure_future(self.stop.wait())
        while not stopping.done() and (begun := [task for task in self.handoff.codes.going if not task.done()]):
            await asyncio.wait((stopping, *begun), return_when=asyncio.FIRST_COMPLETED)
        self.stop.set()
        await stopping
        await self.timers.codes().run(self.stop)

    async def wakes_codes(self) -> None:
        """As their timers do, a few times."""
        for _ in range(LOOKS):
            for wake in (self.timers.wake_codes, self.timers.wake_questions):
                if not self.stop.is_set():
                    with contextlib.suppress(Failed):
                        await wake()

    async def reaches(self, moment: Moment) -> None:
        """What is to happen at this moment happens, as far as it can while this worker stands still."""
        due = [one for one in self.meanwhile if one[0] == moment]
        self.meanwhile = [one for one in self.meanwhile if one[0] != moment]
        for _, happening in due:
            match happening:
                case "dies":
                    self.dead.set()
                    await asyncio.Event().wait()
                case "fails":
                    self.has_failed = True
                    raise Failed
                case "is to stop":
                    self.stop.set()
                    await self.watching
                    continue
            acting.set(None)
            task = asyncio.ensure_future(self.machine.happens(happening))
            acting.set(self)
            self.others.append(task)
            await eventually(lambda task=task: self.machine.done_or_waiting(task))  # type: ignore[misc]


async def reached(moment: Moment) -> None:
    if worker := acting.get():
        await worker.reaches(moment)


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """The functions of the pipeline stop where a process may be stopped."""

    def around(owner: Any, name: str, before: Moment | None, after: Moment | None) -> None:
        function = getattr(owner, name)

        async def stopping(*args: Any, **more: Any) -> Any:
            if before:
                await reached(before)
            found = await function(*args, **more)
            if after:
                await reached(after)
            return found

        monkeypatch.setattr(owner, name, stopping)

    noted = Noted()
    decide, claim = Clearance.decide, sending_store.claim_left_sending
    begin, begin_at_once = messages.begin, messages.begin_at_once

    async def deciding(*args: Any, **more: Any) -> Any:
        begun = now()
        decisions = await decide(*args, **more)
        for decision in decisions:
            if decision.permit:
                noted.cleared[str(decision.candidate.message_id)].append((begun, now()))
        return decisions

    async def claiming(*args: Any) -> Any:
        rows = await claim(*args)
        noted.claimed.update(str(left.row.message_id) for left in rows)
        return rows

    def note_begun(decisions: Any) -> None:
        noted.begun.update(str(message_id) for message_ids in decisions.values() for message_id in message_ids)

    async def beginning(tx: Any, decisions: Any) -> Any:
        note_begun(decisions)
        return await begin(tx, decisions)

    async def beginning_at_once(database: Any, decisions: Any) -> Any:
        note_begun(decisions)
        return await begin_at_once(database, decisions)

    monkeypatch.setattr(Clearance, "decide", deciding)
    monkeypatch.setattr(sending_store, "claim_left_sending", claiming)
    monkeypatch.setattr(messages, "begin", beginning)
    monkeypatch.setattr(messages, "begin_at_once", beginning_at_once)
    around(Clearance, "decide", None, "decided")
    around(Handoff, "send", "committed", None)
    around(HttpGateway, "submit", "to be submitted", "answered")
    around(messages, "settle", None, "settling")
    monkeypatch.setattr("common.db.timer.time", noted.clock)
    return noted


@dataclass
class World:
    """What all examples share: the broker's log as it has been read, a database that each of them empties."""

    surroundings: Surroundings
    told: dict[str, Any]
    settings: Settings
    database: Database
    operator: Witness
    producer: Any
    consumer: Any
    client: httpx.AsyncClient
    noted: Noted
    failures: list[AssertionError] = field(default_factory=list)
    log: dict[Topic, list[Any]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    events: dict[Topic, list[Event | None]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})  # of it

    async def publish(self, topic: Topic, *events: Event) -> None:
        """On the broker, and read from it."""
        if not events:
            return
        name = self.settings.topic_prefix + topic.name
        acks = [
            await self.producer.send(
                name,
                kafka.encode(event),
                key=event.key.encode(),
                partition=0,
                headers=[("ce_type", event.type.encode())],
            )
            for event in events
        ]
        told = (await asyncio.gather(*acks))[-1]
        await eventually(lambda: self._has_read(topic, told.offset))

    async def _has_read(self, topic: Topic, offset: int) -> bool:
        """By offset and not by how many there are: somebody else may have read some of them meanwhile."""
        await self._read()
        return bool(self.log[topic]) and self.log[topic][-1].offset >= offset

    async def _read(self) -> None:
        for tp, records in (await self.consumer.getmany(timeout_ms=50)).items():
            read = next(t for t in TOPICS if tp.topic == self.settings.topic_prefix + t.name)
            self.log[read] += records
            self.events[read] += [kafka.decode(record.value, record.headers) for record in records]


class Pipeline(RuleBasedStateMachine):
    """Three people, two campaigns, and a dispatch-svc whose processes come and go."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        super().__init__()
        self.run: Callable[[Any], Any] = runner.run
        self.world = world
        self.versions = dict.fromkeys(PEOPLE, 0)
        self.stopped: dict[int, tuple[Suppression, ...]] = {}
        self.late: list[Event] = []  # states that consent-svc has and the log has not yet
        self.controls = dict.fromkeys(CAMPAIGNS, 0)
        self.late_controls: list[Event] = []
        self.asked: list[MessageRequested] = []
        self.questions: list[MessageRequested] = []
        self.codes: dict[str, str | None] = {}  # message ids, by HTTP and so of no campaign
        self.missed: Meanwhile = []  # what was to happen to the last worker, at a moment that it never came to
        self.killed = False  # since it was looked at last, or one failed
        self.left: set[str] = set()  # `sending` in nobody's hand
        self.lost: set[str] = set()  # in the hand of somebody who was killed, or failed
        self.idempotent = False
        self.two = False  # gateways
        self.broken = False
        self.limits = LIMITS
        self.numbers = itertools.count(1)  # no text is said twice

    @initialize(idempotent=st.booleans(), opted=st.booleans(), two=st.booleans())
    def begins(self, *, idempotent: bool, opted: bool, two: bool) -> None:
        self.idempotent = idempotent
        self.two = two
        self.run(self._begin(opted=opted))

    async def _begin(self, *, opted: bool) -> None:
        self.world.operator.forgets()
        async with self.world.database.begin() as tx:
            for table in EMPTIED:  # of a few rows, which costs a tenth of what TRUNCATE does
                await tx.execute(text(f"DELETE FROM {table}"))
            for sender in (sender_changed(), codes_sender_changed()):
                await projection_store.put_sender(tx, sender)
        self.begun = {topic: len(records) for topic, records in self.world.log.items()}
        for campaign in CAMPAIGNS:
            await self._control(campaign, "running")
        if opted:
            await self._consent(PEOPLE, opts_in=True)
            await self._hand(STATES)
            await self._say(timedelta(0))

    # --- the neighbours ---------------------------------------------------------------------------------------------

    @rule(people=st.sets(st.sampled_from(PEOPLE), min_size=1), opts_in=st.booleans(), late=st.booleans())
    def consents(self, people: set[int], *, opts_in: bool, late: bool) -> None:
        if late:
            self.late += [self._state(person, opts_in=opts_in) for person in sorted(people)]
        else:
            self.run(self._consent(sorted(people), opts_in=opts_in))

    @rule(order=orders)
    def what_is_late_comes_in_another_order(self, order: int) -> None:
        late, self.late = self.late, []
        self.run(self.world.publish(STATES, *_mixed(late, order)))

    @rule(stale=st.booleans())
    def says_up_to_when_it_knows(self, *, stale: bool) -> None:
        self.run(self._say(timedelta(hours=1) if stale else timedelta(0)))

    @rule()
    def falls_silent(self) -> None:
        self.run(self._fall_silent())

    async def _fall_silent(self) -> None:
        vouched = self.world.operator.vouched
        known = vouched.last
        silent = vouched.tell(known.version + 1, known.value and known.value - timedelta(hours=1))
        await self._sql("UPDATE consumer_offset SET as_of = as_of - interval '1 hour'")
        silent.by = now()

    @rule(
        people=st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=4),
        campaign=st.sampled_from(CAMPAIGNS),
        expired=st.booleans(),
        again=st.integers(0, 2),
        most=st.integers(0, 4),
    )
    def asks(self, people: list[int], campaign: str, *, expired: bool, again: int, most: int) -> None:
        """For new messages, and for some once more. `most`: of an event; at 0 each request is one."""
        new = [self._request(person, campaign_id=campaign) for person in people]
        if expired:
            new.append(self._request(people[0], campaign_id=campaign, send_before=now() - timedelta(seconds=1)))
        self.asked += new
        events = self._together(new, most) if most else new
        self.run(self.world.publish(CAMPAIGN_REQUESTS, *events, *events[:again], *self.asked[:again]))

    @rule(
        people=st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=2),
        questions=st.booleans(),
        again=st.integers(0, 2),
    )
    def asks_for_codes(self, people: list[int], *, questions: bool, again: int) -> None:
        asks = self._ask_questions if questions else self._ask_for_codes
        self.run(asks(people, again=again))

    async def _ask_for_codes(self, people: Sequence[int], *, again: int = 0) -> None:
        """Over HTTP, as a shop does; some hear no answer and ask again."""
        for place, person in enumerate(people):
            said = f"Votre code : {next(self.numbers)}"
            body = {"sender_id": CODES_SENDER, "to": number(person), "text": said, "category": "transactional"}
            key, at = str(uuid4()), now()
            for _ in range(2 if place < again else 1):
                answer = await self.world.client.post("/v1/messages", json=body, headers={"Idempotency-Key": key})
                assert answer.status_code == 202, answer.text
                identity = answer.json()["message_id"]
                self.codes[identity] = None
                self.world.operator.asked.setdefault(
                    identity, Asked(subject(person), number(person), "transactional", None, at, Heard(said))
                )

    async def _ask_questions(self, people: Sequence[int], *, again: int = 0) -> None:
        """Whether they meant it, as consent-svc does."""
        new = [self._request(person, campaign_id=None, category="service") for person in people]
        self.questions += new
        await self.world.publish(DISPATCH_REQUESTS, *new, *self.questions[:again])

    @rule(back=st.integers(1, 4), many=st.integers(1, 3), written=st.booleans())
    def is_to_say_something_else(self, back: int, many: int, *, written: bool) -> None:
        """What was asked for, and perhaps not taken yet; or nothing at all."""
        place = max(0, len(self.asked) - back)
        self.run(self._reword(self.asked[place : place + many], written=written))

    @rule(meanwhile=meanwhile, written=st.booleans())
    def a_paused_campaign_says_something_else(self, meanwhile: Meanwhile, *, written: bool) -> None:
        self.run(self._reworded_one_goes_on(meanwhile, written=written))

    async def _reworded_one_goes_on(self, meanwhile: Meanwhile, *, written: bool) -> None:
        """What it says is changed, and then something happens on the way."""
        await self._go_out("c1", [], "paused")
        await self._reword(self.asked[-len(PEOPLE) :], written=written)
        await self._lives(meanwhile, lambda worker: self._hand(CAMPAIGN_REQUESTS, worker))
        await self._control("c1", "running")
        await self._wake_campaigns([])

    async def _reword(self, requests: Sequence[MessageRequested], *, written: bool) -> None:
        said = [self._say_something() if written else None for _ in requests]
        await self.world.publish(CAMPAIGN_REQUESTS, *(reworded(r, t) for r, t in zip(requests, said, strict=True)))

    @rule()
    def somebody_is_erased(self) -> None:
        self.run(self._erase(PEOPLE[-1]))

    @rule(meanwhile=meanwhile)
    def somebody_erased_is_asked_for(self, meanwhile: Meanwhile) -> None:
        self.run(self._with_one_erased_it_goes_out(meanwhile))

    async def _with_one_erased_it_goes_out(self, meanwhile: Meanwhile) -> None:
        """While some of theirs waits, and more is asked for afterwards; and then something happens on the way."""
        await self._go_out("c1", [], "paused")
        await self._erase(PEOPLE[-1])
        await self._go_out("c1", meanwhile)

    async def _erase(self, person: int) -> None:
        await self.world.publish(ERASURES, erasure_requested(person))
        await self._hand(ERASURES)
        await self._erases()

    @rule()
    def erases_what_it_could_not(self) -> None:
        self.run(self._erases())

    async def _erases(self) -> bool:
        """Is nothing left to erase?"""
        await eraser(self.world.database, 1).erase_kept()
        async with self.world.database.begin() as tx:
            return not await tx.scalar(text("SELECT count(*) FROM erasing WHERE erased_at IS NULL"))

    def _say_something(self) -> str:
        return f"Maison Lune : -{next(self.numbers)} % ce samedi. STOP au 36111"

    def _together(self, new: Sequence[MessageRequested], most: int) -> list[MessagesRequested]:
        return together(new, self.world.settings.partitions, most)

    def _request(self, person: int, **more: Any) -> MessageRequested:
        said = self._say_something()
        request = requested(person, text=said, **more)
        self.world.operator.asks(request, number(person), said)
        return request

    @rule(campaign=st.sampled_from(CAMPAIGNS), control=st.sampled_from(["running", "running", "paused", "cancelled"]))
    def controls_a_campaign(self, campaign: str, control: str) -> None:
        self.run(self._control(campaign, control))

    @rule(campaign=st.sampled_from(CAMPAIGNS), control=st.sampled_from(["running", "paused", "cancelled"]))
    def a_control_is_late(self, campaign: str, control: str) -> None:
        self.controls[campaign] += 1
        self.late_controls.append(controlled(control, self.controls[campaign], campaign))

    @rule(order=orders, back=st.integers(0, 3))
    def late_controls_come_in_another_order(self, order: int, back: int) -> None:
        """And twice, after newer ones."""
        late, self.late_controls = self.late_controls, []
        before = [event for event in self.world.events[CONTROLS][self.begun[CONTROLS] :] if event][-back - 1 :]
        self.run(self.world.publish(CONTROLS, *_mixed([*late, *before], order)))
        self.run(self._hand(CONTROLS, back=back))

    @rule(answer=st.sampled_from(["accept", "accept", "reject", "throttle", "drop", "unknown"]))
    def the_operator_changes(self, answer: str) -> None:
        self.world.operator.answer = answer

    @rule(
        places=st.lists(st.integers(0, 30), min_size=1, max_size=3),
        state=st.sampled_from(["sent", "delivered", "failed"]),
    )
    def receipts_come(self, places: list[int], state: str) -> None:
        """Of what the operator has, and twice."""
        if had := self.world.operator.messages:
            self.run(self._receive([_receipt(state, had[place % len(had)]) for place in places]))

    # --- dispatch-svc -----------------------------------------------------------------------------------------------

    @rule(back=st.integers(0, 3), many=st.integers(1, 4))
    def projects(self, back: int, many: int) -> None:
        """Some of the states there are, from where a former owner may have been."""
        self.run(self._hand(STATES, back=back, many=many))

    @rule(topic=st.sampled_from(REQUESTS), back=st.integers(0, 3), meanwhile=meanwhile)
    def takes(self, topic: Topic, back: int, meanwhile: Meanwhile) -> None:
        self.run(self._lives(meanwhile, lambda worker: self._hand(topic, worker, back=back)))

    @rule(campaign=st.sampled_from(CAMPAIGNS), meanwhile=something)
    def a_campaign_goes_out(self, campaign: str, meanwhile: Meanwhile) -> None:
        """To people who have all agreed by now; and then something happens on the way."""
        self.run(self._go_out(campaign, meanwhile))

    @rule(campaign=st.sampled_from(CAMPAIGNS), meanwhile=something)
    def another_goes_out(self, campaign: str, meanwhile: Meanwhile) -> None:
        self.run(self._go_out(campaign, meanwhile))

    @rule(campaign=st.sampled_from(CAMPAIGNS), control=st.sampled_from(["paused", "cancelled"]), meanwhile=meanwhile)
    def one_that_may_not_go_on_is_asked_for(self, campaign: str, control: str, meanwhile: Meanwhile) -> None:
        self.run(self._go_out(campaign, meanwhile, control))

    async def _go_out(self, campaign: str, meanwhile: Meanwhile, control: str = "running") -> None:
        self.world.operator.answer = "accept"
        await self._control(campaign, control)
        await self._consent(PEOPLE, opts_in=True)
        await self._say(timedelta(0))
        new = [self._request(person, campaign_id=campaign) for person in PEOPLE]
        await self.world.publish(CAMPAIGN_REQUESTS, *self._together(new, 3), *self.asked[-3:])  # some once more
        self.asked += new
        await self._lives(meanwhile, lambda worker: self._hand(CAMPAIGN_REQUESTS, worker))

    @rule(meanwhile=meanwhile)
    def wakes_campaigns(self, meanwhile: Meanwhile) -> None:
        self.run(self._wake_campaigns(meanwhile))

    @rule(meanwhile=to_a_code)
    def wakes_codes(self, meanwhile: Meanwhile) -> None:
        self.run(self._wake_codes(meanwhile))

    @rule(meanwhile=meanwhile)
    def wakes_what_waited_for_a_campaign(self, meanwhile: Meanwhile) -> None:
        self.run(self._lives(meanwhile, lambda worker: worker.timers.wake_controlled()))

    @rule(meanwhile=something)
    def a_paused_campaign_goes_on(self, meanwhile: Meanwhile) -> None:
        self.run(self._campaign_goes_on(meanwhile))

    @rule(meanwhile=to_a_code)
    def codes_go_out(self, meanwhile: Meanwhile) -> None:
        self.run(self._codes_go_out(meanwhile))

    async def _campaign_goes_on(self, meanwhile: Meanwhile) -> None:
        """To people who have all agreed; and then something happens on the way."""
        await self._go_out("c1", [], "paused")
        await self._control("c1", "running")
        await self._wake_campaigns(meanwhile)

    async def _paused_one_goes_out(self, meanwhile: Meanwhile) -> None:
        await self._go_out("c1", meanwhile, "paused")

    async def _questions_go_out(self, meanwhile: Meanwhile) -> None:
        """From Kafka; and then something happens on the way."""
        self.world.operator.answer = "accept"
        await self._consent(PEOPLE, opts_in=True)
        await self._say(timedelta(0))
        await self._ask_questions(PEOPLE)
        await self._lives(meanwhile, lambda worker: self._hand(DISPATCH_REQUESTS, worker))

    async def _codes_go_out(self, meanwhile: Meanwhile) -> None:
        """Questions first, which the operator had no time for before; and then something happens on the way."""
        await self._consent(PEOPLE, opts_in=True)
        await self._say(timedelta(0))
        await self._ask_questions(PEOPLE)
        self.world.operator.answer = "throttle"
        await self._lives([], lambda worker: self._hand(DISPATCH_REQUESTS, worker))
        await self._ask_for_codes(PEOPLE)
        self.world.operator.answer = "accept"
        await self._wake_codes(meanwhile)

    async def _wake_campaigns(self, meanwhile: Meanwhile) -> None:
        await self._all_is_due()
        await self._lives(meanwhile, lambda worker: worker.timers.wake_marketing())

    async def _wake_codes(self, meanwhile: Meanwhile) -> None:
        await self._all_is_due()
        await self._lives(meanwhile, Worker.wakes_codes, batch=2)

    async def _all_is_due(self) -> None:
        """But what a worker holds: two that wait for each other's rows would be a deadlock of the test's own."""
        await self._sql(
            "UPDATE message SET due_at = requested_at WHERE message_id IN (SELECT message_id FROM message"
            " WHERE status IN ('pending', 'deferred') FOR UPDATE SKIP LOCKED)"
        )

    @rule(meanwhile=meanwhile)
    def resolves_what_was_left(self, meanwhile: Meanwhile) -> None:
        self.run(self._lives(meanwhile, lambda worker: worker.timers.sweep()))

    @rule(dies=st.booleans())
    def relays(self, *, dies: bool) -> None:
        """Or dies between Kafka's acknowledgement and the deletion."""
        self.run(self._relay(dies=dies))

    # --- what holds -------------------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        self._must(self._promises_hold())

    def _must(self, hold: Any) -> None:
        try:
            self.run(hold)
        except AssertionError as error:
            self.broken = True
            self.world.failures.append(error)
            raise

    async def _promises_hold(self) -> None:
        assert self.world.operator.broken == []
        async with self.world.database.begin() as tx:
            rows = list(await tx.execute(text("SELECT * FROM message")))
            ledger = {str(row.message_id): row.status for row in rows}
            offsets = {row.topic: row.next_offset for row in await tx.execute(text("SELECT * FROM consumer_offset"))}
            opt_outs = list(await tx.execute(text("SELECT * FROM enforcement")))
            known = {row.subject_id: row for row in await tx.execute(text("SELECT * FROM subject"))}
            controls = {row.campaign_id: row for row in await tx.execute(text("SELECT * FROM campaign"))}
            waiting = list(
                await tx.execute(text("SELECT type, payload FROM outbox WHERE topic = :t ORDER BY id"), OURS)
            )
            sums = await tx.execute(text("SELECT campaign_id, count(*) AS many FROM message GROUP BY campaign_id"))
            audience = {row.campaign_id: row.many for row in sums}
            forgotten = await tx.scalar(text(FORGOTTEN))
        assert not forgotten, "waits for a campaign that goes on"
        checker = Checker(self.world.database, self.world.settings.policy, LIMITS, timedelta(hours=1))
        assert await checker.violations(now() - timedelta(hours=1), now()) == {}
        events = requests_in(e for topic in REQUESTS for e in self._applied(topic, offsets))
        self._knows_what_it_was_told(offsets, known, controls, opt_outs)
        appended = [packing.unpacked(row.type, row.payload) for row in waiting]
        unpublished = [kafka.decode(payload, [("ce_type", kind.encode())]) for kind, payload in appended]
        try:
            self._tells_what_is(rows, opt_outs, unpublished)
        except AssertionError:  # some of it was relayed, and has not been read here yet
            await eventually(lambda: self._will_have_told(rows, opt_outs, unpublished))
        asked = {event.message_id: event.campaign_id for event in events if isinstance(event, MessageRequested)}
        asked |= self.codes
        assert ledger.keys() == asked.keys(), "lost, or of nobody's asking"
        assert set(ledger.values()) <= set(SUM)
        assert audience == Counter(asked.values())
        had = self.world.operator.references
        times = Counter(had)
        again = self.world.noted.claimed if self.idempotent else Counter[str]()
        assert {m: many for m, many in times.items() if many > 1 + again[m]} == {}, "sent twice"
        assert {m for m, status in ledger.items() if status in ("accepted", "rejected")} <= set(had)
        by = {(m["reference"], gateway_name("simulator", m["account"])) for m in self.world.operator.messages}
        assert {(str(r.message_id), r.gateway) for r in rows if r.status in ("accepted", "rejected")} <= by
        assert len(by) == len(times), "by two gateways"
        assert set(had) <= {m for m, s in ledger.items() if s in ("accepted", "rejected", "unknown", "sending")}
        sending = {m for m, status in ledger.items() if status == "sending"}
        unknown = {m for m, status in ledger.items() if status == "unknown"}
        if self.killed:
            self.lost |= sending | unknown
        assert self.idempotent or unknown <= {*had, *self.lost}, "unknown, though who had it lives and never began"
        assert unknown <= self.world.noted.begun, "unknown, though no submit was about to begin"
        assert self.killed or sending <= self.left, "left behind by somebody who lives, or was to stop"
        self.killed, self.left = False, sending

    def _applied(self, topic: Topic, offsets: dict[str, int]) -> list[Event]:
        """What there is of it before the offset that is stored."""
        begun = self.begun[topic]
        records, events = self.world.log[topic][begun:], self.world.events[topic][begun:]
        return [e for r, e in zip(records, events, strict=True) if e and r.offset < offsets.get(topic.name, 0)]

    def _knows_what_it_was_told(
        self, offsets: dict[str, int], known: dict[str, Any], controls: dict[str, Any], opt_outs: Sequence[Any]
    ) -> None:
        """The newest of each person and campaign; and of each opt-out that was news, one enforcement: of others that
        came with it there may be one."""
        newest: dict[str, ConsentStateChanged] = {}
        must, may = set(), {}
        for state in self._applied(STATES, offsets):
            if not isinstance(state, ConsentStateChanged):
                continue
            is_opt_out = state.causes[0].kind == "opt_out"
            if is_opt_out:
                may[state.subject_id, state.version] = state.causes[0]
            if state.subject_id not in newest or newest[state.subject_id].version < state.version:
                newest[state.subject_id] = state
                must |= {(state.subject_id, state.version)} if is_opt_out else set()
        assert {who: row.version for who, row in known.items()} == {who: s.version for who, s in newest.items()}
        states = {who: [c["state"] for c in row.consents] for who, row in known.items()}
        assert states == {who: [c.state for c in state.consents] for who, state in newest.items()}
        found = [(row.subject_id, row.consent_version) for row in opt_outs]
        assert len(found) == len(set(found)), "an opt-out is applied twice"
        assert must <= set(found) <= may.keys(), "an opt-out is lost, or nobody's"
        for row in opt_outs:
            assert row.received_at == may[row.subject_id, row.consent_version].received_at
        last: dict[str, CampaignControlled] = {}
        for control in self._applied(CONTROLS, offsets):
            assert isinstance(control, CampaignControlled)
            if control.campaign_id not in last or last[control.campaign_id].version < control.version:
                last[control.campaign_id] = control
        assert {c: row.control for c, row in controls.items()} == {c: control.control for c, control in last.items()}

    def _told(self, unpublished: Sequence[Event | None]) -> list[Event | None]:
        return [*self.world.events[DISPATCH_MESSAGES][self.begun[DISPATCH_MESSAGES] :], *unpublished]

    def _tells_what_is(self, rows: Sequence[Any], opt_outs: Sequence[Any], unpublished: Sequence[Event | None]) -> None:
        """Of each message what it is, but that it is being handed off, and of each opt-out when it was enforced, as
        published, or about to be."""
        newest: dict[str, MessageChanged] = {}
        enforced: dict[tuple[str, int], set[OptOutEnforced]] = defaultdict(set)
        events = self._told(unpublished)
        for event in events:
            if isinstance(event, OptOutEnforced):
                enforced[event.subject_id, event.consent_version].add(event)
        for change in changes_in(events):
            before = newest.setdefault(change.message_id, change)
            newest[change.message_id] = change if change.version > before.version else before
        assert newest.keys() <= {str(row.message_id) for row in rows}
        for row in rows:
            told = newest.get(str(row.message_id))
            if row.status == "sending":
                # that is told of only where a receipt came meanwhile
                assert told is None or told.version < row.version or _as_told(told) == _as_told(row)
            elif told is None:
                assert (row.status, row.version, row.category) == ("pending", 1, "transactional"), "told of nowhere"
            else:
                assert _as_told(told) == _as_told(row)
        assert {key: {event.enforced_at for event in events} for key, events in enforced.items()} == {
            (row.subject_id, row.consent_version): {row.enforced_at} for row in opt_outs if row.enforced_at
        }
        assert all(len(events) == 1 for events in enforced.values()), "told twice, in different words"

    async def _will_have_told(self, rows: Any, opt_outs: Any, unpublished: Any) -> bool:
        await self.world._read()
        self._tells_what_is(rows, opt_outs, unpublished)
        return True

    def teardown(self) -> None:
        if not self.broken:  # else what is told is what broke
            self._must(self._comes_to_rest())

    async def _comes_to_rest(self) -> None:
        """Once nothing more happens, all that was asked for is taken, nothing is in anybody's hand and nothing waits,
        every opt-out is enforced, and all has been told."""
        await self._clear_up()
        for campaign in CAMPAIGNS:
            await self._control(campaign, "running")
        await self._say(timedelta(0))
        self.limits = AT_REST
        for topic in REQUESTS:
            await self._lives([], partial(self._hand, topic))
        await self._wake_campaigns([])
        await self._wake_codes([])
        await eventually(self._erases)  # who was writing when it was asked for is waited for
        await self._relay(dies=False)
        async with self.world.database.begin() as tx:
            rows = list(await tx.execute(text("SELECT * FROM message")))
            assert not await tx.scalar(text("SELECT count(*) FROM enforcement WHERE enforced_at IS NULL"))
        waiting = [row for row in rows if row.status not in ("denied", "expired", "accepted", "rejected", "unknown")]
        assert waiting == [], "waits for nothing"
        for row in rows:
            erased = self.world.operator.erased[row.subject_id].last.value
            assert row.requested_at > erased or (row.number, row.text) == (None, None), "not erased"
        ledger = {str(row.message_id): (row.version, row.status) for row in rows}
        await eventually(lambda: self._is_told(ledger))
        await self._promises_hold()

    async def _clear_up(self) -> None:
        """Nothing is in anybody's hand, and no code waits."""
        self.world.operator.answer = "accept"
        await self._sql("UPDATE enforcement SET applied_at = applied_at - interval '1 minute'")
        await self._lives([], lambda worker: worker.timers.sweep())
        await self._all_is_due()
        await self._lives([], Worker.wakes_codes)

    async def _statuses(self) -> list[str]:
        async with self.world.database.begin() as tx:
            return [row.status for row in await tx.execute(text("SELECT status FROM message ORDER BY requested_at"))]

    async def _is_told(self, ledger: dict[str, tuple[int, str]]) -> bool:
        await self.world._read()
        told = sorted(changes_in(self._told([])), key=lambda change: change.version)
        newest = {event.message_id: (event.version, event.status) for event in told}
        assert {identity: newest.get(identity) for identity in ledger} == ledger
        outcomes: dict[str, set[tuple[int, str, str | None]]] = defaultdict(set)
        for event in told:
            if event.status in ("accepted", "rejected"):
                outcomes[event.message_id].add((event.version, event.status, event.receipt))
        for changes in outcomes.values():  # a receipt says something new; an outcome is told once
            once = Counter(change[1:] for change in changes)
            assert set(once.values()) == {1}, f"told twice: {sorted(changes)}"
        return True

    # --- how ----------------------------------------------------------------------------------------------------------

    async def happens(self, happening: Happening) -> None:
        match happening:
            case "opt out":
                await self._everybody_opts_out()
            case "pause":
                for campaign in CAMPAIGNS:
                    await self._control(campaign, "paused")
            case "goes on":
                for campaign in CAMPAIGNS:
                    await self._control(campaign, "running")
                await self._lives([], lambda worker: worker.timers.wake_controlled())
            case "comes twice":
                for topic in REQUESTS:
                    await self._lives([], partial(self._hand, topic, back=4))
            case "another wakes":
                await self._all_is_due()
                await self._lives([], lambda worker: worker.timers.wake_marketing())
                await self._lives([], Worker.wakes_codes)
            case "is late":  # for so long that its permits have lapsed; and nobody has heard of consent meanwhile
                self.world.noted.clock.ahead_s += 1000.0
                await self._fall_silent()
            case "is overtaken":  # it is late for so long that another takes its messages for a dead one's
                self.world.noted.clock.ahead_s += 1000.0
                await self._lives([], lambda worker: worker.timers.sweep())
            case "stalls":  # likewise; and then all opt out
                await self.happens("is overtaken")
                await self._everybody_opts_out()

    async def _everybody_opts_out(self) -> None:
        await self._consent(PEOPLE, opts_in=False)
        await self._hand(STATES)

    async def done_or_waiting(self, task: asyncio.Task[None]) -> bool:
        """Whether it waits for a lock that somebody holds who stands still."""
        if task.done():
            return True
        async with self.world.database.begin() as tx:
            waiting = await tx.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock'"
                )
            )
        return bool(waiting) or task.done()

    async def _lives(self, meanwhile: Meanwhile, does: Callable[[Worker], Awaitable[Any]], *, batch: int = 100) -> None:
        """A worker does it, or dies on the way; and what happens meanwhile ends as well."""
        worker = Worker(self, meanwhile, batch=batch)
        before = acting.set(worker)
        working = asyncio.ensure_future(worker.does(does))
        acting.reset(before)
        dying = asyncio.ensure_future(worker.dead.wait())
        await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if worker.dead.is_set():
            gone = (working, *worker.tasks)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
        else:
            await working
            worker.stop.set()
            await worker.watching
        self.killed |= worker.dead.is_set() or worker.has_failed
        await asyncio.gather(*worker.others)
        self.missed = worker.meanwhile
        await worker.traffic.close()

    def _subscription(self, topic: Topic, worker: Worker | None) -> Subscription:
        mine: list[Subscription] = [
            *projection.subscriptions(),
            eraser(self.world.database, 1).subscription(),
            *receipts.subscriptions(worker.traffic if worker else Traffic([])),
            *((worker.intake.campaigns(), worker.intake.codes()) if worker else ()),
        ]
        return next(subscription for subscription in mine if subscription.topic is topic)

    async def _hand(self, topic: Topic, worker: Worker | None = None, *, back: int = 0, many: int = 1000) -> None:
        """Records to the consumer loop, in a batch as it makes them: `many` from the stored offset, less `back`."""
        consumer = Consumer(self._subscription(topic, worker), self.world.database, self.world.settings)
        place = TopicPartition(self.world.settings.topic_prefix + topic.name, 0)
        stored = await consumer.offsets.start_of(0)
        records = self._records(topic)
        next_one = next((n for n, record in enumerate(records) if record.offset >= stored), len(records))
        batch = records[max(0, next_one - back) : next_one + many]
        if not batch:
            return
        tellings = list(self._tells(topic, [record for record in batch if record.offset >= stored]))
        try:
            after = await consumer.batches.apply({place: batch})
        except Hold:
            for heard, telling in tellings:
                heard.takes_back(telling)
            return
        for _, telling in tellings:
            telling.by = now()
        if after is not None:
            await after()

    def _tells(self, topic: Topic, records: Sequence[Any]) -> Iterable[tuple[Heard[Any], _Telling[Any]]]:
        """What these say of anything, as dispatch is about to hear it."""
        operator = self.world.operator
        for record in records:
            heard: Heard[Any]
            match event := kafka.decode(record.value, record.headers):
                case Watermark() if topic is STATES:
                    heard, known = operator.vouched, operator.vouched.last
                    yield heard, heard.tell(known.version + 1, max(known.value or EVER, event.as_of))
                case ConsentStateChanged():
                    heard = operator.consents[event.subject_id]
                    yield heard, heard.tell(event.version, event)
                case CampaignControlled():
                    heard = operator.controls[event.campaign_id]
                    yield heard, heard.tell(event.version, event.control)
                case ErasureRequested():
                    heard = operator.erased[event.subject_id]
                    yield heard, heard.tell(record.offset, max(heard.last.value, event.requested_at))
                case MessageReworded():
                    said = field_keys.unseal(event.text, f"text:{event.message_id}") if event.text else None
                    heard = operator.asked[event.message_id].text
                    yield heard, heard.tell(record.offset, said)

    def _records(self, topic: Topic) -> list[Any]:
        return self.world.log[topic][self.begun[topic] :]

    def _state(self, person: int, *, opts_in: bool) -> Event:
        self.versions[person] += 1
        version = self.versions[person]
        if opts_in:  # a STOP of before stays listed
            return opted_in(person, version=version, occurred_at=now(), suppressions=self.stopped.get(person, ()))
        out = opted_out(person, version=version)
        self.stopped[person] = out.suppressions
        return out

    async def _consent(self, people: Sequence[int], *, opts_in: bool) -> None:
        await self.world.publish(STATES, *(self._state(person, opts_in=opts_in) for person in people))

    async def _say(self, age: timedelta) -> None:
        """Only what is on the log may be vouched for: what is late comes first."""
        late, self.late = self.late, []
        await self.world.publish(STATES, *late, Watermark(partition=0, as_of=now() - age, last_number=0))
        await self._hand(STATES)

    async def _control(self, campaign: str, control: str) -> None:
        self.controls[campaign] += 1
        await self.world.publish(CONTROLS, controlled(control, self.controls[campaign], campaign))
        await self._hand(CONTROLS)

    async def _receive(self, told: Sequence[Event]) -> None:
        await self.world.publish(INBOUND_RECEIPTS, *told)
        await self._hand(INBOUND_RECEIPTS)

    async def _relay(self, *, dies: bool) -> None:
        relay = (Dying if dies else Draining)("dispatch", self.world.database, self.world.settings)
        with suppress(Killed):
            await relay._compete(relay.drained, asyncio.Event())

    async def _sql(self, statement: str) -> None:
        async with self.world.database.begin() as tx:
            await tx.execute(text(statement))


def _mixed(events: Sequence[Event], order: int) -> list[Event]:
    return Random(order).sample(events, len(events))


def _receipt(state: str, message: dict[str, Any]) -> Event:
    account, reference = message["account"], message["reference"]
    if account == SECOND["account"]:
        return receipt(state, gateway_id=f"op-{reference}", account=account)
    return receipt(state, reference=reference)


def _as_told(of: Any) -> tuple[Any, ...]:
    """A row of the ledger, or what is published of it."""
    what = (of.version, of.status, tuple(of.reasons), of.consent_version, of.as_of, of.decided_at)
    return *what, of.gateway, of.gateway_message_id, of.receipt


class Killed(Exception):
    pass


class Draining(Relay):
    """Its term ends when it has left nothing behind."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.drained = asyncio.Event()

    async def _turn(self, *given: Any) -> bool:
        if await super()._turn(*given):
            self.drained.set()
        return self.drained.is_set()


class Dying(Draining):
    """Kafka has them, and nobody has noted it."""

    async def _publish(self, *given: Any) -> Numbers:
        await super()._publish(*given)
        raise Killed


@asynccontextmanager
async def _world(surroundings: Surroundings, noted: Noted) -> AsyncIterator[World]:
    fake = Witness(noted=noted)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(operator(fake))
        told = await surroundings.settings("dispatch", gateway_url=fake.url, gateway_token=TOKEN, hours="demonstration")
        given = Settings(**told)
        await kafka.ensure_topics(given, [*TOPICS, ERASURE_ACKS])
        database = fake.database = Database(given.database_url, pool_size=20)
        opened.push_async_callback(database.close)
        producer = kafka.producer(given)
        await producer.start()
        opened.push_async_callback(producer.stop)
        consumer = AIOKafkaConsumer(bootstrap_servers=given.kafka_bootstrap, fetch_max_wait_ms=20)
        await consumer.start()
        opened.push_async_callback(consumer.stop)
        places = [TopicPartition(given.topic_prefix + topic.name, 0) for topic in TOPICS]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        client = await opened.enter_async_context(running(build(Settings(**told, roles="api"))))
        yield World(surroundings, told, given, database, fake, producer, consumer, client, noted)


@pytest.fixture
def world(runner: asyncio.Runner, postgres: Postgres, broker: Broker, unique: str, moments: Noted) -> Iterator[World]:
    opening = _world(Surroundings(postgres, broker, unique, partitions=1), moments)
    yield runner.run(opening.__aenter__())
    runner.run(opening.__aexit__(None, None, None))


def test_whatever_happens_no_stop_is_overtaken_and_the_accounts_are_exact(runner: asyncio.Runner, world: World) -> None:
    drawn = seed()
    try:
        run_state_machine_as_test(
            cast(type[Pipeline], hypothesis.seed(drawn)(lambda: Pipeline(runner, world))),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=16, deadline=None, phases=[Phase.generate]),
        )
    except BaseException as error:
        error.add_note(f"PLACET_TEST_SEED={drawn} repeats this")
        for first in world.failures[:1]:  # tried again, it may have gone another way, and Hypothesis tells of that
            error.add_note(f"It began with: {first}")
        raise


def test_each_thing_that_may_happen_to_what_is_woken_happens_once(runner: asyncio.Runner, world: World) -> None:
    """One after the other, to campaigns and to codes: of all these a run of the machine draws some."""
    pipeline = Pipeline(runner, world)
    pipeline.run(pipeline._begin(opted=True))
    for goes, happenings in (
        (pipeline._campaign_goes_on, AT_ANY),
        (pipeline._codes_go_out, OF_A_CODE),
        (pipeline._questions_go_out, OF_A_CODE),
        (pipeline._paused_one_goes_out, OF_A_PAUSED_ONE),
        (partial(pipeline._reworded_one_goes_on, written=True), OF_A_REWORDING),
        (pipeline._with_one_erased_it_goes_out, OF_AN_ERASURE),  # the last: nothing more goes to them
    ):
        for one in happenings:
            try:
                pipeline.run(goes([one]))
                assert pipeline.missed == []
                pipeline.run(pipeline._promises_hold())
                pipeline.run(pipeline._clear_up())
            except BaseException as error:
                error.add_note(f"{goes}: {one}")
                raise
    pipeline.run(pipeline._comes_to_rest())


def test_a_hand_off_of_codes_that_fails_is_told_of_once_and_holds_up_no_other(
    runner: asyncio.Runner, world: World
) -> None:
    pipeline = Pipeline(runner, world)

    async def wake(worker: Worker) -> None:
        await pipeline._ask_for_codes([1])
        await worker.timers.wake_codes()
        await asyncio.wait(worker.handoff.codes.going)
        await pipeline._ask_for_codes([1])
        with pytest.raises(Failed):
            await worker.timers.wake_codes()
        assert await pipeline._statuses() == ["sending", "pending"], "who fails has taken nothing"
        await worker.timers.wake_codes()
        await asyncio.wait(worker.handoff.codes.going)
        assert await pipeline._statuses() == ["sending", "accepted"]

    pipeline.run(pipeline._begin(opted=False))
    pipeline.run(pipeline._lives([("to be submitted", "fails")], wake))
    pipeline.run(pipeline._promises_hold())
    pipeline.run(pipeline._comes_to_rest())
    assert pipeline.run(pipeline._statuses()) == ["unknown", "accepted"]


def test_a_hand_off_of_codes_that_fails_as_the_service_stops_is_told_of(
    runner: asyncio.Runner, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(runner, world)

    async def stop(worker: Worker) -> None:
        await pipeline._ask_for_codes([1])
        await worker.timers.wake_codes()
        worker.stop.set()
        await worker.timers.codes().run(worker.stop)

    pipeline.run(pipeline._begin(opted=False))
    pipeline.run(pipeline._lives([("to be submitted", "fails")], stop))
    assert [record.getMessage() for record in caplog.records if record.name == "dispatch.sending.transactional"] == [
        "a hand-off failed as the service stopped"
    ]
    pipeline.run(pipeline._comes_to_rest())
    assert pipeline.run(pipeline._statuses()) == ["unknown"]


def test_who_waits_for_a_code_waits_for_no_answer_to_anothers(runner: asyncio.Runner, world: World) -> None:
    """Each slot is taken when the third comes, and the operator leaves the first without an answer."""
    pipeline = Pipeline(runner, world)

    async def wake(worker: Worker) -> None:
        world.operator.keeps = number(1)
        world.operator.open.clear()
        for person in PEOPLE:
            await pipeline._ask_for_codes([person])
            await worker.timers.wake_codes()
        first, *_, last = await pipeline._statuses()
        assert first == "sending"
        assert last != "pending"
        world.operator.open.set()
        await asyncio.wait(worker.handoff.codes.going)

    pipeline.run(pipeline._begin(opted=False))
    pipeline.run(pipeline._lives([], wake))
    pipeline.run(pipeline._comes_to_rest())
    assert pipeline.run(pipeline._statuses()) == ["accepted"] * len(PEOPLE)
