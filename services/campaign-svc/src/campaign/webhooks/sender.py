"""Send deliveries: spread a feed's events over its webhooks, claim due deliveries, post, store the ends.

Any number of processes may send. A claim is a lease: `due_at` lies ahead while an attempt is under way, and after a
crash the delivery is tried again, under the same id [after-claim, after-post, after-settle: points at which
`tests/service/campaign/test_webhook_kills.py` kills the process]. A destination has at most AT_ONCE deliveries under
way in a process, and one while it is down: a slow or dead destination delays its own webhook alone.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple

import aiohttp
import msgspec

from campaign.feed import event as events
from campaign.feed import store as feed
from campaign.feed.event import Event, Told, Type
from campaign.webhooks import rules, signing, store
from campaign.webhooks.destinations import Forbidden, PublicResolver, refusal
from campaign.webhooks.rules import Attempt
from campaign.webhooks.signing import Secret
from campaign.webhooks.store import Claimed, Settled, Webhook
from common.db.database import Database, once_committed
from common.db.timer import Timer, Worker
from common.keyring import FieldKeys
from common.telemetry import counter, histogram
from common.web.edge_id import EdgeIds

log = logging.getLogger(__name__)

AT_ONCE = 16  # deliveries of a webhook under way in a process
TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
LEASE = timedelta(seconds=45)  # above the timeout, and the time to store the end
EVERY_S = 0.5
IDLE_S = 2.0
TURN_S = 0.02  # between two turns: deliveries that end together are stored together
DRAIN_S = 8.0  # below PLACET_DRAIN_S
ANSWER_BYTES = 16 * 1024  # read, so that the connection can serve again
IDLE_S = 20.0
AGENT = "Placet-Webhooks/1"

DELIVERIES = counter(
    "sms_campaign_webhook_attempts_total", "Attempts at deliveries of webhooks, by outcome.", ["outcome"]
)
TAKEN = histogram(
    "sms_campaign_webhook_seconds",
    "Time from an event's storage to its delivery at the first attempt.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
DISABLED = counter("sms_campaign_webhooks_disabled_total", "Webhooks disabled because of their answers.", ["reason"])
LOST = counter(
    "sms_campaign_webhook_events_lost_total",
    "Events that were past their retention before their webhook was due to get them.",
)


class Ended(NamedTuple):
    """A delivery whose attempt has ended."""

    delivery: Claimed
    attempt: Attempt


class Sender:
    """The sender of a process."""

    def __init__(self, database: Database, field_keys: FieldKeys, edge_ids: EdgeIds, *, private: bool) -> None:
        """`private`: destinations may be private addresses, without TLS."""
        self._database = database
        self._field_keys = field_keys
        self._edge_ids = edge_ids
        self._private = private
        self._session: aiohttp.ClientSession | None = None
        self._under_way: dict[asyncio.Task[None], Claimed] = {}
        self._of_webhook: Counter[str] = Counter()
        self._ended: list[Ended] = []
        self._woken = asyncio.Event()
        self._secrets: dict[str, tuple[str, list[Secret]]] = {}  # by webhook: as stored, opened

    def worker(self) -> Worker:
        return Worker("webhooks", self.run)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`; then let deliveries under way end, and give the others back."""
        timer = Timer(
            "webhooks", self.turn, EVERY_S, self._database, feed.STORED, lambda _: self._woken.set(), idle_s=IDLE_S
        )
        try:
            await timer.run(stop)
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=DRAIN_S)
            await self._settle()
            await self._give_back()
        finally:
            await self.close()

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def turn(self) -> bool:
        """Store what has ended, spread new events, and begin due deliveries; return whether to turn again at once."""
        self._woken.clear()
        await self._settle()
        more = await self._spread()
        begun = await self._begin()
        if not (more or begun or self._under_way or self._ended):
            return False
        if not (more or begun or self._ended):
            woken = asyncio.create_task(self._woken.wait())
            waits: list[asyncio.Task[None] | asyncio.Task[Literal[True]]] = [*self._under_way, woken]
            await asyncio.wait(waits, timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
        await asyncio.sleep(TURN_S)
        return True

    async def ended(self) -> None:
        """Wait until no delivery is under way, and store the ends."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._settle()

    async def _spread(self) -> bool:
        async with self._database.begin() as tx:
            spread = await store.spread(tx, datetime.now(UTC))
        for each in spread:
            if each.lost:
                LOST.inc(each.lost)
                log.error("events are past their retention", extra={"webhook_id": each.webhook_id, "events": each.lost})
        return len(spread) == store.SPREAD_AT_ONCE or any(each.full for each in spread)

    async def _begin(self) -> bool:
        now = datetime.now(UTC)
        async with self._database.begin() as tx:
            due = {each.webhook_id: each for each in await store.with_due(tx, now)}
            free = {
                webhook_id: room
                for webhook_id, each in due.items()
                if (room := each.health.at_once(AT_ONCE) - self._of_webhook[webhook_id]) > 0
            }
            claimed = await store.claim(tx, free, now, LEASE) if free else []
        for delivery in claimed:
            task = asyncio.create_task(self._deliver(due[delivery.webhook_id], delivery))
            self._under_way[task] = delivery
            self._of_webhook[delivery.webhook_id] += 1
            task.add_done_callback(self._done)
        return bool(claimed)

    def _done(self, task: asyncio.Task[None]) -> None:
        delivery = self._under_way.pop(task)
        self._of_webhook[delivery.webhook_id] -= 1
        if not self._of_webhook[delivery.webhook_id]:
            del self._of_webhook[delivery.webhook_id]
        if not task.cancelled() and (error := task.exception()) is not None:  # tried again after the lease
            log.error("a delivery failed in our own code", exc_info=error, extra={"webhook_id": delivery.webhook_id})

    async def _deliver(self, webhook: Webhook, delivery: Claimed) -> None:
        """Post an event, and keep the end of the attempt until the next turn."""
        body = msgspec.json.encode(events.shown(_event_of(delivery), self._edge_ids)).decode()
        began_at = datetime.now(UTC)
        signed = signing.headers(delivery.event_id, began_at, body, self._opened(webhook))
        code, error, retry_after = await self._post(webhook.url, body, signed)
        ended_at = datetime.now(UTC)
        attempt = Attempt(began_at=began_at, ended_at=ended_at, code=code, error=error, retry_after=retry_after)
        self._ended.append(Ended(delivery, attempt))

    async def _post(
        self, url: str, body: str, headers: dict[str, str]
    ) -> tuple[int | None, str | None, timedelta | None]:
        """Return the status, or the reason for none, and what the answer asks for. No redirection is followed."""
        if (why := refusal(url, private=self._private)) is not None:
            return None, why, None
        try:
            async with self._http().post(
                url,
                data=body.encode(),
                headers={**headers, "Content-Type": "application/json", "User-Agent": AGENT},
                allow_redirects=False,
            ) as response:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):  # the status counts
                    await response.content.read(ANSWER_BYTES)
                return response.status, None, _asked(response.headers.get("Retry-After"))
        except aiohttp.ClientConnectorError as error:
            return None, "not_public" if isinstance(error.os_error, Forbidden) else type(error).__name__, None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return None, type(error).__name__, None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, resolver=PublicResolver(private=self._private), keepalive_timeout=IDLE_S
            )
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session

    def _opened(self, webhook: Webhook) -> list[Secret]:
        stored, opened = self._secrets.get(webhook.webhook_id, ("", []))
        if stored != webhook.secrets:
            opened = webhook.opened(self._field_keys)
            self._secrets[webhook.webhook_id] = webhook.secrets, opened
        return opened

    async def _settle(self) -> None:
        """Store the ends of attempts, and what they say of their destinations."""
        ended, self._ended = self._ended, []
        if not ended:
            return
        by_webhook: dict[str, list[Ended]] = defaultdict(list)
        for each in ended:
            by_webhook[each.delivery.webhook_id].append(each)
        try:
            async with self._database.begin() as tx:
                now = datetime.now(UTC)
                settled: list[Settled] = []
                told: dict[str, list[tuple[Told, str | None]]] = defaultdict(list)
                for webhook_id, webhook in (await store.lock_health(tx, by_webhook)).items():
                    before = webhook.health
                    after = rules.after(before, [each.attempt for each in by_webhook[webhook_id]])
                    settled += [_settled(each, after) for each in by_webhook[webhook_id]]
                    if not (before.failures == after.failures == 0 and _recent(before.accepted_at, now)):
                        await store.put_health(tx, webhook_id, after, now)
                    if before.is_down and not after.is_down:
                        await store.make_due(tx, [webhook_id], now, LEASE)
                    if after.disabled is not None and webhook.enabled == "enabled":
                        told[webhook.organisation_id].append((_disabled(webhook_id, after.disabled, now), None))
                        once_committed(tx, partial(_tell_disabled, webhook_id, after.disabled))
                await store.settle(tx, settled)
                if told:
                    await feed.add(tx, told)
        except BaseException:
            self._ended = [*ended, *self._ended]
            raise
        for each in ended:
            DELIVERIES.labels(_outcome(each.attempt)).inc()
            if each.attempt.delivered and each.delivery.attempts == 1:
                TAKEN.observe((each.attempt.ended_at - each.delivery.stored_at).total_seconds())

    async def _give_back(self) -> None:
        if self._under_way:
            async with self._database.begin() as tx:
                await store.give_back(tx, list(self._under_way.values()), datetime.now(UTC))


def _settled(ended: Ended, health: rules.Health) -> Settled:
    """Return the end of an attempt, with the next one's time."""
    delivery, attempt = ended
    due_at = None
    if not attempt.delivered:
        spread = random.random()  # noqa: S311 no secret
        due_at = rules.next_try(delivery.attempts, delivery.first_at, attempt, health, spread)
    return Settled(delivery=delivery, attempt=attempt, due_at=due_at)


def _recent(accepted_at: datetime | None, now: datetime) -> bool:
    """Return whether a success of now needs no write."""
    return accepted_at is not None and now - accepted_at < timedelta(seconds=10)


def _disabled(webhook_id: str, because: rules.Because, now: datetime) -> Told:
    return Told(
        type=Type.WEBHOOK_DISABLED,
        sender_id=None,
        about=webhook_id,
        occasion=(webhook_id, now.isoformat()),
        at=now,
        data={"webhook_id": webhook_id, "because": because},
    )


def _tell_disabled(webhook_id: str, because: rules.Because) -> None:
    DISABLED.labels(because).inc()
    log.warning("a webhook is disabled", extra={"webhook_id": webhook_id, "because": because})


def _outcome(attempt: Attempt) -> str:
    if attempt.delivered:
        return "delivered"
    return "refused" if attempt.code is not None else "unreachable"


def _event_of(delivery: Claimed) -> Event:
    return Event(**{name: getattr(delivery, name) for name in Event.__struct_fields__})


def _asked(retry_after: str | None) -> timedelta | None:
    """Return the seconds of a Retry-After; a date is not read."""
    return (
        timedelta(seconds=int(retry_after)) if retry_after and retry_after.isdigit() and len(retry_after) < 8 else None
    )
