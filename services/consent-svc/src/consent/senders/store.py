"""Own the organisations, the controllers, their names, the registered senders and every version of a sender."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Purpose, Replies, StopScope
from common.db.database import fetch_many
from consent.schema import metadata

WINDOW_HOURS = 24  # how long the question of a double opt-in waits
LONGEST_WINDOW_HOURS = 7 * 24
IN_OUR_WORDS = Replies()
KeyRow = tuple[str, bytes | None]  # the fingerprint and the encrypted answer of a claimed Idempotency-Key

Table(
    "organisation",  # named by the tokens of the issuer
    metadata,
    Column("organisation_id", Text, primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

Table(
    "controller",
    metadata,
    Column("controller_id", Text, primary_key=True),
    Column("organisation_id", Text, nullable=False),
    Column("legal_name", Text, nullable=False),  # of the first sender
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("controller_organisation_ix", "organisation_id"),
)

Table(
    "owned_name",  # OADCs, brands and legal names, also former ones: an old text keeps its name
    metadata,
    Column("skeleton", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("organisation_id", Text, nullable=False),
    Column("controller_id", Text, nullable=True),  # null: a legal name alone, of any of the organisation's controllers
    Column("since", DateTime(timezone=True), nullable=False),
)

Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("organisation_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("legal_name", Text, nullable=False),
    Column("brand", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("oadc", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", JSONB, nullable=False),
    # all ever: a STOP may answer an old message
    Column("stop_codes", ARRAY(Text), nullable=False),
    Column("purpose_ids", ARRAY(Text), nullable=False),
    Column("controller", Text, nullable=False),
    Column("stop_scope", Text, nullable=False),
    Column("replies", JSONB, nullable=False),
    Column("double_opt_in_hours", Integer, nullable=False, server_default=text(str(WINDOW_HOURS))),
    Column("renewal_days", Integer, nullable=True),
    Column("abroad", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("countries", ARRAY(Text), Computed("ARRAY[country] || abroad", persisted=True), nullable=False),
    Column("authorisation", Text, nullable=True),
    Column("reachable_in", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("stop_page", Text, nullable=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Index("sender_organisation_ix", "organisation_id"),
)

Table(
    "sender_version",
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("in_force_from", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("sender_id", "version"),
)

Table(
    "reopening_rule",  # every rule there ever was: a ledger entry names its rule
    metadata,
    Column("rule_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("begun_by", Text, nullable=False),
    Column("begun_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended_by", Text, nullable=True),
    Column("ended_at", DateTime(timezone=True), nullable=True),
    Column("end_reason", Text, nullable=True),
    CheckConstraint("num_nulls(ended_by, ended_at, end_reason) IN (0, 3)", name="ended"),
    Index("reopening_rule_position_ix", "sender_id", "position"),
    Index(
        "reopening_rule_in_force_ix",
        "sender_id",
        "purpose",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
    ),
)


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's statement that its STOP code is reachable in a place. `stated_by`: the caller."""

    place: str
    stated_by: str
    stated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A registered sender. `version` counts from 1; `controller` is the legal entity's id.

    `authorisation`: the platform's reference of the document by which the owner of a protected name allows its use.
    """

    sender_id: str
    organisation_id: str
    legal_name: str
    brand: str
    contact: str
    country: str
    oadc: str
    stop_code: str
    purposes: tuple[Purpose, ...]
    controller: str
    stop_scope: StopScope = "controller"
    replies: Replies = IN_OUR_WORDS
    double_opt_in_hours: int = WINDOW_HOURS
    renewal_days: int | None = None  # days before a consent ends when the person is asked, if at all
    abroad: tuple[str, ...] = ()  # other countries open to marketing
    authorisation: str | None = None
    reachable_in: tuple[Reach, ...] = ()  # by place
    stop_page: str | None = None  # the address before the token of a personal stop link
    version: int = 1

    @property
    def countries(self) -> tuple[str, ...]:
        """Return the sender's own country, then those abroad: the numbers of its people."""
        return (self.country, *self.abroad)


_purposes = msgspec.json.Decoder(tuple[Purpose, ...])
_replies = msgspec.json.Decoder(Replies)
_reaches = msgspec.json.Decoder(tuple[Reach, ...])
sender_content = msgspec.json.Decoder(Sender)

_SENDER = (
    "sender_id, organisation_id, legal_name, brand, contact, country, oadc, stop_code, purposes::text AS purposes,"
    " controller, stop_scope, replies::text AS replies, double_opt_in_hours, renewal_days, abroad, authorisation,"
    " reachable_in::text AS reachable_in, stop_page, version"
)


