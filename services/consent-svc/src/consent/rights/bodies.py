"""The HTTP bodies of erasures, copies and rectifications, and the checks of each field."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from common.web.fields import Long, NumberCountry, NumberFree, Short, storable
from consent.bodies import EXAMPLE_NUMBER, Body, EvidenceBody, Number, Source
from consent.ledger.corrections import Wrong
from consent.rights import erasures

KEPT = (  # (service, data kept, reason)
    (
        "consent",
        "the keyed hash of the number, with its opt-outs",
        "so that nobody writes to the person again (CNIL MED-2023-040)",
    ),
    (
        "consent",
        "when the person consented or objected, to whom and for what: the ledger's lines without what was personal",
        "proof of what was done until then (RGPD art. 7(1), 17(3)(e))",
    ),
    ("campaign", "where the keyed hash stood in each campaign's audience", "the accounts of campaigns"),
    ("dispatch", "the decision on each message of the keyed hash, and its outcome", "the accounts of campaigns"),
    (
        "inbound",
        "that a text came, under the provider's id and the keyed hash",
        "the same text again is not kept again",
    ),
    (
        "campaign and consent",
        "a file whose upload goes on, encrypted, until its lines are recorded or two days are over",
        "nobody can tell whom a file is about before it is complete; a line about the person is then refused",
    ),
    (
        "campaign, consent and dispatch",
        "what an organisation writes for everybody: texts of campaigns and templates, a sender's contact and answers",
        "nobody's data; a name, a label, a source or a reason that holds a phone number is refused",
    ),
    *(
        (
            service,
            "which callers read or exported data of the person, or decided about the person, in the audit log, for a"
            " year: the person by the id that the controller knows",
            "accounts of who read personal data (RGPD art. 5(2), 32(1))",
        )
        for service in erasures.SERVICES
    ),
)

KEPT_FOR_OTHERS = (  # of an erasure by one controller
    (
        "consent",
        "the number, encrypted, only while another controller holds an opt-in or a request of the person",
        "data of another controller (RGPD art. 4(7)); the last erasure takes it",
    ),
    (
        "inbound",
        "texts to a code that is not this controller's alone, and the ids of texts behind opt-outs",
        "the texts may be meant for another controller; the person can ask for the erasure of everything",
    ),
)


def _no_field_of_ours(value: str) -> str:
    if value == "stop":
        raise ValueError("the STOP mention is no attribute of anybody")
    return value


OfController = Annotated[
    Short | None,
    Field(description="The controller whose data is meant. Required where the token covers several controllers."),
]
FieldName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$"), AfterValidator(_no_field_of_ours), NumberFree
]
FieldValue = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)
]


class ErasureBody(Body):
    """The person to erase, and the evidence of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"number": EXAMPLE_NUMBER, "evidence": {"source": "call-centre", "actor": "agent-12"}}]
        }
    )

    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    controller: OfController = None
    evidence: EvidenceBody


class Done(BaseModel):
    """A service's part of an erasure."""

    service: str = Field(description="The service.")
    erased_at: datetime = Field(description="The time of the erasure in the service.")
    acknowledged_at: datetime = Field(description="The time at which consent-svc had the service's answer.")
    erased: dict[str, int] = Field(description="Counts of what is erased, by kind of data.")


class Kept(BaseModel):
    """Data that an erasure keeps."""

    service: str = Field(description="The service that keeps the data.")
    what: str = Field(description="The data kept.")
    why: str = Field(description="The reason, with its source in law.")


class Certificate(BaseModel):
    """An erasure of a person, by the person's id with the controller; of every controller's data, by the platform's
    own id. Once `complete`, a certificate of the data erased, where and when, and of the data kept and why."""

    erasure_id: str
    subject_id: str = Field(
        description="The person's id with the controller; of an erasure of every controller's data, the platform's"
        " own id."
    )
    controller: str | None = Field(
        description="The controller whose data is erased. Null: every controller's, as the person asked on the page or"
        " by text, or at the end of all retention."
    )
    status: Literal["open", "complete"] = Field(description="`complete`: every service has erased.")
    source: str = Field(description="The channel of the request, or `retention` at the end of all retention.")
    evidence_id: str = Field(
        description="The opt-out of all senders concerned, recorded before the erasure. No opt-out is recorded if"
        " `source` is `retention`."
    )
    requested_at: datetime
    completed_at: datetime | None = Field(description="The time of the last acknowledgement; null while open.")
    services: list[Done] = Field(description="The services that have erased.")
    waiting_for: list[str]
    asked_again_at: datetime | None = Field(description="The time of the last repeated request to a late service.")
    log_forgets_at: datetime | None = Field(
        description="The time by which the last event with an encrypted field is deleted from the log."
    )
    kept: list[Kept] = Field(description="The data kept, and why.")


