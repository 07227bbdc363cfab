"""inbound-svc with another subject key under the same key id: no STOP is lost, no advertisement goes, and it shows."""

import base64

from common.contracts import STATES, Watermark
from common.contracts.consent import ConsentStateChanged
from consent.service import Settings, build
from tests.service.inbound.test_webhooks import inbound
from tests.support.builders import now, subject
from tests.support.eventually import eventually
from tests.support.reading import reading
from tests.support.running import CALLED, Surroundings, running

ANOTHER_KEY = {"current": "t1", "keys": {"t1": base64.b64encode(b"o" * 32).decode()}}
HEARD = "SELECT sum(next_offset), max(as_of) FROM consumer_offset WHERE consumer_group = 'consent.inbound'"
ROUNDS = 6  # of watermarks: more than `max_clock_skew_s` of them


async def test_a_stop_that_comes_by_a_service_with_another_subject_key_counts_and_marketing_is_held(
    surroundings: Surroundings,
) -> None:
    settings = Settings(**await surroundings.settings("consent"))
    async with running(build(settings)) as consent, reading(surroundings, STATES) as read:

        async def vouched() -> bool:
            assert any(isinstance(event, Watermark) for event in await read())
            return True

        async def stopped() -> bool:
            who = [event.subject_id for event in await read() if isinstance(event, ConsentStateChanged)]
            assert who == [subject(1)]
            return True

        async def says_whose() -> bool:
            answer = await consent.get("/readyz")
            assert answer.status_code == 503
            [why] = answer.json()["why"]
            assert "inbound-svc and consent-svc have different subject keys under the id 't1'" in why
            return True

        async with inbound(surroundings):
            await eventually(vouched)
        async with inbound(surroundings, subject_keys=ANOTHER_KEY, roles=CALLED) as wrong:

            async def kept() -> bool:
                assert (await wrong.text("STOP")).status_code == 200
                return True

            await eventually(kept)
            since = now()
            await eventually(stopped)
            await eventually(says_whose)
            async with surroundings.sql("consent") as sql:
                before, _ = await sql.fetchrow(HEARD)

                async def hears_watermarks_of_afterwards() -> bool:
                    heard, as_of = await sql.fetchrow(HEARD)
                    assert as_of < since
                    return bool(heard >= before + ROUNDS * surroundings.partitions)

                await eventually(hears_watermarks_of_afterwards)
        async with inbound(surroundings):

            async def goes_on() -> bool:
                assert (await consent.get("/readyz")).status_code == 200
                return any(event.as_of > since for event in await read() if isinstance(event, Watermark))

            await eventually(goes_on)
