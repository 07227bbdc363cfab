"""HTTP: send one message or a thousand.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: a send, before its 202
[before-post-commit, after-post-commit].
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.kafka.broker import partition_of
from common.law import Policy, at_hand_off, country_of, covers, next_permitted, region_of
from common.law.stop_mention import mentions_stop
from common.service import Resources, resources
from common.sms.message_id import EPOCH, message_id
from common.sms.msisdn import NumberRefused, applying, parse
from common.sms.sms_length import MAX_SEGMENTS, length
from common.telemetry import counter, masked
from common.texts.findings import findings_of
from common.texts.placeholders import placeholders
from common.web.auth import Caller, rates, require
from common.web.auth.organisations import pauses
from common.web.auth.rates import LimitReached
from common.web.idempotency import Answer, Key, Keyed, answer_of, claim, find, give_back, keep_all, keep_answer, keyed
from common.web.openapi import refuses, tells
from common.web.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotAllowedByLimits,
    NotFound,
    Problem,
    Reason,
    Unavailable,
    problem_of,
)
from dispatch.accepting import limiting, rules, store
from dispatch.accepting.asked import Accepted, Asked, Known, Part, Ready, answer_to, by_shard, key_shard, result_of
from dispatch.accepting.bodies import (
    Batch,
    BatchResults,
    NotASend,
    Requested,
    Send,
    Sent,
)
from dispatch.accepting.rules import Kind, TextRefused, Written
from dispatch.accepting.store import Audit
from dispatch.messages import store as messages
from dispatch.messages.row import FREE_TEXT, MessageRow
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.projection.templates import Wanted
from dispatch.quotas.budget import Budget, Purse

router = APIRouter(prefix="/v1", tags=["dispatch"])

TEXTS = counter(
    "sms_dispatch_texts_total",
    "Texts of messages requested over HTTP, by lane, by kind (template or free_text) and by result.",
    ["lane", "kind", "result"],
)

KEPT = timedelta(days=1)  # send_before when the caller names none: a code or a notice is useless later
ARRIVES_WITHIN_S = 2.0  # a sender registered, or a template approved, a moment ago is still in transit
TURN = 50  # messages of a batch between two turns of the event loop

Held = Annotated[Resources[Any], Depends(resources)]
Sends = Annotated[
    Caller, Depends(require("message:send:transactional", "message:send:service", "message:send:marketing"))
]


class LooksLikeAdvertising(Invalid):
    """The text of a transactional or service message has signs of advertising; `reasons` names each.

    Take the advertising out, send the text in the marketing lane, or have a template with the text approved.
    """

    slug, title = Kind.ADVERTISING.value, "The text looks like advertising"


class TemplateNotUsable(Conflict):
    """The template does not exist here, is a draft, is retired, or belongs to another sender or lane.

    Have a version approved in campaign-svc, and name the version, or send without one for the newest.
    """

    slug, title = Kind.TEMPLATE.value, "No message may leave from the template"


class ValueNotUsable(Invalid):
    """A value does not fit its field of the template: unknown, missing, too long, a link, or with signs of advertising.

    Mend each value that `reasons` names. The template states its fields.
    """

    slug, title = Kind.VALUE.value, "A value may not stand in the template"


class CodeOfAnotherLane(Conflict):
    """The sender's short code carries another lane: marketing and other messages share no code.

    Send by a sender whose code carries this lane.
    """

    slug, title = Kind.CODE.value, "The sender's short code belongs to another lane"


PROBLEMS: Mapping[Kind, type[Problem]] = {
    Kind.ADVERTISING: LooksLikeAdvertising,
    Kind.TEMPLATE: TemplateNotUsable,
    Kind.VALUE: ValueNotUsable,
    Kind.CODE: CodeOfAnotherLane,
}


@router.post(
    "/messages",
    operation_id="messages.create",
    status_code=202,
    response_model=Sent | BatchResults,
    responses=tells(202, "Location") | refuses(NotAllowedByLimits, NotFound, *PROBLEMS.values()),
)
async def send(
    body: Requested,
    request: Request,
    held: Held,
    caller: Sends,
    key: Key = None,
) -> Response:
    """Accept a message, or up to 1,000 in `messages`, for the gate to decide on at once.

    202: the ledger has each accepted message. Each lane has its own scope. A transactional or service message leaves
    from an approved template, or with a free text for a token with that scope. The messages of a batch are accepted in
    one transaction, or in one for each shard, and a refused message keeps none of the others back. A refused message
    is in no ledger: an audit keeps the reasons, without the text and the person.

    429: a limit of the organisation or the token refuses the message, or every message of a batch; the reason names the
    limit. 403 `not-allowed-by-limits`: the limits name no such place, or no price is known. A repeat under its
    `Idempotency-Key` counts once, and gets the first answer.
    """
    now = datetime.now(UTC)
    asked: list[Asked] = []
    messages = body.messages if isinstance(body, Batch) else [body]
    countries = await _countries(caller, [one for one in messages if not isinstance(one, NotASend)])
    for place, one in enumerate(messages):
        await _let_others(place)
        asked.append(each := Asked(_identity(caller, key, now, body, place)))
        if isinstance(one, NotASend):
            each.problem = one.problem
            continue
        try:
            each.ready = _ready(one, held, caller, countries, now)
        except Problem as problem:
            each.problem = problem
    under = await keyed(request, caller, key, held.subject_keys)
    several = isinstance(body, Batch)
    accept = _accept_by_shard if held.shards.divided else _accept_together
    repeated, answer, days = await accept(held, caller, under, asked, several=several, now=now)
    if repeated is not None:
        if not several and isinstance(asked[0].problem, Forbidden):
            raise asked[0].problem
        return repeated.response()
    for each in asked:
        if each.ready is not None:
            _count(each, each.ready.body)
    calls = rates.calls_of(caller.granted, caller.organisation, caller.account, now.replace(microsecond=0))
    request.state.rate_limit = rates.fields_of(held.allowances, [*calls, *days], now)
    if answer is not None:
        return answer.response()
    if isinstance(body, Batch) and not all(isinstance(each.problem, LimitReached) for each in asked):
        return answer_of(BatchResults(results=[result_of(each) for each in asked]), 202).response()
    assert asked[0].problem is not None
    raise asked[0].problem


async def _accept_together(
    held: Resources[Any],
    caller: Caller,
    under: Keyed | None,
    asked: Sequence[Asked],
    *,
    several: bool,
    now: datetime,
) -> Accepted:
    """Accept the messages, and keep the answer for repeats, in one transaction."""
    async with _known(held.database, caller, asked) as (tx, known):
        await _lock(tx, caller, under, asked)
        if under is not None and (first := await find(tx, under)) is not None:
            return Accepted(first, None, ())
        purse = await _accept(tx, held, caller, known, asked, now)
        answer = answer_to(asked, several=several)
        if under is not None and answer is not None:
            await keep_all(tx, [(under, answer, now)])
    return Accepted(None, answer, purse.days)


async def _accept_by_shard(
    held: Resources[Any],
    caller: Caller,
    under: Keyed | None,
    asked: Sequence[Asked],
    *,
    several: bool,
    now: datetime,
) -> Accepted:
    """Accept the messages in a transaction for each shard, and keep the answer once all shards have answered.

    The key is claimed first, in the shard of the key: no other request takes the key, whoever its people are.
    """
    keys = key_shard(held, under).database if under is not None else None
    if keys is not None and (first := await _claim(keys, under)) is not None:
        return Accepted(first, None, ())
    days, complete = None, True
    for part in by_shard(held, asked):
        purse = await _accept_part(held, caller, under, part, now)
        complete, days = complete and purse is not None, days if purse is None else purse.days
    answer = answer_to(asked, several=several)
    if keys is not None and under is not None and complete:
        await _keep(keys, under, answer)
    return Accepted(None, answer, days or ())


async def _claim(keys: Database, under: Keyed | None) -> Answer | None:
    async with keys.begin() as tx:
        return (await claim(tx, under)).answer


async def _keep(keys: Database, under: Keyed, answer: Answer | None) -> None:
    async with keys.begin() as tx:
        await (give_back(tx, under) if answer is None else keep_answer(tx, under, answer))


async def _lock(tx: AsyncConnection, caller: Caller, under: Keyed | None, asked: Sequence[Asked]) -> None:
    people = [(each.ready.body.category, each.ready.subject_id) for each in asked if each.ready]
    await limiting.lock(tx, caller, people, None if under is None else under.key)


async def _accept(
    tx: AsyncConnection, held: Resources[Any], caller: Caller, known: Known, asked: Sequence[Asked], now: datetime
) -> Purse:
    """Give each message its text and its place in the ledger, or its problem."""
    for place, each in enumerate(asked):
        await _let_others(place)
        if each.ready is not None:
            _write(each, each.ready, known)
    purse = await _limit(tx, held, caller, [each for each in asked if each.written is not None], known, now)
    await _insert(tx, held, asked, now)
    audits = [_audit(each, each.ready.body, caller, now) for each in _to_audit(asked) if each.ready]
    await store.add_audits(tx, audits)
    return purse


async def _accept_part(
    held: Resources[Any], caller: Caller, under: Keyed | None, part: Part, now: datetime
) -> Purse | None:
    """Accept the part of a request whose people one shard holds; return None where the shard does not answer.

    Each shard commits for itself, so a repeat under the key may find messages of the first time on record, and a
    message on record needs no place anew. The messages of a shard without an answer are refused, and no repeat gets
    that answer.
    """
    try:
        async with _known(part.database, caller, part.asked) as (tx, known):
            await _lock(tx, caller, under, part.asked)
            there = await messages.statuses(tx, [each.identity for each in part.asked])
            for each in part.asked:
                each.status = there.get(each.identity)
            return await _accept(tx, held, caller, known, [each for each in part.asked if each.status is None], now)
    except Exception as error:
        problem = problem_of(error)
        if not isinstance(problem, Unavailable):
            raise
        for each in part.asked:
            each.written, each.audited, each.status = None, (), None
            each.problem = each.problem if each.ready is None else problem
        return None


async def _limit(
    tx: AsyncConnection, held: Resources[Any], caller: Caller, written: Sequence[Asked], known: Known, now: datetime
) -> Purse:
    """Charge the messages in their order, and refuse those over a limit."""
    budget = Budget(held.allowances, held.settings.limited)
    purse = budget.purse(caller.organisation, now, caller.granted.own, caller.account)
    wanted = [_message(each, held, known) for each in written]
    results = await limiting.charge(tx, purse, caller, wanted, held.settings.price_table, now)
    for each, result in zip(written, results, strict=True):
        if result is None:
            continue
        each.written, each.audited = None, (result.name,)
        reason = Reason(result.field, result.name, result.limit)
        if result.until is None:
            each.problem = NotAllowedByLimits(result.detail, reasons=[reason])
        else:
            each.problem = LimitReached(result.detail, [reason], (result.until - now).total_seconds())
    return purse


def _message(asked: Asked, held: Resources[Any], known: Known) -> limiting.Message:
    """Return the parts that limits depend on. The gate chooses the gateway later: the longest text counts."""
    ready, written = asked.ready, asked.written
    assert ready is not None
    assert written is not None
    category, sender_id, text = ready.body.category, ready.body.sender_id, written.text
    if category == "marketing":
        text = held.settings.longest_sent(text, category, known.senders[sender_id].stop_code)
    return limiting.Message(category, sender_id, ready.subject_id, ready.msisdn.territory, text)


def _identity(caller: Caller, key: str | None, now: datetime, body: Requested, place: int) -> UUID:
    if key is None:
        return message_id(now, str(uuid4()))
    parts = (caller.account, key, str(place)) if isinstance(body, Batch) else (caller.account, key)
    return message_id(EPOCH, *parts)


def _international(to: str) -> bool:
    return to.startswith("+")


async def _countries(caller: Caller, bodies: Sequence[Send]) -> Mapping[str, Sequence[str]]:
    """Return the countries of the named senders, late by ARRIVES_WITHIN_S, where a number may lack a country code."""
    wanted = {one.sender_id for one in bodies if one.country is None and not _international(one.to)}
    wanted = {one for one in wanted if caller.names([one])}
    waits = pauses(ARRIVES_WITHIN_S)
    while wanted:
        found = await caller.organisations.countries(await caller.seen(wanted))
        if len(found) == len(wanted) or (pause := next(waits, None)) is None:
            return found
        await asyncio.sleep(pause)
    return {}


def _ready(
    body: Send, held: Resources[Any], caller: Caller, of_senders: Mapping[str, Sequence[str]], now: datetime
) -> Ready:
    """Check scope, the token's senders, number and time. `of_senders`: by `_countries`. Raises Problem."""
    caller.may(f"message:send:{body.category}")
    caller.may_name(body.sender_id)
    free = body.text if body.category != "marketing" else None
    if free is not None:
        caller.may("message:send:free_text")
    if body.override_reason is not None:
        caller.may("message:send:override")
    _check_finished(body.text or "")
    if body.country is None and not _international(body.to) and body.sender_id not in of_senders:
        raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
    try:
        countries = applying(body.country, of_senders.get(body.sender_id, ()), held.settings.country)
        msisdn = parse(body.to, countries=countries, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        reason = Reason("to", str(refused.reason), refused.remedy)
        raise Invalid("`to` is not a mobile number", reasons=[reason]) from refused
    if body.send_before is not None and body.send_before <= now:
        raise Invalid("`send_before` has passed", reasons=[Reason("send_before", "in_the_past")])
    region = _region(body, msisdn.territory, held.settings.policy)
    if body.category == "service":
        before = body.send_before or now + KEPT
        _check_courtesy(msisdn.territory, region, now, before, _at_hand_off(held.settings.policy))
    found = findings_of(free) if free is not None else []
    return Ready(body, msisdn, held.subject_keys.subject_id(msisdn.e164), region, found)


def _check_finished(text: str) -> None:
    """Refuse a text with a placeholder of another product: a free text leaves as written. Raises Invalid."""
    for other in placeholders(text):
        raise Invalid(
            f"the text has a placeholder {other.form} of another product at character {other.at}: write the value, or"
            " use a template, which has {field} for each of its `values`",
            reasons=[Reason("text", "placeholder")],
        )


def _region(body: Send, territory: str, policy: Policy) -> str | None:
    """Return the region of the postcode, in the country of the number."""
    country = country_of(territory, policy)
    return region_of(body.postcode, country, policy) if body.postcode and country else None


_at_hand_off = lru_cache(maxsize=4)(at_hand_off)


def _check_courtesy(territory: str, region: str | None, now: datetime, before: datetime, policy: Policy) -> None:
    """Refuse a service message that would expire before its courtesy hours begin. Raises Invalid."""
    hours = policy.courtesy
    if hours is None or not covers(territory, hours):
        return
    if next_permitted(now, territory, hours, region=region, before=before) is None:
        opens = next_permitted(now, territory, hours, region=region)
        raise Invalid(
            "the message would expire before the courtesy hours there, which begin at"
            f" {opens.isoformat() if opens else 'no time'}: give a later `send_before`",
            reasons=[Reason("send_before", "before_courtesy_hours")],
        )


@asynccontextmanager
async def _known(
    database: Database, caller: Caller, asked: Collection[Asked]
) -> AsyncIterator[tuple[AsyncConnection, Known]]:
    """Open a transaction in which the named senders and templates are known, or are late by ARRIVES_WITHIN_S.

    The wait for another organisation's sender or template is the wait for an unknown sender or template.
    """
    bodies = [each.ready.body for each in asked if each.ready]
    sender_ids = {body.sender_id for body in bodies}
    wanted = {(body.template_id, body.version) for body in bodies if body.template_id is not None}
    waits = pauses(ARRIVES_WITHIN_S)
    while True:
        async with database.begin() as tx:
            known = await _theirs(tx, caller, sender_ids, wanted)
            complete = (len(known.senders), len(known.templates)) == (len(sender_ids), len(wanted))
            if complete or (pause := next(waits, None)) is None:
                yield tx, known
                return
        await asyncio.sleep(pause)


async def _theirs(tx: AsyncConnection, caller: Caller, sender_ids: set[str], wanted: set[Wanted]) -> Known:
    """Return the named senders and templates of the caller's organisation, among those of the token."""
    senders = await projection.senders(tx, sender_ids)
    versions = await templates.templates(tx, wanted) if wanted else {}
    theirs = await caller.seen(sender_ids | {version.sender_id for version in versions.values()}, tx)
    return Known(
        {sender_id: sender for sender_id, sender in senders.items() if sender_id in theirs},
        {asked: version for asked, version in versions.items() if version.sender_id in theirs},
    )


def _write(asked: Asked, ready: Ready, known: Known) -> None:
    """Give the message its text, or its problem."""
    try:
        asked.written = _written(asked, ready, known)
    except TextRefused as refused:
        reasons = [Reason(masked(each.field), each.reason, each.detail) for each in refused.against]
        asked.audited = tuple(against.reason for against in refused.against)
        asked.problem = PROBLEMS[refused.kind](
            "; ".join(against.detail for against in refused.against), reasons=reasons
        )
    except Problem as problem:
        asked.problem = problem
    else:
        asked.audited = tuple(rules.named(finding) for finding in asked.written.overridden)


def _written(asked: Asked, ready: Ready, known: Known) -> Written:
    """Return the message's text. Raises TextRefused, Problem."""
    body = ready.body
    sender = known.senders.get(body.sender_id)
    if sender is None:
        raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
    if body.template_id is not None:
        version = known.templates.get((body.template_id, body.version))
        if version is None or version.sender_id != body.sender_id:
            raise NotFound("the sender has no such template", reasons=[Reason("template_id", "unknown_template")])
        asked.template = f"{version.template_id}@{version.number}"
        rules.check_code(body.category, sender.stop_code)
        approved = rules.Approved(version.category, version.text, version.fields, version.state)
        return _fitting(rules.written_from(approved, body.category, body.values), "values")
    rules.check_code(body.category, sender.stop_code)
    assert body.text is not None
    if body.category == "marketing":
        _check_marketing(body, body.text, sender)
    written = rules.written_freely(body.text, ready.found, override=body.override_reason is not None)
    return _fitting(written, "text")


def _fitting(written: Written, named: str) -> Written:
    if (counted := length(written.text)).segments > MAX_SEGMENTS:
        raise Invalid(
            f"{counted.segments} SMS ({counted.encoding}), at most {MAX_SEGMENTS}", reasons=[Reason(named, "too_long")]
        )
    return written


def _check_marketing(body: Send, text: str, sender: projection.Sender) -> None:
    if body.purpose is None:
        raise Invalid("marketing needs a purpose", reasons=[Reason("purpose", "missing")])
    if body.purpose not in sender.purposes:
        raise Invalid("the sender has no such purpose", reasons=[Reason("purpose", "unknown_purpose")])
    if not mentions_stop(text, sender.stop_code):
        raise Invalid(
            f"a marketing text must tell how to stop: « STOP au {sender.stop_code} »",
            reasons=[Reason("text", "stop_mention_missing")],
        )


async def _insert(tx: AsyncConnection, held: Resources[Any], asked: Sequence[Asked], now: datetime) -> None:
    """Insert the messages that have a text, and give each its status."""
    by_partition: dict[int, list[MessageRow]] = defaultdict(list)
    for place, each in enumerate(asked):
        await _let_others(place)
        if each.written is not None and each.ready is not None:
            row = _row(held, each.identity, each.ready, each.written, each.template, now)
            by_partition[row.partition].append(row)
    new: set[UUID] = set()
    for _, rows in sorted(by_partition.items()):
        new |= await messages.insert_messages(tx, rows)
    written = [each.identity for each in asked if each.written is not None]
    others = await messages.statuses(tx, known) if (known := [one for one in written if one not in new]) else {}
    for each in asked:
        if each.written is not None:  # a concurrent repeat may have inserted the message
            each.status = Status.PENDING if each.identity in new else others[each.identity]


def _row(
    held: Resources[Any], identity: UUID, ready: Ready, written: Written, template: str, now: datetime
) -> MessageRow:
    body = ready.body
    return MessageRow(
        message_id=identity,
        status=Status.PENDING,
        reasons=(),
        campaign_id=None,
        sender_id=body.sender_id,
        purpose=body.purpose if body.category == "marketing" else None,
        category=body.category,
        subject_id=ready.subject_id,
        partition=partition_of(ready.subject_id, held.settings.partitions),
        number=held.field_keys.seal(ready.msisdn.e164, f"number:{ready.subject_id}"),
        text=held.field_keys.seal(written.text, f"text:{identity}"),
        requested_at=now,
        send_before=body.send_before or now + KEPT,
        version=1,
        policy_version="",
        due_at=now,
        region=ready.region,
        template=template,
        charged=True,
    )


def _audit(asked: Asked, body: Send, caller: Caller, now: datetime) -> Audit:
    overridden = asked.written is not None
    return Audit(
        at=now,
        caller=caller.subject,
        sender_id=body.sender_id,
        category=body.category,
        template=asked.template,
        result="overridden" if overridden else "refused",
        reasons=asked.audited,
        message_id=asked.identity if overridden else None,
        override_reason=masked(body.override_reason or "") if overridden else None,
    )


def _to_audit(asked: Sequence[Asked]) -> list[Asked]:
    """Return the messages with an audit. Of those that one limit refuses to a sender the first stands for all."""
    kept: dict[object, Asked] = {}
    for each in asked:
        if each.audited and each.ready is not None:
            limited = isinstance(each.problem, LimitReached | NotAllowedByLimits)
            kept.setdefault((each.ready.body.sender_id, each.audited) if limited else each.identity, each)
    return list(kept.values())


def _count(asked: Asked, body: Send) -> None:
    if asked.written is None and not asked.audited:
        return
    if isinstance(asked.problem, LimitReached | NotAllowedByLimits):
        return  # `sms_limits_refused_total`
    result = "refused" if asked.written is None else "overridden" if asked.audited else "accepted"
    kind = FREE_TEXT if body.text is not None else "template"
    TEXTS.labels(body.category, kind, result).inc()


async def _let_others(place: int) -> None:
    if place % TURN == TURN - 1:
        await asyncio.sleep(0)
