"""Define the bodies of lookups, and the answers to consents, opt-outs and lookups."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.contracts.consent import Basis, State
from common.web.fields import NumberCountry
from consent.bodies import EXAMPLE_NUMBER, Body, Instant, Number, Reach, ReasonBody
from consent.ledger.reopening import Means
from consent.ledger.rules import Kind


class HeldBy(BaseModel):
    """A STOP of the person's own: by text, by a stop link, on the preference page or told by the operator.

    Without a reopening rule no caller takes such a STOP back.
    """

    reach: Reach = Field(
        description="How far the STOP reaches: the purpose, the sender, every sender of the controller, or everyone."
    )
    since: datetime = Field(description="Time at source of the STOP.")


class ConsentAnswer(BaseModel):
    """The outcome of an opt-in or opt-out. `subject_id`: the person's id with the sender's controller; of an opt-out of
    every sender, the platform's own id."""

    subject_id: str = Field(
        description="The person's id with the sender's controller; of an opt-out of every sender, the platform's"
        " own id."
    )
    evidence_id: str
    version: int | None = Field(
        description="The version of the person's consent after the change; null without a change, as the last"
        " change may be a stranger's."
    )
    state: State = Field(
        description="The state of the named scope now: `unknown`, `pending` (a double opt-in is open), `opted_in`,"
        " `opted_out` or `expired`."
    )
    changed: bool = Field(description="False for a repeat, or where a newer STOP or opt-in outweighs the request.")
    effective: bool = Field(
        description="True: the state is as the request says. An opt-in that is not effective is kept as evidence."
    )
    held_by: HeldBy | None
    reopens_with: list[Means] = Field(
        description="The means that would open the consent; empty where the consent is open."
    )


class BatchResult(BaseModel):
    """The result of an item. `subject_id`: the person's id with the sender's controller."""

    index: int
    verdict: Literal["recorded", "unchanged", "refused"] = Field(
        description="`unchanged`: a repeat, or an opt-in that a newer STOP, or a STOP of the person's own, keeps"
        " without effect."
    )
    subject_id: str | None = Field(
        None, description="The person's id with the sender's controller; null for a refused item."
    )
    evidence_id: str | None = Field(None, description="The id of the ledger's line; null for a refused item.")
    state: State | None = Field(None, description="The state of the consent now; null for a refused item.")
    effective: bool | None = Field(None, description="True: the consent is open. Null for a refused item.")
    held_by: HeldBy | None = None
    reopens_with: list[Means] | None = Field(
        None, description="The means that would open the consent, as for a single opt-in; null for a refused item."
    )
    reasons: tuple[ReasonBody, ...] = Field(
        (), description="The field and the reason of each refusal; empty for a recorded item."
    )


class BatchAnswer(BaseModel):
    """The results of a batch of opt-ins."""

    results: list[BatchResult] = Field(description="A result for each item, in request order.")
    counts: dict[Literal["recorded", "unchanged", "refused"], int] = Field(description="Items by verdict.")


class AsOfBody(Body):
    """The state at one instant, as known at another. An instant in the future is refused: the answer could change."""

    happened_by: Instant | None = Field(None, description="The latest time at source. Default: now.")
    known_by: Instant | None = Field(None, description="The latest time of recording. Default: now.")

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

    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    as_of: AsOfBody | None = None


class AsOfView(BaseModel):
    """The two instants of an answer with `as_of`."""

    happened_by: datetime = Field(description="The latest time at source that the answer covers.")
    known_by: datetime = Field(description="The latest time of recording that the answer covers.")


class ConsentView(BaseModel):
    """A consent of the person to a sender, for a purpose."""

    sender_id: str
    purpose: str
    state: State = Field(
        description="`unknown`, `pending` (a double opt-in is open), `opted_in`, `opted_out` or `expired`."
    )
    basis: Basis | None = Field(description="The basis of the opt-in; null in a state without one.")
    occurred_at: datetime
    evidence_id: str = Field(
        description="The id of the ledger's line behind the state, as in a bundle of the sender's controller."
    )
    reopening_rule: str | None = Field(
        description="The sender's rule without which the person's own STOP would hold the opt-in; null without one."
    )


class SuppressionView(BaseModel):
    """An opt-out of every purpose of a sender."""

    sender_id: str | None = Field(description="The sender that the person stopped; null: every sender.")
    since: datetime = Field(description="Time at source of the opt-out.")


class EvidenceView(BaseModel):
    """A line of the ledger. The receipt proves a line.

    A line about every sender is a fact: its id, its words, its `source` and its digest are for the platform's operator,
    and null for others.
    """

    position: int = Field(
        description="The place of the line among the lines of this person that the caller sees, from 1."
    )
    evidence_id: str | None = Field(description="The id of the line, which its receipt names; null in a fact.")
    kind: Kind = Field(
        description="`request`: a question to the person. `contact`: an act that moves the clock of retention."
        " `correction`: a rectification."
    )
    sender_id: str | None = Field(description="The sender concerned; null: every sender.")
    purpose: str | None = Field(description="The purpose concerned; null: every purpose.")
    basis: Basis | None = Field(description="The basis of an opt-in; null for another kind.")
    source: str | None = Field(
        description="The channel: the caller's own, or one that Placet writes, such as `mo` or `preference_page`;"
        " null in a fact."
    )
    form_id: str | None
    form_version: str | None
    text_shown: str | None
    actor: str | None
    sale_reference: str | None
    reference: str | None = Field(
        description="The operator's name of the text or DLR behind the line, such as `ovh/main/mo-1843`; null"
        " without one. An erasure takes the value."
    )
    answers: str | None = Field(description="The id of the line that this line answers or corrects; null without one.")
    controller: str | None = Field(
        description="The controller that an opt-out covers; null for a line about a single sender, or about everyone."
    )
    reopening_rule: str | None = Field(
        description="The rule in force for the sender when the opt-in was asserted; null without one."
    )
    occurred_at: datetime
    received_at: datetime
    recorded_at: datetime
    salt: str | None = Field(description="The salt of `sealed`; null once erased.")
    sealed: str | None = Field(description="The digest, with `salt`, of the fields that an erasure takes.")
    corrected_by: list[str] = Field(description="The ids of the lines that correct this line.")


class SubjectView(BaseModel):
    """The record of a subject. `subject_ids`: the person's id with each controller that the token covers; `subject_id`:
    the platform's own id.

    With `as_of`, `history` is the evidence behind the state.
    """

    subject_id: str | None = Field(
        description="The platform's own id of the person; null for callers other than the platform's operator."
    )
    subject_ids: dict[str, str] = Field(
        description="The person's id with each controller that the token covers, by controller."
    )
    as_of: AsOfView | None
    version: int | None = Field(
        description="The version of the record, 0 without a line of these senders; null with `as_of`."
    )
    held_since: datetime | None = Field(
        description="Since when marketing waits for the review of a text of the person; null without a review, and"
        " with `as_of`."
    )
    consents: list[ConsentView] = Field(description="The consents, one for each sender and purpose on record.")
    suppressions: list[SuppressionView] = Field(
        description="The opt-outs of every purpose of a sender, or of every sender."
    )
    history: list[EvidenceView] = Field(description="The newest 1,000 lines that the caller sees, newest last.")
