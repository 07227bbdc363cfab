"""HTTP: send one message or a thousand, list audited texts, report messages to people who had stopped.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: a send, before its 202
[before-post-commit, after-post-commit].
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime
from sqlalchemy.ext.asyncio import AsyncConnection

from common.kafka.broker import partition_of
from common.law import Policy, at_hand_off, country_of, covers, next_permitted, region_of
from common.law.stop_mention import mentions_stop
from common.service import Resources, resources
from common.sms.message_id import EPOCH, message_id
from common.sms.msisdn import Msisdn, NumberRefused, parse
from common.sms.sms_length import MAX_SEGMENTS, length
from common.telemetry import counter, masked
from common.texts.findings import Finding, findings_of
from common.web.auth import Caller, require
from common.web.idempotency import Key, claim, fingerprint_of
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, whole_page
from common.web.problems import Conflict, Invalid, NotFound, Problem, Reason
from dispatch.accepting import rules, store
from dispatch.accepting.bodies import (
    Batch,
    NotASend,
    Refusal,
    Requested,
    Result,
    Results,
    Send,
    Sent,
    TextAudit,
    ToStopped,
    ToStoppedReport,
)
from dispatch.accepting.rules import Kind, TextRefused, Written
from dispatch.accepting.store import Audit
from dispatch.lane import lane_of
from dispatch.messages import store as messages
from dispatch.messages.row import FREE_TEXT, MessageRow
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.projection.templates import TemplateVersion, Wanted

router = APIRouter(prefix="/v1", tags=["dispatch"])

TEXTS = counter(
    "sms_dispatch_texts_total",
    "Texts of messages requested over HTTP, by lane, by kind (template or free_text) and by result.",
    ["lane", "kind", "result"],
)

KEPT = timedelta(days=1)  # send_before when the caller names none: a code or a notice is useless later
ARRIVES_WITHIN_S = 2.0  # a sender registered, or a template approved, a moment ago is still in transit
LOOK_EVERY_S = 0.05
TURN = 50  # messages of a batch between two turns of the event loop
LONGEST_REPORT = timedelta(days=92)

Held = Annotated[Resources[Any], Depends(resources)]
Sends = Annotated[
    Caller, Depends(require("message:send:transactional", "message:send:service", "message:send:marketing"))
]
Reads = Annotated[Caller, Depends(require("message:read"))]


class LooksLikeAdvertising(Invalid):
    slug, title = Kind.ADVERTISING.value, "The text looks like advertising"


class TemplateNotUsable(Conflict):
    slug, title = Kind.TEMPLATE.value, "No message may leave from the template"


class ValueNotUsable(Invalid):
    slug, title = Kind.VALUE.value, "A value may not stand in the template"


class CodeOfAnotherLane(Conflict):
    slug, title = Kind.CODE.value, "The sender's short code belongs to another lane"


PROBLEMS: Mapping[Kind, type[Problem]] = {
    Kind.ADVERTISING: LooksLikeAdvertising,
    Kind.TEMPLATE: TemplateNotUsable,
    Kind.VALUE: ValueNotUsable,
    Kind.CODE: CodeOfAnotherLane,
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A well-formed message of a caller with the scopes. `found`: the findings in a free text outside marketing."""

    body: Send
    msisdn: Msisdn
    subject_id: str
    region: str | None
    found: Sequence[Finding]


@dataclass(slots=True)
class Known:
    """The senders and templates known here, among those that a request names."""

    senders: Mapping[str, projection.Sender]
    templates: Mapping[Wanted, TemplateVersion]


@dataclass(slots=True)
class Asked:
    """A message of a request on its way: refused, or with its text."""

    identity: UUID
    ready: Ready | None = None
    written: Written | None = None
    template: str = FREE_TEXT
    problem: Problem | None = None
    audited: tuple[str, ...] = field(default=())
    status: str | None = None


@router.post("/messages", status_code=202)
async def send(
    body: Requested,
    request: Request,
    held: Held,
    caller: Sends,
    response: Response,
    key: Key = None,
) -> Sent | Results:
    """Accept a message, or up to 1,000 in `messages`, for the gate to decide on at once.

    202: the ledger has each accepted message. Each lane has its own scope. A transactional or service message leaves
    from an approved template, or with a free text for a token with that scope. The messages of a batch are accepted in
    one transaction, and a refused message keeps none of the others back. A refused message is in no ledger: an audit
    keeps the reasons, without the text and the person.
    """
    now = datetime.now(UTC)
    asked: list[Asked] = []
    for place, one in enumerate(body.messages if isinstance(body, Batch) else [body]):
        await _let_others(place)
        asked.append(each := Asked(_identity(caller, key, now, body, place)))
        if isinstance(one, NotASend):
            each.problem = one.problem
            continue
        try:
            each.ready = _ready(one, held, caller, now)
        except Problem as problem:
            each.problem = problem
    fingerprint = await fingerprint_of(request, held.subject_keys) if key is not None else ""
    async with _known(held, [each.ready.body for each in asked if each.ready]) as (tx, known):
        stored = await messages.statuses(tx, [each.identity for each in asked]) if key is not None else {}
        for place, each in enumerate(asked):
            await _let_others(place)
            each.status = stored.get(each.identity)
            if each.status is None and each.ready is not None:
                _write(each, each.ready, known)
        if key is not None and any(each.status or each.written for each in asked):
            await claim(tx, caller, key, fingerprint)
        await _insert(tx, held, asked, now)
        audited = [_audit(each, each.ready.body, caller, now) for each in asked if each.audited and each.ready]
        await store.add_audits(tx, audited)
    for each in asked:
        if each.ready is not None:
            _count(each, each.ready.body)
    if isinstance(body, Batch):
        return Results(results=[_result(each) for each in asked])
    [only] = asked
    if only.status is None:
        assert only.problem is not None
        raise only.problem
    response.headers["Location"] = f"/v1/messages/{only.identity}"
    return Sent(message_id=only.identity, status=only.status)


