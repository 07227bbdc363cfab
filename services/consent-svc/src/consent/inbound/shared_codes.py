"""Attribute a STOP on a code of several controllers to the controller that wrote last, and widen the STOP in doubt.

A person who answers STOP means the message before. On a code of several controllers a STOP covers the controller of the
last message to the person on that code, if that message is younger than some days; otherwise every sender of the code.
A STOP may arrive hours after its sending: the last message before either instant counts. A message that perhaps left
(`unknown`, an answer of ours) adds its controller, and takes no other's place.

Dispatch-svc may tell late what has left, and what has not arrived. The STOP is then attributed again, and only widens
(`overtaken`): to the controller of the message before, if the last one did not arrive; to each controller whose message
left before the STOP and after the one of the attribution.

A START opens the controller of the newest STOP by text alone, or else the one that wrote last; in doubt nothing.

A batch of STOPs takes the exclusive advisory locks of its people, and then reads the hand-offs. A batch of hand-offs
writes its rows, takes the shared locks, and then reads the STOPs. So the later of the two sees the rows of the other:
without the locks neither might, and the later controller would go on writing. A STOP waits for no COPY of hand-offs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ARRAY, Boolean, Column, DateTime, Index, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import MessageReceived
from common.db.database import fetch_many
from common.kafka.broker import partitions_of
from common.privacy import erasing
from common.privacy.erasing import TO_ERASE, Whom, columns
from consent.answers.answers import TO_A_TEXT
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import MO
from consent.ledger.rules import Evidence, SubjectState
from consent.proof import store as proof_store
from consent.proof.store import HandedOff
from consent.schema import metadata
from consent.senders import store as senders_store
from consent.senders.store import Sender

LAST_MESSAGE_DAYS = 30

# The lock of a person follows from the subject id alone, as the event of a mismatched text is in another's partition.
# A multiple of the usual numbers of partitions: two partitions then share no lock.
LOCKS = 120

Table(
    "attributed_stop",  # no number and no text
    metadata,
    Column("mo_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("short_code", Text, nullable=False),
    Column("written_at", DateTime(timezone=True), nullable=False),  # of the message that the STOP was attributed to
    Column("arrived_at", DateTime(timezone=True), nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("reference", Text, nullable=True),
    Column("actor", Text, nullable=True),
    Column("clock", Text, nullable=True),
    Column("behind_start", Boolean, nullable=False),
    Column("named", ARRAY(Text), nullable=False),
    Index("attributed_stop_subject_ix", "subject_id"),
    Index("attributed_stop_arrived_ix", "arrived_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mo:
    """An MO without number and words: what its attribution and its evidence need.

    `received_at`: when Placet first held the evidence.
    """

    mo_id: str
    subject_id: str
    short_code: str
    arrived_at: datetime
    occurred_at: datetime
    received_at: datetime
    reference: str | None
    actor: str | None
    clock: str | None
    behind_start: bool

    @classmethod
    def of(cls, message: MessageReceived) -> "Mo":
        """Leave the number and the words out. A reviewer's decision has no clock (ADR-0060)."""
        return cls(
            mo_id=message.mo_id,
            subject_id=message.subject_id,
            short_code=message.short_code,
            arrived_at=message.received_at,
            occurred_at=message.occurred_at,
            received_at=message.decided_at or message.received_at,
            reference=message.reference,
            actor=message.decided_by,
            clock=message.clock if message.decided_by is None else None,
            behind_start=message.behind_start,
        )

    def opt_out(self, sender_id: str | None) -> Evidence:
        """Return the opt-out from a sender, or from every sender."""
        decided = ("decided",) if self.behind_start and self.actor is not None else ()
        return Evidence(
            evidence_id=evidence_id(MO, self.mo_id, sender_id, *decided),
            kind="opt_out",
            sender_id=sender_id,
            purpose=None,
            source=MO,
            actor=self.actor,
            reference=self.reference,
            occurred_at=self.occurred_at,
            received_at=self.received_at,
            arrived_at=self.arrived_at,
            clock=self.clock,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a person. `certain`: the operator has accepted the message."""

    sender_id: str
    at: datetime
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Last:
    """The senders of the last certain message, several of a tie, and those of later messages that are uncertain."""

    at: datetime
    senders: frozenset[str]
    perhaps: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reach:
    """The senders of a STOP; `None` means every sender. `written_at`: of the message that explains the STOP, if any.

    `named`: the senders that the STOP names.
    """

    senders: Sequence[str | None]
    written_at: datetime | None = None
    named: Sequence[str] = ()


NO_STOP = Reach(())


@dataclass(frozen=True, slots=True)
class Written:
    """The messages of the senders of a code to a person."""

    messages: Sequence[Message] = ()

    @property
    def senders(self) -> frozenset[str]:
        """Return the senders that certainly wrote."""
        return frozenset(one.sender_id for one in self.messages if one.certain)

    @property
    def perhaps(self) -> frozenset[str]:
        """Return the senders that certainly or perhaps wrote."""
        return frozenset(one.sender_id for one in self.messages)

    def last(self, owners: Mapping[str, Sender], by: datetime, days: int) -> Last | None:
        """Return what a person has read last at `by`; `None` without a certain message within `days`."""
        since = by - timedelta(days=days)
        near = [one for one in self.messages if one.sender_id in owners and since < one.at <= by]
        wrote = [one.at for one in near if one.certain]
        newest = max(wrote, default=None)
        if newest is None:
            return None
        return Last(
            newest,
            frozenset(one.sender_id for one in near if one.certain and one.at == newest),
            frozenset(one.sender_id for one in near if not one.certain and one.at >= newest),
        )


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A STOP that covers another sender as well."""

    stop: Mo
    sender_id: str


def is_shared(owners: Mapping[str, Sender]) -> bool:
    """Return whether the code has senders of several controllers."""
    return len({sender.controller for sender in owners.values()}) > 1


def of_controllers(owners: Mapping[str, Sender], senders: Collection[str]) -> frozenset[str]:
    """Return the senders of the code that have the controllers of `senders`."""
    controllers = {owners[sender_id].controller for sender_id in senders}
    return frozenset(sender_id for sender_id, owner in owners.items() if owner.controller in controllers)


def reached(written: Written, owners: Mapping[str, Sender], stop: Mo, named: Sequence[str], days: int) -> Reach:
    """Return the reach of a STOP on a code of several controllers; `named`: the senders that the STOP names.

    A name alone does not narrow a STOP: a stranger's brand may be a word that people say beside STOP. The sender that
    wrote last is covered too, unless the STOP names that sender.
    """
    whole = Reach(tuple(owners))
    covered, written_at = frozenset(named), stop.arrived_at
    for by in _instants(stop):
        last = written.last(owners, by, days)
        if last is None or by <= stop.arrived_at - timedelta(days=days):
            return whole
        if not last.senders & frozenset(named):
            if len({owners[sender_id].controller for sender_id in last.senders}) > 1:
                return whole
            covered |= of_controllers(owners, last.senders)
        covered |= of_controllers(owners, last.perhaps - frozenset(named))
        written_at = min(written_at, last.at)
    return Reach(tuple(sorted(covered)), written_at, tuple(named))


def taken_back(
    written: Written, owners: Mapping[str, Sender], start: Mo, state: SubjectState, days: int
) -> frozenset[str]:
    """Return the senders that a START on a code of several controllers may open: in doubt none.

    `state`: with every text that arrived before.
    """
    stops = [
        mark
        for mark in state.marks
        if mark.kind == "opt_out"
        and mark.arrived_at is not None
        and (mark.sender_id is None or mark.sender_id in owners)
    ]
    newest = max((mark.at for mark in stops), default=datetime.min.replace(tzinfo=UTC))
    said = {mark.sender_id for mark in stops if mark.at == newest}
    meant = [of_controllers(owners, [one]) for one in said if one is not None]
    if None not in said and meant and all(one == meant[0] for one in meant):
        later = [mark for mark in state.marks if mark.kind == "opt_out" and mark.by_person and mark.at > newest]
        if all(mark.sender_id in meant[0] or (mark.sender_id or "") not in {"", *owners} for mark in later):
            return meant[0]  # else the person has stopped others since, by a link or the page
    wrote: set[frozenset[str]] = set()
    for by in _instants(start):
        last = written.last(owners, by, days)
        wrote |= {of_controllers(owners, [one]) for one in last.senders | last.perhaps} if last else {frozenset()}
    return next(iter(wrote)) if len(wrote) == 1 else frozenset()


def _instants(mo: Mo) -> set[datetime]:
    """Return the instants at which the author may have read the last message: of the arrival and of the sending."""
    return {mo.arrived_at, min(mo.occurred_at, mo.arrived_at)}


async def lock_stops(tx: AsyncConnection, people: Iterable[str]) -> None:
    """Wait for the hand-offs to these people being compared with STOPs, and keep others out.

    Before the hand-offs are read, and before any subject's lock.
    """
    await _lock(tx, "pg_advisory_xact_lock", people)


async def lock_hand_offs(tx: AsyncConnection, people: Iterable[str]) -> None:
    """Wait for the STOPs of these people being recorded.

    Behind the rows of the hand-offs, before the STOPs are read, and before any subject's lock.
    """
    await _lock(tx, "pg_advisory_xact_lock_shared", people)


async def _lock(tx: AsyncConnection, lock: str, people: Iterable[str]) -> None:
    """Take the locks of these people in order, so that no two transactions wait for each other."""
    numbers = sorted(set(partitions_of([subject_id.encode() for subject_id in people], LOCKS)))
    await fetch_many(
        tx,
        f"SELECT count({lock}(hashtext('placet.shared-codes'), n))"
        " FROM (SELECT n FROM unnest($1::integer[]) AS n ORDER BY n) AS l",
        numbers,
    )


async def written_to(tx: AsyncConnection, texts: Sequence[Mo], days: int) -> dict[str, Written]:
    """Return, by mo_id, what the senders wrote to each author up to the arrival: marketing, and SMS of Placet itself.

    A message of a sender that used another code at the time explains no text to this code.
    """
    if not texts:
        return {}
    rows = await tx.execute(
        text(
            f"""
            SELECT t.mo_id, w.sender_id, w.at, w.certain
            FROM unnest(
                CAST(:mos AS text[]), CAST(:subjects AS text[]), CAST(:codes AS text[]), CAST(:ats AS timestamptz[])
            ) AS t (mo_id, subject_id, code, by)
            CROSS JOIN LATERAL (
                SELECT h.sender_id, h.handed_off_at AS at, h.status = 'accepted' AS certain FROM handed_off AS h
                WHERE {proof_store.of_person("h", "t.subject_id")} AND h.status <> 'rejected'
                    AND h.handed_off_at > t.by - CAST(:window AS interval) AND h.handed_off_at <= t.by
                UNION ALL
                SELECT sender_id, coalesce(
                    handed_off_at,
                    CASE WHEN kind = ANY(CAST(:to_a_text AS text[])) THEN asked_at
                        ELSE least(t.by, asked_at + interval '1 day') END -- may have waited
                ), handed_off_at IS NOT NULL FROM answer
                WHERE subject_id = t.subject_id
                    AND coalesce(handed_off_at, asked_at) > t.by - CAST(:window AS interval)
                    AND coalesce(handed_off_at, asked_at) <= t.by
            ) AS w
            WHERE coalesce(
                (
                    SELECT v.content ->> 'stop_code' FROM sender_version AS v
                    WHERE v.sender_id = w.sender_id AND v.in_force_from <= w.at
                    ORDER BY v.version DESC
                    LIMIT 1
                ),
                t.code
            ) = t.code
            """
        ),
        {
            "mos": [one.mo_id for one in texts],
            "subjects": [one.subject_id for one in texts],
            "codes": [one.short_code for one in texts],
            "ats": [one.arrived_at for one in texts],
            "window": timedelta(days=2 * days),  # a text may be `days` late
            "to_a_text": sorted(TO_A_TEXT),
        },
    )
    found: dict[str, list[Message]] = {one.mo_id: [] for one in texts}
    for row in rows:
        found[row.mo_id].append(Message(row.sender_id, row.at, row.certain))
    return {mo_id: Written(messages) for mo_id, messages in found.items()}


_MO = {
    "mo_id": "text",
    "subject_id": "text",
    "short_code": "text",
    "arrived_at": "timestamptz",
    "occurred_at": "timestamptz",
    "received_at": "timestamptz",
    "reference": "text",
    "actor": "text",
    "clock": "text",
    "behind_start": "boolean",
}
# The driver looks at each element of an array, and not of a text. OFFSET 0: a lookup for each person, also while the
# table is small.
_STOPPED = """
SELECT p.subject_id FROM unnest(string_to_array($1, ' ')) AS p (subject_id)
CROSS JOIN LATERAL (SELECT FROM attributed_stop AS a WHERE a.subject_id = p.subject_id LIMIT 1 OFFSET 0) AS a
"""
_KEPT = _MO | {"written_at": "timestamptz", "named": "text"}  # `named`: joined by spaces


async def keep(tx: AsyncConnection, stops: Iterable[tuple[Mo, Reach]]) -> None:
    """Store attributed STOPs, each with the instant of the message that it was attributed to.

    A reviewer's decision replaces the undecided STOP. The caller has locked the subjects: a STOP from before the
    erasure of everything is stored as the erasure would leave it.
    """
    kept = {
        stop.mo_id: (stop, reach)
        for stop, reach in sorted(stops, key=lambda each: each[0].actor is not None)
        if reach.written_at is not None
    }
    if not kept:
        return
    rows: list[dict[str, object]] = [
        {**asdict(stop), "written_at": reach.written_at, "named": " ".join(reach.named)}
        for stop, reach in kept.values()
    ]
    await tx.execute(
        text(
            f"INSERT INTO attributed_stop AS a ({', '.join(_KEPT)})"
            f" SELECT {', '.join(_MO)}, written_at, string_to_array(named, ' ')"
            f" FROM unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in _KEPT.items())})"
            f" AS s ({', '.join(_KEPT)})"
            " ON CONFLICT (mo_id) DO UPDATE SET (written_at, received_at, actor, clock, named)"
            " = ROW(least(a.written_at, excluded.written_at), excluded.received_at, excluded.actor, excluded.clock,"
            " excluded.named) WHERE a.actor IS NULL AND excluded.actor IS NOT NULL"
        ),
        {name: [row[name] for row in rows] for name in _KEPT},
    )
    erasures = await erasing.asked_of(tx, {stop.subject_id for stop, _ in kept.values()})
    for subject_id, each in erasures.items():
        if whole := [one.at for one in each if one.controller_id is None]:
            await forget(tx, {Whom(subject_id, None): max(whole)})


async def forget(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> None:
    """Erase the reference and the reviewer of STOPs whose people are erased from every controller.

    The rows stay: a STOP may still widen. An erasure by one controller leaves the STOP, which may be for another.
    """
    await tx.execute(
        text(
            f"UPDATE attributed_stop AS s SET reference = NULL, actor = NULL FROM {TO_ERASE}"
            " WHERE s.subject_id = a.subject_id AND a.controller_id IS NULL AND s.received_at <= a.at"
        ),
        columns(asked),
    )


async def _stopped(tx: AsyncConnection, people: Collection[str]) -> set[str]:
    """Return those of these people who have an attributed STOP."""
    rows = await fetch_many(tx, _STOPPED, " ".join(people)) if people else ()
    return {subject_id for (subject_id,) in rows}


async def overtaken(
    tx: AsyncConnection, messages: Collection[HandedOff], people: Collection[str], days: int
) -> list[Overtaken]:
    """Attribute STOPs again, and return those of each sender that the new attribution covers.

    `messages`: as stored in this transaction, with news of the hand-off or outcome. `people`: with a question that did
    not arrive. A rejected message explains no STOP.
    """
    stopped = await _stopped(tx, {message.subject_id for message in messages}.union(people))
    if not stopped:
        return []
    messages = [message for message in messages if message.subject_id in stopped]
    rows = await tx.execute(
        text(
            f"""
            SELECT {", ".join(f"a.{name}" for name in _MO)}, a.written_at, a.named, m.late
            FROM (
                SELECT * FROM unnest(
                    CAST(:subjects AS text[]), CAST(:ats AS timestamptz[]), CAST(:senders AS text[])
                ) AS n (subject_id, at, late)
                UNION ALL
                SELECT p.subject_id, NULL, NULL FROM unnest(CAST(:people AS text[])) AS p (subject_id)
            ) AS m
            JOIN attributed_stop AS a USING (subject_id)
            WHERE m.at IS NULL OR m.at >= a.written_at AND m.at <= a.arrived_at
            """
        ),
        {
            "subjects": [message.subject_id for message in messages],
            "ats": [message.handed_off_at for message in messages],
            "senders": [None if message.status == "rejected" else message.sender_id for message in messages],
            "people": sorted(people),
        },
    )
    stops: dict[str, tuple[Mo, datetime, Sequence[str]]] = {}
    late: dict[str, set[str]] = {}
    for row in rows:
        mo = Mo(**{name: getattr(row, name) for name in _MO})
        stops[mo.mo_id] = mo, row.written_at, row.named
        late.setdefault(mo.mo_id, set()).add(row.late)
    if not stops:
        return []
    codes = await senders_store.owners_of(tx, {mo.short_code for mo, _, _ in stops.values()})
    written = await written_to(tx, [mo for mo, _, _ in stops.values()], days)
    found: list[Overtaken] = []
    earlier: dict[str, datetime] = {}
    for mo_id, (mo, written_at, named) in stops.items():
        owners = codes.get(mo.short_code, {})
        reach = reached(written[mo_id], owners, mo, named, days)
        covered = {*reach.senders, *of_controllers(owners, owners.keys() & late[mo_id])}
        found += [Overtaken(mo, sender_id) for sender_id in owners if sender_id in covered]
        if reach.written_at is not None and reach.written_at < written_at:
            earlier[mo_id] = reach.written_at
    if earlier:
        await tx.execute(
            text(
                "UPDATE attributed_stop AS a SET written_at = e.at"
                " FROM unnest(CAST(:ids AS text[]), CAST(:ats AS timestamptz[])) AS e (mo_id, at)"
                " WHERE a.mo_id = e.mo_id"
            ),
            {"ids": list(earlier), "ats": list(earlier.values())},
        )
    return found
