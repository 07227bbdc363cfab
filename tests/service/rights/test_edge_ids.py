"""Two controllers ask the four services about the same people: no answer of the one fits an answer of the other.

Every operation that tells a tenant of people is called, as the OpenAPI documents have them (`test_edge_ids.py` of the
contract suite): a new one fails here until it is.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.contract.test_edge_ids import to_tenants
from tests.service.rights.four import SERVICES, Four, four
from tests.support.builders import SENDER, STOP_CODE, now, number, shown, subject
from tests.support.eventually import eventually
from tests.support.running import ALL_SCOPES, ORGANISATION, Surroundings, bearer

pytestmark = pytest.mark.any_broker

TENANT = ALL_SCOPES.replace(" platform:admin", "")
PEOPLE = (1, 2, 3, 4)
STOPPED_ALL = 3
SUB = re.compile(r"sub_[0-9a-f]{64}")
# what two files could be joined by: ids, hashes, digests, salts, and versions; not the instant of a fact for all
TRACE = re.compile(r"ev-[0-9a-f]{32}|sub_[0-9a-f]{64}|\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b|\b\d{15,17}\b|[0-9a-f-]{36}")


@dataclass
class Tenant:
    told: Four
    organisation: str
    controller: str
    sender_id: str
    code: str
    answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    async def call(
        self, service: str, operation: str, body: Any = None, query: str = "", *, platform: bool = False, **named: str
    ) -> Any:
        """Call an operation by its name in the OpenAPI document. `named`: the parts of its path.

        `platform`: by the platform's operator, about this tenant.
        """
        method, path = operation.split()
        headers = bearer(organisation="operator") if platform else bearer(organisation=self.organisation, scope=TENANT)
        answer = await self.told.clients[service].request(
            method, path.format(**named) + query, json=body, headers=headers, timeout=30
        )
        assert answer.status_code < 400, (operation, answer.text)
        self.answers[operation].append(f"{answer.text} {answer.headers.get('content-disposition', '')}")
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.text

    def seen(self) -> Iterator[str]:
        """All that was answered, and what a reader finds in it by base64: cursors and signed payloads."""
        for texts in self.answers.values():
            for text in texts:
                yield text
                for coded in re.findall(r"[\w-]{20,}", text):
                    with suppress(ValueError):
                        yield base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode("latin-1")

    def traces(self) -> set[str]:
        return {trace for text in self.seen() for trace in TRACE.findall(text)}


async def asks(of: Tenant) -> None:
    """Every question that a tenant can ask about people."""
    await of.call("campaign", "GET /v1/events")  # the feed begins
    said = {"sender_id": of.sender_id, "purpose": "promotions", "evidence": {"source": "shop", "text_shown": "Oui"}}
    given = [said | {"number": number(n), "occurred_at": now().isoformat()} for n in PEOPLE]
    first = await of.call("consent", "POST /v1/consents", given[0])
    await of.call("consent", "POST /v1/consents/batch", {"items": given[1:3]})
    await of.call("consent", "POST /v1/opt-outs", said | {"number": number(2), "purpose": None})
    await of.call("consent", "POST /v1/double-opt-ins", given[3])
    asked = {"sender_id": of.sender_id, "purpose": "promotions", "numbers": list(map(number, PEOPLE))}
    await of.call("consent", "POST /v1/consents/check", asked)
    bought = {"source": "shop", "sale_reference": f"F-{of.controller}"}
    item = {"sender_id": of.sender_id, "number": number(1), "occurred_at": now().isoformat(), "evidence": bought}
    await of.call("consent", "POST /v1/interactions", {"items": [item]})
    await of.call("consent", "POST /v1/preference-links", {"sender_id": of.sender_id, "number": number(1)})
    await of.call("consent", "GET /v1/receipts/{evidence_id}", evidence_id=first["evidence_id"])
    await of.call("consent", "GET /v1/senders/{sender_id}/endings", None, "?months=36&limit=1", sender_id=of.sender_id)

    contacts = [{"number": number(n), "attributes": {"first_name": "Zoé"}} for n in PEOPLE]
    await of.call("campaign", "POST /v1/contacts", {"sender_id": of.sender_id, "contacts": contacts})
    searched = {"sender_id": of.sender_id, "expression": {"attribute": "first_name", "is": "Zoé"}, "limit": 1}
    await of.call("campaign", "POST /v1/contacts/search", searched)
    for who in ({"number": number(1)}, {"subject_id": first["subject_id"]}):
        found = await of.call("campaign", "POST /v1/contacts/lookup", who | {"sender_id": of.sender_id})
        assert found["subject_id"] == first["subject_id"]
    text = f"{of.controller.title()} : -20 % ce samedi. {{stop}}"
    new = {
        "sender_id": of.sender_id,
        "name": "Samedi",
        "purpose": "promotions",
        "text": text,
        "audience": {"all": True},
    }
    campaign_id = (await of.call("campaign", "POST /v1/campaigns", new))["campaign_id"]
    test = "POST /v1/campaigns/{campaign_id}/test-sends"
    await of.call("campaign", test, {"numbers": [number(1)]}, campaign_id=campaign_id)
    await of.call("campaign", test.replace("POST", "GET"), campaign_id=campaign_id)
    await of.call("campaign", "POST /v1/campaigns/{campaign_id}/schedule", {}, campaign_id=campaign_id)

    async def finished() -> bool:
        found = await of.call("campaign", "GET /v1/campaigns/{campaign_id}", campaign_id=campaign_id)
        return bool(found["status"] == "finished")

    await eventually(finished)
    listing = "GET /v1/campaigns/{campaign_id}/recipients"
    page = await of.call("campaign", listing, None, "?limit=3", campaign_id=campaign_id)
    rest = await of.call("campaign", listing, None, f"?cursor={page['next']}", campaign_id=campaign_id)
    listed = page["items"] + rest["items"]
    assert {one["subject_id"] for one in listed} == {shown(n, of.controller) for n in PEOPLE}
    assert [one["subject_id"] for one in page["items"]] == sorted(one["subject_id"] for one in page["items"])
    await of.call("campaign", f"{listing}.csv", campaign_id=campaign_id)
    await of.call("campaign", "POST /v1/campaigns/{campaign_id}/trace", {"number": number(1)}, campaign_id=campaign_id)
    for one in listed:
        message = await of.call("dispatch", "GET /v1/messages/{identity}", identity=one["message_id"])
        assert message["subject_id"] == one["subject_id"], "what two services say fits"

    async def proven() -> bool:
        file = await of.call("consent", "GET /v1/proofs/campaigns/{campaign_id}", campaign_id=campaign_id)
        return shown(1, of.controller) in file

    await eventually(proven)


async def looks_at_facts(of: Tenant) -> None:
    for n in PEOPLE:
        await of.call("consent", "POST /v1/subjects/lookup", {"number": number(n)})
        await of.call("consent", "POST /v1/proofs", {"number": number(n)})
    found = await of.call("consent", "GET /v1/retroactive-messages")
    assert [item["subject_id"] for item in found["items"]] == [shown(STOPPED_ALL, of.controller)]


async def lists(of: Tenant) -> None:
    own = f"?sender_id={of.sender_id}&limit=1"
    listed = (
        ("consent", "GET /v1/opt-outs"),
        ("consent", "GET /v1/opt-outs.csv"),
        ("campaign", "GET /v1/contacts"),
        ("dispatch", "GET /v1/messages"),
    )
    for service, operation in listed:
        await of.call(service, operation, None, own.removesuffix("&limit=1") if operation.endswith(".csv") else own)
    await of.call("dispatch", "POST /v1/messages/search", {"number": number(1), "limit": 1})
    for n in PEOPLE:
        for service in ("consent", "campaign", "dispatch"):
            await of.call(service, "POST /v1/timeline", {"number": number(n)})
    await of.told.texted(4, "merci", to=of.code)

    async def replied() -> bool:
        return bool((await of.call("inbound", "GET /v1/replies", None, own))["items"])

    await eventually(replied)


async def shown_to_reviewers(of: Tenant) -> None:
    """The messages before a text in review: by the ids of the tenant, even for the platform's reviewers."""
    await of.told.texted(STOPPED_ALL, "Ne stoppez pas", to=of.code)
    reviews = await of.told.call("GET", "inbound", "/v1/reviews")
    tickets = [each["sent_before"] for each in reviews["items"] if each["short_code"] == of.code]
    found = await of.call("dispatch", "POST /v1/messages/before-reviews", {"sent_before": tickets}, platform=True)
    shown_as = [{each["subject_id"] for each in item["messages"]} for item in found["items"]]
    assert shown_as == [{shown(STOPPED_ALL, of.controller)}]


