"""The queries of the gate: the knowledge behind a decision."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.contracts.campaign import Control
from common.contracts.consent import Consent, Suppression
from common.db.database import PLANNED_NOW, fetch_many
from common.privacy.erasing import Erasure
from dispatch.gate.rules import Subject
from dispatch.lane import Lane
from dispatch.messages import store as messages
from dispatch.messages.by_day import of_people
from dispatch.projection.store import A_CAMPAIGN, CONSENTS_GROUP, Sender, sender_of, watermark_of

_controls = msgspec.json.Decoder(dict[str, Control])
_consents = msgspec.json.Decoder(tuple[Consent, ...])
_suppressions = msgspec.json.Decoder(tuple[Suppression, ...])


class Surroundings(NamedTuple):
    """The knowledge of a decision beside consents and controls.

    `blocks`: blocking gateways, and `erasures`, by subject. `approved`: the versions of templates, named as in the
    event, from which a message may leave. `controllers`: of a sender of codes, the senders a STOP to which covers it:
    itself, and wide ones of its controller.
    """

    senders: dict[str, Sender]
    blocks: dict[str, frozenset[str]]
    erasures: dict[str, list[Erasure]]
    approved: set[str]
    controllers: dict[str, set[str]]


class Knowledge(NamedTuple):
    """The knowledge of one instant: the watermark of consents, the people, and the campaigns' controls."""

    as_of: datetime | None
    subjects: dict[str, Subject]
    controls: dict[str, Control]


_OF_SENDER = "oadc", "stop_code", "purposes", "countries", "reachable_in", "stop_page", "controller", "organisation_id"
_NO_SENDER = ", ".join("NULL" for _ in _OF_SENDER)
# A small table is scanned: without the SELECT, an array made from a parameter is made again for each of its rows, by a
# plan for any parameter. A join would scan a large table too, until the table is first analysed.
_SURROUNDINGS = (
    "SELECT 'sender', sender_id, NULL, NULL::timestamptz, NULL::text[], " + ", ".join(_OF_SENDER) + " FROM sender"
    " WHERE sender_id = ANY($1::text[])"
    f" UNION ALL SELECT 'block', subject_id, gateway, NULL, NULL, {_NO_SENDER} FROM provider_block"
    " WHERE subject_id = ANY((SELECT string_to_array($2, ' '))::text[])"
    f" UNION ALL SELECT 'erasure', subject_id, controller_id, requested_at, lifted_for, {_NO_SENDER} FROM erasing"
    " WHERE subject_id = ANY((SELECT string_to_array($2, ' '))::text[])"
    f" UNION ALL SELECT 'template', template_id, number::text, NULL, NULL, {_NO_SENDER} FROM template"
    " WHERE state = 'approved' AND template_id = ANY($3::text[])"
    f" UNION ALL SELECT 'covers', s.sender_id, o.sender_id, NULL, NULL, {_NO_SENDER} FROM sender AS s"
    " JOIN sender AS o ON o.sender_id = s.sender_id OR (o.controller = s.controller AND o.stop_scope = 'controller')"
    " WHERE s.sender_id = ANY($4::text[])"
)


async def surroundings(
    tx: AsyncConnection,
    sender_ids: Collection[str],
    subject_ids: Sequence[str],
    templates: Collection[str] = (),
    senders_of_codes: Collection[str] = (),
) -> Surroundings:
    """Return the surroundings of a batch, in one round trip. Call after a first write (`erasing.asked_of`)."""
    rows = await fetch_many(
        tx,
        _SURROUNDINGS,
        list(sender_ids),
        " ".join(subject_ids),
        [name.rpartition("@")[0] for name in templates],
        list(senders_of_codes),
    )
    found = Surroundings({}, {}, {}, set(), {sender_id: {sender_id} for sender_id in senders_of_codes})
    for kind, one, other, at, some, *of_sender in rows:
        match kind:
            case "sender":
                found.senders[one] = sender_of(*of_sender)
            case "block":
                found.blocks[one] = found.blocks.get(one, frozenset()) | {other}
            case "erasure":
                found.erasures.setdefault(one, []).append(Erasure(other, at, frozenset(some)))
            case "template" if (name := f"{one}@{other}") in templates:
                found.approved.add(name)
            case "covers":
                found.controllers[one].add(other)
    return found


