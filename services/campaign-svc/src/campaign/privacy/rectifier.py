"""What a person had put right: their contacts are corrected, and what was asked for and has not left says so.

One transaction, that of the consumer's offset: contacts, the texts of their messages again, the answer. The planner
never reads contacts meanwhile (`store.alone_with_contacts`): a recipient is asked for either before, and then their
message is reworded, on the same partition after its request, or after, with what is right. What has left is history.

A number that was wrong, or is theirs no more, leaves with its contact. What waits for it is denied by the gate: consent
shut it in the transaction that told us.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import store
from campaign.audience import attributes
from campaign.audience.attribute import Kind, kept
from campaign.audience.contacts_file import NUMBER_COLUMNS
from campaign.links import links
from campaign.links.links import Tokens
from campaign.message import text as texts
from campaign.schedule.lifecycle import message_of
from campaign.schedule.timing import region_of
from common.contracts import CAMPAIGN_REQUESTS, RECTIFICATION_ACKS, RECTIFICATIONS
from common.contracts.campaign import MessageReworded
from common.contracts.rights import RectificationAcknowledged, RectificationRequested
from common.kafka import outbox
from common.kafka.consumer import After, Poison, Received, Subscription
from common.law import Policy, at_hand_off
from common.privacy.keyring import FieldKeys, LinkKeys, Unreadable

SERVICE = "campaign"

_fields = msgspec.json.Decoder(dict[str, str | None])
_attributes = msgspec.json.Decoder(dict[str, str])


class Rectifier:
    """`policy`: as the deployment has it; where somebody is, is told as the planner tells it."""

    def __init__(self, keys: FieldKeys, link_keys: LinkKeys, policy: Policy) -> None:
        self._keys = keys
        self._link_keys = link_keys
        self._gate = at_hand_off(policy)

    def subscription(self) -> Subscription:
        return Subscription("campaign.rectifications", RECTIFICATIONS, self.apply)

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        await store.alone_with_contacts(tx)
        for received in batch:
            if isinstance(received.event, RectificationRequested):
                await self._rectify(tx, received.event)
        return None

    async def _rectify(self, tx: AsyncConnection, asked: RectificationRequested) -> None:
        now = datetime.now(UTC)
        reworded: list[MessageReworded] = []
        if (fields := self._opened(asked)) is None:
            # a contact that came later is somebody's again: the same event, read again, does not take it
            contacts = await store.delete_contact(tx, asked.subject_id, asked.sender_id, asked.requested_at)
        else:
            holders = await store.lock_contacts(tx, asked.subject_id, asked.sender_id)
            for sender_id in holders:
                right = _as_kept(fields, await attributes.kinds_of(tx, sender_id))
                await store.correct_contact(tx, sender_id, asked.subject_id, right, now)
            contacts = len(holders)
            reworded = await self._reworded(tx, asked, now)
        await outbox.append(tx, CAMPAIGN_REQUESTS, reworded)
        done = RectificationAcknowledged(
            rectification_id=asked.rectification_id,
            subject_id=asked.subject_id,
            service=SERVICE,
            rectified_at=now,
            rectified={"contacts": contacts, "messages": len(reworded)},
        )
        await outbox.append(tx, RECTIFICATION_ACKS, [done])

    def _opened(self, asked: RectificationRequested) -> Mapping[str, str | None] | None:
        if asked.fields is None:
            return None
        try:
            fields = _fields.decode(self._keys.unseal(asked.fields, f"rectification:{asked.rectification_id}"))
        except (Unreadable, msgspec.MsgspecError) as error:
            raise Poison("what is right cannot be read") from error
        return {name: right for name, right in fields.items() if name not in NUMBER_COLUMNS}  # no attributes here

    async def _reworded(
        self, tx: AsyncConnection, asked: RectificationRequested, now: datetime
    ) -> list[MessageReworded]:
        """Of each message that was asked for and is not known to have left: its text as it is now, and its region."""
        found, made = [], []
        for row in await store.asked_for(tx, asked.subject_id, asked.sender_id):
            said: Mapping[str, str] = _attributes.decode(row.attributes)
            wording = store.wording_of(row, row.variant)
            written = None
            if wording.missing(said) is None:
                tokens = Tokens(self._link_keys, row.campaign_id, asked.subject_id)
                written = wording.render(said, row.stop_code, tokens)
                if texts.refused(written, row.stop_code, row.stop_added) is None:
                    made.append(tokens)
                else:
                    written = None
            identity = message_of(row.campaign_id, row.starts_at, asked.subject_id)
            region = region_of(said, row.country, self._gate)
            found.append(
                MessageReworded(
                    message_id=identity,
                    campaign_id=row.campaign_id,
                    subject_id=asked.subject_id,
                    text=None if written is None else self._keys.seal(written, f"text:{identity}"),
                    reworded_at=now,
                    region=region or "",
                )
            )
        await links.keep(tx, made)
        return found


def _as_kept(fields: Mapping[str, str | None], kinds: Mapping[str, Kind]) -> dict[str, str | None]:
    """As a file's values are kept, by what a sender's attributes hold; what is none of its kind is what the person
    said."""
    right = {name: value and value.strip() for name, value in fields.items()}
    return {name: value and (kept(value, kinds.get(name, Kind.TEXT)) or value) for name, value in right.items()}
