"""inbound-svc with another subject key under the same key id: no STOP is lost, no advertisement goes, and it shows."""

import base64
from collections.abc import Awaitable, Callable

from common.contracts import STATES, Watermark
from common.contracts.consent import ConsentStateChanged
from common.keyring import fingerprints
from common.settings import SubjectRingSettings
from consent.service import Settings, build
from tests.service.inbound.test_webhooks import inbound
from tests.support.builders import now, subject
from tests.support.eventually import eventually
from tests.support.reading import reading
from tests.support.running import CALLED, SUBJECT_RING, Surroundings, running

ANOTHER_KEY = SUBJECT_RING | {"keys": {"h1": base64.b64encode(b"o" * 32).decode()}}
HEARD = "SELECT sum(next_offset), max(as_of) FROM consumer_offset WHERE consumer_group = 'consent.inbound'"
ROUNDS = 6  # of watermarks: more than `max_clock_skew_s` of them


async def test_a_relay_without_keys_tells_those_that_the_ids_are_made_with(surroundings: Surroundings) -> None:
    told = await surroundings.settings("consent", roles="api,worker,projection")
    alone = await surroundings.settings("consent", roles="relay", subject_keys=None, field_keys=None)
    async with inbound(surroundings), reading(surroundings, STATES) as read, running(build(Settings(**alone))):

        def tells(keys: dict[str, str]) -> Callable[[], Awaitable[bool]]:
            async def look() -> bool:
                marks = [event for event in await read() if isinstance(event, Watermark)]
                return bool(marks) and marks[-1].subject_keys == keys

            return look

        async with running(build(Settings(**told))):
            await eventually(tells(fingerprints(SubjectRingSettings.model_validate(SUBJECT_RING))))
        async with running(build(Settings(**told | {"subject_keys": ANOTHER_KEY}))):
            await eventually(tells(fingerprints(SubjectRingSettings.model_validate(ANOTHER_KEY))))


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
            assert "inbound-svc and consent-svc have different subject keys under the id 'h1'" in why
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
