"""One pass publishes the states of every partition that is named, and of no other."""

import asyncio

import msgspec
import pytest

from common.contracts.consent import ConsentStateChanged
from common.db.database import Database, fetch_many
from common.kafka.broker import partitions_of
from consent.ledger import republishing
from consent.ledger.recorder import Statement, record
from consent.ledger.republishing import Republishing
from tests.support.builders import inner
from tests.support.eventually import eventually
from tests.unit.consent.evidences import NOW, opt_in

pytestmark = pytest.mark.brokerless

PARTITIONS = 6
PEOPLE = [f"s{n}" for n in range(30)]
PLACE = dict(zip(PEOPLE, partitions_of([each.encode() for each in PEOPLE], PARTITIONS), strict=True))


async def taken(database: Database) -> list[ConsentStateChanged]:
    """Take what waits in the outbox, as the relay does."""
    async with database.begin() as tx:
        rows = await fetch_many(tx, "DELETE FROM outbox WHERE topic = 'consent.states.v1' RETURNING payload")
    return [msgspec.json.decode(payload, type=ConsentStateChanged) for (payload,) in rows]


@pytest.mark.parametrize("wanted", [{2}, {0, 3, 5}, set(range(PARTITIONS))])
async def test_the_states_of_the_named_partitions_are_published_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, wanted: set[int]
) -> None:
    monkeypatch.setattr(republishing, "PAGE", 7)  # several pages
    async with database.begin() as tx:
        await record(tx, inner, [Statement(each, f"sealed {each}", opt_in(n)) for n, each in enumerate(PEOPLE)], NOW)
    before = {state.subject_id: state for state in await taken(database)}
    assert before.keys() == set(PEOPLE)
    again = list[ConsentStateChanged]()

    async def relayed() -> bool:
        again.extend(await taken(database))
        return running.done()

    running = asyncio.create_task(Republishing(database, PARTITIONS, lambda _: None).run(wanted))
    await eventually(relayed)
    again += await taken(database)
    expected = [each for each in PEOPLE if PLACE[each] in wanted]
    assert sorted(state.subject_id for state in again) == sorted(expected)
    assert await running == len(expected) > 0
    assert {state.subject_id: state.version for state in again} == {each: before[each].version for each in expected}
