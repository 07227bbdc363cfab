"""What campaign-svc answers.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Tag

from placet_client.answer import Answer, Unknown, told_by


class Against(Answer):
    """A finding against the campaign, with the rule and its source."""

    id: str
    """The id that acknowledges a warning. The same finding keeps its id."""
    rule: str
    """The name of the rule, stable for programs."""
    severity: Literal["error", "warning"] | str
    """An error prevents scheduling; a warning needs an acknowledgement."""
    says: str
    """The finding, in words for the author."""
    found: str | None
    """The words concerned. In braces: the field whose values break the rule; no finding holds a person's own
    words.
    """
    people: int | None
    """People whose value of the field breaks the rule; null without a field."""
    source: str
    """The source of the rule: a law, an authority, or an operator."""
    needs_approval: bool
    """True: with this finding, the campaign needs an approval by another person."""


class Approval(Answer):
    """An approval of a campaign by a second person."""

    digest: str
    """The digest of the pre-flight that the approval is of; another content or start needs another approval."""
    approved_by: str
    """The person who approved, by `sub` of the token."""
    approved_at: dt.datetime
    """The time of the approval."""


class Approved(Answer):
    """Whether the campaign needs an approval, and the approvals so far."""

    needed: bool
    """True: the sender's rules, or a finding, ask for an approval by another person."""
    by: list[str]
    """The people who approved exactly this content and start."""


class Asked(Answer):
    """The event of a test."""

    event_id: str
    """The id of the event, `evt-` and 32 hexadecimal digits, the same in the feed and in each delivery."""


class Campaign(Answer):
    """A campaign with its content, its progress and its live tallies."""

    campaign_id: str
    """The id of the campaign, `cmp-` and 24 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    name: str
    """The name of the campaign, for the people who work on it: no message shows the name."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    text: str
    """The text, with its fields unfilled."""
    language: str
    """The language, by two letters of ISO 639-1, such as `fr`."""
    translations: dict[str, str]
    """The text in other languages, by language."""
    folding: Literal["none", "typographic", "accents", "names"] | str
    sectors: list[str]
    """The product advertised, where the law has rules for the product."""
    audience: dict[str, Any]
    """The selection of contacts: `all`, `where` or `segment`, as in `NewCampaign`."""
    rest_days: int | None
    """The days without a message from the sender's campaigns that a contact needs; null: no such rule."""
    status: Literal["draft", "scheduled", "running", "paused", "finished", "cancelled"] | str
    sent_back: str | None
    """The reason for a scheduled campaign's return to draft: at its start the campaign was
    `not_what_was_approved`, lacked a needed approval (`approval_missing`), or its segment selected no contact
    (`nobody_selected`); or, after a change of the sender, the errors found, separated by commas
    (`stop_mention_missing`, or errors of a pre-flight).
    """
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""
    timing: Timing
    recurring: Recurring | None
    series_id: str | None
    """The id of the recurring campaign that this campaign is an occurrence of."""
    trial: Trial | None
    winner: str | None
    """The variant chosen by an A/B test; `a` is the campaign's own text."""
    choice: Choice | None
    """The choice of the winner, once a campaign with a `winner` has started."""
    missed: int
    """Occurrences skipped: not started before the next occurrence, or paused."""
    priority: Literal["high", "normal", "low"] | str
    at: dt.datetime | None
    """The scheduled start. With `local_time`, recipients in time zones further east are due earlier."""
    starts_at: dt.datetime | None
    """The instant at which the planner starts the campaign; null before scheduling."""
    opens_at: dt.datetime | None
    """The earliest instant of a hand-off to the sender's own country."""
    started_at: dt.datetime | None
    """The time of the start, when the audience was frozen; null before."""
    ended_at: dt.datetime | None
    """The time of the end, by completion or cancellation; null before."""
    archived_at: dt.datetime | None
    """Lists leave an archived campaign out; an edit or a schedule brings the campaign back."""
    send_before: dt.datetime | None
    """Messages expire at this instant; null: three days after the start."""
    length: Length
    """Segments of the shortest message of `text`; contacts' attributes may add segments."""
    costly: list[Costly]
    """Characters of `text` outside GSM-7: with them an SMS holds less than half as many characters."""
    paused_because: list[str]
    """The reasons for an automatic pause. `gateway_needs_somebody`: a provider's account or credit needs a person;
    resume the campaign afterwards. `series_paused`: the recurring campaign was paused; the occurrence resumes
    with the series. Empty after a pause by a person.
    """
    sending_waits: SendingWaits | None
    """The hold on marketing of a running campaign. The campaign goes on by itself."""
    failing: Failing | None
    """Failures of the campaign's next step."""
    waiting_for: list[Waiting]
    """The events that the campaign waits for. Empty after its end, once each recipient has a decision."""
    statistics: Statistics


class CampaignConversions(Answer):
    """The conversions of the audience to the sender within a time, the same for both groups."""

    since: dt.datetime
    """The campaign's start."""
    until: dt.datetime
    """The end of the time in which conversions count."""
    messaged: ConversionGroup
    """Everybody but the holdout, denied recipients included."""
    holdout: ConversionGroup | None
    lift: ConversionLift | None
    """Null without a holdout."""


class CampaignData(Answer):
    """A campaign whose state has changed. `GET /v1/campaigns/{campaign_id}` has the campaign."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    campaign_id: str
    """The id of the campaign, `cmp-` and 24 hexadecimal digits."""


class CampaignEvent(Answer):
    """A campaign's state has changed."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: (
        Literal["campaign.started", "campaign.paused", "campaign.resumed", "campaign.finished", "campaign.cancelled"]
        | str
    )
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: CampaignData


class CampaignStatistics(Answer):
    """The counts of a campaign at one instant; each breakdown adds up to the total."""

    as_of: dt.datetime
    """The instant of the count."""
    total: Costed
    variants: list[OfVariant]
    """The counts by text."""
    territories: list[OfTerritory]
    """The counts by territory."""
    hours: list[OfHour]
    """The counts by hour of the hand-off."""
    reasons: list[OfReason]
    """The recipients by status and reason, most recipients first."""
    links: list[OfLink]
    """The tracked links, in the order of their numbers."""
    conversions: CampaignConversions | None
    """Null before the campaign's start."""


