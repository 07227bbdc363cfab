"""kill -9 of every process, the example shop's own included: at every rest its list of opted-out customers equals
consent-svc's, and no acknowledged STOP is missing."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

import asyncpg
import httpx
import pytest

from placet_client import AsyncPlacet, PlacetError
from stack.environment import PARTITIONS
from stack.running import PROJECTION, Stack, running_stack
from tests.operators import signed
from tests.support.eventually import eventually, is_so
from tests.support.infrastructure import KAFKA
from tests.support.seed import seed
from tests.support.shop import Point, Shop

VICTIMS = ("consent", "campaign", "inbound", "dispatch", PROJECTION)
CUSTOMERS = 8  # new ones of a round
COMMITS = (3, 40)  # the shop dies as it reads the feed at its start, or later
LASTS_S = 900
SETTLES_WITHIN_S = 150.0  # a delivery that died with its process is claimed again after 45 s
STOP, START = "STOP", "START"
# The time up to which campaign-svc has stored the event of each change: whatever Placet acknowledged before is in it.
TOLD = """
SELECT min(as_of) FROM consumer_offset WHERE consumer_group = 'campaign.consents' AND topic = 'consent.states.v1'
HAVING count(as_of) = $1
"""

T = TypeVar("T")


def number(n: int) -> str:
    return f"+3363998{n:04d}"


@dataclass
class Person:
    n: int
    cookie: str
    last: str = ""  # what the person did, of which the last counts


@dataclass
class Run:
    """`calm`: the shop's next lives have no point to die at."""

    stack: Stack
    shop: Shop
    placet: AsyncPlacet
    secret: str
    dice: random.Random
    people: list[Person] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    done: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    calm: bool = False

    async def keep_shop(self, dice: random.Random) -> None:
        """Start the shop again whenever it has died."""
        while True:
            point = Point(dice.choice(("before", "after")), dice.randint(1, dice.choice(COMMITS)))
            self.shop.start(None if self.calm else point)
            await eventually(lambda: is_so(self.shop.is_dead), LASTS_S)
            self.deaths["shop"] += 1

    async def webhooks(self, status: Literal["enabled", "paused"]) -> None:
        async def change() -> bool:
            found = [each async for each in self.placet.webhooks.list()]
            for each in found:
                await self.placet.webhooks.update(each.webhook_id, status=status)
            return bool(found)

        await eventually(change, SETTLES_WITHIN_S)

    async def round(self, victim: str) -> None:
        """People act at once, while one service and the shop die in the middle of it."""
        begun, old = self.done, self.people[:]
        after = self.dice.randint(1, CUSTOMERS)
        async with asyncio.TaskGroup() as acting:
            for _ in range(CUSTOMERS):
                offers, stops = self.dice.random() < 0.8, self.dice.random() < 0.5
                acting.create_task(self._new(next(self.numbers), offers, stops))
            for person in self.dice.sample(old, k=min(len(old), CUSTOMERS)):
                acting.create_task(self._act(person, self.dice.choice((STOP, STOP, START, "no", "yes"))))

            async def kill() -> None:
                await eventually(lambda: is_so(self.done - begun >= after), SETTLES_WITHIN_S)
                self.stack.kill(victim)
                self.deaths[victim] += 1
                await self.stack.restart(victim)

            acting.create_task(kill())

    async def _new(self, n: int, offers: bool, stops: bool) -> None:
        key = uuid4().hex
        cookie = await again(lambda: self.shop.ordered(number(n), offers=offers, key=key))
        self.done += 1
        person = Person(n, cookie)
        self.people.append(person)
        if stops:
            await self._act(person, STOP)

    async def _act(self, person: Person, what: str) -> None:
        key = uuid4().hex
        if what in (STOP, START):
            await self._texted(person, what, key)
        else:
            await again(lambda: self.shop.chose(person.cookie, offers=what == "yes", key=key))
        person.last = what
        self.done += 1

    async def _texted(self, person: Person, text: str, key: str) -> None:
        """The operator repeats its callback until it is accepted."""
        sent_at = datetime.now(UTC)
        message = {"id": key, "from": number(person.n), "to": "36111", "text": text, "sent_at": sent_at.isoformat()}
        raw = json.dumps(message).encode()
        url = f"{self.stack.urls['inbound']}/v1/callbacks/simulator/main/messages"

        async def call() -> None:
            async with httpx.AsyncClient(timeout=30) as operator:
                answer = await operator.post(url, content=raw, headers=signed(raw, self.secret, datetime.now(UTC)))
            if answer.status_code != 200:
                raise httpx.TransportError(answer.text)

        await again(call)

    async def rests(self) -> None:
        """Wait until nothing is under way, then compare the shop's list with consent-svc's."""
        self.calm = True
        self.shop.kill()

        async def told() -> bool:
            return await self.shop.answers() and self.shop.untold() == 0

        await eventually(told, SETTLES_WITHIN_S)
        rests_at = datetime.now(UTC)
        sql = await asyncpg.connect(self.stack.databases["campaign"])
        try:

            async def stored() -> bool:
                as_of = await sql.fetchval(TOLD, PARTITIONS)
                return as_of is not None and as_of >= rests_at

            await eventually(stored, SETTLES_WITHIN_S)
        finally:
            await sql.close()
        events = {event.id async for event in self._events()}
        await eventually(lambda: is_so(events <= self.shop.came_by().keys()), SETTLES_WITHIN_S)
        listed = await again(self.shop.stopped)
        assert listed == await self._stopped(), "the shop's list of opted-out customers is not consent-svc's"
        missing = [person.n for person in self.people if person.last in (STOP, "no") and number(person.n) not in listed]
        assert missing == [], "an acknowledged opt-out is missing"
        self.calm = False
        self.shop.kill()

    async def hears_by_webhook(self) -> None:
        """Let new people order, while nothing dies, until an event came by webhook before the feed was read."""
        self.calm = True
        self.shop.kill()

        async def heard() -> bool:
            await self._new(next(self.numbers), offers=True, stops=False)
            return "webhook" in self.shop.came_by().values()

        await eventually(heard, SETTLES_WITHIN_S)

    async def _stopped(self) -> set[str]:
        """Return the numbers that consent-svc has as opted out."""
        found = set()
        for person in self.people:
            record = await self.placet.subjects.lookup(number=number(person.n))
            state = next((each.state for each in record.consents if each.purpose == "promotions"), "unknown")
            if state == "opted_out" or (state == "unknown" and record.suppressions):
                found.add(number(person.n))
        return found

    async def _events(self) -> AsyncIterator[Any]:
        pages = self.placet.events.list(type=["consent.changed", "consent.opted_out"], wait_s=0, limit=1000).pages()
        async for page in pages:
            for event in page.items:
                yield event
            if not page.items:
                return


