"""What a message says of its person was put right after it was requested: it leaves as it is right, or it has left."""

import pytest

from common.contracts import CAMPAIGN_REQUESTS, CONTROLS
from common.kafka.broker import partition_of
from tests.service.dispatch.test_dispatch import Dispatch, control_is, dispatch
from tests.support.builders import controlled, field_keys, opted_in, requested, reworded, subject
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker

RIGHT = "Maison Lune : Nina, -20 % ce samedi. STOP au 36111"


def neighbour_of(n: int) -> int:
    """Somebody of the same partition."""
    return next(m for m in range(n + 1, 1000) if partition_of(subject(m), 3) == partition_of(subject(n), 3))


async def said(d: Dispatch, identity: str) -> str:
    """What is on record as the text of a message."""
    async with d.surroundings.sql("dispatch") as sql:
        sealed = await sql.fetchval("SELECT text FROM message WHERE message_id = $1", identity)
    return field_keys.unseal(sealed, f"text:{identity}")


async def test_what_waits_says_what_is_right_and_what_is_asked_for_at_once_as_well(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        paused = requested(1)
        await d.request(paused)
        await eventually(d.becomes(paused.message_id, "deferred", "campaign_paused"))
        together = requested(1, campaign_id="c2")
        await publish(surroundings, CAMPAIGN_REQUESTS, [reworded(paused, RIGHT), together, reworded(together, RIGHT)])
        await eventually(d.becomes(together.message_id, "deferred"))
        await d.control("running", 3)
        await publish(surroundings, CONTROLS, [controlled("running", campaign_id="c2")])
        for message in (paused, together):
            await eventually(d.becomes(message.message_id, "accepted"))
        assert [message["text"] for message in op.messages] == [RIGHT, RIGHT]


async def test_what_is_asked_for_once_more_in_its_old_words_says_what_is_right(surroundings: Surroundings) -> None:
    """As a relay that was taken for dead does, late; and all of it is taken at once."""
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        asked = requested(1)
        await publish(surroundings, CAMPAIGN_REQUESTS, [asked, reworded(asked, RIGHT), asked])
        await eventually(d.becomes(asked.message_id, "accepted"))
        assert [message["text"] for message in op.messages] == [RIGHT]


async def test_what_waits_is_of_the_region_that_is_told_and_of_its_own_where_none_is(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        told = {"FR-6AE": "FR-6AE", "": None, None: "FR-57"}
        waiting = {requested(1, region="FR-57"): region for region in told}
        for message in waiting:
            await d.request(message)
            await eventually(d.becomes(message.message_id, "deferred", "campaign_paused"))
        together = {requested(1, region="FR-57"): region for region in told}
        await publish(surroundings, CAMPAIGN_REQUESTS, [reworded(m, RIGHT, region) for m, region in waiting.items()])
        for message, region in together.items():
            await publish(surroundings, CAMPAIGN_REQUESTS, [message, reworded(message, RIGHT, region)])
            await eventually(d.becomes(message.message_id, "deferred", "campaign_paused"))
        async with d.surroundings.sql("dispatch") as sql:
            for message, region in (waiting | together).items():
                found = await sql.fetchval("SELECT region FROM message WHERE message_id = $1", message.message_id)
                assert found == told[region]


async def test_what_can_say_nothing_any_more_is_denied_whether_it_waits_or_comes_with_it(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        paused, together = requested(1), requested(1)
        await d.request(paused)
        await eventually(d.becomes(paused.message_id, "deferred", "campaign_paused"))
        await publish(surroundings, CAMPAIGN_REQUESTS, [reworded(paused, None), together, reworded(together, None)])
        await eventually(d.becomes(together.message_id, "denied"))  # so the rewordings before it were read
        await d.control("running", 3)
        for message in (paused, together):
            found = await eventually(d.becomes(message.message_id, "denied"))
            assert "cannot_be_written" in found["reasons"]
        assert op.messages == []


async def test_what_is_being_handed_off_has_left_and_its_record_says_what_left(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        op.open.clear()
        leaving, after = requested(1), requested(1)
        await d.request(leaving)
        await op.received.wait()
        await publish(surroundings, CAMPAIGN_REQUESTS, [reworded(leaving, RIGHT), after, reworded(after, RIGHT)])
        op.open.set()
        await eventually(d.becomes(leaving.message_id, "accepted"))
        await eventually(d.becomes(after.message_id, "accepted"))
        assert [message["text"] for message in op.messages][1:] == [RIGHT]
        assert await said(d, leaving.message_id) == op.messages[0]["text"] != RIGHT


async def test_a_rewording_of_somebody_elses_message_changes_nothing(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        mine = requested(1)
        await d.request(mine)
        await eventually(d.becomes(mine.message_id, "deferred", "campaign_paused"))
        twin = neighbour_of(1)
        forged = requested(twin, message_id=mine.message_id)
        last = requested(twin)
        await publish(surroundings, CAMPAIGN_REQUESTS, [reworded(forged, RIGHT), last])
        await eventually(d.becomes(last.message_id, "denied"))
        assert await said(d, mine.message_id) != RIGHT
