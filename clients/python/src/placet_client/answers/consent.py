"""What consent-svc answers.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from placet_client.answer import Answer


class AsOfView(Answer):
    """The two instants of an answer with `as_of`."""

    happened_by: dt.datetime
    """The latest time at source that the answer covers."""
    known_by: dt.datetime
    """The latest time of recording that the answer covers."""


class AuditLine(Answer):
    """A call about people: by whom, of which route, and with which verdict. No line is ever changed.

    `subject_id` is the person's id with the sender's controller.
    """

    position: int | None
    """The place in the chain of the service, from 1; null but for the platform's operator."""
    at: dt.datetime
    """The time of the answer, by the service's clock (UTC)."""
    organisation: str
    """The organisation of the token."""
    caller: str
    """The account, by `sub` of the token."""
    scope: str
    """The scopes of which the route needs one."""
    method: str
    """The method of the request."""
    route: str
    """The route, by its template: no value of a request."""
    kind: Literal["read", "export", "proof", "decision", "call"] | str
    """`read`, `export`, `proof` or `decision`; `call`: another operation, which was refused."""
    subject_id: str | None
    """The person's id with the sender's controller, where the answer shows one person; else null."""
    people: int | None
    """How many people the answer shows; null for an export."""
    verdict: str
    """`allowed`, or the reason of the refusal."""
    trace_id: str | None
    """The trace of the request, as in its answer and in the logs."""
    previous: str | None
    """The hash of the line before, of any organisation; null but for the platform's operator."""
    hash: str | None
    """SHA-256 of `previous` and the canonical JSON of the other fields, in hexadecimal; null but for the
    platform's operator.
    """


class BatchAnswer(Answer):
    """The results of a batch of opt-ins."""

    results: list[BatchResult]
    """A result for each item, in request order."""
    counts: dict[str, int]
    """Items by verdict."""


class BatchResult(Answer):
    """The result of an item. `subject_id`: the person's id with the sender's controller."""

    index: int
    """The item's place in the request, from 0."""
    verdict: Literal["recorded", "unchanged", "refused"] | str
    """`unchanged`: a repeat, or an opt-in that a newer STOP, or a STOP of the person's own, keeps without effect."""
    subject_id: str | None = None
    """The person's id with the sender's controller; null for a refused item."""
    evidence_id: str | None = None
    """The id of the ledger's line; null for a refused item."""
    state: Literal["unknown", "pending", "opted_in", "opted_out", "expired"] | str | None = None
    """The state of the consent now; null for a refused item."""
    effective: bool | None = None
    """True: the consent is open. Null for a refused item."""
    held_by: HeldBy | None = None
    reopens_with: list[Literal["newer_opt_in", "start", "double_opt_in", "preference_page"] | str] | None = None
    """The means that would open the consent, as for a single opt-in; null for a refused item."""
    reasons: list[ReasonBody] | None = None
    """The field and the reason of each refusal; empty for a recorded item."""


class Certificate(Answer):
    """An erasure of a person, by the person's id with the controller; of every controller's data, by the
    platform's own id. Once `complete`, a certificate of the data erased, where and when, and of the data kept
    and why.
    """

    erasure_id: str
    """The id of the erasure, as the answer to the request named it."""
    subject_id: str
    """The person's id with the controller; of an erasure of every controller's data, the platform's own id."""
    controller: str | None
    """The controller whose data is erased. Null: every controller's, as the person asked on the page or by text,
    or at the end of all retention.
    """
    status: Literal["open", "complete"] | str
    """`complete`: every service has erased."""
    source: str
    """The channel of the request, or `retention` at the end of all retention."""
    evidence_id: str
    """The opt-out of all senders concerned, recorded before the erasure. No opt-out is recorded if `source` is
    `retention`.
    """
    requested_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    completed_at: dt.datetime | None
    """The time of the last acknowledgement; null while open."""
    services: list[Done]
    """The services that have erased."""
    waiting_for: list[str]
    """The services whose part is still to come; empty once complete."""
    asked_again_at: dt.datetime | None
    """The time of the last repeated request to a late service."""
    log_forgets_at: dt.datetime | None
    """The time by which the last event with an encrypted field is deleted from the log."""
    kept: list[Kept]
    """The data kept, and why."""


