"""Operators reached by Kafka: each message is one event on `operator.<name>.submits.v1`.

The message is accepted once the log has the event. DLRs return through inbound-svc, with our reference.

    no such topic, no right to write              Misconfigured: not begun
    no broker                                     Unreachable: not begun
    not written before the permit lapsed          Late: nor will be
    not acknowledged in time, or with an error    Unanswered: the log may have the event, but never gets it later
"""

import asyncio
from collections.abc import Mapping, Sequence

from common.contracts import operator_submits
from common.contracts.operator import MessageSubmitted
from common.settings import ServiceSettings
from dispatch.gateways.by_kafka.publisher import NotPublished, Published, Publisher
from dispatch.gateways.gateway import (
    Capabilities,
    Late,
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

AT_ONCE = 500  # messages of one submit
_MEANING: Mapping[Published, Result | SendError] = {
    "logged": Result("accepted", None, None),
    "not begun": Late("the log could not be written to while the permit lasted"),
    "unknown": Unanswered("no acknowledgement"),
}


class KafkaGateway:
    """A gateway over Kafka. `account` is the operator's name."""

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
        events = [
            MessageSubmitted(
                reference=m.reference,
                recipient=m.to,
                sender=m.sender,
                short_code=m.short_code,
                category=m.category,
                text=m.text,
                deliver_by=m.deliver_by,
            )
            for m in messages
        ]
        begin_by = min(m.begin_by for m in messages)
        said = await self._publisher.publish(self._topic, events, until=until, begin_by=begin_by)
        return [_MEANING[each] for each in said]

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        return None

    async def close(self) -> None:
        await self._publisher.close()
