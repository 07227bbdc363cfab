"""consent-svc keeps nothing besides its ledger longer than it is needed; what comes again or late is still told from
what is new, and half a proof is never told as a whole one."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from common.db.database import Database
from common.privacy.pruning import Pruner
from common.sms.message_id import message_id
from consent.proof.store import HandedOff
from consent.retention.pruning import Periods, policy
from consent.service import Settings, build
from tests.service.consent.test_imports import imported, opened, part, recording, terms
from tests.service.consent.test_proofs import CONSENT, NUMBER, SENDER, campaign_bundle, checked
from tests.service.consent.test_proofs import kept as keep_handed_off
from tests.support.builders import field_keys, now, number, shown, subject
from tests.support.holdings import holdings, spellings
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.brokerless

COLUMNS = {
    "keyed_request": "created_at",
    "answer": "asked_at",
    "review": "since",
    "preference_link": "expires_at",
    "import_file": "touched_at",
}


@dataclass
class Kept:
    """consent-svc running, and time that can be let pass for what it keeps."""

    client: httpx.AsyncClient
    surroundings: Surroundings
    pruner: Pruner

    async def pass_days(self, days: float) -> None:
        """Everything but the ledger is older by as much; then what is past its time goes."""
        for table, column in COLUMNS.items():
            await self.rows(f"UPDATE {table} SET {column} = {column} - $1 * interval '1 day'", days)
        while await self.pruner.prune():
            pass

    async def rows(self, query: str, *args: Any) -> Sequence[Any]:
        async with self.surroundings.sql("consent") as sql:
            return [tuple(row) for row in await sql.fetch(query, *args)]

    async def post(self, path: str, body: dict[str, Any], key: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers={"Idempotency-Key": key})


@asynccontextmanager
async def kept_by(surroundings: Surroundings) -> AsyncIterator[Kept]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    database = Database(settings.database_url, pool_size=2)
    try:
        async with running(build(settings)) as client:
            assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
            yield Kept(client, surroundings, Pruner(database, policy(Periods()), batch=2))
    finally:
        await database.close()


@pytest.fixture
async def kept(surroundings: Surroundings) -> AsyncIterator[Kept]:
    async with kept_by(surroundings) as running_service:
        yield running_service


async def test_a_stop_under_a_key_that_was_forgotten_is_heard_and_the_same_request_is_still_the_same(
    kept: Kept,
) -> None:
    stop = {"sender_id": "acme", "number": NUMBER, "evidence": {"source": "call-centre"}}
    first = (await kept.post("/v1/consents", CONSENT, "key-1")).json()
    await kept.pass_days(34)
    assert (await kept.post("/v1/opt-outs", stop, "key-1")).status_code == 422
    await kept.pass_days(2)
    assert await kept.rows("SELECT count(*) FROM keyed_request") == [(0,)]

    again = await kept.post("/v1/consents", CONSENT, "key-1")
    assert again.json()["evidence_id"] == first["evidence_id"]
    await kept.pass_days(36)
    heard = await kept.post("/v1/opt-outs", stop, "key-1")
    assert (heard.status_code, heard.json()["evidence_id"] != first["evidence_id"]) == (201, True)
    assert await kept.rows("SELECT kind FROM evidence ORDER BY position") == [("opt_in",), ("opt_out",)]


async def test_an_erasure_under_the_key_of_another_persons_is_one_of_its_own(kept: Kept) -> None:
    asked = []
    for n in (1, 2):
        body = {"number": number(n), "evidence": {"source": "letter"}}
        answer = await kept.post("/v1/erasures", body, "key-1")
        assert answer.status_code == 202, answer.text
        asked.append(answer.json())
        await kept.pass_days(36)
    assert [one["subject_id"] for one in asked] == [shown(1, "acme"), shown(2, "acme")]


async def test_answers_closed_reviews_and_links_go_and_what_is_open_stays(kept: Kept) -> None:
    sealed = field_keys.seal(number(1), f"number:{subject(1)}")
    for n, days in enumerate((0, 34, 36, 36, 36)):
        at = now() - timedelta(days=days)
        await kept.rows("INSERT INTO answer VALUES ($1, $2, 'acme', 'stopped', $3)", uuid4(), subject(1), at)
        await kept.rows("INSERT INTO review VALUES ($1, $2, $3, 1, $4)", f"mo-{n}", subject(1), at, n == 4)
        await kept.rows(
            "INSERT INTO preference_link VALUES ($1, $2, $3, NULL, NULL, $4, $4)", f"link-{n}", subject(1), sealed, at
        )
    await kept.pass_days(0)
    assert await kept.rows("SELECT count(*) FROM answer") == [(2,)]
    assert await kept.rows("SELECT mo_id FROM review ORDER BY mo_id") == [("mo-0",), ("mo-1",), ("mo-4",)]
    assert await kept.rows("SELECT link_id FROM preference_link") == [("link-0",)]
    await kept.pass_days(1)
    async with kept.surroundings.sql("consent") as sql:
        assert await holdings(sql, spellings(number(1))) == []


async def test_what_was_said_in_a_rectification_goes_once_it_is_done_and_old_and_that_it_was_done_stays(
    kept: Kept,
) -> None:
    for n, (days, done) in enumerate(((395, True), (397, True), (397, False))):
        at = now() - timedelta(days=days)
        await kept.rows(
            "INSERT INTO rectification (rectification_id, subject_id, controller_id, kind, source, asked, annulled,"
            " requested_at, completed_at, rectified)"
            " VALUES ($1, $2, 'acme', 'contact', 'letter', 'sealed', false, $3, $4, '{}')",
            f"r-{n}", subject(1), at, at if done else None,
        )  # fmt: skip
    await kept.pass_days(0)
    left_over = await kept.rows("SELECT rectification_id, asked IS NULL FROM rectification ORDER BY 1")
    assert left_over == [("r-0", False), ("r-1", True), ("r-2", False)]


async def test_an_import_is_told_for_13_months_and_one_that_is_not_done_for_as_long_as_it_takes(
    kept: Kept, surroundings: Surroundings
) -> None:
    async with recording(surroundings):
        file = "number,occurred_at\n" + "".join(f"{number(n)},2026-03-02T14:05:00+01:00\n" for n in range(3))
        done = await imported(kept.client, terms(), file)
    waiting = await opened(kept.client, terms())
    await part(kept.client, waiting, f"number,occurred_at\n{number(9)},2026-03-02T14:05:00+01:00\n".encode())
    await kept.pass_days(395)
    assert (await kept.client.get(f"/v1/imports/{done['import_id']}")).json() == done
    await kept.pass_days(2)
    assert (await kept.client.get(f"/v1/imports/{done['import_id']}")).status_code == 404
    assert await kept.rows("SELECT import_id FROM import_file") == [(waiting,)]
    assert await kept.rows("SELECT import_id, body IS NULL FROM import_piece") == [(waiting, False)]
    assert await kept.rows("SELECT count(*) FROM evidence") == [(3,)]


def left(n: int, campaign_began: datetime, at: datetime) -> HandedOff:
    return HandedOff(
        message_id=str(message_id(campaign_began, "c1", subject(n), "0")),
        subject_id=subject(n),
        sender_id="acme",
        purpose="promotions",
        campaign_id="c1",
        handed_off_at=at,
        status="accepted",
        version=1,
    )


@pytest.mark.parametrize(("age_days", "messages", "status"), [(1820, 4, 200), (1827, 2, 410), (1900, 0, 404)])
async def test_the_bundle_of_a_campaign_holds_or_says_that_it_is_past_its_time(
    kept: Kept, surroundings: Surroundings, age_days: int, messages: int, status: int
) -> None:
    """It left in two halves, four days apart."""
    for n in range(4):
        assert (await kept.client.post("/v1/consents", json=CONSENT | {"number": number(n)})).status_code == 201
    began = now() - timedelta(days=age_days)
    halves = [left(n, began, began + timedelta(days=4 * (n % 2), hours=1)) for n in range(4)]
    await keep_handed_off(surroundings, *halves)
    await kept.pass_days(0)
    assert await kept.rows("SELECT count(*) FROM handed_off") == [(messages,)]
    answer = await campaign_bundle(kept.client)
    assert answer.status_code == status, answer.text
    if status == 200:
        report = await checked(kept.client, answer.content)
        assert (report.problems, sum(report.standings.values())) == ([], messages)
    else:
        assert answer.json()["reasons"][0]["field"] == "campaign_id"


async def test_consents_are_recorded_while_a_batch_is_under_way(kept: Kept) -> None:
    await kept.post("/v1/consents", CONSENT, "key-1")
    async with kept.surroundings.sql("consent") as sql, sql.transaction():
        await sql.execute("DELETE FROM keyed_request")  # a batch that does not end
        answer = await kept.post("/v1/consents", CONSENT | {"number": number(2)}, "key-2")
        assert answer.status_code == 201
