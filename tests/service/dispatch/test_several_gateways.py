"""Two gateways: which one a message takes, and what is never given to the other."""

from typing import Any

from common.contracts import INBOUND_RECEIPTS
from tests.builders import opted_in, receipt, requested
from tests.eventually import eventually
from tests.operator import TOKEN, operator
from tests.publish import publish
from tests.running import Surroundings
from tests.service.dispatch.test_dispatch import PATIENT_S, dispatch

CHEAP, DEAR = "simulator", "simulator.dear"


async def test_what_the_first_gateway_never_had_goes_by_the_second_and_what_it_may_have_had_does_not(
    surroundings: Surroundings,
) -> None:
    async with operator() as cheap, operator() as dear:
        second: dict[str, Any] = {
            "provider": "simulator",
            "account": "dear",
            "url": dear.url,
            "secret": TOKEN,
            "routes": [{"territories": ["FR"], "price": "0.08"}],
        }
        async with dispatch(surroundings, cheap, gateways=[second]) as d:
            await d.publish_states(*(opted_in(n) for n in range(1, 5)))
            await d.request(usual := requested(1))
            assert (await eventually(d.becomes(usual.message_id, "accepted")))["gateway"] == CHEAP

            cheap.answer = "drop"
            await d.request(lost := requested(2))
            assert (await eventually(d.becomes(lost.message_id, "unknown")))["gateway"] == CHEAP

            cheap.answer = "unknown"  # our token: nothing is taken until somebody acts
            await d.request(moved := requested(3))
            found = await eventually(d.becomes(moved.message_id, "accepted"), within_s=PATIENT_S)
            assert found["gateway"] == DEAR
            told = receipt("delivered", gateway_id=f"op-{moved.message_id}", account="dear")
            foreign = receipt("failed", gateway_id=f"op-{moved.message_id}")
            await publish(surroundings, INBOUND_RECEIPTS, [foreign, told])

            async def delivered() -> bool:
                return bool((await d.message(moved.message_id))["receipt"] == "delivered")

            await eventually(delivered)
            assert cheap.references == [usual.message_id, lost.message_id]
            assert dear.references == [moved.message_id]
