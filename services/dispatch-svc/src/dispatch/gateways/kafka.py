"""Operators that integrate by Kafka: each message is one event on `operator.<name>.submits.v1`, accepted once the log
has it (`common.contracts.operator.MessageSubmitted`). Their receipts come back by inbound-svc, on
`operator.<name>.receipts.v1`, with our reference.

    no broker, no such topic, no right to write   Unreachable, Misconfigured: nothing was begun
    not acknowledged in time, or with an error    Unanswered: it may be in the log, or get there yet
"""

import asyncio
from collections.abc import Mapping, Sequence

from common.contracts import operator_submits
from common.contracts.operator import MessageSubmitted
from common.kafka import NotPublished, Publisher
from common.settings import ServiceSettings
from dispatch.gateways.gateway import (
    Capabilities,
    Misconfigured,
    Result,
    SendError,
    Submit,
    Unanswered,
    Unreachable,
)

NEEDS: Sequence[str] = ()
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(echoes_reference=True)

AT_ONCE = 500  # messages of one submit, each an event of its own


class KafkaGateway:
    """`account` is the operator's name, as in the topic."""

    def __init__(
        self,
        name: str,
        account: str,
        settings: ServiceSettings,
        *,
        timeout_s: float,
        batch: int | None = None,
        capabilities: Capabilities = capabilities,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.batch = min(batch or AT_ONCE, AT_ONCE)
        self._topic = operator_submits(account)
        self._publisher = Publisher(settings, "dispatch")
        self.timeout_s = timeout_s

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        until = asyncio.get_running_loop().time() + self.timeout_s
        try:
            await self._publisher.ready(self._topic, until=until)
        except NotPublished as error:
            raise (Misconfigured(error.why) if error.ours else Unreachable(error.why)) from None
        return await asyncio.gather(*(self._one(message, until) for message in messages))

    async def _one(self, m: Submit, until: float) -> Result | SendError:
        event = MessageSubmitted(
            reference=m.reference,
            recipient=m.to,
            sender=m.sender,
            short_code=m.short_code,
            category=m.category,
            text=m.text,
        )
        try:
            await self._publisher.publish(self._topic, event, until=until)
        except Exception as error:
            return Unanswered(type(error).__name__)
        return Result("accepted", None, None)

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        return None

    async def close(self) -> None:
        await self._publisher.close()