class CheckAnswer(Answer):
    """The answers for the numbers of a request."""

    results: list[CheckedNumber]
    """An answer for each number, in request order."""
    counts: dict[str, int]
    """Numbers by answer."""


class CheckedNumber(Answer):
    """The answer for a number. `subject_id`: the person's id with the sender's controller."""

    subject_id: str | None
    """The person's id with the sender's controller; null for a number that cannot be texted."""
    state: Literal["unknown", "pending", "opted_in", "opted_out", "expired"] | str
    """The state of the consent: `unknown`, `pending` (a double opt-in is open), `opted_in`, `opted_out` or
    `expired`.
    """
    allowed: bool
    """True: no reason stands against a message now. The gate decides again at the moment of sending."""
    reasons: list[
        Literal[
            "no_consent", "consent_pending", "consent_expired", "opted_out", "suppressed", "no_evidence", "under_review"
        ]
        | str
        | Literal[
            "empty",
            "not_a_number",
            "too_short",
            "too_long",
            "short_code",
            "not_mobile",
            "machine",
            "unassigned",
            "fictional",
            "ambiguous",
            "country_not_covered",
        ]
    ]
    """The denial reasons, named as by the gate, or the fault of a number that cannot be texted."""


class ColumnRead(Answer):
    """A column of a tried file, with the meaning that the reader took the column for."""

    place: int
    """The place of the column in the header, from 1."""
    title: str
    """The title, as the file has it."""
    taken_for: str
    """The meaning, such as `number` or `occurred_at`; `attribute` of a contact; `other_number`, a further number,
    which is left out; `of_no_use`, known and left out; `unknown`.
    """


class ConsentAnswer(Answer):
    """The outcome of an opt-in or opt-out. `subject_id`: the person's id with the sender's controller; of an
    opt-out of every sender, the platform's own id.
    """

    subject_id: str
    """The person's id with the sender's controller; of an opt-out of every sender, the platform's own id."""
    evidence_id: str
    """The id of the ledger's line, `ev-` and 32 hexadecimal digits. `GET /v1/receipts/{evidence_id}` has its
    signed receipt.
    """
    version: int | None
    """The version of the person's consent after the change; null without a change, as the last change may be a
    stranger's.
    """
    state: Literal["unknown", "pending", "opted_in", "opted_out", "expired"] | str
    """The state of the named scope now: `unknown`, `pending` (a double opt-in is open), `opted_in`, `opted_out` or
    `expired`.
    """
    changed: bool
    """False for a repeat, or where a newer STOP or opt-in outweighs the request."""
    effective: bool
    """True: the state is as the request says. An opt-in that is not effective is kept as evidence."""
    held_by: HeldBy | None
    reopens_with: list[Literal["newer_opt_in", "start", "double_opt_in", "preference_page"] | str]
    """The means that would open the consent; empty where the consent is open."""


class ConsentView(Answer):
    """A consent of the person to a sender, for a purpose."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    state: Literal["unknown", "pending", "opted_in", "opted_out", "expired"] | str
    """`unknown`, `pending` (a double opt-in is open), `opted_in`, `opted_out` or `expired`."""
    basis: Literal["opt_in", "soft_opt_in", "non_commercial"] | str | None
    """The basis of the opt-in; null in a state without one."""
    occurred_at: dt.datetime
    """Time at source: when the person acted, in RFC 3339 with an offset."""
    evidence_id: str
    """The id of the ledger's line behind the state, as in a bundle of the sender's controller."""
    reopening_rule: str | None
    """The sender's rule without which the person's own STOP would hold the opt-in; null without one."""


class CopyView(Answer):
    """A copy of a person's data, by the person's id with the controller. Once `complete`, `data` holds each
    service's items, each with its `kind`.
    """

    copy_id: str
    """The id of the copy, as the answer to the request named it."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    controller: str
    """The controller, by the id of the legal entity behind the sender."""
    status: Literal["open", "complete"] | str
    """`complete`: every service has sent its part."""
    requested_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    completed_at: dt.datetime | None
    """The time of the last part; null while open."""
    expires_at: dt.datetime
    """The end of the copy's retention."""
    waiting_for: list[str]
    """The services whose part is still to come; empty once complete."""
    data: dict[str, list[dict[str, Any]]] | None
    """The items of each service, by service, each with its `kind`; null while open, and after `expires_at`."""


