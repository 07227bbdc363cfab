"""Own segments: store, count, and select a campaign's audience (`of_campaign`).

A version never changes, nor do its attribute kinds.

`count` reads all contacts if time allows, else a range of the primary key: subject ids are keyed hashes, so a range is
a sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from time import perf_counter

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, PrimaryKeyConstraint, Table, Text
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import attributes
from campaign.audience import segment_language as segment
from campaign.audience.attribute import Kind
from campaign.audience.segment_language import FROM, Clicked, Condition, Expression, Received, SegmentRefused
from campaign.audience.selection import Selection
from campaign.audience.store import Contact, contact_of
from campaign.schema import metadata
from campaign.senders import store as senders
from campaign.senders.store import Sender
from common.law import Policy, zones

segment_table = Table(
    "segment",
    metadata,
    Column("segment_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # orders lists
    Column("sender_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("latest", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("fingerprint", Text, nullable=False),  # of the request body
    Index("segment_position_ix", "position", unique=True),
    Index("segment_sender_ix", "sender_id", "position"),
)

segment_version = Table(
    "segment_version",
    metadata,
    Column("segment_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("expression", JSONB, nullable=False),
    Column("kinds", JSONB, nullable=False),  # of its attributes, at that time
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("segment_id", "version"),
)

SLICES = 256  # ranges of subject ids
WITHIN_S = 0.6  # the time for counting, as projected
READ_AT_ONCE = 20_000  # contacts read for a page of a search: a rare condition must not read millions for one page


async def read(tx: AsyncConnection, sender_id: str, purposes: frozenset[str], source: object) -> Expression:
    """Parse an author's expression; check attributes, purposes and campaigns. Raises SegmentRefused."""
    expression = segment.parse(source, await attributes.kinds_of(tx, sender_id), purposes)
    named = [part for part in segment.parts(expression) if isinstance(part, Received | Clicked) and part.campaign_id]
    if named:
        known = await tx.scalars(
            sql(
                "SELECT campaign_id FROM campaign WHERE sender_id = :sender AND campaign_id = ANY(CAST(:ids AS text[]))"
            ),
            {"sender": sender_id, "ids": [part.campaign_id for part in named]},
        )
        found = set(known)
        for part in named:
            if part.campaign_id not in found:
                raise SegmentRefused(part.pointer, "unknown_campaign", "the sender has no such campaign")
    return expression


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentVersion:
    """A version of a segment; `source` is the author's expression."""

    segment_id: str
    position: int
    sender_id: str
    name: str
    latest: int
    fingerprint: str
    version: int
    source: dict[str, object]
    kinds: Mapping[str, Kind]
    created_by: str
    created_at: datetime

    @property
    def expression(self) -> Expression:
        return segment.parse(self.source, self.kinds)


async def insert(
    tx: AsyncConnection,
    segment_id: str,
    sender_id: str,
    name: str,
    source: object,
    expression: Expression,
    *,
    created_by: str,
    created_at: datetime,
    fingerprint: str,
) -> None:
    """Insert a segment with its first version, unless the segment exists."""
    done = await tx.execute(
        sql(
            "INSERT INTO segment (segment_id, sender_id, name, latest, created_by, created_at, fingerprint)"
            " VALUES (:segment_id, :sender_id, :name, 0, :created_by, :created_at, :fingerprint)"
            " ON CONFLICT DO NOTHING"
        ),
        {
            "segment_id": segment_id,
            "sender_id": sender_id,
            "name": name,
            "created_by": created_by,
            "created_at": created_at,
            "fingerprint": fingerprint,
        },
    )
    if done.rowcount > 0:
        await add_version(tx, segment_id, source, expression, created_by, created_at)


async def add_version(
    tx: AsyncConnection, segment_id: str, source: object, expression: Expression, by: str, now: datetime
) -> int:
    """Add a version; return its number. The segment's row is locked, or new."""
    version = await tx.scalar(
        sql("UPDATE segment SET latest = latest + 1 WHERE segment_id = :id RETURNING latest"), {"id": segment_id}
    )
    kinds = {part.name: part.kind for part in segment.parts(expression) if isinstance(part, segment.Attribute)}
    await tx.execute(
        sql(
            "INSERT INTO segment_version (segment_id, version, expression, kinds, created_by, created_at)"
            " VALUES (:id, :version, CAST(:expression AS jsonb), CAST(:kinds AS jsonb), :by, :now)"
        ),
        {
            "id": segment_id,
            "version": version,
            "expression": msgspec.json.encode(source).decode(),
            "kinds": msgspec.json.encode(kinds).decode(),
            "by": by,
            "now": now,
        },
    )
    assert version is not None
    return int(version)


