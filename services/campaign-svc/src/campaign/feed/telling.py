"""Store what services publish in the feeds of the organisations concerned.

This module is the only writer of what other services publish; `campaign.webhooks` stores its own two events.

Consents are told from `campaign.audience.consents`, in the transaction that stores a person's newest state: only there
the state before is known. The rest is read here, by a consumer group of its own. An enforced opt-out waits for the
opt-out itself, which another topic brings.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.feed import rules, store
from campaign.feed.event import Told
from campaign.senders.own import EVERYBODY, Own
from common.contracts import CAMPAIGN_NOTICES, CONSENT_NOTICES, DISPATCH_MESSAGES
from common.contracts.campaign import ContactImportFinished, StatusChanged
from common.contracts.consent import ConsentImportFinished
from common.contracts.dispatch import READ_AT_ONCE, MessagesChanged, OptOutEnforced, changes_in
from common.contracts.rights import ErasureFinished
from common.kafka.subscription import COUNTED_S, After, Hold, Received, Subscription

GROUP = "campaign.events"


ByFeed = dict[str, list[tuple[Told, str | None]]]  # by organisation, with the controllers


async def tell(tx: AsyncConnection, told: Sequence[Told]) -> None:
    """Store events of senders in the feeds of their organisations, in this order.

    Raises Hold for a sender that is not known here yet: a sender and what is told of it come by two topics.
    """
    await _add(tx, await _of_senders(tx, told))


async def _of_senders(tx: AsyncConnection, told: Sequence[Told]) -> ByFeed:
    owners = await store.owners(tx, {each.sender_id for each in told if each.sender_id is not None})
    of: ByFeed = defaultdict(list)
    for each in told:
        if (owner := owners.get(each.sender_id or "")) is None:
            raise Hold("a sender is not known here yet")
        if owner.followed:
            of[owner.organisation_id].append((each, owner.controller))
    return of


async def _add(tx: AsyncConnection, of: ByFeed) -> None:
    if of:
        await store.add(tx, of)


class Consents(Protocol):
    """The knowledge of consents, kept by another consumer group."""

    async def versions_of(self, tx: AsyncConnection, subject_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the version of each known person's state."""

    async def senders_of(self, tx: AsyncConnection, subject_ids: Sequence[str]) -> Mapping[str, set[str]]:
        """Return the senders that each known person has a line of."""

    async def up_to(self, tx: AsyncConnection, partition: int) -> datetime | None:
        """Return the time up to which the partition's states are applied, or `None` if unknown."""


class Telling:
    """The consumer of what other topics than consents bring."""

    def __init__(self, consents: Consents, own: Own = EVERYBODY) -> None:
        self._consents = consents
        self._own = own

    def subscriptions(self) -> list[Subscription]:
        return [
            Subscription(
                GROUP,
                DISPATCH_MESSAGES,
                self.apply_messages,
                max_records=READ_AT_ONCE,
                weigh=changes_in,
                gather_s=COUNTED_S,
                together=True,
                wants=store.any_begun,
            ),
            Subscription(GROUP, CAMPAIGN_NOTICES, self.apply_notices),
            Subscription(GROUP, CONSENT_NOTICES, self.apply_notices),
        ]

    async def apply_messages(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Tell of messages, and of enforced opt-outs. The caller has asked whether any feed has begun."""
        enforcements = [(r.event, r.partition) for r in batch if isinstance(r.event, OptOutEnforced)]
        enforced = await self._enforced(tx, enforcements)
        told: list[Told] = []
        for received in batch:
            changes = received.event.changes if isinstance(received.event, MessagesChanged) else ()
            for change in await self._own.kept(tx, changes):
                told += rules.of_message(change, received.published_at)
        await tell(tx, [*told, *enforced])
        return None

    async def _enforced(self, tx: AsyncConnection, read: Sequence[tuple[OptOutEnforced, int]]) -> list[Told]:
        """Return what is told of enforced opt-outs. Raises Hold while an opt-out itself is still to be applied.

        An opt-out without an event stored here was no news for any sender, or came before the feed began.
        """
        if not read:
            return []
        events = [event for event, _ in read]
        versions = await self._consents.versions_of(tx, [event.subject_id for event in events])
        late: dict[int, datetime] = {}  # by partition
        for event, partition in read:
            if versions.get(event.subject_id, -1) < event.consent_version:
                late[partition] = max(event.enforced_at, late.get(partition, event.enforced_at))
        for partition, enforced_at in late.items():
            applied = await self._consents.up_to(tx, partition)
            if applied is None or applied < enforced_at:  # else the state is unreadable, and no event comes
                raise Hold("the opt-out of an enforcement is not applied here yet")
        stored = await store.opt_outs(tx, [(event.subject_id, event.consent_version) for event in events])
        return [
            rules.of_enforcement(
                opt_out.sender_id,
                event.subject_id,
                opt_out.event_id,
                opt_out.version,
                event.received_at,
                event.enforced_at,
            )
            for event in events
            for opt_out in stored.get((event.subject_id, event.consent_version), ())
        ]

    async def apply_notices(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Tell of campaigns, imports and erasures."""
        if not await store.any_begun(tx):
            return None
        told: list[Told] = []
        for received in batch:
            match received.event:
                case StatusChanged() as step:
                    told.append(rules.of_status(step))
                case ContactImportFinished() | ConsentImportFinished() as ended:
                    told += [one for one in [rules.of_import(ended)] if one is not None]
        of = await _of_senders(tx, told)
        erasures = await self._of_erasures(tx, [r.event for r in batch if isinstance(r.event, ErasureFinished)])
        for organisation_id, some in erasures.items():
            of[organisation_id] += some
        await _add(tx, of)  # at once: feeds are locked in the order of their organisations
        return None

    async def _of_erasures(self, tx: AsyncConnection, events: Sequence[ErasureFinished]) -> ByFeed:
        """Return what is told to the controller that asked, or to every controller with a line of the person."""
        of: ByFeed = defaultdict(list)
        if not events:
            return of
        everything = [event.subject_id for event in events if event.controller_id is None]
        senders = await self._consents.senders_of(tx, everything)
        owners = await store.owners(tx, set(chain.from_iterable(senders.values())))
        told: list[Told] = []
        for event in events:
            known = {owners[one].controller for one in senders.get(event.subject_id, ()) if one in owners}
            told += rules.of_erasure(event, sorted(known) if event.controller_id is None else [event.controller_id])
        organisations = await store.organisations_of(tx, {each.controller or "" for each in told})
        for each in told:
            if (organisation_id := organisations.get(each.controller or "")) is not None:
                of[organisation_id].append((each, each.controller))
        return of
