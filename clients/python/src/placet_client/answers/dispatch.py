"""What dispatch-svc answers.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal
from uuid import UUID

from placet_client.answer import Answer


class BatchResults(Answer):
    """The results of a batch, one for each message."""

    results: list[Result]
    """In the order of `messages`."""


class BeforeReview(Answer):
    """The messages before a text in review."""

    mo_id: str
    """The id of the text, a UUID, the same for each repeat by the operator."""
    messages: list[SentMessage]
    """The last three that left for the person before the text, the newest first: of the senders of the code that
    the person wrote to; of every sender, where no sender has the code.
    """


class BeforeReviewsAnswer(Answer):
    """The messages before several texts in review."""

    items: list[BeforeReview]
    """An item for each ticket, in request order."""


class Cost(Answer):
    """Messages of one sender and lane, charged by one version of the price table."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    prices: str | None
    """The version of the price table; `none` without a table."""
    messages: int
    """Messages with the outcome accepted or unknown; no other is charged."""
    segments: int
    """The SMS of these messages, as sent."""
    cost: str | None
    """In euros, of the messages with a price, at the price in force when each was sent; null if no message has a
    price.
    """
    unpriced: int
    """Messages without a price: their cost is unknown."""


class CostReport(Answer):
    """The real cost of messages, by sender, lane and version of the price table."""

    since: dt.datetime
    """The beginning of the time asked about."""
    until: dt.datetime
    """The end of the time asked about; the end itself is not included."""
    items: list[Cost]
    """A line for each sender, lane and version of the price table with messages."""


class Decision(Answer):
    """A message with its full decision. `subject_id`: the person's id with the sender's controller; no answer has
    the number. `consent_version`: for the platform's operator; null for others, since it is the same for every
    controller.
    """

    message_id: UUID
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    campaign_id: str | None
    """The campaign that requested the message; null outside campaigns."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    purpose: str | None
    """The purpose of the consent behind the decision; null outside marketing, except for a question to the person."""
    template: str | None
    """`<template_id>@<number>`, or `free_text`; null unless requested over HTTP."""
    status: str
    """pending, denied, deferred, sending, accepted, rejected, unknown or expired."""
    reasons: list[str]
    """Every reason of a denial, a delay or an expiry, stable for programs; empty for a permit."""
    due_at: dt.datetime | None
    """The time of a deferred message's next decision."""
    requested_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    send_before: dt.datetime
    """The message expires at this instant."""
    decided_at: dt.datetime | None
    """The time of the newest decision; null before the first."""
    policy_version: str
    """The edition of the law that the decision stood on, such as `france-3`."""
    consent_version: int | None
    """The version of the person's consent at the decision; null for callers other than the platform's operator."""
    as_of: dt.datetime | None
    """The watermark of the decision."""
    facts: Any
    """The decision record, for `python -m dispatch replay`; or null."""
    gateway: str | None
    """The gateway of the hand-off, by its name in the settings; null before a permit."""
    gateway_message_id: str | None
    """The operator's id of the message, for its support; null before an answer."""
    receipt: str | None
    """The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null before
    the first.
    """
    code: str | None
    """The operator's own code of a rejection or of the DLR; null without a code."""
    segments: int | None
    """The SMS of the text as sent; null before a permit."""
    cost: str | None
    """In euros, at the price in force at the decision to send; charged if the status is accepted or unknown. Null
    if the table names no price.
    """
    prices: str | None
    """The version of the price table behind `cost`."""
    version: int
    """The version of this answer: each change of the message has a higher one."""


class Enforcement(Answer):
    """An opt-out applied here. `subject_id`: the platform's own id of the person, for the platform's operator
    alone.
    """

    subject_id: str
    """The platform's own id of the person."""
    consent_version: int
    """The version of the person's consent that holds the opt-out."""
    source: str
    """The source of the opt-out in the ledger, such as `mo` for a text of the person."""
    reference: str | None
    """For an MO: provider/account/provider message id."""
    received_at: dt.datetime
    """The time at which Placet first held the text, the opt-out or the evidence."""
    applied_at: dt.datetime
    """The time at which the gate began to deny by the opt-out."""
    enforced_at: dt.datetime | None
    """From then on no hand-off begins that the opt-out forbids; null while such a hand-off is on its way."""


class ListedMessage(Answer):
    """A message in a list. `subject_id`: the person's id with the sender's controller; no answer has the number.

    `GET /v1/messages/{identity}` has the full decision.
    """

    message_id: UUID
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    campaign_id: str | None
    """The campaign that requested the message; null outside campaigns."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    purpose: str | None
    """The purpose of the consent behind the decision; null outside marketing, except for a question to the person."""
    template: str | None
    """As of the full decision."""
    status: Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"] | str
    reasons: list[str]
    """Every reason of a denial, a delay or an expiry, stable for programs; empty for a permit."""
    requested_at: dt.datetime
    """The time of the request, by the service's clock (UTC)."""
    decided_at: dt.datetime | None
    """The time of the newest decision; null before the first."""
    handed_off_at: dt.datetime | None
    """The start of the hand-off; a crash may lose the start."""
    receipt: str | None
    """The newest DLR: `queued`, `sent`, `delivered`, `failed`, `expired`, `opted_out` or `unknown`; null before
    the first.
    """
    receipt_at: dt.datetime | None
    """The DLR's time at source."""
    code: str | None
    """The operator's code of a rejection or of the DLR."""
    segments: int | None
    """The SMS of the text as sent; null before a permit."""
    cost: str | None
    """In euros; charged if the status is accepted or unknown."""


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


