"""That somebody followed a link, as campaign-svc tells it: contact from them, which moves the end of their consent."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.contracts.campaign import LinkClicked
from common.db.database import Database
from common.kafka.subscription import Received
from consent.inbound import clicks
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, lookup, states
from tests.support.builders import inner
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.brokerless

STRANGER = "k1-00000000000000000000000000000001"


def click(subject_id: str, at: datetime, sender_id: str = "acme") -> Received:
    event = LinkClicked(
        subject_id=subject_id, sender_id=sender_id, campaign_id="c1", message_id="m1", link=1, clicked_at=at
    )
    return Received(event, subject_id, 0, 0, at + timedelta(seconds=1), None)


async def test_a_click_is_contact_once_a_day_and_of_a_stranger_nothing_is_held(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    database = Database(settings.database_url, pool_size=2)
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        assert (await client.post("/v1/consents", json=consent())).status_code == 201
        person = (await lookup(client))["subject_id"]
        first = datetime(2026, 5, 2, 20, 0, tzinfo=UTC)
        batch: list[Any] = [
            click(person, first),
            click(person, first + timedelta(hours=1)),  # the same day
            click(person, first, "globex"),  # they never met
            click(STRANGER, first),
            click(person, datetime(2026, 1, 1, tzinfo=UTC)),  # before the consent
        ]
        for records in (batch, batch, [click(person, first + timedelta(days=1))]):
            async with database.begin() as tx:
                await clicks.apply(inner, tx, records)
        history = (await lookup(client))["history"]
        assert [(e["kind"], e["source"], e["reference"]) for e in history[1:]] == [("contact", "click", "c1/m1")] * 2
        ends = [event.consents[0].expires_at for event in await states(surroundings)]
        assert [end.date().isoformat() for end in ends if end] == ["2029-03-02", "2029-05-02", "2029-05-03"]
        async with surroundings.sql("consent") as sql:
            assert await sql.fetchval("SELECT count(*) FROM subject") == 1
    await database.close()
