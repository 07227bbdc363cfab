"""Dead letters: records that no version of ours could read or handle, and a person's decision about each.

A row has the record's shape without texts and numbers: no personal data. The record stays in its topic for the topic's
retention, and goes to `<topic>.dlq`. A person asks for a replay after mending the fault. Effects of the burial stay: a
person opted out over an unreadable text is not opted in by the replay.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import EVENTS
from common.db.database import Database
from common.telemetry import gauge
from common.web.auth import Caller, require
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, whole_page
from common.web.problems import AlreadyDecided, Conflict, NotFound, Problem, Reason

State = Literal["open", "asked", "replayed", "discarded", "gone"]
EVERY_STATE: tuple[State, ...] = ("open", "asked", "replayed", "discarded", "gone")
ASKED = "dead_letter_asked"  # NOTIFY channel: a person asks for a replay
KNOWN_TYPES = frozenset(EVENTS)
NAME_CHARS = 40  # of a field's name as shown
SHOWN = 50  # fields of an object, or items of a list
DEPTH = 6

OPEN = gauge("sms_dead_letters_open_records", "Dead letters of a topic without a decision.", ["topic"])


def define(metadata: MetaData) -> Table:
    """Define the dead letters. Each service's migration spells the table out literally."""
    return Table(
        "dead_letter",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("consumer_group", Text, nullable=False),
        Column("topic", Text, nullable=False),  # without the prefix
        Column("partition", Integer, nullable=False),
        Column("at_offset", BigInteger, nullable=False),
        Column("type", Text, nullable=True),  # null: unknown here
        Column("shape", Text, nullable=False),  # JSON
        Column("reason", Text, nullable=False),
        Column("buried_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("state", Text, nullable=False, server_default=text("'open'")),
        Column("decided_by", Text, nullable=True),
        Column("decided_at", DateTime(timezone=True), nullable=True),
        CheckConstraint(f"state IN {EVERY_STATE}", name="dead_letter_state_ck"),
        UniqueConstraint("consumer_group", "topic", "partition", "at_offset", name="dead_letter_record_uq"),
        Index("dead_letter_buried_ix", "buried_at"),
    )


class Place(NamedTuple):
    """A partition, as read by a consumer group."""

    consumer_group: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: int
    consumer_group: str
    topic: str
    partition: int
    offset: int
    type: str | None
    shape: Any
    reason: str
    buried_at: datetime
    state: State
    decided_by: str | None
    decided_at: datetime | None

    @property
    def place(self) -> Place:
        return Place(self.consumer_group, self.topic, self.partition)


def shape(value: bytes | None) -> Any:
    """Return a record's shape: field names, kinds and lengths; booleans and nulls as they are. Pure."""
    if value is None:
        return None
    try:
        return _covered(json.loads(value), DEPTH)
    except (ValueError, RecursionError):
        return f"{len(value)} bytes that are no JSON"


def _covered(value: Any, depth: int) -> Any:
    match value:
        case bool() | None:
            return value
        case str():
            return f"text of {len(value)}"
        case int() | float():
            return "number"
        case _ if depth == 0:
            return "..."
        case list():
            return [_covered(item, depth - 1) for item in value[:SHOWN]]
    return {_name(name): _covered(item, depth - 1) for name, item in list(value.items())[:SHOWN]}


def _name(name: str) -> str:
    """Return a plain word, else its length: a name may hold a phone number."""
    plain = name.replace("_", "").replace("-", "").isalpha() and name.isascii()
    return name if plain and len(name) <= NAME_CHARS else f"name of {len(name)}"


async def note(
    tx: AsyncConnection,
    *,
    group: str,
    topic: str,
    partition: int,
    offset: int,
    event_type: str | None,
    value: bytes | None,
    reason: str,
) -> None:
    """Store a dead letter, in the transaction that steps over the record, or open it again."""
    await tx.execute(
        text(
            "INSERT INTO dead_letter (consumer_group, topic, partition, at_offset, type, shape, reason)"
            " VALUES (:group, :topic, :partition, :offset, :type, :shape, :reason)"
            " ON CONFLICT (consumer_group, topic, partition, at_offset) DO UPDATE"
            " SET state = 'open', reason = excluded.reason"
        ),
        {
            "group": group,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "type": event_type if event_type in KNOWN_TYPES else None,
            "shape": json.dumps(shape(value)),
            "reason": reason[:500],
        },
    )


async def page(tx: AsyncConnection, state: State, after: int, limit: int) -> list[DeadLetter]:
    """Return letters in this state, the oldest first."""

    async def read() -> list[DeadLetter]:
        rows = await tx.execute(
            text("SELECT * FROM dead_letter WHERE state = :state AND id > :after ORDER BY id LIMIT :limit"),
            {"state": state, "after": after, "limit": limit},
        )
        return [_letter(row) for row in rows]

    return list(await whole_page(tx, "dead_letter", limit, read, attrgetter("id")))


async def find(tx: AsyncConnection, letter_id: int, *, lock: bool = False) -> DeadLetter | None:
    row = (
        await tx.execute(
            text(f"SELECT * FROM dead_letter WHERE id = :id{' FOR UPDATE' if lock else ''}"), {"id": letter_id}
        )
    ).one_or_none()
    return _letter(row) if row else None


async def next_asked(
    tx: AsyncConnection, groups: Sequence[tuple[str, str]], *, but: Collection[int], not_of: Collection[Place]
) -> DeadLetter | None:
    """Return the letter of these (group, topic) that has waited longest for its replay.

    `but`: ids to leave out. `not_of`: partitions to leave out.
    """
    places = list(not_of)
    row = (
        await tx.execute(
            text(
                "SELECT * FROM dead_letter WHERE state = 'asked' AND (consumer_group, topic) IN"
                " (SELECT * FROM unnest(CAST(:groups AS text[]), CAST(:topics AS text[])))"
                " AND id <> ALL(CAST(:but AS bigint[])) AND (consumer_group, topic, partition) NOT IN"
                " (SELECT * FROM unnest(CAST(:not_groups AS text[]), CAST(:not_topics AS text[]),"
                " CAST(:not_partitions AS integer[]))) ORDER BY decided_at, id LIMIT 1"
            ),
            {
                "groups": [group for group, _ in groups],
                "topics": [topic for _, topic in groups],
                "but": list(but),
                "not_groups": [place.consumer_group for place in places],
                "not_topics": [place.topic for place in places],
                "not_partitions": [place.partition for place in places],
            },
        )
    ).one_or_none()
    return _letter(row) if row else None


async def end(tx: AsyncConnection, letter_id: int, state: State, reason: str | None = None) -> None:
    """Store a replay's outcome."""
    await tx.execute(
        text("UPDATE dead_letter SET state = :state, reason = coalesce(:reason, reason) WHERE id = :id"),
        {"id": letter_id, "state": state, "reason": reason and reason[:500]},
    )


async def count_open(tx: AsyncConnection, topics: Sequence[str]) -> None:
    """Set the metric."""
    rows = await tx.execute(text("SELECT topic, count(*) AS many FROM dead_letter WHERE state = 'open' GROUP BY topic"))
    many = {row.topic: row.many for row in rows}
    for topic in {*topics, *many}:
        OPEN.labels(topic).set(many.get(topic, 0))


async def decide(tx: AsyncConnection, letter_id: int, decision: Literal["replay", "discard"], by: str) -> DeadLetter:
    """Store a person's decision; the same decision again changes nothing.

    Raises NotFound, and AlreadyDecided where the letter is neither open nor asked for.
    """
    wanted: State = "asked" if decision == "replay" else "discarded"
    letter = await find(tx, letter_id, lock=True)
    if letter is None:
        raise NotFound("no such dead letter", reasons=[Reason("id", "unknown_dead_letter")])
    if letter.state == wanted:
        return letter
    if letter.state not in ("open", "asked"):
        raise AlreadyDecided(f"it is {letter.state}", reasons=[Reason("id", letter.state)])
    row = (
        await tx.execute(
            text(
                "UPDATE dead_letter SET state = :state, decided_by = :by, decided_at = now() WHERE id = :id RETURNING *"
            ),
            {"id": letter_id, "state": wanted, "by": by},
        )
    ).one()
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": ASKED})
    return _letter(row)


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        consumer_group=row.consumer_group,
        topic=row.topic,
        partition=row.partition,
        offset=row.at_offset,
        type=row.type,
        shape=json.loads(row.shape),
        reason=row.reason,
        buried_at=row.buried_at,
        state=row.state,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
    )