@pytest.mark.any_broker
@pytest.mark.timeout(LASTS_S)
async def test_the_shops_list_of_opt_outs_equals_consent_svcs_at_every_rest_of_a_run_of_kills(tmp_path: Path) -> None:
    dice = random.Random(seed())
    async with running_stack(tmp_path / "stack", kafka=KAFKA, durable=False) as stack:
        urls = {f"{name}_url": stack.urls[name] for name in ("consent", "campaign")}
        environment = {"PLACET_TOKEN": stack.token} | {f"PLACET_{k.upper()}": url for k, url in urls.items()}
        shop = Shop(tmp_path, environment, {"SHOP_CATCH_UP_EVERY_S": "2"})
        async with AsyncPlacet(
            stack.token, consent_url=urls["consent_url"], campaign_url=urls["campaign_url"]
        ) as placet:
            await placet.senders.create(
                sender_id="maison-lune",
                legal_name="Maison Lune SAS",
                brand="Maison Lune",
                contact="contact@maison-lune.example",
                country="FR",
                oadc="MAISONLUNE",
                stop_code="36111",
                purposes=[{"id": "promotions", "wording": "Nos offres"}],
            )
            run = Run(stack, shop, placet, stack.environment.simulator_secret, dice)
            keeper = asyncio.create_task(run.keep_shop(random.Random(dice.random())))
            try:
                for place, victim in enumerate(dice.sample(VICTIMS, k=len(VICTIMS))):
                    await run.webhooks("paused" if place % 2 else "enabled")  # paused: the shop lives by the feed
                    await run.round(victim)
                    if place == len(VICTIMS) - 1:
                        await run.hears_by_webhook()
                    await run.rests()
            finally:
                keeper.cancel()
                with suppress(asyncio.CancelledError):
                    await keeper
                shop.kill()
    assert set(run.deaths) == {*VICTIMS, "shop"}
    assert run.deaths["shop"] >= 3 * len(VICTIMS), "the shop dies at a point of its own, not only at the rests"
    assert set(shop.came_by().values()) == {"webhook", "feed"}, "both ways were used"


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Call until there is an answer: a process may be down."""

    async def answered() -> list[T]:
        try:
            return [await call()]
        except (httpx.TransportError, PlacetError) as error:
            raise AssertionError(str(error)) from error

    [found] = await eventually(answered, SETTLES_WITHIN_S)
    return found
