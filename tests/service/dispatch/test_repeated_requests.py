"""What is requested once more since nothing was reported: the ledger answers of what it has, and the rest is new."""

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_MESSAGES
from tests.service.dispatch.test_dispatch import dispatch
from tests.support.builders import opted_in, requested
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("sms_dispatch_repeated_requests_total", {"result": result}) or 0


async def test_a_repeated_request_is_answered_with_what_became_of_the_first_and_nothing_leaves_twice(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, DISPATCH_MESSAGES) as read:
        await d.publish_states(opted_in(1))
        before = counted("new")
        asked, lost, following = [requested(1) for _ in range(3)]

        async def reported(message_id: str) -> list[tuple[str, int]]:
            return [
                (event.status, event.version)
                for event in changes_in(await read())
                if event.message_id == message_id and event.status == "accepted"
            ]

        await d.request(asked, asked)
        await eventually(d.becomes(asked.message_id, "accepted"))
        await publish(surroundings, CAMPAIGN_REQUESTS, [asked])  # as a relay that was taken for dead does
        for repeated in (asked, lost):
            repeats = [replace(repeated, repeated=True)] * 2
            await publish(surroundings, CAMPAIGN_REQUESTS, repeats)
            await eventually(d.becomes(repeated.message_id, "accepted"))
        await publish(surroundings, CAMPAIGN_REQUESTS, [following, replace(following, repeated=True)])
        await eventually(d.becomes(following.message_id, "accepted"))

        async def each_has_its_answers() -> bool:
            assert await reported(asked.message_id) == [("accepted", 2)] * 2
            for message in (lost, following):
                assert await reported(message.message_id) == [("accepted", 2)]
            return True

        await eventually(each_has_its_answers)
        assert op.references == [asked.message_id, lost.message_id, following.message_id]
        assert counted("new") == before + 1, "the first request of one was lost"


async def test_a_restored_ledger_answers_with_a_version_above_the_version_that_the_campaign_knows(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, DISPATCH_MESSAGES) as read:
        await d.publish_states(opted_in(1))
        asked = requested(1)
        await d.request(asked)
        await eventually(d.becomes(asked.message_id, "accepted"))
        answers = [2]

        async def answered() -> bool:
            found = [e.version for e in changes_in(await read()) if e.status == "accepted"]
            assert found == answers, "a newer report has no version of its own twice"
            return True

        for known in (7, 7, 3):
            await eventually(answered)  # a batch has one answer to a message
            await publish(surroundings, CAMPAIGN_REQUESTS, [replace(asked, repeated=True, known_version=known)])
            answers.append(8)
        await eventually(answered)
        assert op.references == [asked.message_id]


async def test_a_request_that_only_asks_sends_nothing(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        asks = replace(requested(1), number="", text="", purpose=None, repeated=True)
        await d.request(asks)
        found = await eventually(d.becomes(asks.message_id, "denied"))
        assert "cannot_be_written" in found["reasons"]
        assert op.messages == []