class DeadLetterItem(Answer):
    """A record set aside, because no version of the code could read it: its place, the reason, the decision."""

    id: int
    """The number of the dead letter, in the order of arrival; a decision names it."""
    consumer_group: str
    """The consumer group that could not handle the record."""
    topic: str
    """The topic of the record, without the prefix of the installation."""
    partition: int
    """The partition of the record."""
    offset: int
    """The offset of the record in its partition."""
    type: str | None
    """The event's type; null for an unknown type."""
    shape: Any
    """The record with all values masked."""
    reason: str
    """The reason for the dead letter; after a failed replay, the reason for the failure."""
    buried_at: dt.datetime
    """The time at which the consumer stepped over the record."""
    state: Literal["open", "asked", "replayed", "discarded", "gone"] | str
    """`open`: to be decided. `asked`: a worker will handle the record again. `gone`: a replay was asked for, and
    the topic no longer holds the record.
    """
    decided_by: str | None
    """The person who decided, by `sub` of the token; null before a decision."""
    decided_at: dt.datetime | None
    """The time of the decision; null before."""


class Decided(Answer):
    """The author of a decision (`sub` of the token), its time and its reason."""

    by: str
    """The person who decided, by `sub` of the token."""
    at: dt.datetime
    """The time of the decision."""
    reason: str
    """The controller's reason."""


class Done(Answer):
    """A service's part of an erasure."""

    service: str
    """The service."""
    erased_at: dt.datetime
    """The time of the erasure in the service."""
    acknowledged_at: dt.datetime
    """The time at which consent-svc had the service's answer."""
    erased: dict[str, int]
    """Counts of what is erased, by kind of data."""


class DoubleOptInAnswer(Answer):
    """The same answer whatever the person has said before, and whether or not an SMS leaves.

    `subject_id`: the person's id with the sender's controller.
    """

    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    evidence_id: str
    """The id of the request's line in the ledger, which the opt-in will name."""
    answer_before: dt.datetime
    """The end of the question: a later answer does not count."""


class Drift(Answer):
    """The differences found."""

    listed: int
    """People on the list, not lines: a number with two readings counts two."""
    known_opted_out: int
    """People of the list with an opt-out on record before."""
    missing_here: int
    """People of the list without an opt-out on record, who are opted out from now on."""
    only_here: int
    """Numbers opted out of the sender and missing in the provider's list: the provider would deliver to these
    numbers.
    """
    unreadable: int
    """Lines without a readable number."""
    unreadable_lines: list[int]
    """The first 100 unreadable lines."""


class DryRun(Answer):
    """What an import would read in a file. Nothing of the file is stored, and nobody's consent changes."""

    bytes: int
    """Bytes of the file that came."""
    charset: str | None
    """The encoding, decided from all bytes; null where none is sure."""
    delimiter: str | None
    """The separator of cells; null for NDJSON, or before the header is read."""
    encoded_twice: bool
    """Some letters look like UTF-8 decoded wrongly and saved again: Ã© for é."""
    file_refused: FileProblem | None
    """Why the whole file would be refused; null where it is read."""
    columns: list[ColumnRead]
    """The columns of a CSV, in the order of the header."""
    unknown_columns: list[str]
    """The titles of the columns with an unknown meaning."""
    first_lines: list[LineRead]
    """The first 10 lines that would be taken, as read."""
    lines: int
    """The lines of the file, without blank lines and the header."""
    refused: int
    """Lines that the import would refuse."""
    reasons: dict[str, int]
    """Refused lines by reason."""
    refusals: list[LineRefused]
    """The first 100 refusals, in file order."""


class Ending(Answer):
    """A consent that ends soon. `subject_id`: the person's id with the sender's controller."""

    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    last_contact: dt.datetime
    """The last act of the person towards the sender, from which the retention counts (CNIL)."""
    ends_at: dt.datetime
    """The end of the consent, unless the person is in touch before."""
    asked_at: dt.datetime | None
    """The time of the renewal question; null without a question."""


