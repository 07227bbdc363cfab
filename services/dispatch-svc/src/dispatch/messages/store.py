"""The tables `message`, `sending` and `begun`, and their statements. The caller owns the transaction.

The locks of a partition, one for each lane, order decisions and opt-outs: a decision on messages that an opt-out may
forbid (`ON_CONSENT`) holds the lock of its lane shared (`lock_partition`), the consent projection holds both exclusive
(`lock_decisions_out`). So an opt-out either precedes a decision, or waits until the decided messages are marked
`sending`, where the enforcement sees the messages. A code waits for no opt-out. Outcomes take no such lock: an outcome
only ends a `sending`, and its writer enforces opt-outs afterwards.

A `sending` message belongs to the process behind its last decision, which `decided_at` identifies. A late owner, whose
message recovery has decided again, finds another `decided_at` and leaves the message alone (ADR 0054).

The mark `begun` says that the submit of a decision may have begun. The owner commits the mark before the first byte may
leave (`begin`), and only while the row of `sending` behind the decision is open. Recovery closes that row before it
reads the marks (`close_sending`). Row locks order the two: either recovery finds the mark, or the owner finds the row
closed and submits no message of the decision, however long the owner stood still and whatever its clock says.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from common.db.database import COPIED_MESSAGES, PLANNED_NOW, Database, copy_encoded, fetch_many, once_committed
from common.telemetry import counter, tracing
from dispatch.lane import Due, Lane
from dispatch.messages import copied
from dispatch.messages.by_day import day_of, hashes_of, person_of
from dispatch.messages.events import STATE, Changed, states
from dispatch.messages.row import COLUMNS, MessageRow, Outcome, ReceiptChange, columns_of
from dispatch.messages.shared_store import adds_shared
from dispatch.messages.status import Status
from dispatch.messages.waking_store import TELLS_DUE
from dispatch.schema import instant, metadata

VIOLATIONS = counter(
    "sms_dispatch_violations_total", "Rows of the message ledger that break a promise, by rule.", ["rule"]
)
# the messages that a person's words may forbid: marketing, and the question whether the person consents
ON_CONSENT = "(m.category = 'marketing' OR (m.category = 'service' AND m.purpose IS NOT NULL))"
OF_DUE = {
    Due.MARKETING: "category = 'marketing'",
    Due.QUESTIONS: "category = 'service' AND purpose IS NOT NULL",
    Due.CODES: "category <> 'marketing' AND (category <> 'service' OR purpose IS NULL)",
}

_TYPES: Mapping[str, TypeEngine[Any]] = {
    "uuid": Uuid(),
    "text": Text(),
    "text[]": ARRAY(Text),
    "boolean": Boolean(),
    "integer": Integer(),
    "smallint": SmallInteger(),
    "timestamptz": DateTime(timezone=True),
}

message = Table(
    "message",
    metadata,
    *(
        Column(name, _TYPES[kind], primary_key=name == "message_id", nullable=nullable)
        for name, (kind, nullable) in COLUMNS.items()
    ),
    CheckConstraint("due_at IS NOT NULL OR status NOT IN ('pending', 'deferred')", name="waiting_is_due"),
    # the usual outcome changes no indexed column (BRIN and `known_as` aside), and stays in its page (ADR 0044)
    # by kind: a search for codes does not pass over all due marketing
    *(
        Index(f"message_due_{due}_ix", "partition", "due_at", postgresql_where=text(f"due_at IS NOT NULL AND {of}"))
        for due, of in OF_DUE.items()
    ),
    Index("message_unknown_ix", "unknown_since", postgresql_where=text("unknown_since IS NOT NULL")),
    Index("message_subject_ix", text(day_of("")), text(person_of("subject_id"))),
    Index("message_sender_ix", "sender_id", "requested_at"),  # equal for a chunk of a campaign: a few bytes a message
    Index("message_known_as_ix", "gateway", "known_as", postgresql_where=text("known_as IS NOT NULL")),
    Index("message_handed_off_ix", "handed_off_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    Index("message_decided_ix", "decided_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    Index("message_waiting_ix", "campaign_id", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    # for `pruning.py`: each message is in exactly one of the two
    Index("message_content_ix", "requested_at", postgresql_where=text("number IS NOT NULL OR text IS NOT NULL")),
    Index("message_bare_ix", "requested_at", postgresql_where=text("number IS NULL AND text IS NULL")),
)

sending = Table(
    # A row lists the messages that one transaction marked `sending`. A listed message may have ended; an unlisted
    # message is never `sending`. An index on the status would be written twice for each message.
    "sending",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("partition", SmallInteger, nullable=False),
    # by the server's clock, and after the decision: a decision is never older than its permits
    Column("since", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    instant("decided_at", nullable=False),
    Column("closed", Boolean, nullable=False, server_default=text("false")),  # no submit of the decision may begin
    Column("message_ids", ARRAY(Uuid), nullable=False),
    Column("people", ARRAY(Integer), nullable=False),  # `person_of` each, in the same order
    Index("sending_decided_ix", "decided_at"),
)

begun = Table(
    # The marks: messages of one decision whose submit may have begun. A row goes with the row of `sending`.
    "begun",
    metadata,
    Column("partition", SmallInteger, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("message_ids", ARRAY(Uuid), nullable=False),
    Index("begun_decided_ix", "decided_at"),
)

# Rows of `sending` and `begun` name the partition of a decision, which a move of ids changes in the messages alone.
IN_HAND = {
    "messages are `sending`: start the service until each has its outcome, and stop it": "SELECT 1 FROM sending AS s"
    " JOIN message AS m ON m.message_id = ANY(s.message_ids) AND m.status = 'sending' LIMIT 1"
}
LANES = {Lane.MARKETING: "placet.partition", Lane.TRANSACTIONAL: "placet.partition.codes"}  # locked in this order

DecisionId = tuple[int, datetime]  # partition, `decided_at`
_Run = Callable[..., Awaitable[Sequence[Sequence[Any]]]]  # of a statement, given its values


async def lock_partition(tx: AsyncConnection, partition: int, lane: Lane, *, planned_now: bool = False) -> None:
    """Lock the partition shared until the transaction ends, to decide on messages.

    The caller holds no row lock yet.
    """
    await fetch_many(tx, f"SELECT {f'{PLANNED_NOW}, ' if planned_now else ''}{partition_lock(lane)}", partition)


def partition_lock(lane: Lane) -> str:
    """Return the SQL that locks the partition $1 as `lock_partition` does."""
    return f"pg_advisory_xact_lock_shared(hashtext('{LANES[lane]}'), $1)"


async def try_lock_partition(tx: AsyncConnection, partition: int, lane: Lane) -> bool:
    """Lock the partition as `lock_partition` does, but without waiting; return whether the lock was free.

    A lock's holder may stand still. Includes `plan_now`.
    """
    lock = f"pg_try_advisory_xact_lock_shared(hashtext('{LANES[lane]}'), $1)"
    [(_, locked)] = await fetch_many(tx, f"SELECT {PLANNED_NOW}, {lock}", partition)
    return bool(locked)


async def lock_decisions_out(tx: AsyncConnection, *partitions: int) -> None:
    """Lock both lanes of each partition exclusive until the transaction ends, to apply opt-outs.

    The caller holds no row lock yet. Marketing comes first: no question waits for a campaign. Partitions follow their
    numbers, as in all who lock several.
    """
    for partition in sorted(set(partitions)):
        locks = (f"pg_advisory_xact_lock(hashtext('{LANES[lane]}'), $1)" for lane in LANES)
        await fetch_many(tx, f"SELECT {', '.join(locks)}", partition)


def _kinds_of(*columns: str) -> dict[str, str]:
    """Return the element type of each column, for `_unnest`. Reasons travel as "one,other"."""
    return {column: COLUMNS[column][0].removesuffix("[]") for column in columns}


OWN = _kinds_of("message_id", "subject_id", "number", "text", "consent_version")  # a value per message

ALIKE = _kinds_of(  # equal for many messages of an insert, sent once per combination
    *("campaign_id", "sender_id", "purpose", "category", "requested_at", "send_before", "region", "status", "reasons"),
    *("due_at", "gateway", "template", "segments", "cost", "prices", "charged", "shared_id"),
)

OF_ALL = _kinds_of("partition", "policy_version", "as_of", "decided_at")  # equal for all messages of a decision

_NUMBER_OF_AN_OPT_OUT = "CASE WHEN m.receipt = 'opted_out' THEN m.number END"

DECIDED = _kinds_of(
    *("message_id", "status", "reasons", "due_at", "consent_version", "gateway", "facts", "shared_id"),
    *("segments", "cost", "prices", "charged"),
)

# the columns for `events.states`
OF_A_CHANGE = ", ".join(
    {"number": _NUMBER_OF_AN_OPT_OUT, "reasons": "array_to_string(m.reasons, ',')"}.get(name, f"m.{name}")
    for name in STATE
)

_ON_RECORD = columns_of("m", {"text": "NULL", "facts": "NULL", "number": _NUMBER_OF_AN_OPT_OUT})

_AS_ARRAY = "string_to_array({}, ',')"  # unnest flattens text[][]


async def insert_messages(
    tx: AsyncConnection, rows: Sequence[MessageRow], shared: Mapping[UUID, str] = MappingProxyType({})
) -> set[UUID]:
    """Insert messages with their verdicts, and return the new ids. A known message_id changes no row.

    The workers are told of messages without a verdict, on commit.
    `shared`: the shared parts of their decision records, by `shared_id`.
    Decided messages come from Kafka, and the caller's transaction holds the offset of their partition: no other writes
    them. Raise ValueError unless the messages were decided together (`OF_ALL`).
    """
    if not rows:
        return set()
    _of_all(rows)
    _all_there(rows, shared)
    if rows[0].decided_at is None:
        ids = await _add(tx, rows, _before(rows, shared), _INSERT_BESIDE)
    else:
        new = list({row.message_id: row for row in reversed(rows)}.values())
        before = _before(rows, shared)
        ids = await (_copy(tx, new, before) if len(new) >= COPIED_MESSAGES else _add(tx, new, before, _INSERT_ALONE))
    once_committed(tx, partial(tracing.accepted, "dispatch", ids))
    return ids


async def _copy(tx: AsyncConnection, rows: Sequence[MessageRow], before: Sequence[object]) -> set[UUID]:
    """Copy the new rows."""
    sql = f"{_with(2)} SELECT message_id FROM message WHERE message_id = ANY(string_to_array($1, ' ')::uuid[])"
    ids = " ".join([str(row.message_id) for row in rows])
    known = {message_id for (message_id,) in await fetch_many(tx, sql, ids, *before)}
    new = [row for row in rows if row.message_id not in known] if known else rows
    if len(new) < COPIED_MESSAGES:
        return await _add(tx, new, _before((), {}), _INSERT_ALONE)
    await copy_encoded(tx, "message", copied.ORDER, b"".join((copied.BEGIN, *copied.encoded(new), copied.END)))
    return {row.message_id for row in new}


async def _add(tx: AsyncConnection, rows: Sequence[MessageRow], before: Sequence[object], statement: str) -> set[UUID]:
    if not rows:
        return set()
    kinds: dict[tuple[object, ...], int] = {}
    places = [kinds.setdefault(kind, len(kinds) + 1) for kind in map(_kind_of, rows)]
    alike = dict(zip(ALIKE, map(list, zip(*kinds, strict=True)), strict=True))
    facts = "\n".join(row.facts or "" for row in rows)
    values = *_columns(rows, OWN), places, facts, *_arrays(alike), *_of_all(rows)
    return {message_id for message_id, *_ in await fetch_many(tx, statement, *values, *before)}


async def update_decisions(
    tx: AsyncConnection, rows: Sequence[MessageRow], shared: Mapping[UUID, str] = MappingProxyType({})
) -> list[Changed]:
    """Store new verdicts on messages whose rows the caller has locked. `shared`: as in `insert_messages`.

    A message to an erased person ends without number and text. Raise ValueError unless decided together (`OF_ALL`).
    """
    if not rows:
        return []
    _all_there(rows, shared)
    gone = f"m.message_id = ANY(${len(DECIDED) + len(OF_ALL) + 1}::uuid[])"
    kept = ", ".join(f"{c} = CASE WHEN {gone} THEN NULL ELSE m.{c} END" for c in ("number", "text"))
    sets = ", ".join(
        f"{c} = {_AS_ARRAY.format('v.reasons') if c == 'reasons' else f'v.{c}'}" for c in list(DECIDED)[1:]
    )
    updated = await fetch_many(
        tx,
        f"{_with(len(DECIDED) + len(OF_ALL) + 2)}"
        f" UPDATE message AS m SET {sets}, ({', '.join(OF_ALL)}) = ROW({_one_for_all(len(DECIDED))}),"
        f" version = m.version + 1, unknown_since = NULL, {kept},"
        f" code = CASE WHEN v.status = 'sending' THEN NULL ELSE m.code END FROM {_unnest(DECIDED)}"
        " WHERE m.message_id = v.message_id AND (m.status IN ('pending', 'deferred')"
        f" OR (m.status IN ('sending', 'unknown') AND v.status <> 'pending')) RETURNING {OF_A_CHANGE}",
        *_columns(rows, DECIDED),
        *_of_all(rows),
        [row.message_id for row in rows if row.number is None],
        *_before(rows, shared),
    )
    return states(updated)


def _all_there(rows: Sequence[MessageRow], shared: Mapping[UUID, str]) -> None:
    """Raise ValueError where a row's decision record would lack its shared part."""
    if not {row.shared_id for row in rows} <= shared.keys() | {None}:
        raise ValueError("a decision record without its shared part")


