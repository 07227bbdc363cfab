"""How long marketing is held, as `make chaos` sees it."""

from pathlib import Path

import aiohttp
import pytest

from chaos.load import Load
from chaos.watching import Watch
from stack.calling import Api
from tests.unit.chaos.test_chaos_faults import system


@pytest.mark.parametrize("age", [None, 2.1, -0.2], ids=["nobody knows", "too old", "of the future"])
async def test_marketing_is_held_on_what_the_gate_takes_for_no_knowledge(tmp_path: Path, age: float | None) -> None:
    async with aiohttp.ClientSession() as session:
        load = Load(Api(session, {}), seed=1, people=1, lasts_s=1.0)
        watch = Watch(system(tmp_path, 0, everything=False), load, print)
        for seen in (0.3, age, age, 1.9, -0.05):
            watch._sampled(seen)
    assert len(watch.holds) == 1