async def lock(tx: AsyncConnection, partition: int, lane: Lane | None, campaign_ids: Collection[str]) -> None:
    """Lock the partition for decisions, as `messages.lock_partition` does, and these campaigns shared.

    `lane`: None where the caller holds the partition's lock, or needs none. A statement that waits for a lock sees the
    state before the wait: the knowledge needs a statement of its own. A resume waits for this transaction, and wakes
    the messages deferred here afterwards.
    """
    if lane is None and not campaign_ids:
        return
    campaigns = f"(SELECT count(pg_advisory_xact_lock_shared({A_CAMPAIGN.format('c')})) FROM unnest($2::text[]) AS c)"
    of_lane = "$1::integer" if lane is None else messages.partition_lock(lane)
    await fetch_many(tx, f"SELECT {of_lane}, {campaigns}", partition, sorted(campaign_ids))


async def knowledge(
    tx: AsyncConnection,
    partition: int,
    subject_ids: Sequence[str],
    campaign_ids: Collection[str],
    *,
    oldest_of: int | None = None,
) -> Knowledge:
    """Return the knowledge of now, under the locks of `lock`. `oldest_of`: as in `projection.watermark`."""
    rows = await fetch_many(
        tx,
        f"SELECT NULL, {watermark_of('$1', '$2', '$3', oldest=oldest_of is not None)},"
        " (SELECT json_object_agg(campaign_id, control)::text FROM campaign WHERE campaign_id = ANY($4::text[])),"
        " NULL, NULL, NULL, NULL"
        " UNION ALL SELECT subject_id, held_since, consents::text, suppressions::text, version, erased, unreadable"
        " FROM subject WHERE subject_id = ANY(string_to_array($5, ' '))",
        CONSENTS_GROUP,
        STATES.name,
        partition if oldest_of is None else oldest_of,
        list(campaign_ids),
        " ".join(subject_ids),
    )
    as_of, controls = next((as_of, controls) for nobody, as_of, controls, *_ in rows if nobody is None)
    subjects = {
        subject_id: Subject(version, _consents.decode(consents), _suppressions.decode(stops), erased, unreadable, held)
        for subject_id, held, consents, stops, version, erased, unreadable in rows
        if subject_id is not None
    }
    return Knowledge(as_of, subjects, _controls.decode(controls) if controls else {})


async def lock_counts(tx: AsyncConnection, partition: int) -> None:
    """Lock the marketing counts of a partition until the transaction ends. Includes `plan_now`."""
    await fetch_many(tx, f"SELECT pg_advisory_xact_lock(hashtext('placet.counts'), $1), {PLANNED_NOW}", partition)


async def recent_marketing(
    tx: AsyncConnection, subject_ids: Sequence[str], but: Sequence[UUID], since: datetime
) -> Counter[tuple[str, str]]:
    """Count marketing messages sent or being sent from `since` on, by (subject_id, sender_id)."""
    rows = await tx.execute(
        text(
            "SELECT m.subject_id, m.sender_id, count(*) AS had FROM message AS m"
            f" WHERE {of_people('CAST(:ids AS text[])', since=':since')}"
            " AND m.category = 'marketing' AND m.status IN ('sending', 'accepted', 'unknown')"
            " AND coalesce(m.handed_off_at, m.decided_at) >= :since AND m.message_id <> ALL(CAST(:but AS uuid[]))"
            " GROUP BY m.subject_id, m.sender_id"
        ),
        {"ids": list(subject_ids), "but": list(but), "since": since},
    )
    return Counter({(row.subject_id, row.sender_id): row.had for row in rows})