class ProviderBlock(Answer):
    """A block. `subject_id`: the platform's own id of the person, for the platform's operator alone."""

    gateway: str
    """The gateway, by its name in the settings of the platform, such as `ovh`."""
    subject_id: str
    """The platform's own id of the person."""
    code: str | None
    """The provider's code, which may mean a wrong number or an opt-out."""
    since: dt.datetime
    """The time of the first DLR that reported the block."""


class ReasonBody(Answer):
    """A reason of a refusal: the field, a word for programs, a sentence for people."""

    field: str | None
    """The path of the field, as the request has it; null for no field."""
    reason: str
    """A stable word for programs."""
    detail: str | None
    """A sentence for people, which may change."""


class Refusal(Answer):
    """A problem of one message, as `application/problem+json` would have the problem."""

    type: str
    """The kind of the problem, a URL relative to the service: its page says what to do."""
    title: str
    """The kind of the problem, in words."""
    status: int
    """The HTTP status that a request with this message alone would get."""
    detail: str
    """A sentence for people, which may change."""
    reasons: list[ReasonBody]
    """The field and the reason of each refusal."""


class Result(Answer):
    """The result of one message: accepted with an id, or refused."""

    message_id: UUID | None = None
    """The id of the accepted message; null for a refused message."""
    status: str | None = None
    """The status after the first decision; null for a refused message."""
    refused: Refusal | None = None


class Sent(Answer):
    """An accepted message, as the ledger has it."""

    message_id: UUID
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    status: str
    """The status after the first decision; `GET /v1/messages/{identity}` has the later ones."""


class SentMessage(Answer):
    """A message that a person was sent. `subject_id`: the person's id with the sender's controller."""

    message_id: UUID
    """The id of the message, a UUID. A repeat of the same request has the same id."""
    campaign_id: str | None
    """The campaign that requested the message; null outside campaigns."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    sent_at: dt.datetime
    """The start of the hand-off; where a crash lost the start, the time of the decision to send."""
    text: str | None
    """The text; of a transactional message without digits, since a code may still be valid. Null after an erasure,
    and after the retention of texts.
    """


class TextAudit(Answer):
    """A refused text, or a text that left by an override. The audit lacks the text.

    Messages that a limit refuses have one audit for each request, sender and limit.
    """

    at: dt.datetime
    """The time of the request."""
    caller: str
    """The caller, by `sub` of the token."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    template: str
    """`<template_id>@<number>`, or `free_text`."""
    result: Literal["refused", "overridden"] | str
    """`refused`: no message left. `overridden`: the message was accepted for `override_reason`."""
    reasons: list[str]
    """The rules that the text broke, or the limit that refused the message, stable for programs."""
    message_id: UUID | None
    """The id of the message that left by an override; null for a refusal."""
    override_reason: str | None
    """The caller's reason for the override; null for a refusal."""


class Timeline(Answer):
    """The newest events of a person that one service has."""

    items: list[Moment]
    """The newest first."""
    whole: bool
    """False if the person has older events than these."""


class ToStopped(Answer):
    """Messages of one sender and template."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    template: str
    """`<template_id>@<number>`, or `free_text`."""
    messages: int
    """Messages handed off."""
    to_stopped: int
    """Of these, messages to people who had stopped the sender, or another sender of its controller, without a
    newer opt-in.
    """


class ToStoppedReport(Answer):
    """Transactional and service messages, and how many of them went to people who had stopped."""

    since: dt.datetime
    """The beginning of the time asked about."""
    until: dt.datetime
    """The end of the time asked about; the end itself is not included."""
    items: list[ToStopped]
    """The most messages to people who had stopped first."""


class Total(Answer):
    """The messages of a sender and lane requested in a day or a week.

    `messages` is the sum of pending, denied, deferred, expired, accepted, rejected and unknown.
    """

    begins: dt.date
    """The day, or the Monday of the week, in the time zone of the report."""
    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    category: str
    """The lane: `marketing`, `transactional` (a code, an alert) or `service` (a notice, or an answer to the
    person).
    """
    messages: int
    """Messages requested in the day or the week."""
    pending: int
    """Messages in a hand-off included."""
    denied: int
    """Refused by the gate for good: no message leaves."""
    deferred: int
    """Allowed later: outside permitted hours, over a limit, or on hold. The gate decides again by itself."""
    expired: int
    """Not handed off before `send_before`; no message leaves any more."""
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
    segments: int
    """The SMS of the accepted and unknown messages, as sent."""
    cost: str | None
    """In euros, of the accepted and unknown messages with a price, at the price in force when each was sent; null
    if none of them has a price.
    """
    unpriced: int
    """Accepted and unknown messages without a price: their cost is unknown."""


class Totals(Answer):
    """The messages of senders by day or week."""

    since: dt.datetime
    """The beginning of the time asked about."""
    until: dt.datetime
    """The end of the time asked about; the end itself is not included."""
    time_zone: str
    """The time zone of days and weeks, as in the IANA database."""
    items: list[Total]
    """The earliest first. A day or a week without messages has no item."""