class CopyBody(Body):
    """The person whose data to copy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": EXAMPLE_NUMBER}]})

    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    controller: OfController = None


class CopyView(BaseModel):
    """A copy of a person's data, by the person's id with the controller. Once `complete`, `data` holds each service's
    items, each with its `kind`."""

    copy_id: str
    subject_id: str
    controller: str
    status: Literal["open", "complete"] = Field(description="`complete`: every service has sent its part.")
    requested_at: datetime
    completed_at: datetime | None = Field(description="The time of the last part; null while open.")
    expires_at: datetime = Field(description="The end of the copy's retention.")
    waiting_for: list[str]
    data: dict[str, list[dict[str, object]]] | None = Field(
        description="The items of each service, by service, each with its `kind`; null while open, and after"
        " `expires_at`."
    )


class AskedBody(Body):
    """The request for a rectification: channel (`source`), actor, and the person's own words."""

    source: Source = Field(description="The caller's own channel, a slug such as `call-centre`.")
    actor: Short | None = None
    statement: Long | None = Field(None, description="The person's own words. An erasure takes the value.")


class ContactBody(Body):
    """The right values of a contact."""

    kind: Literal["contact"] = Field(description="The correction is of contacts.")
    sender_id: Short | None = Field(
        description="The sender whose contact is wrong; null: contacts of every sender of the controller."
    )
    fields: dict[FieldName, FieldValue | None] = Field(
        min_length=1, max_length=60, description="The right values by field; null removes a field."
    )


class NumberBody(Body):
    """The number was wrong, or is no longer the person's."""

    kind: Literal["number"] = Field(description="The correction is of the number.")
    sender_id: Short | None = Field(description="The sender concerned; null: every sender of the controller.")


class RightBody(Body):
    """The form or the text which the person really saw."""

    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None


class LineBody(Body):
    """A line of the ledger is wrong."""

    kind: Literal["evidence"] = Field(description="The correction is of a line of the ledger.")
    evidence_id: Short
    wrong: tuple[Wrong, ...] = Field(
        min_length=1, max_length=10, description="The wrong parts; `person`: the line concerns another person."
    )
    right: RightBody = RightBody()


class RectificationBody(Body):
    """A rectification: the person's number, the request, and the correction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": EXAMPLE_NUMBER,
                    "asked": {"source": "call-centre", "actor": "agent-12", "statement": "My name is Zoé"},
                    "correct": {"kind": "contact", "sender_id": "acme", "fields": {"first_name": "Zoé"}},
                }
            ]
        }
    )

    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    controller: OfController = None
    asked: AskedBody
    correct: Annotated[ContactBody | NumberBody | LineBody, Field(discriminator="kind")] = Field(
        description="The correction: of contacts, of the number, or of a line of the ledger."
    )


class RectificationView(BaseModel):
    """A rectification and its progress, of a person by the person's id with the controller."""

    rectification_id: str
    subject_id: str
    controller: str
    kind: Literal["contact", "number", "evidence"] = Field(description="The subject of the correction.")
    sender_id: str | None = Field(description="The sender concerned; null: every sender of the controller.")
    status: Literal["open", "complete"] = Field(description="`complete`: every service has corrected.")
    source: str = Field(description="The channel of the request.")
    asked: dict[str, object] | None = Field(description="The request, as sent; null once erased.")
    evidence_id: str | None = Field(description="The line appended to the ledger; null for a correction of contacts.")
    annulled: bool = Field(description="True: the wrong line no longer counts.")
    requested_at: datetime
    completed_at: datetime | None = Field(description="The time of the last correction; null while open.")
    rectified: dict[str, dict[str, int]] = Field(
        description="Counts by service; `messages` had not left and got new text."
    )
    waiting_for: list[str]