def _with(place: int) -> str:
    """Return the SQL that lists what becomes `sending` and adds shared parts, to stand before a statement.

    `place`: of the first of the six parameters of `_before`.
    """
    people = hashes_of(f"string_to_array(${place + 3}, ' ')")
    return (
        "WITH noted AS (INSERT INTO sending (partition, decided_at, message_ids, people)"
        f" SELECT ${place}, ${place + 1}, string_to_array(${place + 2}, ' ')::uuid[], {people}"
        f" WHERE ${place + 2} <> ''), {adds_shared(place + 4)}"
    )


def _before(rows: Sequence[MessageRow], shared: Mapping[UUID, str]) -> Sequence[object]:
    """Return the values of `_with`, of rows that were decided together."""
    some = [row for row in rows if row.status is Status.SENDING]
    ids, people = " ".join([str(row.message_id) for row in some]), " ".join([row.subject_id for row in some])
    first = (some[0].partition, some[0].decided_at) if some else (None, None)
    return (*first, ids, people, list(shared), list(shared.values()))


async def forget_sending(tx: AsyncConnection, after: timedelta) -> None:
    """Delete rows of `sending` older than `after` that list no `sending` message, and their marks.

    A subquery checks each row: NOT EXISTS becomes a join, and with few statistics Postgres reads the whole ledger. A
    row that its owner holds (`begin`) waits for a later call.
    """
    await tx.execute(
        text(
            "DELETE FROM sending WHERE id = ANY(ARRAY(SELECT s.id FROM sending AS s"
            " WHERE s.since < now() - CAST(:after AS interval) AND (SELECT true FROM message AS m"
            " WHERE m.message_id = ANY(s.message_ids) AND m.status = 'sending' LIMIT 1) IS NULL"
            " FOR UPDATE OF s SKIP LOCKED))"
        ),
        {"after": after},
    )
    await tx.execute(
        text(
            "DELETE FROM begun AS b"
            " WHERE b.decided_at < now() - CAST(:after AS interval) AND (SELECT true FROM sending AS s"
            " WHERE s.decided_at = b.decided_at AND s.partition = b.partition LIMIT 1) IS NULL"
        ),
        {"after": after},
    )


