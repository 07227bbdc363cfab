"""Measure all four services at a steady rate: campaigns, STOPs and codes for minutes, as on a usual day.

A campaign of one sender is scheduled every EVERY_S, whatever has become of those before, so that `rate` messages a
second are offered for `seconds`: once with an operator that answers in 20 ms, once in 300 ms. Settings are the default
ones, dispatch-svc has its two processes, as deployed, and the law is the real one; at an hour at which the law lets no
advert leave, only its hours are the demonstration's, and the report says so.

    people      of SENDERS senders: a fifth has no consent, an ended one, another's, or is blocked (`bench.crowd`)
    texts       GSM-7 and UCS-2, personal or not, of one and two SMS, with a code or a link to stop
    DLRs        two a message: of three messages in four alone in a callback, of the others up to 100; the second
                follows 1 to 5 s after the first
    meanwhile   STOPS_A_S people write STOP, and CODES_A_S codes are asked for

The limit of the rate is the rate that is offered, and of STOPs and codes a quiet span before. Afterwards each person of
each campaign has one outcome, nobody has an advert who must not have one, nothing has left after an enforced STOP, by
the ledger and by the operator's own log, and every outbox is empty: otherwise no figure is kept.
"""

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

import aiohttp
import msgspec

from bench import crowd, history, stops, whole
from bench.crowd import TEXTS, Crowd
from bench.fast_operator import Taken
from bench.ground import Ground
from bench.inbound import WRITINGS
from bench.rounds import Comparison, Sample, fixed_loop, machine, started_cpu_s, yes_or_no
from bench.stops import CODES_SENDER, Others, Reply, p50_p99, table
from bench.whole import PURPOSE, Cost, Whole
from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_MESSAGES
from common.contracts.campaign import MessagesRequested
from common.contracts.dispatch import MessagesChanged
from common.keyring import SubjectKeys
from common.law import at_hand_off, is_open, load
from common.settings import SubjectRingSettings

SENDERS = 20
EVERY_S = 2
LATENCIES_MS = (20, 300)
SIZES = "1,1,1,100"  # DLRs a callback, of messages in turn
STOPS_A_S, CODES_A_S = 2.0, 5.0
QUIET_S = 10.0
SAMPLE_EVERY_S = 5.0
SHOWN = 12  # rows of samples
DRAINED_WITHIN_S = 300.0
WANTED = 0.98  # of the offered rate
GROWN = 1.25  # times the messages under way of before, at a steady rate: the machine is noisy
GATEWAY = "simulator"
POSTGRES = whole.POSTGRES
TALLIES = (
    "SELECT coalesce(sum(denied + expired + accepted + rejected + unknown), 0),"
    " coalesce(sum(denied + expired + delivered), 0) FROM campaign_accounts WHERE campaign_id = ANY($1)"
)
LEDGER = (
    "SELECT campaign_id, message_id::text, subject_id, status, requested_at, decided_at, handed_off_at FROM message"
    " WHERE campaign_id = ANY($1)"
)
ENFORCED = "SELECT subject_id, received_at, enforced_at FROM enforcement"
CODES = "SELECT requested_at, handed_off_at FROM message WHERE category = 'transactional' AND requested_at >= $1"
SINGLES = (  # codes, and the answers to STOPs
    "SELECT category, count(*) FROM message WHERE category <> 'marketing' AND status = 'accepted'"
    " AND handed_off_at >= $1 GROUP BY 1"
)
HOPS = (  # the step before each instant of a message; the first instant is that of its campaign's schedule
    "campaign-svc starts the campaign",
    "campaign-svc requests the message",
    "its relay publishes the request",
    "dispatch-svc decides, for the last time",
    "a submit begins with the message",
)
LAPSED = re.compile(r"^sms_dispatch_permits_lapsed_total ([\d.e+]+)$", re.MULTILINE)
LEVEL = re.compile(r'"level": "(warning|error|critical)".*"logger": (.*)')
STARTED = "SELECT campaign_id, started_at FROM campaign WHERE started_at IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Look:
    """The messages so far, `at_s` into a pass: offered, decided (denied or handed off), and told (denied or DLR)."""

    at_s: float
    offered: int
    decided: int
    told: int

    @property
    def under_way(self) -> int:
        return self.offered - self.told


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the ledger. `kind`: of its person."""

    campaign_id: str
    message_id: str
    subject_id: str
    status: str
    requested_at: datetime
    decided_at: datetime | None
    handed_off_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is on record after a pass. `enforced`: instants by person. `singles`: other messages, by category."""

    offered: Mapping[str, int]  # messages by campaign
    ledger: Sequence[Message]
    allowed: frozenset[str]  # the people who had opted in
    stops: int  # acknowledged
    left_open: int  # STOPs known to dispatch-svc and not enforced
    enforced: Mapping[str, datetime]
    numbers: Mapping[str, str]  # of people
    taken: Taken
    singles: Mapping[str, int]
    waiting: int  # rows of outboxes
    untold: int  # messages without an outcome told to campaign-svc in time


