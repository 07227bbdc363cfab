"""The table of the firewall suite: how each operation of the services is asked about the things of an organisation.

An operation of an OpenAPI document without an entry fails the suite, and so does an entry that leaves out a parameter
or a field that names a thing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.uploading import OCTETS, TUS

_now = datetime.now(UTC)
NOW, TOMORROW = _now.isoformat(), (_now + timedelta(days=1)).isoformat()
A_MONTH = {"since": (_now - timedelta(days=30)).isoformat(), "until": (_now + timedelta(days=30)).isoformat()}
GATEWAY = "simulator"
TEXT = "{first_name|Bonjour}, -20% en boutique samedi. {stop}"
NOTICE = "Votre colis arrive demain."
EXPRESSION = {"attribute": "city", "is": "Lyon"}


@dataclass(frozen=True)
class Things:
    """The names of an organisation's things; or names of the same form that nothing has."""

    sender_id: str
    number: str
    subject_id: str
    key: str  # of an Idempotency-Key
    evidence_id: str = f"ev-{0:032}"
    rule_id: str = f"reopening-{0:032}"
    consents_import_id: str = f"imp-{1:024}"
    erasure_id: str = "00000000-0000-8000-8000-000000000001"
    copy_id: str = "00000000-0000-8000-8000-000000000002"
    rectification_id: str = "00000000-0000-8000-8000-000000000003"
    campaign_id: str = f"cmp-{1:024}"
    draft_id: str = f"cmp-{2:024}"
    segment_id: str = f"seg-{0:024}"
    template_id: str = f"tpl-{0:024}"
    contacts_import_id: str = f"imp-{2:024}"
    message_id: str = "00000000-0000-8000-8000-000000000004"
    webhook_id: str = f"whk-{0:024}"
    event_id: str = f"evt-{0:032}"
    mo_id: str = f"mo-{0:032}"
    letter_id: str = "7"


