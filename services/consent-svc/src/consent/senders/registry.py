"""The sender registry, the only writer of senders.

The registry keeps every version: a consent refers to the version in force at its time.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from common.db.shards import Shards
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.privacy import stop_link
from consent.ledger import term_store
from consent.senders import store
from consent.senders.copying import changing, rules_of
from consent.senders.names import entity, skeleton
from consent.senders.store import Reach, Sender

StopCodeClass = Literal["marketing", "transactional"]
LOOK_EVERY_S = 60.0
SENDERS_AT_ONCE = 100
NAMES = ("oadc", "brand")  # the fields that tell a person who writes


async def register(tx: AsyncConnection, wanted: Sender, now: datetime) -> tuple[Sender, bool]:
    """Return the registered sender, perhaps unlike `wanted`, and whether this call created it."""
    if await store.add_sender(tx, wanted, now):
        await _publish(tx, wanted, now)
        return wanted, True
    held = await store.find_sender(tx, wanted.sender_id)
    assert held is not None
    return held, False


async def own_names(tx: AsyncConnection, sender: Sender, now: datetime) -> list[str]:
    """Give the sender's controller its names; return the fields whose name another has.

    An OADC or a brand is of one controller. A legal name is of one organisation: its controllers may be one entity.
    Names that look alike have one owner: a concurrent registration waits. The caller rolls back.
    """
    named = {skeleton(sender.oadc): sender.oadc, skeleton(sender.brand): sender.brand}
    legal = entity(sender.legal_name)
    owners = await store.own_names(
        tx, sender.organisation_id, sender.controller, named, {legal: sender.legal_name}, now
    )
    taken = [field for field in NAMES if owners[skeleton(getattr(sender, field))].controller_id != sender.controller]
    return taken + ["legal_name"] * (owners[legal].organisation_id != sender.organisation_id)


async def change(tx: AsyncConnection, locked: Sender, wanted: Sender, now: datetime) -> Sender:
    """Store `wanted` as a new version if anything differs, and return the sender."""
    if same_content(locked, wanted) and locked.stop_page == wanted.stop_page:
        return locked
    changed = replace(wanted, version=locked.version + 1)
    await store.put_sender(tx, changed, now)
    if rules_of(locked) != rules_of(changed):
        await term_store.ask_recount(tx, changed.sender_id)
    await _publish(tx, changed, now)
    return changed


@dataclass(frozen=True, slots=True)
class StopPages:
    """Publishes every sender again whose stop page is no longer of `page_url`: after a change of the setting.

    A timer of the first shard.
    """

    shards: Shards
    page_url: str | None

    def workers(self) -> list[Worker]:
        if self.shards.own is not self.shards.first:
            return []
        timer = Timer("publish stop pages", self.look, LOOK_EVERY_S, self.shards.own.database)
        return [Worker(timer.name, timer.run)]

    async def look(self) -> bool:
        page = stop_link.pages_of(self.page_url) if self.page_url else None
        changed = set[str]()
        async with changing(self.shards, changed) as tx:
            found = await store.lock_senders_elsewhere(tx, page, SENDERS_AT_ONCE)
            changed |= {sender.sender_id for sender in found}
            for sender in found:
                now = datetime.now(UTC)
                await change(tx, sender, replace(sender, stop_page=self._stop_page(sender)), now)
        return bool(found)

    def _stop_page(self, sender: Sender) -> str | None:
        return stop_link.stop_page(self.page_url, sender.sender_id) if self.page_url else None


async def _publish(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    await store.add_sender_version(tx, sender, now)
    await outbox.append(tx, SENDERS, [_event(sender)])


def same_content(one: Sender, other: Sender) -> bool:
    """Return whether both have the same content. The author and time of a statement, and the stop page, are none."""
    first, second = (replace(each, version=0, reachable_in=(), stop_page=None) for each in (one, other))
    return first == second and _places(one) == _places(other)


def stated(before: Collection[Reach], places: Collection[str], by: str, now: datetime) -> tuple[Reach, ...]:
    """Return the statements for `places`, by place: those made before, and new ones by this caller."""
    held = {reach.place: reach for reach in before}
    made = (held.get(place) or Reach(place=place, stated_by=by, stated_at=now) for place in sorted(set(places)))
    return tuple(made)


def _places(sender: Sender) -> tuple[str, ...]:
    return tuple(reach.place for reach in sender.reachable_in)


def stop_code_class(stop_code: str) -> StopCodeClass:
    """Return the class: 36xxx carries marketing, 38xxx transactional messages (AF2M; DOMAIN 1.7)."""
    return "marketing" if stop_code.startswith("36") else "transactional"


def _event(sender: Sender) -> SenderChanged:
    return SenderChanged(
        sender_id=sender.sender_id,
        version=sender.version,
        legal_name=sender.legal_name,
        brand=sender.brand,
        contact=sender.contact,
        country=sender.country,
        oadc=sender.oadc,
        stop_code=sender.stop_code,
        purposes=sender.purposes,
        organisation_id=sender.organisation_id,
        controller_id=sender.controller,
        stop_scope=sender.stop_scope,
        replies=sender.replies,
        abroad=sender.abroad,
        reachable_in=_places(sender),
        stop_page=sender.stop_page,
    )
