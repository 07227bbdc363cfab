"""Time the steps of dispatch-svc for a message alone: the highest ratio that their Python lets a process reach.

The steps run in this process, one batch after the other, with nothing else to do: no database, no broker, no socket.
They read the records, decrypt and decide, encode the rows, write the submits and read the answers, and encode the
events. The limit is the bare loop of `bench.dispatch`, whole, on as many messages.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import msgspec

from bench import dispatch
from bench.bare_dispatch import PER_SUBMIT, REQUESTS
from bench.dispatch import Bench
from bench.ground import Ground
from bench.rounds import Sample, Side
from common.contracts.campaign import MessageRequested, MessagesRequested
from common.contracts.consent import Consent
from common.db.timer import uptime_s
from common.kafka import broker as kafka
from common.kafka.subscription import Received
from common.law import at_hand_off, load
from common.sms.prices import NO_PRICES
from dispatch.gate.candidate import Decision, Permit
from dispatch.gate.clearance import Clearance
from dispatch.gate.deciding import Batch, Known, Resources
from dispatch.gate.rules import Subject
from dispatch.gateways import HTTP_PROVIDERS, Account, HttpGateway, Submit, standard
from dispatch.gateways.pool import Traffic
from dispatch.gateways.provider import Answer
from dispatch.messages import copied, events
from dispatch.projection.limits import Limits
from dispatch.projection.store import Sender
from dispatch.sending import outcomes
from dispatch.sending.pipeline import submit_of
from dispatch.sending.reading import read
from stack.environment import PARTITIONS

RECORDS = 6  # of some 80 requests each: a batch, as by default
ACCOUNT = Account(provider="simulator", url="http://127.0.0.1:1", secret="bench")  # noqa: S106 nobody's
POLICY = at_hand_off(load("demonstration"))
LIMITS = Limits()
PURPOSES, COUNTRIES = frozenset({dispatch.PURPOSE}), frozenset({"FR"})
SENDER = Sender("BANC", "36111", PURPOSES, COUNTRIES, frozenset(), None, "bench", "development")
_consents = msgspec.json.Decoder(tuple[Consent, ...])


@dataclass(slots=True)
class _Steps:
    """The steps of messages that are all handed off or all denied, and the processor's seconds that each has taken."""

    clearance: Clearance
    agreed: bool
    took: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    async def run(self, requests: Sequence[MessageRequested]) -> Sample:
        batches = [
            (partition, [kafka.encode(event) for event in events_of[at : at + RECORDS]])
            for partition, some in dispatch.by_partition(requests).items()
            if (events_of := list(dispatch.together(some)))
            for at in range(0, len(events_of), RECORDS)
        ]
        self.took.clear()
        for partition, records in batches:
            await self._batch(partition, records)
        seconds = sum(self.took.values())
        return Sample(len(requests), seconds, cpu_s=seconds)

    async def _batch(self, partition: int, records: Sequence[bytes]) -> None:
        decisions = await self._decided(partition, records)
        with self._timed("events written"):
            changes = events.all_changed(d.row for d in decisions if d.permit is None)
        if permits := [d.permit for d in decisions if d.permit]:
            changes += self._handed_off(permits)
        with self._timed("events written"):
            for event in events.batches(events.by_partition(changes, None), events.MOST):
                kafka.encode(event)

    async def _decided(self, partition: int, records: Sequence[bytes]) -> list[Decision]:
        headers = kafka.cloud_event_headers(MessagesRequested.type, uuid4(), "bench", datetime.now(UTC), None)
        with self._timed("records read"):
            received = []
            for offset, value in enumerate(records):
                event = kafka.decode(value, headers)
                assert event is not None, "an event of ours"
                received.append(Received(event, event.key, partition, offset, datetime.now(UTC), None))
            candidates = list(read(received, PARTITIONS).candidates.values())
        stored = {c.subject_id: dispatch.consents(2 * n if self.agreed else 1) for n, c in enumerate(candidates)}
        with self._timed("numbers and texts decrypted"):
            opened = await self.clearance.open(candidates)
        with self._timed("decided"):
            people = {who: Subject(1, _consents.decode(raw), (), False, False) for who, raw in stored.items()}
            batch = Batch(Resources(self.clearance.traffic, POLICY, LIMITS, NO_PRICES, None), _known(people), Counter())
            decisions = [batch.decide(candidate, opened[candidate.message_id]) for candidate in candidates]
        with self._timed("rows written"):
            b"".join(copied.encoded([decision.row for decision in decisions]))
        if unlike := Counter(d.row.reasons for d in decisions if (d.permit is not None) is not self.agreed):
            raise RuntimeError(f"decided otherwise than by dispatch-svc: {dict(unlike)}")
        return decisions

    def _handed_off(self, permits: Sequence[Permit]) -> list[events.Changed]:
        done, now = [], datetime.now(UTC)
        for at in range(0, len(permits), PER_SUBMIT):
            some = permits[at : at + PER_SUBMIT]
            with self._timed("submits written"):
                submits = [submit_of(permit) for permit in some]
                standard.request(submits, ACCOUNT, now)
            answer = _answer(submits)
            with self._timed("answers read"):
                results = standard.read(answer, submits)
                done += [
                    outcomes.answered(permit, result, now, None, echoes_reference=False)
                    for permit, result in zip(some, results, strict=True)
                ]
        with self._timed("events written"):
            return events.all_accepted(outcomes.usual(done))

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.took[step] += time.process_time() - began


def _known(people: dict[str, Subject]) -> Known:
    now = datetime.now(UTC)
    return Known(
        now=now,
        lapses=now + timedelta(seconds=5),
        until=uptime_s() + 5,
        as_of=now,
        senders={"bench": SENDER},
        subjects=people,
        controls={dispatch.CAMPAIGN: "running"},
        blocks={},
        erased={},
        retired=(),
        controllers={},
        purses={},
        highest={},
    )


def _answer(submits: Sequence[Submit]) -> Answer:
    """Return the answer of the benchmark's operator."""
    results = [{"reference": one.reference, "status": "accepted", "id": one.reference} for one in submits]
    return Answer(200, {}, msgspec.json.encode({"results": results}))


async def run(ground: Ground) -> None:
    async with dispatch.standing(ground) as bench:
        many = dispatch.MESSAGES_A_ROUND * ground.asked.size
        for name, agreed in (("batches", True), ("denied", False)):
            title = "Handed off, 100 messages a submit" if agreed else "All denied"
            steps = _Steps(_clearance(bench), agreed)
            await ground.compare(
                f"{title}: the steps alone, {many:,} messages",
                "messages",
                ours=Side(
                    "the steps, alone in a process", partial(_round, bench, steps, many), dispatch.BENCH_GC, here=True
                ),
                limit=dispatch.side(bench, "the bare loop", bench.bare, REQUESTS, many, agreed=agreed),
                wanted=dispatch.SHARES[name],
                at_least=dispatch.RATES.get(name),
            )
            print("".join(f"| {step} | {took / many * 1e6:.1f} |\n" for step, took in steps.took.items()), flush=True)


async def _round(bench: Bench, steps: _Steps, many: int) -> Sample:
    return await steps.run(bench.requests(many, agreed=steps.agreed))


def _clearance(bench: Bench) -> Clearance:
    gateway = HttpGateway("simulator", HTTP_PROVIDERS["simulator"], ACCOUNT, timeout_s=1.0)
    return Clearance(bench.subject_keys, bench.field_keys, Traffic([gateway]), POLICY, LIMITS, 5.0)
