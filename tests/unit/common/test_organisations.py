"""A wait for a sender that is on its way reads the database a few times, however long the wait."""

from collections.abc import Collection

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from common.web.auth.organisations import Organisations, pauses


@pytest.mark.parametrize("within_s", [0.0, 0.2, 0.5, 2.0, 60.0])
def test_the_pauses_take_the_whole_time_and_are_few(within_s: float) -> None:
    found = list(pauses(within_s))
    assert sum(found) == pytest.approx(within_s)
    assert len(found) <= 11
    assert all(0 < pause <= max(0.05, 2 * before) for before, pause in zip([0.025, *found], found, strict=False))


class Counted(Organisations):
    """Senders that nobody has registered, with a count of the reads."""

    reads = 0

    async def among(
        self, organisation: str, sender_ids: Collection[str], tx: AsyncConnection | None = None
    ) -> frozenset[str]:
        self.reads += 1
        return await super().among(organisation, sender_ids, tx)


async def test_a_sender_that_nobody_has_costs_a_few_reads() -> None:
    senders = Counted(None, arrive_within_s=0.5)
    assert not await senders.has("tests", "never-heard-of")
    assert 2 <= senders.reads <= 6