def _identity(caller: Caller, key: str | None, now: datetime, body: Requested, place: int) -> UUID:
    if key is None:
        return message_id(now, str(uuid4()))
    parts = (caller.subject, key, str(place)) if isinstance(body, Batch) else (caller.subject, key)
    return message_id(EPOCH, *parts)


def _ready(body: Send, held: Resources[Any], caller: Caller, now: datetime) -> Ready:
    """Check scope, sender, number and time. Raises Problem."""
    caller.may(f"message:send:{body.category}")
    caller.may_use(body.sender_id)
    free = body.text if body.category != "marketing" else None
    if free is not None:
        caller.may("message:send:free_text")
    if body.override_reason is not None:
        caller.may("message:send:override")
    try:
        msisdn = parse(body.to, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("`to` is not a mobile number", reasons=[Reason("to", str(refused.reason))]) from refused
    if body.send_before is not None and body.send_before <= now:
        raise Invalid("`send_before` has passed", reasons=[Reason("send_before", "in_the_past")])
    region = _region(body, msisdn.territory, held.settings.policy)
    if body.category == "service":
        before = body.send_before or now + KEPT
        _check_courtesy(msisdn.territory, region, now, before, _at_hand_off(held.settings.policy))
    found = findings_of(free) if free is not None else []
    return Ready(body, msisdn, held.subject_keys.subject_id(msisdn.e164), region, found)


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
async def _known(held: Resources[Any], bodies: Collection[Send]) -> AsyncIterator[tuple[AsyncConnection, Known]]:
    """Open a transaction in which the named senders and templates are known, or are late by ARRIVES_WITHIN_S."""
    sender_ids = {body.sender_id for body in bodies}
    wanted = {(body.template_id, body.version) for body in bodies if body.template_id is not None}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ARRIVES_WITHIN_S
    while True:
        async with held.database.begin() as tx:
            known = Known(await projection.senders(tx, sender_ids), await templates.templates(tx, wanted))
            if (len(known.senders), len(known.templates)) == (len(sender_ids), len(wanted)) or loop.time() >= deadline:
                yield tx, known
                return
        await asyncio.sleep(LOOK_EVERY_S)


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
    for partition, rows in sorted(by_partition.items()):
        new |= await messages.insert_messages(tx, rows)
        for lane in sorted({lane_of(row.category) for row in rows}):
            await messages.tell_due(tx, partition, lane)
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


def _count(asked: Asked, body: Send) -> None:
    if asked.written is None and not asked.audited:
        return
    result = "refused" if asked.written is None else "overridden" if asked.audited else "accepted"
    kind = FREE_TEXT if body.text is not None else "template"
    TEXTS.labels(body.category, kind, result).inc()


def _result(asked: Asked) -> Result:
    if asked.status is not None:
        return Result(message_id=asked.identity, status=asked.status)
    assert asked.problem is not None
    return Result(refused=Refusal.of(asked.problem))


async def _let_others(place: int) -> None:
    if place % TURN == TURN - 1:
        await asyncio.sleep(0)


@router.get("/text-audits")
async def list_text_audits(held: Held, caller: Reads, cursor: Cursor = None, limit: Limit = LIMIT) -> Page[TextAudit]:
    """List texts that were refused, or left by an override, oldest first, of the senders your token covers."""
    after = position(cursor, int) or 0
    covered = None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:

        async def read() -> Sequence[store.Kept]:
            return await store.audits_after(tx, after, covered, limit)

        rows = await whole_page(tx, "text_audit", limit, read, attrgetter("id"))
    items = [TextAudit.model_validate({**row._asdict(), "reasons": list(row.reasons)}) for row in rows]
    return Page[TextAudit](items=items, next=next_of(rows, limit, attrgetter("id")))


@router.get("/reports/to-stopped")
async def report_to_stopped(
    held: Held,
    caller: Reads,
    since: Annotated[AwareDatetime | None, Query(description="Default: a week before `until`.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Default: now.")] = None,
) -> ToStoppedReport:
    """Count transactional and service messages to people who had stopped, by sender and template.

    Such messages are lawful: a code follows a contract. Many of them from one template may be advertising in disguise.
    """
    end = until or datetime.now(UTC)
    begin = since or end - timedelta(days=7)
    if not timedelta() < end - begin <= LONGEST_REPORT:
        raise Invalid(
            f"`since` is before `until`, by {LONGEST_REPORT.days} days at most", reasons=[Reason("since", "not_valid")]
        )
    covered = None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:
        found = await store.to_stopped(tx, begin, end, covered)
    return ToStoppedReport(since=begin, until=end, items=[ToStopped(**each._asdict()) for each in found])
