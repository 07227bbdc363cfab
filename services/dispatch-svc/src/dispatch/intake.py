"""Requests from Kafka: decided as they arrive, in the transaction that steps the offset, then handed off."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.consumer import After, Hold, Poison, Received, Subscription
from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_REQUESTS
from common.contracts.campaign import MessageRequested, MessageReworded
from common.kafka import partition_of
from dispatch import store
from dispatch.clearance import Candidate, Clearance, requested
from dispatch.gate import is_fresh
from dispatch.handoff import Handoff


class Intake:
    """Both lanes: campaigns', and codes' (transactional and service messages), which never wait behind one."""

    def __init__(self, clearance: Clearance, handoff: Handoff, *, batch: int, partitions: int) -> None:
        self._partitions = partitions
        self._clearance = clearance
        self._handoff = handoff
        self._batch = batch

    def campaigns(self) -> Subscription:
        return Subscription(
            "dispatch.campaign-requests",
            CAMPAIGN_REQUESTS,
            self.take_marketing,
            # all that is read at once is in hand soon after: what waits for its turn beyond its permit is decided
            # again, message by message where a submit has one
            max_records=min(self._batch, self._handoff.ahead // 2),
            on_assigned=self._handoff.traffic.holds,
            may_read=lambda: not self._handoff.is_behind,
        )

    def codes(self) -> Subscription:
        return Subscription(
            "dispatch.requests",
            DISPATCH_REQUESTS,
            self.take,
            max_records=self._batch,
            on_assigned=self._handoff.traffic.holds,
        )

    async def take_marketing(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """While the watermark is stale, all gateways are out of reach, or more is in hand than leaves soon, nothing is
        taken at all: it waits in Kafka, and no verdict is written."""
        if self._handoff.is_behind:
            raise Hold
        as_of = await store.watermark(tx, batch[0].partition)
        if not is_fresh(as_of, datetime.now(UTC), self._clearance.limits) or self._handoff.traffic.resting:
            raise Hold
        return await self._decide(tx, batch)

    async def take(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        return await self._decide(tx, batch)

    async def _decide(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        partition = batch[0].partition
        candidates: dict[UUID, Candidate] = {}
        reworded: dict[UUID, MessageReworded] = {}
        for event in (received.event for received in batch):
            if not isinstance(event, MessageRequested):
                assert isinstance(event, MessageReworded)
                self._reword(event, partition, candidates, reworded)
                continue
            if event.category == "service" and event.campaign_id is not None:
                raise Poison("a campaign cannot send in the service category")
            if partition_of(event.subject_id, self._partitions) != partition:
                raise Poison("in another partition than its subject's: its lock and its watermark are not the same")
            try:
                candidate = requested(event, partition)
            except ValueError as error:
                raise Poison("the message id is not a UUID") from error
            candidates[candidate.message_id] = candidate
        if reworded:
            await store.lock_partition(tx, partition)
            if not await store.reword(tx, reworded):
                raise Hold  # one is being handed off: it has left, or it will wait again and be found then
        decisions = await self._clearance.decide(tx, partition, list(candidates.values()))
        new = await store.insert_messages(tx, [d.row for d in decisions])
        decisions = [d for d in decisions if d.candidate.message_id in new]
        await store.append_changes(tx, [store.inserted(d.row) for d in decisions if d.permit is None])
        permits = [d.permit for d in decisions if d.permit]
        if not permits:
            return None

        async def hand_off() -> None:
            await self._handoff.send(permits)

        return hand_off

    def _reword(
        self,
        event: MessageReworded,
        partition: int,
        candidates: dict[UUID, Candidate],
        reworded: dict[UUID, MessageReworded],
    ) -> None:
        """What was requested in this batch is decided as it is to be said; what was before is looked up."""
        if partition_of(event.subject_id, self._partitions) != partition:
            raise Poison("in another partition than its subject's: its lock and its watermark are not the same")
        try:
            identity = UUID(event.message_id)
        except ValueError as error:
            raise Poison("the message id is not a UUID") from error
        reworded[identity] = event
        candidate = candidates.get(identity)
        if candidate is not None and candidate.subject_id == event.subject_id:
            candidates[identity] = msgspec.structs.replace(candidate, text=event.text or "")