_SEGMENT = (
    "SELECT s.segment_id, s.position, s.sender_id, s.name, s.latest, s.fingerprint, v.version,"
    " v.expression::text AS source, v.kinds::text AS kinds, v.created_by, v.created_at"
    " FROM segment AS s JOIN segment_version AS v ON v.segment_id = s.segment_id"
)


_source = msgspec.json.Decoder(dict[str, object])
_kinds = msgspec.json.Decoder(dict[str, Kind])


async def _versions(tx: AsyncConnection, clauses: str, values: Mapping[str, object]) -> list[SegmentVersion]:
    rows = await tx.execute(sql(f"{_SEGMENT} {clauses}"), values)
    return [
        SegmentVersion(**row._asdict() | {"source": _source.decode(row.source), "kinds": _kinds.decode(row.kinds)})
        for row in rows
    ]


async def find(tx: AsyncConnection, segment_id: str, version: int | None = None) -> SegmentVersion | None:
    """Return a version, by default the latest."""
    found = await _versions(
        tx,
        "AND v.version = coalesce(:version, s.latest) WHERE s.segment_id = :id",
        {"id": segment_id, "version": version},
    )
    return found[0] if found else None


async def lock(tx: AsyncConnection, segment_id: str) -> int | None:
    """Lock a segment; return the number of the latest version."""
    latest: int | None = await tx.scalar(
        sql("SELECT latest FROM segment WHERE segment_id = :id FOR UPDATE"), {"id": segment_id}
    )
    return latest


async def versions_of(tx: AsyncConnection, segment_id: str, below: int | None, limit: int) -> list[SegmentVersion]:
    """Return versions, newest first. `below`: a version; those before it."""
    return await _versions(
        tx,
        (
            "WHERE s.segment_id = :id AND (CAST(:below AS bigint) IS NULL OR v.version < :below)"
            " ORDER BY v.version DESC LIMIT :limit"
        ),
        {"id": segment_id, "below": below, "limit": limit},
    )


async def before(
    tx: AsyncConnection, position: int | None, sender_ids: Sequence[str], limit: int
) -> list[SegmentVersion]:
    """Return the latest versions of these senders' segments, newest first."""
    return await _versions(
        tx,
        (
            "AND v.version = s.latest WHERE (CAST(:position AS bigint) IS NULL OR s.position < :position)"
            " AND s.sender_id = ANY(CAST(:senders AS text[]))"
            " ORDER BY s.position DESC LIMIT :limit"
        ),
        {"position": position, "senders": list(sender_ids), "limit": limit},
    )


def compiled(expression: Expression, sender_id: str, sender: Sender, now: datetime, policy: Policy) -> Condition:
    """Compile as of `now`; today is the date in the sender's country."""
    return segment.compiled(expression, sender_id, now, now.astimezone(zones(sender.country, policy)[0]).date())


async def of_campaign(
    tx: AsyncConnection, sender_id: str, selection: Selection, now: datetime, policy: Policy
) -> Condition:
    """Return the condition selecting a campaign's audience."""
    if selection.where is not None:
        expression = segment.where(selection.where)
    elif selection.segment is not None:
        found = await find(tx, selection.segment.segment_id, selection.segment.version)
        assert found is not None, "a campaign is written for a version that is there, and versions are never removed"
        expression = found.expression
    else:
        return segment.EVERYBODY
    sender = await senders.find_sender(tx, sender_id)
    assert sender is not None
    return compiled(expression, sender_id, sender, now, policy)


async def selects_somebody(tx: AsyncConnection, sender_id: str, condition: Condition) -> bool:
    return bool(
        await tx.scalar(
            sql(f"SELECT EXISTS (SELECT FROM {FROM} WHERE c.sender_id = :sender_id AND {condition.sql})"),
            {"sender_id": sender_id, **condition.values},
        )
    )


