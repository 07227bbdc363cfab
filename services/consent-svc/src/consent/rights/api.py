"""Serve the rights of a person over HTTP: erasure with its certificate, a copy of all data, rectification.

Each right reaches every sender, so a call needs a token for every sender.
"""

import logging
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SEVEN_DAYS_MS
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.message_id import EPOCH, message_id
from common.sms.msisdn import NumberRefused, any_number
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.idempotency import Key, claim, fingerprint_of
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Invalid, NotFound, Reason
from consent.bodies import EXAMPLE_NUMBER, Body, EvidenceBody, Number
from consent.ledger import corrections, recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import RECTIFICATION, Evidence
from consent.rights import copies, erasures, rectifications
from consent.rights.bodies import AskedBody, ContactBody, LineBody, NumberBody, RectificationBody, RectificationView
from consent.rights.copies import Copy
from consent.rights.erasures import Erasure
from consent.rights.rectifications import Rectification
from consent.senders import store as senders_store

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")

LOG_FORGETS = timedelta(milliseconds=SEVEN_DAYS_MS)

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Reads = Annotated[Caller, Depends(require("erasure:read"))]
Writes = Annotated[Caller, Depends(require("erasure:write"))]
ReadsCopies = Annotated[Caller, Depends(require("copy:read"))]
WritesCopies = Annotated[Caller, Depends(require("copy:write"))]
ReadsRectifications = Annotated[Caller, Depends(require("rectification:read"))]
WritesRectifications = Annotated[Caller, Depends(require("rectification:write"))]

KEPT = (  # (service, data kept, reason)
    (
        "consent",
        "the keyed hash of the number, with its opt-outs",
        "so that nobody writes to the person again (CNIL MED-2023-040)",
    ),
    (
        "consent",
        "when the person consented or objected, to whom and for what: the ledger's lines without what was personal",
        "proof of what was done until then (RGPD art. 7(1), 17(3)(e))",
    ),
    ("campaign", "where the keyed hash stood in each campaign's audience", "the accounts of campaigns"),
    ("dispatch", "the decision on each message of the keyed hash, and its outcome", "the accounts of campaigns"),
    (
        "inbound",
        "that a text came, under the provider's id and the keyed hash",
        "the same text again is not kept again",
    ),
)


class BeingErased(Conflict):
    slug, title = "being-erased", "An erasure of this person is under way"


class NotYet(Conflict):
    slug, title = "not-complete", "The copy is incomplete: a service has yet to answer"


class ErasureBody(Body):
    """The person to erase, and the evidence of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"number": EXAMPLE_NUMBER, "evidence": {"source": "call-centre", "actor": "agent-12"}}]
        }
    )

    number: Number
    evidence: EvidenceBody


class Done(BaseModel):
    """A service's part. `acknowledged_at`: when consent-svc had the answer."""

    service: str
    erased_at: datetime
    acknowledged_at: datetime
    erased: dict[str, int]


class Kept(BaseModel):
    service: str
    what: str
    why: str


class Certificate(BaseModel):
    """An erasure. Once `complete`, a certificate of the data erased, where and when, and of the data kept and why."""

    erasure_id: str
    subject_id: str
    status: Literal["open", "complete"]
    source: str
    evidence_id: str = Field(
        description="The opt-out of all senders, recorded before the erasure. No opt-out is recorded if `source` is"
        " `retention`."
    )
    requested_at: datetime
    completed_at: datetime | None
    services: list[Done]
    waiting_for: list[str]
    asked_again_at: datetime | None = Field(description="The time of the last repeated request to a late service.")
    log_forgets_at: datetime | None = Field(
        description="The time by which the last event with an encrypted field is deleted from the log."
    )
    kept: list[Kept]


@router.post("/erasures", status_code=202)
async def ask_for_erasure(
    body: ErasureBody, request: Request, response: Response, caller: Writes, held: Held, key: Key = None
) -> Certificate:
    """Stop everything for this number at once, and erase all data that any service holds about the person.

    During an open erasure, the same request returns that erasure.
    """
    caller.may_use_all()
    number = _number(body.number, held)
    subject_id = held.subject_keys.subject_id(number)
    async with held.database.begin() as tx:
        since = await _claimed(tx, request, caller, held, key)
        subject = (await ledger_store.lock_subjects(tx, {subject_id: None}))[subject_id]
        now = datetime.now(UTC)  # after the lock: the erasure reaches all data recorded by now
        under_way = await erasures.open_of(tx, subject_id)
        if under_way is None or subject.erased_at is None:
            identity = evidence_id("erasure", caller.subject, key, (since or now).isoformat(), subject_id)
            evidence = Evidence(
                evidence_id=identity,
                kind="opt_out",
                sender_id=None,
                purpose=None,
                occurred_at=now,
                received_at=now,
                **dict(body.evidence),
            )
            recorded = await recorder.record(tx, [Statement(subject_id, None, evidence, erases=True)], now)
            await erasures.begin(tx, recorded, now)
            (under_way,) = await erasures.find(tx, [erasures.named(identity)])
    response.headers["Location"] = f"/v1/erasures/{under_way.erasure_id}"
    return _certificate(under_way)


