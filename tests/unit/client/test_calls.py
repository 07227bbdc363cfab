"""Calls of the Python client: retries, keys, pages, problems, files. The network is the only thing played."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from placet_client import (
    AsyncPlacet,
    Conflict,
    Invalid,
    NotConfigured,
    NotFound,
    Placet,
    PreconditionFailed,
    Problem,
    Retrying,
    ServiceError,
    TooManyRequests,
    Unreachable,
    UnreadableAnswer,
)
from placet_client.flow import Send, Wait, answered
from placet_client.request import OMITTED, Request

NUMBER = "+33639980102"
AT_ONCE = Retrying(base_s=0.0)
NOW = datetime(2026, 3, 2, 14, 5, tzinfo=UTC)
EVIDENCE: Any = {"source": "shop", "form_id": "checkout", "form_version": "7"}
SENT = {"message_id": "0195ae46-0000-8000-8000-000000000001", "status": "pending"}
PROBLEM = {
    "type": "/problems/invalid",
    "title": "A field is not valid",
    "status": 422,
    "detail": "not valid: purpose",
    "reasons": [{"field": "purpose", "reason": "unknown_purpose", "detail": "add it to the sender first"}],
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
Handler = Callable[[httpx.Request], httpx.Response]


def answering(*answers: httpx.Response | Exception) -> tuple[list[httpx.Request], Handler]:
    """Return the requests seen so far, and a handler that gives these answers in turn."""
    seen: list[httpx.Request] = []
    coming = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(coming)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return seen, handle


def client(handle: Handler, retrying: Retrying = AT_ONCE) -> Placet:
    http = httpx.Client(transport=httpx.MockTransport(handle))
    return Placet("t-secret", consent_url="http://c/", dispatch_url="http://d", retrying=retrying, http=http)


def send(placet: Placet, **more: Any) -> Any:
    return placet.messages.create(sender_id="a", to=NUMBER, category="service", text="Bonjour", **more)


def problem(status: int, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return httpx.Response(status, json=PROBLEM | {"status": status} | more, headers=headers)


def test_a_call_sends_the_fields_that_are_given_and_null_where_none_is_said() -> None:
    seen, handle = answering(httpx.Response(202, json=SENT))
    sent = send(client(handle), purpose=None)
    assert (str(sent.message_id), sent.status) == (SENT["message_id"], "pending")
    body = json.loads(seen[0].content)
    assert body == {"sender_id": "a", "to": NUMBER, "category": "service", "text": "Bonjour", "purpose": None}
    assert seen[0].headers["authorization"] == "Bearer t-secret"
    assert seen[0].headers["user-agent"].startswith("placet-client/0.1.0 python/3.")


def test_a_write_keeps_one_key_over_all_its_attempts_and_another_write_has_another() -> None:
    seen, handle = answering(
        httpx.ReadTimeout("slow"),
        problem(503),
        problem(500),
        httpx.Response(202, json=SENT),
        httpx.Response(202, json=SENT),
    )
    placet = client(handle)
    send(placet)
    send(placet)
    keys = [request.headers["idempotency-key"] for request in seen]
    assert len({*keys[:4]}) == 1
    assert keys[4] != keys[0]
    assert len({request.content for request in seen}) == 1, "byte for byte: the services compare"


def test_a_key_of_the_caller_s_own_is_sent_and_an_error_tells_the_key_of_a_write_in_doubt() -> None:
    seen, handle = answering(httpx.Response(202, json=SENT), *[httpx.ReadTimeout("slow")] * 5)
    placet = client(handle)
    send(placet, idempotency_key="order-7")
    assert seen[0].headers["idempotency-key"] == "order-7"
    with pytest.raises(Unreachable) as lost:
        send(placet)
    assert lost.value.key == seen[-1].headers["idempotency-key"]
    assert len(seen) == 6


def test_a_write_without_a_key_is_never_sent_again_once_the_request_may_have_arrived() -> None:
    body: Any = {"sender_id": "a", "provider": "ovh", "list": "number\n"}
    for broken in (httpx.ReadTimeout("slow"), problem(500), problem(503)):
        seen, handle = answering(broken)
        with pytest.raises((Unreachable, ServiceError)):
            client(handle).reconciliations.create(**body)
        assert len(seen) == 1
    seen, handle = answering(httpx.ConnectError("refused"), problem(429), problem(404))
    with pytest.raises(NotFound):
        client(handle).reconciliations.create(**body)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "said", ["7", format_datetime(datetime(2200, 1, 1, tzinfo=UTC), usegmt=True)], ids=["seconds", "a date"]
)
def test_retry_after_is_waited_for_in_full_and_not_beyond_the_patience(said: str) -> None:
    asked: Request[None] = Request("GET", "consent", "/x")
    flow = answered(asked, lambda request, key: httpx.Request("GET", "http://c"), Retrying())
    assert isinstance(next(flow), Send)
    refused = problem(429, {"Retry-After": said})
    if said == "7":
        assert flow.send(refused) == Wait(7.0)
        return
    with pytest.raises(TooManyRequests) as told:
        flow.send(refused)
    assert (told.value.retry_after_s or 0) > 86_400


def test_waits_double_up_to_the_most_and_follow_the_dice() -> None:
    waits = [Retrying(times=9).after_break(n, repeatable=True, sent=True, dice=1.0) for n in range(7)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert Retrying().after_break(1, repeatable=True, sent=True, dice=0.25) == 0.25
    assert Retrying(times=2).after_break(2, repeatable=True, sent=False, dice=1.0) is None


def test_a_409_is_sent_again_only_where_the_service_says_when() -> None:
    seen, handle = answering(problem(409, {"Retry-After": "0"}), httpx.Response(202, json=SENT), problem(409))
    placet = client(handle)
    send(placet)
    assert len(seen) == 2
    with pytest.raises(Conflict):
        send(placet)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (412, PreconditionFailed), (413, Invalid), (422, Invalid), (418, Problem)],
)
def test_a_problem_is_an_exception_with_its_fields(status: int, kind: type[Problem]) -> None:
    _, handle = answering(problem(status, {"X-Request": "1"}))
    with pytest.raises(Problem) as refused:
        send(client(handle))
    found = refused.value
    assert type(found) is kind
    assert (found.status, found.type, found.title) == (status, "/problems/invalid", "A field is not valid")
    assert (found.detail, found.trace_id) == ("not valid: purpose", PROBLEM["trace_id"])
    assert [(e.field, e.reason) for e in found.errors] == [("purpose", "unknown_purpose")]
    assert "purpose unknown_purpose add it to the sender first" in str(found)
    assert found.headers["x-request"] == "1"


def test_an_answer_of_a_proxy_is_an_error_that_does_not_repeat_the_page() -> None:
    _, handle = answering(httpx.Response(404, html=f"<p>{NUMBER}</p>"))
    with pytest.raises(NotFound) as refused:
        send(client(handle))
    assert NUMBER not in str(refused.value)
    assert refused.value.type == "about:blank"


def test_no_number_and_no_token_is_in_a_repr_an_error_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sender = {"sender_id": "a", "brand": NUMBER, "purposes": [], "stop_code": NUMBER}
    _, handle = answering(httpx.Response(200, json=sender), httpx.ReadTimeout(NUMBER), problem(400))
    placet = client(handle, Retrying(times=0))
    with pytest.raises(UnreadableAnswer) as other:
        placet.senders.get("a")
    with pytest.raises(Unreachable) as lost:
        placet.consents.create(sender_id="a", purpose="p", number=NUMBER, occurred_at=NOW, evidence=EVIDENCE)
    with pytest.raises(Problem) as refused:
        placet.subjects.lookup(number=NUMBER)
    said = " ".join([repr(placet), repr(placet.senders), *(f"{e.value!r} {e.value}" for e in (other, lost, refused))])
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert "POST /v1/consents at consent-svc: ReadTimeout, attempt 1" in logged
    assert NUMBER not in said + logged
    assert "t-secret" not in said + logged


def test_an_answer_shows_ids_and_states_and_no_text() -> None:
    held = {"state": "a new state", "occurred_at": NOW.isoformat(), "evidence_id": NUMBER, "other": 1}
    body = {
        "subject_id": "sub_1",
        "evidence_id": "ev-1",
        "version": None,
        "state": "a new state",
        "changed": True,
        "effective": False,
        "held_by": None,
        "reopens_with": [NUMBER],
        "text": NUMBER,
        "of_a_newer_service": held,
    }
    _, handle = answering(httpx.Response(201, json=body))
    found = client(handle).opt_outs.create(sender_id="a", purpose=None, number=NUMBER, evidence=EVIDENCE)
    assert found.state == "a new state"
    assert f"{found} {found!r}".count("state='a new state', changed=True, effective=False") == 2
    assert NUMBER not in f"{found} {found!r}"


def test_a_list_is_iterated_page_by_page() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params.get("cursor"))
        assert (request.url.params["limit"], request.url.params["status"]) == ("2", "open")
        n = int(request.url.params.get("cursor", "0"))
        items = [certificate(2 * n), certificate(2 * n + 1)]
        return httpx.Response(200, json={"items": items, "next": str(n + 1) if n < 2 else None})

    seen: list[str | None] = []
    found = client(page).erasures.list(limit=2, status="open")
    assert seen == [], "nothing is asked before it is needed"
    assert [each.erasure_id for each in found] == [f"erasure-{n}" for n in range(6)]
    assert seen == [None, "1", "2"]
    assert len(found.first().items) == 2


def certificate(n: int) -> dict[str, Any]:
    return {
        "erasure_id": f"erasure-{n}",
        "subject_id": "sub_1",
        "controller": None,
        "status": "open",
        "source": "desk",
        "evidence_id": "ev-1",
        "requested_at": NOW.isoformat(),
        "completed_at": None,
        "services": [],
        "waiting_for": [],
        "asked_again_at": None,
        "log_forgets_at": None,
        "kept": [],
    }


def test_a_file_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    class Cut(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"line,verdict\n"
            raise httpx.ReadError("cut")

    seen, handle = answering(
        problem(503), httpx.Response(200, content=b"whole"), httpx.Response(200, stream=Cut()), problem(404)
    )
    placet = client(handle)
    to = tmp_path / "verdicts.csv"
    placet.consent_imports.get_verdicts("imp-1", verdict="refused").save(to)
    assert to.read_bytes() == b"whole"
    assert seen[-1].url.params["verdict"] == "refused"
    with pytest.raises(Unreachable, match="broke off"):
        placet.consent_imports.get_verdicts("imp-1").save(tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()
    with pytest.raises(NotFound):
        placet.consent_imports.get_verdicts("imp-1").read()


def test_an_edit_names_the_version_that_was_read() -> None:
    item = {"message_id": SENT["message_id"], "status": "pending"}
    _, handle = answering(httpx.Response(202, json=item, headers={"ETag": '"v1"'}), httpx.Response(202, json=item))
    placet = client(handle)
    assert send(placet).etag == '"v1"'
    assert send(placet).etag is None


def test_instants_need_a_zone_and_omitted_fields_are_falsy() -> None:
    _, handle = answering()
    with pytest.raises(TypeError, match="time zone"):
        client(handle).consents.create(
            sender_id="a",
            purpose="p",
            number=NUMBER,
            occurred_at=datetime(2026, 3, 2),  # noqa: DTZ001
            evidence=EVIDENCE,
        )
    assert not OMITTED


def test_a_query_parameter_of_several_values_is_repeated() -> None:
    query = {"type": ["a", "b"], "live": True, "cursor": OMITTED, "sender_id": None, "since": NOW}
    asked: Request[None] = Request("GET", "consent", "/x", query=query)
    told = [("type", "a"), ("type", "b"), ("live", "true"), ("since", "2026-03-02T14:05:00+00:00")]
    assert asked.url_query() == told


def test_a_client_without_a_url_or_a_token_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLACET_TOKEN", "PLACET_INBOUND_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotConfigured, match="PLACET_TOKEN"):
        Placet()
    with pytest.raises(NotConfigured, match="PLACET_INBOUND_URL"):
        client(answering()[1]).reviews.list().first()
    monkeypatch.setenv("PLACET_TOKEN", "t")
    monkeypatch.setenv("PLACET_CONSENT_URL", "http://c")
    with Placet() as placet:
        assert repr(placet) == "Placet(consent_url='http://c')"


def test_a_token_may_be_a_function_asked_at_each_attempt() -> None:
    seen, handle = answering(problem(503), httpx.Response(202, json=SENT))
    tokens = iter(["one", "two"])
    http = httpx.Client(transport=httpx.MockTransport(handle))
    send(Placet(lambda: next(tokens), dispatch_url="http://d", retrying=AT_ONCE, http=http))
    assert [request.headers["authorization"] for request in seen] == ["Bearer one", "Bearer two"]


def test_the_async_client_does_the_same() -> None:
    async def run() -> None:
        seen, handle = answering(
            problem(503),
            httpx.Response(202, json=SENT),
            httpx.Response(200, json={"items": [certificate(1)], "next": "n"}),
            httpx.Response(200, json={"items": [certificate(2)], "next": None}),
            httpx.Response(200, content=b"whole"),
            problem(422),
        )
        http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        placet = AsyncPlacet("t", consent_url="http://c", dispatch_url="http://d", retrying=AT_ONCE, http=http)
        sent = await placet.with_options(retries=1, timeout_s=3).messages.create(
            sender_id="a", to=NUMBER, category="service", text="Bonjour"
        )
        assert sent.status == "pending"
        assert seen[1].extensions["timeout"]["read"] == 3
        assert seen[0].headers["idempotency-key"] == seen[1].headers["idempotency-key"]
        assert len([each async for each in placet.erasures.list()]) == 2
        assert await placet.consent_imports.get_verdicts("imp-1").read() == b"whole"
        with pytest.raises(Invalid):
            await placet.opt_outs.create(sender_id="a", purpose=None, number=NUMBER, evidence=EVIDENCE)
        await http.aclose()

    asyncio.run(run())