async def uses_rights(of: Tenant) -> None:
    """The erasure comes last: what is being erased is not copied."""
    whom: dict[str, Any] = {"number": number(1), "controller": of.controller}
    copy = await of.call("consent", "POST /v1/copies", whom)
    await of.call("consent", "GET /v1/copies/{copy_id}", copy_id=copy["copy_id"])
    right = {"kind": "contact", "sender_id": None, "fields": {"first_name": "Zoe"}}
    rectified = whom | {"asked": {"source": "letter"}, "correct": right}
    made = await of.call("consent", "POST /v1/rectifications", rectified)
    await of.call("consent", "GET /v1/rectifications/{rectification_id}", rectification_id=made["rectification_id"])
    for status in ("open", "complete"):
        await of.call("consent", "GET /v1/rectifications", None, f"?status={status}")
    erased = await of.call("consent", "POST /v1/erasures", whom | {"evidence": {"source": "letter"}})
    await of.call("consent", "GET /v1/erasures/{erasure_id}", erasure_id=erased["erasure_id"])
    for status in ("open", "complete"):
        await of.call("consent", "GET /v1/erasures", None, f"?status={status}")

    async def told() -> bool:
        page = await of.call("campaign", "GET /v1/events", None, "?limit=1000")
        types = {each["type"] for each in page["items"]}
        return types >= {"consent.opted_out", "consent.opt_out_enforced", "message.accepted", "erasure.finished"}

    await eventually(told)
    await of.call("campaign", "GET /v1/events/stream", None, "?lasts_s=0")
    for service in SERVICES:
        for operation in ("GET /v1/audit", "GET /v1/audit.jsonl"):
            await of.call(service, operation)


