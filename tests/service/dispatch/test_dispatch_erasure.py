"""Erasure in dispatch-svc: numbers and texts go, verdicts and outcomes stay, what waits or comes late never leaves."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from common.contracts import (
    DISPATCH_MESSAGES,
    DISPATCH_REQUESTS,
    ERASURE_ACKS,
    ERASURES,
    INBOUND_RECEIPTS,
    SENDERS,
)
from common.contracts.dispatch import MessageChanged
from tests.service.dispatch.test_dispatch import control_is, dispatch, known
from tests.support.builders import (
    SENDER,
    erasure_requested,
    now,
    number,
    opted_in,
    opted_out,
    receipt,
    requested,
    sender_changed,
    shown,
    subject,
)
from tests.support.erasures import acknowledged, acknowledgements
from tests.support.eventually import eventually
from tests.support.holdings import holdings, spellings
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # the way between the services is of rights/test_erasure.py

TEXT = "Zoé, -20 % ce samedi. STOP au 36111"
CODE = {"sender_id": "maison-lune-compte", "text": "Votre code : 4821", "category": "transactional"}


async def held(surroundings: Surroundings, n: int) -> list[str]:
    """What the database holds of this person once nothing is on its way out of it."""

    async def published() -> bool:
        async with surroundings.sql("dispatch") as sql:
            return not await sql.fetchval("SELECT count(*) FROM outbox")

    await eventually(published)
    async with surroundings.sql("dispatch") as sql:
        return await holdings(sql, [*spellings(number(n)), "Votre code", "Zoé"])


def told_denied(
    read: Callable[[], Awaitable[list[Any]]], identity: str
) -> Callable[[], Awaitable[MessageChanged | None]]:
    async def look() -> MessageChanged | None:
        changes = [e for e in changes_in(await read()) if e.message_id == identity]
        return next((change for change in changes if change.status == "denied"), None)

    return look


async def test_number_and_text_of_every_message_are_gone_and_its_decision_stays(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, ERASURE_ACKS) as read:
        await d.publish_states(opted_in(1), opted_out(3, version=1))
        wanted, out = requested(1, text=TEXT), requested(3)
        await d.request(wanted, out)
        code = (await d.client.post("/v1/messages", json={**CODE, "to": number(1)})).json()["message_id"]
        before = await eventually(d.becomes(wanted.message_id, "accepted"))
        await eventually(d.becomes(code, "accepted"))
        await eventually(d.becomes(out.message_id, "denied"))
        await d.publish_states(opted_out(1, version=2, reference="simulator/main/mo-secret"))
        await eventually(lambda: enforced(surroundings, 1))
        assert await held(surroundings, 1) == ["message.number", "message.text"]

        asked, also = erasure_requested(1), erasure_requested(3)
        await publish(surroundings, ERASURES, [asked, also])
        assert (await acknowledged(read, asked.erasure_id)).erased == {"messages": 2}
        assert (await acknowledged(read, also.erasure_id)).erased == {"messages": 0}, (
            "of a denied message nothing is held"
        )
        assert await held(surroundings, 1) == []
        async with surroundings.sql("dispatch") as sql:
            assert await holdings(sql, ["mo-secret"]) == []
        assert await d.message(wanted.message_id) == before
        # the operator's receipt still finds the message
        await publish(surroundings, INBOUND_RECEIPTS, [receipt("delivered", reference=wanted.message_id)])

        async def delivered() -> bool:
            return bool((await d.message(wanted.message_id))["receipt"] == "delivered")

        assert await eventually(delivered)
        assert await held(surroundings, 1) == []


async def enforced(surroundings: Surroundings, n: int) -> bool:
    query = "SELECT count(*) FROM enforcement WHERE enforced_at IS NOT NULL AND subject_id = $1"
    async with surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval(query, subject(n)))


async def test_by_which_text_an_opt_out_was_said_is_not_kept_though_it_comes_after_the_erasure(
    surroundings: Surroundings,
) -> None:
    """Erasures and consents are topics of their own, and either may be late. What is said afterwards is kept."""
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, ERASURE_ACKS) as read:
        await d.publish_states(opted_in(1), opted_in(2))
        before = now()
        asked, also = erasure_requested(1), erasure_requested(2)
        await publish(surroundings, ERASURES, [asked, also])
        await acknowledged(read, asked.erasure_id)
        await acknowledged(read, also.erasure_id)
        await d.publish_states(
            opted_out(1, version=2, reference="simulator/main/mo-secret", occurred_at=before),
            opted_out(2, version=2, reference="simulator/main/mo-since"),
        )
        await eventually(lambda: enforced(surroundings, 1))
        await eventually(lambda: enforced(surroundings, 2))
        assert await held(surroundings, 1) == []
        async with surroundings.sql("dispatch") as sql:
            assert await holdings(sql, ["mo-secret"]) == []
            assert await holdings(sql, ["mo-since"]) == ["enforcement.reference"]


async def test_what_waits_is_denied_and_told_and_never_leaves(surroundings: Surroundings) -> None:
    async with (
        operator() as op,
        dispatch(surroundings, op) as d,
        reading(surroundings, ERASURE_ACKS) as read,
        reading(surroundings, DISPATCH_MESSAGES) as changes,
    ):
        await d.publish_states(opted_in(1), opted_in(2))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        wanted, other = requested(1, text=TEXT), requested(2)
        await d.request(wanted, other)
        await eventually(d.becomes(wanted.message_id, "deferred", "campaign_paused"))
        asked = erasure_requested(1)
        await publish(surroundings, ERASURES, [asked])
        await acknowledged(read, asked.erasure_id)
        found = await d.message(wanted.message_id)
        assert (found["status"], found["reasons"], found["due_at"]) == ("denied", ["erased"], None)
        change = await eventually(told_denied(changes, wanted.message_id))
        assert change is not None
        assert (change.reasons, change.version) == (("erased",), found["version"])
        await d.control("running", 3)
        await eventually(d.becomes(other.message_id, "accepted"))
        assert op.references == [other.message_id]
        assert await held(surroundings, 1) == []


async def test_a_message_in_the_operators_hands_is_waited_for(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, ERASURE_ACKS) as read:
        await d.publish_states(opted_in(1))
        op.open.clear()
        await d.request(in_flight := requested(1, text=TEXT))
        await op.received.wait()
        asked, other = erasure_requested(1), erasure_requested(2)
        await publish(surroundings, ERASURES, [asked, other])
        await acknowledged(read, other.erasure_id)
        assert [ack.erasure_id for ack in acknowledgements(await read())] == [other.erasure_id]
        op.open.set()
        await eventually(d.becomes(in_flight.message_id, "accepted"))
        assert (await acknowledged(read, asked.erasure_id)).erased == {"messages": 1}
        assert await held(surroundings, 1) == []


async def test_a_request_of_before_that_comes_late_is_denied_and_keeps_nothing(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, ERASURE_ACKS) as read:
        await d.publish_states(opted_in(1))
        await eventually(lambda: known(surroundings, 1))
        asked = erasure_requested(1)
        before = asked.requested_at - timedelta(seconds=1)
        await publish(surroundings, ERASURES, [asked])
        await acknowledged(read, asked.erasure_id)

        late, service = (
            requested(1, requested_at=before, text=TEXT),
            requested(1, requested_at=before, category="service", campaign_id=None, purpose=None, text="Votre code"),
        )
        too_late = requested(1, requested_at=before, send_before=now(), text=TEXT)  # it expires, whoever it was for
        await d.request(late, too_late)
        await publish(surroundings, DISPATCH_REQUESTS, [service])
        for identity in (late.message_id, service.message_id):
            assert (await eventually(d.becomes(identity, "denied")))["reasons"] == ["erased"]
        await eventually(d.becomes(too_late.message_id, "expired"))
        assert await held(surroundings, 1) == []

        # who buys again is written to again
        code = (await d.client.post("/v1/messages", json={**CODE, "to": number(1)})).json()["message_id"]
        await eventually(d.becomes(code, "accepted"))
        assert op.references == [code]


async def test_marketing_that_consent_says_is_to_an_erased_person_is_not_kept_either(
    surroundings: Surroundings,
) -> None:
    """The state came before the erasure itself, or the planner asked in between."""
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_out(1, version=3, erased=True))
        await d.request(wanted := requested(1, text=TEXT))
        found = await eventually(d.becomes(wanted.message_id, "denied"))
        assert found["reasons"].count("erased") == 1
        assert await held(surroundings, 1) == []
        assert shown(1) == found["subject_id"]


async def test_what_one_controller_erased_denies_no_request_of_another(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, ERASURE_ACKS) as read:
        await publish(surroundings, SENDERS, [sender_changed(sender_id="beta", controller_id="beta")])
        await eventually(lambda: known(surroundings, 3, "sender"))
        asked = erasure_requested(1, controller_id=SENDER)
        await publish(surroundings, ERASURES, [asked])
        await acknowledged(read, asked.erasure_id)
        late: dict[str, Any] = {"requested_at": asked.requested_at - timedelta(seconds=1), "text": "Votre code"}
        late |= {"category": "service", "campaign_id": None, "purpose": None}
        ours, theirs = requested(1, **late), requested(1, **late, sender_id="beta")
        await publish(surroundings, DISPATCH_REQUESTS, [ours, theirs])
        assert (await eventually(d.becomes(ours.message_id, "denied")))["reasons"] == ["erased"]
        await eventually(d.becomes(theirs.message_id, "accepted"))
        assert op.references == [theirs.message_id]
