"""What the load gives up over a database that lost commits, and what it does not."""

from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from chaos.checks import Loss
from chaos.load import GIVEN_AGO, Load, Round
from stack.calling import Api, DemoFailed


class Refused(Load):
    """Every round of it is refused."""

    async def round(self, one: Round) -> None:
        raise DemoFailed("GET /v1/campaigns/c: 404 no such campaign")


async def test_a_round_that_fails_is_given_up_only_where_a_database_has_lost_commits_since_it_began() -> None:
    async with aiohttp.ClientSession() as session:
        load = Refused(Api(session, {}), seed=1, people=25, lasts_s=1.0, most=1)
        load.losses.append(Loss("campaign", datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC)))
        with pytest.raises(ExceptionGroup):
            await load.run(1)
        assert load.rounds.pop().whole
        load.losses[0].until = None
        await load.run(1)
    assert (load.rounds[0].whole, load.rounds[0].over, load.rounds[0].finished) == (False, True, False)


async def test_some_consents_are_younger_than_a_slow_operators_clock_is_behind() -> None:
    async with aiohttp.ClientSession() as session:
        load = Load(Api(session, {}), seed=1, people=25, lasts_s=1.0)
        ages = [datetime.now(UTC) - load._next().given_at for _ in GIVEN_AGO]
    assert min(ages) < timedelta(seconds=150) < max(ages)
