"""The sender registry, the only writer of senders.

The registry keeps every version: a consent refers to the version in force at its time.
"""

from dataclasses import replace
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from common.kafka import outbox
from consent.ledger import term_store
from consent.ledger.retention import Rule
from consent.senders import store
from consent.senders.store import Sender

StopCodeClass = Literal["marketing", "transactional"]


async def register(tx: AsyncConnection, wanted: Sender, now: datetime) -> tuple[Sender, bool]:
    """Return the registered sender, perhaps unlike `wanted`, and whether this call created it."""
    if await store.add_sender(tx, wanted, now):
        await _publish(tx, wanted, now)
        return wanted, True
    held = await store.find_sender(tx, wanted.sender_id)
    assert held is not None
    return held, False


async def change(tx: AsyncConnection, locked: Sender, wanted: Sender, now: datetime) -> Sender:
    """Store `wanted` as a new version if anything differs, and return the sender."""
    if same_content(locked, wanted):
        return locked
    changed = replace(wanted, version=locked.version + 1)
    await store.put_sender(tx, changed, now)
    if _rules(locked) != _rules(changed):
        await term_store.ask_recount(tx, changed.sender_id)
    await _publish(tx, changed, now)
    return changed


def _rules(sender: Sender) -> dict[str, Rule]:
    return {purpose.id: Rule(purpose.retention_months, sender.renewal_days) for purpose in sender.purposes}


async def _publish(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    await store.add_sender_version(tx, sender, now)
    await outbox.append(tx, SENDERS, [_event(sender)])


def same_content(one: Sender, other: Sender) -> bool:
    return replace(one, version=0) == replace(other, version=0)


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
        controller=sender.controller,
        stop_scope=sender.stop_scope,
        replies=sender.replies,
        abroad=sender.abroad,
    )
