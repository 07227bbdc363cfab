"""Nothing that any route took in of a person is anywhere after the erasure, beyond what the certificate names.

The edge's own part, field by field and without a database: tests/contract/test_number_free.py.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from campaign.senders import registry
from common.sms.subject_id import digits_of
from common.telemetry import JsonLines
from dispatch.accepting import api as accepting
from tests.service.firewall.operations import EXPRESSION, TABLE, Ask, Things
from tests.service.rights.four import SERVICES, Four, four
from tests.service.rights.markers import marked, openapi, records, topics_with
from tests.support.builders import SENDER, now, number, shown, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import Surroundings
from tests.support.uploading import patched

PERSON = 1
INNER = digits_of(subject_keys.inner(subject(PERSON)))
# What ends what other operations are about: these come last, in this order
LAST = ("POST /v1/opt-outs", "POST /v1/reconciliations", "POST /v1/contacts/delete", "POST /v1/erasures")
ALIKE = ("POST /v1/consents/batch", "PUT /v1/senders/{sender_id}")  # the bodies of other operations
# What an organisation writes for everybody, and the words of the certificate that say so
OF_EVERYBODY = {
    "campaign": {"campaign.text", "campaign.trial", "campaign.translations", "template_version.text"},
    "consent": {"sender.contact", "sender.replies", "sender_version.content"},
    "dispatch": {"template.text"},
}


NOTHING: dict[str, list[str]] = {service: [] for service in SERVICES}
OF_ALL = "what an organisation writes for everybody: texts of campaigns and templates, a sender's contact and answers"
GOING_ON = "a file whose upload goes on, encrypted, until its lines are recorded or two days are over"


def writings(e164: str) -> list[str]:
    """Return the number as people and programs write it."""
    pairs = re.findall("..", "0" + e164.removeprefix("+33"))
    return [e164.removeprefix("+"), *(between.join(pairs) for between in ("", " ", ".", "-", "_"))]


@pytest.mark.any_broker
async def test_no_marker_of_any_route_is_anywhere_after_the_erasure(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for module, name in ((accepting, "ARRIVES_WITHIN_S"), (registry, "ARRIVE_WITHIN_S")):
        monkeypatch.setattr(module, name, 0.2)  # the number as a sender's or a template's name is a stranger's
    needles = writings(number(PERSON))
    async with four(surroundings) as told:
        things = await furnished(told)
        taken = await put_everywhere(told, things, needles)
        assert len(taken) > 30, taken
        await files_put(told, needles)
        await reviewed(told, needles)
        before = await told.held(PERSON, *needles)
        assert all(len(before[service]) >= 2 for service in SERVICES), before
        assert await told.held(PERSON, INNER) == NOTHING, "the inner id leaves no process"
        await told.texted(PERSON, "SUPPRIMEZ MES DONNEES", mo="mo-erase")

        async def certified() -> Any:
            found = (await told.call("GET", "consent", "/v1/erasures?status=complete"))["items"]
            return [each for each in found if each["controller"] is None]

        [certificate] = await eventually(certified)
        held = await told.held(PERSON, *needles)
        published = await records(surroundings)
        assert {"consent.states.v1", "inbound.messages.v1", "inbound.messages.v1.dlq"} <= published.keys()
        columns = {service: sorted({*held[service]} - OF_EVERYBODY.get(service, set())) for service in SERVICES}
        lines = [each for each in logged(caplog) if any(needle in each for needle in [*needles, INNER])]
        found = {**columns, "topics": topics_with(published, [*needles, INNER]), "log": lines}
        assert found == {**NOTHING, "topics": [], "log": []}
        kept = {each["what"] for each in certificate["kept"]}
        assert {OF_ALL, GOING_ON} <= kept


async def furnished(told: Four) -> Things:
    """Make the things that operations name."""
    sender = {"sender_id": SENDER}
    await told.everywhere(PERSON)
    await told.call("PUT", "campaign", f"/v1/senders/{SENDER}/attributes/city", {"kind": "text"})
    segment = await told.call("POST", "campaign", "/v1/segments", {**sender, "name": "Lyon", "expression": EXPRESSION})
    audience = {"segment": {"segment_id": segment["segment_id"], "version": 1}}
    text = "{first_name|Bonjour}, -20% en boutique samedi. {stop}"
    written = {**sender, "name": "Samedi", "purpose": "promotions", "text": text, "audience": audience}
    drafts = [await told.call("POST", "campaign", "/v1/campaigns", written) for _ in range(2)]
    content = {"text": "Colis {parcel} en route.", "fields": [{"name": "parcel", "max_chars": 12}]}
    template = {**sender, "name": "Colis", "category": "service", **content}
    template_id = (await told.call("POST", "campaign", "/v1/templates", template))["template_id"]
    webhook = {"url": "https://127.0.0.1:1/placet", "sender_ids": [SENDER]}
    hook = await told.call("POST", "campaign", "/v1/webhooks", webhook)
    line = (await told.state(PERSON))["history"][0]
    return Things(
        SENDER,
        number(PERSON),
        shown(PERSON, "lune"),
        "key",
        evidence_id=line["evidence_id"],
        campaign_id=drafts[0]["campaign_id"],
        draft_id=drafts[1]["campaign_id"],
        segment_id=segment["segment_id"],
        template_id=template_id,
        webhook_id=hook["webhook_id"],
    )


async def put_everywhere(told: Four, things: Things, needles: list[str]) -> list[str]:
    """Send each operation with the number in each of its fields; return the places where the number was taken."""
    taken: list[str] = []
    for service, name in _in_order():
        document, client = openapi(service), told.clients[service]
        for ask in TABLE[service][name].asks(things):
            if ask.body is None or TABLE[service][name].reads:
                continue
            for at, (place, body) in enumerate(marked(document, name, ask.body, needles[len(taken) % len(needles)])):
                where = f"{service} {name} {place}"
                if taken[-1:] == [where]:
                    continue  # the number alone was taken
                answer = await asked(client, name, ask, body, f"{needles[at % len(needles)]} of {where}")
                assert answer.status_code < 500, (where, answer.text)
                if answer.status_code < 300:
                    taken.append(where)
    return taken


def _in_order() -> list[tuple[str, str]]:
    every = [(service, name) for service in SERVICES for name in TABLE[service] if name not in ALIKE]
    return sorted(every, key=lambda each: LAST.index(each[1]) if each[1] in LAST else -1)


async def files_put(told: Four, needles: list[str]) -> None:
    """Upload files whole and in part, with the number in titles, cells and terms."""
    campaign, consent = told.clients["campaign"], told.clients["consent"]
    for needle in needles:
        for title in (needle, f"Relance {needle}"):
            file = f"number;{title};first_name\n{number(PERSON)};x;Zoé\n".encode()
            refused = await campaign.post("/v1/imports", params={"sender_id": SENDER}, content=file)
            assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (422, "number_in_title")
        line = f'{{"number": "{number(PERSON)}", "{needle}": "x"}}\n'.encode()
        await campaign.post("/v1/imports", params={"sender_id": SENDER}, content=line)
    rows = "".join(f"{needle};Lyon {needle}\n" for needle in needles).encode()
    whole = await campaign.post("/v1/imports", params={"sender_id": SENDER}, content=b"number;city\n" + rows)
    assert whole.status_code == 201, whole.text
    begun = await campaign.post("/v1/imports", params={"sender_id": SENDER}, headers={"Upload-Length": "9999"})
    half = b"number;city\n" + rows
    assert (await patched(campaign, begun.headers["Location"], half, 0)).status_code == 204
    terms = {"kind": "consents", "sender_id": SENDER, "format": "csv", "purpose": "promotions"}
    opening = {**terms, "evidence": {"source": "old-crm"}}
    begun = await consent.post("/v1/imports", json=opening, headers={"Upload-Length": "9999"})
    half = b"number,form_id\n" + rows.replace(b";", b",")
    assert (await patched(consent, begun.headers["Location"], half, 0)).status_code == 204
    await told.consents_imported(f"number,occurred_at,actor\n{number(PERSON)},{now().isoformat()},{needles[0]}\n")
    for service, statement in (
        ("campaign", "UPDATE contact_import SET due_at = due_at - interval '61 min' WHERE NOT complete"),
        ("consent", "UPDATE import_file SET touched_at = touched_at - interval '61 min' WHERE NOT complete"),
    ):
        async with told.surroundings.sql(service) as sql:
            assert await sql.execute(statement) != "UPDATE 0"


async def reviewed(told: Four, needles: list[str]) -> None:
    """Have a person decide a text, with the number in the text and in the note."""
    await told.texted(PERSON, f"Ne stoppez pas {needles[1]}", mo="mo-doubt")

    async def waiting() -> Any:
        return (await told.call("GET", "inbound", "/v1/reviews"))["items"]

    [review] = await eventually(waiting)
    note = {"intent": "none", "note": f"rappelée au {needles[2]}"}
    await told.call("POST", "inbound", f"/v1/reviews/{review['mo_id']}/decision", note)


def logged(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Yield each line of the log as a service writes the line; those of the test's own client aside."""
    written = JsonLines("placet")
    for record in caplog.records:
        if not record.name.startswith(("httpx", "httpcore")):
            yield written.format(record)


async def asked(client: httpx.AsyncClient, name: str, ask: Ask, body: Any, key: str) -> httpx.Response:
    """Send an operation, with the number in the Idempotency-Key as well."""
    method, template = name.split()
    headers = {**ask.headers, "Idempotency-Key": key[:255]}
    return await client.request(method, template.format(**ask.path), params=ask.query, json=body, headers=headers)
