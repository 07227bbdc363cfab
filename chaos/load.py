"""Load the system: senders, each with a STOP code, consents, a campaign and STOPs.

Old consents, recorded again, must not reopen a sender that a person has stopped.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from chaos.checks import OVER, Loss
from stack.calling import Api, DemoFailed
from stack.demo.house import CONSENT_BATCH, FORM
from stack.simulator import STOP_SPELLINGS

FIRST_CODE = 36_000
FICTIONAL = 10_000  # 06 39 98 xx xx
BEYOND = 20_000_000  # first further number, of eight digits after +336 (see bench.consent)
STOP_SHARE = 0.04
# Age of a campaign's consents, in turn: a STOP from an operator with a slow clock seems older than the second.
GIVEN_AGO = (timedelta(days=40), timedelta(seconds=60))
TEXT = "Maison Lune : {first_name|bonjour}, -20 % ce samedi. {stop}"
SPELLINGS = tuple(text for text in STOP_SPELLINGS if "36" not in text)  # without another code
POLL_S = 0.5
SUDDEN = 12
NOT_YET = ("404 ", "409 ")
HEARD_WITHIN_S = 120.0
TOLD_AGAIN_S = (0.0, 5.0)  # after the campaign has begun, and then once more


def number(n: int) -> str:
    """Return the number of the n-th person."""
    return f"+3363998{n:04d}" if n < FICTIONAL else f"+336{BEYOND + n}"


@dataclass(slots=True)
class Round:
    """A sender and its campaign."""

    sender: str
    code: str
    people: list[str]
    stopping: list[str]
    given_at: datetime
    campaign: str = ""
    status: str = "not made"
    waits: str = ""  # for what, by campaign-svc
    finished: bool = False
    whole: bool = True  # no database has lost rows of it

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None

    def during(self, loss: Loss) -> bool:
        """Return whether rows of this round were stored and lost."""
        return (loss.until is None or self.began <= loss.until) and (self.ended is None or self.ended >= loss.since)

    @property
    def over(self) -> bool:
        return self.finished or not self.whole


@dataclass(slots=True)
class Load:
    """Campaigns of `people`, of about `lasts_s` each, with STOPs throughout.

    A round with rows in a loss (`losses`, of databases) is given up.
    """

    api: Api
    seed: int
    people: int
    lasts_s: float
    among: int = FICTIONAL  # people in all
    most: int = 1_000_000  # campaigns
    losses: list[Loss] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, at_once: int) -> None:
        """Run rounds, `at_once` at a time, until `ending`; return when all have finished."""

        async def some() -> None:
            while not self.ending.is_set() and len(self.rounds) < self.most:
                began = datetime.now(UTC)
                one = self._next()
                try:
                    await self.round(one)
                except* DemoFailed as refused:
                    if not self._lost_since(began):
                        raise
                    one.whole, one.status = False, f"lost: {refused.exceptions[0]}"

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(some())

    def _next(self) -> Round:
        n = len(self.rounds)
        chance = random.Random(f"{self.seed} {n}")
        people = [number(each) for each in chance.sample(range(self.among), self.people)]
        code = str(FIRST_CODE + n)
        stopping = chance.sample(people, int(len(people) * STOP_SHARE))
        given_at = datetime.now(UTC) - GIVEN_AGO[n % len(GIVEN_AGO)]
        self.rounds.append(Round(f"sender-{code}", code, people, stopping, given_at))
        return self.rounds[-1]

    def _lost_since(self, began: datetime) -> bool:
        return any(loss.until is None or loss.until >= began for loss in self.losses)

    async def repeat(self) -> None:
        """Send consent-svc the requests of unfinished rounds again."""
        for one in [one for one in self.rounds if not one.over]:
            await self._register(one)
            await self.consent(one, one.people)

    async def cancel(self) -> None:
        """Cancel each unfinished campaign; ignore the refusal of a finished campaign."""
        for one in [one for one in self.rounds if one.campaign and not one.over]:
            with contextlib.suppress(DemoFailed):
                await self.api.call("POST", "campaign", f"/v1/campaigns/{one.campaign}/cancel", {})

    async def stop(self) -> None:
        """Text STOP at once from SUDDEN people of the newest campaign, who would not have stopped."""
        one = next((each for each in reversed(self.rounds) if each.campaign), None)
        if one is None:
            return
        others = sorted({*one.people} - {*one.stopping})
        sudden = random.Random(f"{self.seed} {one.code} {len(one.stopping)}").sample(others, min(SUDDEN, len(others)))
        one.stopping += sudden
        replies = [{"from": each, "to": one.code, "text": "STOP", "after_s": 0.0} for each in sudden]
        await self.api.call("POST", "simulator", "/control/replies", {"replies": replies})

    async def reconcile(self, stopped: Mapping[str, Sequence[str]]) -> None:
        """Send the operator's list of opt-outs for each sender."""
        for one in self.rounds:
            if numbers := stopped.get(one.code):
                listed = {"provider": "simulator", "sender_id": one.sender, "list": "\n".join(["number", *numbers])}
                await self.api.call("POST", "consent", "/v1/reconciliations", listed)

    async def round(self, one: Round) -> None:
        """Run a round, from the sender to the last outcome."""
        code, people, stopping = one.code, one.people, one.stopping
        chance = random.Random(f"{self.seed} {code}")
        await self._register(one)
        await self.consent(one, people)
        one.status = "importing"
        await self._import(one)
        told = {"sender_id": one.sender, "name": code, "purpose": "promotions", "text": TEXT, "audience": {"all": True}}
        made = await self._in_time("campaign", "/v1/campaigns", told, key=f"campaign {code}")
        one.campaign = str(made["campaign_id"])
        await self._schedule(one)
        replies = [
            {
                "from": each,
                "to": code,
                "text": chance.choice(SPELLINGS),
                "after_s": round(chance.uniform(0.0, self.lasts_s), 3),
            }
            for each in stopping
        ]
        await self.api.call("POST", "simulator", "/control/replies", {"replies": replies})
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_again(one, chance))
            await self._until_finished(one)

    async def consent(self, one: Round, people: list[str]) -> None:
        """Record evidence of each person's consent; a repeat is the same evidence, older than any STOP."""
        for at in range(0, len(people), CONSENT_BATCH):
            items = [
                {
                    "sender_id": one.sender,
                    "purpose": "promotions",
                    "number": each,
                    "basis": "opt_in",
                    "occurred_at": one.given_at.isoformat(),
                    "evidence": FORM,
                }
                for each in people[at : at + CONSENT_BATCH]
            ]
            await self.api.call("POST", "consent", "/v1/consents/batch", {"items": items})

    async def _register(self, one: Round) -> None:
        body = {
            "sender_id": one.sender,
            "legal_name": "Maison Lune SAS",
            "brand": "Maison Lune",
            "contact": "contact@maison-lune.example",
            "country": "FR",
            "oadc": "MAISONLUNE",
            "stop_code": one.code,
            "controller": "maison-lune",
            "stop_scope": "sender",
            "purposes": [{"id": "promotions", "wording": "Recevoir nos offres par SMS"}],
        }
        await self.api.call("POST", "consent", "/v1/senders", body)

    async def _import(self, one: Round) -> None:
        lines = "number,first_name\n" + "".join(f"{each},Zoé\n" for each in one.people)
        path = f"/v1/imports?sender_id={one.sender}"
        await self._in_time("campaign", path, csv=lines.encode(), key=f"contacts {one.code}")

    async def _schedule(self, one: Round) -> None:
        """Schedule the campaign, unless a lost answer has: a second request is refused."""
        path = f"/v1/campaigns/{one.campaign}"
        while (await self.api.call("GET", "campaign", path))["status"] == "draft":
            try:
                await self.api.call("POST", "campaign", f"{path}/schedule", {})
            except DemoFailed as refused:
                if not str(refused).partition(": ")[2].startswith(NOT_YET):
                    raise
                await asyncio.sleep(POLL_S)

    async def _in_time(self, service: str, path: str, body: Any = None, **more: Any) -> Any:
        """Call until the service knows the sender (404) and has ended the same earlier request (409)."""
        deadline = asyncio.get_running_loop().time() + HEARD_WITHIN_S
        while True:
            try:
                return await self.api.call("POST", service, path, body, **more)
            except DemoFailed as refused:
                refusal = str(refused).partition(": ")[2]
                if not refusal.startswith(NOT_YET) or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(POLL_S)

    async def _tell_again(self, one: Round, chance: random.Random) -> None:
        """Import old consents again, while people stop and after."""
        await asyncio.sleep(chance.uniform(*TOLD_AGAIN_S))
        await self.consent(one, one.stopping)
        await asyncio.sleep(self.lasts_s)
        one.given_at -= timedelta(days=1)  # other, older evidence
        await self.consent(one, one.stopping)

    async def _until_finished(self, one: Round) -> None:
        while not one.finished:
            told = await self.api.call("GET", "campaign", f"/v1/campaigns/{one.campaign}")
            one.status, one.finished = told["status"], told["status"] in OVER
            one.waits = "".join(f", waits for {each['reason']}" for each in told["waiting_for"])
            one.ended = datetime.now(UTC) if one.finished else None
            await asyncio.sleep(POLL_S)