async def matching(
    tx: AsyncConnection, sender_id: str, condition: Condition, after: str, limit: int
) -> tuple[list[Contact], str | None]:
    """Return the contacts behind `after` that match, and the id to go on from; `None` at the end.

    A page may have fewer contacts than `limit`, or none, and still more behind.
    """
    row = (
        await tx.execute(
            sql(
                "SELECT max(subject_id) AS last, count(*) AS contacts FROM (SELECT subject_id FROM contact"
                " WHERE sender_id = :sender_id AND subject_id > :after ORDER BY subject_id LIMIT :most) AS c"
            ),
            {"sender_id": sender_id, "after": after, "most": READ_AT_ONCE},
        )
    ).one()
    rows = await tx.execute(
        sql(
            "SELECT c.subject_id, c.territory, c.attributes::text AS attributes, c.created_at, c.updated_at"
            f" FROM {FROM} WHERE c.sender_id = :sender_id AND c.subject_id > :after AND c.subject_id <= :last"
            f" AND {condition.sql} ORDER BY c.subject_id LIMIT :limit"
        ),
        {"sender_id": sender_id, "after": after, "last": row.last or "", "limit": limit, **condition.values},
    )
    found = [contact_of(*each) for each in rows]
    if len(found) == limit:
        return found, found[-1].subject_id
    return found, row.last if row.contacts == READ_AT_ONCE else None


# --- counted ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """`selected` of `contacts`; unless `exact`, the truth is within `margin` nineteen times in twenty."""

    selected: int
    contacts: int
    exact: bool
    margin: int


async def count(tx: AsyncConnection, sender_id: str, condition: Condition) -> Count:
    """Count all contacts within about WITHIN_S, or else some slices."""
    keys = await _key_ids(tx, sender_id)
    if not keys:
        return Count(0, 0, True, 0)
    found = contacts = done = 0
    left_s, many = WITHIN_S, 1
    while done < SLICES and many > 0:
        more, others, took_s = await _in_slices(tx, sender_id, condition, keys, done, done + many)
        found, contacts, done, left_s = found + more, contacts + others, done + many, left_s - took_s
        # for few slices the query's overhead dominates
        many = min(8 * many, SLICES - done, int(left_s / took_s * many))
    if done == SLICES:
        return Count(found, contacts, True, 0)
    return estimated(found, contacts, done)


def estimated(found: int, contacts: int, slices: int) -> Count:
    """Estimate from `slices` of SLICES.

    The margin is 1.96 standard deviations (Agresti and Coull: a share of zero has a margin too).
    """
    every = contacts * SLICES // slices
    if contacts == 0:
        return Count(0, 0, False, 0)
    n = contacts + 4
    share = (found + 2) / n
    margin = 1.96 * sqrt(share * (1 - share) / n * (1 - slices / SLICES))
    return Count(found * SLICES // slices, every, False, round(margin * every))


async def _in_slices(
    tx: AsyncConnection, sender_id: str, condition: Condition, keys: Sequence[str], first: int, end: int
) -> tuple[int, int, float]:
    """Return (selected, contacts, seconds) of these slices."""
    ranges, bounds = [], {}
    for place, key in enumerate(keys):
        ranges.append(f"(c.subject_id >= :from_{place} AND c.subject_id < :to_{place})")
        bounds[f"from_{place}"] = f"{key}-{first * 65_536 // SLICES:04x}"
        bounds[f"to_{place}"] = f"{key}-{end * 65_536 // SLICES:04x}" if end < SLICES else f"{key}-g"
    started = perf_counter()
    row = (
        await tx.execute(
            sql(
                f"SELECT count(*) FILTER (WHERE {condition.sql}) AS found, count(*) AS contacts FROM {FROM}"
                f" WHERE c.sender_id = :sender_id AND ({' OR '.join(ranges)})"
            ),
            {"sender_id": sender_id, **bounds, **condition.values},
        )
    ).one()
    return row.found, row.contacts, perf_counter() - started


async def _key_ids(tx: AsyncConnection, sender_id: str) -> list[str]:
    """Return the key ids in the sender's subject ids: each has its own range."""
    found: list[str] = []
    after = ""
    while True:
        subject_id = await tx.scalar(
            sql(
                "SELECT subject_id FROM contact WHERE sender_id = :id AND subject_id > :after"
                " ORDER BY subject_id LIMIT 1"
            ),
            {"id": sender_id, "after": after},
        )
        if subject_id is None:
            return found
        found.append(subject_id.rpartition("-")[0])
        after = f"{found[-1]}-g"