def violations(found: Outcome) -> list[str]:
    """Return what is wrong with the outcome, a sentence each."""
    wrong: Counter[str] = Counter()
    of_campaign = Counter(each.campaign_id for each in found.ledger)
    wrong["messages are missing or too many"] += sum(
        abs(of_campaign[name] - many) for name, many in found.offered.items()
    )
    people = Counter((each.campaign_id, each.subject_id) for each in found.ledger)
    wrong["people have two messages of a campaign"] += sum(many > 1 for many in people.values())
    sent: Counter[str] = Counter()
    for each in found.ledger:
        if each.status not in ("accepted", "denied"):
            wrong[f"messages are {each.status}"] += 1
        if each.status != "accepted":
            continue
        sent[found.numbers[each.subject_id]] += 1
        if each.subject_id not in found.allowed:
            wrong["messages went to people without consent"] += 1
        stopped = found.enforced.get(each.subject_id)
        if stopped is not None and each.handed_off_at is not None and each.handed_off_at > stopped:
            wrong["messages were handed off after the STOP was enforced"] += 1
    sent += Counter(found.singles)
    at_operator = Counter(found.taken.adverts) + Counter(found.taken.others)
    wrong["messages are accepted in the ledger, or at the operator, alone"] += (sent - at_operator).total() + (
        at_operator - sent
    ).total()
    wrong["messages came twice to the operator"] += found.taken.repeated
    for who, stopped in found.enforced.items():
        wrong["people got a message after the STOP was enforced"] += (
            found.taken.last.get(found.numbers[who], 0.0) > stopped.timestamp()
        )
    wrong["STOPs were acknowledged and never reached dispatch-svc"] += max(
        0, found.stops - len(found.enforced) - found.left_open
    )
    wrong["STOPs are not enforced"] += found.left_open
    wrong["rows are left in outboxes"] += found.waiting
    wrong["messages have no last DLR"] += found.untold
    return [f"{many} {what}" for what, many in wrong.items() if many]


