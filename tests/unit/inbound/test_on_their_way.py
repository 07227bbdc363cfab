"""The next transaction of DLRs waits for the answers to those before, and never for long."""

import asyncio

import pytest

from inbound import webhooks
from inbound.webhooks import OnTheirWay
from tests.support.eventually import WITHIN_S


async def test_dlrs_wait_until_the_callbacks_before_them_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE_S", WITHIN_S)
    monkeypatch.setattr(webhooks, "RETURNING_S", 0.0)
    way = OnTheirWay()
    with way:
        with way:
            waiting = asyncio.create_task(way.answered())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done(), "one of the two has no answer"
    await asyncio.wait_for(waiting, WITHIN_S)


async def test_dlrs_wait_for_no_callback_that_kafka_holds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE_S", 0.001)
    way = OnTheirWay()
    with way:
        await asyncio.wait_for(way.answered(), WITHIN_S)


async def test_dlrs_wait_for_no_callback_while_none_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE_S", 2 * WITHIN_S)
    way = OnTheirWay()
    with way:
        pass
    await asyncio.wait_for(way.answered(), WITHIN_S)