class Cap(Answer):
    """A limit on messages to a person."""

    messages: int
    """The most messages to a person within `days`."""
    days: int
    """The length of the window in days."""


class Change(Answer):
    """A replacement of a character."""

    at: int
    """The change's position in the typed text, from 1."""
    before: str
    """The character as typed."""
    after: str
    """The similar GSM-7 characters; empty for a removed character."""


class Choice(Answer):
    """The choice of the best text: when, and what the choice waits for."""

    at: dt.datetime
    """The time of the choice; while the choice waits for the first groups, the latest time."""
    waits_for: Literal["first_groups", "after_hours"] | str | None
    """`first_groups`: each recipient of the first groups gets a decision first. `after_hours`: these hours pass
    after the last message of the first groups. Null: the choice is made.
    """
    last_moment: bool
    """True if the choice falls at the last moment that leaves the remaining recipients enough time before the
    campaign's end, at its pace and within the hours of its country.
    """
    because: Literal["best", "equal", "too_few"] | str | None = None
    """`best`: the text did best. `equal`: the text is the first of several equal texts. `too_few`: fewer than two
    texts reached 30 people each, so the campaign's own text wins.
    """


class Closed(Answer):
    """A rule that forbids sending there at the wanted time, so that sending waits until `opens_at`."""

    aspect: Literal["hours", "weekday", "holiday"] | str
    rule: str
    """The name of the rule, stable for programs."""
    source: str
    """The source of the rule."""
    holiday: Holiday | None
    """The holiday that closes the day, if any."""


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


class Consent(Answer):
    """A person's consent to the sender for one purpose."""

    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    state: str
    """unknown, pending, opted_in, opted_out or expired."""
    basis: str | None
    """The basis of an opt-in: `opt_in`, `soft_opt_in` or `non_commercial`; null in another state."""
    occurred_at: dt.datetime
    """Time at source of the evidence."""
    expires_at: dt.datetime | None
    """The end of the consent, unless the person is in touch before; null without an opt-in."""


class ConsentData(Answer):
    """Every consent of a person to a sender, after the change. `subject_id`: the person's id with the controller."""

    subject_id: str
    """The person's id with the controller of the sender."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    consents: list[Consent]
    """Every consent to the sender, one for each purpose on record."""
    other_purposes_stopped: bool
    """True: an opt-out covers each purpose that has no entry in `consents`, for whatever comes later."""
    erased: bool
    """True: the person's data is erased, or being erased."""


class ConsentEvent(Answer):
    """A consent of a person has changed, or the person has opted out."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["consent.changed", "consent.opted_out"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: ConsentData


class Contact(Answer):
    """A contact, without its number. `subject_id`: the person's id with the sender's controller."""

    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    territory: str | None
    """The number's territory. Null until a later request or import holds the number again."""
    attributes: dict[str, str]
    """Values in stored form: 2026-11-26, 12.5, true."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""
    updated_at: dt.datetime
    """The time of the last change."""


class ConversionGroup(Answer):
    """A part of the audience, as drawn when each message was to be requested, whatever became of the message.

    In an A/B test, recipients who still wait for their request are in neither group.
    """

    people: int
    """People in the group."""
    converted: int
    """People with at least one conversion."""
    conversions: int
    """Conversions of the group within the time."""
    rate: float | None
    """The share of people who converted; null for an empty group."""
    value: dict[str, str]
    """The sum of the conversions' values, by currency."""


class ConversionLift(Answer):
    """How much larger the share of the messaged people is than that of the holdout.

    The interval is Newcombe's, of two Wilson scores (Statistics in Medicine 17, 1998, 873-890). An interval
    that includes 0 shows no effect.
    """

    difference: float
    """0.02: two people more of each hundred."""
    low: float
    """The lower end of the interval of the difference."""
    high: float
    """The upper end of the interval of the difference."""
    confidence: float
    """How often such an interval includes the true difference."""
    relative: float | None
    """The difference by the holdout's share; null where the share is 0."""


class ConversionVerdict(Answer):
    """The result for a conversion, in request order. `known`: the reference is on record, and stays as first sent."""

    reference: str
    """The reference, as sent."""
    result: Literal["recorded", "known", "refused"] | str
    """`known`: the reference is on record, and stays as first sent."""
    reason: str | None
    """The reason for a refusal."""


class ConversionVerdicts(Answer):
    """The results of a request with conversions."""

    items: list[ConversionVerdict]
    """A result for each conversion, in request order."""


class Cost(Answer):
    """The expected cost: the segments of each person's message, at the price of the person's territory.

    Of several prices in force until the campaign's end, the highest counts; of several texts that may win an
    A/B test, the longest. The real cost is in the statistics.
    """

    prices: str
    """The version of the price table; `none` without a table."""
    currency: Literal["EUR"] | str | None = None
    """The currency of all costs."""
    total: str | None
    """The cost for people in territories with a price; null if no territory has a price."""
    unpriced: int
    """People in territories without a price."""
    unpriced_territories: list[str]
    """The territories without a price, most people first."""


