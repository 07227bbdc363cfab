"""kill -9 of each service in the middle of erasures: after a restart all of them go on, to the certificate."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from stack.running import running_stack
from tests.e2e.test_promises import Placet, number
from tests.support.eventually import eventually
from tests.support.infrastructure import KAFKA

AT_ONCE = 12  # erasures under way at each kill
SERVICES = ("consent", "campaign", "dispatch", "inbound")


# on Kafka test_demo_survives.py shows how services come back, and service/rights/test_erasure.py an erasure's topics
@pytest.mark.any_broker
async def test_erasures_survive_a_kill_of_each_service(tmp_path: Path) -> None:
    async with (
        running_stack(tmp_path, kafka=KAFKA, durable=False) as stack,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {stack.token}"}, timeout=30) as http,
    ):
        placet = Placet(stack, http)
        sender = await placet.new_sender("36207")
        people = range(700, 700 + AT_ONCE * len(SERVICES))
        await placet.contacts(sender, people)
        asked: list[str] = []
        for place, service in enumerate(SERVICES):
            mine = people[place * AT_ONCE : (place + 1) * AT_ONCE]
            for n in mine:
                await placet.consent(sender, n, datetime.now(UTC) - timedelta(days=1))
                await placet.reply(n, "merci", "36207")
            found = await asyncio.gather(*(erasure(placet, n) for n in mine))
            assert all(each["status"] == "open" for each in found)
            stack.kill(service)
            await stack.restart(service)
            asked += [each["erasure_id"] for each in found]

        async def complete() -> list[Any]:
            page = await placet.call("GET", "consent", "/v1/erasures?status=complete")
            assert {each["erasure_id"] for each in page["items"]} == set(asked), page
            return list(page["items"])

        for each in await eventually(complete):
            done = {service["service"]: service["erased"] for service in each["services"]}
            lines = done["consent"].pop("evidence")
            # the opt-in, two opt-outs; their text is a contact too, unless it came late, with nothing to erase in it
            assert lines in (3, 4), each
            assert done == {
                "campaign": {"contacts": 1, "links": 0, "conversions": 0},
                "consent": {"links": 0, "copies": 0, "rectifications": 0, "questions": 0},
                "dispatch": {"messages": 0},
                "inbound": {"callbacks": 1, "reviews": 0, "parts": 0},
            }
        again = await placet.contacts(sender, people)
        assert again["reasons"] == {"erased": len(people)}
        for n in people:
            state = await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)})
            assert [consent["state"] for consent in state["consents"]] == ["opted_out"]
            assert {line["text_shown"] for line in state["history"]} == {None}


async def erasure(placet: Placet, n: int) -> Any:
    body = {"number": number(n), "evidence": {"source": "call-centre", "actor": "agent-12"}}
    return await placet.call("POST", "consent", "/v1/erasures", body)