async def own_controller(
    tx: AsyncConnection, controller_id: str, organisation_id: str, legal_name: str, now: datetime
) -> bool:
    """Store a new controller and its organisation; return whether the controller is the organisation's.

    Waits for a concurrent registration.
    """
    values = {"controller": controller_id, "organisation": organisation_id, "legal_name": legal_name, "now": now}
    await tx.execute(
        text("INSERT INTO organisation VALUES (:organisation, :now) ON CONFLICT DO NOTHING"),
        {"organisation": organisation_id, "now": now},
    )
    await tx.execute(
        text("INSERT INTO controller VALUES (:controller, :organisation, :legal_name, :now) ON CONFLICT DO NOTHING"),
        values,
    )
    rows = await tx.execute(
        text("SELECT organisation_id FROM controller WHERE controller_id = :controller"), {"controller": controller_id}
    )
    return bool(rows.scalar_one() == organisation_id)


class NameOwner(NamedTuple):
    """`controller_id` `None`: the name is a legal name alone."""

    organisation_id: str
    controller_id: str | None


async def own_names(
    tx: AsyncConnection,
    organisation_id: str,
    controller_id: str,
    names: Mapping[str, str],
    legal: Mapping[str, str],
    now: datetime,
) -> dict[str, NameOwner]:
    """Give the controller these names, and its organisation these legal names, by skeleton; return each one's owner.

    Waits for a concurrent registration. All callers insert in one order, so that none waits for the other.
    """
    named = {**legal, **names}
    skeletons = sorted(named)
    await tx.execute(
        text(
            "INSERT INTO owned_name AS o (skeleton, name, organisation_id, controller_id, since)"
            " SELECT s, n, :organisation, c, :now FROM unnest(CAST(:skeletons AS text[]), CAST(:names AS text[]),"
            " CAST(:controllers AS text[])) AS a(s, n, c) ORDER BY s"
            " ON CONFLICT (skeleton) DO UPDATE SET controller_id = excluded.controller_id"
            " WHERE o.controller_id IS NULL AND o.organisation_id = excluded.organisation_id"
        ),
        {
            "organisation": organisation_id,
            "now": now,
            "skeletons": skeletons,
            "names": [named[s] for s in skeletons],
            "controllers": [controller_id if s in names else None for s in skeletons],
        },
    )
    rows = await tx.execute(
        text(
            "SELECT skeleton, organisation_id, controller_id FROM owned_name"
            " WHERE skeleton = ANY(CAST(:skeletons AS text[]))"
        ),
        {"skeletons": skeletons},
    )
    return {skeleton: NameOwner(*owner) for skeleton, *owner in rows}


async def add_sender(tx: AsyncConnection, sender: Sender, now: datetime) -> bool:
    """Insert a sender; return False where the sender_id is taken. Waits for a concurrent registration."""
    rows = await tx.execute(
        text(
            "INSERT INTO sender (sender_id, organisation_id, legal_name, brand, contact, country, oadc, stop_code,"
            " purposes, controller, stop_scope, replies, double_opt_in_hours, renewal_days, abroad, authorisation,"
            " reachable_in, stop_page, version, stop_codes, purpose_ids, created_at, updated_at)"
            " VALUES (:sender_id, :organisation_id, :legal_name, :brand, :contact, :country, :oadc, :stop_code,"
            " CAST(:purposes AS jsonb), :controller, :stop_scope, CAST(:replies AS jsonb), :double_opt_in_hours,"
            " :renewal_days, CAST(:abroad AS text[]), :authorisation, CAST(:reachable_in AS jsonb), :stop_page,"
            " :version, CAST(:stop_codes AS text[]), CAST(:purpose_ids AS text[]), :now, :now)"
            " ON CONFLICT DO NOTHING RETURNING sender_id"
        ),
        _sender_row(sender) | {"now": now},
    )
    return rows.one_or_none() is not None


async def lock_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    rows = await tx.execute(text(f"SELECT {_SENDER} FROM sender WHERE sender_id = :id FOR UPDATE"), {"id": sender_id})
    row = rows.one_or_none()
    return _sender(**row._mapping) if row else None


async def find_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    rows = await tx.execute(text(f"SELECT {_SENDER} FROM sender WHERE sender_id = :id"), {"id": sender_id})
    row = rows.one_or_none()
    return _sender(**row._mapping) if row else None


async def of_controller(tx: AsyncConnection, controller: str) -> frozenset[str]:
    """Return the ids of a controller's senders."""
    rows = await tx.execute(text("SELECT sender_id FROM sender WHERE controller = :id"), {"id": controller})
    return frozenset(row.sender_id for row in rows)


