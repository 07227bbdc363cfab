"""Descriptions for the OpenAPI documents: the meaning of each word that several models or parameters have.

A word means one thing in every service, as in `examples.py`. A field, or a parameter, with a description of its own
keeps it; a word with another meaning somewhere, or a null with a meaning, has its description there.
"""

from collections.abc import Mapping

BY_NAME: Mapping[str, str] = {
    "Upload-Defer-Length": "`1`: a later part names the length of the file, in `Upload-Length` (tus 1.0,"
    " creation-defer-length).",
    "Upload-Offset": "Where this part begins, in bytes from the start of the file: as many as the upload has. Another"
    " offset is refused with 409.",
    "abroad": "Other countries that the sender may send marketing to, ISO 3166-1 alpha-2.",
    "accepted": "Handed off, and taken by the operator. Charged.",
    "account": "The account with the provider, by its name in the settings of the platform, such as `main`.",
    "actor": "The employee, or the system, that recorded the person's choice, in the caller's own words. An erasure"
    " takes the value.",
    "approved_at": "The time of the approval.",
    "approved_by": "The person who approved, by `sub` of the token.",
    "asked_at": "The time of the request, by the service's clock (UTC).",
    "authorisation": "The platform's reference of the document by which the owner of a protected name allows its use;"
    " null for a name that is not protected.",
    "brand": "The name by which people know the sender; SMS answers and questions name the brand. The brand belongs to"
    " one controller, with all that looks like it.",
    "campaign_id": "The id of the campaign, `cmp-` and 24 hexadecimal digits.",
    "category": "The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the"
    " person).",
    "contacts": "The contacts: at most 1,000 in a request.",
    "controller": "The controller, by the id of the legal entity behind the sender.",
    "copy_id": "The id of the copy, as the answer to the request named it.",
    "country": "The sender's country, ISO 3166-1 alpha-2, such as `FR`: its law and its clock apply.",
    "created_at": "The time of the first record, by the service's clock (UTC).",
    "created_by": "The author, by `sub` of the token.",
    "deferred": "Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself.",
    "delivered": 'With a DLR "delivered" so far.',
    "denied": "Refused by the gate for good: no message leaves.",
    "detail": "A sentence for people, which may change.",
    "double_opt_in_hours": "The hours that a double opt-in question waits for the OUI.",
    "erasure_id": "The id of the erasure, as the answer to the request named it.",
    "event_id": "The id of the event, `evt-` and 32 hexadecimal digits, the same in the feed and in each delivery.",
    "evidence_id": "The id of the ledger's line, `ev-` and 32 hexadecimal digits. `GET /v1/receipts/{evidence_id}` has"
    " its signed receipt.",
    "expired": "Not handed off before `send_before`; no message leaves any more.",
    "field": "The path of the field, as the request has it; null for no field.",
    "form_id": "The form that the person saw, by the caller's own name. An erasure takes the value.",
    "form_version": "The version of the form, in the caller's own words. An erasure takes the value.",
    "gateway": "The gateway, by its name in the settings of the platform, such as `ovh`.",
    "handed_off": "Handed off to an operator: accepted + rejected + unknown.",
    "handed_off_at": "The start of the hand-off to the operator.",
    "import_id": "The id of the import, `imp-` and 24 hexadecimal digits.",
    "index": "The item's place in the request, from 0.",
    "language": "The language, by two letters of ISO 639-1, such as `fr`.",
    "legal_name": "The name of the legal entity. The name belongs to one organisation, with all that looks like it.",
    "letter_id": "The number of the dead letter, as its list names it.",
    "message_id": "The id of the message, a UUID. A repeat of the same request has the same id.",
    "mo_id": "The id of the text, a UUID, the same for each repeat by the operator.",
    "oadc": "The sender's alphanumeric name on a phone: 3 to 11 letters and digits, with a letter. The name belongs to"
    " one controller, with all that looks like it.",
    "occurred_at": "Time at source: when the person acted, in RFC 3339 with an offset.",
    "pending": "Without a decision or an outcome so far, messages in a hand-off included.",
    "provider": "The provider, by its name in docs/providers.md, such as `ovh`.",
    "purpose": "The purpose of the consent, by its id with the sender, such as `promotions`.",
    "reachable_in": "The overseas places, ISO 3166-1 alpha-2, where the sender states that its STOP code can be"
    " reached.",
    "receipt": "The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null"
    " before the first.",
    "receipt_at": "The newest DLR's time at source; null before the first.",
    "received_at": "The time at which Placet first held the text, the opt-out or the evidence.",
    "recorded_at": "The time of the record in the ledger.",
    "reason": "A stable word for programs.",
    "rectification_id": "The id of the rectification, as the answer to the request named it.",
    "rejected": "Handed off, and refused by the operator. Not charged.",
    "renewal_days": "The days before a consent's end at which the person gets a single renewal question; null: no"
    " question.",
    "requested_at": "The time of the request, by the service's clock (UTC).",
    "rule": "The name of the rule, stable for programs.",
    "rule_id": "The id of the reopening rule, `reopening-` and 32 hexadecimal digits.",
    "sale_reference": "The sale that a `soft_opt_in` stands on, such as an order's number (CPCE L34-5). An erasure"
    " takes the value.",
    "secret": "The secret of the account in the settings, as a part of the path: for a provider that signs nothing.",
    "segment_id": "The id of the segment, `seg-` and 24 hexadecimal digits.",
    "send_before": "The message expires at this instant.",
    "sender_id": "The sender, by the id of its registration, such as `maison-lune`.",
    "short_code": "The number that the person wrote to: a short code such as 36180, or a long number.",
    "stop_code": "The number for STOP: 36xxx for marketing, 38xxx for transactional messages (AF2M).",
    "stop_scope": "How far a STOP to this sender reaches: `controller`, every sender of the controller, or `sender`,"
    " this sender alone.",
    "subject_id": "The person, by the id with the sender's controller (`sub_…`); no answer has the number.",
    "template_id": "The id of the template, `tpl-` and 24 hexadecimal digits.",
    "territory": "The territory of the number, ISO 3166-1 alpha-2, such as `FR` or `RE`.",
    "text_shown": "The wording that the person saw, at most 10,000 characters. An erasure takes the value.",
    "type": "The type of the event, by which a webhook subscribes and a feed is read.",
    "undelivered": "With a DLR `failed`, `expired` or `opted_out`.",
    "unknown": "Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged.",
    "variant": "The text of an A/B test, by its letter; `a` is the campaign's own text.",
    "waiting_for": "The services whose part is still to come; empty once complete.",
    "webhook_id": "The id of the webhook, `whk-` and 24 hexadecimal digits.",
}
