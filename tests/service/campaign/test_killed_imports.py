"""`kill -9` of a campaign-svc that records a file: the next process goes on, and every line counts once."""

import signal

import pytest

from campaign.service import Settings, build
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, number, shown
from tests.support.eventually import eventually
from tests.support.failing import Point, ended, start
from tests.support.uploading import patched

pytestmark = pytest.mark.any_broker  # a file and Postgres

WITHIN_S = 90.0  # on a machine that is busy
RECORDED = "campaign.imports.store:put_recorded"
PEOPLE, LINES = 900, 45_000  # three transactions, of which each brings everybody again; every 50th is nobody's number
FILE = "mobile;n\n" + "".join(f"{number(n % PEOPLE) if n % 50 else '36111'};{n}\n" for n in range(LINES))


async def test_who_is_killed_between_two_checkpoints_is_followed_and_no_line_counts_twice(campaigns: Campaigns) -> None:
    settings = Settings(**await campaigns.surroundings.settings("campaign", roles="worker"))
    body = FILE.encode()
    opened = await campaigns.imported(b"", headers={"Upload-Length": str(len(body))})
    path = f"imports/{opened['import_id']}"
    assert (await patched(campaigns.client, f"/v1/{path}", body, 0)).status_code == 204
    assert (await campaigns.get(path))["status"] == "recording"
    before, behind = Point("before", RECORDED), Point("committed", RECORDED)
    for point, line in ((before, 0), (behind, 21_000), (before, 21_000)):
        process = await start(build, settings, point)
        assert await ended(process, WITHIN_S) == -signal.SIGKILL
        found = await campaigns.get(path)
        assert (found["status"], found["line"], found["lines"]) == ("recording", line, max(line - 1, 0))
        assert found["lines"] == sum(found[name] for name in ("created", "updated", "duplicates", "refused"))
    process = await start(build, settings)
    try:
        await eventually(lambda: _done(campaigns, path), WITHIN_S)
    finally:
        process.kill()
        process.join()
    found = await campaigns.get(path)
    there = PEOPLE - PEOPLE // 50  # whoever has a number that is a multiple of 50 is never brought
    assert [found[name] for name in ("lines", "created", "updated", "refused")] == [LINES, there, 0, LINES // 50]
    assert found["duplicates"] == LINES - LINES // 50 - there
    async with campaigns.surroundings.sql("campaign") as sql:
        refused = [row["line"] for row in await sql.fetch("SELECT line FROM import_refusal ORDER BY line")]
        assert refused == list(range(2, LINES + 2, 50))
        assert await sql.fetchval("SELECT count(*) FROM contact") == there
        assert await sql.fetchval("SELECT count(*) FROM import_piece") == 0
    last = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": number(899)})
    assert (last["subject_id"], last["attributes"]) == (shown(899), {"n": str(LINES - 1)})


async def _done(campaigns: Campaigns, path: str) -> bool:
    return bool((await campaigns.get(path))["status"] == "done")
