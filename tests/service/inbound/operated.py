"""inbound-svc with one operator who integrates by Kafka."""

from typing import Any

from common.contracts import INBOUND_MESSAGES, Topic, operator_topics
from common.contracts.inbound import MessageReceived
from common.contracts.operator import MessageDelivered
from inbound.service import Settings
from tests.service.inbound.published import published
from tests.support.builders import now, number
from tests.support.eventually import eventually
from tests.support.running import Surroundings

MESSAGES, RECEIPTS = operator_topics("orange")


def mo(text: str = "STOP", name: str = "or-1", **changes: Any) -> MessageDelivered:
    fields: dict[str, Any] = {"message_id": name, "sender": number(1), "recipient": "36111", "text": text}
    return MessageDelivered(**(fields | {"sent_at": now()} | changes))


class Operated:
    """inbound-svc running, told of one operator."""

    def __init__(self, settings: Settings, surroundings: Surroundings) -> None:
        self.settings = settings
        self.surroundings = surroundings

    async def messages(self, count: int) -> list[MessageReceived]:
        async def look() -> list[MessageReceived]:
            records = await published(self.settings, INBOUND_MESSAGES)
            found = [record.event for record in records if isinstance(record.event, MessageReceived)]
            assert len(found) >= count
            return found

        return await eventually(look)

    async def stepped(self, topic: Topic, records: int) -> None:
        """Until all of a topic's records are behind us."""

        async def look() -> bool:
            async with self.surroundings.sql("inbound") as sql:
                done = await sql.fetchval("SELECT sum(next_offset) FROM consumer_offset WHERE topic = $1", topic.name)
            return bool(done == records)

        await eventually(look)

    async def rows(self, query: str) -> list[Any]:
        async with self.surroundings.sql("inbound") as sql:
            return list(await sql.fetch(query))