class EndingMonth(Answer):
    """The consents for a purpose that end in a month (UTC), unless the people are in touch before."""

    month: dt.date
    """The month's first day."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    consents: int
    """Consents that end in the month."""
    asked: int
    """People among them with a renewal question."""


class EndingMonths(Answer):
    """The endings by month."""

    items: list[EndingMonth]
    """A line for each month and purpose with endings, the earliest first."""


class EvidenceView(Answer):
    """A line of the ledger. The receipt proves a line.

    A line about every sender is a fact: its id, its words, its `source` and its digest are for the platform's
    operator, and null for others.
    """

    position: int
    """The place of the line among the lines of this person that the caller sees, from 1."""
    evidence_id: str | None
    """The id of the line, which its receipt names; null in a fact."""
    kind: Literal["opt_in", "opt_out", "request", "expiry", "contact", "correction"] | str
    """`request`: a question to the person. `contact`: an act that moves the clock of retention. `correction`: a
    rectification.
    """
    sender_id: str | None
    """The sender concerned; null: every sender."""
    purpose: str | None
    """The purpose concerned; null: every purpose."""
    basis: Literal["opt_in", "soft_opt_in", "non_commercial"] | str | None
    """The basis of an opt-in; null for another kind."""
    source: str | None
    """The channel: the caller's own, or one that Placet writes, such as `mo` or `preference_page`; null in a fact."""
    form_id: str | None
    """The form that the person saw, by the caller's own name. An erasure takes the value."""
    form_version: str | None
    """The version of the form, in the caller's own words. An erasure takes the value."""
    text_shown: str | None
    """The wording that the person saw, at most 10,000 characters. An erasure takes the value."""
    actor: str | None
    """The employee, or the system, that recorded the person's choice, in the caller's own words. An erasure takes
    the value.
    """
    sale_reference: str | None
    """The sale that a `soft_opt_in` stands on, such as an order's number (CPCE L34-5). An erasure takes the value."""
    reference: str | None
    """The operator's name of the text or DLR behind the line, such as `ovh/main/mo-1843`; null without one. An
    erasure takes the value.
    """
    answers: str | None
    """The id of the line that this line answers or corrects; null without one."""
    controller: str | None
    """The controller that an opt-out covers; null for a line about a single sender, or about everyone."""
    reopening_rule: str | None
    """The rule in force for the sender when the opt-in was asserted; null without one."""
    occurred_at: dt.datetime
    """Time at source: when the person acted, in RFC 3339 with an offset."""
    received_at: dt.datetime
    """The time at which Placet first held the text, the opt-out or the evidence."""
    recorded_at: dt.datetime
    """The time of the record in the ledger."""
    salt: str | None
    """The salt of `sealed`; null once erased."""
    sealed: str | None
    """The digest, with `salt`, of the fields that an erasure takes."""
    corrected_by: list[str]
    """The ids of the lines that correct this line."""


class FileProblem(Answer):
    """Why an import would refuse the whole file."""

    reason: str
    """The reason, as an import gives it."""
    detail: str
    """A sentence for people, which may change."""


class HeldBy(Answer):
    """A STOP of the person's own: by text, by a stop link, on the preference page or told by the operator.

    Without a reopening rule no caller takes such a STOP back.
    """

    reach: Literal["purpose", "sender", "controller", "everyone"] | str
    """How far the STOP reaches: the purpose, the sender, every sender of the controller, or everyone."""
    since: dt.datetime
    """Time at source of the STOP."""


class Import(Answer):
    """An import and its counts. Each line that is not blank gets one of four verdicts."""

    import_id: str
    """The id of the import, `imp-` and 24 hexadecimal digits."""
    kind: str
    """The content of the file: `consents` or `suppressions`."""
    sender_id: str | None
    """The sender of the lines; null: suppressions of every sender."""
    format: str
    """The format of the file."""
    status: Literal["uploading", "recording", "done"] | str
    """`uploading`: bytes are missing. `recording`: the file is here, and lines are still to be recorded."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""
    bytes: int | None
    """The whole file's length; null until the caller names the length."""
    received_bytes: int
    """Bytes of the file received: the offset to continue the upload from."""
    pieces: int
    """Pieces that the file was cut into so far."""
    recorded_pieces: int
    """Pieces whose lines are recorded."""
    lines: int
    """Lines recorded so far, blank lines included."""
    created: int
    """Lines recorded with a change."""
    unchanged: int
    """Lines known before, or without a change."""
    outvoted: int
    """Opt-ins that a newer STOP or an expiry outweighs, or that stand against a STOP of the person's own
    (`stopped_by_person`): kept in the ledger, without effect.
    """
    refused: int
    """Lines refused and not kept; the verdicts have each with its reasons."""
    reasons: dict[str, int]
    """Lines by reason: refused lines, and `stopped_by_person`."""
    finished_at: dt.datetime | None
    """The time of the last record; null before the end."""


