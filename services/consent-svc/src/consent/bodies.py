"""The HTTP bodies of consent-svc, and the checks of each field.

A phone number travels only in a body, and no error reason repeats a number.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from common.contracts.consent import RETENTION_MONTHS, Basis, State, StopScope
from common.web.fields import Long, Short, Slug, storable
from common.web.problems import Reason
from consent.answers.replies import question_flaws
from consent.ledger.rules import Kind, Wrong
from consent.senders.store import LONGEST_WINDOW_HOURS, WINDOW_HOURS

OURS = ("mo", "unreadable_mo", "receipt", "provider_list", "preference_page", "rectification", "double_opt_in")
EXAMPLE_NUMBER = "06 39 98 12 34"
BATCH_ITEMS = 1000
TRANSACTIONAL = "38"  # prefix of the STOP codes of this class (AF2M, DOMAIN 1.7); marketing has 36xxx
EARLIEST = datetime(1992, 12, 3, tzinfo=UTC)  # the first SMS: an earlier time at source is a mistake
ISO_8601 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _iso_8601(value: object) -> object:
    if isinstance(value, str) and ISO_8601.match(value):
        return value
    raise ValueError("an ISO 8601 instant with its offset")  # pydantic reads "20260301" as seconds of 1970


def _in_utc(value: datetime) -> datetime:
    try:
        instant = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    if instant < EARLIEST:
        raise ValueError("before there were text messages")
    return instant


def _not_ours(value: str) -> str:
    if value.strip().lower() in OURS:
        raise ValueError("a name of Placet's own: operators, our pages and rectifications write it")
    return value


def _no_field_of_ours(value: str) -> str:
    if value == "stop":
        raise ValueError("the STOP mention is no attribute of anybody")
    return value


def _asks(value: str) -> str:
    if flaws := list(question_flaws(value)):
        raise ValueError("; ".join(flaws))
    return value


def _with_a_letter(value: str) -> str:
    if value.isdigit():
        raise ValueError("one letter at least, or it could pass for a number")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_iso_8601), AfterValidator(_in_utc)]
Reply = Annotated[str, StringConstraints(min_length=1, max_length=306), AfterValidator(storable)]  # two SMS in GSM-7
Source = Annotated[str, StringConstraints(max_length=100), AfterValidator(storable), AfterValidator(_not_ours)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$"), AfterValidator(_no_field_of_ours)]
FieldValue = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)
]
Asked = Annotated[Reply, AfterValidator(_asks)]
Number = Annotated[str, StringConstraints(max_length=64), Field(examples=[EXAMPLE_NUMBER])]


class Body(BaseModel):
    """A request body. An unknown field is refused: a mistyped field of proof must not be lost silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PurposeBody(Body):
    """A purpose for which the sender asks consent. `retention_months`: how long a consent holds after the person's last
    contact, within the CNIL limit."""

    id: Slug
    wording: Short
    retention_months: int = Field(default=RETENTION_MONTHS, ge=1, le=RETENTION_MONTHS)


