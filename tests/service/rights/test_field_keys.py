"""Stored fields are encrypted anew by the current field key: texts, bytes and members of JSON."""

import base64
from typing import Any

import pytest

from campaign.service import SEALED as OF_CAMPAIGN
from common.keyring import FieldKeys
from common.privacy.resealing import command
from common.settings import KeyRingSettings
from consent.service import SEALED as OF_CONSENT
from dispatch.service import SEALED as OF_DISPATCH
from inbound.service import SEALED as OF_INBOUND
from tests.service.rights.four import SERVICES
from tests.support.builders import now, subject, subject_keys
from tests.support.running import KEY_RING, Surroundings

pytestmark = pytest.mark.brokerless

COLUMNS = {"consent": OF_CONSENT, "campaign": OF_CAMPAIGN, "dispatch": OF_DISPATCH, "inbound": OF_INBOUND}
NEW = {"n1": base64.b64encode(b"n" * 32).decode()}
DURING = KeyRingSettings.model_validate({"current": "n1", "keys": KEY_RING["keys"] | NEW})
OLD_KEYS, NEW_KEYS = (
    FieldKeys(KeyRingSettings.model_validate(ring), subject_keys) for ring in (KEY_RING, {"current": "n1", "keys": NEW})
)
PEOPLE = range(1, 600)  # more rows than a few blocks hold


async def test_every_text_and_every_piece_of_bytes_is_of_the_new_key_afterwards(surroundings: Surroundings) -> None:
    url = await surroundings.database("consent")
    async with surroundings.sql("consent") as sql:
        for n in PEOPLE:
            sealed = OLD_KEYS.seal(f"number {n}", f"number:{subject(n)}")
            await sql.execute(
                "INSERT INTO subject (subject_id, number, version) VALUES ($1, $2, $3)", subject(n), sealed, n
            )
        await sql.execute("INSERT INTO subject (subject_id) VALUES ('t1-without')")
        body = OLD_KEYS.seal_bytes(b"a piece", "import:i-1:3")
        await sql.execute(
            "INSERT INTO import_piece (import_id, position, first_line, lines, body, received_at)"
            " VALUES ('i-1', 3, 1, 1, $1, $2)",
            body,
            now(),
        )
        assert await command("consent", url, DURING, subject_keys, OF_CONSENT, []) == 1
        assert await command("consent", url, DURING, subject_keys, OF_CONSENT, ["--reseal"]) == 0
        assert await command("consent", url, DURING, subject_keys, OF_CONSENT, ["--reseal"]) == 0, "again"
        rows = {row["version"]: row for row in await sql.fetch("SELECT * FROM subject WHERE version > 0")}
        assert {n: NEW_KEYS.unseal(row["number"], f"number:{subject(n)}") for n, row in rows.items()} == {
            n: f"number {n}" for n in PEOPLE
        }
        kept = await sql.fetchval("SELECT body FROM import_piece")
        assert NEW_KEYS.unseal_bytes(kept, "import:i-1:3") == b"a piece"


async def test_the_fields_of_a_review_and_of_a_callback_are_of_the_new_key_afterwards(
    surroundings: Surroundings,
) -> None:
    url, who = await surroundings.database("inbound"), subject(1)
    event = (
        f'{{"mo_id":"mo-1","number":"{OLD_KEYS.seal("a number", f"number:{who}")}",'
        f'"text":"{OLD_KEYS.seal("a text", "text:mo-1")}","named":"","at":"2026-03-02T12:00:00Z"}}'
    )
    async with surroundings.sql("inbound") as sql:
        await sql.execute("INSERT INTO review (mo_id, subject_id, event) VALUES ('mo-1', $1, $2)", who, event)
        identity = await sql.fetchval(
            "INSERT INTO callback (id, provider, account, kind, received_at, outbox_ids)"
            " VALUES (gen_random_uuid(), 'simulator', 'main', 'messages', now(), '{}') RETURNING id"
        )
        body = OLD_KEYS.seal("a body", f"callback:{identity}")
        await sql.execute("UPDATE callback SET body = $1", body)
        assert await command("inbound", url, DURING, subject_keys, OF_INBOUND, ["--reseal"]) == 0
        told: Any = await sql.fetchrow(
            "SELECT event::jsonb->>'number' AS number, event::jsonb->>'text' AS text FROM review"
        )
        assert NEW_KEYS.unseal(told["number"], f"number:{who}") == "a number"
        assert NEW_KEYS.unseal(told["text"], "text:mo-1") == "a text"
        whole = await sql.fetchval("SELECT event FROM review")
        assert [whole.split(",")[0], *whole.split(",")[-2:]] == [event.split(",")[0], *event.split(",")[-2:]]
        assert NEW_KEYS.unseal(await sql.fetchval("SELECT body FROM callback"), f"callback:{identity}") == "a body"


async def test_what_no_key_opens_stays_and_is_told(
    surroundings: Surroundings, capsys: pytest.CaptureFixture[str]
) -> None:
    url, ring = await surroundings.database("consent"), DURING
    async with surroundings.sql("consent") as sql:
        await sql.execute("INSERT INTO subject (subject_id, number) VALUES ('t1-00', 't1.damaged')")
        assert await command("consent", url, ring, subject_keys, OF_CONSENT, ["--reseal"]) == 1
        assert await sql.fetchval("SELECT number FROM subject") == "t1.damaged"
    assert "subject.number: 0 encrypted anew, 1 left, 1 unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("service", SERVICES)
async def test_each_column_is_there_with_what_its_context_names(surroundings: Surroundings, service: str) -> None:
    async with surroundings.sql(service) as sql:
        for each in COLUMNS[service]:
            await sql.fetch(f"SELECT {', '.join((each.column, *each.named))} FROM {each.table} LIMIT 1")