class InteractionResult(Answer):
    """The result of an item. `subject_id`: the person's id with the sender's controller."""

    index: int
    """The item's place in the request, from 0."""
    verdict: Literal["recorded", "unchanged", "refused"] | str
    """`unchanged`: a repeat, or an act older than the last contact on record."""
    subject_id: str | None = None
    """The person's id with the sender's controller; null for a refused item."""
    reasons: list[ReasonBody] | None = None
    """The field and the reason of each refusal; empty for a recorded item."""


class InteractionsAnswer(Answer):
    """The results of a batch of interactions."""

    results: list[InteractionResult]
    """A result for each item, in request order."""
    counts: dict[str, int]
    """Items by verdict."""


class Kept(Answer):
    """Data that an erasure keeps."""

    service: str
    """The service that keeps the data."""
    what: str
    """The data kept."""
    why: str
    """The reason, with its source in law."""


class LineRead(Answer):
    """A line of a tried file, as read."""

    line: int
    """The line of the file at which the record begins, from 1."""
    read: dict[str, str]
    """The values by their meaning; numbers in E.164, instants in UTC."""


class LineRefused(Answer):
    """A line of a tried file that an import would refuse."""

    line: int
    """The line of the file at which the record begins, from 1."""
    field: str | None
    """The field that the reason is about; null for the line as a whole."""
    reason: str
    """The reason, as an import gives it."""


class LinkAnswer(Answer):
    """A link. `url` is for this person's phone only, and null where the link was texted. `subject_id`: the
    person's id with the sender's controller; of a link to every sender, the platform's own id.

    The URL is not stored but for a repeat of the request under its Idempotency-Key: after a loss, make another
    link.
    """

    subject_id: str
    """The person's id with the sender's controller; of a link to every sender, the platform's own id."""
    url: str | None
    """The address, for this person's phone only; null where the link was texted."""
    expires_at: dt.datetime
    """The link works until this instant."""


class Moment(Answer):
    """One event of a person's timeline. `subject_id`: the person's id with the sender's controller.

    An event about every sender has neither sender nor id.
    """

    at: dt.datetime
    """Time at source."""
    kind: str
    """The kind of the event; the operation names the kinds that its part has."""
    sender_id: str | None = None
    """The sender concerned; null for an event about every sender."""
    subject_id: str | None = None
    """The person's id with the sender's controller; null for an event about every sender."""
    purpose: str | None = None
    """The purpose of the consent or of the message; null where none is concerned."""
    campaign_id: str | None = None
    """The campaign of the message, the click or the audience; null outside campaigns."""
    id: str | None = None
    """The evidence, message, erasure or rectification, or your reference."""
    status: str | None = None
    """The state after the event: a message's status, a DLR, the basis of a consent, `open` or `complete`."""
    detail: str | None = None
    """More words: the source of the evidence, the reasons of a verdict, the target of a link, or a value."""


class OptOut(Answer):
    """An opt-out that reaches a sender. `subject_id`: the person's id with the sender's controller.

    An opt-out of every sender has no `source`, and the name of the controller's bundles as `evidence_id`. Such
    an opt-out is listed once the sender has a line of the person.
    """

    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    evidence_id: str
    """The id of the ledger's line, `ev-` and 32 hexadecimal digits. `GET /v1/receipts/{evidence_id}` has its
    signed receipt.
    """
    reach: Literal["purpose", "sender", "controller", "everyone"] | str
    """The purpose, the sender, every sender of the controller, or everyone."""
    sender_id: str | None
    """The sender that the person stopped, perhaps a sister; null: everyone."""
    purpose: str | None
    """The purpose that the person left; null: every purpose."""
    source: str | None
    """The channel: the caller's own, or one that Placet writes, such as `mo` or `preference_page`; null for an
    opt-out of every sender.
    """
    occurred_at: dt.datetime
    """Time at source."""
    recorded_at: dt.datetime
    """The time of the record in the ledger."""
    in_force: bool
    """False once a newer opt-in has opened the purpose, or a purpose of the sender."""