class Costed(Answer):
    """Numbers of people, and the real cost.

    Only messages with the outcome accepted or unknown are charged, at the price in force when each was sent.
    """

    audience: int
    """People in this part of the audience."""
    pending: int
    """Without a decision or an outcome so far, messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    accepted: int
    """Handed off, and taken by the operator. Charged."""
    rejected: int
    """Handed off, and refused by the operator. Not charged."""
    unknown: int
    """Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged."""
    delivered: int
    """With a DLR "delivered" so far."""
    undelivered: int
    """With a DLR `failed`, `expired` or `opted_out`."""
    clicked: int
    """Recipients with the outcome accepted or unknown who followed a link; visits that look like a machine's do
    not count.
    """
    opted_out: int
    """Recipients who opted out within 7 days of this message, without a later message from a sender they opted out
    of.
    """
    segments: int
    """Of the charged messages, as sent."""
    cost: str | None
    """In euros, of the charged messages with a price; null if none of the charged messages has a price."""
    unpriced: int
    """Charged messages without a price: their cost is unknown."""


class Costly(Answer):
    """A character outside GSM-7: with it, an SMS holds 70 characters instead of 160."""

    character: str
    """The character."""
    name: str | None
    """Unicode's."""
    at: int
    """The character's position in the typed text, from 1; an emoji is a single character."""
    instead: str | None
    """A similar GSM-7 character; null without a similar character."""
    folding: Literal["none", "typographic", "accents", "names"] | str | None
    """The least `folding` that replaces the character."""


class Counted(Answer):
    """The size of a segment now. A campaign's audience is fixed when the campaign starts."""

    selected: int
    """The contacts that the expression selects; an estimate unless `exact`."""
    contacts: int
    """The sender's contacts."""
    exact: bool
    """False: estimated from a sample, because the sender has too many contacts to read in time."""
    margin: int
    """The estimate's margin of error at 95 % confidence."""


class Declared(Answer):
    """The kind of an attribute."""

    kind: Literal["text", "number", "date", "boolean"] | str
    """`number` of at most 15 digits and 6 decimals, `date`, `boolean` or `text`. New values of another kind are
    refused. Stored values stay, and no comparison matches a stored value of another kind.
    """


class Deleted(Answer):
    """The result of a deletion of contacts."""

    deleted: int
    """Contacts deleted; a person without a contact does not count."""


class Delivery(Answer):
    """A line of the delivery log."""

    event_id: str
    """The id of the event, `evt-` and 32 hexadecimal digits, the same in the feed and in each delivery."""
    type: (
        Literal[
            "consent.changed",
            "consent.opted_out",
            "consent.opt_out_enforced",
            "review.waiting",
            "message.accepted",
            "message.delivered",
            "message.failed",
            "campaign.started",
            "campaign.paused",
            "campaign.resumed",
            "campaign.finished",
            "campaign.cancelled",
            "import.finished",
            "erasure.finished",
            "webhook.disabled",
            "webhook.test",
        ]
        | str
    )
    state: Literal["waiting", "delivered", "failed"] | str
    """`failed`: no attempt is left."""
    attempts: int
    """Attempts so far."""
    due_at: dt.datetime | None
    """The next attempt; null once settled."""
    first_at: dt.datetime | None
    """The time of the first attempt; null before."""
    last_at: dt.datetime | None
    """The time of the last attempt; null before."""
    code: int | None
    """The HTTP status of the last answer."""
    error: str | None
    """Why the last attempt had no answer."""
    took_ms: int | None
    """Milliseconds of the last attempt; null before."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""


class DisabledData(Answer):
    """A webhook that gets no more events until a caller enables the webhook."""

    webhook_id: str
    """The id of the webhook, `whk-` and 24 hexadecimal digits."""
    because: Literal["failing", "gone"] | str
    """gone: the destination answered 410."""


class DisabledEvent(Answer):
    """Placet has disabled a webhook."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["webhook.disabled"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: DisabledData


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


class EnforcedData(Answer):
    """An opt-out that is enforced. `subject_id`: the person's id with the controller."""

    subject_id: str
    """The person's id with the controller of the sender."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    opt_out: str
    """The id of the event `consent.opted_out`."""
    received_at: dt.datetime
    """When Placet first held the opt-out."""
    enforced_at: dt.datetime
    """From then on, no hand-off begins that the opt-out forbids."""


class EnforcedEvent(Answer):
    """An opt-out is enforced."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["consent.opt_out_enforced"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: EnforcedData


class ErasureData(Answer):
    """A finished erasure. `subject_id`: the person's id with the controller."""

    subject_id: str
    """The person's id with the controller of the sender."""
    erasure_id: str | None
    """Null for an erasure of everything, which no controller asked for."""
    everything: bool
    """True: every controller's data is erased, not only this controller's."""


class ErasureEvent(Answer):
    """An erasure is complete in every service."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["erasure.finished"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: ErasureData


class Failing(Answer):
    """The campaign's next step keeps failing, through the campaign's own content or a fault of the service.

    A step is to start, to go on, to deny recipients never requested, or to end. Other campaigns go first until
    `again_at`. The log of campaign-svc holds the error under the campaign's id. To retry at once, pause and
    resume the campaign, or schedule the campaign again.
    """

    attempts: int
    """The failures of this step in a row."""
    again_at: dt.datetime
    """The time of the next attempt."""


class FieldBody(Answer):
    """A field of the text, with the limits of its value."""

    name: str
    """The name of the field, written `{name}` in the text."""
    max_chars: int | None = None
    """The most characters of a value; a longer value is refused."""
    links: bool | None = None
    """The value may hold a link."""
    prices: bool | None = None
    """The value may be a price, or part of a price."""


class FileProblem(Answer):
    """Why an import would refuse the whole file."""

    reason: str
    """The reason, as an import gives it."""
    detail: str
    """A sentence for people, which may change."""


class Folded(Answer):
    """The text with this `folding`."""

    folding: Literal["none", "typographic", "accents", "names"] | str
    length: Length
    changes: list[Change]
    """Changes of the text. Attributes of contacts are replaced at rendering."""
    changed_attributes: dict[str, str]
    """Attributes of the contact after the replacement."""


class Followed(Answer):
    """A link of the message, with its clicks."""

    target: str
    """The address that the link leads to."""
    clicks: int
    """Counted clicks of this person."""
    first_clicked_at: dt.datetime | None
    """The first counted click; null without a click."""
    last_clicked_at: dt.datetime | None
    """The last counted click; null without a click."""


class Holiday(Answer):
    """A public holiday on which the law permits no advertising by SMS."""

    name: str
    """The name of the holiday."""
    source: str
    """The rule's source."""


