"""Requests that share a record are decided, sent and told as those alone; a bad one keeps back no other."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from common.contracts import CAMPAIGN_REQUESTS, Event
from common.contracts.campaign import MessageRequested
from tests.service.dispatch.test_dispatch import Dispatch, dispatch
from tests.support.builders import now, opted_in, opted_out, requested, subject, together
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import all_read, publish
from tests.support.running import Surroundings

PEOPLE = range(1, 13)
COLUMNS = (
    "subject_id, status, reasons, campaign_id, sender_id, purpose, category, partition, requested_at, send_before,"
    " region, consent_version, gateway"
)
LETTERS = "SELECT id, state, reason FROM dead_letter WHERE topic = $1"


async def _partitions(surroundings: Surroundings) -> int:
    return int((await surroundings.settings("dispatch"))["partitions"])


async def _ask(d: Dispatch, events: Sequence[Event]) -> None:
    await publish(d.surroundings, CAMPAIGN_REQUESTS, events)
    await all_read(d.surroundings, "dispatch", CAMPAIGN_REQUESTS)


async def _rows(d: Dispatch, asked: Sequence[MessageRequested]) -> list[dict[str, Any]]:
    async with d.surroundings.sql("dispatch") as sql:
        rows = await sql.fetch(
            f"SELECT {COLUMNS} FROM message WHERE message_id = ANY($1::uuid[]) ORDER BY subject_id",
            [each.message_id for each in asked],
        )
    return [dict(row) for row in rows]


async def _settled(d: Dispatch, asked: Sequence[MessageRequested]) -> list[dict[str, Any]]:
    rows = await _rows(d, asked)
    assert len(rows) == len(asked)
    assert {row["status"] for row in rows} <= {"accepted", "denied"}, rows
    return rows


@pytest.mark.any_broker
async def test_requests_that_share_records_leave_the_rows_of_requests_alone(surroundings: Surroundings) -> None:
    """Of people who may get it, who stopped, and of whom nothing is known; one of them has its own region."""
    partitions = await _partitions(surroundings)
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(*(opted_in(n) for n in PEOPLE if n % 3), opted_out(3))
        await all_read(surroundings, "dispatch", CAMPAIGN_REQUESTS)
        at, ends = now(), now() + timedelta(days=1)
        fields: dict[str, Any] = {"requested_at": at, "send_before": ends}
        alone = [requested(n, region="FR-6AE" if n == 1 else None, **fields) for n in PEOPLE]
        shared = [requested(n, region="FR-6AE" if n == 1 else None, **fields) for n in PEOPLE]
        await d.request(*alone)
        events = together(shared, partitions)
        assert len(events) < len(shared)
        await _ask(d, [*events, events[0]])  # a relay taken for dead publishes again
        one_by_one = await eventually(lambda: _settled(d, alone))
        assert await eventually(lambda: _settled(d, shared)) == one_by_one
        accepted = [each.message_id for each in (*alone, *shared) if each.subject_id not in _refused()]
        assert sorted(op.references) == sorted(accepted)


def _refused() -> set[str]:
    return {subject(n) for n in PEOPLE if n % 3 == 0}


async def test_a_bad_request_is_buried_and_the_others_of_its_record_leave(surroundings: Surroundings) -> None:
    """Once: a replay of the record sends no second SMS, and stays open while the request is bad."""
    partitions = await _partitions(surroundings)
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(*(opted_in(n) for n in PEOPLE))
        await all_read(surroundings, "dispatch", CAMPAIGN_REQUESTS)
        at, ends = now(), now() + timedelta(days=1)
        asked = [requested(n, requested_at=at, send_before=ends) for n in PEOPLE]
        most = max(together(asked, partitions), key=lambda event: len(event.requests))
        assert len(most.requests) > 1
        lost, *others = most.requests
        bad = replace(lost, message_id="no uuid")
        await _ask(d, [replace(most, requests=(bad, *others))])
        sent = [each for each in asked if each.message_id in {other.message_id for other in others}]
        rows = await eventually(lambda: _settled(d, sent))
        assert {row["status"] for row in rows} == {"accepted"}
        [letter] = await _letters(d)
        assert (letter["state"], letter["reason"]) == ("open", "the message id is not a UUID")

        async def open_again() -> bool:
            [found] = await _letters(d)
            assert found["state"] == "open"
            return True

        assert (await d.client.post(f"/v1/dead-letters/{letter['id']}/replay")).status_code == 200
        await eventually(open_again)
        [single] = [each for each in asked if each.message_id == lost.message_id]
        await d.request(replace(single, repeated=True))  # as campaign-svc does, without a report
        await eventually(d.becomes(single.message_id, "accepted"))
        assert sorted(op.references) == sorted(each.message_id for each in (*sent, single))


async def _letters(d: Dispatch) -> list[dict[str, Any]]:
    async with d.surroundings.sql("dispatch") as sql:
        return [dict(row) for row in await sql.fetch(LETTERS, CAMPAIGN_REQUESTS.name)]
