"""What a service says once it has erased somebody."""

from collections.abc import Awaitable, Callable

from common.contracts import Event
from common.contracts.rights import ErasureAcknowledged
from tests.support.eventually import eventually


def acknowledgements(events: list[Event]) -> list[ErasureAcknowledged]:
    return [event for event in events if isinstance(event, ErasureAcknowledged)]


async def acknowledged(read: Callable[[], Awaitable[list[Event]]], erasure_id: str) -> ErasureAcknowledged:
    """The first acknowledgement of this erasure, once it is there. `read`: as `tests.support.reading` gives it."""

    async def look() -> ErasureAcknowledged | None:
        return next((ack for ack in acknowledgements(await read()) if ack.erasure_id == erasure_id), None)

    found = await eventually(look)
    assert found is not None
    return found
