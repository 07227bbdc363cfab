"""Examples for the OpenAPI documents: a value for each field, and a whole body made of its fields.

A word means one thing in every service, so its example is the same everywhere. A field, or a model, with an example of
its own keeps it. Numbers are of 06 39 98 xx xx, which nobody has.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

NOTHING: Final = object()  # no example: a part of itself
ID = "0000000000000000000000a1"
UUID = "01900000-0000-8000-8000-0000000000a1"
PERSON = "sub_5f2b8c0d9e7a4f1c8b3d6e2a9c7f0b1d4e8a6c3f5b7d9e1a2c4f6b8d0e3a5c7f"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TEXT = "Maison Lune : -20% samedi en boutique. STOP 36180"
NUMBER = "06 39 98 12 34"
INSTANT = "2026-03-02T14:05:00Z"
SENDER = "maison-lune"

# the first value that fits the field's type is the example
BY_NAME: Mapping[str, tuple[object, ...]] = {
    "Idempotency-Key": ("order-4711-confirmation",),
    "Upload-Defer-Length": ("1",),
    "Upload-Length": (1048576,),
    "Upload-Offset": (0,),
    "account": ("main",),
    "acknowledge": (["stop-missing"],),
    "acknowledged": (["stop-missing"],),
    "actor": ("agent-12",),
    "against": (["opted_out"],),
    "answers": ("ev-000000000000000000000000000000a1", "mo-1"),
    "approved_by": ("camille",),
    "asked_by": ("camille",),
    "at": (INSTANT, 12),
    "attributes": ({"city": "Lyon"},),
    "audience": (1200, {"all": True}, {"segment": {"segment_id": f"seg-{ID}", "version": 1}}),
    "after": ("e",),
    "authorisation": ("contract-2026-17",),
    "bytes": (1048576,),
    "before": ("ê",),
    "brand": ("Maison Lune",),
    "by": (["camille"], "camille"),
    "caller": ("shop",),
    "campaign_id": (f"cmp-{ID}",),
    "category": ("transactional",),
    "changed_attributes": ({"city": "Lyon"},),
    "character": ("ê",),
    "charset": ("utf-8",),
    "code": ("1",),
    "compliance": ("france-3",),
    "confidence": (0.95,),
    "consumer_group": ("dispatch.consents",),
    "contact": ("contact@maison-lune.example",),
    "controller": (SENDER,),
    "copy_id": (UUID,),
    "corrected_by": (["ev-000000000000000000000000000000a2"],),
    "cost": ("0.0512",),
    "country": ("FR",),
    "created_by": ("camille",),
    "cron": ("0 11 * * 2",),
    "currency": ("EUR",),
    "cursor": ("MTIz",),
    "data": ({"consent": [{"table": "consents", "purpose": "promotions"}]},),
    "decided_by": ("camille",),
    "delimiter": (";",),
    "description": ("Shop",),
    "detail": ("a purpose of the sender is needed",),
    "difference": (0.02,),
    "digest": (DIGEST,),
    "double_opt_in": (
        "{brand} : pour recevoir par SMS {purpose}, répondez OUI. Sinon, ne faites rien. STOP au {stop_code}.",
    ),
    "erasure_id": (UUID,),
    "error": ("not_public",),
    "event_id": ("evt-000000000000000000000000000000a1",),
    "evidence_id": ("ev-000000000000000000000000000000a1",),
    "expression": ({"attribute": "city", "is": "Lyon"},),
    "facts": ({"version": 1},),
    "field": ("purpose",),
    "fields": ({"city": "Lyon"}, ["city"]),
    "form_id": ("checkout",),
    "form_version": ("7",),
    "format": ("csv",),
    "found": ("-20%",),
    "gateway": ("ovh",),
    "gateway_message_id": ("ovh-1843",),
    "hash": (DIGEST,),
    "high": (0.035,),
    "id": ("promotions", 12),
    "identity": (UUID,),
    "if-match": ('"9f86d081884c7d65"',),
    "import_id": (f"imp-{ID}",),
    "instead": ("e",),
    "kind": ("consents", "opt_in"),
    "language": ("fr",),
    "last-event-id": ("MTIz",),
    "legal_name": ("Maison Lune SAS",),
    "letter_id": (12,),
    "limit": (100,),
    "link_host": ("lune.example",),
    "list": (f"number\n{NUMBER}\n",),
    "low": (0.005,),
    "message_id": (UUID,),
    "method": ("POST",),
    "missing": ("first_name",),
    "mo_id": ("mo-000000000000000000000000000000a1",),
    "month": ("2026-03-01",),
    "name": ("Soldes de mars", "city", "b"),
    "next": ("MTIz",),
    "note": ("asks to be left alone",),
    "number": (NUMBER, 1),
    "numbers": ([NUMBER],),
    "oadc": ("MAISONLUNE",),
    "occurrences": ([INSTANT],),
    "offset": (1843,),
    "organisation": ("lune",),
    "other_numbers": (["landline"],),
    "override_reason": ("the discount code of an order",),
    "parts": (["Maison Lune : -20% samedi. STOP 36180"],),
    "paused_because": (["gateway_needs_somebody"],),
    "people": (1,),
    "pin": (f"12:{DIGEST}",),
    "place": ("RE",),
    "policy_version": ("france-3",),
    "position": (1,),
    "postcode": ("69001",),
    "previous": (DIGEST,),
    "prices": ("2026-03",),
    "provider": ("ovh",),
    "provider_message_id": ("mo-1843",),
    "purpose": ("promotions",),
    "rate": (0.07,),
    "reachable_in": (["RE"],),
    "reason": ("unknown_purpose",),
    "reasons": (["opted_out"],),
    "receipt": ("delivered",),
    "record": ({"kind": "opt_in", "purpose": "promotions", "sender_id": SENDER},),
    "rectification_id": (UUID,),
    "reference": ("ovh/main/mo-1843",),
    "region": ("FR-ARA",),
    "relative": (0.4,),
    "reopening_rule": ("reopening-000000000000000000000000000000a1",),
    "retired_by": ("camille",),
    "root": (DIGEST,),
    "route": ("/v1/subjects/lookup",),
    "rule": ("stop_missing",),
    "rule_id": ("reopening-000000000000000000000000000000a1",),
    "sale_reference": ("order-4711",),
    "salt": ("c2FsdHNhbHRzYWx0c2FsdA",),
    "says": ("the text has no way to stop",),
    "scope": ("consent:read",),
    "sealed": (DIGEST,),
    "secret": ("a-secret-of-this-account",),
    "sectors": (["energy"],),
    "segment_id": (f"seg-{ID}",),
    "sender_id": (SENDER,),
    "sender_ids": ([SENDER],),
    "sent_back": ("findings",),
    "series_id": (f"cmp-{ID}",),
    "service": ("dispatch",),
    "shape": ({"sender_id": "text of 11"},),
    "shard": ("a",),
    "short_code": ("36180",),
    "signature": ("eyJhbGciOiJFZERTQSJ9..c2lnbmF0dXJl",),
    "source": ("shop",),
    "spend_per_month": ("500.00",),
    "start": ("Maison Lune : vous recevrez à nouveau nos offres. STOP au 36180.",),
    "stated_by": ("camille",),
    "statement": ("the address has changed",),
    "status": (422, "running"),
    "stop": ("Maison Lune : vous ne recevrez plus nos offres.",),
    "stop_added": (" STOP 36180",),
    "stop_code": ("36180",),
    "stop_page": ("https://p.example/s/maison-lune",),
    "subject_id": (PERSON,),
    "subject_ids": ({SENDER: PERSON},),
    "target": ("https://maison-lune.example/soldes",),
    "template": (f"tpl-{ID}@1",),
    "template_id": ("order-shipped",),
    "territory": ("FR",),
    "text": (TEXT,),
    "text_shown": ("J'accepte de recevoir les offres de Maison Lune par SMS.",),
    "time_zone": ("Europe/Paris",),
    "title": ("A field is not valid",),
    "to": (NUMBER,),
    "topic": ("consent.states.v1",),
    "total": ("61.44",),
    "trace_id": ("4bf92f3577b34da6a3ce929d0e0e4736",),
    "translations": ({"en": "Maison Lune: 20% off on Saturday. STOP 36180"},),
    "type": ("/problems/invalid", "consent.state_changed.v1"),
    "unpriced_territories": (["PF"],),
    "url": ("https://p.example/p/a-signed-link",),
    "value": ("61.40", {"EUR": "61.40"}),
    "values": ({"parcel": "6A1"},),
    "variant": ("a",),
    "verdict": ("allowed",),
    "waiting_for": (["inbound"],),
    "webhook_id": (f"whk-{ID}",),
    "what": ("the keyed hash of the number",),
    "where": ({"city": "Lyon"},),
    "why": ("the opt-out outlives the erasure",),
    "winner": ("b",),
    "wording": ("Nos offres par SMS",),
    "written_by": ("camille",),
}
BY_FORMAT: Mapping[str, object] = {"date-time": INSTANT, "date": "2026-03-02", "uuid": UUID}
TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
Schema = Mapping[str, Any]


class Examples:
    """The examples of a document. `schemas`: its components."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas

    def field(self, name: str, schema: Schema) -> object:
        """Return the example of a single field; NOTHING for a field that is a model."""
        if any("$ref" in each for each in (schema, schema.get("items", {}), *alternatives(schema))):
            return NOTHING
        return self.value(name, schema)

    def value(self, name: str, schema: Schema, within: frozenset[str] = frozenset()) -> object:
        """Return an example of a schema. `within`: the models that the value is a part of."""
        if schema.get("examples"):
            return schema["examples"][0]
        if "const" in schema or "enum" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        if "$ref" in schema:
            model = str(schema["$ref"]).rpartition("/")[2]
            return NOTHING if model in within else self.value(name, self._schemas[model], within | {model})
        for each in alternatives(schema):
            found = self.value(name, each, within)
            if found is not NOTHING:
                return found
        for candidate in BY_NAME.get(name, ()):
            if fits(candidate, schema):
                return candidate
        return self._by_type(name, schema, within)

    def _by_type(self, name: str, schema: Schema, within: frozenset[str]) -> object:
        match schema.get("type"):
            case "object" if "properties" in schema:
                return self._body(schema, within)
            case "object":
                each = schema.get("additionalProperties")
                found = self.value(name, each, within) if isinstance(each, Mapping) and each else NOTHING
                keys = schema.get("propertyNames", {}).get("enum", ["city"])
                return {} if found is NOTHING else {keys[0]: found}
            case "array":
                one = self.value(name, schema.get("items", {}), within)
                return [] if one is NOTHING else [one]
            case "integer":
                return max(schema.get("minimum", 1), 1)
            case "number":
                return 1.0
            case "boolean":
                return True
            case "string":
                return BY_FORMAT.get(schema.get("format", ""), NOTHING)
        return NOTHING

    def _body(self, schema: Schema, within: frozenset[str]) -> dict[str, object]:
        made = {name: self.value(name, each, within) for name, each in schema["properties"].items()}
        return {name: value for name, value in made.items() if value is not NOTHING}


def alternatives(schema: Schema) -> Iterator[Schema]:
    """Yield the alternatives of a schema, without null."""
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if each.get("type") != "null":
            yield each


def fits(value: object, schema: Schema) -> bool:
    """Return whether a schema of one type takes the value."""
    stated = schema.get("type")
    kinds = [stated] if isinstance(stated, str) else [*(stated or ())]
    types = tuple(each for kind in kinds for each in TYPES.get(kind, ()))
    if not kinds:
        return not schema.keys() & {"$ref", "anyOf", "oneOf"}
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return False
    if isinstance(value, str):
        return (
            re.search(schema.get("pattern", ""), value) is not None
            and len(value) <= schema.get("maxLength", len(value))
            and schema.get("format") in (None, "uri-reference", *(k for k, each in BY_FORMAT.items() if each == value))
        )
    if isinstance(value, list):
        return all(fits(each, schema.get("items", {})) for each in value)
    if isinstance(value, dict):
        if schema.keys() & {"properties", "propertyNames"}:
            return False
        more = schema.get("additionalProperties")
        return not isinstance(more, Mapping) or all(fits(each, more) for each in value.values())
    return True
