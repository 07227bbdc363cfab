"""Turn the call of a caller into statements: the Idempotency-Key, the named senders, the body.

The caller opens the transaction, but of a batch.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Basis
from common.db.database import Database
from common.db.shards import Shard
from common.kafka.broker import partition_of
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms import msisdn
from common.sms.msisdn import NumberRefused, applying, parse, readings
from common.web.auth import Caller, require
from common.web.idempotency import Claim, Keyed, answer_of, claim, give_back, keep_answer, keyed
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Reason, Unavailable
from consent.bodies import ConsentBody, OptOutBody
from consent.ledger import rules as ledger
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence, Kind, Refusal
from consent.senders import store as senders_store
from consent.senders.store import Purposes

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
R = TypeVar("R", bound=ServiceSettings)
_Body = ConsentBody | OptOutBody
WritesConsent = Annotated[Caller, Depends(require("consent:write"))]
Stops = Annotated[Caller, Depends(require("consent:write", limited=False))]  # no limit delays an opt-out

FIELDS = {
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


class NoPage(Conflict):
    """This deployment serves no public pages, so no link can lead to one.

    Ask the platform's operator to set PLACET_PAGE_URL, or send the request without a link.
    """

    slug, title = "no-page", "The URL of the public pages is not configured"


class OfNumber(Protocol):
    """A body with a number of a sender's."""

    @property
    def sender_id(self) -> str | None: ...
    @property
    def country(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request while the bodies become statements."""

    caller: Caller
    held: Resources[ServiceSettings]
    asked: Keyed | None
    now: datetime
    known: Mapping[str, Purposes]

    def countries(self, body: OfNumber) -> tuple[str, ...]:
        """Return the countries whose national writings apply: the body's, else those of the sender."""
        purposes = self.known.get(body.sender_id) if body.sender_id is not None else None
        return applying(body.country, purposes.countries if purposes else (), self.held.settings.country)

    def id_shown(self, statement: Statement) -> str:
        """Return the person's id with the controller of the statement's sender, which the call has named.

        Without a sender the caller is the platform's operator: the subject id.
        """
        if statement.evidence.sender_id is None:
            return statement.subject_id
        controller = self.known[statement.evidence.sender_id].controller
        return self.held.edge_ids.of(controller).shown(statement.subject_id)


async def id_shown(caller: Caller, held: Resources[Any], sender_id: str | None, subject_id: str) -> str:
    """Return the person's id with the sender's controller. `None`, of the platform's operator: the subject id."""
    if sender_id is None:
        return subject_id
    return held.edge_ids.of(await caller.controller_of(sender_id)).shown(subject_id)


async def opened(
    tx: AsyncConnection,
    request: Request,
    caller: Caller,
    held: Resources[ServiceSettings],
    key: str | None,
    sender_ids: Collection[str],
) -> tuple[Call, Claim]:
    """Claim the key and load the named senders. Raises KeyReused."""
    asked = await keyed(request, caller, key, held.subject_keys)
    claimed = await claim(tx, asked)
    return Call(caller, held, asked, datetime.now(UTC), await senders_store.purposes_of(tx, sender_ids)), claimed


States = Callable[[Call], Mapping[int, Statement]]
Records = Callable[[AsyncConnection, Mapping[int, Statement], datetime], Awaitable[None]]


async def batch(
    request: Request,
    caller: Caller,
    held: Resources[ServiceSettings],
    key: str | None,
    sender_ids: Collection[str],
    states: States,
    records: Records,
    shown: Callable[[], BaseModel],
) -> Response:
    """Answer a batch, in one transaction, or in one for each shard of its people. Raises KeyReused, Unavailable.

    `states` returns the statements by their places, and keeps the refusals; a batch of refusals claims no key.
    `shown`: the answer, once `records` has had every statement. Of several shards, the shard of the key claims it
    before, and keeps the answer once each shard has committed. While one does not answer, the others record theirs, and
    the batch is answered 503: a repeat finds these on record by the ids of their evidence.
    """
    if held.shards.divided:
        return await _batch_in_shards(request, caller, held, key, sender_ids, states, records, shown)
    async with held.database.begin() as tx:
        call, claimed = await opened(tx, request, caller, held, key, sender_ids)
        if claimed.answer is not None:
            return claimed.answer.response()
        statements = states(call)
        await records(tx, statements, call.now)
        return await (claimed.keep if statements else claimed.refused)(tx, shown(), 200)


async def _batch_in_shards(
    request: Request,
    caller: Caller,
    held: Resources[ServiceSettings],
    key: str | None,
    sender_ids: Collection[str],
    states: States,
    records: Records,
    shown: Callable[[], BaseModel],
) -> Response:
    asked = await keyed(request, caller, key, held.subject_keys)
    keys = _database_of_key(held, asked) if asked is not None else held.database
    if asked is not None:
        async with keys.begin() as tx:
            claimed = await claim(tx, asked)
        if claimed.answer is not None:
            return claimed.answer.response()
    async with held.database.begin() as tx:
        call = Call(caller, held, asked, datetime.now(UTC), await senders_store.purposes_of(tx, sender_ids))
    statements = states(call)
    parts: dict[str, dict[int, Statement]] = defaultdict(dict)
    for place, statement in statements.items():
        parts[held.shard_of(statement.subject_id).name][place] = statement
    await _all_of(_record_part(shard, parts[shard.name], records, call.now) for shard in held.shards.each)
    answer = answer_of(shown(), 200)
    if asked is not None:
        async with keys.begin() as tx:
            await (keep_answer(tx, asked, answer) if statements else give_back(tx, asked))
    return answer.response()


async def _record_part(shard: Shard, part: Mapping[int, Statement], records: Records, now: datetime) -> None:
    if not part:
        return
    named = {each.evidence.sender_id for each in part.values() if each.evidence.sender_id is not None}
    async with shard.database.begin() as tx:
        if len(await senders_store.purposes_of(tx, named)) < len(named):
            raise not_yet_here()
        await records(tx, part, now)


async def _all_of(parts: Iterable[Awaitable[None]]) -> None:
    """Wait until each part has ended, and raise the error of the first that failed."""
    for error in await asyncio.gather(*parts, return_exceptions=True):
        if error is not None:
            raise error


def _database_of_key(held: Resources[ServiceSettings], asked: Keyed) -> Database:
    """Return the database that keeps the key of a batch: the same for each request under the key."""
    return held.shards.of(partition_of(f"{asked.caller}\x1f{asked.key}", held.settings.partitions)).database


def not_yet_here() -> Unavailable:
    """Return the problem of a shard whose copy of the registry is a moment older than another's."""
    return Unavailable("a sender has changed a moment ago: send the same request again", headers={"Retry-After": "1"})


def of_person(held: Resources[R], subject_id: str) -> Resources[R]:
    """Return the resources with the database that holds the person."""
    return held.of_shard(held.shard_of(subject_id)) if held.shards.divided else held


async def of_body(held: Resources[Any], caller: Caller, body: _Body) -> Resources[Any]:
    """Return the resources with the database of the person whose number a body names, as the number reads now.

    The caller checks the statement by `check_here`: the sender may change in between.
    """
    if not held.shards.divided:
        return held
    async with held.database.begin() as tx:
        known = await senders_store.purposes_of(tx, {body.sender_id} if body.sender_id is not None else ())
    people = people_of(Call(caller, held, None, datetime.now(UTC), known), body)
    return of_person(held, people[0]) if people else held


def check_here(held: Resources[Any], people: Iterable[str]) -> None:
    """Raise Unavailable unless the database of `held` holds these people: a number was read otherwise a moment ago."""
    if held.shards.divided and any(held.database_of(one) is not held.database for one in people):
        raise not_yet_here()


def statement_of(call: Call, body: ConsentBody, index: int | None = None) -> Statement:
    """Return the statement of an opt-in. Raises Forbidden, NotFound, or Invalid with every reason."""
    purposes = purposes_of(call, body.sender_id)
    reasons: list[Reason] = []
    number = ""
    try:
        number = parse(body.number, countries=call.countries(body), fictional=call.held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reasons.append(Reason("number", refused.reason, refused.remedy))
    if body.purpose not in purposes.offered:
        reasons.append(
            Reason("purpose", "unknown_purpose", "the sender has no such purpose: add it to the sender first")
        )
    evidence = _evidence(call, "opt_in", body, number, body.occurred_at, basis=body.basis, index=index)
    return _statement(call, number, evidence, reasons)


def opt_outs(call: Call, body: OptOutBody) -> Sequence[Statement]:
    """Return a statement for each reading of the number. A person can leave a purpose no longer offered.

    Raises Forbidden, NotFound, or Invalid with every reason.
    """
    reasons: list[Reason] = []
    purposes = check_sender(call, body.sender_id)
    if purposes is not None and body.purpose is not None and body.purpose not in purposes.ever:
        reasons.append(Reason("purpose", "unknown_purpose", "the sender never asked consent for it"))
    at = body.occurred_at or call.now
    numbers = _numbers(body.number, call.held, call.countries(body))
    return [
        _statement(call, number, _evidence(call, "opt_out", body, number, at, index=place), reasons)
        for place, number in zip((None, *range(1, len(numbers))), numbers, strict=True)
    ]


def people_of(call: Call, body: _Body) -> Sequence[str]:
    """Return the subject ids of each reading of a number, as the statements have them; none of a refused number."""
    held, countries = call.held, call.countries(body)
    try:
        if isinstance(body, OptOutBody):
            numbers = readings(body.number, countries=countries, fictional=held.settings.fictional_numbers)
        else:
            numbers = (parse(body.number, countries=countries, fictional=held.settings.fictional_numbers).e164,)
    except NumberRefused:
        return ()
    return held.subject_keys.subject_ids(numbers)


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
    """Return the evidence of a body; a repeat gets the same id and falls out.

    A STOP dated ahead counts from receipt, so another such STOP is no repeat.
    """
    if call.asked is not None:
        place = None if index is None else str(index)
        identity = evidence_id("request", call.asked.caller, call.asked.key, call.asked.fingerprint, place)
    else:
        keys = call.held.subject_keys
        inner = keys.inner(keys.subject_id(number))
        said_at = min(occurred_at, call.now) if kind == "opt_out" else occurred_at
        at, source = said_at.astimezone(UTC).isoformat(), body.evidence.source
        identity = evidence_id("content", inner, body.sender_id, body.purpose, kind, at, source)
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


def _statement(call: Call, number: str, evidence: Evidence, reasons: Sequence[Reason]) -> Statement:
    """Return the statement. Raises Invalid with `reasons` and the ledger's refusals."""
    refused = [*reasons, *(Reason(FIELDS[r], r, MEANING[r]) for r in ledger.refusals(evidence, call.now))]
    if refused:
        raise Invalid("not recorded: " + ", ".join(r.reason for r in refused), reasons=refused)
    subject_id = call.held.subject_keys.subject_id(number)
    return Statement(subject_id, call.held.field_keys.seal(number, f"number:{subject_id}"), evidence)


def any_number(raw: str, held: Resources[ServiceSettings], countries: Sequence[str]) -> str:
    """Return the number as parsed, else as an operator would send it. Raises Invalid without a digit, and if ambiguous.

    `countries`: by `Call.countries`, or by `Caller.countries`.
    """
    try:
        return msisdn.any_number(raw, countries=countries, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        problem = "`number` is two people's" if refused.territories else "no number"
        detail = refused.remedy if refused.territories else None
        raise Invalid(problem, reasons=[Reason("number", refused.reason, detail)]) from None


async def countries_of_all(caller: Caller, held: Resources[Any], named: str | None) -> tuple[str, ...]:
    """Return the countries whose national writings apply to a number without a sender: of all that the token covers."""
    covered = [] if named is not None else await caller.covered()
    return await caller.countries(named, covered, held.settings.country)


def _numbers(raw: str, held: Resources[ServiceSettings], countries: Sequence[str]) -> Sequence[str]:
    """Return the readings of a number, the parser's first. Raises Invalid without a digit."""
    try:
        return readings(raw, countries=countries, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("no number", reasons=[Reason("number", refused.reason)]) from None


def check_sender(call: Call, sender_id: str | None) -> Purposes | None:
    """Return the sender's purposes; without a sender, none. Raises Forbidden, NotFound."""
    if sender_id is not None:
        return purposes_of(call, sender_id)
    if not call.caller.everywhere:
        raise Forbidden(
            "only the platform's operator may stop every sender: name `sender_id`",
            reasons=[Reason("sender_id", "sender_not_granted")],
        )
    return None


def purposes_of(call: Call, sender_id: str) -> Purposes:
    """Return the sender's purposes. Raises Forbidden; NotFound also for another organisation's sender."""
    call.caller.may_name(sender_id)
    purposes = call.known.get(sender_id)
    if purposes is None or purposes.organisation_id != call.caller.organisation:
        raise _no_sender()
    return purposes


def _no_sender() -> NotFound:
    return NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
