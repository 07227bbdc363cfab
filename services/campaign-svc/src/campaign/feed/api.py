"""The event feed over HTTP: pages by cursor, with a long poll, and server-sent events.

A feed has no end: each answer has a cursor, from which the reader goes on. The first call begins the organisation's
feed; facts of before are not in it. A cursor is encrypted: its number would tell a token for some senders how many
events the others have. An event whose retention has ended is gone: a reader behind gets 410, and never goes on over a
gap unknowingly.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request

from campaign.feed import store
from campaign.feed.bodies import EventPage
from campaign.feed.event import Event, Type, shown
from campaign.feed.waiting import waiting_of
from campaign.senders.caller import of_caller
from common.keyring import Unreadable
from common.service import Resources
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit
from common.web.problems import Invalid, NotFound, PastItsTime, Reason, TooMany
from common.web.streaming import Streamed

router = APIRouter(prefix="/v1", tags=["events"])

LONGEST_WAIT_S = 30  # below the idle time of proxies
HEARTBEAT_S = 15.0
STREAM_S = 600.0  # a reader connects again, by a token that is still valid
LEAVE_LOOK_S = 1.0
EVENT_STREAM = "text/event-stream"
STREAM = {
    "schema": {"type": "string"},
    "example": "id: MTIz\nevent: webhook.test\n"
    'data: {"id":"evt-000000000000000000000000000000a1","type":"webhook.test","timestamp":"2026-03-02T14:05:00Z",'
    '"data":{"webhook_id":"whk-0000000000000000000000a1"}}\n\n',
}

Held = Annotated[Resources[Any], Depends(of_caller)]
Reader = Annotated[Caller, Depends(require("event:read"))]
Types = Annotated[list[Type] | None, Query(alias="type", description="Events of these types alone; repeat it.")]
OfSender = Annotated[Storable | None, Query(max_length=40, description="Events of this sender alone.")]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A reader's question."""

    held: Resources[Any]
    caller: Caller
    types: list[Type] | None
    sender_id: str | None
    limit: int

    async def after(self, place: int) -> tuple[list[Event], int]:
        """Return the next events behind a position, and the position from which to go on. Raises PastItsTime."""
        organisation = self.caller.organisation
        whole = self.sender_id is None and self.caller.for_every_sender
        async with self.held.database.begin() as tx:
            last = (await store.last_positions(tx, [organisation])).get(organisation, 0)
            # read after the position: an event up to it is of a sender that is known by now
            senders = await self.caller.covered(tx=tx) if self.sender_id is None else [self.sender_id]
            found = await store.events_after(
                tx, organisation, place, last, self.limit, types=self.types, senders=senders, whole=whole
            )
            feed = await store.feed_of(tx, organisation)  # read last: no event was pruned unseen
        if feed is None or not feed.first - 1 <= place <= feed.last:
            raise PastItsTime(
                "events behind this cursor are past their retention: read the present state of what you keep, and"
                " begin again without a cursor",
                reasons=[Reason("cursor", "past")],
            )
        return found, found[-1].position if len(found) == self.limit else last

    async def start(self, cursor: str | None) -> int:
        """Begin the feed, and return the position to read from: without a cursor, before the oldest event kept.

        Raises Invalid.
        """
        place = self._position(cursor) if cursor else None
        async with self.held.database.begin() as tx:
            await store.begin(tx, self.caller.organisation, datetime.now(UTC))
            feed = await store.feed_of(tx, self.caller.organisation)
        assert feed is not None
        return feed.first - 1 if place is None else place

    def cursor(self, place: int) -> str:
        """Return the cursor behind a position, another one each time."""
        return self.held.field_keys.seal(str(place), f"cursor:{self.caller.organisation}")

    def _position(self, cursor: str) -> int:
        try:
            return int(self.held.field_keys.unseal(cursor, f"cursor:{self.caller.organisation}"))
        except Unreadable:
            raise Invalid(
                "`cursor` is not the `next` of this feed: take the last one, or begin without a cursor",
                reasons=[Reason("cursor", "not_valid")],
            ) from None

    async def wait(self, place: int, within_s: float) -> None:
        database = self.held.database
        await waiting_of(database).beyond(database, self.caller.organisation, place, within_s)


