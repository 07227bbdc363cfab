"""Record over HTTP the contacts of people with a sender, which move the clock of retention and open no consent.

A message sent, delivered or opened is no contact (CNIL; DOMAIN 1.4): a caller that reports such an event breaks the
law, and this module cannot tell.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WrapValidator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.web.fields import NumberCountry, Short
from common.web.idempotency import Key
from common.web.openapi import refuses
from common.web.problems import Invalid, NotFound, Problem, Reason
from consent.bodies import (
    BATCH_ITEMS,
    EXAMPLE_NUMBER,
    Body,
    EvidenceBody,
    Instant,
    Number,
    ReasonBody,
    Unfit,
    bodies,
    or_unfit,
)
from consent.calls import Call, Held, WritesConsent, any_number, batch, purposes_of
from consent.ledger import recorder
from consent.ledger.recorder import Statement
from consent.ledger.rules import CLOCK_SKEW, Verdict
from consent.retention.contacts import contact, worth_keeping

router = APIRouter(prefix="/v1")


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
    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    occurred_at: Instant
    evidence: EvidenceBody


class InteractionsBody(Body):
    """A batch of interactions. Each item stands for itself."""

    items: list[Annotated[InteractionBody, WrapValidator(or_unfit)]] = Field(
        min_length=1, max_length=BATCH_ITEMS, description="The interactions, up to 1,000."
    )


class InteractionResult(BaseModel):
    """The result of an item. `subject_id`: the person's id with the sender's controller."""

    index: int
    verdict: Literal["recorded", "unchanged", "refused"] = Field(
        description="`unchanged`: a repeat, or an act older than the last contact on record."
    )
    subject_id: str | None = Field(
        None, description="The person's id with the sender's controller; null for a refused item."
    )
    reasons: tuple[ReasonBody, ...] = Field(
        (), description="The field and the reason of each refusal; empty for a recorded item."
    )


class InteractionsAnswer(BaseModel):
    """The results of a batch of interactions."""

    results: list[InteractionResult] = Field(description="A result for each item, in request order.")
    counts: dict[Literal["recorded", "unchanged", "refused"], int] = Field(description="Items by verdict.")


@router.post(
    "/interactions",
    operation_id="interactions.create",
    response_model=InteractionsAnswer,
    responses=refuses(NotFound),
)
async def record_interactions(
    body: InteractionsBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
) -> Response:
    """Record people's acts with a sender, up to a thousand.

    The ledger keeps one per day, person and sender. `unchanged` marks a further act of the day, or a person without any
    record for this sender: no data is held about strangers.
    """
    results: dict[int, InteractionResult] = {}
    calls: list[Call] = []

    def states(call: Call) -> dict[int, Statement]:
        calls.append(call)
        statements: dict[int, Statement] = {}
        for index, item in enumerate(body.items):
            if isinstance(item, Unfit):
                results[index] = InteractionResult(index=index, verdict="refused", reasons=item.reasons)
                continue
            try:
                statements[index] = _statement(call, item)
            except Problem as problem:
                results[index] = InteractionResult(index=index, verdict="refused", reasons=bodies(problem.reasons))
        return statements

    async def records(tx: AsyncConnection, statements: Mapping[int, Statement], now: datetime) -> None:
        worth = await worth_keeping(tx, statements)
        recorded = await recorder.record(tx, held.subject_keys.inner, list(worth.values()), now)
        kept = {place for place, r in zip(worth, recorded, strict=True) if r.decision.verdict is not Verdict.DUPLICATE}
        for index, statement in statements.items():
            verdict = "recorded" if index in kept else "unchanged"
            who = calls[-1].id_shown(statement)
            results[index] = InteractionResult(index=index, verdict=verdict, subject_id=who)

    def shown() -> InteractionsAnswer:
        counts = Counter(result.verdict for result in results.values())
        return InteractionsAnswer(
            results=[results[index] for index in range(len(body.items))],
            counts={"recorded": counts["recorded"], "unchanged": counts["unchanged"], "refused": counts["refused"]},
        )

    named = {item.sender_id for item in body.items if not isinstance(item, Unfit)}
    return await batch(request, caller, held, key, named, states, records, shown)


def _statement(call: Call, body: InteractionBody) -> Statement:
    """Return the statement. Raises Forbidden, NotFound, or Invalid with all its reasons."""
    purposes_of(call, body.sender_id)
    reasons = list[Reason]()
    if not body.evidence.source.strip():
        reasons.append(Reason("evidence.source", "source_missing", "where it was"))
    if not body.evidence.sale_reference and not body.evidence.form_id:
        reasons.append(Reason("evidence", "nothing_done", "give sale_reference, or form_id: what the person did"))
    if body.occurred_at > call.now + CLOCK_SKEW:
        reasons.append(Reason("occurred_at", "occurred_in_the_future", "more than a minute ahead of our clock"))
    if reasons:
        raise Invalid("not recorded: " + ", ".join(r.reason for r in reasons), reasons=reasons)
    keys = call.held.subject_keys
    subject_id = keys.subject_id(any_number(body.number, call.held, call.countries(body)))
    return contact(keys.inner, subject_id, body.sender_id, body.occurred_at, call.now, **dict(body.evidence))