class DeadLetterItem(BaseModel):
    """A record set aside, because no version of the code could read it: its place, the reason, the decision."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The number of the dead letter, in the order of arrival; a decision names it.")
    consumer_group: str = Field(description="The consumer group that could not handle the record.")
    topic: str = Field(description="The topic of the record, without the prefix of the installation.")
    partition: int = Field(description="The partition of the record.")
    offset: int = Field(description="The offset of the record in its partition.")
    type: str | None = Field(description="The event's type; null for an unknown type.")
    shape: Any = Field(description="The record with all values masked.")
    reason: str = Field(
        description="The reason for the dead letter; after a failed replay, the reason for the failure."
    )
    buried_at: datetime = Field(description="The time at which the consumer stepped over the record.")
    state: State = Field(
        description="`open`: to be decided. `asked`: a worker will handle the record again. `gone`: a replay was asked"
        " for, and the topic no longer holds the record."
    )
    decided_by: str | None = Field(description="The person who decided, by `sub` of the token; null before a decision.")
    decided_at: datetime | None = Field(description="The time of the decision; null before.")


router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])


async def _database(request: Request) -> Database:
    database: Database = request.state.resources.database
    return database


Held = Annotated[Database, Depends(_database)]


@router.get("", operation_id="dead_letters.list")
async def list_dead_letters(
    database: Held,
    caller: Annotated[Caller, Depends(require("dead-letter:read", platform=True))],
    state: Annotated[State, Query(description="Only dead letters in this state.")] = "open",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[DeadLetterItem]:
    """List dead letters, the oldest first."""
    async with database.begin() as tx:
        found = await page(tx, state, position(cursor, int) or 0, limit)
    items = [DeadLetterItem.model_validate(letter) for letter in found]
    return Page[DeadLetterItem](items=items, next=next_of(found, limit, attrgetter("id")))


@router.post("/{letter_id}/{decision}", operation_id="dead_letters.decide", responses=refuses(AlreadyDecided))
async def decide_dead_letter(
    letter_id: int,
    decision: Annotated[
        Literal["replay", "discard"], Path(description="To handle the record again, or to give it up.")
    ],
    database: Held,
    caller: Annotated[Caller, Depends(require("dead-letter:write", limited=False, platform=True))],
) -> DeadLetterItem:
    """Decide about a dead letter.

    `replay`: a worker handles the record again, soon; the list shows the outcome. `discard`: the record is given up.
    """
    if not 0 < letter_id < 2**63:
        raise NotFound("no such dead letter", reasons=[Reason("id", "unknown_dead_letter")])
    async with database.begin() as tx:
        return DeadLetterItem.model_validate(await decide(tx, letter_id, decision, caller.subject))


async def step_over(tx: AsyncConnection, topic: str, partition: int, first: int, following: int, by: str) -> None:
    """Move consumers of a partition from offset `first` to `following`; keep an open dead letter of each.

    Raises NotFound and Conflict, with nothing changed.
    """
    rows = (
        await tx.execute(
            text(
                "SELECT consumer_group, next_offset FROM consumer_offset"
                " WHERE topic = :topic AND partition = :partition ORDER BY consumer_group FOR UPDATE"
            ),
            {"topic": topic, "partition": partition},
        )
    ).all()
    if not rows:
        raise NotFound("this service reads no such partition", reasons=[Reason("topic", "unknown_partition")])
    groups = [row.consumer_group for row in rows if row.next_offset == first]
    if not groups or following <= first:
        places = ", ".join(sorted({str(row.next_offset) for row in rows}))
        raise Conflict(f"the partition is read on from offset {places}", reasons=[Reason("offset", "not_there")])
    await tx.execute(
        text(
            "UPDATE consumer_offset SET next_offset = :following, updated_at = now()"
            " WHERE consumer_group = ANY(CAST(:groups AS text[])) AND topic = :topic AND partition = :partition"
        ),
        {"following": following, "groups": groups, "topic": topic, "partition": partition},
    )
    why = f"the Kafka client could not read it: offsets {first} to {following - 1} stepped over by hand, by {by}"
    for group in groups:
        await note(
            tx,
            group=group,
            topic=topic,
            partition=partition,
            offset=first,
            event_type=None,
            value=None,
            reason=why,
        )


async def command(service: str, database_url: str, arguments: Sequence[str]) -> int:
    """Run a command of the parser below; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {service} dead-letters", description="List and decide dead letters."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="list dead letters, one per line").add_argument(
        "state", nargs="?", default="open", choices=EVERY_STATE
    )
    verbs.add_parser("show", help="show a dead letter with all values masked").add_argument(
        "ids", nargs=1, type=int, metavar="ID"
    )
    for verb, what in (
        ("replay", "handle the records again, after the cause is mended"),
        ("discard", "give the records up"),
    ):
        verbs.add_parser(verb, help=what).add_argument("ids", nargs="+", type=int, metavar="ID")
    over = verbs.add_parser("step-over", help="skip records that the Kafka client cannot read")
    over.add_argument("topic", help="topic name without the prefix")
    over.add_argument("partition", type=int)
    over.add_argument("first", type=int, help="the partition's stored offset")
    over.add_argument("following", type=int, help="the offset to continue from")
    told = parser.parse_args(arguments)
    database = Database(database_url, pool_size=1, name=f"{service}-dead-letters")
    try:
        async with database.begin() as tx:
            if told.verb == "list":
                after = 0
                while found := await page(tx, told.state, after, 200):
                    sys.stdout.writelines(map(_line, found))
                    after = found[-1].id
                return 0
            if told.verb == "step-over":
                await step_over(tx, told.topic, told.partition, told.first, told.following, getpass.getuser())
                return 0
            for letter_id in told.ids:
                if told.verb == "show":
                    letter = await find(tx, letter_id)
                    if letter is None:
                        raise NotFound("no such dead letter")
                    sys.stdout.write(f"{_line(letter)}{json.dumps(letter.shape, indent=2)}\n")
                else:
                    sys.stdout.write(_line(await decide(tx, letter_id, told.verb, getpass.getuser())))
        return 0
    except Problem as problem:
        sys.stderr.write(f"nothing changed: {problem.detail}\n")
        return 1
    finally:
        await database.close()


def _line(letter: DeadLetter) -> str:
    place = f"{letter.topic}/{letter.partition}@{letter.offset}"
    return f"{letter.id}\t{letter.state}\t{letter.buried_at:%Y-%m-%dT%H:%M:%SZ}\t{place}\t{letter.reason}\n"
