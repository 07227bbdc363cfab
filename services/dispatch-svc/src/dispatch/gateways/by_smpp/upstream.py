"""MOs and DLRs of an SMSC, published on the operator's topics, which inbound-svc reads.

A deliver_sm is acknowledged once Kafka has its event on all in-sync replicas; else the SMSC is told to deliver again
(ESME_RX_T_APPN). An SMSC names no MO, so the names are ours, and a delivery that comes again because its
acknowledgement may be lost gets the name of the first: inbound-svc then journals one MO. Only in that case: a person
who writes STOP twice is heard twice. A restart forgets the names, so an MO may be journalled twice, and is never lost.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import smpp34

from common.contracts import Event, Topic, operator_topics
from common.db.timer import uptime_s
from common.telemetry import counter
from dispatch.gateways.by_kafka.publisher import NotPublished, Published
from dispatch.gateways.by_smpp import deliveries, pdu
from dispatch.gateways.by_smpp.session import Session

log = logging.getLogger(__name__)

DELIVERED = counter(
    "sms_dispatch_smpp_deliveries_total",
    "Deliveries of an SMSC: kept; refused, so that they come again; unreadable, refused too; or a DLR for no message.",
    ["gateway", "result"],
)

AT_ONCE = 200  # events of one write to the log
WAITING = 1000  # deliveries; more are refused at once
PUBLISH_S = 5.0  # an SMSC waits 10 s or longer
REPEATS_WITHIN_S = 300.0  # of an acknowledgement that the SMSC may not have read
REFUSED_REPEATS_WITHIN_S = 3600.0
NAMES = 20_000
PARTS = 50_000


class Log(Protocol):
    """The log that events are published to: `Publisher`."""

    async def ready(self, topic: Topic, *, until: float) -> None: ...

    async def publish(
        self, topic: Topic, events: Sequence[Event], *, until: float, begin_by: float
    ) -> list[Published]: ...

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Name:
    """The name of an MO whose delivery may come again, until `forget_at`."""

    digest: bytes
    name: str
    forget_at: float = float("inf")


@dataclass(slots=True)
class _Delivery:
    session: Session
    request: pdu.Pdu
    topic: Topic
    event: Event
    name: _Name | None


class Upstream:
    """The deliveries of one account, over all its sessions."""

    def __init__(self, gateway: str, account: str, log: Log) -> None:
        self._gateway = gateway
        self._messages, self._receipts = operator_topics(account)
        self._log = log
        self._queue: asyncio.Queue[_Delivery] = asyncio.Queue(WAITING)
        self._publishing: asyncio.Task[None] | None = None
        self._names: OrderedDict[bytes, _Name] = OrderedDict()
        self._parts: OrderedDict[str, str | None] = OrderedDict()
        self._closing = False
        for result in ("kept", "refused", "unreadable", "no message"):
            DELIVERED.labels(gateway, result)

    def deliver(self, session: Session, request: pdu.Pdu) -> None:
        """Take a deliver_sm, and answer once its event is safe."""
        try:
            delivered = pdu.delivery(request)
            event, name = self._event(delivered)
        except ValueError as error:  # the texts of these errors are of the format, never of the message
            log.error("a delivery cannot be read", extra={"gateway": self._gateway, "why": type(error).__name__})
            self._answer(session, request, "unreadable")
            return
        if event is None:
            self._answer(session, request, "no message")
            return
        topic = self._messages if name is not None else self._receipts
        if self._closing or self._queue.full():
            self._refuse(_Delivery(session, request, topic, event, name))
            return
        self._queue.put_nowait(_Delivery(session, request, topic, event, name))
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish())

    def proven(self, name: object) -> None:
        """Forget the name of an MO: the SMSC has read the acknowledgement, and delivers the MO no more."""
        if isinstance(name, _Name) and self._names.get(name.digest) is name:
            del self._names[name.digest]

    def submitted(self, reference: str, ids: list[str | None]) -> None:
        """Note the SMSC's ids of a text's parts, all but the last: their DLRs name a part, and not our message."""
        for each in ids:
            if each is not None:
                self._parts[each] = reference
        while len(self._parts) > PARTS:
            self._parts.popitem(last=False)

    async def close(self) -> None:
        """Publish what waits, and refuse the rest."""
        self._closing = True
        if self._publishing is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_S + 1):
                    await self._queue.join()
            self._publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._publishing

    async def end(self) -> None:
        await self._log.close()

    def _event(self, delivered: smpp34.DeliverSm) -> tuple[Event | None, _Name | None]:
        """Return the event, with the name of an MO. None: a DLR that has nothing to say."""
        if not deliveries.is_receipt(delivered):
            name = self._named(deliveries.digest(delivered))
            return deliveries.message_event(delivered, name.name), name
        receipt = deliveries.receipt_of(delivered)
        if receipt is None:
            return None, None
        reference = self._parts.get(receipt.message_id)
        if reference is not None and receipt.state not in ("failed", "expired"):
            return None, None  # a text has arrived once its last part has
        return deliveries.receipt_event(receipt, reference), None

    def _named(self, digest: bytes) -> _Name:
        now = time.monotonic()
        found = self._names.pop(digest, None)
        if found is None or found.forget_at < now:
            found = _Name(digest, f"mo-{uuid4().hex}")
        self._names[digest] = found
        while len(self._names) > NAMES:
            self._names.popitem(last=False)
        return found

    async def _publish(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < AT_ONCE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            topics = {delivery.topic.name: delivery.topic for delivery in batch}
            try:
                await asyncio.gather(
                    *(self._published(topic, [d for d in batch if d.topic is topic]) for topic in topics.values())
                )
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _published(self, topic: Topic, batch: list[_Delivery]) -> None:
        kept: list[bool]
        loop, uptime = asyncio.get_running_loop().time(), uptime_s()
        try:
            await self._log.ready(topic, until=loop + PUBLISH_S)
            events = [delivery.event for delivery in batch]
            said = await self._log.publish(topic, events, until=loop + PUBLISH_S, begin_by=uptime + PUBLISH_S)
            kept = [each == "logged" for each in said]
        except Exception as error:  # the SMSC must deliver again, whatever went wrong
            why = error.why if isinstance(error, NotPublished) else type(error).__name__
            log.warning("deliveries could not be published", extra={"topic": topic.name, "why": why})
            kept = [False] * len(batch)
        for delivery, safe in zip(batch, kept, strict=True):
            if safe:
                if delivery.name is not None:
                    delivery.name.forget_at = time.monotonic() + REPEATS_WITHIN_S
                self._answer(delivery.session, delivery.request, "kept", delivery.name)
            else:
                self._refuse(delivery)

    def _refuse(self, delivery: _Delivery) -> None:
        if delivery.name is not None:
            delivery.name.forget_at = time.monotonic() + REFUSED_REPEATS_WITHIN_S
        self._answer(delivery.session, delivery.request, "refused")

    def _answer(self, session: Session, request: pdu.Pdu, result: str, name: _Name | None = None) -> None:
        DELIVERED.labels(self._gateway, result).inc()
        status = pdu.OK if result in ("kept", "no message") else pdu.TEMPORARY_ERROR
        session.respond(request, status, name)