class Import(Answer):
    """An import, as far as its lines are recorded.

    `lines` = created + updated + duplicates + refused, without blank lines and the header.
    """

    import_id: str
    """The id of the import, `imp-` and 24 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    status: Literal["uploading", "recording", "done", "failed"] | str
    """`failed`: recording failed several times and was given up. The lines up to `line` are recorded; send the
    remaining lines as another import.
    """
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""
    bytes: int | None
    """The whole file's length; null until the caller names the length."""
    received_bytes: int
    """Bytes of the file received: the offset to continue the upload from."""
    line: int
    """The last recorded line of the file, counted from 1."""
    lines: int
    """Lines recorded so far, without blank lines and the header."""
    created: int
    """Contacts new to this sender."""
    updated: int
    """Contacts known before."""
    duplicates: int
    """Lines with the number of a later line; the last line counts."""
    refused: int
    """Lines refused; the list of refusals has each with its reason."""
    reasons: dict[str, int]
    """Refused lines by reason; for an attribute, followed by a colon and the attribute's name."""
    read_as: Read | None
    """Null until the whole file is here."""


class ImportData(Answer):
    """A finished import, with its counts."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    import_id: str
    """The id of the import, `imp-` and 24 hexadecimal digits."""
    kind: Literal["contacts", "consents", "suppressions"] | str
    """The content of the file."""
    lines: int
    """Lines of the file, without blank lines and the header."""
    refused: int
    """Lines refused; the import lists each with its reason."""
    given_up: bool
    """True: the rest of the file could not be recorded."""


class ImportEvent(Answer):
    """An import has ended."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["import.finished"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: ImportData


class Length(Answer):
    """The cost of a text."""

    encoding: Literal["GSM7", "UCS2"] | str
    """GSM-7 holds 160 characters in an SMS; UCS-2 holds 70."""
    units: int
    """Septets (GSM-7: characters such as € and [ count as two) or UTF-16 units (UCS-2: an emoji counts as two)."""
    segments: int
    """Segments sent, each charged."""


class Lengths(Answer):
    """Lengths of the rendered messages, including names and STOP mention."""

    segments: dict[str, int]
    """People by number of segments."""
    least: int | None
    """SMS of the shortest message; null without a message."""
    median: int | None
    """SMS of the median message; null without a message."""
    most: int | None
    """SMS of the longest message; null without a message."""
    units_least: int | None
    """Septets or UTF-16 units of the shortest message; null without a message."""
    units_median: int | None
    """Septets or UTF-16 units of the median message; null without a message."""
    units_most: int | None
    """Septets or UTF-16 units of the longest message; null without a message."""
    ucs2: int
    """People whose message is UCS-2."""
    ucs2_by_contact: int
    """People whose message is UCS-2 because of the contact's attributes, not of the text."""


class LimitsLeft(Answer):
    """The organisation's limits, and what is left of the day."""

    messages_per_day: int | None
    """Null: no limit."""
    messages_left: int | None
    """Left on the day of the start, after the messages which campaigns have requested that day. Messages outside
    campaigns count too, and are not known here.
    """
    spend_per_month: str | None
    """In euros; null: no limit."""


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


class MessageData(Answer):
    """A message after its hand-off, its DLR, or its end. `subject_id`: the person's id with the controller."""

    subject_id: str
    """The person's id with the controller of the sender."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    message_id: str
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    campaign_id: str | None
    """The campaign that requested the message; null outside campaigns."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    status: str
    """denied, rejected, expired, accepted or unknown. `GET /v1/messages` has the reasons."""
    receipt: str | None
    """The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null before
    the first.
    """
    code: str | None
    """The operator's own error code."""
    segments: int | None
    """The SMS of the text as sent; null where no operator took the message."""
    cost: str | None
    """In euros; null if the price is unknown."""


class MessageEvent(Answer):
    """A message was accepted, was delivered, or failed."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["message.accepted", "message.delivered", "message.failed"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: MessageData


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


class OfHour(Answer):
    """The counts of one hour of hand-offs."""

    audience: int
    """People in this part of the audience."""
    pending: int
    """Without a decision or an outcome so far, messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    accepted: int
    """Handed off, and taken by the operator. Charged."""
    rejected: int
    """Handed off, and refused by the operator. Not charged."""
    unknown: int
    """Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged."""
    delivered: int
    """With a DLR "delivered" so far."""
    undelivered: int
    """With a DLR `failed`, `expired` or `opted_out`."""
    clicked: int
    """Recipients with the outcome accepted or unknown who followed a link; visits that look like a machine's do
    not count.
    """
    opted_out: int
    """Recipients who opted out within 7 days of this message, without a later message from a sender they opted out
    of.
    """
    segments: int
    """Of the charged messages, as sent."""
    cost: str | None
    """In euros, of the charged messages with a price; null if none of the charged messages has a price."""
    unpriced: int
    """Charged messages without a price: their cost is unknown."""
    hour: dt.datetime | None
    """The hour of the hand-off in UTC; null without a hand-off."""


class OfLink(Answer):
    """A tracked link of the texts, with its counted visits."""

    link: int
    """The number of the link within the campaign."""
    target: str
    """The address that the link leads to."""
    people: int
    """People with at least one counted click."""
    clicks: int
    """Counted clicks; visits that look like a machine's do not count."""


class OfReason(Answer):
    """The recipients with one status and one reason."""

    status: str
    """The status of the recipients' messages."""
    reason: str
    """A stable word for programs."""
    recipients: int
    """A recipient with two reasons counts for both."""


