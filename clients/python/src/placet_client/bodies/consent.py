"""Parts of what consent-svc takes.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict


class AsOfBody(TypedDict):
    """The state at one instant, as known at another. An instant in the future is refused: the answer could change."""

    happened_by: NotRequired[dt.datetime | None]
    """The latest time at source. Default: now."""
    known_by: NotRequired[dt.datetime | None]
    """The latest time of recording. Default: now."""


class AskedBody(TypedDict):
    """The request for a rectification: channel (`source`), actor, and the person's own words."""

    source: str
    """The caller's own channel, a slug such as `call-centre`."""
    actor: NotRequired[str | None]
    """The employee, or the system, that recorded the person's choice, in the caller's own words. An erasure takes
    the value.
    """
    statement: NotRequired[str | None]
    """The person's own words. An erasure takes the value."""


class ConsentBody(TypedDict):
    """One opt-in."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    purpose: str
    """The purpose of the consent, by its id with the sender, such as `promotions`."""
    number: str
    """A mobile number in any usual notation; without a country code, a French number."""
    basis: NotRequired[Literal["opt_in", "soft_opt_in", "non_commercial"]]
    """`opt_in`; `soft_opt_in`, for products like those of a sale to the person, which needs `sale_reference` (CPCE
    L34-5); `non_commercial`.
    """
    occurred_at: dt.datetime
    """Time at source: when the person opted in, in RFC 3339 with an offset. The newest of opt-ins and opt-outs
    counts; a tie is an opt-out.
    """
    evidence: EvidenceBody


class ContactBody(TypedDict):
    """The right values of a contact."""

    kind: Literal["contact"]
    """The correction is of contacts."""
    sender_id: str | None
    """The sender whose contact is wrong; null: contacts of every sender of the controller."""
    fields: Mapping[str, str | None]
    """The right values by field; null removes a field."""


class EvidenceBody(TypedDict):
    """The proof of a choice. An opt-in needs `form_id` and `form_version`, or `text_shown`."""

    source: str
    """The caller's own channel, a slug such as `shop`. The sources that Placet itself writes, and words like them,
    are refused, and so is a phone number: the source stays after an erasure.
    """
    form_id: NotRequired[str | None]
    """The form that the person saw, by the caller's own name. An erasure takes the value."""
    form_version: NotRequired[str | None]
    """The version of the form, in the caller's own words. An erasure takes the value."""
    text_shown: NotRequired[str | None]
    """The wording that the person saw, at most 10,000 characters. An erasure takes the value."""
    actor: NotRequired[str | None]
    """The employee, or the system, that recorded the person's choice, in the caller's own words. An erasure takes
    the value.
    """
    sale_reference: NotRequired[str | None]
    """The sale that a `soft_opt_in` stands on, such as an order's number (CPCE L34-5). An erasure takes the value."""


class InteractionBody(TypedDict):
    """An act of the person with a sender, and the proof: `evidence` names the sale or the form."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    number: str
    """A number in any notation with a digit."""
    occurred_at: dt.datetime
    """Time at source: when the person acted, in RFC 3339 with an offset."""
    evidence: EvidenceBody


class LineBody(TypedDict):
    """A line of the ledger is wrong."""

    kind: Literal["evidence"]
    """The correction is of a line of the ledger."""
    evidence_id: str
    """The id of the ledger's line, `ev-` and 32 hexadecimal digits. `GET /v1/receipts/{evidence_id}` has its
    signed receipt.
    """
    wrong: Sequence[
        Literal["person", "sender", "purpose", "basis", "time", "sale_reference", "form", "text_shown", "actor"]
    ]
    """The wrong parts; `person`: the line concerns another person."""
    right: NotRequired[RightBody]


class NumberBody(TypedDict):
    """The number was wrong, or is no longer the person's."""

    kind: Literal["number"]
    """The correction is of the number."""
    sender_id: str | None
    """The sender concerned; null: every sender of the controller."""


class PurposeBody(TypedDict):
    """A purpose for which the sender asks consent."""

    id: str
    """The id of the purpose: 2 to 40 small letters, digits and hyphens."""
    wording: str
    """The purpose in words, for questions by SMS: without rebate, price, voucher or link."""
    retention_months: NotRequired[int]
    """How long a consent holds after the person's last contact, in months, within the limit of the CNIL."""


class RepliesBody(TypedDict):
    """The sender's own texts for SMS answers, two SMS at most, without advertising; null: Placet's text.

    The link to the preference page is added to answers where it fits.
    """

    stop: NotRequired[str | None]
    """The answer to a STOP: names the brand, and has no link."""
    contact: NotRequired[str | None]
    """The answer to CONTACT: « édité par » and the legal name; its only link is the sender's `contact`."""
    double_opt_in: NotRequired[str | None]
    """The question answered by OUI: with the fields {brand}, {purpose} and {stop_code}, and {link} for an SMS with
    a link.
    """
    start: NotRequired[str | None]
    """The answer to a START: names the brand, and tells of STOP."""


class RightBody(TypedDict):
    """The form or the text which the person really saw."""

    form_id: NotRequired[str | None]
    """The form that the person saw, by the caller's own name. An erasure takes the value."""
    form_version: NotRequired[str | None]
    """The version of the form, in the caller's own words. An erasure takes the value."""
    text_shown: NotRequired[str | None]
    """The wording that the person saw, at most 10,000 characters. An erasure takes the value."""