@router.get("/events", operation_id="events.list", responses=refuses(NotFound, PastItsTime, TooMany))
async def list_events(
    held: Held,
    caller: Reader,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
    types: Types = None,
    sender_id: OfSender = None,
    wait_s: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="How long to wait for an event.")] = 0,
) -> EventPage:
    """Read the events of your organisation, oldest first, from a cursor on.

    The first call begins the feed. Each answer has `next`, also an empty one. A cursor whose events are past their
    retention is answered 410. An event may come twice, with the same id; events about the same person, campaign or
    import come in their order. A token for some senders gets the events of these senders alone, and
    `webhook.disabled` of each webhook about no other senders.
    """
    if sender_id is not None:
        await caller.may_use(sender_id)
    reading = _Reading(held, caller, types, sender_id, limit)
    place = await reading.start(cursor)
    found, place = await reading.after(place)
    if not found and wait_s:
        deadline = asyncio.get_running_loop().time() + wait_s
        with waiting_of(held.database).place(caller.organisation) as free:
            if not free:
                raise _too_many()
            while not found and (left := deadline - asyncio.get_running_loop().time()) > 0:
                await reading.wait(place, left)
                found, place = await reading.after(place)
    items = [msgspec.to_builtins(shown(event, held.edge_ids)) for event in found]
    return EventPage.model_validate({"items": items, "next": reading.cursor(place)})


@router.get(
    "/events/stream",
    operation_id="events.stream",
    response_class=Streamed,
    responses={200: {"content": {EVENT_STREAM: STREAM}}, **refuses(NotFound, PastItsTime)},
)
async def stream_events(
    request: Request,
    held: Held,
    caller: Reader,
    types: Types = None,
    sender_id: OfSender = None,
    after: Annotated[
        str | None, Query(max_length=1000, description="`next` of a page, or `id` of an event.", examples=["MTIz"])
    ] = None,
    lasts_s: Annotated[
        float, Query(ge=0, le=STREAM_S, description="When the stream ends, after what is there.")
    ] = STREAM_S,
    last_event_id: Annotated[str | None, Header(max_length=1000, description="Goes before `after`.")] = None,
) -> Streamed:
    """Read the events of your organisation as server-sent events: `id` is the cursor behind the event.

    The stream ends after ten minutes at most; connect again with `Last-Event-ID`, as browsers do.
    """
    if sender_id is not None:
        await caller.may_use(sender_id)
    reading = _Reading(held, caller, types, sender_id, LIMIT)
    place = await reading.start(last_event_id or after)
    found, place = await reading.after(place)  # a refusal is an answer, not the end of a stream
    return Streamed(
        _stream(request, reading, found, place, lasts_s),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    request: Request, reading: _Reading, found: list[Event], place: int, lasts_s: float
) -> AsyncIterator[bytes]:
    """Yield events as they come, and comments between, until the server leaves or the stream has lasted."""
    clock = asyncio.get_running_loop().time
    ends, silent_until = clock() + lasts_s, clock() + HEARTBEAT_S
    yield b"retry: 1000\n\n"
    with waiting_of(reading.held.database).place(reading.caller.organisation) as free:
        while free:
            for event in found:
                yield _written(event, reading)
            if clock() >= ends or getattr(request.app.state, "leaving", False):
                return
            if found or clock() >= silent_until:
                yield f"id: {reading.cursor(place)}\n: go on\n\n".encode()
                silent_until = clock() + HEARTBEAT_S
            if not found:
                await reading.wait(place, LEAVE_LOOK_S)
            found, place = await reading.after(place)


def _written(event: Event, reading: _Reading) -> bytes:
    said = msgspec.json.encode(shown(event, reading.held.edge_ids))
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (reading.cursor(event.position).encode(), event.type.encode(), said)


def _too_many() -> TooMany:
    return TooMany(
        "too many readers of your organisation wait for events: read without `wait_s`, or wait with fewer readers",
        reasons=[Reason("wait_s", "too_many_readers")],
        headers={"Retry-After": "1"},
    )