@router.get("/erasures")
async def list_erasures(
    caller: Reads,
    held: Held,
    status: Literal["open", "complete"] = "open",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Certificate]:
    """List open or complete erasures, oldest first."""
    caller.may_use_all()
    async with held.database.begin() as tx:
        found = await erasures.page(tx, complete=status == "complete", after=position(cursor, int) or 0, limit=limit)
    items = [_certificate(each) for each in found]
    return Page[Certificate](items=items, next=next_of(found, limit, attrgetter("place")))


@router.get("/erasures/{erasure_id}")
async def get_erasure(erasure_id: Storable, caller: Reads, held: Held) -> Certificate:
    """Return an erasure's progress, and its certificate once complete."""
    caller.may_use_all()
    return _certificate(await _found(held, erasure_id))


class CopyBody(Body):
    """The person whose data to copy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": EXAMPLE_NUMBER}]})

    number: Number


class CopyView(BaseModel):
    """A copy. Once `complete`, `data` holds each service's items, each with its `kind`."""

    copy_id: str
    subject_id: str
    status: Literal["open", "complete"]
    requested_at: datetime
    completed_at: datetime | None
    expires_at: datetime = Field(description="The end of the copy's retention.")
    waiting_for: list[str]
    data: dict[str, list[dict[str, object]]] | None


@router.post("/copies", status_code=202)
async def ask_for_copy(
    body: CopyBody, request: Request, response: Response, caller: WritesCopies, held: Held, key: Key = None
) -> CopyView:
    """Gather all data that any service holds about this number (RGPD art. 15 and 20).

    The copy lasts a week, unless the person is erased. The caller has verified the person's identity.
    """
    caller.may_use_all()
    subject_id = held.subject_keys.subject_id(_number(body.number, held))
    now = datetime.now(UTC)
    seed = ("key", caller.subject, key) if key is not None else ("at", subject_id, now.isoformat())
    copy_id = str(message_id(EPOCH, "copy", *seed))
    async with held.database.begin() as tx:
        await _claimed(tx, request, caller, held, key)
        if await erasures.open_of(tx, subject_id) is not None:
            raise BeingErased("there will be nothing to copy", reasons=[Reason("number", "being_erased")])
        await copies.begin(tx, held.field_keys, copy_id, subject_id, now)
        found = await copies.find(tx, held.field_keys, copy_id, now)
    if found is None:
        raise _no_copy()
    log.info("a copy is asked for", extra={"copy_id": copy_id, "subject_id": subject_id, "by": caller.subject})
    response.headers["Location"] = f"/v1/copies/{copy_id}"
    return _copy(found)


@router.get("/copies/{copy_id}", responses={200: {"content": {"text/csv": {}}}}, response_model=CopyView)
async def get_copy(
    copy_id: Storable, caller: ReadsCopies, held: Held, format: Literal["json", "csv"] = "json"
) -> CopyView | Response:
    """Return a copy's progress, and its content once complete: JSON, or CSV with a row per value."""
    caller.may_use_all()
    async with held.database.begin() as tx:
        found = await copies.find(tx, held.field_keys, copy_id, datetime.now(UTC))
    if found is None:
        raise _no_copy()
    log.info("a copy is fetched", extra={"copy_id": copy_id, "by": caller.subject})
    if format == "json":
        return _copy(found)
    if found.completed_at is None:
        raise NotYet("ask again in a moment", reasons=[Reason("copy_id", "not_complete")])
    return Response(
        copies.csv_of(found),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{copy_id}.csv"', "Cache-Control": "no-store"},
    )


def _copy(copy: Copy) -> CopyView:
    complete = copy.completed_at is not None
    return CopyView(
        copy_id=copy.copy_id,
        subject_id=copy.subject_id,
        status="complete" if complete else "open",
        requested_at=copy.requested_at,
        completed_at=copy.completed_at,
        expires_at=copy.expires_at,
        waiting_for=list(copy.waiting_for),
        data={service: [dict(item) for item in items] for service, items in copy.items.items()} if complete else None,
    )