class PurposeBody(Answer):
    """A purpose for which the sender asks consent."""

    id: str
    """The id of the purpose: 2 to 40 small letters, digits and hyphens."""
    wording: str
    """The purpose in words, for questions by SMS: without rebate, price, voucher or link."""
    retention_months: int | None = None
    """How long a consent holds after the person's last contact, in months, within the limit of the CNIL."""


class ReachBody(Answer):
    """A statement that a STOP code can be reached from an overseas place."""

    place: str
    """The place, ISO 3166-1 alpha-2."""
    stated_by: str
    """The person who stated the reach, by `sub` of the token."""
    stated_at: dt.datetime
    """The time of the statement."""


class ReasonBody(Answer):
    """A reason of a refusal: the field, a word for programs, a sentence for people."""

    field: str | None
    """The path of the field, as the request has it; null for no field."""
    reason: str
    """A stable word for programs."""
    detail: str | None = None
    """A sentence for people, which may change."""


class ReceiptBody(Answer):
    """The signed proof of a line of the ledger."""

    evidence_id: str
    """The id of the ledger's line, `ev-` and 32 hexadecimal digits. `GET /v1/receipts/{evidence_id}` has its
    signed receipt.
    """
    receipt: str
    """A compact JWS, to check against `/.well-known/jwks.json`."""
    record: dict[str, Any]
    """The payload of the JWS."""
    sealed: SealedBody | None
    corrections: list[ReceiptBody] | None = None
    """The receipts of the lines that correct this line, to show with this receipt."""


class RectificationView(Answer):
    """A rectification and its progress, of a person by the person's id with the controller."""

    rectification_id: str
    """The id of the rectification, as the answer to the request named it."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    controller: str
    """The controller, by the id of the legal entity behind the sender."""
    kind: Literal["contact", "number", "evidence"] | str
    """The subject of the correction."""
    sender_id: str | None
    """The sender concerned; null: every sender of the controller."""
    status: Literal["open", "complete"] | str
    """`complete`: every service has corrected."""
    source: str
    """The channel of the request."""
    asked: dict[str, Any] | None
    """The request, as sent; null once erased."""
    evidence_id: str | None
    """The line appended to the ledger; null for a correction of contacts."""
    annulled: bool
    """True: the wrong line no longer counts."""
    requested_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    completed_at: dt.datetime | None
    """The time of the last correction; null while open."""
    rectified: dict[str, dict[str, int]]
    """Counts by service; `messages` had not left and got new text."""
    waiting_for: list[str]
    """The services whose part is still to come; empty once complete."""


class RepliesBody(Answer):
    """The sender's own texts for SMS answers, two SMS at most, without advertising; null: Placet's text.

    The link to the preference page is added to answers where it fits.
    """

    stop: str | None = None
    """The answer to a STOP: names the brand, and has no link."""
    contact: str | None = None
    """The answer to CONTACT: « édité par » and the legal name; its only link is the sender's `contact`."""
    double_opt_in: str | None = None
    """The question answered by OUI: with the fields {brand}, {purpose} and {stop_code}, and {link} for an SMS with
    a link.
    """
    start: str | None = None
    """The answer to a START: names the brand, and tells of STOP."""


class RetroactiveMessage(Answer):
    """A message which went out after the person's STOP, while the STOP was not yet on record or not yet enforced.

    `subject_id`: the person's id with the sender's controller.
    """

    message_id: str
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    campaign_id: str | None
    """The campaign that requested the message; null outside campaigns."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    handed_off_at: dt.datetime
    """The start of the hand-off to the operator."""
    evidence_id: str
    """The STOP. The receipt of a STOP to the sender or its controller is at /v1/receipts/{evidence_id}; a STOP to
    every sender has the name of the controller's bundles.
    """
    stopped_at: dt.datetime
    """The time of the STOP at source; the earliest possible instant."""
    known_at: dt.datetime
    """The time of the STOP's record. A message handed off later left before the STOP was enforced."""
    in_doubt: bool
    """The STOP is timed to the second, and the message left within that second."""
    found_at: dt.datetime
    """The time of the discovery."""


