"""What callers send and get: the shapes of consent-svc's HTTP bodies, and what is wrong with a field.

Numbers travel in bodies only, and no reason repeats one.
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
from consent.double_opt_in.rules import LONGEST_WINDOW_HOURS, WINDOW_HOURS
from consent.ledger.rules import Kind, Wrong

OURS = ("mo", "unreadable_mo", "receipt", "provider_list", "preference_page", "rectification", "double_opt_in")
EXAMPLE_NUMBER = "06 39 98 12 34"
BATCH_ITEMS = 1000
TRANSACTIONAL = "38"  # STOP codes of that class (AF2M, DOMAIN 1.7); 36xxx are for marketing
EARLIEST = datetime(1992, 12, 3, tzinfo=UTC)  # the first SMS: a time at source before it is a mistake
ISO_8601 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _iso_8601(value: object) -> object:
    if isinstance(value, str) and ISO_8601.match(value):
        return value
    raise ValueError("an ISO 8601 instant with its offset")  # "20260301" would be read as seconds of 1970


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
Reply = Annotated[
    str, StringConstraints(min_length=1, max_length=306), AfterValidator(storable)
]  # two SMS of GSM 7-bit
Source = Annotated[str, StringConstraints(max_length=100), AfterValidator(storable), AfterValidator(_not_ours)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$"), AfterValidator(_no_field_of_ours)]
FieldValue = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)
]
Asked = Annotated[Reply, AfterValidator(_asks)]
Number = Annotated[str, StringConstraints(max_length=64), Field(examples=[EXAMPLE_NUMBER])]


class Body(BaseModel):
    """An unknown field is refused: a proof mistyped would otherwise be lost without a word."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PurposeBody(Body):
    """`retention_months`: how long a consent holds after the person's last contact; no longer than CNIL allows."""

    id: Slug
    wording: Short
    retention_months: int = Field(default=RETENTION_MONTHS, ge=1, le=RETENTION_MONTHS)


class RepliesBody(Body):
    """What the sender says by SMS, in its own words; null: in Placet's. `double_opt_in`: the question that an OUI
    answers, with its fields {brand}, {purpose} and {stop_code}, and {link} where it shall hold one; no advertising."""

    stop: Reply | None = None
    contact: Reply | None = None
    double_opt_in: Asked | None = None
    start: Reply | None = None


Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class SenderContent(Body):
    """A sender without its id. `controller`: the id of the legal entity behind it, which several senders may share;
    left out, a new sender stands alone. `stop_scope`: what a STOP to this sender shuts."""

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
    sender_id: Slug | None = None  # if given, the one in the path


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
    """How it was said. An opt-in needs what was shown: `form_id` and `form_version`, or `text_shown`."""

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
    """One opt-out. `sender_id` null: every sender; it must be said, not left out. `purpose` null: all of them."""

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
    """Something the person did with a sender, of which they hold proof: `evidence` names the sale, or the form."""

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
    """Who asked, by which way, and what they say, in their words."""

    source: Source
    actor: Short | None = None
    statement: Long | None = None


class ContactBody(Body):
    """What is right of a contact, by field; null: to be taken out. `sender_id` null: in every sender's contacts."""

    kind: Literal["contact"]
    sender_id: Short | None
    fields: dict[FieldName, FieldValue | None] = Field(min_length=1, max_length=60)


class NumberBody(Body):
    """The number was wrong, or is not theirs any more. `sender_id` null: for every sender."""

    kind: Literal["number"]
    sender_id: Short | None


class RightBody(Body):
    """What was really shown."""

    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None


class LineBody(Body):
    """A line of the ledger says what is not so. `wrong`: what of it; `person`: it was somebody else."""

    kind: Literal["evidence"]
    evidence_id: Short
    wrong: tuple[Wrong, ...] = Field(min_length=1, max_length=10)
    right: RightBody = RightBody()


class RectificationBody(Body):
    """Whose data is wrong, who asks, and what is to be corrected."""

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
    """`evidence_id`: what it appended to the ledger; `annulled`: the line it is about counts no more. `asked`: null
    once erased. `rectified`: by service, how many of what; `messages` are those that were reworded, not having left."""

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
    """A form that was just filled in, with a number that may be somebody else's: its person is asked."""

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
    """The same whatever the person has said before, and whether or not a text leaves. `evidence_id`: of the request,
    which the answer will name; `answer_before`: after that no answer counts."""

    subject_id: str
    evidence_id: str
    answer_before: datetime


class ReasonBody(BaseModel):
    field: str | None
    reason: str
    detail: str | None = None


class Unfit(BaseModel):
    """A batch item that is not a consent at all, and why."""

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
    """Each item stands for itself: one that is refused does not sink the others."""

    items: list[Item] = Field(min_length=1, max_length=BATCH_ITEMS)


class InteractionsBody(Body):
    """As a batch of consents: each item stands for itself."""

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
    """`state`: what now holds for the scope that was named. `changed` is false for what was known or is outvoted."""

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
    """The state at one instant, as it was known at another. `happened_by`: what had happened by then at source;
    `known_by`: what was on record by then. What is left out is now; nothing lies in the future, or the same question
    would not keep its answer."""

    happened_by: Instant | None = None
    known_by: Instant | None = None

    @model_validator(mode="after")
    def _some(self) -> "AsOfBody":
        if self.happened_by is None and self.known_by is None:
            raise ValueError("give happened_by, known_by or both")
        return self


class LookupBody(Body):
    """`as_of` null: the state now."""

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
    """Both instants of an answer that was asked for as of one."""

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
    """An opt-out of all a sender's purposes; of every sender where `sender_id` is null."""

    sender_id: str | None
    since: datetime


class EvidenceView(BaseModel):
    """One line of the ledger. `hash` chains it to the line before; `sealed` is the digest of what an erasure takes, and
    `salt` with it: null where it is erased. `corrected_by`: the lines that put this one right."""

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
    """`held_since`: a text of theirs waits for a person to read it, and marketing waits with it. As of another instant
    than now, `version` and `held_since` are null, and `history` is what the state stands on."""

    subject_id: str
    as_of: AsOfView | None
    version: int | None
    held_since: datetime | None
    consents: list[ConsentView]
    suppressions: list[SuppressionView]
    history: list[EvidenceView]


class ProofBody(Body):
    """Whose proof. `name_the_number`: the bundle then says it, and is for the person's or the regulator's eyes only."""

    number: Number
    name_the_number: bool = False


class SealedBody(BaseModel):
    """What the receipt proves and does not tell: its `ledger.sealed` is the SHA-256 of `salt` and the canonical JSON of
    the rest."""

    salt: str
    actor: str | None
    form_id: str | None
    form_version: str | None
    reference: str | None
    sale_reference: str | None
    text_shown: str | None


class ReceiptBody(BaseModel):
    """`receipt`: a compact JWS, checked against /.well-known/jwks.json; `record`: its payload; `sealed`: null once
    it is erased. `corrections`: the receipts of the lines that put this one right, to be shown with it."""

    evidence_id: str
    receipt: str
    record: dict[str, Any]
    sealed: SealedBody | None
    corrections: list["ReceiptBody"] = []


class SealBody(BaseModel):
    """A seal on all entries of the ledger after the last of the seal `previous` and up to `last`. `root`: of the Merkle
    tree over their hashes (RFC 6962). `pin`: what to keep, for `python -m consent verify --pin`. `signature`: a compact
    JWS over the canonical JSON of the fields from `number` to `hash`."""

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
