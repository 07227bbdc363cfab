"""Consents, opt-outs and subject lookups over HTTP.

An opt-in needs a number which may be texted; an opt-out takes any number with a digit, because a STOP counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from msgspec import structs
from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.batch import Together
from common.contracts.consent import Basis, State
from common.service import Resources
from common.settings import ServiceSettings
from common.telemetry import traceparent
from common.web.auth import Caller, require
from common.web.idempotency import Key, KeyReused, claim_all, fingerprint_of
from common.web.problems import Invalid, Problem, Reason
from consent.bodies import (
    BATCH_ITEMS,
    EXAMPLE_NUMBER,
    Body,
    ConsentBody,
    Instant,
    Number,
    OptOutBody,
    ReasonBody,
    Unfit,
    bodies,
    or_unfit,
)
from consent.calls import (
    Call,
    Held,
    WritesConsent,
    any_number,
    opened,
    opt_outs,
    statement_of,
)
from consent.ledger import corrections, recorder, reopening
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Recorded, Statement
from consent.ledger.reopening import Means
from consent.ledger.rules import Kind, Mark
from consent.ledger.store import Subject
from consent.senders import store as senders_store

router = APIRouter(prefix="/v1")

_Body = ConsentBody | OptOutBody
Reach = Literal["purpose", "sender", "controller", "everyone"]
ReadsConsent = Annotated[Caller, Depends(require("consent:read"))]
Item = Annotated[ConsentBody, WrapValidator(or_unfit)]


class BatchBody(Body):
    """A batch of opt-ins. Each item stands for itself: a refused item does not affect the others."""

    items: list[Item] = Field(min_length=1, max_length=BATCH_ITEMS)


class HeldBy(BaseModel):
    """A STOP of the person's own: by text, by a stop link, on the preference page or told by the operator.
    Without a reopening rule no caller takes such a STOP back. `reach`: the purpose, the sender, every sender of the
    controller, or everyone. `since`: time at source."""

    reach: Reach
    since: datetime


class ConsentAnswer(BaseModel):
    """The outcome of an opt-in or opt-out. `state`: the state of the named scope now. `changed` is false for a repeat,
    or where a newer STOP or opt-in outweighs the request. `effective`: the state is as the request says. An opt-in that
    is not effective is kept as evidence; `held_by` is the person's own STOP, if the opt-in stands against one, and
    `reopens_with` says what would open the consent."""

    subject_id: str
    evidence_id: str
    version: int
    state: State
    changed: bool
    effective: bool
    held_by: HeldBy | None
    reopens_with: list[Means]


class BatchResult(BaseModel):
    """`effective`, `held_by`, `reopens_with`: as for a single opt-in; null for a refused item."""

    index: int
    verdict: Literal["recorded", "unchanged", "refused"]
    subject_id: str | None = None
    evidence_id: str | None = None
    state: State | None = None
    effective: bool | None = None
    held_by: HeldBy | None = None
    reopens_with: list[Means] | None = None
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
    """A consent. `reopening_rule`: the sender's rule without which the person's own STOP would hold the opt-in."""

    sender_id: str
    purpose: str
    state: State
    basis: Basis | None
    occurred_at: datetime
    evidence_id: str
    reopening_rule: str | None


class SuppressionView(BaseModel):
    """An opt-out of every purpose of a sender. `sender_id` null: of every sender."""

    sender_id: str | None
    since: datetime


class EvidenceView(BaseModel):
    """A line of the ledger. `hash` chains the line to the line before. `sealed`: digest, with `salt`, of the fields
    which an erasure takes; `salt` is null once erased. `corrected_by`: the lines which correct this line.
    `reopening_rule`: of an opt-in asserted while the rule was in force."""

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
    reopening_rule: str | None
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


def one_by_one() -> APIRouter:
    """Return the routes for single consents and opt-outs."""
    routes = APIRouter(prefix="/v1")
    together: Together[_Asked, Recorded | Problem] = Together(_record_together)

    async def recorded(
        request: Request, caller: Caller, held: Resources[ServiceSettings], key: str | None, body: _Body
    ) -> Response:
        """Return the answer once committed. Raises the Problem of this request."""
        fingerprint = "" if key is None else await fingerprint_of(request, held.subject_keys)
        asked = _Asked(body, caller, key, fingerprint, datetime.now(UTC), traceparent())
        result = await together.written(held, asked)
        if isinstance(result, Problem):
            raise result
        return _answer(result)

    @routes.post("/consents", status_code=201, response_model=ConsentAnswer)
    async def give_consent(
        body: ConsentBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
    ) -> Response:
        """Record one opt-in with its proof.

        `changed` is false where the opt-in was on record already, or a newer STOP outweighs the opt-in. After a STOP of
        the person's own (by text, by a stop link, on the preference page or told by the operator), and without a
        reopening rule, only the person opens the consent again: the opt-in is kept as evidence, `effective` is false,
        and `reopens_with` says what would. `Location` names the signed receipt.
        """
        return await recorded(request, caller, held, key, body)

    @routes.post("/opt-outs", status_code=201, response_model=ConsentAnswer)
    async def opt_out(
        body: OptOutBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
    ) -> Response:
        """Record one opt-out: of a purpose, of a sender with all purposes, or of every sender.

        Nine digits may be a French number without the 0, or an overseas number without the + of the country code: the
        opt-out then counts for both numbers. `Location` names the signed receipt.
        """
        return await recorded(request, caller, held, key, body)

    return routes


@router.post("/consents/batch")
async def give_consents(
    body: BatchBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
) -> BatchAnswer:
    """Record up to 1,000 opt-ins, each decided by itself.

    The verdict `unchanged` covers repeats, and opt-ins which a newer STOP outweighs or a STOP of the person's own
    holds: `effective` tells these apart.
    """
    results: dict[int, BatchResult] = {}
    statements: dict[int, Statement] = {}
    async with held.database.begin() as tx:
        named = {item.sender_id for item in body.items if not isinstance(item, Unfit)}
        call = await opened(tx, request, caller, held, key, named)
        for index, item in enumerate(body.items):
            if isinstance(item, Unfit):
                results[index] = BatchResult(index=index, verdict="refused", reasons=item.reasons)
                continue
            try:
                statements[index] = statement_of(call, item, index)
            except Problem as problem:
                results[index] = BatchResult(index=index, verdict="refused", reasons=bodies(problem.reasons))
        decided = await recorder.record(tx, list(statements.values()), call.now)
    for index, result in zip(statements, decided, strict=True):
        effect = _effect(result)
        results[index] = BatchResult(
            index=index,
            verdict="recorded" if _changed(result, effect) else "unchanged",
            subject_id=result.statement.subject_id,
            evidence_id=result.statement.evidence.evidence_id,
            state=effect.state,
            effective=effect.effective,
            held_by=HeldBy(reach=effect.held_by.reach, since=effect.held_by.since) if effect.held_by else None,
            reopens_with=list(effect.reopens_with),
        )
    counts = Counter(result.verdict for result in results.values())
    return BatchAnswer(
        results=[results[index] for index in range(len(body.items))],
        counts={"recorded": counts["recorded"], "unchanged": counts["unchanged"], "refused": counts["refused"]},
    )


@router.post("/subjects/lookup")
async def look_up_subject(body: LookupBody, caller: ReadsConsent, held: Held) -> SubjectView:
    """Return the consents, the suppressions and the newest 1,000 lines of evidence of a number, newest last.

    With `as_of`, the answer covers events which had happened by `happened_by` and were on record by `known_by`. A
    caller limited to some senders sees these senders, and lines which concern every sender. Without any record,
    `version` is 0.
    """
    subject_id = held.subject_keys.subject_id(any_number(body.number, held))
    as_of = _as_of(body, datetime.now(UTC))
    async with held.database.begin() as tx:
        if as_of is None:
            subject = await ledger_store.find_subject(tx, subject_id) or Subject(subject_id=subject_id)
            entries = await ledger_store.history(tx, subject_id, subject.entries)
        else:
            ((subject, entries),) = await ledger_store.whole_histories(tx, [subject_id])
    if as_of is None:
        state = subject.state
    else:
        entries = [e for e in entries if e.recorded_at <= as_of.known_by and e.evidence.since <= as_of.happened_by]
        state = ledger.fold(entry.evidence for entry in entries)

    def visible(sender_id: str | None) -> bool:
        return sender_id is None or caller.senders is None or sender_id in caller.senders

    corrected_by = corrections.corrected_by(e.evidence for e in entries)
    return SubjectView(
        subject_id=subject_id,
        as_of=as_of,
        version=None if as_of else subject.version,
        held_since=None if as_of else subject.held_since,
        consents=[
            ConsentView(
                sender_id=c.sender_id,
                purpose=c.purpose,
                state=c.state,
                basis=c.basis,
                occurred_at=c.occurred_at,
                evidence_id=c.evidence_id,
                reopening_rule=c.reopening_rule,
            )
            for c in ledger.consents(state)
            if visible(c.sender_id)
        ],
        suppressions=[
            SuppressionView(sender_id=s.sender_id, since=s.since)
            for s in ledger.suppressions(state)
            if visible(s.sender_id)
        ],
        history=[
            EvidenceView(
                position=e.position,
                recorded_at=e.recorded_at,
                salt=e.salt,
                sealed=e.sealed,
                hash=e.hash,
                corrected_by=corrected_by.get(e.evidence.evidence_id, []),
                **structs.asdict(e.evidence),
            )
            for e in entries[-ledger_store.HISTORY_ENTRIES :]
            if visible(e.evidence.sender_id)
        ],
    )


def _as_of(body: LookupBody, now: datetime) -> AsOfView | None:
    """Return both instants, now by default. Raises Invalid for the future."""
    if body.as_of is None:
        return None
    asked = {"happened_by": body.as_of.happened_by, "known_by": body.as_of.known_by}
    if ahead := [
        Reason(f"as_of.{name}", "in_the_future", "later than now") for name, at in asked.items() if at and at > now
    ]:
        raise Invalid("`as_of` lies in the future: ask for an instant up to now", reasons=ahead)
    return AsOfView(happened_by=asked["happened_by"] or now, known_by=asked["known_by"] or now)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for one change. `fingerprint`: keyed hash of the request; "" without a key."""

    body: _Body
    caller: Caller
    key: str | None
    fingerprint: str
    now: datetime
    trace: str | None


