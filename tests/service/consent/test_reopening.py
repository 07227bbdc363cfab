"""After a STOP of the person's own: what a caller asserts is kept and opens nothing, and only the person comes back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from common.contracts.dispatch import MessagesChanged
from common.db.database import Database
from common.kafka.subscription import Received
from consent.answers.answers import Answers
from consent.inbound import messages as intake
from consent.inbound.opt_out_receipts import Receipts
from consent.ledger.recorder import Statement, publish_again, record
from consent.ledger.rules import Evidence
from consent.proof.audit import Audit
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out, reasons, states
from tests.service.consent.test_consent_intake import mo
from tests.service.consent.test_consent_receipts import message
from tests.service.consent.test_imports import imported, recording, suppressions, terms, verdicts
from tests.support.builders import field_keys, inner, number, subject, subject_keys
from tests.support.each_of import each_of
from tests.support.running import Surroundings, bearer, running
from tests.unit.consent.evidences import NOW, at, on_page
from tests.unit.consent.evidences import opt_out as left

pytestmark = pytest.mark.brokerless

SISTER = SENDER | {"sender_id": "outlet", "oadc": "OUTLET", "stop_code": "36222", "controller": "acme"}
PAGE, OUI = ["double_opt_in", "preference_page"], ["start", "double_opt_in", "preference_page"]
LATER = datetime(2026, 4, 1, 9, tzinfo=UTC)  # than every STOP here
EARLIER = datetime(2026, 1, 1, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Here:
    """The API, and the database under it."""

    client: httpx.AsyncClient
    database: Database
    surroundings: Surroundings

    async def says(self, *messages: Any) -> None:
        """What arrives by SMS."""
        answers = Answers(field_keys, per_day=50, fictional=True)
        batch = [Received(m, m.subject_id, 0, n, NOW, None) for n, m in enumerate(messages)]
        async with self.database.begin() as tx:
            await intake.Intake(field_keys, subject_keys, answers).apply(tx, batch)

    async def presses(self, n: int, evidence: Evidence) -> None:
        async with self.database.begin() as tx:
            await record(tx, inner, [Statement(subject(n), sealed(n), evidence)], NOW)

    async def told_by_operator(self, n: int) -> None:
        stopped = replace(message(1), message_id=f"01a2106a-b86f-824b-bc66-{n:012x}", subject_id=subject(n))
        event = MessagesChanged(changes=(replace(stopped, number=sealed(n)),))
        async with self.database.begin() as tx:
            await Receipts(field_keys, subject_keys).apply(tx, [Received(event, subject(n), 0, n, at(2), None)])

    async def asserts(self, n: int, when: datetime = LATER, **changes: Any) -> dict[str, Any]:
        body = consent(number=number(n), occurred_at=when.isoformat()) | changes
        answer = await self.client.post("/v1/consents", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def records_opt_out(self, n: int, **changes: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/opt-outs", json=opt_out(number=number(n)) | changes)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def known(self, n: int) -> dict[str, Any]:
        return dict((await self.client.post("/v1/subjects/lookup", json={"number": number(n)})).json())

    async def may(self, n: int) -> bool:
        body = {"sender_id": "acme", "purpose": "promotions", "numbers": [number(n)]}
        return bool((await self.client.post("/v1/consents/check", json=body)).json()["results"][0]["allowed"])

    async def begins_rule(self, reason: str = "Signed forms", **more: Any) -> dict[str, Any]:
        body = {"purpose": "promotions", "reason": reason}
        answer = await self.client.post("/v1/senders/acme/reopening-rules", json=body, **more)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    async def ends_rule(self, rule_id: str, reason: str = "Audit") -> dict[str, Any]:
        path = f"/v1/senders/acme/reopening-rules/{rule_id}/end"
        answer = await self.client.post(path, json={"reason": reason})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def sealed(n: int) -> str:
    return field_keys.seal(number(n), f"number:{subject(n)}")


@pytest.fixture
async def here(surroundings: Surroundings) -> AsyncIterator[Here]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    database = Database(await surroundings.database("consent"))
    async with running(build(settings)) as client:
        for sender in (SENDER, SISTER):
            assert (await client.post("/v1/senders", json=sender)).status_code == 201
        yield Here(client, database, surroundings)
        async with database.begin() as tx:  # after whatever a test has done
            assert [found async for found in Audit(tx, inner).findings()] == []
    await database.close()


Stopped = Callable[[Here, int], Awaitable[Any]]


async def by_list(here: Here, n: int) -> None:
    listed = {"sender_id": "acme", "provider": "ovh", "list": f"number\n{number(n)}\n"}
    assert (await here.client.post("/v1/reconciliations", json=listed)).status_code == 200


STOPS: list[tuple[str, Stopped, str, list[str]]] = [
    ("text", lambda h, n: h.says(mo(1, who=n, mo_id=f"s{n}", provider_message_id=f"s{n}")), "controller", OUI),
    ("text to its sister", lambda h, n: h.says(mo(1, who=n, mo_id=f"s{n}", short_code="36222")), "controller", OUI),
    ("text to all", lambda h, n: h.says(mo(1, who=n, mo_id=f"s{n}", everyone=True)), "everyone", OUI),
    ("page, one purpose", lambda h, n: h.presses(n, pressed(n, purpose="promotions")), "purpose", PAGE),
    ("page, all", lambda h, n: h.presses(n, pressed(n)), "controller", OUI),
    ("receipt", lambda h, n: h.told_by_operator(n), "controller", OUI),
    ("list", by_list, "controller", OUI),
]


def pressed(n: int, **changes: Any) -> Evidence:
    return left(1, source="preference_page", evidence_id=f"ev-page-{n}", **changes)


async def test_an_asserted_opt_in_opens_no_stop_of_the_persons_own_and_its_answer_says_what_would(here: Here) -> None:
    """Whichever way the person stopped, whenever the opt-in is dated, by whichever call: the record alone grows."""
    now = datetime.now(UTC)
    for n, (name, stop, reach, means) in enumerate(STOPS, start=1):
        assert (await here.asserts(n, EARLIER))["effective"] is True
        await stop(here, n)
        told = len(await states(here.surroundings))
        for when in (EARLIER + timedelta(days=1), LATER, now):
            answer = await here.asserts(n, when)
            assert (answer["state"], answer["effective"], answer["changed"]) == ("opted_out", False, False), name
            assert (answer["held_by"]["reach"], answer["reopens_with"]) == (reach, means), name
        item = consent(number=number(n), occurred_at=(LATER + timedelta(days=1)).isoformat())
        [batched] = (await here.client.post("/v1/consents/batch", json={"items": [item]})).json()["results"]
        assert (batched["verdict"], batched["effective"], batched["held_by"]["reach"]) == ("unchanged", False, reach)
        assert len(await states(here.surroundings)) == told, "nothing is published, as nothing has changed"
        known = await here.known(n)
        assert [line["kind"] for line in known["history"]] == ["opt_in", "opt_out"] + ["opt_in"] * 4
        assert {c["state"] for c in known["consents"]} == {"opted_out"}
        assert not await here.may(n)


async def test_no_line_of_a_file_opens_a_stop_of_the_persons_own_and_its_verdict_says_so(here: Here) -> None:
    await here.says(mo(1, who=1, mo_id="s1"))
    await here.records_opt_out(2, occurred_at=at(1).isoformat())
    file = "number,occurred_at\n" + "".join(
        f"{number(n)},{when.isoformat()}\n" for n in (1, 2) for when in (EARLIER, LATER)
    )
    async with recording(here.surroundings):
        done = await imported(here.client, terms(), file)
    assert (done["created"], done["outvoted"], done["reasons"]) == (1, 3, {"stopped_by_person": 2})
    lines = await verdicts(here.client, done["import_id"])
    assert lines == ["2,outvoted,stopped_by_person", "3,outvoted,stopped_by_person", "4,outvoted,", "5,created,"]
    assert [await here.may(n) for n in (1, 2)] == [False, True]


async def test_an_opt_in_held_by_a_sisters_stop_is_reported_as_no_change(here: Here) -> None:
    """The purpose was not on record before, and is known as opted out after: nothing that the caller asked for."""
    for n in (1, 2, 3):
        await here.says(mo(1, who=n, mo_id=f"s{n}", provider_message_id=f"s{n}", short_code="36222"))
    answer = await here.asserts(1)
    assert (answer["changed"], answer["effective"], answer["held_by"]["reach"]) == (False, False, "controller")
    item = consent(number=number(2), occurred_at=LATER.isoformat())
    [batched] = (await here.client.post("/v1/consents/batch", json={"items": [item]})).json()["results"]
    assert (batched["verdict"], batched["effective"]) == ("unchanged", False)
    async with recording(here.surroundings):
        done = await imported(here.client, terms(), f"number,occurred_at\n{number(3)},{LATER.isoformat()}\n")
    assert (done["created"], done["outvoted"], done["reasons"]) == (0, 1, {"stopped_by_person": 1})
    assert not any([await here.may(n) for n in (1, 2, 3)])


async def test_a_start_a_double_opt_in_and_the_page_take_a_stop_back_and_then_what_is_asserted_counts(
    here: Here,
) -> None:
    backs: list[Callable[[int], Awaitable[None]]] = [
        lambda n: here.says(mo(2, "start", who=n, mo_id=f"b{n}")),
        lambda n: here.presses(n, on_page(2, evidence_id=f"ev-b{n}")),
        lambda n: here.presses(n, on_page(2, evidence_id=f"ev-b{n}", source="double_opt_in")),
    ]
    for n, back in enumerate(backs, start=1):
        await here.asserts(n, EARLIER)
        await here.says(mo(1, who=n, mo_id=f"s{n}", provider_message_id=f"s{n}"))
        assert (await here.asserts(n))["effective"] is False
        await back(n)
        assert await here.may(n)
        again = await here.asserts(n, LATER + timedelta(days=1))
        assert (again["effective"], again["held_by"], again["reopens_with"]) == (True, None, [])


async def test_an_annulled_opt_in_of_the_persons_own_gives_the_stop_back_whatever_a_caller_records_since(
    here: Here,
) -> None:
    await here.asserts(1, EARLIER)
    await here.says(mo(1, who=1, mo_id="s1"))
    await here.presses(1, on_page(2, evidence_id="ev-b1", source="double_opt_in"))
    assert await here.may(1)
    wrong = {"kind": "evidence", "evidence_id": "ev-b1", "wrong": ["person"]}
    body = {"number": number(1), "asked": {"source": "call-centre"}, "correct": wrong}
    answer = await here.client.post("/v1/rectifications", json=body)
    assert (answer.status_code, answer.json()["annulled"]) == (202, True), answer.text
    await here.records_opt_out(1, occurred_at=at(3).isoformat(), purpose="promotions")
    held = await here.asserts(1)
    assert (held["effective"], held["held_by"]["reach"]) == (False, "controller")
    assert not await here.may(1)


async def test_what_an_employee_recorded_a_newer_opt_in_reverses_and_an_older_one_is_told_how(here: Here) -> None:
    await here.records_opt_out(1, occurred_at=at(1).isoformat())
    older = await here.asserts(1, EARLIER)
    assert (older["effective"], older["held_by"]) == (False, None)
    assert older["reopens_with"] == ["newer_opt_in", *OUI]
    newer = await here.asserts(1, LATER)
    assert (newer["effective"], newer["changed"], newer["state"]) == (True, True, "opted_in")
    assert (await here.records_opt_out(1))["effective"] is True


async def test_a_provider_s_list_holds_though_a_caller_s_newer_list_came_after_it(here: Here) -> None:
    """Both stand beside the ledger, as the person was out already."""
    await here.records_opt_out(1, occurred_at=at(1).isoformat())
    await by_list(here, 1)
    async with recording(here.surroundings):
        await imported(here.client, suppressions(sender_id="acme"), f"number\n{number(1)}\n")
    answer = await here.asserts(1, datetime.now(UTC) + timedelta(seconds=1))
    assert (answer["effective"], answer["held_by"]["reach"]) == (False, "controller")


async def test_who_asked_for_the_erasure_by_text_is_not_brought_back_by_what_is_asserted(here: Here) -> None:
    await here.asserts(1, EARLIER)
    await here.says(mo(1, who=1, mo_id="s1", erasure=True))
    answer = await here.asserts(1, datetime.now(UTC) + timedelta(seconds=1))
    assert (answer["effective"], answer["reopens_with"]) == (False, PAGE)
    async with here.surroundings.sql("consent") as sql:
        kept = await sql.fetchrow("SELECT salt, form_id, kind FROM evidence ORDER BY ordinal DESC LIMIT 1")
        assert tuple(kept) == (None, None, "opt_in"), "what opens nothing is kept without what is personal"
        assert await sql.fetchval("SELECT erased_at IS NOT NULL FROM subject")


async def test_a_reopening_rule_lets_asserted_opt_ins_by_while_it_is_in_force_and_each_names_it(here: Here) -> None:
    await here.asserts(1, EARLIER)
    await here.says(mo(1, who=1, mo_id="s1"))
    assert (await here.asserts(1))["effective"] is False
    rule = await here.begins_rule()
    assert (await here.begins_rule("Another reason"))["rule_id"] == rule["rule_id"], "the first is in force"
    assert not await here.may(1), "what was recorded before stays held"
    opened = await here.asserts(1, LATER + timedelta(days=1))
    assert (opened["effective"], opened["changed"]) == (True, True)
    known = await here.known(1)
    assert known["consents"][0]["reopening_rule"] == known["history"][-1]["reopening_rule"] == rule["rule_id"]
    [published] = (await states(here.surroundings))[-1].consents
    assert (published.state, published.reopening_rule) == ("opted_in", rule["rule_id"])
    await here.ends_rule(rule["rule_id"])
    assert await here.may(1), "it was lawful when it was said"
    await here.says(mo(60 * 24 * 60, who=1, mo_id="s2", provider_message_id="s2"))
    assert (await here.asserts(1, datetime.now(UTC)))["effective"] is False


async def test_no_rule_lets_anything_by_after_a_stop_to_everybody(here: Here) -> None:
    await here.begins_rule()
    await here.asserts(1, EARLIER)
    await here.says(mo(1, who=1, mo_id="s1", everyone=True))
    assert (await here.asserts(1))["held_by"]["reach"] == "everyone"
    without = await here.asserts(2, LATER)
    assert without["effective"] is True
    assert (await here.known(2))["consents"][0]["reopening_rule"] is None, "which rests on no rule"


async def test_who_has_decided_on_a_rule_when_and_why_is_on_record(here: Here) -> None:
    began = await here.begins_rule(headers=bearer(subject="dpo"))
    ended = await here.ends_rule(began["rule_id"], "The forms were lost")
    assert (await here.ends_rule(began["rule_id"], "Again")) == ended, "an ended rule stays as it is"
    second = await here.begins_rule("New forms")
    listed = (await here.client.get("/v1/senders/acme/reopening-rules")).json()["items"]
    assert listed == [ended, second]
    assert (ended["begun"]["by"], ended["begun"]["reason"]) == ("dpo", "Signed forms")
    assert (ended["ended"]["by"], ended["ended"]["reason"]) == ("tester", "The forms were lost")
    assert ended["begun"]["at"] < ended["ended"]["at"] < second["begun"]["at"]


RULES = "/v1/senders/acme/reopening-rules"
WANTED = {"purpose": "promotions", "reason": "Signed forms"}
ORDINARY = "sender:read sender:write consent:read consent:write"


@each_of(
    ("path", "body", "claims", "status", "reason"),
    [
        (RULES, WANTED, {"scope": ORDINARY}, 403, ("scope", "scope_missing")),
        (RULES, WANTED, {"senders": ["globex"]}, 403, ("sender_id", "sender_not_granted")),
        (
            "/v1/senders/outlet/reopening-rules",
            WANTED,
            {"senders": ["outlet"]},
            403,
            ("sender_id", "controller_not_granted"),
        ),
        ("/v1/senders/nobody/reopening-rules", WANTED, {}, 404, ("sender_id", "unknown_sender")),
        (RULES, WANTED | {"purpose": "weather"}, {}, 422, ("purpose", "unknown_purpose")),
        (RULES, WANTED | {"reason": "  "}, {}, 422, ("reason", "string_too_short")),
        (RULES, {"purpose": "promotions"}, {}, 422, ("reason", "missing")),
        (f"{RULES}/no-such/end", {"reason": "Audit"}, {}, 404, ("rule_id", "unknown_rule")),
        (f"{RULES}/no-such/end", {"reason": "Audit"}, {"scope": ORDINARY}, 403, ("scope", "scope_missing")),
    ],
)
async def test_a_rule_is_for_the_controller_to_decide_and_with_a_reason(
    here: Here, path: str, body: dict[str, Any], claims: dict[str, Any], status: int, reason: tuple[str, str]
) -> None:
    answer = await here.client.post(path, json=body, headers=bearer(**claims))
    assert (answer.status_code, reasons(answer)) == (status, [reason]), answer.text
    assert (await here.client.get(RULES)).json()["items"] == []


LOOKS_LIKE_OURS = ("mo", "m-o", "preference-page2", "double.opt.in", "stop_iink")
NO_SLUG = ("", " ", "MO", "preference_page ", "mо", "boutique à Nîmes", "-shop", "x" * 65, "a/b")


@each_of("source", (*LOOKS_LIKE_OURS, *NO_SLUG))
async def test_no_caller_passes_for_us_by_the_name_of_its_source(here: Here, source: str) -> None:
    expected = [("evidence.source", "source_reserved" if source in LOOKS_LIKE_OURS else "string_pattern_mismatch")]
    evidence = {"source": source, "text_shown": "Oui"}
    for path, body in (
        ("/v1/consents", consent(evidence=evidence)),
        ("/v1/opt-outs", opt_out(evidence={"source": source})),
        ("/v1/erasures", {"number": number(1), "evidence": {"source": source}}),
        ("/v1/imports", terms(evidence=evidence)),
        ("/v1/double-opt-ins", consent(evidence=evidence)),
    ):
        answer = await here.client.post(path, json=body)
        assert (answer.status_code, reasons(answer)) == (422, expected), path


async def test_what_is_published_again_is_the_same_state(here: Here) -> None:
    rule = await here.begins_rule()
    for n in (1, 2):
        await here.asserts(n, EARLIER)
        await here.says(mo(1, who=n, mo_id=f"s{n}", provider_message_id=f"s{n}"))
    await here.asserts(2)
    await here.ends_rule(rule["rule_id"])
    await here.asserts(1)
    last = {event.subject_id: event for event in await states(here.surroundings)}
    async with here.surroundings.sql("consent") as sql:
        await sql.execute("DELETE FROM outbox")
    async with here.database.begin() as tx:
        await publish_again(tx, [subject(1), subject(2)], NOW, datetime.now(UTC))
    for event in await states(here.surroundings):
        assert replace(event, causes=()) == replace(last[event.subject_id], causes=())
    assert {e.subject_id: e.consents[0].state for e in await states(here.surroundings)} == {
        subject(1): "opted_out",
        subject(2): "opted_in",
    }