def reached(looks: Sequence[Look], rate: int) -> float:
    """Return the messages a second whose outcome was told in the second half: the first one fills what is under way.

    No more than `rate` counts: a backlog is made up for. What the looks saw offered is whole campaigns, of which a
    short pass would have one too few in its second half.
    """
    middle = looks[len(looks) // 2 - 1] if len(looks) > 1 else Look(0.0, 0, 0, 0)
    last = looks[-1]
    return min((last.told - middle.told) / (last.at_s - middle.at_s), rate)


def stands(looks: Sequence[Look]) -> bool:
    """Return whether nothing at all was told from one look to the next, after the first quarter."""
    return any(after.told == before.told for before, after in pairwise(looks[len(looks) // 4 :]))


def grows(looks: Sequence[Look]) -> bool:
    """Return whether more and more is under way: in the last quarter than in the second, beyond noise."""
    quarter = max(len(looks) // 4, 1)
    before, after = (
        sum(look.under_way for look in part) / len(part)
        for part in (looks[quarter : 2 * quarter] or looks[:1], looks[-quarter:])
    )
    return after > GROWN * before


def hours(now: datetime, seconds: float) -> str:
    """Return the real hours, or the demonstration's where the real ones would keep a message of the run."""
    policy = at_hand_off(load("france"))
    ends = now + timedelta(seconds=seconds)
    return "france" if is_open(now, "FR", policy) and is_open(ends, "FR", policy) else "demonstration"


async def run(ground: Ground) -> None:
    seconds, rate = ground.asked.seconds, ground.asked.rate
    people = Crowd(SENDERS, rate * EVERY_S)
    law = hours(datetime.now(UTC), len(LATENCIES_MS) * (seconds + DRAINED_WITHIN_S) + crowd.WITHIN_S)
    told = f"### {rate:,} messages a second for {seconds} s, hours of {law}. {machine()}"
    print(f"{told}; a fixed loop took {fixed_loop():.4f} s\n", flush=True)
    async with (
        whole.standing(ground, 0, law, apart=True) as standing,
        aiohttp.ClientSession() as client,
    ):
        bench = Bench(standing, people, Others(ground, client))
        await bench.prepare()
        spans: dict[str, tuple[datetime, datetime]] = {}
        wrong: list[str] = []
        for latency_ms in LATENCIES_MS:
            async with whole.operator(standing, SIZES, "later", latency_ms=latency_ms):
                began, name = datetime.now(UTC), f"{latency_ms} ms"
                if not spans:
                    await bench.others.write_while(asyncio.sleep(QUIET_S), bench.replies, bench.every_s)
                    spans["nothing"] = began, datetime.now(UTC)
                drafts, spans[name] = await bench.measured(latency_ms)
                wrong += [f"{name}: {each}" for each in await bench.checked(drafts, began)]
        await bench.latencies(spans)
        await stops.stop_hops(ground, spans)
        await stops.code_hops(ground, spans)
        wrong += bench.errors()
    if wrong:
        sys.exit("there is no figure: " + "; ".join(wrong))
    for path in (history.RAW, history.KEPT) if ground.asked.keep else (history.RAW,):
        for one in bench.kept:
            history.add(path, one)
    print("\nEach person of each campaign has one outcome; nobody has an advert who must not have one.\n", flush=True)


def _used_s(since: Mapping[int, float]) -> float:
    """Return the processor time of this process's descendants since then."""
    return sum(taken - since.get(pid, 0.0) for pid, taken in started_cpu_s().items())


class Bench:
    def __init__(self, standing: Whole, people: Crowd, others: Others) -> None:
        self.whole, self.people, self.others = standing, people, others
        self.ground = standing.ground
        keys = SubjectKeys(SubjectRingSettings.model_validate_json(self.ground.environment.subject_keys))
        self.subjects = [keys.subject_id(crowd.number(n)) for n in range(people.senders * people.contacts)]
        self.numbers = {who: crowd.number(n) for n, who in enumerate(self.subjects)}
        self.allowed = frozenset(who for n, who in enumerate(self.subjects) if crowd.may(n))
        self.every_s = 1 / STOPS_A_S, 1 / CODES_A_S
        self.replies = self._replies()
        self.scheduled: dict[str, datetime] = {}  # by campaign
        self.kinds: dict[str, str] = {}  # of texts, by campaign
        self.kept: list[history.Kept] = []
        self._turns = count()

    async def prepare(self) -> None:
        await self.others.register(CODES_SENDER)
        started = time.perf_counter()
        await crowd.store(self.whole, self.people, datetime.now(UTC), self.subjects, GATEWAY)
        took = time.perf_counter() - started
        print(f"{len(self.subjects):,} people of {SENDERS} senders imported in {took:.0f} s\n", flush=True)

    def _replies(self) -> Iterator[Reply]:
        """Yield STOPs from people who have opted in, each of whom writes once."""
        writings = count()
        for person in self.people.opted_in():
            code = crowd.stop_code(self.people.sender_of(person))
            yield crowd.number(person), code, WRITINGS[next(writings) % len(WRITINGS)]
        raise RuntimeError("everybody has written STOP: offer more messages a second")

    async def measured(self, latency_ms: int) -> tuple[list[str], tuple[datetime, datetime]]:
        """Measure a pass and print its tables. Return its campaigns and its span."""
        seconds = self.ground.asked.seconds
        drafts = [await self._draft() for _ in range(seconds // EVERY_S)]
        before, lapsed, processes = await self.whole.cost(), await self._lapsed(), started_cpu_s()
        began = datetime.now(UTC)
        looks: list[Look] = []
        started = time.perf_counter()
        await self.others.write_while(
            self._offer(drafts, looks), self.replies, self.every_s, seconds + DRAINED_WITHIN_S
        )
        ended, cores = datetime.now(UTC), _used_s(processes) / (time.perf_counter() - started)
        drained_s = await self._drained(drafts, ended)
        of_all = _used_s(processes) * 1e6
        cost = await self.whole.cost() - before
        again = {"decided again, as the permit lapsed": await self._lapsed() - lapsed}
        cost = Cost({**cost.used, "µs of all processes, the operator's too": of_all, **again})
        self._report(latency_ms, len(drafts), looks, drained_s, cores, cost)
        return drafts, (began, ended)

    async def _draft(self) -> str:
        turn = next(self._turns)
        kind = list(TEXTS)[(turn + turn // SENDERS) % len(TEXTS)]  # a sender has each text in turn
        body = {
            "sender_id": self.people.sender(turn % SENDERS)["sender_id"],
            "name": f"Banc {turn}",
            "purpose": PURPOSE,
            "text": TEXTS[kind],
            "audience": {"all": True},
        }
        written = (await self.whole.client.post("/v1/campaigns", json=body)).raise_for_status()
        campaign_id = str(written.json()["campaign_id"])
        self.kinds[campaign_id] = kind
        return campaign_id

    async def _offer(self, drafts: Sequence[str], looks: list[Look]) -> None:
        """Schedule a campaign every EVERY_S, and look at the tallies meanwhile."""
        started, began = time.perf_counter(), datetime.now(UTC)

        async def schedule(place: int, campaign_id: str) -> None:
            await asyncio.sleep(max(0.0, started + place * EVERY_S - time.perf_counter()))
            self.scheduled[campaign_id] = began + timedelta(seconds=place * EVERY_S)
            (await self.whole.client.post(f"/v1/campaigns/{campaign_id}/schedule")).raise_for_status()

        async with asyncio.TaskGroup() as calls:
            for place, campaign_id in enumerate(drafts):
                calls.create_task(schedule(place, campaign_id))
            for place in count(1):
                at_s = place * SAMPLE_EVERY_S
                if at_s > len(drafts) * EVERY_S:
                    break
                await asyncio.sleep(max(0.0, started + at_s - time.perf_counter()))
                looks.append(await self._look(drafts, time.perf_counter() - started))

    async def _look(self, drafts: Sequence[str], at_s: float) -> Look:
        offered = sum(each in self.scheduled for each in drafts) * self.people.contacts
        decided, told = await self.whole.databases["campaign"].fetchrow(TALLIES, drafts)
        return Look(at_s, offered, decided, told)

    async def _drained(self, drafts: Sequence[str], ended: datetime) -> float | None:
        """Return the seconds until each message was told and every outbox empty; `None`: not in time."""
        started = time.perf_counter()
        dispatch = self.whole.databases["dispatch"]
        while (await self._look(drafts, 0.0)).under_way or await dispatch.fetchval(stops.OPEN) or await self._waiting():
            if time.perf_counter() - started > DRAINED_WITHIN_S:
                return None
            await asyncio.sleep(whole.LOOK_EVERY_S)
        return (datetime.now(UTC) - ended).total_seconds()

    async def _lapsed(self) -> float:
        """Return how many messages dispatch-svc has decided again because no submit began on their permit."""
        told = await self.whole.client.get(f"{self.whole.servers['dispatch-svc'].url}/metrics")
        found = LAPSED.search(told.raise_for_status().text)
        if found is None:
            raise RuntimeError("dispatch-svc has no count of lapsed permits")
        return float(found[1])

    async def _waiting(self) -> int:
        return sum([await each.fetchval(whole.WAITING) for each in self.whole.databases.values()])

    def _report(
        self, latency_ms: int, drafts: int, looks: Sequence[Look], drained_s: float | None, cores: float, cost: Cost
    ) -> None:
        rate, many = self.ground.asked.rate, drafts * self.people.contacts
        found, good = reached(looks, rate), not (grows(looks) or stands(looks))
        print(f"#### An operator that answers in {latency_ms} ms\n")
        print("| s | offered | decided | told | under way |\n|---:|---:|---:|---:|---:|")
        step = -(-len(looks) // SHOWN)
        for look in looks[step - 1 :: step]:
            cells = look.offered, look.decided, look.told, look.under_way
            print(f"| {look.at_s:.0f} | {' | '.join(f'{cell:,}' for cell in cells)} |")
        last = (
            f"{looks[-1].under_way:,} under way at the end, told {drained_s:.1f} s later" if drained_s else "NOT told"
        )
        print(f"\n{found:,.0f} messages a second of {rate:,} offered, wanted {WANTED:.0%}:", end=" ")
        print(f"{yes_or_no(found >= WANTED * rate)}; {last}; steady: {yes_or_no(good)}; {cores:.2f} cores busy.\n")
        print("| a message | |\n|---|---:|")
        for name, each in cost.each(many).items():
            print(f"| {name} | {each:,.{0 if each >= 100 else 2}f} |")
        print(flush=True)
        title = f"At a steady rate, the operator answers in {latency_ms} ms"
        sides = [Sample(round(each * looks[-1].at_s), looks[-1].at_s) for each in (found, float(rate))]
        self.kept.append(history.kept(title, "messages", Comparison(sides[:1], sides[1:], [fixed_loop()]), WANTED))

    async def checked(self, drafts: Sequence[str], began: datetime) -> list[str]:
        """Return what is wrong with the outcome of a pass, whose operator has run since `began`."""
        dispatch = self.whole.databases["dispatch"]
        async with aiohttp.ClientSession() as client, client.get(f"{self.whole.operator}/taken") as answer:
            taken = msgspec.json.decode(await answer.read(), type=Taken)
        enforced = {row["subject_id"]: row["enforced_at"] for row in await dispatch.fetch(ENFORCED)}
        left_open = sum(at is None for at in enforced.values())
        return violations(
            Outcome(
                dict.fromkeys(drafts, self.people.contacts),
                [Message(*row) for row in await dispatch.fetch(LEDGER, drafts)],
                self.allowed,
                self.others.stops,
                left_open,
                {who: at for who, at in enforced.items() if at is not None},
                self.numbers,
                taken,
                {row["category"]: row["count"] for row in await dispatch.fetch(SINGLES, began)},
                await self._waiting(),
                (await self._look(drafts, 0.0)).under_way,
            )
        )

    async def latencies(self, spans: stops.Spans) -> None:
        """Print p50 and p99 of messages, DLRs, STOPs and codes by span."""
        dispatch = self.whole.databases["dispatch"]
        ledger = [Message(*row) for row in await dispatch.fetch(LEDGER, list(self.scheduled))]
        started = dict(await self.whole.databases["campaign"].fetch(STARTED))
        asked = await self._asked()
        ways = [
            (
                *(self.scheduled[one.campaign_id], started[one.campaign_id], one.requested_at),
                *(asked[one.message_id], one.decided_at, one.handed_off_at),
            )
            for one in ledger
            if one.decided_at is not None and one.handed_off_at is not None and one.message_id in asked
        ]
        passes = {name: span for name, span in spans.items() if name != "nothing"}
        table("a message", HOPS, ways, passes)
        told, deferred = await self._changes()
        for name, (first, last) in passes.items():
            reasons = Counter(reason for at, reason in deferred if first <= at < last)
            print(f"\n{name}: deferred meanwhile: {dict(reasons)}", flush=True)
        waited: dict[str, list[tuple[datetime, datetime]]] = {
            "schedule → hand-off": [(way[0], way[-1]) for way in ways],
            "hand-off → DLR `delivered` told to campaign-svc": [(off, at) for off, _, at in told],
            "the operator has that DLR → told": [(had, at) for _, had, at in told],
            "STOP received → enforced": [
                (row["received_at"], row["enforced_at"]) for row in await dispatch.fetch(ENFORCED)
            ],
            "code requested → submitted": [
                (row["requested_at"], row["handed_off_at"])
                for row in await dispatch.fetch(CODES, min(first for first, _ in spans.values()))
            ],
        }
        print("\n| | " + " | ".join(f"{name}: p50 ms | p99 ms" for name in spans) + " |")
        print("|---|" + "---:|---:|" * len(spans))
        for what, pairs in waited.items():
            cells = [
                p50_p99([(b - a) / timedelta(milliseconds=1) for a, b in pairs if first <= a < last and b is not None])
                for first, last in spans.values()
            ]
            print(f"| {what} | {' | '.join(cells)} |", flush=True)

    async def _asked(self) -> dict[str, datetime]:
        """Return when the request of each message was published."""
        found: dict[str, datetime] = {}
        async for event, _, at in stops.published(self.ground, CAMPAIGN_REQUESTS):
            for request in event.requests if isinstance(event, MessagesRequested) else ():
                found.setdefault(request.message_id, at)
        return found

    async def _changes(self) -> tuple[list[tuple[datetime, datetime, datetime]], list[tuple[datetime, str]]]:
        """Return hand-off, DLR and publication of each `delivered`, and instant and reason of each delay."""
        told, deferred = [], []
        async for event, _, at in stops.published(self.ground, DISPATCH_MESSAGES):
            for change in event.changes if isinstance(event, MessagesChanged) else ():
                if change.receipt == "delivered" and change.handed_off_at and change.receipt_at:
                    told.append((change.handed_off_at, change.receipt_at, at))
                if change.status == "deferred":
                    deferred += [(at, reason) for reason in change.reasons]
        return told, deferred

    def errors(self) -> list[str]:
        """Print the services' warnings, and return their errors, each with its count."""
        said: dict[str, Counter[str]] = {"warning": Counter(), "error": Counter()}
        for log in sorted((self.ground.folder / "logs").glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                level = LEVEL.search(line)
                if level is not None:
                    said["warning" if level[1] == "warning" else "error"][f"{log.stem}: {level[2][:200]}"] += 1
        for what, many in said["warning"].most_common(SHOWN):
            print(f"{many} warnings of {what}", flush=True)
        return [f"{many} errors of {what}" for what, many in said["error"].most_common(SHOWN)]
