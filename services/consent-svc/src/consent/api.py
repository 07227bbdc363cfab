"""Consents, opt-outs and subject lookups over HTTP.

An opt-in needs a number which may be texted; an opt-out takes any number with a digit, because a STOP counts.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from msgspec import structs
from pydantic import Field, WrapValidator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.batch import Together
from common.contracts.consent import State
from common.db.shards import Shard
from common.service import Resources
from common.settings import ServiceSettings
from common.telemetry import traceparent
from common.version import at_least
from common.web.auth import Caller, rates, require
from common.web.idempotency import Answer, Key, Keyed, Raced, keep_all, keyed, same
from common.web.openapi import refuses, tells
from common.web.problems import Invalid, NotFound, Problem, Reason
from consent.bodies import (
    BATCH_ITEMS,
    Body,
    ConsentBody,
    OptOutBody,
    Reach,
    Unfit,
    bodies,
    or_unfit,
)
from consent.calls import (
    Call,
    Held,
    Stops,
    WritesConsent,
    any_number,
    batch,
    check_sender,
    countries_of_all,
    not_yet_here,
    of_person,
    opt_outs,
    people_of,
    statement_of,
)
from consent.ledger import corrections, recorder, reopening
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import Entry, as_a_fact, evidence_id
from consent.ledger.recorder import Recorded, Statement
from consent.ledger.reopening import Means
from consent.ledger.rules import Mark
from consent.ledger.store import Subject
from consent.proof.retold import about_all
from consent.senders import store as senders_store
from consent.senders.store import KeyRow, Purposes
from consent.views import (
    AsOfView,
    BatchAnswer,
    BatchResult,
    ConsentAnswer,
    ConsentView,
    EvidenceView,
    HeldBy,
    LookupBody,
    SubjectView,
    SuppressionView,
)

router = APIRouter(prefix="/v1")

_Body = ConsentBody | OptOutBody
LooksUp = Annotated[Caller, Depends(require("consent:read", looks_up=True))]
Item = Annotated[ConsentBody, WrapValidator(or_unfit)]


class BatchBody(Body):
    """A batch of opt-ins. Each item stands for itself: a refused item does not affect the others."""

    items: list[Item] = Field(min_length=1, max_length=BATCH_ITEMS, description="The opt-ins, up to 1,000.")


def one_by_one() -> APIRouter:
    """Return the routes for single consents and opt-outs."""
    routes = APIRouter(prefix="/v1")
    together = defaultdict[str, Together[_Asked, Answer | Problem]](lambda: Together(_record_together))  # by shard
    reading: Together[str | None, Purposes | None] = Together(_purposes_together)

    async def written(held: Resources[ServiceSettings], asked: _Asked) -> Answer | Problem:
        shard = asked.route.shard if asked.route is not None else held.shards.own
        here = held.of_shard(shard)
        try:
            return await together[shard.name].written(here, asked)
        except Raced:
            return await together[shard.name].written(here, asked)

    async def in_shards(held: Resources[ServiceSettings], asked: _Asked) -> Answer | Problem:
        """Record a request in the shard of each of its people.

        The shard of the first keeps the key and the answer, behind the others: a repeat completes what was missed.
        Where another does not answer, the first records without the key.
        """
        named = asked.body.sender_id
        purposes = await reading.written(held, named)
        known = {named: purposes} if named is not None and purposes is not None else {}
        call = Call(asked.caller, held, asked.under, asked.now, known)
        people = people_of(call, asked.body)
        if not people:
            nowhere = _Route(held.shards.own, (), frozenset())
            return await written(held, replace(asked, route=nowhere))  # the recording refuses the number
        first, *others = _routes(held, people)
        results: list[object] = []
        if others and asked.under is not None:
            try:
                async with first.shard.database.begin() as tx:
                    _, claimed = await senders_store.purposes_and_keys(tx, (), [asked.under[:2]])
            except Exception as error:  # a STOP of the others does not wait for the shard
                results.append(error)
            else:
                if (answer := _first(call, asked, claimed)) is not None:
                    return answer
        parts = (written(held, replace(asked, route=route)) for route in others)
        results += await asyncio.gather(*parts, return_exceptions=True)
        failed = next((each for each in results if isinstance(each, BaseException)), None)
        answer_of_first = await written(held, replace(asked, route=replace(first, keeps=failed is None)))
        if failed is not None:
            raise failed
        return answer_of_first

    async def recorded(
        request: Request, caller: Caller, held: Resources[ServiceSettings], key: str | None, body: _Body
    ) -> Response:
        """Return the answer once committed. Raises the Problem of this request."""
        under = await keyed(request, caller, key, held.subject_keys)
        asked = _Asked(body, caller, under, datetime.now(UTC), traceparent())
        result = await (in_shards if held.shards.divided else written)(held, asked)
        if isinstance(result, Problem):
            raise result
        return result.response()

    @routes.post(
        "/consents",
        operation_id="consents.create",
        status_code=201,
        response_model=ConsentAnswer,
        responses=tells(201, "Location") | refuses(NotFound),
    )
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

    @routes.post(
        "/opt-outs",
        operation_id="opt_outs.create",
        status_code=201,
        response_model=ConsentAnswer,
        responses=tells(201, "Location") | refuses(NotFound),
    )
    async def opt_out(body: OptOutBody, request: Request, caller: Stops, held: Held, key: Key = None) -> Response:
        """Record one opt-out: of a purpose, of a sender with all purposes, or of every sender.

        A number may be read in two ways: nine digits as a French number without the 0 or an overseas number without
        the +, a national writing by the plans of two of the sender's countries. The opt-out then counts for every
        reading. `Location` names the signed receipt.
        """
        return await recorded(request, caller, held, key, body)

    return routes


@router.post(
    "/consents/batch",
    operation_id="consents.create_batch",
    response_model=BatchAnswer,
    responses=refuses(NotFound),
)
async def give_consents(
    body: BatchBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
) -> Response:
    """Record up to 1,000 opt-ins, each decided by itself.

    The verdict `unchanged` covers repeats, and opt-ins which a newer STOP outweighs or a STOP of the person's own
    holds: `effective` tells these apart. 429: too many numbers a minute.
    """
    await rates.admit_numbers(held.allowances, caller.granted, caller.account, len(body.items), datetime.now(UTC))
    results: dict[int, BatchResult] = {}
    calls: list[Call] = []

    def states(call: Call) -> Mapping[int, Statement]:
        calls.append(call)
        statements: dict[int, Statement] = {}
        for index, item in enumerate(body.items):
            if isinstance(item, Unfit):
                results[index] = BatchResult(index=index, verdict="refused", reasons=item.reasons)
                continue
            try:
                statements[index] = statement_of(call, item, index)
            except Problem as problem:
                results[index] = BatchResult(index=index, verdict="refused", reasons=bodies(problem.reasons))
        return statements

    async def records(tx: AsyncConnection, statements: Mapping[int, Statement], now: datetime) -> None:
        decided = await recorder.record(tx, held.subject_keys.inner, list(statements.values()), now)
        results.update(
            (index, _result(calls[-1], index, result)) for index, result in zip(statements, decided, strict=True)
        )

    def shown() -> BatchAnswer:
        counts = Counter(result.verdict for result in results.values())
        return BatchAnswer(
            results=[results[index] for index in range(len(body.items))],
            counts={"recorded": counts["recorded"], "unchanged": counts["unchanged"], "refused": counts["refused"]},
        )

    named = {item.sender_id for item in body.items if not isinstance(item, Unfit)}
    return await batch(request, caller, held, key, named, states, records, shown)


def _result(call: Call, index: int, result: Recorded) -> BatchResult:
    effect = _effect(result)
    return BatchResult(
        index=index,
        verdict="recorded" if _changed(result, effect) else "unchanged",
        subject_id=call.id_shown(result.statement),
        evidence_id=result.statement.evidence.evidence_id,
        state=effect.state,
        effective=effect.effective,
        held_by=HeldBy(reach=effect.held_by.reach, since=effect.held_by.since) if effect.held_by else None,
        reopens_with=list(effect.reopens_with),
    )


@router.post("/subjects/lookup", operation_id="subjects.lookup", responses=refuses(NotFound))
async def look_up_subject(body: LookupBody, caller: LooksUp, held: Held) -> SubjectView:
    """Return the consents, the suppressions and the newest 1,000 lines of evidence that the caller sees, newest last.

    With `as_of`, the answer covers events which had happened by `happened_by` and were on record by `known_by`. A
    caller sees the senders of its token, and, as facts, lines which concern every sender. Without any record of these
    senders, `version` is 0 and `held_since` null, whatever others have on record.
    """
    subject_id = held.subject_keys.subject_id(
        any_number(body.number, held, await countries_of_all(caller, held, body.country))
    )
    as_of = _as_of(body, datetime.now(UTC))
    controllers = await caller.controllers(await caller.covered())
    async with of_person(held, subject_id).database.begin() as tx:
        if as_of is None:
            subject = await ledger_store.find_subject(tx, subject_id) or Subject(subject_id=subject_id)
            entries = await ledger_store.history(tx, subject_id, subject.entries, controllers)
        else:
            ((subject, entries),) = await ledger_store.whole_histories(tx, [subject_id])
    if as_of is None:
        state = subject.state
    else:
        entries = [e for e in entries if e.recorded_at <= as_of.known_by and e.evidence.since <= as_of.happened_by]
        state = ledger.fold(entry.evidence for entry in entries)

    subject_ids = {one: held.edge_ids.of(one).shown(subject_id) for one in sorted({*controllers.values()})}

    def visible(sender_id: str | None) -> bool:
        return sender_id is None or sender_id in controllers

    corrected_by = corrections.corrected_by(e.evidence for e in entries)
    shown = [entry for entry in entries if visible(entry.evidence.sender_id)][-ledger_store.HISTORY_ENTRIES :]
    version, held_since, history = subject.version, subject.held_since, shown
    renamed = set[str]()
    if not caller.everywhere:
        renamed = {mark.evidence_id for mark in state.marks if mark.sender_id is None}
        theirs = [entry for entry in shown if entry.evidence.sender_id is not None]
        version = at_least(theirs[-1].recorded_at) if theirs else 0
        held_since = subject.held_since if theirs else None
        history = [_as_a_fact(entry, place) for place, entry in enumerate(shown, start=1)]
    return SubjectView(
        subject_id=subject_id if caller.everywhere else None,
        subject_ids=subject_ids,
        as_of=as_of,
        version=None if as_of else version,
        held_since=None if as_of else held_since,
        consents=[
            ConsentView(
                sender_id=c.sender_id,
                purpose=c.purpose,
                state=c.state,
                basis=c.basis,
                occurred_at=c.occurred_at,
                evidence_id=about_all(c.evidence_id, subject_ids[controllers[c.sender_id]])
                if c.evidence_id in renamed
                else c.evidence_id,
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
                corrected_by=corrected_by.get(e.evidence.evidence_id, []),
                **structs.asdict(e.evidence),
            )
            for e in history
        ],
    )


def _as_a_fact(entry: Entry, place: int) -> Entry:
    """Return the line at its place among the lines shown; a line about every sender, without its id and words."""
    if entry.evidence.sender_id is not None:
        return structs.replace(entry, position=place)
    return structs.replace(entry, position=place, salt=None, sealed=None, evidence=as_a_fact(entry.evidence))


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
class _Route:
    """A shard with people of a request. `people`: of all shards, as the number reads; `here`: of the shard alone.

    `keeps`: whether the shard keeps the key.
    """

    shard: Shard
    people: Sequence[str]
    here: frozenset[str]
    keeps: bool = False

    def of(self, told: Sequence[Statement]) -> Sequence[Statement]:
        """Return the statements about people of the shard. Raises Unavailable where the number reads otherwise here."""
        if [each.subject_id for each in told] != list(self.people):
            raise not_yet_here()
        return [each for each in told if each.subject_id in self.here]


def _routes(held: Resources[ServiceSettings], people: Sequence[str]) -> list[_Route]:
    """Return each shard with some of these people, that of the first person first."""
    shards = {shard.name: shard for shard in map(held.shard_of, people)}
    return [
        _Route(shard, people, frozenset(one for one in people if held.shard_of(one) is shard))
        for shard in shards.values()
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for one change. `under`: its key, if there is one. `route`: to a shard, where there are several."""

    body: _Body
    caller: Caller
    under: Keyed | None
    now: datetime
    trace: str | None
    route: _Route | None = None

    @property
    def kept_under(self) -> Keyed | None:
        """Return the key that is kept with the recording."""
        return self.under if self.route is None or self.route.keeps else None


