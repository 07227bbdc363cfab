"""The whole of campaign-svc, on a real broker: a sender arrives, a campaign goes out, dispatch's reports come back."""

import asyncio
from typing import Any

import httpx

from campaign.service import Settings, build
from common.contracts import CAMPAIGN_REQUESTS, CONTROLS, DISPATCH_MESSAGES, SENDERS
from common.contracts.campaign import CampaignControlled
from common.contracts.dispatch import MessagesChanged
from tests.service.campaign.campaigns import TEXT, balanced, changed, csv_of
from tests.service.inbound.published import published
from tests.support.builders import SENDER, sender_changed, subject
from tests.support.eventually import eventually
from tests.support.publish import publish
from tests.support.reading import requests_in
from tests.support.running import Surroundings, running

PEOPLE = range(60)


async def test_a_campaign_goes_out_and_its_reports_come_back(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("campaign", request_chunk=25))
    async with running(build(settings)) as client:
        await eventually(lambda: _ready(client))

        async def imported() -> bool:
            """The call waits for a sender that is on its way; on a busy machine not for long enough: it is repeated."""
            file = csv_of(*PEOPLE).encode()
            answer = await client.post("/v1/imports", params={"sender_id": SENDER}, content=file)
            assert answer.status_code == 201, answer.text
            return True

        # the sender is registered while the first call that needs it is already waiting
        importing = asyncio.create_task(eventually(imported))
        await publish(surroundings, SENDERS, [sender_changed()])
        await importing
        body = {
            "sender_id": SENDER,
            "name": "Samedi",
            "purpose": "promotions",
            "text": TEXT,
            "audience": {"all": True},
        }
        campaign_id = (await client.post("/v1/campaigns", json=body)).json()["campaign_id"]
        assert (await client.post(f"/v1/campaigns/{campaign_id}/schedule")).status_code == 200

        async def requested() -> list[Any]:
            found = requests_in(record.event for record in await published(settings, CAMPAIGN_REQUESTS))
            return found if len(found) == len(PEOPLE) else []

        requests = await eventually(requested)
        assert {r.subject_id for r in requests} == {subject(n) for n in PEOPLE}
        [control] = [record.event for record in await published(settings, CONTROLS)]
        assert isinstance(control, CampaignControlled)
        assert (control.key, control.control) == (campaign_id, "running")

        reports = [changed(campaign_id, subject(n), 1, "sending") for n in PEOPLE]
        reports += [
            changed(
                campaign_id, subject(n), 2, "accepted" if n % 3 else "denied", reasons=() if n % 3 else ("no_consent",)
            )
            for n in PEOPLE
        ]
        await publish(
            surroundings, DISPATCH_MESSAGES, [MessagesChanged(changes=(report,)) for report in reports + reports]
        )

        async def finished() -> dict[str, Any]:
            shown = (await client.get(f"/v1/campaigns/{campaign_id}")).json()
            balanced(shown["statistics"])
            return shown if shown["status"] == "finished" else {}

        statistics = (await eventually(finished))["statistics"]
        assert (statistics["accepted"], statistics["denied"], statistics["pending"]) == (40, 20, 0)
        assert statistics["denied_reasons"] == {"no_consent": 20}


async def _ready(client: httpx.AsyncClient) -> bool:
    response = await client.get("/readyz")
    assert response.status_code == 200, response.text
    return True