class RepliesBody(Body):
    """The sender's own texts for SMS answers; null: Placet's text.

    `double_opt_in`: the question answered by OUI, without advertising. The text needs the fields {brand}, {purpose} and
    {stop_code}, and {link} for an SMS with a link.
    """

    stop: Reply | None = None
    contact: Reply | None = None
    double_opt_in: Asked | None = None
    start: Reply | None = None


Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class SenderContent(Body):
    """A sender without the id. `controller`: id of the legal entity, which several senders may share; by default, a new
    sender stands alone. `stop_scope`: whether a STOP to this sender covers the whole controller or this sender only."""

    legal_name: Short
    brand: Short
    contact: Short
    country: Country
    oadc: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{3,11}$"), AfterValidator(_with_a_letter)]
    stop_code: Annotated[str, StringConstraints(pattern=r"^3[68]\d{3}$")]
    purposes: tuple[PurposeBody, ...] = Field(max_length=100)
    controller: Slug | None = None
    stop_scope: StopScope = "controller"
    replies: RepliesBody = RepliesBody()
    double_opt_in_hours: int = Field(
        WINDOW_HOURS,
        ge=1,
        le=LONGEST_WINDOW_HOURS,
        description="How long the question of a double opt-in waits for its OUI.",
    )
    renewal_days: int | None = Field(
        None,
        ge=7,
        le=90,
        description="So many days before a consent ends, its person is asked once whether it shall go on; null: not.",
    )
    abroad: tuple[Country, ...] = Field(
        (), max_length=250, description="Other countries where it is allowed to send marketing, ISO 3166-1."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SenderContent":
        if len({purpose.id for purpose in self.purposes}) < len(self.purposes):
            raise ValueError("purposes: an id twice")
        if self.purposes and self.stop_code.startswith(TRANSACTIONAL):
            raise ValueError("stop_code: one of 38xxx is for transactional messages, and none of them asks for consent")
        return self


class NewSender(SenderContent):
    sender_id: Slug


class ChangedSender(SenderContent):
    sender_id: Slug | None = None  # if given, equal to the path


class SenderBody(BaseModel):
    sender_id: str
    version: int
    legal_name: str
    brand: str
    contact: str
    country: str
    oadc: str
    stop_code: str
    stop_code_class: Literal["marketing", "transactional"]
    purposes: tuple[PurposeBody, ...]
    controller: str
    stop_scope: StopScope
    replies: RepliesBody
    double_opt_in_hours: int
    renewal_days: int | None
    abroad: tuple[str, ...]


class SenderVersion(SenderBody):
    in_force_from: datetime


class SenderVersions(BaseModel):
    items: list[SenderVersion]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


class EvidenceBody(Body):
    """The proof of a choice. An opt-in needs `form_id` and `form_version`, or `text_shown`."""

    source: Source
    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None
    actor: Short | None = None
    sale_reference: Short | None = None


class ConsentBody(Body):
    """One opt-in."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": "promotions",
                    "number": EXAMPLE_NUMBER,
                    "basis": "opt_in",
                    "occurred_at": "2026-03-02T14:05:00+01:00",
                    "evidence": {"source": "shop", "form_id": "checkout", "form_version": "7"},
                }
            ]
        }
    )

    sender_id: Short
    purpose: Short
    number: Number
    basis: Basis = "opt_in"
    occurred_at: Instant
    evidence: EvidenceBody


class OptOutBody(Body):
    """One opt-out. `sender_id` is required; null: every sender. `purpose` null: every purpose."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": None,
                    "number": EXAMPLE_NUMBER,
                    "evidence": {"source": "call-centre", "actor": "agent-12"},
                }
            ]
        }
    )

    sender_id: Short | None
    purpose: Short | None = None
    number: Number
    occurred_at: Instant | None = None  # default: now
    evidence: EvidenceBody


class InteractionBody(Body):
    """An act of the person with a sender, and the proof: `evidence` names the sale or the form."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "number": EXAMPLE_NUMBER,
                    "occurred_at": "2026-03-02T14:05:00+01:00",
                    "evidence": {"source": "shop", "sale_reference": "2026-0419"},
                }
            ]
        }
    )

    sender_id: Short
    number: Number
    occurred_at: Instant
    evidence: EvidenceBody


class AskedBody(Body):
    """The request for a rectification: channel (`source`), actor, and the person's own words."""

    source: Source
    actor: Short | None = None
    statement: Long | None = None


class ContactBody(Body):
    """The right values of a contact, by field; null removes a field. `sender_id` null: contacts of every sender."""

    kind: Literal["contact"]
    sender_id: Short | None
    fields: dict[FieldName, FieldValue | None] = Field(min_length=1, max_length=60)


class NumberBody(Body):
    """The number was wrong, or no longer belongs to the person. `sender_id` null: for every sender."""

    kind: Literal["number"]
    sender_id: Short | None


class RightBody(Body):
    """The form or the text which the person really saw."""

    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None


class LineBody(Body):
    """A line of the ledger is wrong. `wrong`: the wrong parts; `person`: the line concerns another person."""

    kind: Literal["evidence"]
    evidence_id: Short
    wrong: tuple[Wrong, ...] = Field(min_length=1, max_length=10)
    right: RightBody = RightBody()