class OfTerritory(Answer):
    """The counts of one territory."""

    audience: int
    """People in this part of the audience."""
    pending: int
    """Without a decision or an outcome so far, messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    accepted: int
    """Handed off, and taken by the operator. Charged."""
    rejected: int
    """Handed off, and refused by the operator. Not charged."""
    unknown: int
    """Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged."""
    delivered: int
    """With a DLR "delivered" so far."""
    undelivered: int
    """With a DLR `failed`, `expired` or `opted_out`."""
    clicked: int
    """Recipients with the outcome accepted or unknown who followed a link; visits that look like a machine's do
    not count.
    """
    opted_out: int
    """Recipients who opted out within 7 days of this message, without a later message from a sender they opted out
    of.
    """
    segments: int
    """Of the charged messages, as sent."""
    cost: str | None
    """In euros, of the charged messages with a price; null if none of the charged messages has a price."""
    unpriced: int
    """Charged messages without a price: their cost is unknown."""
    territory: str | None
    """The number's territory; null after the contact's deletion."""


class OfVariant(Answer):
    """The counts of one text."""

    audience: int
    """People in this part of the audience."""
    pending: int
    """Without a decision or an outcome so far, messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    accepted: int
    """Handed off, and taken by the operator. Charged."""
    rejected: int
    """Handed off, and refused by the operator. Not charged."""
    unknown: int
    """Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged."""
    delivered: int
    """With a DLR "delivered" so far."""
    undelivered: int
    """With a DLR `failed`, `expired` or `opted_out`."""
    clicked: int
    """Recipients with the outcome accepted or unknown who followed a link; visits that look like a machine's do
    not count.
    """
    opted_out: int
    """Recipients who opted out within 7 days of this message, without a later message from a sender they opted out
    of.
    """
    segments: int
    """Of the charged messages, as sent."""
    cost: str | None
    """In euros, of the charged messages with a price; null if none of the charged messages has a price."""
    unpriced: int
    """Charged messages without a price: their cost is unknown."""
    variant: str | None
    """Null for a campaign with a single text, and for recipients not requested yet."""


class Place(Answer):
    """Forecast for one territory, over the people who would get the message."""

    territory: str
    """The territory of the number, ISO 3166-1 alpha-2, such as `FR` or `RE`."""
    people: int
    """People of the territory who would get the message."""
    segments: int
    """The SMS of their messages."""
    cost: str | None
    """In euros; null where the price table names no price."""
    opens_at: dt.datetime
    """The earliest hand-off to the territory; `waits` has the people with a later hand-off."""
    closed_by: list[Closed]
    """The rules that close the territory at the campaign's start; empty if none does."""


class PreFlight(Answer):
    """What a campaign would reach and cost, and the findings against its scheduling."""

    digest: str
    """The digest of text, audience, sender and start, for the approval."""
    at: dt.datetime | None
    """The start that the caller named; null: at once."""
    occurrences: list[dt.datetime]
    """The next occurrences of a recurring campaign; the forecast is for the first occurrence."""
    made_at: dt.datetime
    """The time of the forecast."""
    consents_as_of: dt.datetime | None
    """The forecast counts consents acknowledged before this instant; null during the first read of consents."""
    audience: int
    """Contacts that the selection has now."""
    would_get: int
    """People who would get the message."""
    would_not: int
    """People of the audience who would not get the message; `reasons` says why."""
    reasons: dict[str, int]
    """A person with two reasons counts for both."""
    under_review: int
    """People who would get the message only after the review of their text."""
    languages: dict[str, int]
    """People who would get the message, by the language of their text."""
    lengths: Lengths
    cost: Cost
    territories: list[Place]
    """The forecast by territory, most people first."""
    waits: list[Wait]
    """People of `territories` with a later hand-off, or without a hand-off in time, most people first."""
    opens_at: dt.datetime | None
    """The earliest hand-off to anybody; null without a hand-off in time."""
    finishes_at: dt.datetime | None
    """The last hand-off at `rate_per_s`, within the hours and holidays of each person's place; without a rate, the
    latest instant of the earliest hand-offs.
    """
    rate_per_s: float | None
    """The lower of the operator's rate and the campaign's rate."""
    limits: LimitsLeft
    findings: list[Against]
    """The findings, errors and warnings; scheduling needs every error mended and every warning acknowledged."""
    compliance: str
    """The version of the rules."""
    approval: Approved


class Preview(Answer):
    """The text as a contact would receive it, with its cost."""

    text: str
    """The text as received, with the operator's addition (`stop_added` of the sender's rules)."""
    length: Length
    parts: list[str]
    """The segments of the message."""
    fields: list[str]
    """The attributes named in the text."""
    missing: str | None
    """The missing attribute that keeps this contact from getting the message."""
    problem: (
        Literal[
            "empty",
            "too_long",
            "placeholder",
            "brace_alone",
            "field_name",
            "condition",
            "link",
            "link_host_missing",
            "stop_page_missing",
            "stop_page_typed",
            "stop_mention_missing",
        ]
        | str
        | None
    )
    """Any other problem that keeps this contact from getting the message."""
    costly: list[Costly]
    """The characters outside GSM-7."""
    foldings: list[Folded]
    """The text with each `folding`, with its cost."""


class Read(Answer):
    """How the parser understood the file: look here if the contacts look wrong."""

    format: Literal["csv", "ndjson"] | str
    """The format, told by the first character of the file."""
    charset: str
    """The character set that the parser found, such as `utf-8` or `windows-1252`."""
    delimiter: str | None
    """The separator of CSV cells."""
    encoded_twice: bool
    """Some letters look like UTF-8 decoded wrongly and saved again: Ã© for é."""
    other_numbers: list[str] | None = None
    """Further columns of phone numbers: campaign-svc stores none of their values."""


class Recipient(Answer):
    """A member of the audience, without the number. `subject_id`: the person's id with the sender's controller."""

    message_id: str
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    status: Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"] | str
    """The status of the message, as dispatch-svc reported last."""
    reasons: list[str]
    """Every reason of a denial, a delay or an expiry, stable for programs; empty without one."""
    receipt: str | None
    """The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null before
    the first.
    """


class Recurring(Answer):
    """A cron rule with an end. `0 10 * * MON`: every Monday at 10:00 on the sender's clock, before `until`."""

    cron: str
    """Minute, hour, day of the month, month, day of the week."""
    until: dt.datetime
    """The end of the rule: no occurrence at or after this instant."""