async def _record_together(
    tx: AsyncConnection, held: Resources[ServiceSettings], asked: Sequence[_Asked]
) -> list[Recorded | Problem]:
    """Record these requests in one transaction, and return the outcome of each, in order.

    An opt-out for two numbers gets the outcome of the parser's. A refused request leaves no trace, and does not claim
    the key.
    """
    known = await senders_store.purposes_of(tx, {one.body.sender_id for one in asked if one.body.sender_id is not None})
    results: dict[int, Recorded | Problem] = {}
    statements: dict[int, Sequence[Statement]] = {}
    for place, one in enumerate(asked):
        call = Call(one.caller, held, one.key, one.fingerprint, one.now, known)
        try:
            told = [statement_of(call, one.body)] if isinstance(one.body, ConsentBody) else opt_outs(call, one.body)
        except Problem as problem:
            results[place] = problem
        else:
            statements[place] = [structs.replace(each, trace=one.trace) for each in told]
    keyed = {place: key for place in statements if (key := asked[place].key) is not None}
    claims = [(asked[place].caller.subject, key, asked[place].fingerprint) for place, key in keyed.items()]
    for place, since in zip(keyed, await claim_all(tx, claims), strict=True):
        if since is None:
            results[place] = KeyReused()
            del statements[place]
        else:
            statements[place] = [_of_its_key(each, since) for each in statements[place]]
    said = [each for told in statements.values() for each in told]
    recorded = iter(await recorder.record(tx, said, datetime.now(UTC)))
    for place, told in statements.items():
        results[place], *_ = [next(recorded) for _ in told]
    return [results[place] for place in range(len(asked))]