class RuleView(Answer):
    """A reopening rule. `ended` is null while the rule is in force."""

    rule_id: str
    """The id of the reopening rule, `reopening-` and 32 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    begun: Decided
    ended: Decided | None


class SealBody(Answer):
    """A seal on the ledger's entries after the seal before, up to `last`."""

    number: int
    """The number of the seal, from 1."""
    previous: str
    """The hash of the seal before."""
    entries: int
    """Entries under this seal."""
    first: int
    """The ordinal of the first entry under this seal."""
    last: int
    """The ordinal of the last entry under this seal."""
    root: str
    """The root of the Merkle tree over the hashes of the entries (RFC 6962), in hexadecimal."""
    sealed_at: dt.datetime
    """The time of the seal."""
    hash: str
    """SHA-256 of the hash before and the canonical JSON of the other fields, in hexadecimal."""
    pin: str
    """The value to keep elsewhere, for `python -m consent verify --pin`."""
    signature: str
    """A compact JWS over the canonical JSON of the fields from `number` to `hash`."""
    shard: str | None = None
    """The shard whose ledger is sealed, each with seals of its own; null without shards."""


class SealedBody(Answer):
    """The fields which the receipt proves without revealing: `ledger.sealed` is the SHA-256 of `salt` and the
    canonical JSON of the other fields.
    """

    salt: str
    """The salt of the digest, in base64url."""
    actor: str | None
    """The employee, or the system, that recorded the person's choice, in the caller's own words. An erasure takes
    the value.
    """
    form_id: str | None
    """The form that the person saw, by the caller's own name. An erasure takes the value."""
    form_version: str | None
    """The version of the form, in the caller's own words. An erasure takes the value."""
    reference: str | None
    """The operator's name of the text or DLR behind the line, such as `ovh/main/mo-1843`; null without one. An
    erasure takes the value.
    """
    sale_reference: str | None
    """The sale that a `soft_opt_in` stands on, such as an order's number (CPCE L34-5). An erasure takes the value."""
    text_shown: str | None
    """The wording that the person saw, at most 10,000 characters. An erasure takes the value."""


class SenderBody(Answer):
    """A sender, as registered."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    version: int
    """The version of the sender: each change has a higher one."""
    legal_name: str
    """The name of the legal entity. The name belongs to one organisation, with all that looks like it."""
    brand: str
    """The name by which people know the sender; SMS answers and questions name the brand. The brand belongs to one
    controller, with all that looks like it.
    """
    contact: str
    """The address or number at which people reach the sender, as the answer to CONTACT gives it."""
    country: str
    """The sender's country, ISO 3166-1 alpha-2, such as `FR`: its law and its clock apply."""
    oadc: str
    """The sender's alphanumeric name on a phone: 3 to 11 letters and digits, with a letter. The name belongs to
    one controller, with all that looks like it.
    """
    stop_code: str
    """The number for STOP: 36xxx for marketing, 38xxx for transactional messages (AF2M)."""
    stop_code_class: Literal["marketing", "transactional"] | str
    """The class of `stop_code`: 36xxx is marketing, 38xxx transactional (AF2M)."""
    purposes: list[PurposeBody]
    """The purposes for which the sender asks consent; none for a transactional STOP code."""
    controller: str
    """The controller, by the id of the legal entity behind the sender."""
    stop_scope: Literal["controller", "sender"] | str
    """How far a STOP to this sender reaches: `controller`, every sender of the controller, or `sender`, this
    sender alone.
    """
    replies: RepliesBody
    double_opt_in_hours: int
    """The hours that a double opt-in question waits for the OUI."""
    renewal_days: int | None
    """The days before a consent's end at which the person gets a single renewal question; null: no question."""
    abroad: list[str]
    """Other countries that the sender may send marketing to, ISO 3166-1 alpha-2."""
    authorisation: str | None
    """The platform's reference of the document by which the owner of a protected name allows its use; null for a
    name that is not protected.
    """
    reachable_in: list[str]
    """The overseas places, ISO 3166-1 alpha-2, where the sender states that its STOP code can be reached."""
    reach_stated: list[ReachBody]
    """The author and the time of each of these statements."""
    stop_page: str | None
    """The address of the sender's stop links; null: no page is configured."""
    findings: list[SenderFinding]
    """What stands against the sender's work, known from the start; empty: nothing."""