class Refusal(Answer):
    """A refused line, without its number. `line`: where the line begins in the file, from 1."""

    line: int
    """The line of the file at which the refused line begins, from 1."""
    reason: str
    """A stable word for programs."""
    detail: str
    """A sentence for people, which may change."""


class Replayed(Answer):
    """The result of a replay."""

    deliveries: int
    """How many are sent again."""


class ReviewData(Answer):
    """A text of a person that waits for a reviewer: marketing to the person waits too.

    `subject_id`: the person's id with the controller.
    """

    subject_id: str
    """The person's id with the controller of the sender."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""


class ReviewEvent(Answer):
    """A person's text waits for a reviewer."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["review.waiting"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: ReviewData


class SegmentVersion(Answer):
    """A version of a segment. Versions never change; a campaign names `segment_id` and `version`."""

    segment_id: str
    """The id of the segment, `seg-` and 24 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    name: str
    """The name of the segment, for the people who work with it."""
    version: int
    """The number of this version, from 1."""
    latest: int
    """The number of the latest version of the segment."""
    expression: dict[str, Any]
    """The conditions, as written."""
    created_by: str
    """The author, by `sub` of the token."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""


class SenderRules(Answer):
    """The rules for a sender's campaigns."""

    approval: bool | None = None
    """A campaign needs an approval by a person who has not written any part of the campaign."""
    cap: Cap | None = None
    """The most messages from the sender's campaigns to a person within so many days."""
    link_host: str | None = None
    """The host name of the sender's short links; its path `/l/` leads to campaign-svc: m.maison-lune.example. A
    link has the length of this name and 23 characters.
    """
    stop_added: str | None = None
    """The exact text that the operator appends to each message, with the blank or line break before: « STOP au
    36111» for some operators. Texts of the sender then need no STOP mention, and the segments include the
    addition. Set the addition only if every gateway of the sender appends the addition: the gate checks each
    message again.
    """


class SendingWaits(Answer):
    """Marketing is on hold: the gate's knowledge of consents is too old, for some recipients or for all.

    Transactional messages still leave.
    """

    since: dt.datetime
    """The beginning of the hold."""
    consents_as_of: dt.datetime | None
    """The oldest watermark among the partitions at the start of the hold; null: a partition had none."""


class Statistics(Answer):
    """Tallies of a campaign's recipients.

    At every instant audience = pending + denied + deferred + handed_off + expired, and handed_off = accepted +
    rejected + unknown.
    """

    audience: int
    """People in the frozen audience; 0 before the start."""
    pending: int
    """Without a decision or an outcome so far, messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    accepted: int
    """Handed off, and taken by the operator. Charged."""
    rejected: int
    """Handed off, and refused by the operator. Not charged."""
    unknown: int
    """Handed off, with the operator's answer lost; a later DLR may settle the outcome. Charged."""
    delivered: int
    """Messages with a DLR "delivered" so far."""
    undelivered: int
    """With a DLR `failed`, `expired` or `opted_out`."""
    excluded: dict[str, int]
    """Contacts selected and left out when the audience was frozen."""
    denied_reasons: dict[str, int]
    """A recipient denied for two reasons counts for both."""


class Template(Answer):
    """A template of transactional or service messages, with its versions."""

    template_id: str
    """The id of the template, `tpl-` and 24 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    name: str
    """The name of the template, for the people who work with it."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    language: str
    """The language, by two letters of ISO 639-1, such as `fr`."""
    versions: list[Version]
    """Newest first; in a list, the newest alone."""


class Test(Answer):
    """A test message. `subject_id`: the person's id with the sender's controller."""

    message_id: str
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    variant: str
    """The text of an A/B test, by its letter; `a` is the campaign's own text."""
    asked_by: str
    """The person who requested the test, by `sub` of the token."""
    asked_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""


class TestData(Answer):
    """A test of a webhook, on request."""

    webhook_id: str
    """The id of the webhook, `whk-` and 24 hexadecimal digits."""


class TestEvent(Answer):
    """A caller tests a webhook."""

    id: str
    """The same each time an event is told: keep it to recognise a repeat."""
    timestamp: dt.datetime
    """When the fact occurred."""
    type: Literal["webhook.test"] | str
    """The type of the event, by which a webhook subscribes and a feed is read."""
    data: TestData


class TestSent(Answer):
    """A test message with its text. `subject_id`: the person's id with the sender's controller."""

    message_id: str
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    variant: str
    """The text of an A/B test, by its letter; `a` is the campaign's own text."""
    asked_by: str
    """The person who requested the test, by `sub` of the token."""
    asked_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    text: str
    """The text as rendered for this person."""
    length: Length
    against: list[str]
    """The reasons for a denial by the gate, from campaign-svc's copy of consents; empty: the gate would permit the
    message.
    """


class TestsSent(Answer):
    """The test messages of a request."""

    items: list[TestSent]
    """A message for each number, in request order."""


class TextFinding(Answer):
    """A finding in the version's own text, with the rule and its source."""

    id: str
    """The id that acknowledges the finding."""
    rule: str
    """The name of the rule, stable for programs."""
    says: str
    """The finding, in words for the author."""
    source: str
    """The source of the rule: a law, an authority, or an operator."""
    approvable: bool
    """False: the text has to change."""


class Timeline(Answer):
    """The newest events of a person that one service has."""

    items: list[Moment]
    """The newest first."""
    whole: bool
    """False if the person has older events than these."""


class Timing(Answer):
    """The pace an author gives a campaign."""

    local_time: bool | None = None
    """`at` is each recipient's local time: 10:00 is 10:00 in Paris, in Fort-de-France and in Nouméa. A recipient
    whose hour has passed at the start is due at that hour of the next day.
    """
    spread_minutes: int | None = None
    """Spread messages evenly over so many minutes from the earliest hand-off, within permitted hours."""
    per_second: int | None = None
    """The most messages in any second."""
    per_hour: int | None = None
    """The most messages in any hour, spread evenly."""


