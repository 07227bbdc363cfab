"""MOs and DLRs of an SMSC, published on the operator's topics, which inbound-svc reads.

A deliver_sm is acknowledged once Kafka has its event on all in-sync replicas; else the SMSC is told to deliver again
(ESME_RX_T_APPN). An SMSC names no MO, so the names are ours: see `names`.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import smpp34

from common.contracts import Event, Topic, operator_topics
from common.db.timer import uptime_s
from common.telemetry import counter
from dispatch.gateways.by_kafka.publisher import NotPublished, Published
from dispatch.gateways.by_smpp import deliveries, pdu
from dispatch.gateways.by_smpp.names import Name, Names, Said
from dispatch.gateways.by_smpp.session import Session

log = logging.getLogger(__name__)

DELIVERED = counter(
    "sms_dispatch_smpp_deliveries_total",
    "Deliveries of an SMSC: kept; refused, so that they come again; unreadable, refused too; or a DLR for no message.",
    ["gateway", "result"],
)

AT_ONCE = 200  # events of one write to the log
UNNAMED = "mo"  # only to see that an MO can be read
WAITING = 1000  # deliveries; more are refused at once
PUBLISH_S = 5.0  # an SMSC waits 10 s or longer
PARTS = 50_000


class Log(Protocol):
    """The log that events are published to: `Publisher`."""

    async def ready(self, topic: Topic, *, until: float) -> None: ...

    async def publish(
        self, topic: Topic, events: Sequence[Event], *, until: float, begin_by: float
    ) -> list[Published]: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Delivery:
    """A deliver_sm for a topic: the event of a DLR, or an MO, which has no event before its name."""

    session: Session
    request: pdu.Pdu
    topic: Topic
    event: Event | None
    mo: smpp34.DeliverSm | None
    name: Name | None = None


class Upstream:
    """The deliveries of one account, over all its sessions."""

    def __init__(self, gateway: str, account: str, log: Log, names: Names) -> None:
        self._gateway = gateway
        self._names = names
        self._messages, self._receipts = operator_topics(account)
        self._log = log
        self._queue: asyncio.Queue[_Delivery] = asyncio.Queue(WAITING)
        self._publishing: asyncio.Task[None] | None = None
        self._parts: OrderedDict[str, str | None] = OrderedDict()
        self._closing = False
        for result in ("kept", "refused", "unreadable", "no message"):
            DELIVERED.labels(gateway, result)

    def deliver(self, session: Session, request: pdu.Pdu) -> None:
        """Take a deliver_sm, and answer once its event is safe."""
        try:
            delivered = pdu.delivery(request)
            is_receipt = deliveries.is_receipt(delivered)
            event = self._receipt(delivered) if is_receipt else deliveries.message_event(delivered, UNNAMED)
        except ValueError as error:  # the texts of these errors are of the format, never of the message
            log.error("a delivery cannot be read", extra={"gateway": self._gateway, "why": type(error).__name__})
            self._answer(session, request, "unreadable")
            return
        if event is None:
            self._answer(session, request, "no message")
            return
        if self._closing or self._queue.full():
            self._answer(session, request, "refused")
            return
        if is_receipt:
            self._queue.put_nowait(_Delivery(session, request, self._receipts, event, None))
        else:
            self._queue.put_nowait(_Delivery(session, request, self._messages, None, delivered))
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish())

    def proven(self, name: object) -> None:
        """Forget the name of an MO: the SMSC has read the acknowledgement, and delivers the MO no more."""
        if isinstance(name, Name):
            self._names.proven(name)

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
        await self._names.close()
        await self._log.close()

    def _receipt(self, delivered: smpp34.DeliverSm) -> Event | None:
        """Return the event of a DLR, None of one that has nothing to say."""
        receipt = deliveries.receipt_of(delivered)
        if receipt is None:
            return None
        reference = self._parts.get(receipt.message_id)
        if reference is not None and receipt.state not in ("failed", "expired"):
            return None  # a text has arrived once its last part has
        return deliveries.receipt_event(receipt, reference)

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
        events = await self._events(batch)
        loop, uptime = asyncio.get_running_loop().time(), uptime_s()
        try:
            await self._log.ready(topic, until=loop + PUBLISH_S)
            said = await self._log.publish(topic, events, until=loop + PUBLISH_S, begin_by=uptime + PUBLISH_S)
            kept = [each == "logged" for each in said]
        except Exception as error:  # the SMSC must deliver again, whatever went wrong
            why = error.why if isinstance(error, NotPublished) else type(error).__name__
            log.warning("deliveries could not be published", extra={"topic": topic.name, "why": why})
            kept = [False] * len(batch)
        refused = [each.name for each, safe in zip(batch, kept, strict=True) if not safe and each.name is not None]
        await self._names.refused(refused)
        for delivery, safe in zip(batch, kept, strict=True):
            if safe:
                self._answer(delivery.session, delivery.request, "kept", delivery.name)
            else:
                self._answer(delivery.session, delivery.request, "refused")

    async def _events(self, batch: Sequence[_Delivery]) -> list[Event]:
        """Return the events of a batch, once each MO has its name."""
        mos = [(each, each.mo) for each in batch if each.mo is not None]
        found = await self._names.of([Said(deliveries.digest(mo).hex(), each.session) for each, mo in mos])
        for (delivery, mo), named in zip(mos, found, strict=True):
            delivery.name = named.name
            delivery.event = deliveries.message_event(mo, named.message_id, named.repeats)
        return [each.event for each in batch if each.event is not None]

    def _answer(self, session: Session, request: pdu.Pdu, result: str, name: Name | None = None) -> None:
        DELIVERED.labels(self._gateway, result).inc()
        status = pdu.OK if result in ("kept", "no message") else pdu.TEMPORARY_ERROR
        if name is not None:
            self._names.acknowledged(name, session)
        session.respond(request, status, name)