class RectificationBody(Body):
    """A rectification: the person's number, the request, and the correction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": EXAMPLE_NUMBER,
                    "asked": {"source": "call-centre", "actor": "agent-12", "statement": "My name is Zoé"},
                    "correct": {"kind": "contact", "sender_id": None, "fields": {"first_name": "Zoé", "city": None}},
                }
            ]
        }
    )

    number: Number
    asked: AskedBody
    correct: Annotated[ContactBody | NumberBody | LineBody, Field(discriminator="kind")]


class RectificationView(BaseModel):
    """A rectification and its progress. `evidence_id`: the line appended to the ledger; `annulled`: the wrong line no
    longer counts. `asked`: null once erased. `rectified`: counts by service; `messages` had not left and got new text.
    """

    rectification_id: str
    subject_id: str
    kind: Literal["contact", "number", "evidence"]
    sender_id: str | None
    status: Literal["open", "complete"]
    source: str
    asked: dict[str, Any] | None
    evidence_id: str | None
    annulled: bool
    requested_at: datetime
    completed_at: datetime | None
    rectified: dict[str, dict[str, int]]
    waiting_for: list[str]


class DoubleOptInBody(ConsentBody):
    """A form filled in just now. The number may belong to another person, so an SMS asks the person at the number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": "promotions",
                    "number": EXAMPLE_NUMBER,
                    "occurred_at": "2026-03-02T14:05:00+01:00",
                    "evidence": {"source": "site", "form_id": "newsletter", "form_version": "3"},
                }
            ]
        }
    )

    basis: Literal["opt_in"] = "opt_in"
    link: bool = Field(False, description="The SMS also holds a link to a page that asks, and has a button for yes.")


class DoubleOptInAnswer(BaseModel):
    """The same answer whatever the person has said before, and whether or not an SMS leaves. `evidence_id`: of the
    request, which the opt-in will name; `answer_before`: a later answer does not count."""

    subject_id: str
    evidence_id: str
    answer_before: datetime


class ReasonBody(BaseModel):
    field: str | None
    reason: str
    detail: str | None = None


class Unfit(BaseModel):
    """A batch item of the wrong form, and the reasons."""

    reasons: tuple[ReasonBody, ...]