class Trace(Answer):
    """The course of one message. `subject_id`: the person's id with the sender's controller.

    With `in_audience` false, only `subject_id` is set.
    """

    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    in_audience: bool
    """False: the person is not in the audience."""
    message_id: str | None = None
    """The message's id; dispatch-svc returns the full decision at `/v1/messages/{id}`."""
    variant: str | None = None
    """The text of an A/B test, by its letter; null for a campaign with a single text, and before the request."""
    status: str | None = None
    """The status of the message, as dispatch-svc reported last."""
    reasons: list[str] | None = None
    """Every reason of a denial, a delay or an expiry, stable for programs; empty without one."""
    handed_off_at: dt.datetime | None = None
    """The start of the hand-off; null without a hand-off."""
    receipt: str | None = None
    """The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null before
    the first.
    """
    receipt_at: dt.datetime | None = None
    """The newest DLR's time at source; null before the first."""
    links: list[Followed] | None = None
    """The message's own links."""
    opted_out_at: dt.datetime | None = None
    """The opt-out attributed to this message."""


class Trial(Answer):
    """An A/B test; percentages are of the audience.

    Without a `winner`, the campaign's own text goes to all remaining recipients.
    """

    variants: list[Variant] | None = None
    """The other texts, up to five; empty for a holdout alone."""
    percent: int | None = None
    """The share of the campaign's own text. Required with a `winner`."""
    holdout_percent: int | None = None
    """The share of contacts held out for comparison."""
    winner: Winner | None = None


class UnreadableCampaign(Answer):
    """A campaign paused or cancelled whose stored content cannot be read.

    The pause or the cancellation holds. The log of campaign-svc holds the error under the campaign's id.
    """

    campaign_id: str
    """The id of the campaign, `cmp-` and 24 hexadecimal digits."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    status: Literal["draft", "scheduled", "running", "paused", "finished", "cancelled"] | str
    starts_at: dt.datetime | None
    """The instant at which the planner starts the campaign; null before scheduling."""
    started_at: dt.datetime | None
    """The time of the start, when the audience was frozen; null before."""
    send_before: dt.datetime | None
    """Messages expire at this instant; null: three days after the start."""


class Variant(Answer):
    """Another text in the campaign's language."""

    name: str
    """One letter; `a` is the campaign's own text."""
    text: str
    """The text; its fields are those of the campaign's own text."""
    translations: dict[str, str] | None = None
    """The text in other languages, by two letters of ISO 639-1."""
    percent: int
    """The share of the audience that gets this text, in percent."""


class VariantResult(Answer):
    """Results of one text, counted as in the campaign's statistics."""

    variant: str
    """The text of an A/B test, by its letter; `a` is the campaign's own text."""
    asked_for: int
    """Recipients whose message with this text was requested."""
    handed_off: int
    """Handed off to an operator: accepted + rejected + unknown."""
    reached: int
    """Recipients with the outcome accepted or unknown. The winner's rate is a share of these recipients."""
    delivered: int
    """With a DLR "delivered" so far."""
    opted_out: int
    """Recipients who opted out within 7 days, without a later message in between."""
    clicked: int
    """Recipients with the outcome accepted or unknown who followed a link."""


class Variants(Answer):
    """The results of an A/B test, text by text, and the choice of the best."""

    items: list[VariantResult]
    """The texts, the campaign's own (`a`) first."""
    winner: str | None
    """The letter of the chosen text; null before the choice, and without a `winner` in the test."""
    choice: Choice | None


class Verdict(Answer):
    """The result for a contact, in request order. Of equal numbers the last is stored. `subject_id`: the person's
    id with the sender's controller.
    """

    result: Literal["created", "updated", "duplicate", "refused"] | str
    """`duplicate`: a later item has the same number, and counts instead."""
    subject_id: str | None
    """The person's id with the sender's controller; null for a refused contact."""
    reason: str | None
    """The reason for a refusal; for an attribute, followed by a colon and the attribute's name."""
    detail: str | None
    """The reason in words; null without a refusal."""


class Verdicts(Answer):
    """The results of a request with contacts."""

    items: list[Verdict]
    """A result for each contact, in request order."""
    other_numbers: list[str]
    """Attributes named like phone numbers: campaign-svc stores none of their values."""


class Version(Answer):
    """A version. The text never changes; an approval publishes the version, a retirement ends its use."""

    number: int
    """The number of the version, from 1."""
    state: Literal["draft", "approved", "retired"] | str
    """`draft`: waits for an approval. `approved`: in use. `retired`: no message leaves from the version."""
    text: str
    """The text, with its fields unfilled."""
    fields: list[FieldBody]
    """The fields of the text, with the limits of their values."""
    findings: list[TextFinding]
    """The findings in the text; an approval has to acknowledge each."""
    written_by: str
    """The author, by `sub` of the token: another person has to approve."""
    written_at: dt.datetime
    """The time of the writing."""
    approved_by: str | None
    """The person who approved, by `sub` of the token; null for a draft."""
    approved_at: dt.datetime | None
    """The time of the approval; null for a draft."""
    acknowledged: list[str] | None
    """The ids of the findings that the approval acknowledged; null for a draft."""
    retired_by: str | None
    """The person who retired the version, by `sub` of the token; null while in use."""
    retired_at: dt.datetime | None
    """The time of the retirement; null while in use."""


class Wait(Answer):
    """People who wait longer than the first of their territory, because of a rule of their own place.

    Good Friday and 26 December, for instance, are holidays in Alsace and Moselle only. A wait needs no
    acknowledgement: the text needs no change, and another start removes the wait.
    """

    territory: str
    """The territory of the number, ISO 3166-1 alpha-2, such as `FR` or `RE`."""
    region: str | None
    """ISO 3166-2, from the contacts' postcode: FR-6AE is Alsace, FR-57 Moselle. Null: the place is known from the
    number only.
    """
    people: int
    """People of the place who wait."""
    opens_at: dt.datetime
    """The earliest hand-off to these people."""
    too_late: bool
    """True if the campaign ends before. These people count as `send_before_passed` in `reasons` and have no other
    reason.
    """
    closed_by: list[Closed]
    """The rules that close the place at the earliest hand-off to the territory; at the campaign's start if no
    person of the territory would get the message.
    """