@dataclass(frozen=True)
class Ask:
    """A request, but for its path's template. `body`: JSON; `content`: bytes."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Asks = Callable[[Things], Sequence[Ask]]


@dataclass(frozen=True)
class Operation:
    """An operation. `reads`: nothing is written, whatever the method. `platform`: a token for the whole platform may
    have it. `creates`: a name that nothing has is then taken, so that only a name of ours is asked about."""

    asks: Asks
    reads: bool = False
    platform: bool = False
    creates: bool = False


def nothing(_: Things) -> Sequence[Ask]:
    """A list, or what is about everybody."""
    return [Ask()]


def by(**names: str) -> Asks:
    """Asks that name things in the path alone: the parameter, and the field of `Things`."""
    return lambda things: [Ask(path={name: getattr(things, of) for name, of in names.items()})]


def _consent(t: Things, **more: Any) -> dict[str, Any]:
    evidence = {"source": "shop", "form_id": "checkout", "form_version": "7"}
    said = {"sender_id": t.sender_id, "purpose": "promotions", "number": t.number, "evidence": evidence}
    return {**said, "occurred_at": "2026-03-02T14:05:00+01:00", **more}


def _sender(t: Things) -> dict[str, Any]:
    names = {"brand": t.sender_id.capitalize(), "oadc": t.sender_id.replace("-", "").upper()[:11]}
    return {
        **names,
        "legal_name": "Tierce SAS",
        "contact": "contact@tierce.example",
        "country": "FR",
        "stop_code": "36777",
        "controller": t.sender_id,
        "purposes": [{"id": "promotions", "wording": "Nos offres"}],
    }


def _rectified(t: Things, **correct: Any) -> Ask:
    asked = {"number": t.number, "controller": t.sender_id, "asked": {"source": "desk"}}
    return Ask(body={**asked, "correct": correct})


def _campaign(t: Things, **more: Any) -> dict[str, Any]:
    chosen = {"segment": {"segment_id": t.segment_id, "version": 1}}
    written = {"sender_id": t.sender_id, "name": "Samedi", "purpose": "promotions", "text": TEXT, "audience": chosen}
    return {**written, **more}


def _message(t: Things, **more: Any) -> dict[str, Any]:
    return {"sender_id": t.sender_id, "to": t.number, "category": "service", **more}


def _template_of(t: Things) -> dict[str, Any]:
    return _message(t, template_id=t.template_id, values={"parcel": "6A1"})


CONTENT = {"text": "Colis {parcel} en route.", "fields": [{"name": "parcel", "max_chars": 12}]}
UPLOAD = {**TUS, **OCTETS, "Upload-Offset": "0"}
OF_ALL: Mapping[str, Operation] = {  # of every service
    # of one kind: the lines of these calls themselves come meanwhile
    "GET /v1/audit": Operation(lambda t: [Ask(query={"subject_id": t.subject_id, "kind": "proof"})]),
    "GET /v1/audit.jsonl": Operation(lambda t: [Ask(query={"subject_id": t.subject_id, "kind": "proof"})]),
    "GET /v1/dead-letters": Operation(nothing, platform=True),
    "POST /v1/dead-letters/{letter_id}/{decision}": Operation(
        lambda t: [Ask(path={"letter_id": t.letter_id, "decision": each}) for each in ("discard", "replay")],
        platform=True,
    ),
}

CONSENT: Mapping[str, Operation] = {
    "POST /v1/consents": Operation(lambda t: [Ask(body=_consent(t))]),
    "POST /v1/opt-outs": Operation(
        lambda t: [
            Ask(body={"sender_id": t.sender_id, "purpose": None, "number": t.number, "evidence": {"source": "desk"}}),
        ]
    ),
    "GET /v1/opt-outs": Operation(lambda t: [Ask(query={"sender_id": t.sender_id})]),
    "GET /v1/opt-outs.csv": Operation(lambda t: [Ask(query={"sender_id": t.sender_id})]),
    "POST /v1/consents/batch": Operation(lambda t: [Ask(body={"items": [_consent(t)]})]),
    "POST /v1/subjects/lookup": Operation(
        lambda t: [
            Ask(body={"number": t.number}),
            Ask(body={"number": t.number, "as_of": {"known_by": NOW}}),
        ],
        reads=True,
    ),
    "POST /v1/timeline": Operation(lambda t: [Ask(body={"number": t.number})], reads=True),
    "POST /v1/consents/check": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "purpose": "promotions", "numbers": [t.number]})], reads=True
    ),
    "GET /v1/senders": Operation(nothing),
    "POST /v1/senders": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, **_sender(t)})],
        creates=True,  # the 409 of a taken name: ADR-0067
    ),
    "GET /v1/senders/{sender_id}": Operation(by(sender_id="sender_id")),
    "PUT /v1/senders/{sender_id}": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id}, body={"sender_id": t.sender_id, **_sender(t)})]
    ),
    "GET /v1/senders/{sender_id}/versions": Operation(by(sender_id="sender_id")),
    "GET /v1/senders/{sender_id}/reopening-rules": Operation(by(sender_id="sender_id")),
    "POST /v1/senders/{sender_id}/reopening-rules": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id}, body={"purpose": "promotions", "reason": "forms"})]
    ),
    "POST /v1/senders/{sender_id}/reopening-rules/{rule_id}/end": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id, "rule_id": t.rule_id}, body={"reason": "enough"})]
    ),
    "POST /v1/interactions": Operation(
        lambda t: [
            Ask(
                body={
                    "items": [
                        {
                            "sender_id": t.sender_id,
                            "number": t.number,
                            "occurred_at": "2026-03-02T14:05:00+01:00",
                            "evidence": {"source": "shop", "sale_reference": "42"},
                        }
                    ]
                }
            )
        ]
    ),
    "GET /v1/senders/{sender_id}/endings": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id}, query={"months": "36"})]
    ),
    "GET /v1/senders/{sender_id}/endings/months": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id}, query={"months": "36"})]
    ),
    "POST /v1/imports": Operation(
        lambda t: [
            Ask(body={"kind": "suppressions", "sender_id": t.sender_id, "format": "csv", "evidence": {"source": "x"}}),
        ]
    ),
    "GET /v1/imports": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "OPTIONS /v1/imports": Operation(nothing),
    "HEAD /v1/imports/{import_id}": Operation(by(import_id="consents_import_id")),
    "PATCH /v1/imports/{import_id}": Operation(
        lambda t: [Ask(path={"import_id": t.consents_import_id}, content=b"x", headers=UPLOAD)]
    ),
    "GET /v1/imports/{import_id}": Operation(by(import_id="consents_import_id")),
    "POST /v1/imports/{import_id}/dry-run": Operation(
        lambda t: [Ask(path={"import_id": t.consents_import_id}, content=f"number\n{t.number}\n".encode())], reads=True
    ),
    "GET /v1/imports/{import_id}/verdicts": Operation(by(import_id="consents_import_id")),
    "POST /v1/preference-links": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "number": t.number, "send": send}) for send in (False, True)]
    ),
    "POST /v1/double-opt-ins": Operation(
        lambda t: [Ask(body=_consent(t, occurred_at=NOW)), Ask(body=_consent(t, occurred_at=NOW, link=True))]
    ),
    "POST /v1/reconciliations": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "provider": "ovh", "list": f"number\n{t.number}\n"})]
    ),
    "POST /v1/reconciliations/dry-run": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "provider": "ovh", "list": f"number\n{t.number}\n"})],
        reads=True,
    ),
    "GET /.well-known/jwks.json": Operation(nothing),
    "GET /v1/receipts/{evidence_id}": Operation(by(evidence_id="evidence_id")),
    "GET /v1/seals/newest": Operation(nothing, platform=True),
    "GET /v1/seals": Operation(nothing, platform=True),
    "POST /v1/proofs": Operation(
        lambda t: [Ask(body={"number": t.number}), Ask(body={"number": t.number, "name_the_number": True})],
        reads=True,
    ),
    "GET /v1/proofs/campaigns/{campaign_id}": Operation(by(campaign_id="campaign_id")),
    "GET /v1/retroactive-messages": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "POST /v1/erasures": Operation(
        lambda t: [Ask(body={"number": t.number, "controller": t.sender_id, "evidence": {"source": "desk"}})]
    ),
    "GET /v1/erasures": Operation(nothing, platform=True),
    "GET /v1/erasures/{erasure_id}": Operation(by(erasure_id="erasure_id"), platform=True),
    "POST /v1/copies": Operation(lambda t: [Ask(body={"number": t.number, "controller": t.sender_id})]),
    "GET /v1/copies/{copy_id}": Operation(by(copy_id="copy_id")),
    "POST /v1/rectifications": Operation(
        lambda t: [
            _rectified(t, kind="contact", sender_id=t.sender_id, fields={"city": "Metz"}),
            _rectified(t, kind="number", sender_id=t.sender_id),
            _rectified(t, kind="evidence", evidence_id=t.evidence_id, wrong=["person"]),
        ]
    ),
    "GET /v1/rectifications": Operation(nothing),
    "GET /v1/rectifications/{rectification_id}": Operation(by(rectification_id="rectification_id")),
    **OF_ALL,
}

WEBHOOK = "/v1/webhooks/{webhook_id}"


def _of_webhook(body: Any = None) -> Asks:
    return lambda t: [Ask(path={"webhook_id": t.webhook_id}, body=body)]


CAMPAIGN: Mapping[str, Operation] = {
    "GET /v1/events": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "GET /v1/events/stream": Operation(
        lambda t: [Ask(query={"lasts_s": "0"}), Ask(query={"sender_id": t.sender_id, "lasts_s": "0"})]
    ),
    "POST /v1/webhooks": Operation(
        lambda t: [Ask(body={"url": "https://shop.example/placet", "sender_ids": [t.sender_id]})]
    ),
    "GET /v1/webhooks": Operation(nothing),
    f"GET {WEBHOOK}": Operation(by(webhook_id="webhook_id")),
    f"PATCH {WEBHOOK}": Operation(_of_webhook({"description": "Shop"})),
    f"DELETE {WEBHOOK}": Operation(by(webhook_id="webhook_id")),
    f"POST {WEBHOOK}/rotate": Operation(_of_webhook({"former_ends_in_s": 60})),
    f"POST {WEBHOOK}/test": Operation(by(webhook_id="webhook_id")),
    f"GET {WEBHOOK}/deliveries": Operation(by(webhook_id="webhook_id")),
    f"POST {WEBHOOK}/replay": Operation(_of_webhook({"since": NOW})),
    f"POST {WEBHOOK}/deliveries/{{event_id}}/replay": Operation(by(webhook_id="webhook_id", event_id="event_id")),
    "POST /v1/campaigns": Operation(lambda t: [Ask(body=_campaign(t))]),
    "GET /v1/campaigns": Operation(
        lambda t: [Ask(), Ask(query={"series_id": t.campaign_id}), Ask(query={"sender_id": t.sender_id})]
    ),
    "GET /v1/campaigns/{campaign_id}": Operation(by(campaign_id="campaign_id")),
    "PUT /v1/campaigns/{campaign_id}": Operation(
        lambda t: [Ask(path={"campaign_id": t.draft_id}, body=_campaign(t, name="Dimanche"))]
    ),
    "POST /v1/campaigns/{campaign_id}/pre-flight": Operation(by(campaign_id="draft_id"), reads=True),
    "POST /v1/campaigns/{campaign_id}/approvals": Operation(
        lambda t: [Ask(path={"campaign_id": t.draft_id}, body={"digest": "0" * 64})]
    ),
    "GET /v1/campaigns/{campaign_id}/approvals": Operation(by(campaign_id="draft_id")),
    "POST /v1/campaigns/{campaign_id}/test-sends": Operation(
        lambda t: [Ask(path={"campaign_id": t.draft_id}, body={"numbers": [t.number]})]
    ),
    "GET /v1/campaigns/{campaign_id}/test-sends": Operation(by(campaign_id="draft_id")),
    "POST /v1/campaigns/{campaign_id}/schedule": Operation(
        lambda t: [Ask(path={"campaign_id": t.draft_id}, body={"at": TOMORROW})]
    ),
    "GET /v1/campaigns/{campaign_id}/variants": Operation(by(campaign_id="campaign_id")),
    "GET /v1/campaigns/{campaign_id}/recipients": Operation(by(campaign_id="campaign_id")),
    "GET /v1/campaigns/{campaign_id}/recipients.csv": Operation(by(campaign_id="campaign_id")),
    "GET /v1/campaigns/{campaign_id}/statistics": Operation(by(campaign_id="campaign_id")),
    "POST /v1/campaigns/{campaign_id}/trace": Operation(
        lambda t: [Ask(path={"campaign_id": t.campaign_id}, body={"number": t.number})], reads=True
    ),
    "POST /v1/campaigns/{campaign_id}/pause": Operation(by(campaign_id="campaign_id")),
    "POST /v1/campaigns/{campaign_id}/resume": Operation(by(campaign_id="campaign_id")),
    "POST /v1/campaigns/{campaign_id}/cancel": Operation(by(campaign_id="campaign_id")),
    "POST /v1/campaigns/{campaign_id}/archive": Operation(by(campaign_id="draft_id")),
    "POST /v1/campaigns/{campaign_id}/unarchive": Operation(by(campaign_id="draft_id")),
    "GET /v1/senders/{sender_id}/rules": Operation(by(sender_id="sender_id")),
    "PUT /v1/senders/{sender_id}/rules": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id}, body={"approval": True})]
    ),
    "POST /v1/segments/count": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "expression": EXPRESSION})], reads=True
    ),
    "POST /v1/segments": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "name": "Lyon", "expression": EXPRESSION})]
    ),
    "GET /v1/segments": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "GET /v1/segments/{segment_id}": Operation(by(segment_id="segment_id")),
    "GET /v1/segments/{segment_id}/versions": Operation(by(segment_id="segment_id")),
    "POST /v1/segments/{segment_id}/versions": Operation(
        lambda t: [Ask(path={"segment_id": t.segment_id}, body={"expression": {"not": EXPRESSION}, "after": 1})]
    ),
    "POST /v1/contacts": Operation(
        lambda t: [
            Ask(
                body={
                    "sender_id": t.sender_id,
                    "contacts": [{"number": t.number, "attributes": {"city": "Lyon"}}],
                }
            )
        ]
    ),
    "GET /v1/contacts": Operation(lambda t: [Ask(query={"sender_id": t.sender_id})]),
    "POST /v1/contacts/search": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "expression": EXPRESSION})], reads=True
    ),
    "POST /v1/contacts/lookup": Operation(
        lambda t: [
            Ask(body={"sender_id": t.sender_id, "number": t.number}),
            Ask(body={"sender_id": t.sender_id, "subject_id": t.subject_id}),
        ],
        reads=True,
    ),
    "POST /v1/timeline": Operation(lambda t: [Ask(body={"number": t.number})], reads=True),
    "POST /v1/conversions": Operation(
        lambda t: [
            Ask(body={"sender_id": t.sender_id, "conversions": [{**who, "reference": name, "occurred_at": NOW}]})
            for name, who in (("order-1", {"number": t.number}), ("order-2", {"subject_id": t.subject_id}))
        ]
    ),
    "POST /v1/contacts/delete": Operation(
        lambda t: [
            Ask(body={"sender_id": t.sender_id, "contacts": [{"number": t.number}]}),
            Ask(body={"sender_id": t.sender_id, "contacts": [{"subject_id": t.subject_id}]}),
        ]
    ),
    "GET /v1/senders/{sender_id}/attributes": Operation(by(sender_id="sender_id")),
    "PUT /v1/senders/{sender_id}/attributes/{name}": Operation(
        lambda t: [Ask(path={"sender_id": t.sender_id, "name": "points"}, body={"kind": "number"})]
    ),
    "POST /v1/templates": Operation(
        lambda t: [Ask(body={"sender_id": t.sender_id, "name": "Colis", "category": "service", **CONTENT})]
    ),
    "GET /v1/templates": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "GET /v1/templates/{template_id}": Operation(by(template_id="template_id")),
    "POST /v1/templates/{template_id}/versions": Operation(
        lambda t: [Ask(path={"template_id": t.template_id}, body={**CONTENT, "after": 1})]
    ),
    "POST /v1/templates/{template_id}/versions/{number}/approve": Operation(
        lambda t: [Ask(path={"template_id": t.template_id, "number": "1"})]
    ),
    "POST /v1/templates/{template_id}/retire": Operation(by(template_id="template_id")),
    "POST /v1/imports": Operation(
        lambda t: [
            Ask(query={"sender_id": t.sender_id}, content=f"number;city\n{t.number};Lyon\n".encode()),
            Ask(query={"sender_id": t.sender_id}, headers={"Upload-Length": "9"}),
        ]
    ),
    "GET /v1/imports": Operation(lambda t: [Ask(), Ask(query={"sender_id": t.sender_id})]),
    "OPTIONS /v1/imports": Operation(nothing),
    "HEAD /v1/imports/{import_id}": Operation(by(import_id="contacts_import_id")),
    "PATCH /v1/imports/{import_id}": Operation(
        lambda t: [Ask(path={"import_id": t.contacts_import_id}, content=b"x", headers=UPLOAD)]
    ),
    "GET /v1/imports/{import_id}": Operation(by(import_id="contacts_import_id")),
    "POST /v1/imports/{import_id}/dry-run": Operation(
        lambda t: [Ask(path={"import_id": t.contacts_import_id}, content=f"number\n{t.number}\n".encode())], reads=True
    ),
    "GET /v1/imports/{import_id}/refusals": Operation(by(import_id="contacts_import_id")),
    "POST /v1/texts/preview": Operation(lambda t: [Ask(body={"sender_id": t.sender_id, "text": TEXT})], reads=True),
    **OF_ALL,
}

DISPATCH: Mapping[str, Operation] = {
    "POST /v1/messages": Operation(
        lambda t: [
            Ask(body=_message(t, text=NOTICE)),
            Ask(body=_template_of(t)),
            Ask(body={"messages": [_message(t, text=NOTICE), _template_of(t)]}),
        ]
    ),
    "GET /v1/messages": Operation(
        lambda t: [
            Ask(query={"sender_id": t.sender_id}),
            Ask(query={"sender_id": t.sender_id, "campaign_id": t.campaign_id}),
        ]
    ),
    "POST /v1/messages/search": Operation(
        lambda t: [Ask(body={"number": t.number}), Ask(body={"number": t.number, "sender_id": t.sender_id})],
        reads=True,
    ),
    "POST /v1/messages/before-reviews": Operation(
        lambda t: [Ask(body={"sent_before": ["a forged ticket"]})], reads=True, platform=True
    ),
    "GET /v1/messages/{identity}": Operation(by(identity="message_id")),
    "POST /v1/timeline": Operation(lambda t: [Ask(body={"number": t.number})], reads=True),
    "GET /v1/text-audits": Operation(nothing),
    "GET /v1/reports/to-stopped": Operation(lambda t: [Ask(query=A_MONTH)]),
    "GET /v1/reports/costs": Operation(lambda t: [Ask(query=A_MONTH)]),
    "GET /v1/reports/totals": Operation(
        lambda t: [Ask(query={**A_MONTH, "by": "week"}), Ask(query={**A_MONTH, "sender_id": t.sender_id})]
    ),
    "GET /v1/enforcements": Operation(nothing, platform=True),
    "GET /v1/provider-blocks": Operation(nothing, platform=True),
    "DELETE /v1/provider-blocks/{gateway}/{subject_id}": Operation(
        lambda t: [Ask(path={"gateway": GATEWAY, "subject_id": t.subject_id})], platform=True
    ),
    **OF_ALL,
}

INBOUND: Mapping[str, Operation] = {
    "GET /v1/replies": Operation(lambda t: [Ask(query={"sender_id": t.sender_id})]),
    "GET /v1/reviews": Operation(lambda t: [Ask(), Ask(query={"state": "decided"})], platform=True),
    "POST /v1/reviews/{mo_id}/decision": Operation(
        lambda t: [Ask(path={"mo_id": t.mo_id}, body={"intent": "none"})], platform=True
    ),
    "POST /v1/reviews/decisions": Operation(
        lambda t: [Ask(body={"mo_ids": [t.mo_id], "intent": "none"})], platform=True
    ),
    "POST /v1/reviews/{mo_id}/undo": Operation(lambda t: [Ask(path={"mo_id": t.mo_id})], platform=True),
    "GET /v1/reviews/proposals": Operation(nothing, platform=True),
    **OF_ALL,
}

TABLE: Mapping[str, Mapping[str, Operation]] = {
    "consent": CONSENT,
    "campaign": CAMPAIGN,
    "dispatch": DISPATCH,
    "inbound": INBOUND,
}
WITHOUT_A_TOKEN = {
    "consent": {"GET /.well-known/jwks.json"},  # any reader may check a receipt
    "inbound": {"/v1/callbacks/"},  # an operator's own signature
}