async def controllers_of(tx: AsyncConnection, organisation: str) -> dict[str, list[str]]:
    """Return an organisation's controllers, each with its senders in order."""
    rows = await tx.execute(
        text(
            "SELECT controller, array_agg(sender_id ORDER BY sender_id) AS senders FROM sender"
            " WHERE organisation_id = :organisation GROUP BY controller"
        ),
        {"organisation": organisation},
    )
    return {row.controller: row.senders for row in rows}


async def senders_of_controller(tx: AsyncConnection, controller_id: str) -> list[str]:
    """Return the controller's senders in order."""
    rows = await tx.execute(
        text("SELECT sender_id FROM sender WHERE controller = :controller ORDER BY sender_id"),
        {"controller": controller_id},
    )
    return list(rows.scalars())


async def has_sisters(tx: AsyncConnection, sender: Sender) -> bool:
    """Return whether the controller has another sender on record."""
    found = await tx.scalar(
        text("SELECT EXISTS (SELECT 1 FROM sender WHERE controller = :controller AND sender_id <> :id)"),
        {"controller": sender.controller, "id": sender.sender_id},
    )
    return bool(found)


async def lock_senders_elsewhere(tx: AsyncConnection, page: str | None, limit: int) -> list[Sender]:
    """Lock and return senders whose stop page is not `page` followed by the sender's id and a slash."""
    rows = await tx.execute(
        text(
            f"SELECT {_SENDER} FROM sender WHERE stop_page IS DISTINCT FROM CAST(:page AS text) || sender_id || '/'"
            " ORDER BY sender_id LIMIT :limit FOR UPDATE"
        ),
        {"page": page, "limit": limit},
    )
    return [_sender(**row._mapping) for row in rows]


