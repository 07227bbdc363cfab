"""The registry of consent-svc in shards, where two databases do not commit, or are not restored, together."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from common.kafka.subscription import Hold, Received
from consent.answers.answers import Answers
from consent.inbound.messages import Intake
from consent.senders.copying import Mending
from consent.service import build
from tests.service.consent.test_consent_api import consent
from tests.service.consent.test_consent_intake import mo
from tests.service.consent.test_shards_registry import (
    BREAK,
    BROKEN,
    GHOST,
    NOWHERE,
    RULES,
    SENDER,
    Divided,
    divided,
    people,
    same,
    settings,
)
from tests.support.builders import field_keys, number, subject_keys
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running
from tests.unit.consent.evidences import NOW

A, B = people("a", 1)[0], people("b", 1)[0]
EARLIER, LATER = "2026-01-01T09:00:00Z", "2026-04-01T09:00:00Z"
pytestmark = pytest.mark.any_broker  # rows of databases, and what is published of them by a relay

RULE = {"purpose": "promotions", "reason": "Signed forms"}
WHY = {"reason": "No forms"}


async def said_by(both: Divided, shard: str, *messages: Any) -> None:
    """What arrives by SMS from people of a shard."""
    async with both.shards(shard) as shards, shards.own.database.begin() as tx:
        batch = [Received(m, m.subject_id, 0, n, NOW, None) for n, m in enumerate(messages)]
        await Intake(field_keys, subject_keys, Answers(field_keys, per_day=50, fictional=True)).apply(tx, batch)


async def stopped(both: Divided, *which: int) -> None:
    """Registered, and people who consented and sent STOP."""
    assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
    for n in which:
        assert await asserted(both, n, EARLIER)
        await said_by(both, "a" if n == A else "b", mo(1, who=n, mo_id=f"s{n}", provider_message_id=f"s{n}"))
        assert not await asserted(both, n, LATER)


async def asserted(both: Divided, n: int, when: str) -> bool:
    """Whether an asserted opt-in counts."""
    answer = await both.clients["a"].post("/v1/consents", json=consent(number=number(n), occurred_at=when))
    assert answer.status_code in (200, 201), answer.text
    return bool(answer.json()["effective"])


async def in_force(both: Divided) -> dict[str, int]:
    return await both.counted("SELECT count(*) FROM reopening_rule WHERE ended_at IS NULL")


@pytest.mark.parametrize("asked_at", ["a", "b"])
async def test_a_rule_that_was_never_decided_reopens_nothing(surroundings: Surroundings, asked_at: str) -> None:
    async with divided(surroundings, roles="api") as both:
        await stopped(both, A, B)
        for statement in BREAK:
            await both.sql("a", statement)
        assert (await both.clients[asked_at].post(RULES, json=RULE)).status_code == 500
        assert await in_force(both) == {"a": 0, "b": 0}
        for n in (A, B):
            assert not await asserted(both, n, datetime.now(UTC).isoformat())
        decisions = "SELECT count(*) FROM audit_line WHERE route LIKE '%reopening-rules'"
        assert await both.counted(decisions) == {"a": 0, "b": 0}


@pytest.mark.parametrize("asked_at", ["a", "b"])
async def test_a_sender_of_a_registration_that_failed_is_remembered_by_no_process(
    surroundings: Surroundings, asked_at: str
) -> None:
    """The id is free again, and another organisation registers it."""
    strangers = bearer(organisation="strangers", scope=ALL_SCOPES.replace(" platform:admin", ""))

    async def listed(caller: dict[str, str]) -> int:
        return (await both.clients[asked_at].get("/v1/opt-outs?sender_id=ghost", headers=caller)).status_code

    async with divided(surroundings, roles="api") as both:
        for statement in BREAK:
            await both.sql("a", statement)
        assert (await both.clients[asked_at].post("/v1/senders", json=GHOST, headers=bearer())).status_code == 500
        assert await listed(bearer()) == (404 if asked_at == "a" else 200), "the copy is ahead"
        for table in BROKEN:
            await both.sql("a", f"DROP TRIGGER breaks ON {table}")
        await both.mend()
        assert await listed(bearer()) == 404
        registered = await both.clients["a"].post("/v1/senders", json=GHOST, headers=strangers)
        assert registered.status_code == 201, registered.text
        assert await listed(bearer()) == 404
        assert await listed(strangers) == 200


async def test_a_decided_rule_that_a_shard_could_not_copy_is_copied_by_its_timer(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await stopped(both, A, B)
        for statement in BREAK:
            await both.sql("b", statement)
        assert (await both.clients["b"].post(RULES, json=RULE)).status_code == 201
        assert await in_force(both) == {"a": 1, "b": 0}
        assert await asserted(both, A, datetime.now(UTC).isoformat())
        assert not await asserted(both, B, datetime.now(UTC).isoformat()), "the safe side"
        for table in BROKEN:
            await both.sql("b", f"DROP TRIGGER breaks ON {table}")
        await both.mend()
        assert await asserted(both, B, datetime.now(UTC).isoformat())
        await same(both)


async def test_the_end_of_a_rule_waits_for_no_shard_and_is_in_each_that_answers(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await stopped(both, B)
        rule_id = (await both.clients["a"].post(RULES, json=RULE)).json()["rule_id"]
        assert await in_force(both) == {"a": 1, "b": 1}
        for statement in (
            BREAK[0],
            "CREATE CONSTRAINT TRIGGER breaks AFTER UPDATE ON reopening_rule DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION breaks()",
        ):
            await both.sql("a", statement)
        assert (await both.clients["a"].post(f"{RULES}/{rule_id}/end", json=WHY)).status_code == 500
        assert await in_force(both) == {"a": 1, "b": 0}, "what tightens is ahead"
        await both.mend()
        assert await in_force(both) == {"a": 1, "b": 1}
        await both.sql("a", "DROP TRIGGER breaks ON reopening_rule")
    cut_off = await settings(surroundings, both.urls | {"b": NOWHERE}, "a", roles="api")
    async with running(build(cut_off)) as client:
        ended = await client.post(f"{RULES}/{rule_id}/end", json=WHY)
        assert ended.status_code == 200, ended.text
    assert await in_force(both) == {"a": 0, "b": 1}
    async with running(build(both.settings["b"])):
        assert await in_force(both) == {"a": 0, "b": 0}, "before its api goes on"
        await same(both)


OTHER = SENDER | {"sender_id": "other", "oadc": "OTHER", "brand": "Other", "legal_name": "Other SAS"}
LONG_AGO = (
    "UPDATE organisation SET created_at = created_at - interval '1 day'",
    "UPDATE controller SET created_at = created_at - interval '1 day'",
    "UPDATE owned_name SET since = since - interval '1 day'",
    "UPDATE sender SET created_at = created_at - interval '1 day', updated_at = updated_at - interval '1 day'",
    "UPDATE sender_version SET in_force_from = in_force_from - interval '1 day'",
    "UPDATE reopening_rule SET begun_at = begun_at - interval '1 day'",
)


async def test_senders_that_a_restored_first_shard_has_lost_stay_until_they_are_registered_again(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings, roles="api") as both:
        client = both.clients["b"]
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        changed = {name: value for name, value in SENDER.items() if name != "sender_id"}
        for code in ("36222", "36111"):
            assert (await client.put("/v1/senders/acme", json=changed | {"stop_code": code})).status_code == 200
        assert (await client.post("/v1/senders", json=OTHER)).status_code == 201
        assert (await client.post(RULES, json=RULE)).status_code == 201
        for statement in LONG_AGO:
            for name in both.urls:
                await both.sql(name, statement)
        held = await same(both)
        for statement in (
            "DELETE FROM sender WHERE sender_id = 'other'",
            "DELETE FROM sender_version WHERE sender_id = 'other' OR version > 1",
            "UPDATE sender SET version = 1, stop_code = '36111', stop_codes = '{36111}'",
            "DELETE FROM reopening_rule",
        ):
            await both.sql("a", statement)
        await both.mend()
        left = await both.registry("b")
        assert [left[table] for table in ("sender", "sender_version")] == [held["sender"], held["sender_version"]]
        assert await in_force(both) == {"a": 0, "b": 0}, "nobody could end the rule at the first shard"
    async with running(build(both.settings["b"])) as client:
        [remark] = (await client.get("/readyz")).json()["remarks"]
        assert "acme, other" in remark
        assert (await client.put("/v1/senders/acme", json=changed | {"stop_code": "36333"})).status_code == 200
        assert (await client.post("/v1/senders", json=OTHER)).status_code == 201
        assert (await client.post(RULES, json=RULE)).status_code == 201
        codes = "SELECT stop_codes FROM sender WHERE sender_id = 'acme'"
        assert (await both.sql("b", codes))[0][0] == ["36111", "36222", "36333"]
        assert await in_force(both) == {"a": 1, "b": 1}
        await client.put("/v1/senders/acme", json=changed | {"stop_code": "36222"})
        await both.mend()
    async with running(build(both.settings["b"])) as client:
        assert (await client.get("/readyz")).json()["remarks"] == []


async def test_texts_wait_for_a_first_comparison_of_the_registry(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await stopped(both)
        async with both.shards("b") as shards, shards.own.database.begin() as tx:
            intake = Intake(field_keys, subject_keys, Answers(field_keys, per_day=50, fictional=True))
            mending = Mending(shards)
            handle = mending.behind(intake.subscription()).handle
            message = mo(1, who=B, mo_id="s", provider_message_id="s")
            batch = [Received(message, message.subject_id, 2, 0, NOW, None)]
            with pytest.raises(Hold):
                await handle(tx, batch)
            await mending.begin()
            await handle(tx, batch)
        assert await both.counted("SELECT count(*) FROM evidence") == {"a": 0, "b": 1}


async def test_a_question_waits_a_moment_for_the_pace_in_the_first_shard(surroundings: Surroundings) -> None:
    """Meanwhile it holds a connection of the person's shard, and the person's number."""
    async with divided(surroundings, roles="api", page_url="https://p.example") as both:
        await stopped(both)
        form = consent(number=number(B), occurred_at=datetime.now(UTC).isoformat())
        connection = await asyncpg.connect(both.urls["a"])
        try:
            async with connection.transaction(), asyncio.timeout(30):
                await connection.execute("LOCK TABLE double_opt_in_pace")
                assert (await both.clients["b"].post("/v1/double-opt-ins", json=form)).status_code == 503
        finally:
            await connection.close()
        assert (await both.clients["b"].post("/v1/double-opt-ins", json=form)).status_code == 202
