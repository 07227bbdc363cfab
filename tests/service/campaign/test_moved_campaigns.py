"""A campaign under way whose recipients get ids of another order: each is asked for once."""

import base64

import pytest

from campaign.campaigns.recipients import LET_ALL_WAIT
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import subject
from tests.support.running import KEY_RING, OUTER_RING, SUBJECT_RING

pytestmark = pytest.mark.brokerless

NEW = {"current": "t2", "keys": OUTER_RING["keys"] | {"t2": base64.b64encode(b"n" * 32).decode()}}
MOVING = SubjectKeys(SubjectRingSettings.model_validate(SUBJECT_RING | {"outer": NEW}))
TABLES = ("recipient", "contact", "standing")


async def move(campaigns: Campaigns, *people: int) -> None:
    """As `keys --subjects`, which would refuse to move the rows of a running service."""
    async with campaigns.surroundings.sql("campaign") as sql:
        for statement in LET_ALL_WAIT * 2:  # a run that ended early is repeated
            await sql.execute(statement)
        for n in people:
            for table in TABLES:
                moved = MOVING.current(subject(n))
                await sql.execute(f"UPDATE {table} SET subject_id = $1 WHERE subject_id = $2", moved, subject(n))
    campaigns.planner._field_keys = FieldKeys(KeyRingSettings.model_validate(KEY_RING), MOVING)


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
async def test_after_a_move_each_recipient_of_a_campaign_under_way_is_asked_for_once(
    campaigns: Campaigns, chunks: int
) -> None:
    people = range(1, 26)
    await campaigns.started(*people)
    for _ in range(chunks):
        assert await campaigns.planner.expand()
    before = await campaigns.requests()
    assert len(before) == min(10 * chunks, 25)
    await move(campaigns, *people)
    while await campaigns.planner.expand():
        pass
    asked = await campaigns.requests()
    assert len(asked) == len({each.message_id for each in asked}) == 25
    assert {MOVING.current(each.subject_id) for each in asked} == {MOVING.current(subject(n)) for n in people}
    assert all(each.subject_id.startswith("t2-") for each in asked[len(before) :])