class Waiting(Answer):
    """A wait of a campaign."""

    reason: (
        Literal[
            "scheduling",
            "approval",
            "resumption",
            "series",
            "start",
            "other_campaign",
            "retry",
            "audience",
            "consents",
            "window",
            "hour",
            "pace",
            "winner",
            "requests",
            "denials",
            "outcomes",
            "reports",
            "end",
        ]
        | str
    )
    """Waits for a person: `scheduling` of a draft, `approval` by another person, `resumption` after a pause (see
    `paused_because`), `series`: the resumption of the recurring campaign. Waits for a time: the `start`, the
    `window` of hand-offs to the sender's country, the `hour` of the next recipients, the `pace`, the choice of
    the `winner`, the `retry` of a failed step (see `failing`). Waits for other work: `other_campaign` of the
    sender, which has ended and still has recipients to deny; `consents`, while consent is too old (see
    `sending_waits`); `outcomes` of the requested messages; late `reports` of dispatch-svc, whose messages are
    requested again, at `until` at the latest. Waits for campaign-svc, for seconds: the selection of the
    `audience`, `requests` for recipients, `denials` of recipients without a request, the `end`.
    """
    until: dt.datetime | None = None
    """The latest end of the wait; null: unknown."""
    campaign_id: str | None = None
    """The id of `other_campaign`."""


class Webhook(Answer):
    """A webhook."""

    webhook_id: str
    """The id of the webhook, `whk-` and 24 hexadecimal digits."""
    url: str
    """The destination."""
    types: (
        list[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
            | str
        ]
        | None
    )
    """The types of events that the webhook gets; null: every type."""
    sender_ids: list[str] | None
    """The senders whose events the webhook gets; null: every event of the organisation."""
    description: str
    """A note of the caller."""
    status: Literal["enabled", "paused", "failing", "gone"] | str
    """`enabled`; `paused` by a caller; `failing`: no success for five days; `gone`: the destination answered 410."""
    disabled_at: dt.datetime | None
    """The time from which the webhook gets no events; null while enabled."""
    failing_since: dt.datetime | None
    """The first failure since the last success."""
    rests_until: dt.datetime | None
    """The destination is down: the next delivery is due then."""
    accepted_at: dt.datetime | None
    """The last success, within some seconds."""
    created_by: str
    """The author, by `sub` of the token."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""


class WebhookWithSecret(Answer):
    """A webhook, with the secret of its signatures: the answers to a creation and a rotation alone have it."""

    webhook_id: str
    """The id of the webhook, `whk-` and 24 hexadecimal digits."""
    url: str
    """The destination."""
    types: (
        list[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
            | str
        ]
        | None
    )
    """The types of events that the webhook gets; null: every type."""
    sender_ids: list[str] | None
    """The senders whose events the webhook gets; null: every event of the organisation."""
    description: str
    """A note of the caller."""
    status: Literal["enabled", "paused", "failing", "gone"] | str
    """`enabled`; `paused` by a caller; `failing`: no success for five days; `gone`: the destination answered 410."""
    disabled_at: dt.datetime | None
    """The time from which the webhook gets no events; null while enabled."""
    failing_since: dt.datetime | None
    """The first failure since the last success."""
    rests_until: dt.datetime | None
    """The destination is down: the next delivery is due then."""
    accepted_at: dt.datetime | None
    """The last success, within some seconds."""
    created_by: str
    """The author, by `sub` of the token."""
    created_at: dt.datetime
    """The time of the first record, by the service's clock (UTC)."""
    secret: str
    """The secret of the signatures (Standard Webhooks): keep it as a password."""


class Winner(Answer):
    """The best text goes to the rest, the recipients outside the first groups.

    The rest waits until `after_hours` after the last message of the first groups. If too little time would
    remain before the campaign ends, the best text so far is chosen earlier.
    """

    by: Literal["fewest_opt_outs", "most_clicks"] | str | None = None
    """The share of recipients with the outcome accepted or unknown who opted out, or who followed a counted link
    (each text then needs a counted link). The choice is among texts that reached at least 30 people; the first
    of equal texts wins. With fewer than two such texts, `a` wins.
    """
    after_hours: int
    """Hours from the last message of the first groups to the choice."""


AnyEvent = Annotated[
    Annotated[CampaignEvent, Tag("CampaignEvent")]
    | Annotated[ConsentEvent, Tag("ConsentEvent")]
    | Annotated[EnforcedEvent, Tag("EnforcedEvent")]
    | Annotated[ErasureEvent, Tag("ErasureEvent")]
    | Annotated[ImportEvent, Tag("ImportEvent")]
    | Annotated[MessageEvent, Tag("MessageEvent")]
    | Annotated[ReviewEvent, Tag("ReviewEvent")]
    | Annotated[DisabledEvent, Tag("DisabledEvent")]
    | Annotated[TestEvent, Tag("TestEvent")]
    | Annotated[Unknown, Tag("Unknown")],
    told_by(
        "type",
        {
            "campaign.cancelled": "CampaignEvent",
            "campaign.finished": "CampaignEvent",
            "campaign.paused": "CampaignEvent",
            "campaign.resumed": "CampaignEvent",
            "campaign.started": "CampaignEvent",
            "consent.changed": "ConsentEvent",
            "consent.opt_out_enforced": "EnforcedEvent",
            "consent.opted_out": "ConsentEvent",
            "erasure.finished": "ErasureEvent",
            "import.finished": "ImportEvent",
            "message.accepted": "MessageEvent",
            "message.delivered": "MessageEvent",
            "message.failed": "MessageEvent",
            "review.waiting": "ReviewEvent",
            "webhook.disabled": "DisabledEvent",
            "webhook.test": "TestEvent",
        },
    ),
]
