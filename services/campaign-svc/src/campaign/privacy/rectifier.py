"""Apply rectifications: correct a person's contacts, and the text of messages still waiting.

The lock `audience.alone_with_contacts` keeps the planner from reading contacts. A recipient is requested before, and
the update follows on the same partition, or after, with the corrected attributes.

A contact whose number was wrong, or no longer belongs to the person, is deleted. The gate denies the waiting messages:
consent-svc has opted the number out.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import attributes
from campaign.audience import store as audience
from campaign.audience.attribute import Kind, kept
from campaign.links import links
from campaign.links.links import Tokens
from campaign.message import text as texts
from campaign.privacy import store
from campaign.schedule.lifecycle import message_of
from campaign.schedule.timing import region_of
from common.contracts import CAMPAIGN_REQUESTS, RECTIFICATION_ACKS, RECTIFICATIONS
from common.contracts.campaign import MessageReworded
from common.contracts.rights import RectificationAcknowledged, RectificationRequested
from common.db.shards import WHOLE, Part
from common.files.columns import NUMBER_TITLES
from common.kafka import outbox
from common.kafka.subscription import After, Poison, Received, Subscription
from common.keyring import FieldKeys, LinkKeys, Unreadable
from common.law import Policy, at_hand_off
from common.privacy.erasing import Whom

SERVICE = "campaign"

_fields = msgspec.json.Decoder(dict[str, str | None])


class Rectifier:
    """Consumer of rectifications."""

    def __init__(self, keys: FieldKeys, link_keys: LinkKeys, policy: Policy, part: Part = WHOLE) -> None:
        self._keys = keys
        self._link_keys = link_keys
        self._gate = at_hand_off(policy)
        self._part = part

    def subscription(self) -> Subscription:
        return Subscription("campaign.rectifications", RECTIFICATIONS, self.apply)

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        await audience.alone_with_contacts(tx)
        for received in batch:
            if isinstance(received.event, RectificationRequested):
                await self._rectify(tx, received.event)
        return None

    async def _rectify(self, tx: AsyncConnection, asked: RectificationRequested) -> None:
        now = datetime.now(UTC)
        reworded: list[MessageReworded] = []
        if (fields := self._opened(asked)) is None:
            # a later contact belongs to someone else: a replay keeps it
            whom = Whom(asked.subject_id, asked.controller_id)
            contacts = await audience.delete_contact(tx, whom, asked.sender_id, asked.requested_at)
        else:
            holders = await store.lock_contacts(tx, asked.subject_id, asked.controller_id, asked.sender_id)
            for sender_id in holders:
                right = _as_kept(fields, await attributes.kinds_of(tx, sender_id))
                await audience.correct_contact(tx, sender_id, asked.subject_id, right, now)
            contacts = len(holders)
            reworded = await self._reworded(tx, asked, now)
        await outbox.append(tx, CAMPAIGN_REQUESTS, reworded)
        done = RectificationAcknowledged(
            rectification_id=asked.rectification_id,
            subject_id=asked.subject_id,
            service=SERVICE,
            rectified_at=now,
            rectified={"contacts": contacts, "messages": len(reworded)},
            shard=self._part.shard,
            shards=self._part.of,
        )
        await outbox.append(tx, RECTIFICATION_ACKS, [done])

    def _opened(self, asked: RectificationRequested) -> Mapping[str, str | None] | None:
        if asked.fields is None:
            return None
        try:
            fields = _fields.decode(self._keys.unseal(asked.fields, f"rectification:{asked.rectification_id}"))
        except (Unreadable, msgspec.MsgspecError) as error:
            raise Poison("what is right cannot be read") from error
        return {name: right for name, right in fields.items() if name not in NUMBER_TITLES}  # no attributes

    async def _reworded(
        self, tx: AsyncConnection, asked: RectificationRequested, now: datetime
    ) -> list[MessageReworded]:
        """Return an update for each message requested and not known to have left.

        A message whose text can no longer be written gets the text `None`, and so does a message of an unreadable
        campaign: dispatch-svc must not send such a message.
        """
        found, made = [], []
        for message in await store.asked_for(tx, asked.subject_id, asked.controller_id, asked.sender_id):
            said = message.attributes
            written, wording = None, message.wording
            if wording is not None and wording.missing(said) is None:
                tokens = Tokens(self._link_keys, message.campaign_id, asked.subject_id, message.sender_id, now)
                written = wording.render(said, message.stop_code, tokens)
                added, page = message.stop_added, message.stop_page
                if texts.refused(written, message.stop_code, added, stop_page=page) is None:
                    made.append(tokens)
                else:
                    written = None
            identity = message_of(message.campaign_id, message.starts_at, self._keys.inner(asked.subject_id))
            region = region_of(said, message.country, self._gate)
            found.append(
                MessageReworded(
                    message_id=identity,
                    campaign_id=message.campaign_id,
                    subject_id=asked.subject_id,
                    text=None if written is None else self._keys.seal(written, f"text:{identity}"),
                    reworded_at=now,
                    region=region or "",
                )
            )
        await links.keep(tx, made)
        return found


def _as_kept(fields: Mapping[str, str | None], kinds: Mapping[str, Kind]) -> dict[str, str | None]:
    """Return the fields as an import stores them.

    A value not matching its kind stays as given.
    """
    right = {name: value and value.strip() for name, value in fields.items()}
    return {name: value and (kept(value, kinds.get(name, Kind.TEXT)) or value) for name, value in right.items()}