async def put_sender(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    """Update a locked sender. Former codes and purposes stay."""
    await tx.execute(
        text(
            "UPDATE sender SET legal_name = :legal_name, brand = :brand, contact = :contact, country = :country,"
            " oadc = :oadc, stop_code = :stop_code, purposes = CAST(:purposes AS jsonb), version = :version,"
            " controller = :controller, stop_scope = :stop_scope, replies = CAST(:replies AS jsonb),"
            " double_opt_in_hours = :double_opt_in_hours,"
            " renewal_days = :renewal_days, abroad = CAST(:abroad AS text[]), authorisation = :authorisation,"
            " reachable_in = CAST(:reachable_in AS jsonb), stop_page = :stop_page,"
            " stop_codes = ARRAY(SELECT DISTINCT unnest(stop_codes || CAST(:stop_codes AS text[])) ORDER BY 1),"
            " purpose_ids = ARRAY(SELECT DISTINCT unnest(purpose_ids || CAST(:purpose_ids AS text[])) ORDER BY 1),"
            " updated_at = :now WHERE sender_id = :sender_id"
        ),
        _sender_row(sender) | {"now": now},
    )


async def add_sender_version(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    content = msgspec.json.encode(sender).decode()
    await tx.execute(
        text(
            "INSERT INTO sender_version (sender_id, version, content, in_force_from)"
            " VALUES (:sender_id, :version, CAST(:content AS jsonb), :now)"
        ),
        {"sender_id": sender.sender_id, "version": sender.version, "content": content, "now": now},
    )


async def sender_versions(tx: AsyncConnection, sender_id: str, after: int, limit: int) -> list[tuple[Sender, datetime]]:
    """Return a sender's versions after `after`, each with `in_force_from`."""
    rows = await tx.execute(
        text(
            "SELECT content::text AS content, in_force_from FROM sender_version"
            " WHERE sender_id = :sender_id AND version > :after ORDER BY version LIMIT :limit"
        ),
        {"sender_id": sender_id, "after": after, "limit": limit},
    )
    return [(sender_content.decode(row.content), row.in_force_from) for row in rows]


@dataclass(frozen=True, slots=True)
class Purposes:
    """The purposes a sender offers, and ever offered, and their retention. `countries`: the sender's own first."""

    organisation_id: str
    controller: str
    offered: frozenset[str]
    ever: frozenset[str]
    months: Mapping[str, int]
    countries: tuple[str, ...] = ()


async def purposes_of(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, Purposes]:
    """Return the purposes of each sender on record."""
    return (await purposes_and_keys(tx, sender_ids, ()))[0]


async def purposes_and_keys(
    tx: AsyncConnection, sender_ids: Collection[str], keys: Collection[tuple[str, str]]
) -> tuple[dict[str, Purposes], dict[tuple[str, str], KeyRow]]:
    """Return the purposes of each sender on record, and the row of each claimed key (caller, key): one statement."""
    sql = (
        "SELECT sender_id, organisation_id, controller, purposes::text, purpose_ids, NULL::bytea, countries FROM sender"
        " WHERE sender_id = ANY($1::text[])"
    )
    named: list[list[str]] = [sorted(sender_ids)]
    if keys:
        sql += (
            " UNION ALL SELECT NULL, caller, key, fingerprint, NULL, answer, NULL FROM keyed_request"
            " JOIN unnest($2::text[], $3::text[]) AS k(caller, key) USING (caller, key)"
        )
        named += [[caller for caller, _ in keys], [key for _, key in keys]]
    senders: dict[str, Purposes] = {}
    claimed: dict[tuple[str, str], KeyRow] = {}
    for sender_id, one, other, said, purpose_ids, answer, countries in await fetch_many(tx, sql, *named):
        if sender_id is None:
            claimed[one, other] = said, answer
            continue
        months = {purpose.id: purpose.retention_months for purpose in _purposes.decode(said)}
        senders[sender_id] = Purposes(one, other, frozenset(months), frozenset(purpose_ids), months, tuple(countries))
    return senders, claimed


async def controllers_of_senders(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, str]:
    """Return the controller of each sender on record."""
    rows = await tx.execute(
        text("SELECT sender_id, controller FROM sender WHERE sender_id = ANY(CAST(:ids AS text[]))"),
        {"ids": sorted(sender_ids)},
    )
    return {row.sender_id: row.controller for row in rows}


async def owners_of(tx: AsyncConnection, stop_codes: Collection[str]) -> dict[str, dict[str, Sender]]:
    """Return, by STOP code, the senders which use or once used the code."""
    rows = await tx.execute(
        text(
            f"SELECT c.code, {_SENDER}"
            " FROM unnest(CAST(:codes AS text[])) AS c(code) JOIN sender s ON c.code = ANY(s.stop_codes)"
            " ORDER BY s.sender_id"
        ),
        {"codes": sorted(stop_codes)},
    )
    found: dict[str, dict[str, Sender]] = {}
    for row in rows:
        code, columns = row.code, {name: value for name, value in row._mapping.items() if name != "code"}
        found.setdefault(code, {})[row.sender_id] = _sender(**columns)
    return found


@dataclass(frozen=True, slots=True)
class Taken:
    """How many different STOP codes and names an organisation has, former ones too."""

    codes: int
    names: int


async def taken_by(tx: AsyncConnection, organisation: str, shared_codes: Collection[str]) -> Taken:
    """Count what an organisation has, without shared codes. Locks the organisation until the transaction ends."""
    values = {"organisation": organisation, "shared": sorted(shared_codes)}
    await tx.execute(text("SELECT FROM organisation WHERE organisation_id = :organisation FOR UPDATE"), values)
    rows = await tx.execute(
        text(
            "SELECT (SELECT count(DISTINCT c) FROM sender CROSS JOIN unnest(stop_codes) AS c"
            " WHERE organisation_id = :organisation AND c <> ALL(CAST(:shared AS text[]))) AS codes,"
            " (SELECT count(*) FROM owned_name WHERE organisation_id = :organisation) AS names"
        ),
        values,
    )
    return Taken(*rows.one())


async def lock_stop_code(tx: AsyncConnection, stop_code: str) -> None:
    """Lock a STOP code until the transaction ends: no other sender takes the code meanwhile."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext(:code))"), {"code": f"placet.stop-code.{stop_code}"})


async def senders_of(tx: AsyncConnection, sender_ids: Collection[str]) -> list[Sender]:
    """Return the senders on record, by brand."""
    rows = await tx.execute(
        text(f"SELECT {_SENDER} FROM sender WHERE sender_id = ANY(CAST(:ids AS text[])) ORDER BY brand, sender_id"),
        {"ids": sorted(sender_ids)},
    )
    return [_sender(**row._mapping) for row in rows]


async def senders_after(tx: AsyncConnection, sender_ids: Collection[str], after: str, limit: int) -> list[Sender]:
    """Return those of the senders behind `after`, by id."""
    rows = await tx.execute(
        text(
            f"SELECT {_SENDER} FROM sender WHERE sender_id = ANY(CAST(:ids AS text[])) AND sender_id > :after"
            " ORDER BY sender_id LIMIT :limit"
        ),
        {"ids": sorted(sender_ids), "after": after, "limit": limit},
    )
    return [_sender(**row._mapping) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReopeningRule:
    """A controller's decision that an asserted opt-in may reopen a purpose after a STOP to the sender (ADR-0064)."""

    rule_id: str
    position: int
    sender_id: str
    purpose: str
    begun_by: str
    begun_at: datetime
    reason: str
    ended_by: str | None
    ended_at: datetime | None
    end_reason: str | None


_RULE = "rule_id, position, sender_id, purpose, begun_by, begun_at, reason, ended_by, ended_at, end_reason"


async def rule_in_force(tx: AsyncConnection, sender_id: str, purpose: str) -> ReopeningRule | None:
    rows = await tx.execute(
        text(
            f"SELECT {_RULE} FROM reopening_rule"
            " WHERE sender_id = :sender_id AND purpose = :purpose AND ended_at IS NULL"
        ),
        {"sender_id": sender_id, "purpose": purpose},
    )
    row = rows.one_or_none()
    return ReopeningRule(**row._mapping) if row else None


async def begin_rule(
    tx: AsyncConnection, rule_id: str, sender_id: str, purpose: str, actor: str, reason: str, now: datetime
) -> ReopeningRule:
    """Insert a rule in force. The caller has locked the sender, and no rule for the purpose is in force."""
    rows = await tx.execute(
        text(
            "INSERT INTO reopening_rule (rule_id, sender_id, purpose, begun_by, begun_at, reason)"
            f" VALUES (:rule_id, :sender_id, :purpose, :actor, :now, :reason) RETURNING {_RULE}"
        ),
        {"rule_id": rule_id, "sender_id": sender_id, "purpose": purpose, "actor": actor, "now": now, "reason": reason},
    )
    return ReopeningRule(**rows.one()._mapping)


async def end_rule(
    tx: AsyncConnection, sender_id: str, rule_id: str, actor: str, reason: str, now: datetime
) -> ReopeningRule | None:
    """End a rule and return the rule, or `None` for an unknown rule. An ended rule stays as it is."""
    await tx.execute(
        text(
            "UPDATE reopening_rule SET ended_by = :actor, ended_at = :now, end_reason = :reason"
            " WHERE rule_id = :rule_id AND sender_id = :sender_id AND ended_at IS NULL"
        ),
        {"rule_id": rule_id, "sender_id": sender_id, "actor": actor, "now": now, "reason": reason},
    )
    rows = await tx.execute(
        text(f"SELECT {_RULE} FROM reopening_rule WHERE rule_id = :rule_id AND sender_id = :sender_id"),
        {"rule_id": rule_id, "sender_id": sender_id},
    )
    row = rows.one_or_none()
    return ReopeningRule(**row._mapping) if row else None


async def reopening_rules(tx: AsyncConnection, sender_id: str, after: int, limit: int) -> list[ReopeningRule]:
    """Return a sender's rules after position `after`, the ended ones too, oldest first."""
    rows = await tx.execute(
        text(
            f"SELECT {_RULE} FROM reopening_rule WHERE sender_id = :sender_id AND position > :after"
            " ORDER BY position LIMIT :limit"
        ),
        {"sender_id": sender_id, "after": after, "limit": limit},
    )
    return [ReopeningRule(**row._mapping) for row in rows]


def _sender(*, purposes: str, replies: str, abroad: Sequence[str], reachable_in: str, **columns: Any) -> Sender:
    return Sender(
        purposes=_purposes.decode(purposes),
        replies=_replies.decode(replies),
        abroad=tuple(abroad),
        reachable_in=_reaches.decode(reachable_in),
        **columns,
    )


def _sender_row(sender: Sender) -> dict[str, object]:
    return {
        "sender_id": sender.sender_id,
        "organisation_id": sender.organisation_id,
        "legal_name": sender.legal_name,
        "brand": sender.brand,
        "contact": sender.contact,
        "country": sender.country,
        "oadc": sender.oadc,
        "stop_code": sender.stop_code,
        "purposes": msgspec.json.encode(sender.purposes).decode(),
        "controller": sender.controller,
        "stop_scope": sender.stop_scope,
        "replies": msgspec.json.encode(sender.replies).decode(),
        "double_opt_in_hours": sender.double_opt_in_hours,
        "renewal_days": sender.renewal_days,
        "abroad": list(sender.abroad),
        "authorisation": sender.authorisation,
        "reachable_in": msgspec.json.encode(sender.reachable_in).decode(),
        "stop_page": sender.stop_page,
        "version": sender.version,
        "stop_codes": [sender.stop_code],
        "purpose_ids": [purpose.id for purpose in sender.purposes],
    }