async def test_what_two_controllers_are_told_of_the_same_people_cannot_be_joined(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        soleil = Tenant(told, "strangers", "soleil", "soleil", "36222")
        lune = Tenant(told, ORGANISATION, "lune", SENDER, STOP_CODE)
        sender = {
            "sender_id": soleil.sender_id,
            "legal_name": "Soleil SA",
            "brand": "Soleil",
            "contact": "contact@soleil.example",
            "country": "FR",
            "oadc": "SOLEIL",
            "stop_code": soleil.code,
            "purposes": [{"id": "promotions", "wording": "Nos offres"}],
        }
        await soleil.call("consent", "POST /v1/senders", sender)
        for tenant in (lune, soleil):
            await asks(tenant)
        stop = {"sender_id": None, "number": number(STOPPED_ALL), "evidence": {"source": "hot-line"}}
        of_all = await told.call("POST", "consent", "/v1/opt-outs", stop)
        assert of_all["subject_id"] == subject(STOPPED_ALL), "the operator's own"
        async with surroundings.sql("consent") as sql:
            for tenant in (lune, soleil):
                await sql.execute(
                    "INSERT INTO retroactive_message (message_id, subject_id, sender_id, purpose, handed_off_at,"
                    " evidence_id, stopped_at, known_at, in_doubt, found_at)"
                    " VALUES ($1, $2, $1, 'promotions', now(), $3, now(), now(), false, now())",
                    tenant.sender_id,
                    subject(STOPPED_ALL),
                    of_all["evidence_id"],
                )
        for tenant in (lune, soleil):
            await looks_at_facts(tenant)
            await lists(tenant)
            await shown_to_reviewers(tenant)
        for tenant in (lune, soleil):
            await uses_rights(tenant)

        for tenant in (lune, soleil):
            whole = "\n".join(tenant.seen())
            assert {*SUB.findall(whole)} == {shown(n, tenant.controller) for n in PEOPLE}
            telling = {operation for operation, texts in tenant.answers.items() if SUB.search("\n".join(texts))}
            assert telling == set().union(*map(to_tenants, SERVICES)), "of all that tells of people"
            assert not [n for n in PEOPLE if subject(n).rpartition("-")[2] in whole]
            assert of_all["evidence_id"] not in whole
        assert lune.traces() & soleil.traces() == set()
