"""Two organisations on one platform: what a caller of one learns of the other's senders and people, which is nothing.

A person known elsewhere only is answered as one that nobody knows. Compared is the whole answer, but for what is new in
each: ids, instants and signatures.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest

from common.db.database import Database
from consent.ledger.store import HISTORY_ENTRIES
from consent.rights.copies import copier
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out
from tests.support.builders import called, field_keys, number, subject
from tests.support.each_of import each_of
from tests.support.eventually import answered
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

TENANT = ALL_SCOPES.replace(" platform:admin", "")
BETA = called(SENDER, "beta") | {"stop_code": "36222", "legal_name": "Beta SARL"}
OURS, THEIRS = (bearer(organisation=each, scope=TENANT) for each in ("tests", "strangers"))
OPERATOR = bearer()
PEOPLE = count(100)
LIST: dict[str, Any] = {"kind": "suppressions", "format": "csv", "evidence": {"source": "x"}}
NEW_EACH_TIME = re.compile(
    r"ev-[0-9a-f]{32}|t1-[0-9A-Za-z_-]+|eyJ[\w.-]+|/p/[\w-]+|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)|[0-9a-f]{32}"
)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone: acme of our organisation, beta of the strangers'."""
    settings = Settings(**await surroundings.settings("consent", roles="api", page_url="https://p.example"))
    async with running(build(settings), OURS) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        assert (await client.post("/v1/senders", json=BETA, headers=THEIRS)).status_code == 201
        yield client


async def known_to_us(service: httpx.AsyncClient, who: int) -> str:
    """A person who said yes to acme and then stopped it. Returns the id of the yes."""
    said = await answered(lambda: service.post("/v1/consents", json=consent(number=number(who))))
    assert said.status_code == 201, said.text
    stopped = await answered(lambda: service.post("/v1/opt-outs", json=opt_out(number=number(who))))
    assert stopped.status_code == 201, stopped.text
    evidence_id: str = said.json()["evidence_id"]
    return evidence_id


def scrubbed(answer: httpx.Response) -> tuple[int, Any, list[str]]:
    """Status, body and headers, without what is new in each answer."""
    body = NEW_EACH_TIME.sub("?", answer.text)
    body = re.sub(r'"only_here":\d', "", body)  # the person of the call before
    body = re.sub(r'"(version|trace_id)":(\d{8,}|"\w+")', r'"\1":"?"', body)
    return answer.status_code, body, sorted({*answer.headers} - {"content-length"})


