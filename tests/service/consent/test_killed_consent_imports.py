"""An import of consents whose worker is killed. Apart from the others, which reach no broker: a whole worker does."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from common.files import cutting
from common.kafka.packing import unpacked
from tests.service.consent.test_imports import AT, consent_svc, done, opened, part, terms, verdicts
from tests.support.builders import number
from tests.support.eventually import eventually
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # a file and Postgres


async def test_killed_in_the_middle_it_goes_on_and_every_line_counts_once(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_LINES", 20)
    people = 1500
    file = "number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in range(people))
    async with consent_svc(surroundings) as client:
        import_id = await opened(client, terms())
        assert (await part(client, import_id, file.encode())).status_code == 204

        async def recorded() -> int:
            return int((await client.get(f"/v1/imports/{import_id}")).json()["recorded_pieces"])

        for at_least in (5, 40):
            async with _worker(surroundings) as process:
                await eventually(lambda least=at_least: _more_than(recorded, least), 60.0)  # type: ignore[misc]
                process.kill()
        async with _worker(surroundings):
            found = await done(client, import_id, 60.0)
        assert (found["created"], found["lines"], found["recorded_pieces"]) == (people, people, found["pieces"])
        lines = await verdicts(client, import_id)
        assert lines == [f"{n},created," for n in range(2, people + 2)]
    async with surroundings.sql("consent") as sql:
        rows = await sql.fetch("SELECT version, entries FROM subject")
        assert Counter((row["version"] > 0, row["entries"]) for row in rows) == {(True, 1): people}
        assert await sql.fetchval("SELECT count(*) FROM evidence") == people
        rows = await sql.fetch("SELECT type, payload FROM outbox WHERE topic = 'consent.states.v1'")
        told = [
            key for row in rows for key, _ in msgspec.msgpack.decode(unpacked(row["type"], row["payload"])[1] or b"")
        ]
        assert sorted(told) == sorted({*told})
        assert len(told) == people


async def _more_than(count: Any, least: int) -> bool:
    return bool(await count() > least)


@asynccontextmanager
async def _worker(surroundings: Surroundings) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own with the worker's role."""
    settings = await surroundings.settings("consent", roles="worker", port=0, import_backlog=10**6)
    told = {f"PLACET_{k.upper()}": v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "consent", env=os.environ | told)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