class SenderFinding(Answer):
    """A remark on a sender, which was registered all the same."""

    field: str
    """The path of the field, as the request has it; null for no field."""
    reason: Literal["country_not_covered"] | str
    """`country_not_covered`: the law's data has no rules for the country, so marketing to its numbers is denied,
    and national writings of its numbers are not read.
    """
    detail: str
    """A sentence for people, which may change."""


class SenderVersion(Answer):
    """A version of a sender."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    version: int
    """The version of the sender: each change has a higher one."""
    legal_name: str
    """The name of the legal entity. The name belongs to one organisation, with all that looks like it."""
    brand: str
    """The name by which people know the sender; SMS answers and questions name the brand. The brand belongs to one
    controller, with all that looks like it.
    """
    contact: str
    """The address or number at which people reach the sender, as the answer to CONTACT gives it."""
    country: str
    """The sender's country, ISO 3166-1 alpha-2, such as `FR`: its law and its clock apply."""
    oadc: str
    """The sender's alphanumeric name on a phone: 3 to 11 letters and digits, with a letter. The name belongs to
    one controller, with all that looks like it.
    """
    stop_code: str
    """The number for STOP: 36xxx for marketing, 38xxx for transactional messages (AF2M)."""
    stop_code_class: Literal["marketing", "transactional"] | str
    """The class of `stop_code`: 36xxx is marketing, 38xxx transactional (AF2M)."""
    purposes: list[PurposeBody]
    """The purposes for which the sender asks consent; none for a transactional STOP code."""
    controller: str
    """The controller, by the id of the legal entity behind the sender."""
    stop_scope: Literal["controller", "sender"] | str
    """How far a STOP to this sender reaches: `controller`, every sender of the controller, or `sender`, this
    sender alone.
    """
    replies: RepliesBody
    double_opt_in_hours: int
    """The hours that a double opt-in question waits for the OUI."""
    renewal_days: int | None
    """The days before a consent's end at which the person gets a single renewal question; null: no question."""
    abroad: list[str]
    """Other countries that the sender may send marketing to, ISO 3166-1 alpha-2."""
    authorisation: str | None
    """The platform's reference of the document by which the owner of a protected name allows its use; null for a
    name that is not protected.
    """
    reachable_in: list[str]
    """The overseas places, ISO 3166-1 alpha-2, where the sender states that its STOP code can be reached."""
    reach_stated: list[ReachBody]
    """The author and the time of each of these statements."""
    stop_page: str | None
    """The address of the sender's stop links; null: no page is configured."""
    findings: list[SenderFinding]
    """What stands against the sender's work, known from the start; empty: nothing."""
    in_force_from: dt.datetime
    """The time from which the version counts."""


class SubjectView(Answer):
    """The record of a subject. `subject_ids`: the person's id with each controller that the token covers;
    `subject_id`: the platform's own id.

    With `as_of`, `history` is the evidence behind the state.
    """

    subject_id: str | None
    """The platform's own id of the person; null for callers other than the platform's operator."""
    subject_ids: dict[str, str]
    """The person's id with each controller that the token covers, by controller."""
    as_of: AsOfView | None
    version: int | None
    """The version of the record, 0 without a line of these senders; null with `as_of`."""
    held_since: dt.datetime | None
    """Since when marketing waits for the review of a text of the person; null without a review, and with `as_of`."""
    consents: list[ConsentView]
    """The consents, one for each sender and purpose on record."""
    suppressions: list[SuppressionView]
    """The opt-outs of every purpose of a sender, or of every sender."""
    history: list[EvidenceView]
    """The newest 1,000 lines that the caller sees, newest last."""


class SuppressionView(Answer):
    """An opt-out of every purpose of a sender."""

    sender_id: str | None
    """The sender that the person stopped; null: every sender."""
    since: dt.datetime
    """Time at source of the opt-out."""


class Timeline(Answer):
    """The newest events of a person that one service has."""

    items: list[Moment]
    """The newest first."""
    whole: bool
    """False if the person has older events than these."""
