"""Consents, opt-outs and subject lookups over HTTP.

A route opens the transaction, turns bodies into statements, and lets the recorder decide. An opt-in needs a number
which may be texted; an opt-out takes any number with a digit, because a STOP counts. Concurrent single requests share a
transaction (`common.db.batch`), and each request gets an answer of its own.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Request, Response
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Basis, State
from common.db.batch import Together
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.msisdn import NumberRefused, parse, readings
from common.telemetry import traceparent
from common.web.auth import Caller, require
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Reason
from consent.bodies import (
    AsOfView,
    BatchAnswer,
    BatchBody,
    BatchResult,
    ConsentAnswer,
    ConsentBody,
    ConsentView,
    EvidenceView,
    LookupBody,
    OptOutBody,
    SubjectView,
    SuppressionView,
    Unfit,
    bodies,
)
from consent.calls import claim_key, claim_keys
from consent.ledger import recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Recorded, Statement
from consent.ledger.rules import Evidence, Kind, Refusal
from consent.ledger.store import Subject
from consent.senders import store as senders_store
from consent.senders.store import Purposes

router = APIRouter(prefix="/v1")

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
_Body = ConsentBody | OptOutBody
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
ReadsConsent = Annotated[Caller, Depends(require("consent:read"))]
WritesConsent = Annotated[Caller, Depends(require("consent:write"))]

FIELDS = {  # the field of the body at fault
    Refusal.OCCURRED_IN_THE_FUTURE: "occurred_at",
    Refusal.SOURCE_MISSING: "evidence.source",
    Refusal.SENDER_MISSING: "sender_id",
    Refusal.PURPOSE_MISSING: "purpose",
    Refusal.BASIS_MISSING: "basis",
    Refusal.NOTHING_SHOWN: "evidence",
    Refusal.SALE_REFERENCE_MISSING: "evidence.sale_reference",
}
MEANING = {
    Refusal.OCCURRED_IN_THE_FUTURE: "more than a minute ahead of our clock",
    Refusal.SOURCE_MISSING: "where it was said",
    Refusal.SENDER_MISSING: "a purpose is one sender's own",
    Refusal.PURPOSE_MISSING: "what the consent is for",
    Refusal.BASIS_MISSING: "opt_in, soft_opt_in or non_commercial",
    Refusal.NOTHING_SHOWN: "give form_id and form_version, or text_shown: what the person saw",
    Refusal.SALE_REFERENCE_MISSING: "a soft opt-in stands on a sale",
}


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


def one_by_one() -> APIRouter:
    """Return the routes for single consents and opt-outs. Concurrent requests to a process share a transaction."""
    routes = APIRouter(prefix="/v1")
    together: Together[_Asked, Recorded | Problem] = Together(_record_together)

    async def recorded(
        request: Request, caller: Caller, held: Resources[ServiceSettings], key: str | None, body: _Body
    ) -> Response:
        """Return the answer once committed. Raises the Problem of this request."""
        fingerprint = "" if key is None else await _fingerprint(request, held)
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

        `changed` is false where the opt-in was on record already, or a newer STOP outweighs the opt-in. `Location`
        names the signed receipt.
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

    The verdict `unchanged` covers repeats, and opt-ins which a newer STOP outweighs.
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
        results[index] = BatchResult(
            index=index,
            verdict="recorded" if result.decision.changed else "unchanged",
            subject_id=result.statement.subject_id,
            evidence_id=result.statement.evidence.evidence_id,
            state=_standing(result),
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

    corrected_by = ledger.corrected_by(e.evidence for e in entries)
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
    """Return both instants, now by default. Raises Invalid for an instant ahead of our clock."""
    if body.as_of is None:
        return None
    asked = {"happened_by": body.as_of.happened_by, "known_by": body.as_of.known_by}
    if ahead := [
        Reason(f"as_of.{name}", "in_the_future", "later than now") for name, at in asked.items() if at and at > now
    ]:
        raise Invalid("nobody knows yet", reasons=ahead)
    return AsOfView(happened_by=asked["happened_by"] or now, known_by=asked["known_by"] or now)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for one change. `fingerprint`: keyed hash of the request sent with `key`; "" without a key."""

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

    An opt-out for two numbers gets the outcome of the number which `parse` reads. A refused request leaves no trace,
    and does not claim the key.
    """
    known = await senders_store.purposes_of(tx, {one.body.sender_id for one in asked if one.body.sender_id is not None})
    results: dict[int, Recorded | Problem] = {}
    statements: dict[int, Sequence[Statement]] = {}
    for place, one in enumerate(asked):
        call = Call(one.caller, held, one.key, one.fingerprint, one.now, known)
        try:
            told = [statement_of(call, one.body)] if isinstance(one.body, ConsentBody) else _opt_outs(call, one.body)
        except Problem as problem:
            results[place] = problem
        else:
            statements[place] = [structs.replace(each, trace=one.trace) for each in told]
    keyed = {place: key for place in statements if (key := asked[place].key) is not None}
    claims = [(asked[place].caller.subject, key, asked[place].fingerprint) for place, key in keyed.items()]
    for place, since in zip(keyed, await claim_keys(tx, claims), strict=True):
        if since is None:
            results[place] = _key_reused()
            del statements[place]
        else:
            statements[place] = [_of_its_key(each, since) for each in statements[place]]
    said = [each for told in statements.values() for each in told]
    recorded = iter(await recorder.record(tx, said, datetime.now(UTC)))
    for place, told in statements.items():
        results[place], *_ = [next(recorded) for _ in told]
    return [results[place] for place in range(len(asked))]


@dataclass(frozen=True, slots=True)
class Call:
    """A request while the bodies become statements. `fingerprint`: as in `_Asked`; `known`: the named senders on
    record."""

    caller: Caller
    held: Resources[ServiceSettings]
    key: str | None
    fingerprint: str
    now: datetime
    known: Mapping[str, Purposes]


async def opened(
    tx: AsyncConnection,
    request: Request,
    caller: Caller,
    held: Resources[ServiceSettings],
    key: str | None,
    sender_ids: Collection[str],
) -> Call:
    """Claim the key of the request, and load the named senders. Raises KeyReused."""
    now = datetime.now(UTC)
    fingerprint = "" if key is None else await _fingerprint(request, held)
    if key is not None and await claim_key(tx, caller.subject, key, fingerprint) is None:
        raise _key_reused()
    return Call(caller, held, key, fingerprint, now, await senders_store.purposes_of(tx, sender_ids))


async def _fingerprint(request: Request, held: Resources[ServiceSettings]) -> str:
    """Return a keyed hash of path and body: with a plain hash, an attacker could try out number after number."""
    body = (await request.body()).decode(errors="replace")
    return held.subject_keys.subject_id(f"{request.url.path}\n{body}")


def _key_reused() -> KeyReused:
    return KeyReused("the key belongs to another request", reasons=[Reason("Idempotency-Key", "reused")])


def statement_of(call: Call, body: ConsentBody, index: int | None = None) -> Statement:
    """Return the statement of an opt-in. Raises Forbidden, NotFound, or Invalid with every reason."""
    purposes = purposes_of(call, body.sender_id)
    reasons: list[Reason] = []
    number = ""
    try:
        number = parse(body.number, fictional=call.held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reasons.append(Reason("number", refused.reason, "not a mobile number one may text"))
    if body.purpose not in purposes.offered:
        reasons.append(Reason("purpose", "unknown_purpose", "the sender asks no consent for it"))
    evidence = _evidence(call, "opt_in", body, number, body.occurred_at, basis=body.basis, index=index)
    return _statement(call, number, evidence, reasons)


def _opt_outs(call: Call, body: OptOutBody) -> Sequence[Statement]:
    """Return a statement for each reading of the number. A person can leave a purpose which is no longer offered.

    Raises Forbidden, NotFound, or Invalid with every reason.
    """
    reasons: list[Reason] = []
    if body.sender_id is not None:
        purposes = purposes_of(call, body.sender_id)
        if body.purpose is not None and body.purpose not in purposes.ever:
            reasons.append(Reason("purpose", "unknown_purpose", "the sender never asked consent for it"))
    elif call.caller.senders is not None:
        raise Forbidden("the token does not cover every sender", reasons=[Reason("sender_id", "sender_not_granted")])
    at = body.occurred_at or call.now
    return [
        _statement(call, number, _evidence(call, "opt_out", body, number, at, index=place), reasons)
        for place, number in zip((None, 1), _numbers(body.number, call.held), strict=False)
    ]


def _evidence(
    call: Call,
    kind: Kind,
    body: _Body,
    number: str,
    occurred_at: datetime,
    *,
    basis: Basis | None = None,
    index: int | None = None,
) -> Evidence:
    """Return the evidence of a body, under a derived id: a repeat gets the same id and falls out.

    With a key, the id derives from caller, key, fingerprint and place in the batch; for an opt-out, also from the
    instant of the claim (`_of_its_key`), because keys are pruned and another STOP under an old key is no repeat.
    Without a key, the id derives from the content. A STOP dated ahead counts from receipt, so another such STOP is no
    repeat either.
    """
    if call.key is not None:
        place = None if index is None else str(index)
        identity = evidence_id("request", call.caller.subject, call.key, call.fingerprint, place)
    else:
        subject_id = call.held.subject_keys.subject_id(number)
        said_at = min(occurred_at, call.now) if kind == "opt_out" else occurred_at
        at, source = said_at.astimezone(UTC).isoformat(), body.evidence.source
        identity = evidence_id("content", subject_id, body.sender_id, body.purpose, kind, at, source)
    return Evidence(
        evidence_id=identity,
        kind=kind,
        sender_id=body.sender_id,
        purpose=body.purpose,
        basis=basis,
        occurred_at=occurred_at,
        received_at=call.now,
        **dict(body.evidence),
    )


def _of_its_key(statement: Statement, since: datetime) -> Statement:
    """Add to the id of an opt-out the instant of the key's claim. An opt-in keeps the id: the body names the time."""
    evidence = statement.evidence
    if evidence.kind == "opt_in":
        return statement
    identity = evidence_id(evidence.evidence_id, since.isoformat())
    return structs.replace(statement, evidence=structs.replace(evidence, evidence_id=identity))


