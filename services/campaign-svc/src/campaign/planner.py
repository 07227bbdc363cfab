"""Starts campaigns when they are due, and asks for their recipients, a chunk at a time.

Starting: one transaction freezes the audience and tells the gate the campaign is running. Expanding: one transaction
takes the next recipients after the cursor, appends a request for each, and moves the cursor; a crash repeats nothing,
and several planners share the work by row locks. Expansion keeps the outbox short, so that a pause or a cancellation
never waits behind a million requests.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import control, links, pre_flight, segments, store
from campaign import text as texts
from campaign.lifecycle import Action, ends_by, message_of
from campaign.links import Tokens
from campaign.segment import Condition
from campaign.store import Sender
from campaign.wording import Wording
from common import outbox
from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.campaign import MessageRequested
from common.database import Database
from common.keyring import FieldKeys, LinkKeys
from common.law import Policy, region_of
from common.service import Worker
from common.telemetry import counter
from common.timer import Timer

log = logging.getLogger(__name__)

STARTED = counter("sms_campaign_starts_total", "Campaigns started.")
REQUESTED = counter("sms_campaign_requests_total", "Recipients asked for, or denied before that.", ["result"])

LOOK_EVERY_S = 1.0
EXPAND_EVERY_S = 0.25
POSTCODE = "postcode"  # an attribute of the contact, read as one of the sender's own country

_attributes = msgspec.json.Decoder(dict[str, str])


class Planner:
    def __init__(
        self,
        database: Database,
        field_keys: FieldKeys,
        link_keys: LinkKeys,
        policy: Policy,
        *,
        chunk: int,
        backlog: int,
    ) -> None:
        self._database = database
        self._field_keys = field_keys
        self._link_keys = link_keys
        self._policy = policy
        self._chunk = chunk
        self._backlog = backlog

    def workers(self) -> list[Worker]:
        timers = (
            Timer("start campaigns", self.start_due, LOOK_EVERY_S, self._database, store.DUE),
            Timer("expand campaigns", self.expand, EXPAND_EVERY_S, self._database, outbox.RELAYED),
        )
        return [Worker(timer.name, timer.run) for timer in timers]

    async def start_due(self) -> bool:
        """One due campaign. Was there one?"""
        now = datetime.now(UTC)
        async with self._database.begin() as tx:
            await store.finish_done(tx, now)
            row = await store.lock_due(tx, now)
            if row is None:
                return False
            selected = await segments.of_campaign(tx, row, now, self._policy)
            if (why := await self._against(tx, row, selected)) is not None:
                await store.take_off_schedule(tx, row.campaign_id, why)
                await control.take(tx, row, Action.EDIT, now)
                log.warning("campaign is a draft again", extra={"campaign_id": row.campaign_id, "reason": why})
                return True
            await store.alone_with_audiences(tx, row.sender_id)
            wording = store.wording_of(row)
            await links.put_targets(tx, row.campaign_id, wording.targets)
            audience = await store.freeze_audience(tx, row, selected, wording.required, now)
            await control.take(tx, row, Action.START, now)
        STARTED.inc()
        log.info("campaign started", extra={"campaign_id": row.campaign_id, "audience": audience})
        return True

    async def _against(self, tx: AsyncConnection, row: Row[Any], selected: Condition) -> str | None:
        """Why a campaign that is due does not start."""
        if not await pre_flight.still_agreed(tx, row):
            return "not_what_was_approved"
        if segments.is_segment(row) and not await segments.selects_somebody(tx, row.sender_id, selected):
            return "nobody_selected"
        return None

    async def expand(self) -> bool:
        """One chunk of one running campaign. Is there more to do at once?"""
        now = datetime.now(UTC)
        async with self._database.begin() as tx:
            if await outbox.backlog(tx) > self._backlog:
                return False  # woken when the relay has published
            row = await store.lock_expanding(tx)
            if row is None:
                return False
            sender = await store.find_sender(tx, row.sender_id)
            assert sender is not None, "a campaign is written for a known sender, and senders are never removed"
            await store.reading_contacts(tx)
            recipients = await store.next_recipients(tx, row, self._chunk)
            wording = store.wording_of(row)
            requests: list[MessageRequested] = []
            denied: dict[str, str] = {}
            made: list[Tokens] = []
            for each in recipients:
                tokens = Tokens(self._link_keys, row.campaign_id, each.subject_id)
                asked = self._request(row, wording, sender, each, tokens, now)
                if isinstance(asked, MessageRequested):
                    requests.append(asked)
                    made.append(tokens)
                else:
                    denied[each.subject_id] = asked
            await links.keep(tx, made)
            await outbox.append(tx, CAMPAIGN_REQUESTS, requests)
            await store.deny(tx, row.campaign_id, denied)
            done = len(recipients) < self._chunk
            cursor = recipients[-1].subject_id if recipients else row.cursor
            await store.move_cursor(tx, row.campaign_id, cursor, expanded=done, now=now)
            if done:
                await store.finish_done(tx, now, [row.campaign_id])
        REQUESTED.labels("requested").inc(len(requests))
        REQUESTED.labels("denied").inc(len(denied))
        return True

    def _request(
        self, row: Row[Any], wording: Wording, sender: Sender, recipient: Row[Any], tokens: Tokens, now: datetime
    ) -> MessageRequested | str:
        """The request for one recipient, or why there is none: its contact is gone, or has changed since the freeze."""
        if recipient.number is None:
            return "contact_gone"
        attributes: Mapping[str, str] = _attributes.decode(recipient.attributes)
        if (missing := wording.missing(attributes)) is not None:
            return f"missing:{missing}"
        if wording.targets and sender.link_host is None:
            return "link_host_missing"
        written = wording.render(attributes, sender.stop_code, tokens)
        if (problem := texts.refused(written, sender.stop_code)) is not None:
            return problem.value
        identity = message_of(row.campaign_id, row.starts_at, recipient.subject_id)
        return MessageRequested(
            message_id=identity,
            campaign_id=row.campaign_id,
            sender_id=row.sender_id,
            purpose=row.purpose,
            category="marketing",
            subject_id=recipient.subject_id,
            number=recipient.number,
            text=self._field_keys.seal(written, f"text:{identity}"),
            requested_at=now,
            send_before=ends_by(row.starts_at, row.send_before),
            region=region_of(attributes[POSTCODE], sender.country, self._policy) if POSTCODE in attributes else None,
        )