def _no_copy() -> NotFound:
    return NotFound("no such copy, or not any more", reasons=[Reason("copy_id", "unknown_copy")])


@router.post("/rectifications", status_code=202)
async def ask_for_rectification(
    body: RectificationBody,
    request: Request,
    response: Response,
    caller: WritesRectifications,
    held: Held,
    key: Key = None,
) -> RectificationView:
    """Correct data about this number (RGPD art. 16): fields of a contact, the number itself, or a ledger line.

    A rectification never opens a consent: record the right consent with `POST /v1/consents`. The caller has verified
    the person's identity.
    """
    caller.may_use_all()
    number = _number(body.number, held)
    subject_id = held.subject_keys.subject_id(number)
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        since = await _claimed(tx, request, caller, held, key) or now
        seed = caller.subject, key or "", since.isoformat(), subject_id
        identity = str(message_id(EPOCH, "rectification", *seed))
        found = await rectifications.find(tx, held.field_keys, identity)
        if found is None:
            await _rectify(tx, held, body, identity, subject_id, now)
            found = await rectifications.find(tx, held.field_keys, identity)
    assert found is not None, "begun in this transaction"
    response.headers["Location"] = f"/v1/rectifications/{identity}"
    return _rectification(found)


@router.get("/rectifications")
async def list_rectifications(
    caller: ReadsRectifications,
    held: Held,
    status: Literal["open", "complete"] = "open",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[RectificationView]:
    """List open or complete rectifications, oldest first."""
    caller.may_use_all()
    async with held.database.begin() as tx:
        found = await rectifications.page(
            tx, held.field_keys, complete=status == "complete", after=position(cursor, int) or 0, limit=limit
        )
    items = [_rectification(each) for each in found]
    return Page[RectificationView](items=items, next=next_of(found, limit, attrgetter("place")))


@router.get("/rectifications/{rectification_id}")
async def get_rectification(rectification_id: Storable, caller: ReadsRectifications, held: Held) -> RectificationView:
    """Return a rectification: the request, and the data corrected."""
    caller.may_use_all()
    async with held.database.begin() as tx:
        found = await rectifications.find(tx, held.field_keys, rectification_id)
    if found is None:
        raise NotFound("no such rectification", reasons=[Reason("rectification_id", "unknown_rectification")])
    return _rectification(found)


async def _rectify(
    tx: AsyncConnection,
    held: Resources[ServiceSettings],
    body: RectificationBody,
    identity: str,
    subject_id: str,
    now: datetime,
) -> None:
    """Record a rectification. Raises BeingErased, NotFound, Invalid."""
    what = body.correct
    if what.kind != "number" and await erasures.open_of(tx, subject_id) is not None:
        raise BeingErased("there will be nothing to put right", reasons=[Reason("number", "being_erased")])
    appended: list[Evidence] = []
    if isinstance(what, LineBody):
        line = await _line(tx, subject_id, what.evidence_id)
        appended = [_correction(line, what, body.asked, identity, now)]
    else:
        sender = await senders_store.find_sender(tx, what.sender_id) if what.sender_id else None
        if what.sender_id is not None and sender is None:
            raise NotFound("no such sender", reasons=[Reason("correct.sender_id", "unknown_sender")])
        if isinstance(what, NumberBody):
            held_of = (await ledger_store.lock_subjects(tx, {}, [subject_id])).get(subject_id)
            controller = sender.controller if sender and sender.stop_scope == "controller" else None
            chosen = ledger.given_to(held_of.state, what.sender_id, controller) if held_of else []
            appended = [_shut(what, body.asked, now, identity, *each) for each in chosen]
            appended.append(_shut(what, body.asked, now, identity))
    if appended:
        await recorder.record(tx, [Statement(subject_id, None, one) for one in appended], now)
    evidence = appended[-1] if appended else None
    new = Rectification(
        rectification_id=identity,
        place=0,  # Postgres assigns the place
        subject_id=subject_id,
        kind=what.kind,
        sender_id=evidence.sender_id if evidence else what.sender_id if isinstance(what, ContactBody) else None,
        source=body.asked.source,
        asked={**body.asked.model_dump(exclude={"source"}), **what.model_dump(mode="json")},
        evidence_id=evidence.evidence_id if evidence else None,
        annulled=isinstance(what, LineBody) and evidence is not None and evidence.kind == "opt_out",
        requested_at=now,
        completed_at=now if isinstance(what, LineBody) else None,
        rectified={},
    )
    await rectifications.begin(tx, held.field_keys, new, what.fields if isinstance(what, ContactBody) else None)


def _correction(line: Evidence, what: LineBody, asked: AskedBody, identity: str, now: datetime) -> Evidence:
    """Return the evidence that stands beside a wrong line.

    To annul, the evidence is an opt-out as old as the line, so that newer lines keep their effect.
    """
    right = what.right.model_dump(exclude_none=True)
    annuls = corrections.annuls(line, what.wrong, right)
    return Evidence(
        evidence_id=evidence_id(RECTIFICATION, identity),
        kind="opt_out" if annuls else "correction",
        sender_id=line.sender_id,
        purpose=line.purpose,
        source=RECTIFICATION,
        actor=asked.actor,
        answers=line.evidence_id,
        occurred_at=line.at if annuls else now,
        received_at=now,
        **right,
    )


def _shut(what: NumberBody, asked: AskedBody, now: datetime, identity: str, *chosen: str) -> Evidence:
    """Return the opt-out of a number that is not the person's.

    `chosen`: a consent to close by name as well, because a START takes back a STOP.
    """
    sender_id, purpose = chosen or (what.sender_id, None)
    return Evidence(
        evidence_id=evidence_id(RECTIFICATION, identity, *chosen),
        kind="opt_out",
        sender_id=sender_id,
        purpose=purpose,
        source=RECTIFICATION,
        actor=asked.actor,
        occurred_at=now,
        received_at=now,
    )


async def _line(tx: AsyncConnection, subject_id: str, wrong: str) -> Evidence:
    """Return the wrong line of this person's ledger. Raises Invalid."""
    entry = await ledger_store.find_entry(tx, wrong)
    if entry is None or entry.subject_id != subject_id:
        raise Invalid("not on record", reasons=[Reason("correct.evidence_id", "unknown_evidence")])
    if entry.evidence.kind == "correction":
        raise Invalid(
            "`correct.evidence_id` names a correction: name the corrected line itself",
            reasons=[Reason("correct.evidence_id", "is_a_correction")],
        )
    return entry.evidence


def _rectification(found: Rectification) -> RectificationView:
    return RectificationView(
        rectification_id=found.rectification_id,
        subject_id=found.subject_id,
        kind=found.kind,
        sender_id=found.sender_id,
        status="complete" if found.completed_at else "open",
        source=found.source,
        asked=dict(found.asked) if found.asked is not None else None,
        evidence_id=found.evidence_id,
        annulled=found.annulled,
        requested_at=found.requested_at,
        completed_at=found.completed_at,
        rectified={service: dict(counts) for service, counts in found.rectified.items()},
        waiting_for=list(found.waiting_for),
    )


async def _claimed(
    tx: AsyncConnection, request: Request, caller: Caller, held: Resources[ServiceSettings], key: str | None
) -> datetime | None:
    """Claim the Idempotency-Key, and return the time of the claim. Raises KeyReused."""
    if key is None:
        return None
    return await claim(tx, caller, key, await fingerprint_of(request, held.subject_keys))


async def _found(held: Resources[ServiceSettings], erasure_id: str) -> Erasure:
    async with held.database.begin() as tx:
        found = await erasures.find(tx, [erasure_id])
    if not found:
        raise NotFound("no such erasure", reasons=[Reason("erasure_id", "unknown_erasure")])
    return found[0]


def _certificate(erasure: Erasure) -> Certificate:
    complete = erasure.completed_at is not None
    return Certificate(
        erasure_id=erasure.erasure_id,
        subject_id=erasure.subject_id,
        status="complete" if complete else "open",
        source=erasure.source,
        evidence_id=erasure.evidence_id,
        requested_at=erasure.requested_at,
        completed_at=erasure.completed_at,
        services=[
            Done(
                service=ack.service,
                erased_at=ack.erased_at,
                acknowledged_at=ack.acknowledged_at,
                erased=dict(ack.erased),
            )
            for ack in erasure.acks
        ],
        waiting_for=list(erasure.waiting_for),
        asked_again_at=erasure.asked_again_at,
        log_forgets_at=erasure.completed_at + LOG_FORGETS if erasure.completed_at else None,
        kept=[Kept(service=service, what=what, why=why) for service, what, why in KEPT],
    )


def _number(raw: str, held: Resources[ServiceSettings]) -> str:
    try:
        return any_number(raw, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("no number", reasons=[Reason("number", refused.reason)]) from refused