def _statement(call: Call, number: str, evidence: Evidence, reasons: Sequence[Reason]) -> Statement:
    """Return the statement. Raises Invalid with `reasons`, found so far, and the ledger's refusals."""
    refused = [*reasons, *(Reason(FIELDS[r], r, MEANING[r]) for r in ledger.refusals(evidence, call.now))]
    if refused:
        raise Invalid("not recorded: " + ", ".join(r.reason for r in refused), reasons=refused)
    subject_id = call.held.subject_keys.subject_id(number)
    return Statement(subject_id, call.held.field_keys.seal(number, f"number:{subject_id}"), evidence)


def any_number(raw: str, held: Resources[ServiceSettings]) -> str:
    """Return the number as the parser reads it, else as an operator would send it. Raises Invalid without a digit."""
    return _numbers(raw, held)[0]


def _numbers(raw: str, held: Resources[ServiceSettings]) -> Sequence[str]:
    """Return the readings of a number, the parser's first. Raises Invalid without a digit."""
    try:
        return readings(raw, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("no number", reasons=[Reason("number", refused.reason)]) from None


def purposes_of(call: Call, sender_id: str) -> Purposes:
    """Return the sender's purposes. Raises Forbidden or NotFound."""
    call.caller.may_use(sender_id)
    if (purposes := call.known.get(sender_id)) is None:
        raise _no_sender()
    return purposes


def _no_sender() -> NotFound:
    return NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])


def _standing(result: Recorded) -> State:
    evidence = result.statement.evidence
    return ledger.standing(result.decision.state, evidence.sender_id, evidence.purpose)


class _Answer(msgspec.Struct):
    """A ConsentAnswer as a struct, which encodes faster."""

    subject_id: str
    evidence_id: str
    version: int
    state: State
    changed: bool


def _answer(result: Recorded) -> Response:
    assert result.version is not None, "what the ledger refuses was refused before"
    evidence_id = result.statement.evidence.evidence_id
    answer = _Answer(
        subject_id=result.statement.subject_id,
        evidence_id=evidence_id,
        version=result.version,
        state=_standing(result),
        changed=result.decision.changed,
    )
    location = {"Location": f"/v1/receipts/{evidence_id}"}
    return Response(msgspec.json.encode(answer), 201, location, media_type="application/json")