def _of_its_key(statement: Statement, since: datetime) -> Statement:
    """Add the instant of the claim to an opt-out's id: another STOP under a key since pruned is no repeat."""
    evidence = statement.evidence
    if evidence.kind == "opt_in":
        return statement
    identity = evidence_id(evidence.evidence_id, since.isoformat())
    return structs.replace(statement, evidence=structs.replace(evidence, evidence_id=identity))


class _Held(msgspec.Struct, frozen=True):
    """A HeldBy as a struct, which encodes faster."""

    reach: Reach
    since: datetime


class _Effect(msgspec.Struct, frozen=True):
    """The effect of a request on the named scope."""

    state: State
    effective: bool
    held_by: _Held | None = None
    reopens_with: tuple[Means, ...] = ()


def _effect(result: Recorded) -> _Effect:
    evidence, state = result.statement.evidence, result.decision.state
    standing = ledger.standing(state, evidence.sender_id, evidence.purpose)
    if evidence.kind != "opt_in" or standing == "opted_in":
        return _Effect(standing, (standing == "opted_in") is (evidence.kind == "opt_in"))
    stop = reopening.held_by(state, evidence)
    return _Effect(
        standing,
        False,
        _Held(_reach(stop), stop.at) if stop else None,
        reopening.reopens_with(state, evidence, erased=result.erased),
    )


def _changed(result: Recorded, effect: _Effect) -> bool:
    """Return whether the request changed the state as asked.

    An opt-in held by a sister's STOP makes the purpose known as opted out: a change, and none that was asked for.
    """
    return result.decision.changed and (effect.effective or result.statement.evidence.kind != "opt_in")


def _reach(stop: Mark) -> Reach:
    if stop.sender_id is None:
        return "everyone"
    if stop.purpose is not None:
        return "purpose"
    return "sender" if stop.controller is None else "controller"


class _Answer(msgspec.Struct):
    """A ConsentAnswer as a struct, which encodes faster."""

    subject_id: str
    evidence_id: str
    version: int
    state: State
    changed: bool
    effective: bool
    held_by: _Held | None
    reopens_with: tuple[Means, ...]


def _answer(result: Recorded) -> Response:
    assert result.version is not None, "what the ledger refuses was refused before"
    evidence_id = result.statement.evidence.evidence_id
    effect = _effect(result)
    answer = _Answer(
        subject_id=result.statement.subject_id,
        evidence_id=evidence_id,
        version=result.version,
        state=effect.state,
        changed=_changed(result, effect),
        effective=effect.effective,
        held_by=effect.held_by,
        reopens_with=effect.reopens_with,
    )
    location = {"Location": f"/v1/receipts/{evidence_id}"}
    return Response(msgspec.json.encode(answer), 201, location, media_type="application/json")
