"""consent-svc over HTTP, as an internal service meets it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from common.contracts.consent import ConsentStateChanged, SenderChanged
from common.db.database import Database
from consent.eraser import eraser
from consent.service import Settings, build
from tests.support.builders import called, edge_ids
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer, running
from tests.unit.common.test_msisdn import EITHER, RECEIVED, TYPED

pytestmark = pytest.mark.brokerless

NUMBER = "06 39 98 12 34"
SENDER: dict[str, Any] = {
    "sender_id": "acme",
    "legal_name": "ACME SAS",
    "brand": "Acme",
    "contact": "contact@acme.example",
    "country": "FR",
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [
        {"id": "promotions", "wording": "Nos offres par SMS"},
        {"id": "loyalty", "wording": "Votre carte de fidélité"},
    ],
}


def consent(**changes: Any) -> dict[str, Any]:
    body = {
        "sender_id": "acme",
        "purpose": "promotions",
        "number": NUMBER,
        "occurred_at": "2026-03-02T14:05:00+01:00",
        "evidence": {"source": "shop", "form_id": "checkout", "form_version": "7"},
    }
    return body | changes


def opt_out(**changes: Any) -> dict[str, Any]:
    return {"sender_id": "acme", "number": NUMBER, "evidence": {"source": "call-centre"}} | changes


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone: what it would publish stays in the outbox, to be looked at."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        yield client


async def outbox(surroundings: Surroundings, topic: str) -> list[bytes]:
    async with surroundings.sql("consent") as sql:
        rows = await sql.fetch("SELECT payload FROM outbox WHERE topic = $1 ORDER BY id", topic)
        return [row["payload"] for row in rows]


async def states(surroundings: Surroundings) -> list[ConsentStateChanged]:
    payloads = await outbox(surroundings, "consent.states.v1")
    return [msgspec.json.decode(payload, type=ConsentStateChanged) for payload in payloads]


async def lookup(service: httpx.AsyncClient, number: str = NUMBER, **kwargs: Any) -> dict[str, Any]:
    answer = await service.post("/v1/subjects/lookup", json={"number": number}, **kwargs)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def reasons(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.headers["content-type"] == "application/problem+json"
    return [(r["field"], r["reason"]) for r in answer.json()["reasons"]]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "stop-1"}])
@pytest.mark.parametrize("said", [EITHER, RECEIVED])
async def test_an_opt_out_of_a_number_that_may_be_that_of_two_is_for_both_and_answers_as_the_number_is_read(
    service: httpx.AsyncClient, said: str, key: dict[str, str]
) -> None:
    for number in (RECEIVED, TYPED):
        given = consent(number=number, occurred_at="2026-01-01T09:00:00Z")
        assert (await service.post("/v1/consents", json=given)).status_code == 201
    body = opt_out(number=said, occurred_at="2026-02-01T09:00:00Z")
    first, again = [(await service.post("/v1/opt-outs", json=body, headers=key)).json() for _ in range(2)]
    assert (first["changed"], again["changed"]) == (True, bool(key)), "under a key, the first answer"
    read = TYPED if said == EITHER else RECEIVED
    assert first["subject_id"] == again["subject_id"] == (await lookup(service, read))["subject_ids"]["acme"]
    states = {number: (await lookup(service, number))["consents"][0]["state"] for number in (RECEIVED, TYPED)}
    assert states == {RECEIVED: "opted_out", TYPED: "opted_out" if said == EITHER else "opted_in"}


async def test_registering_a_sender_again_is_the_same_and_other_content_conflicts(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    again = await service.post("/v1/senders", json=SENDER)
    assert (again.status_code, again.json()["version"]) == (200, 1)
    other = await service.post("/v1/senders", json=SENDER | {"brand": "Acme!"})
    assert other.status_code == 409
    assert other.json()["type"] == "/problems/sender-taken"
    body = (await service.get("/v1/senders/acme")).json()
    assert {name: body[name] for name in SENDER if name != "purposes"} | {"purposes": SENDER["purposes"]} == SENDER
    assert body["version"] == 1
    assert len(await outbox(surroundings, "consent.senders.v1")) == 1


async def test_changing_a_sender_makes_a_new_version_and_publishes_it_whole(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    content = {k: v for k, v in SENDER.items() if k != "sender_id"} | {"contact": "+33 1 via acme.example"}
    changed = await service.put("/v1/senders/acme", json=content)
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert (await service.put("/v1/senders/acme", json=content)).json()["version"] == 2, "PUT is idempotent"
    first, second = (
        msgspec.json.decode(p, type=SenderChanged) for p in await outbox(surroundings, "consent.senders.v1")
    )
    assert (first.version, second.version, second.contact) == (1, 2, content["contact"])
    assert [p.id for p in second.purposes] == ["promotions", "loyalty"]
    assert (await service.put("/v1/senders/globex", json=content)).status_code == 404
    wrong = await service.put("/v1/senders/acme", json=content | {"sender_id": "globex"})
    assert (wrong.status_code, reasons(wrong)) == (422, [("sender_id", "not_the_path")])


@each_of(
    ("change", "field"),
    [
        ({"sender_id": "Acme"}, "sender_id"),
        ({"oadc": "AC"}, "oadc"),
        ({"oadc": "ACME SHOP"}, "oadc"),
        ({"oadc": "36111"}, "oadc"),
        ({"stop_code": "31111"}, "stop_code"),
        ({"stop_code": "361111"}, "stop_code"),
        ({"country": "fr"}, "country"),
        ({"purposes": [{"id": "x y", "wording": "?"}]}, "purposes.0.id"),
        ({"purposes": SENDER["purposes"] * 2}, "body"),
        ({"legal_name": "A\x00"}, "legal_name"),
        ({"extra": 1}, "extra"),
    ],
)
async def test_a_sender_that_operators_would_refuse_is_refused(
    service: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await service.post("/v1/senders", json=called(SENDER, "globex") | change)
    assert answer.status_code == 422
    assert [f for f, _ in reasons(answer)] == [field]


async def test_two_registrations_at_once_make_one_sender(service: httpx.AsyncClient) -> None:
    wanted = called(SENDER, "globex")
    answers = await asyncio.gather(*(service.post("/v1/senders", json=wanted) for _ in range(5)))
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 200, 201]


async def test_a_consent_is_recorded_with_its_proof_and_published(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    answer = await service.post("/v1/consents", json=consent())
    assert answer.status_code == 201
    body = answer.json()
    assert (body["version"] > 0, body["state"], body["changed"]) == (True, "opted_in", True)
    (event,) = await states(surroundings)
    assert edge_ids.of("acme").shown(event.subject_id) == body["subject_id"]
    assert (event.version, event.erased) == (body["version"], False)
    assert [(c.sender_id, c.purpose, c.state, c.basis) for c in event.consents] == [
        ("acme", "promotions", "opted_in", "opt_in")
    ]
    assert [(c.kind, c.source, c.evidence_id) for c in event.causes] == [("opt_in", "shop", body["evidence_id"])]
    found = await lookup(service, "+33639981234")
    assert [(c["state"], c["occurred_at"]) for c in found["consents"]] == [("opted_in", "2026-03-02T13:05:00Z")]
    (entry,) = found["history"]
    assert (entry["form_id"], entry["form_version"], entry["position"]) == ("checkout", "7", 1)


async def test_the_same_consent_again_falls_out(service: httpx.AsyncClient, surroundings: Surroundings) -> None:
    first = (await service.post("/v1/consents", json=consent())).json()
    again = (await service.post("/v1/consents", json=consent(number="+33 6 39 98 12 34"))).json()
    assert again == first | {"changed": False}
    assert len(await states(surroundings)) == 1
    assert len((await lookup(service))["history"]) == 1


async def test_a_late_opt_in_older_than_the_stop_is_kept_and_changes_nothing(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    out = (await service.post("/v1/opt-outs", json=opt_out(occurred_at="2026-03-02T15:00:00+01:00"))).json()
    late = (await service.post("/v1/consents", json=consent())).json()
    assert (late["state"], late["changed"], late["version"]) == ("opted_out", False, out["version"])
    found = await lookup(service)
    assert [e["kind"] for e in found["history"]] == ["opt_out", "opt_in"]
    assert [c["state"] for c in found["consents"]] == ["opted_out"]
    newer = (await service.post("/v1/consents", json=consent(occurred_at="2026-03-02T15:00:01+01:00"))).json()
    assert (newer["state"], newer["changed"], newer["version"] > out["version"]) == ("opted_in", True, True)


@each_of(
    ("changes", "expected"),
    [
        ({"number": "0123456789"}, ("number", "not_mobile")),
        ({"number": "36111"}, ("number", "short_code")),
        ({"number": "hello"}, ("number", "not_a_number")),
        ({"purpose": "surveys"}, ("purpose", "unknown_purpose")),
        ({"occurred_at": "2999-01-01T00:00:00Z"}, ("occurred_at", "occurred_in_the_future")),
        ({"occurred_at": "2026-03-02T14:05:00"}, ("occurred_at", "timezone_aware")),
        ({"occurred_at": "20260302"}, ("occurred_at", "value_error")),
        ({"occurred_at": 1772456700}, ("occurred_at", "value_error")),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, ("occurred_at", "value_error")),
        ({"occurred_at": "9999-12-31T23:59:59-14:00"}, ("occurred_at", "value_error")),
        ({"occurred_at": "1970-01-01T00:00:00Z"}, ("occurred_at", "value_error")),
        ({"evidence": {"source": " ", "text_shown": "Oui"}}, ("evidence.source", "string_pattern_mismatch")),
        ({"evidence": {"source": "mo", "text_shown": "Oui"}}, ("evidence.source", "source_reserved")),
        ({"evidence": {"source": "shop"}}, ("evidence", "nothing_shown")),
        ({"evidence": {"source": "shop", "form_id": "checkout"}}, ("evidence", "nothing_shown")),
        ({"evidence": {"source": "shop", "text_shown": "a\x00b"}}, ("evidence.text_shown", "value_error")),
        ({"evidence": {"source": "shop", "text": "Oui"}}, ("evidence.text", "extra_forbidden")),
        ({"basis": "soft_opt_in"}, ("evidence.sale_reference", "sale_reference_missing")),
        ({"basis": "implied"}, ("basis", "literal_error")),
    ],
)
async def test_a_consent_that_proves_nothing_is_refused_naming_the_field(
    service: httpx.AsyncClient, surroundings: Surroundings, changes: dict[str, Any], expected: Any
) -> None:
    answer = await service.post("/v1/consents", json=consent(**changes))
    assert answer.status_code == 422
    assert reasons(answer) == [expected]
    assert await states(surroundings) == []
    assert (await lookup(service))["history"] == []


async def test_every_reason_comes_at_once(service: httpx.AsyncClient) -> None:
    wrong = consent(number="0123456789", purpose="surveys", evidence={"source": "shop"})
    answer = await service.post("/v1/consents", json=wrong)
    assert {r for _, r in reasons(answer)} == {"not_mobile", "unknown_purpose", "nothing_shown"}


async def test_no_answer_and_no_log_repeats_a_number(
    service: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for number in ("0123456789", "06 39 98 12 34 56 78", NUMBER):
        answer = await service.post("/v1/consents", json=consent(number=number, purpose="surveys"))
        assert "3998" not in answer.text.replace(" ", "")
        assert "123456789" not in answer.text.replace(" ", "")
    await service.post("/v1/consents", json=consent())
    assert "639981234" not in (await lookup_text(service)).replace(" ", "")
    assert "639981234" not in caplog.text.replace(" ", "")


async def lookup_text(service: httpx.AsyncClient) -> str:
    return (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).text


async def test_an_unknown_sender_is_not_found(service: httpx.AsyncClient) -> None:
    for path, body in (("/v1/consents", consent(sender_id="globex")), ("/v1/opt-outs", opt_out(sender_id="globex"))):
        answer = await service.post(path, json=body)
        assert (answer.status_code, reasons(answer)) == (404, [("sender_id", "unknown_sender")])


async def test_a_caller_acts_for_its_own_senders_only(service: httpx.AsyncClient) -> None:
    globex = bearer(senders=["globex"])
    for method, path, body in (
        ("POST", "/v1/consents", consent()),
        ("POST", "/v1/opt-outs", opt_out()),
        ("POST", "/v1/opt-outs", opt_out(sender_id=None)),
        ("POST", "/v1/senders", SENDER),
        ("PUT", "/v1/senders/acme", SENDER),
        ("GET", "/v1/senders/acme", None),
    ):
        answer = await service.request(method, path, json=body, headers=globex)
        assert (answer.status_code, reasons(answer)) == (403, [("sender_id", "sender_not_granted")])
    batch = await service.post("/v1/consents/batch", json={"items": [consent()]}, headers=globex)
    assert batch.json()["results"][0]["reasons"][0]["reason"] == "sender_not_granted"


async def test_a_caller_sees_its_own_senders_and_what_concerns_every_sender(service: httpx.AsyncClient) -> None:
    await service.post("/v1/senders", json=called(SENDER, "globex"))
    await service.post("/v1/consents", json=consent())
    await service.post("/v1/consents", json=consent(sender_id="globex"))
    await service.post("/v1/opt-outs", json=opt_out(sender_id="globex"))
    await service.post("/v1/opt-outs", json=opt_out(sender_id=None))
    seen = await lookup(service, headers=bearer(senders=["acme"]))
    assert [c["sender_id"] for c in seen["consents"]] == ["acme"]
    assert [s["sender_id"] for s in seen["suppressions"]] == [None]
    assert [e["sender_id"] for e in seen["history"]] == ["acme", None]
    assert len((await lookup(service))["history"]) == 4


@each_of(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/senders", "sender:write"),
        ("PUT", "/v1/senders/acme", "sender:write"),
        ("GET", "/v1/senders/acme", "sender:read"),
        ("POST", "/v1/consents", "consent:write"),
        ("POST", "/v1/consents/batch", "consent:write"),
        ("POST", "/v1/opt-outs", "consent:write"),
        ("POST", "/v1/subjects/lookup", "consent:read"),
    ],
)
async def test_no_call_is_anonymous_or_without_its_scope(
    service: httpx.AsyncClient, method: str, path: str, scope: str
) -> None:
    anonymous = await service.request(method, path, json={}, headers={"Authorization": ""})
    assert anonymous.status_code == 401
    every_other = " ".join({"sender:read", "sender:write", "consent:read", "consent:write"} - {scope})
    answer = await service.request(method, path, json={}, headers=bearer(scope=every_other))
    assert (answer.status_code, reasons(answer)) == (403, [("scope", "scope_missing")])


async def test_an_opt_out_covers_every_purpose_of_the_sender(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await service.post("/v1/consents", json=consent())
    await service.post("/v1/consents", json=consent(purpose="loyalty"))
    answer = await service.post("/v1/opt-outs", json=opt_out())
    assert answer.status_code == 201
    assert (answer.json()["state"], answer.json()["changed"]) == ("opted_out", True)
    event = (await states(surroundings))[-1]
    assert {c.state for c in event.consents} == {"opted_out"}
    assert [s.sender_id for s in event.suppressions] == ["acme"]


async def test_an_opt_out_of_one_purpose_leaves_the_other(service: httpx.AsyncClient) -> None:
    await service.post("/v1/consents", json=consent())
    await service.post("/v1/consents", json=consent(purpose="loyalty"))
    await service.post("/v1/opt-outs", json=opt_out(purpose="loyalty"))
    found = await lookup(service)
    assert [(c["purpose"], c["state"]) for c in found["consents"]] == [
        ("loyalty", "opted_out"),
        ("promotions", "opted_in"),
    ]
    assert found["suppressions"] == []


async def test_an_opt_out_of_every_sender_has_to_be_said(service: httpx.AsyncClient) -> None:
    await service.post("/v1/consents", json=consent())
    silent = await service.post("/v1/opt-outs", json={k: v for k, v in opt_out().items() if k != "sender_id"})
    assert (silent.status_code, reasons(silent)) == (422, [("sender_id", "missing")])
    assert (await service.post("/v1/opt-outs", json=opt_out(sender_id=None))).json()["state"] == "opted_out"
    assert [s["sender_id"] for s in (await lookup(service))["suppressions"]] == [None]
    one = await service.post("/v1/opt-outs", json=opt_out(sender_id=None, purpose="promotions"))
    assert (one.status_code, reasons(one)) == (422, [("sender_id", "sender_missing")])


@pytest.mark.parametrize("number", ["0123456789", "+1 202 555 0143", "06 39 98 12", "000", "sms: 36111"])
async def test_an_opt_out_counts_whatever_the_parser_thinks_of_the_number(
    service: httpx.AsyncClient, number: str
) -> None:
    answer = await service.post("/v1/opt-outs", json=opt_out(number=number))
    assert answer.status_code == 201
    found = await lookup(service, number)
    assert (found["version"], found["subject_ids"]["acme"]) == (answer.json()["version"], answer.json()["subject_id"])


async def test_an_opt_out_without_a_digit_is_nobodys(service: httpx.AsyncClient) -> None:
    answer = await service.post("/v1/opt-outs", json=opt_out(number="me"))
    assert (answer.status_code, reasons(answer)) == (422, [("number", "not_a_number")])


async def test_an_opt_out_meets_the_consent_however_each_wrote_the_number(service: httpx.AsyncClient) -> None:
    given = (await service.post("/v1/consents", json=consent(number="0033 (0)6.39.98.12.34"))).json()
    left = (await service.post("/v1/opt-outs", json=opt_out(number="33639981234"))).json()
    assert given["subject_id"] == left["subject_id"]


async def test_an_opt_out_dated_ahead_counts_from_now_and_does_not_silence_for_ever(service: httpx.AsyncClient) -> None:
    ahead = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    await service.post("/v1/consents", json=consent())
    assert (await service.post("/v1/opt-outs", json=opt_out(occurred_at=ahead))).json()["state"] == "opted_out"
    back = await service.post("/v1/consents", json=consent(occurred_at=datetime.now(UTC).isoformat()))
    assert back.json()["state"] == "opted_in"


async def test_an_opt_out_dated_ahead_that_comes_again_shuts_again(service: httpx.AsyncClient) -> None:
    tonight = opt_out(occurred_at=(datetime.now(UTC) + timedelta(hours=8)).isoformat())
    for _ in range(2):
        back = await service.post("/v1/consents", json=consent(occurred_at=datetime.now(UTC).isoformat()))
        assert back.json()["state"] == "opted_in"
        assert (await service.post("/v1/opt-outs", json=tonight)).json()["state"] == "opted_out"


async def test_an_opt_out_under_a_key_that_was_forgotten_counts(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    key = {"Idempotency-Key": "k-1"}
    for _ in range(2):
        back = await service.post("/v1/consents", json=consent(occurred_at=datetime.now(UTC).isoformat()))
        assert back.json()["state"] == "opted_in"
        shut = await service.post("/v1/opt-outs", json=opt_out(), headers=key)
        assert (shut.json()["state"], shut.json()["changed"]) == ("opted_out", True)
        again = await service.post("/v1/opt-outs", json=opt_out(), headers=key)
        assert again.json() == shut.json()
        await forgotten(surroundings)


async def test_an_opt_in_is_the_same_even_under_a_key_that_was_forgotten(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await service.post("/v1/consents", json=consent(), headers=key)
    await forgotten(surroundings)
    assert (await service.post("/v1/consents", json=consent(), headers=key)).json() == first.json() | {"changed": False}
    assert len((await lookup(service))["history"]) == 1


async def forgotten(surroundings: Surroundings) -> None:
    """All keys, as after their time."""
    async with surroundings.sql("consent") as sql:
        await sql.execute("DELETE FROM keyed_request")


async def test_a_purpose_no_longer_offered_can_still_be_left_and_not_joined(service: httpx.AsyncClient) -> None:
    await service.post("/v1/consents", json=consent(purpose="loyalty"))
    content = {k: v for k, v in SENDER.items() if k != "sender_id"} | {"purposes": SENDER["purposes"][:1]}
    await service.put("/v1/senders/acme", json=content)
    joined = await service.post("/v1/consents", json=consent(purpose="loyalty", number="06 39 98 12 35"))
    assert (joined.status_code, reasons(joined)) == (422, [("purpose", "unknown_purpose")])
    assert (await service.post("/v1/opt-outs", json=opt_out(purpose="loyalty"))).json()["state"] == "opted_out"
    assert (await service.post("/v1/opt-outs", json=opt_out(purpose="surveys"))).status_code == 422


async def test_a_bad_item_never_sinks_the_others(service: httpx.AsyncClient, surroundings: Surroundings) -> None:
    items = [
        consent(),
        consent(number="0123456789"),
        "not an object",
        consent(sender_id="globex"),
        consent(),
        {"sender_id": "acme"},
        consent(number="06 39 98 12 35", purpose="loyalty"),
    ]
    answer = await service.post("/v1/consents/batch", json={"items": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [r["index"] for r in results] == list(range(7))
    assert [r["verdict"] for r in results] == [
        "recorded",
        "refused",
        "refused",
        "refused",
        "unchanged",
        "refused",
        "recorded",
    ]
    assert answer.json()["counts"] == {"recorded": 2, "unchanged": 1, "refused": 4}
    assert [(r["field"], r["reason"]) for r in results[1]["reasons"]] == [("number", "not_mobile")]
    assert [r["reason"] for r in results[3]["reasons"]] == ["unknown_sender"]
    assert {r["field"] for r in results[5]["reasons"]} == {"purpose", "number", "occurred_at", "evidence"}
    assert results[0]["state"] == "opted_in"
    assert len(await states(surroundings)) == 2


async def test_a_batch_may_be_larger_than_one_consent_and_no_larger(service: httpx.AsyncClient) -> None:
    def shown(chars: int) -> dict[str, Any]:
        return consent(evidence={"source": "shop", "text_shown": "x" * chars})

    small, large = ({"items": [shown(10_000)] * count} for count in (120, 450))
    assert (await service.post("/v1/consents/batch", json=small)).status_code == 200
    assert (await service.post("/v1/consents/batch", json=large)).status_code == 413
    assert (await service.post("/v1/consents", json=shown(1_100_000))).status_code == 413


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_nothing_is_called_by_a_path_that_postgres_cannot_keep(service: httpx.AsyncClient, method: str) -> None:
    body = {name: value for name, value in SENDER.items() if name != "sender_id"}
    answer = await service.request(method, "/v1/senders/acme%00", json=body if method == "PUT" else None)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


async def test_a_batch_holds_a_thousand_and_not_one_more(service: httpx.AsyncClient) -> None:
    items = [consent(number=f"06 39 98 0{n // 100} {n % 100:02}") for n in range(1000)]
    answer = await service.post("/v1/consents/batch", json={"items": items})
    assert answer.json()["counts"]["recorded"] == 1000
    for wrong in ([], [*items, consent()]):
        assert (await service.post("/v1/consents/batch", json={"items": wrong})).status_code == 422


async def test_a_key_makes_a_repeat_fall_out_and_is_not_reused_for_another_body(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await service.post("/v1/opt-outs", json=opt_out(), headers=key)
    again = await service.post("/v1/opt-outs", json=opt_out(), headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(await states(surroundings)) == 1
    for path, body in (("/v1/opt-outs", opt_out(number="06 39 98 12 35")), ("/v1/consents", consent())):
        answer = await service.post(path, json=body, headers=key)
        assert (answer.status_code, reasons(answer)) == (422, [("Idempotency-Key", "reused")])
    other_caller = bearer(subject="crm") | key
    assert (await service.post("/v1/consents", json=consent(), headers=other_caller)).status_code == 201


async def test_without_a_key_an_opt_out_without_a_time_is_each_time_a_new_one(service: httpx.AsyncClient) -> None:
    one = (await service.post("/v1/opt-outs", json=opt_out())).json()
    two = (await service.post("/v1/opt-outs", json=opt_out())).json()
    assert one["evidence_id"] != two["evidence_id"]


async def test_a_key_of_a_batch_speaks_for_each_item(service: httpx.AsyncClient, surroundings: Surroundings) -> None:
    key = {"Idempotency-Key": "k-1"}
    batch = {"items": [consent(), consent(number="06 39 98 12 35")]}
    first = await service.post("/v1/consents/batch", json=batch, headers=key)
    again = await service.post("/v1/consents/batch", json=batch, headers=key)
    assert first.json()["counts"]["recorded"] == 2
    assert again.json() == first.json()
    batch["items"].reverse()
    assert (await service.post("/v1/consents/batch", json=batch, headers=key)).status_code == 422
    assert len(await states(surroundings)) == 2


async def test_a_refused_call_gives_its_key_back(service: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k-1"}
    assert (await service.post("/v1/consents", json=consent(purpose="surveys"), headers=key)).status_code == 422
    refused = await service.post("/v1/consents/batch", json={"items": [consent(purpose="surveys")]}, headers=key)
    assert refused.json()["counts"]["refused"] == 1
    assert (await service.post("/v1/consents", json=consent(), headers=key)).status_code == 201


async def test_one_key_twice_at_once_for_two_people_takes_one(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    key = {"Idempotency-Key": "k-1"}
    numbers = [f"06 39 98 12 {n:02}" for n in range(8)]
    answers = await asyncio.gather(
        *(service.post("/v1/consents", json=consent(number=n), headers=key) for n in numbers)
    )
    assert sorted(a.status_code for a in answers) == [201, *[422] * 7]
    assert len(await states(surroundings)) == 1


async def test_nobody_ever_seen_has_version_zero_and_nothing_on_record(service: httpx.AsyncClient) -> None:
    found = await lookup(service)
    assert found.pop("subject_id").startswith("t1-")
    assert [*found.pop("subject_ids")] == ["acme"]
    assert found == {"version": 0, "held_since": None, "as_of": None, "consents": [], "suppressions": [], "history": []}


async def test_the_history_is_newest_last_and_tells_when_we_learned_it(service: httpx.AsyncClient) -> None:
    await service.post("/v1/opt-outs", json=opt_out())
    await service.post("/v1/consents", json=consent())
    history = (await lookup(service))["history"]
    assert [(e["position"], e["kind"]) for e in history] == [(1, "opt_out"), (2, "opt_in")]
    assert history[1]["occurred_at"] < history[0]["occurred_at"]
    assert history[1]["recorded_at"] > history[0]["recorded_at"]
    assert len({e["sealed"] for e in history}) == 2


async def as_of(service: httpx.AsyncClient, **instants: str) -> dict[str, Any]:
    answer = await service.post("/v1/subjects/lookup", json={"number": NUMBER, "as_of": instants})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def standing(found: dict[str, Any]) -> list[str]:
    return [consent["state"] for consent in found["consents"]]


async def test_a_subject_is_looked_up_as_it_was_then_and_as_that_was_known_at_another_time(
    service: httpx.AsyncClient,
) -> None:
    """A STOP of noon, to the second, that the shop tells two days later: between the two we believed otherwise."""
    assert (await service.post("/v1/consents", json=consent(occurred_at="2026-03-02T09:00:00Z"))).status_code == 201
    before_we_knew = datetime.now(UTC).isoformat()
    assert (await service.post("/v1/opt-outs", json=opt_out(occurred_at="2026-03-02T12:00:00Z"))).status_code == 201
    assert standing(await lookup(service)) == ["opted_out"]

    at_eight, at_ten, at_one = (f"2026-03-02T{hour}:00:00Z" for hour in ("08", "10", "13"))
    assert standing(await as_of(service, happened_by=at_eight)) == []
    assert standing(await as_of(service, happened_by=at_ten)) == ["opted_in"]
    assert standing(await as_of(service, happened_by=at_one)) == ["opted_out"]
    assert standing(await as_of(service, happened_by=at_one, known_by=before_we_knew)) == ["opted_in"]
    assert standing(await as_of(service, known_by=before_we_knew)) == ["opted_in"]
    assert standing(await as_of(service, known_by="2026-03-02T13:00:00Z")) == [], "nothing was on record yet"
    assert standing(await as_of(service, happened_by="2026-03-02T12:59:59.5+01:00")) == ["opted_in"]
    within_the_second = await as_of(service, happened_by="2026-03-02T13:00:00.2+01:00")
    assert standing(within_the_second) == ["opted_out"], "in doubt, it was before"
    assert within_the_second["as_of"]["happened_by"] == "2026-03-02T12:00:00.200000Z"
    assert (within_the_second["version"], within_the_second["held_since"]) == (None, None)
    assert [e["kind"] for e in within_the_second["history"]] == ["opt_in", "opt_out"]
    assert [e["kind"] for e in (await as_of(service, happened_by=at_ten))["history"]] == ["opt_in"]


async def test_what_is_left_after_an_erasure_still_says_how_it_was(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    assert (await service.post("/v1/consents", json=consent(occurred_at="2026-03-02T09:00:00Z"))).status_code == 201
    body = {"number": NUMBER, "evidence": {"source": "call-centre"}}
    assert (await service.post("/v1/erasures", json=body)).status_code == 202
    database = Database(await surroundings.database("consent"))
    try:

        async def erased() -> bool:
            await eraser(database).erase_kept()
            return all(entry["salt"] is None for entry in (await lookup(service))["history"])

        await eventually(erased)
    finally:
        await database.close()
    then = await as_of(service, happened_by="2026-03-02T10:00:00Z")
    assert standing(then) == ["opted_in"]
    assert (then["history"][0]["form_id"], then["history"][0]["salt"]) == (None, None)


@each_of(
    ("instants", "why"),
    [
        ({"happened_by": "2999-01-01T00:00:00Z"}, [("as_of.happened_by", "in_the_future")]),
        (
            {"happened_by": "2999-01-01T00:00:00Z", "known_by": "2999-01-01T00:00:00Z"},
            [("as_of.happened_by", "in_the_future"), ("as_of.known_by", "in_the_future")],
        ),
        ({"known_by": "2026-03-02T12:00:00"}, [("as_of.known_by", "timezone_aware")]),
        ({"known_by": "yesterday"}, [("as_of.known_by", "value_error")]),
        ({"known_by": 1772452800}, [("as_of.known_by", "value_error")]),
        ({"known_at": "2026-03-02T12:00:00Z"}, [("as_of.known_at", "extra_forbidden")]),
        ({}, [("as_of", "value_error")]),
    ],
)
async def test_an_instant_that_nobody_can_know_of_yet_or_that_is_none_is_refused(
    service: httpx.AsyncClient, instants: dict[str, Any], why: list[tuple[str, str]]
) -> None:
    answer = await service.post("/v1/subjects/lookup", json={"number": NUMBER, "as_of": instants})
    assert (answer.status_code, reasons(answer)) == (422, why)
    assert "98 12" not in answer.text