def _or_unfit(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        return Unfit(
            reasons=tuple(
                ReasonBody(field=".".join(map(str, e["loc"])) or None, reason=e["type"], detail=e["msg"])
                for e in error.errors(include_url=False, include_input=False, include_context=False)
            )
        )


Item = Annotated[ConsentBody, WrapValidator(_or_unfit)]


class BatchBody(Body):
    """A batch of opt-ins. Each item stands for itself: a refused item does not affect the others."""

    items: list[Item] = Field(min_length=1, max_length=BATCH_ITEMS)


class InteractionsBody(Body):
    """A batch of interactions. Each item stands for itself."""

    items: list[Annotated[InteractionBody, WrapValidator(_or_unfit)]] = Field(min_length=1, max_length=BATCH_ITEMS)


class InteractionResult(BaseModel):
    index: int
    verdict: Literal["recorded", "unchanged", "refused"]
    subject_id: str | None = None
    reasons: tuple[ReasonBody, ...] = ()


class InteractionsAnswer(BaseModel):
    results: list[InteractionResult]
    counts: dict[Literal["recorded", "unchanged", "refused"], int]


class ConsentAnswer(BaseModel):
    """The outcome of an opt-in or opt-out. `state`: the state of the named scope now. `changed` is false for a repeat,
    or where a newer STOP or opt-in outweighs the request."""

    subject_id: str
    evidence_id: str
    version: int
    state: State
    changed: bool


class BatchResult(BaseModel):
    index: int
    verdict: Literal["recorded", "unchanged", "refused"]
    subject_id: str | None = None
    evidence_id: str | None = None
    state: State | None = None
    reasons: tuple[ReasonBody, ...] = ()


class BatchAnswer(BaseModel):
    results: list[BatchResult]
    counts: dict[Literal["recorded", "unchanged", "refused"], int]


class AsOfBody(Body):
    """The state at one instant, as known at another. `happened_by` limits the time at source, `known_by` the time of
    recording; each is now by default. An instant in the future is refused: the answer could still change."""

    happened_by: Instant | None = None
    known_by: Instant | None = None

    @model_validator(mode="after")
    def _some(self) -> "AsOfBody":
        if self.happened_by is None and self.known_by is None:
            raise ValueError("give happened_by, known_by or both")
        return self


class LookupBody(Body):
    """A number to look up. `as_of` null: the state now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"number": EXAMPLE_NUMBER},
                {
                    "number": EXAMPLE_NUMBER,
                    "as_of": {"happened_by": "2026-03-02T14:05:00+01:00", "known_by": "2026-03-09T00:00:00+01:00"},
                },
            ]
        }
    )

    number: Number
    as_of: AsOfBody | None = None


class AsOfView(BaseModel):
    """The two instants of an answer with `as_of`."""

    happened_by: datetime
    known_by: datetime


class ConsentView(BaseModel):
    sender_id: str
    purpose: str
    state: State
    basis: Basis | None
    occurred_at: datetime
    evidence_id: str


class SuppressionView(BaseModel):
    """An opt-out of every purpose of a sender. `sender_id` null: of every sender."""

    sender_id: str | None
    since: datetime


class EvidenceView(BaseModel):
    """A line of the ledger. `hash` chains the line to the line before. `sealed`: digest, with `salt`, of the fields
    which an erasure takes; `salt` is null once erased. `corrected_by`: the lines which correct this line."""

    position: int
    evidence_id: str
    kind: Kind
    sender_id: str | None
    purpose: str | None
    basis: Basis | None
    source: str
    form_id: str | None
    form_version: str | None
    text_shown: str | None
    actor: str | None
    sale_reference: str | None
    reference: str | None
    answers: str | None
    controller: str | None
    occurred_at: datetime
    received_at: datetime
    recorded_at: datetime
    salt: str | None
    sealed: str
    hash: str
    corrected_by: list[str]


class SubjectView(BaseModel):
    """The record of a subject. `held_since`: since when marketing waits, because an MO awaits manual review. With
    `as_of`, `version` and `held_since` are null, and `history` is the evidence behind the state."""

    subject_id: str
    as_of: AsOfView | None
    version: int | None
    held_since: datetime | None
    consents: list[ConsentView]
    suppressions: list[SuppressionView]
    history: list[EvidenceView]


class ProofBody(Body):
    """A number to prove. `name_the_number`: the bundle contains the number, for the person or the regulator only."""

    number: Number
    name_the_number: bool = False


class SealedBody(BaseModel):
    """The fields which the receipt proves without revealing: `ledger.sealed` is the SHA-256 of `salt` and the canonical
    JSON of the other fields."""

    salt: str
    actor: str | None
    form_id: str | None
    form_version: str | None
    reference: str | None
    sale_reference: str | None
    text_shown: str | None


class ReceiptBody(BaseModel):
    """`receipt`: a compact JWS, to check against /.well-known/jwks.json; `record`: the payload; `sealed`: null once
    erased. `corrections`: the receipts of the lines which correct this line, to show with this receipt."""

    evidence_id: str
    receipt: str
    record: dict[str, Any]
    sealed: SealedBody | None
    corrections: list["ReceiptBody"] = []


class SealBody(BaseModel):
    """A seal on the ledger's entries after the seal before, up to `last`. `previous`: hash of the seal before. `root`:
    of the Merkle tree over the hashes of the entries (RFC 6962). `pin`: the value to keep, for `python -m consent
    verify --pin`. `signature`: a compact JWS over the canonical JSON of the fields from `number` to `hash`."""

    number: int
    previous: str
    entries: int
    first: int
    last: int
    root: str
    sealed_at: datetime
    hash: str
    pin: str
    signature: str


class SealsBody(BaseModel):
    items: list[SealBody]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


def bodies(reasons: tuple[Reason, ...]) -> tuple[ReasonBody, ...]:
    return tuple(ReasonBody(field=r.field, reason=r.reason, detail=r.detail) for r in reasons)