async def _purposes_together(
    tx: AsyncConnection, held: Resources[ServiceSettings], named: Sequence[str | None]
) -> list[Purposes | None]:
    """Return the purposes of each named sender, or None."""
    known = await senders_store.purposes_of(tx, {each for each in named if each is not None})
    return [known.get(each) if each is not None else None for each in named]


async def _record_together(
    tx: AsyncConnection, held: Resources[ServiceSettings], asked: Sequence[_Asked]
) -> list[Answer | Problem]:
    """Record these requests in one transaction, and return the answer to each, in order.

    A repeat gets the first answer, and of two requests under one key here the second is the repeat. An opt-out for two
    numbers gets the outcome of the parser's. A refused request leaves no trace, and does not claim the key. Raises
    Raced where a key is another transaction's.
    """
    keys = {one.kept_under[:2] for one in asked if one.kept_under is not None}
    named = {one.body.sender_id for one in asked if one.body.sender_id is not None}
    known, claimed = await senders_store.purposes_and_keys(tx, named, keys)
    results: dict[int, Answer | Problem] = {}
    calls: dict[int, Call] = {}
    statements: dict[int, Sequence[Statement]] = {}
    firsts: dict[tuple[str, str], tuple[int, Keyed]] = {}
    repeats: dict[int, int] = {}
    for place, one in enumerate(asked):
        call = Call(one.caller, held, one.under, one.now, known)
        try:
            if (answer := _first(call, one, claimed)) is not None:
                results[place] = answer
                continue
            under = one.kept_under
            if under is not None and (before := firsts.get(under[:2])) is not None:
                same(before[1].fingerprint, under.fingerprint)
                repeats[place] = before[0]
                continue
            told = [statement_of(call, one.body)] if isinstance(one.body, ConsentBody) else opt_outs(call, one.body)
            if one.route is not None:
                told = one.route.of(told)
        except Problem as problem:
            results[place] = problem
        else:
            if under is not None:
                firsts[under[:2]] = place, under
            if one.under is not None:
                told = [_of_its_key(each, one.now) for each in told]
            calls[place], statements[place] = call, [structs.replace(each, trace=one.trace) for each in told]
    said = [each for told in statements.values() for each in told]
    recorded = iter(await recorder.record(tx, held.subject_keys.inner, said, datetime.now(UTC)))
    answers: list[tuple[Keyed, Answer, datetime]] = []
    for place, told in statements.items():
        outcome, *_ = [next(recorded) for _ in told]
        results[place] = answer = _answer(outcome, asked[place].caller, calls[place].id_shown(outcome.statement))
        if (under := asked[place].kept_under) is not None:
            answers.append((under, answer, asked[place].now))
    await keep_all(tx, answers)
    results |= {place: results[first] for place, first in repeats.items()}
    return [results[place] for place in range(len(asked))]


def _first(call: Call, one: _Asked, claimed: Mapping[tuple[str, str], KeyRow]) -> Answer | None:
    """Return the first answer, of a repeat by a caller who may still use the sender. Raises Forbidden, KeyReused."""
    under = one.kept_under
    if under is None or (row := claimed.get(under[:2])) is None:
        return None
    check_sender(call, one.body.sender_id)
    return under.first(*row)


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
    version: int | None
    state: State
    changed: bool
    effective: bool
    held_by: _Held | None
    reopens_with: tuple[Means, ...]


def _answer(result: Recorded, caller: Caller, who: str) -> Answer:
    assert result.version is not None, "what the ledger refuses was refused before"
    evidence_id = result.statement.evidence.evidence_id
    effect = _effect(result)
    answer = _Answer(
        subject_id=who,
        evidence_id=evidence_id,
        version=result.version if result.decision.changed or caller.everywhere else None,
        state=effect.state,
        changed=_changed(result, effect),
        effective=effect.effective,
        held_by=effect.held_by,
        reopens_with=effect.reopens_with,
    )
    return Answer(201, {"Location": f"/v1/receipts/{evidence_id}"}, msgspec.json.encode(answer))
