"""An opt-out beside whatever else touches its person's messages, in the orders of their statements (`interleaving.py`).
The database is set to REPEATABLE READ: no order may depend on how a server is set up."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from common.contracts.consent import ConsentStateChanged
from common.db.database import fetch_many
from common.kafka.subscription import Received
from common.law import at_hand_off, load
from dispatch.gate.candidate import Permit, shared_of
from dispatch.gate.candidate import requested as candidate
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, Account, Capabilities, HttpGateway, Result
from dispatch.gateways.pool import Traffic
from dispatch.messages import enforcement
from dispatch.messages import store as messages
from dispatch.messages.enforcement import OptOut
from dispatch.messages.row import Outcome
from dispatch.projection import apply as projection
from dispatch.projection import store as projection_store
from dispatch.projection.limits import Limits
from dispatch.sending import outcomes
from dispatch.sending.mark_writer import by_decision
from dispatch.sending.pipeline import Handoff
from dispatch.sending.timers import Timers
from tests.support.builders import (
    controlled,
    field_keys,
    now,
    opted_in,
    opted_out,
    requested,
    sender_changed,
    subject,
    subject_keys,
)
from tests.support.infrastructure import Postgres
from tests.support.interleaving import Act, Begin, Check, Interleaving, Stepped, stand, watching

log = logging.getLogger(__name__)

pytestmark = pytest.mark.brokerless

TABLES = ("message", "sending", "begun", "enforcement", "subject", "outbox")
EMPTY = "".join(f"DELETE FROM {table};" for table in TABLES)
ON_CONSENT = "(m.category = 'marketing' OR (m.category = 'service' AND m.purpose IS NOT NULL))"
FORBIDDEN = (
    "SELECT count(*) FROM enforcement AS e JOIN message AS m USING (subject_id) WHERE e.enforced_at IS NOT NULL"
    f" AND m.status = 'sending' AND {ON_CONSENT} AND coalesce(m.consent_version, 0) < e.consent_version"
)
BEGAN_LATER = (
    "SELECT count(*) FROM enforcement AS e JOIN message AS m USING (subject_id)"
    " WHERE m.handed_off_at > e.enforced_at AND coalesce(m.consent_version, 0) < e.consent_version"
)
# read by whoever decides, and written by nobody here
OF_NOBODY = ("SELECT sender_id, oadc", "SELECT subject_id, gateway FROM provider_block")
NOT_LEFT = "SELECT count(*) FROM message WHERE message_id = ANY($1::uuid[]) AND status IN ('deferred', 'denied')"
SENDING = "SELECT count(*) FROM message WHERE status = 'sending'"
OPEN = "SELECT count(*) FROM enforcement WHERE enforced_at IS NULL"
LONG_AGO = "UPDATE sending SET since = since - interval '1 hour'"
MARKETING: dict[str, Any] = {}
QUESTION: dict[str, Any] = {"category": "service", "campaign_id": None}


def accepted(permits: list[Permit]) -> list[Outcome]:
    """Their submit begins now."""
    at, result = now(), Result("accepted", "op-1", None)
    return [outcomes.answered(permit, result, at, None, echoes_reference=True) for permit in permits]


@dataclass
class Dispatch:
    database: Stepped
    watcher: asyncpg.Connection
    handoff: Handoff
    timers: Timers
    left: list[UUID] = field(default_factory=list)  # messages whose submit has begun

    async def before(self, *states: ConsentStateChanged) -> None:
        self.left.clear()
        await self.watcher.execute(EMPTY)
        async with self.database.begin() as tx:
            await projection_store.put_subjects(tx, states)

    async def decides(self, **more: Any) -> list[Permit]:
        wanted = candidate(requested(1, requested_at=now() - timedelta(seconds=1), **more), 0)
        async with self.database.begin() as tx:
            decisions = await self.handoff.clearance.decide(tx, 0, [wanted])
            await messages.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
        return [d.permit for d in decisions if d.permit]

    async def sends(self, permits: list[Permit], *, permit_holds: bool = True) -> None:
        """As far as the ledger can tell: a submit is marked, begins, and its outcome is stored.

        A permit which lapses while its owner stands still after the mark allows no submit: then there is no such step.
        """
        if not permits:
            return
        if not await self.handoff._mark_begun(by_decision(permits)):
            await self.decides_again(permits)
            return
        if permit_holds:
            await stand("a submit")
        self.left += [permit.candidate.message_id for permit in permits]
        await self.handoff._store_outcomes(accepted(permits))

    async def decides_again(self, permits: list[Permit]) -> None:
        ours = {permit.decided_at for permit in permits}
        await self.sends(await self.handoff._redecide(permits, ours))

    async def applies(self, state: ConsentStateChanged) -> None:
        async with self.database.begin() as tx:
            await projection.apply_states(tx, [Received(state, state.subject_id, 0, 0, now(), None)])

    async def controls(self, control: str, version: int, campaign_id: str = "c1") -> None:
        async with self.database.begin() as tx:
            await projection_store.put_control(tx, controlled(control, version=version, campaign_id=campaign_id))

    async def enforces(self) -> None:
        await self.handoff._enforce([subject(1)])

    async def holds(self, watcher: asyncpg.Connection) -> None:
        assert await watcher.fetchval(FORBIDDEN) == 0, "an opt-out is enforced, and a message it forbids is sending"
        assert await watcher.fetchval(NOT_LEFT, self.left) == 0, "a message has left, and may go again"

    async def is_over(self, watcher: asyncpg.Connection) -> None:
        """Once nothing is in anybody's hand, each opt-out is enforced, by whoever ended last or by the sweep."""
        assert await watcher.fetchval(SENDING) == 0
        await self.enforces()
        assert await watcher.fetchval(OPEN) == 0
        assert await watcher.fetchval(BEGAN_LATER) == 0, "a hand-off began after its opt-out was enforced"

    async def may_go_on(self, watcher: asyncpg.Connection) -> None:
        """A message that was decided before the opt-out is sending, or all is over."""
        if await watcher.fetchval(SENDING) == 0:
            await self.is_over(watcher)

    async def in_every_order(self, begin: Begin, ended: Check | None = None) -> None:
        orders = Interleaving(self.watcher, always=self.holds, freezes=1, no_steps=OF_NOBODY)
        await orders.every_order(begin, ended or self.is_over)
        log.info("%d orders", orders.orders)


