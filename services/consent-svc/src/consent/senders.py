"""The sender registry: the identified parties a consent is given to. One door, as for consent.

Registering the same content again changes nothing; every change is a new version, published whole.
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common import outbox
from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from consent import store
from consent.store import Sender


async def register(tx: AsyncConnection, wanted: Sender, now: datetime) -> tuple[Sender, bool]:
    """The sender as it stands, and whether this call created it. It may not be the one that was wanted."""
    if await store.add_sender(tx, wanted, now):
        await outbox.append(tx, SENDERS, [_event(wanted)])
        return wanted, True
    held = await store.find_sender(tx, wanted.sender_id)
    assert held is not None
    return held, False


async def change(tx: AsyncConnection, wanted: Sender, now: datetime) -> Sender | None:
    """The sender with its new content, in a new version if anything differs. None: no such sender."""
    held = await store.lock_sender(tx, wanted.sender_id)
    if held is None or same_content(held, wanted):
        return held
    changed = replace(wanted, version=held.version + 1)
    await store.put_sender(tx, changed, now)
    await outbox.append(tx, SENDERS, [_event(changed)])
    return changed


def same_content(one: Sender, other: Sender) -> bool:
    return replace(one, version=0) == replace(other, version=0)


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
    )