@each_of(
    ("path", "body"),
    [
        ("/v1/subjects/lookup", {}),
        ("/v1/subjects/lookup", {"as_of": {"known_by": "2026-03-09T00:00:00+01:00"}}),
        ("/v1/consents/check", {"sender_id": "beta", "purpose": "promotions", "numbers": ["{number}"]}),
        ("/v1/proofs", {}),
        ("/v1/preference-links", {"sender_id": "beta", "send": True}),
        ("/v1/preference-links", {"sender_id": "beta"}),
        ("/v1/interactions", {"items": [{"sender_id": "beta", "occurred_at": "2026-03-02T14:05:00+01:00"}]}),
        ("/v1/reconciliations", {"sender_id": "beta", "provider": "ovh", "list": "{number}"}),
        ("/v1/opt-outs", {"sender_id": "beta", "purpose": None, "evidence": {"source": "crm"}}),
        ("/v1/consents", consent(sender_id="beta")),
        ("/v1/double-opt-ins", {"sender_id": "beta"}),
    ],
)
async def test_a_person_whom_only_others_know_is_answered_as_one_that_nobody_knows(
    service: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    evidence = {"source": "shop", "sale_reference": "42"}

    async def asks(known: bool) -> httpx.Response:
        """Ask about a person of this request alone: the cases share a service, and a request may be made again."""
        who = next(PEOPLE)
        if known:
            await known_to_us(service, who)
        asked = json.loads(json.dumps(body).replace("{number}", number(who)))
        for item in asked.get("items", []):
            item |= {"number": number(who), "evidence": evidence}
        if "numbers" not in asked and "items" not in asked and "list" not in asked:
            asked |= {"number": number(who)}
        if path == "/v1/double-opt-ins":
            said = consent(sender_id="beta", number=number(who))
            asked |= {name: said[name] for name in ("purpose", "evidence")} | {
                "occurred_at": datetime.now(UTC).isoformat()
            }
        return await service.post(path, json=asked, headers=THEIRS)

    told = [await answered(lambda known=known: asks(known)) for known in (True, False)]  # type: ignore[misc]
    for answer in told:
        assert answer.status_code < 500, answer.text
        assert "acme" not in answer.text.lower()
    assert scrubbed(told[0]) == scrubbed(told[1])


async def test_of_a_person_known_to_both_a_caller_sees_its_own_and_facts_about_everybody(
    service: httpx.AsyncClient,
) -> None:
    evidence_id = await known_to_us(service, 1)
    given = await service.post("/v1/consents", json=consent(sender_id="beta", number=number(1)), headers=THEIRS)
    stop = opt_out(sender_id=None, number=number(1), evidence={"source": "hot-line", "actor": "agent-12"})
    assert (await service.post("/v1/opt-outs", json=stop, headers=THEIRS)).status_code == 403, "for the operator alone"
    everybody = await service.post("/v1/opt-outs", json=stop, headers=OPERATOR)
    assert everybody.status_code == 201
    seen = (await service.post("/v1/subjects/lookup", json={"number": number(1)}, headers=THEIRS)).json()
    assert {c["sender_id"] for c in seen["consents"]} == {"beta"}
    assert [(line["position"], line["sender_id"], line["source"]) for line in seen["history"]] == [
        (1, "beta", "shop"),
        (2, None, None),
    ]
    assert (seen["history"][1]["actor"], seen["history"][1]["salt"]) == (None, None)
    assert [s["sender_id"] for s in seen["suppressions"]] == [None], "that they stopped everybody is for all to know"
    whole = (await service.post("/v1/subjects/lookup", json={"number": number(1)}, headers=OPERATOR)).json()
    assert [line["actor"] for line in whole["history"] if line["sender_id"] is None] == ["agent-12"]
    for hidden in (evidence_id, everybody.json()["evidence_id"]):
        answer = await service.get(f"/v1/receipts/{hidden}", headers=THEIRS)
        unknown = await service.get("/v1/receipts/ev-00", headers=THEIRS)
        assert scrubbed(answer) == scrubbed(unknown)
        assert answer.status_code == 404
    own = await service.get(f"/v1/receipts/{given.json()['evidence_id']}", headers=THEIRS)
    assert own.status_code == 200


async def test_a_link_given_to_a_caller_opens_what_a_lookup_tells_and_stays_as_it_is_when_others_write(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    known, nobodys = (next(PEOPLE) for _ in range(2))
    await known_to_us(service, known)
    stop = opt_out(sender_id=None, evidence={"source": "hot-line", "actor": "agent-12"})
    told = []
    for who in (known, nobodys):
        everybody = await service.post("/v1/opt-outs", json=stop | {"number": number(who)}, headers=OPERATOR)
        async with surroundings.sql("consent") as sql:
            await sql.execute("UPDATE subject SET held_since = now() WHERE version > 0 AND entries > 1")
        asked = {"sender_id": "beta", "number": number(who)}
        url = (await service.post("/v1/preference-links", json=asked, headers=THEIRS)).json()["url"]
        path = url.removeprefix("https://p.example")
        page = await service.get(path)
        if who == known:
            more = consent(number=number(who), occurred_at="2026-04-02T14:05:00+02:00")
            assert (await service.post("/v1/consents", json=more)).json()["evidence_id"]
        [form] = re.findall(rf'action="{path}/copy".*?name="form" value="([^"]+)"', page.text, re.S)
        cookie = {"Cookie": page.headers["set-cookie"].partition(";")[0]}
        copies = [
            await service.post(f"{path}/copy", data={"form": form, "format": each}, headers=cookie)
            for each in ("json", "csv")
        ]
        assert [copy.status_code for copy in copies] == [200, 200], "the form is bound to the lines that it shows"
        [line] = copies[0].json()["evidence"]
        assert (line["kind"], line["evidence_id"], line["source"]) == ("opt_out", None, None)
        text = "".join(answer.text for answer in (page, *copies))
        for hidden in ("agent-12", "hot-line", everybody.json()["evidence_id"]):
            assert hidden not in text
        told.append(re.sub(r"\d+", "?", NEW_EACH_TIME.sub("?", text.replace(form, "?").replace(path, "?"))))
    assert told[0] == told[1]


async def test_no_stranger_s_lines_take_the_place_of_ones_own(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    who, since = next(PEOPLE), datetime(2026, 3, 1, tzinfo=UTC)
    given = await service.post("/v1/consents", json=consent(sender_id="beta", number=number(who)), headers=THEIRS)
    items = [
        consent(number=number(who), occurred_at=(since + timedelta(seconds=n)).isoformat())
        for n in range(HISTORY_ENTRIES)
    ]
    assert (await service.post("/v1/consents/batch", json={"items": items})).status_code == 200
    for as_of in (None, {"known_by": datetime.now(UTC).isoformat()}):
        asked = {"number": number(who), "as_of": as_of}
        seen = (await service.post("/v1/subjects/lookup", json=asked, headers=THEIRS)).json()
        assert [line["evidence_id"] for line in seen["history"]] == [given.json()["evidence_id"]]
        assert as_of or seen["version"] > 0
    asked = {"sender_id": "beta", "number": number(who)}
    url = (await service.post("/v1/preference-links", json=asked, headers=THEIRS)).json()["url"]
    assert 'class="history"' in (await service.get(url.removeprefix("https://p.example"))).text
    database = Database(await surroundings.database("consent"), pool_size=1)
    async with database.begin() as tx:
        copied = await copier(field_keys).gather(tx, subject(who), "beta")
    await database.close()
    assert [item["kind"] for item in copied].count("evidence") == 1


@each_of(
    ("method", "path", "body"),
    [
        ("POST", "/v1/consents", consent(sender_id="{}")),
        ("POST", "/v1/opt-outs", opt_out(sender_id="{}")),
        ("POST", "/v1/consents/batch", {"items": [consent(sender_id="{}")]}),
        ("POST", "/v1/consents/check", {"sender_id": "{}", "purpose": "promotions", "numbers": [number(1)]}),
        ("POST", "/v1/preference-links", {"sender_id": "{}", "number": number(1), "send": True}),
        ("POST", "/v1/reconciliations", {"sender_id": "{}", "provider": "ovh", "list": number(1)}),
        (
            "POST",
            "/v1/imports",
            LIST | {"sender_id": "{}"},
        ),
        ("GET", "/v1/retroactive-messages?sender_id={}", None),
        ("GET", "/v1/senders/{}/endings", None),
        ("GET", "/v1/senders/{}/reopening-rules", None),
        ("POST", "/v1/senders/{}/reopening-rules", {"purpose": "promotions", "reason": "forms"}),
        ("POST", "/v1/senders/{}/reopening-rules/reopening-0/end", {"reason": "forms"}),
        ("GET", "/v1/senders/{}/endings/months", None),
    ],
)
async def test_a_sender_of_a_stranger_is_one_that_nobody_has(
    service: httpx.AsyncClient, surroundings: Surroundings, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """Whether the token is for every sender of its organisation, or names a stranger's."""
    await known_to_us(service, 1)
    async with surroundings.sql("consent") as sql:
        before = await sql.fetch("SELECT * FROM evidence ORDER BY ordinal")
        for token in (THEIRS, bearer(organisation="strangers", scope=TENANT, senders=["acme", "zzzz"])):
            theirs, nobodys = [
                await service.request(
                    method,
                    path.replace("{}", sender_id),
                    json=json.loads(json.dumps(body).replace("{}", sender_id)) if body else None,
                    headers=token,
                )
                for sender_id in ("acme", "zzzz")
            ]
            assert scrubbed(theirs) == scrubbed(nobodys)
            assert "unknown_sender" in theirs.text
        assert await sql.fetch("SELECT * FROM evidence ORDER BY ordinal") == before


async def test_two_who_register_an_identical_sender_at_once_are_one_owner_and_one_refused(
    service: httpx.AsyncClient,
) -> None:
    wanted = called(SENDER, "gamma") | {"stop_code": "36333", "legal_name": "Gamma SA"}
    answers = await asyncio.gather(*(service.post("/v1/senders", json=wanted, headers=t) for t in (OURS, THEIRS)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]


async def test_what_is_about_everybody_is_for_the_platform_s_operator(service: httpx.AsyncClient) -> None:
    for method, path, body in (
        ("GET", "/v1/dead-letters", None),
        ("POST", "/v1/opt-outs", opt_out(sender_id=None)),
        ("POST", "/v1/preference-links", {"sender_id": None, "number": number(1)}),
        (
            "POST",
            "/v1/imports",
            LIST | {"sender_id": None},
        ),
    ):
        assert (await service.request(method, path, json=body, headers=THEIRS)).status_code == 403, path


async def test_the_cookie_of_a_page_is_of_its_host_alone_and_of_one_link(service: httpx.AsyncClient) -> None:
    """A sister host, or a page without TLS, can set no cookie of this name; browsers see to it (RFC 6265bis)."""
    names = set()
    for who in (next(PEOPLE), next(PEOPLE)):
        await known_to_us(service, who)
        asked = {"sender_id": "acme", "number": number(who)}
        url = (await service.post("/v1/preference-links", json=asked)).json()["url"]
        page = await service.get(url.removeprefix("https://p.example"))
        name, *attributes = page.headers["set-cookie"].split("; ")
        told = {each.partition("=")[0].lower(): each.partition("=")[2] for each in attributes}
        assert name.startswith("__Host-browser-")
        assert told.keys() == {"expires", "httponly", "path", "samesite", "secure"}, "and no Domain"
        assert (told["path"], told["samesite"]) == ("/", "lax")
        names.add(name.partition("=")[0])
    assert len(names) == 2