@pytest.fixture
async def dispatch(postgres: Postgres, unique: str) -> AsyncIterator[Dispatch]:
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    async with AsyncExitStack() as opened:
        watcher = await opened.enter_async_context(watching(url))
        await watcher.execute(f"ALTER DATABASE dispatch_{unique} SET default_transaction_isolation = 'repeatable read'")
        database = await Stepped(url, pool_size=3).connected()
        opened.push_async_callback(database.close)
        async with database.begin() as tx:
            await projection_store.put_sender(tx, sender_changed())
            await projection_store.put_control(tx, controlled("running"))
            await fetch_many(
                tx,
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                " VALUES ('dispatch.consents', 'consent.states.v1', 0, 0, now())",
            )
        account = Account("simulator", "main", secret="s", url="http://127.0.0.1:9")
        can = Capabilities(batch=100, echoes_reference=True)
        gateway = HttpGateway("simulator", HTTP_PROVIDERS["simulator"], account, timeout_s=30.0, capabilities=can)
        traffic = Traffic([gateway])
        opened.push_async_callback(traffic.close)
        limits = Limits(max_staleness=timedelta(minutes=5))
        policy = at_hand_off(load("demonstration"))
        clearance = Clearance(subject_keys, field_keys, traffic, policy, limits, 60.0)
        handoff = Handoff(database, traffic, clearance, 1)
        timers = Timers(
            database, clearance, handoff, batch=10, partitions=range(1), sending_timeout=timedelta(minutes=1)
        )
        yield Dispatch(database, watcher, handoff, timers)


@pytest.mark.parametrize("message", [MARKETING, QUESTION], ids=["marketing", "a question of a double opt-in"])
async def test_a_message_on_its_way_and_an_opt_out(dispatch: Dispatch, message: dict[str, Any]) -> None:
    async def sends() -> None:
        await dispatch.sends(await dispatch.decides(**message))

    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1))
        return {"sends": sends, "opts out": lambda: dispatch.applies(opted_out(1))}

    async def ended(watcher: asyncpg.Connection) -> None:
        assert await watcher.fetchval(OPEN) == 0, "no sweep is needed"
        await dispatch.is_over(watcher)

    await dispatch.in_every_order(begin, ended)