async def begin(tx: AsyncConnection, decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
    """Mark the submit of these messages as begun, and return the decisions that may begin.

    The caller submits only after the commit, and no message of another decision. A row of `sending` that recovery holds
    counts as closed: the caller never waits for recovery.
    """
    return await _begin(decisions, partial(fetch_many, tx))


async def begin_at_once(database: Database, decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
    """Do as `begin` does, in a transaction of one statement: the server commits, even where the caller stands still.

    Recovery would wait for a caller that stands still within a transaction.
    """
    return await _begin(decisions, database.run)


async def _begin(decisions: Mapping[DecisionId, Sequence[UUID]], run: _Run) -> set[DecisionId]:
    if not decisions:
        return set()
    rows = await run(
        "WITH open AS (SELECT s.partition, s.decided_at FROM sending AS s WHERE s.decided_at = ANY($2::timestamptz[])"
        " AND NOT s.closed FOR SHARE SKIP LOCKED)"
        " INSERT INTO begun (partition, decided_at, message_ids)"
        " SELECT v.partition, v.decided_at, string_to_array(v.message_ids, ' ')::uuid[]"
        " FROM unnest($1::smallint[], $2::timestamptz[], $3::text[]) AS v(partition, decided_at, message_ids)"
        " WHERE (v.partition, v.decided_at) IN (SELECT o.partition, o.decided_at FROM open AS o)"
        " RETURNING partition, decided_at",
        [partition for partition, _ in decisions],
        [decided_at for _, decided_at in decisions],
        [" ".join(map(str, message_ids)) for message_ids in decisions.values()],
    )
    return {(partition, decided_at) for partition, decided_at in rows}


def decided_long_ago(after: str) -> str:
    """Return the SQL condition that the last decision of the `sending` message `m` is older than the interval `after`.

    Rows of earlier decisions list the message too, and do not count.
    """
    return (
        "(SELECT true FROM sending AS last WHERE last.decided_at = m.decided_at AND last.partition = m.partition"
        f" AND last.since >= now() - {after} LIMIT 1) IS NULL"
    )


async def close_sending(tx: AsyncConnection, partition: int, after: timedelta) -> None:
    """Let no submit begin any more of a decision older than `after`.

    The next statement sees each mark of a closed row. A row that its owner is marking at this moment stays open.
    """
    await fetch_many(
        tx,
        "UPDATE sending SET closed = true WHERE id = ANY(ARRAY(SELECT id FROM sending WHERE partition = $1"
        " AND since < now() - $2::interval AND NOT closed ORDER BY id FOR UPDATE SKIP LOCKED))",
        partition,
        after,
    )


async def found(tx: AsyncConnection, message_id: UUID) -> MessageRow | None:
    rows = await fetch_many(tx, f"SELECT {columns_of('m')} FROM message AS m WHERE message_id = $1", message_id)
    return MessageRow.read(rows[0]) if rows else None


async def statuses(tx: AsyncConnection, message_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the status of each known message among these."""
    sql = "SELECT message_id, status FROM message WHERE message_id = ANY($1::uuid[])"
    return {row[0]: row[1] for row in await fetch_many(tx, sql, list(message_ids))}


async def on_record(tx: AsyncConnection, message_ids: Collection[UUID]) -> list[MessageRow]:
    """Return the messages among these that the ledger has, without text and decision record."""
    rows = await fetch_many(
        tx, f"SELECT {_ON_RECORD} FROM message AS m WHERE message_id = ANY($1::uuid[])", list(message_ids)
    )
    return [MessageRow.read(row) for row in rows]


async def lift_versions(tx: AsyncConnection, known: Mapping[UUID, int]) -> None:
    """Raise the version of each message with an outcome above the version that the requester knows.

    A restored ledger has forgotten versions, and the requester ignores an answer that is not newer. The caller holds
    the partition's lock.
    """
    lifted = {identity: version for identity, version in known.items() if version}
    if not lifted:
        return
    await fetch_many(
        tx,
        "WITH older AS (SELECT m.message_id, v.known FROM message AS m"
        " JOIN unnest($1::uuid[], $2::integer[]) AS v(message_id, known) USING (message_id)"
        " WHERE m.version <= v.known AND m.status NOT IN ('pending', 'deferred', 'sending')"
        " ORDER BY m.message_id FOR UPDATE OF m)"
        " UPDATE message AS m SET version = o.known + 1 FROM older AS o WHERE m.message_id = o.message_id",
        list(lifted),
        list(lifted.values()),
    )


# Neither an outcome nor a DLR is on record. Whether a submit began is what the table `begun` says.
NO_OUTCOME = "m.receipt IS NULL AND m.handed_off_at IS NULL"


SETTLED = _kinds_of(
    *("message_id", "decided_at", "status", "reasons", "due_at", "gateway", "gateway_message_id", "known_as", "code"),
    "handed_off_at",
)

ACCEPTED = _kinds_of("message_id", "gateway_message_id", "known_as")
_SUBMITTED = {"version": "integer", "submit": "integer"}  # `submit`: position of its start


async def accept(tx: AsyncConnection, rows: Sequence[tuple[Outcome, MessageRow]]) -> set[UUID]:
    """Store the usual outcome: accepted, by the gateway of the decision. Return the stored ids.

    The row is unchanged since its decision (same `version`); the caller passes every other outcome to `settle`.
    """
    if not rows:
        return set()
    began: dict[datetime | None, int] = {}
    outcomes = [outcome for outcome, _ in rows]
    await _by_primary_key(tx)
    done = await fetch_many(
        tx,
        "UPDATE message AS m SET status = 'accepted', version = m.version + 1,"
        " gateway_message_id = coalesce(v.gateway_message_id, m.gateway_message_id),"
        f" known_as = coalesce(v.known_as, m.known_as), handed_off_at = (${len(ACCEPTED) + 3}::timestamptz[])[v.submit]"
        f" FROM (SELECT * FROM {_unnest(ACCEPTED | _SUBMITTED)} ORDER BY message_id) AS v"
        " WHERE m.message_id = v.message_id AND m.version = v.version AND m.status = 'sending'"
        " RETURNING m.message_id",
        *_columns(outcomes, ACCEPTED),
        [decision.version for _, decision in rows],
        [began.setdefault(outcome.handed_off_at, len(began) + 1) for outcome in outcomes],
        list(began),
    )
    return {message_id for (message_id,) in done}


async def _by_primary_key(tx: AsyncConnection) -> None:
    """Make the next update lock rows in the order of ids, as DLRs do, and never read the whole ledger."""
    await fetch_many(
        tx, "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
    )


async def settle(tx: AsyncConnection, rows: Sequence[Outcome]) -> list[Changed]:
    """Store outcomes, each of the decision named by `decided_at`, and return the changes.

    A message marked `unknown` by recovery takes its true outcome, or becomes `deferred` where no submit had begun. A
    message with a DLR was accepted, even if the gateway's answer was lost. While a message decided again is `sending`,
    only `accepted` is stored of the older decision, because the resubmit is the same SMS.
    """
    if not rows:
        return []
    await _by_primary_key(tx)
    updated = await fetch_many(
        tx,
        "UPDATE message AS m SET version = m.version + 1, due_at = v.due_at, status ="
        " CASE WHEN v.status = 'unknown' AND m.receipt IS NOT NULL THEN 'accepted' ELSE v.status END,"
        " unknown_since = CASE WHEN v.status = 'unknown' AND m.receipt IS NULL THEN now() END,"
        f" reasons = {_AS_ARRAY.format('v.reasons')}, gateway = v.gateway,"
        " gateway_message_id = coalesce(v.gateway_message_id, m.gateway_message_id),"
        " known_as = coalesce(v.known_as, m.known_as),"
        " code = coalesce(v.code, m.code), handed_off_at = coalesce(v.handed_off_at, m.handed_off_at)"
        f" FROM (SELECT * FROM {_unnest(SETTLED)} ORDER BY message_id) AS v WHERE m.message_id = v.message_id"
        " AND CASE v.status WHEN 'accepted' THEN m.status IN ('sending', 'unknown')"
        " WHEN 'rejected' THEN m.status = 'unknown' OR (m.status = 'sending' AND m.decided_at = v.decided_at)"
        " WHEN 'deferred' THEN m.status IN ('sending', 'unknown') AND m.decided_at = v.decided_at"
        f" AND {NO_OUTCOME} ELSE m.status = 'sending' AND m.decided_at = v.decided_at END"
        f" RETURNING {OF_A_CHANGE}",
        *_columns(rows, SETTLED),
    )
    return states(updated)


RECEIVED = _kinds_of("message_id", "receipt", "gateway", "gateway_message_id", "code", "receipt_at", "version")
RECEIVED["proves"] = "boolean"


async def put_receipts(tx: AsyncConnection, rows: Sequence[ReceiptChange]) -> list[Changed]:
    """Store DLRs of messages that are locked, or still have the version that the caller has read."""
    await _by_primary_key(tx)
    updated = await fetch_many(
        tx,
        "UPDATE message AS m SET"
        " status = CASE WHEN v.proves AND m.status = 'unknown' THEN 'accepted' ELSE m.status END,"
        " unknown_since = CASE WHEN NOT v.proves THEN m.unknown_since END,"
        " receipt = v.receipt, receipt_at = v.receipt_at,"
        " version = m.version + 1, gateway = coalesce(m.gateway, v.gateway),"
        " gateway_message_id = coalesce(m.gateway_message_id, v.gateway_message_id), code = coalesce(v.code, m.code)"
        f" FROM (SELECT * FROM {_unnest(RECEIVED)} ORDER BY message_id) AS v WHERE m.message_id = v.message_id"
        f" AND m.version = coalesce(v.version, m.version) RETURNING {OF_A_CHANGE}",
        *_columns(rows, RECEIVED),
    )
    return states(updated)


def _unnest(columns: Mapping[str, str], name: str = "v", first: int = 1, more: str = "") -> str:
    """Return the SQL of these columns as rows `name`, from the parameters of `_columns`."""
    arrays = ", ".join(
        f"string_to_array(${place}, E'\\n', '')" if kind == "lines" else f"${place}::{kind}[]"
        for place, kind in enumerate(columns.values(), first)
    )
    return f"unnest({arrays}) {more} AS {name}({', '.join(columns)}{', place' if more else ''})"


def _columns(rows: Sequence[msgspec.Struct], columns: Iterable[str]) -> list[list[object] | None]:
    """Return an array per column, or None for a column of NULLs."""
    return _arrays({column: list(map(attrgetter(column), rows)) for column in columns})


def _arrays(columns: dict[str, list[Any]]) -> list[list[object] | None]:
    if "reasons" in columns:
        columns["reasons"] = [",".join(reasons) for reasons in columns["reasons"]]
    return [values if any(value is not None for value in values) else None for values in columns.values()]


def _one_for_all(after: int) -> str:
    """Return the SQL parameters of `_of_all`, after `after` others."""
    return ", ".join(f"${place}::{kind}" for place, kind in enumerate(OF_ALL.values(), after + 1))


def _of_all(rows: Sequence[MessageRow]) -> list[object]:
    """Return the common values of `OF_ALL`, or raise ValueError."""
    first = _of_all_of(rows[0])
    if any(_of_all_of(row) != first for row in rows):
        raise ValueError("not decided together")
    return list(first)


_of_all_of: Callable[[MessageRow], tuple[object, ...]] = attrgetter(*OF_ALL)
_kind_of: Callable[[MessageRow], tuple[object, ...]] = attrgetter(*ALIKE)

_INSERT = (  # decision records are lines, since JSON has no line break: the driver checks each array element thrice
    f"{_with(len(OWN) + len(ALIKE) + len(OF_ALL) + 3)}"
    f" INSERT INTO message ({', '.join((*OWN, 'facts', *ALIKE, *OF_ALL))}, version)"
    f" SELECT {', '.join(f'v.{column}' for column in OWN)}, v.facts,"
    f" {', '.join(_AS_ARRAY.format('k.reasons') if column == 'reasons' else f'k.{column}' for column in ALIKE)},"
    f" {_one_for_all(len(OWN) + 2 + len(ALIKE))}, 1"
    f" FROM {_unnest({**OWN, 'kind': 'integer', 'facts': 'lines'})}"
    f" JOIN {_unnest(ALIKE, 'k', len(OWN) + 3, 'WITH ORDINALITY')} ON k.place = v.kind"
    "{} RETURNING message_id"
)
# undecided, hence due at once
_INSERT_BESIDE = _INSERT.format(" ON CONFLICT (message_id) DO NOTHING") + f", {TELLS_DUE}"
# where no other transaction writes the messages: the WAL confirms each row of ON CONFLICT by a record of its own
_INSERT_ALONE = _INSERT.format(" WHERE NOT EXISTS (SELECT FROM message AS o WHERE o.message_id = v.message_id)")