async def test_an_opt_out_that_is_being_enforced_and_one_more_that_a_message_holds_back(dispatch: Dispatch) -> None:
    """The first is of another sender, so the message may go; the second forbids it."""

    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1, version=2))
        opened = OptOut(subject(1), 0, 2, "mo", None, received_at=now(), applied_at=now())
        async with dispatch.database.begin() as tx:
            await enforcement.open_enforcements(tx, [opened])
        return {
            "enforces": dispatch.enforces,
            "decides": dispatch.decides,
            "opts out": lambda: dispatch.applies(opted_out(1, version=3)),
        }

    await dispatch.in_every_order(begin, dispatch.may_go_on)


@pytest.mark.parametrize(
    "the_owner",
    ["has an outcome", "has a permit that lapsed", "has a permit that lapsed after its mark", "is about to begin"],
)
async def test_a_sweep_and_an_owner_who_is_alive_and_an_opt_out(dispatch: Dispatch, the_owner: str) -> None:
    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1))
        permits = await dispatch.decides()
        answered = accepted(permits)
        await dispatch.watcher.execute(LONG_AGO)  # a decision that the owner renews is none of a dead one's
        if the_owner in ("has an outcome", "has a permit that lapsed after its mark"):
            await dispatch.handoff._mark_begun(by_decision(permits))
        if the_owner == "has an outcome":
            dispatch.left += [permit.candidate.message_id for permit in permits]
        does: dict[str, Act] = {
            "has an outcome": lambda: dispatch.handoff._store_outcomes(answered),
            "has a permit that lapsed": lambda: dispatch.decides_again(permits),
            "has a permit that lapsed after its mark": lambda: dispatch.decides_again(permits),
            "is about to begin": lambda: dispatch.sends(permits, permit_holds=False),
        }
        return {
            "owner": does[the_owner],
            "sweeps": lambda: dispatch.timers._resolve_left_in(0),
            "opts out": lambda: dispatch.applies(opted_out(1)),
        }

    await dispatch.in_every_order(begin)


async def test_a_sweep_that_submits_once_more_and_an_opt_out(dispatch: Dispatch) -> None:
    """The gateway is idempotent, and does not answer: the submit began, so its outcome is unknown."""
    [gateway] = dispatch.handoff.traffic.gateways.values()
    gateway.capabilities = replace(gateway.capabilities, idempotent=True)

    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1))
        await dispatch.handoff._mark_begun(by_decision(await dispatch.decides()))
        await dispatch.watcher.execute(LONG_AGO)
        return {
            "sweeps": lambda: dispatch.timers._resolve_left_in(0),
            "opts out": lambda: dispatch.applies(opted_out(1)),
        }

    await dispatch.in_every_order(begin)


async def test_a_message_of_a_paused_campaign_and_its_resume(dispatch: Dispatch) -> None:
    """Whatever is deferred because of the pause is due once it has ended: whoever wakes finds it."""
    version = count(2, 2)

    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1))
        paused = next(version)
        await dispatch.controls("paused", paused)

        async def resumes() -> None:
            await dispatch.controls("running", paused + 1)
            await dispatch.timers.wake_controlled()

        return {"decides": dispatch.decides, "resumes": resumes}

    async def ended(watcher: asyncpg.Connection) -> None:
        await dispatch.timers.wake_controlled()
        assert await watcher.fetchval("SELECT status = 'sending' OR due_at <= now() FROM message"), "it waits for ever"

    await dispatch.in_every_order(begin, ended)


async def test_two_campaigns_of_a_sender_and_the_most_that_a_person_may_have(dispatch: Dispatch) -> None:
    clearance = dispatch.handoff.clearance
    dispatch.handoff.clearance = replace(clearance, limits=msgspec.structs.replace(clearance.limits, cap=1))
    await dispatch.controls("running", 1, campaign_id="c2")

    async def begin() -> dict[str, Act]:
        await dispatch.before(opted_in(1))
        return {"one": dispatch.decides, "other": lambda: dispatch.decides(campaign_id="c2")}

    async def ended(watcher: asyncpg.Connection) -> None:
        assert await watcher.fetchval(SENDING) == 1

    await dispatch.in_every_order(begin, ended)
