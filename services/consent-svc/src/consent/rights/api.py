"""Serve the rights of a person over HTTP: erasure with its certificate, a copy of all data, rectification.

A call concerns one controller of the caller's organisation, and needs a token for every sender of that controller. The
person's own page and texts reach every controller.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SEVEN_DAYS_MS
from common.db import everywhere
from common.privacy import erasing
from common.privacy.erasing import Whom
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.message_id import EPOCH, message_id
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.idempotency import Key, claim, keyed
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, Cursor, Limit, Page, cursor_of, positions
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Reason
from consent.calls import any_number, countries_of_all, of_person
from consent.ledger import corrections, recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import RECTIFICATION, Evidence
from consent.rights import copies, erasures, rectifications
from consent.rights.bodies import (
    KEPT,
    KEPT_FOR_OTHERS,
    AskedBody,
    Certificate,
    ContactBody,
    CopyBody,
    CopyView,
    Done,
    ErasureBody,
    Kept,
    LineBody,
    NumberBody,
    RectificationBody,
    RectificationView,
)
from consent.rights.copies import Copy
from consent.rights.erasures import Erasure
from consent.rights.rectifications import Rectification
from consent.senders import store as senders_store

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")

R = TypeVar("R")
LOG_FORGETS = timedelta(milliseconds=SEVEN_DAYS_MS)

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Reads = Annotated[Caller, Depends(require("erasure:read"))]
Writes = Annotated[Caller, Depends(require("erasure:write", limited=False))]  # begins with an opt-out
ReadsCopies = Annotated[Caller, Depends(require("copy:read"))]
WritesCopies = Annotated[Caller, Depends(require("copy:write"))]
ReadsRectifications = Annotated[Caller, Depends(require("rectification:read"))]
WritesRectifications = Annotated[Caller, Depends(require("rectification:write"))]
Progress = Annotated[Literal["open", "complete"], Query(description="Only those in this state.")]
Format = Annotated[Literal["json", "csv"], Query(description="`csv`: a file of the items, for a spreadsheet.")]

CSV = {
    "schema": {"type": "string", "format": "binary"},
    "example": "service,kind,item,field,value\r\nconsent,consent,1,purpose,promotions\r\n",
}


class BeingErased(Conflict):
    """An erasure of the person is under way, and what is asked for would read or change what is being erased.

    Wait until the erasure is complete.
    """

    slug, title = "being-erased", "An erasure of this person is under way"


class NotYet(Conflict):
    """A service has yet to answer with its part of the copy.

    Read the copy again later, without `format`, to see which service is missing.
    """

    slug, title = "not-complete", "The copy is incomplete: a service has yet to answer"


@dataclass(frozen=True, slots=True)
class Controller:
    """A controller, with its senders in order: there is no controller without a sender."""

    controller_id: str
    senders: Sequence[str]


async def _covered(tx: AsyncConnection, caller: Caller) -> set[str]:
    """Return the controllers of the caller's organisation all of whose senders the token covers."""
    theirs = await senders_store.controllers_of(tx, caller.organisation)
    return {one for one, senders in theirs.items() if caller.names(senders)}


async def _controller(tx: AsyncConnection, caller: Caller, named: str | None) -> Controller:
    """Return the controller that the call concerns. Raises Forbidden and Invalid.

    Raises NotFound also for a stranger's controller, and for one of whose senders the token names none.
    """
    senders_of = await senders_store.controllers_of(tx, caller.organisation)
    theirs = {one: senders for one, senders in senders_of.items() if any(caller.names([each]) for each in senders)}
    covered = [one for one, senders in theirs.items() if caller.names(senders)]
    if named is None:
        if len(covered) > 1:
            raise Invalid(
                "`controller` is required: the token covers several controllers",
                reasons=[Reason("controller", "controller_missing")],
            )
        named = next(iter(covered or theirs), None)
    if named is None or named not in theirs:
        raise NotFound("no such controller", reasons=[Reason("controller", "unknown_controller")])
    if named not in covered:
        raise Forbidden(
            "the token does not cover every sender of the controller",
            reasons=[Reason("controller", "sender_not_granted")],
        )
    return Controller(named, theirs[named])


@router.post(
    "/erasures",
    operation_id="erasures.create",
    status_code=202,
    response_model=Certificate,
    responses=tells(202, "Location") | refuses(NotFound),
)
async def ask_for_erasure(body: ErasureBody, request: Request, caller: Writes, held: Held, key: Key = None) -> Response:
    """Stop a controller's messages to this number at once, and erase the controller's data about the person.

    Every service erases what it holds for the controller's senders. What other controllers hold stays, and so do
    opt-outs. During an open erasure, the same request returns that erasure.
    """
    number = any_number(body.number, held, await countries_of_all(caller, held, body.country))
    subject_id = held.subject_keys.subject_id(number)
    async with of_person(held, subject_id).database.begin() as tx:
        controller = await _controller(tx, caller, body.controller)
        whom = Whom(subject_id, controller.controller_id)
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        subject = (await ledger_store.lock_subjects(tx, {subject_id: None}))[subject_id]
        now = datetime.now(UTC)  # after the lock: the erasure reaches all data recorded by now
        under_way = await erasures.open_of(tx, whom)
        asked = erasing.concerning((await erasing.asked_of(tx, [subject_id])).get(subject_id, ()), whom.controller_id)
        if under_way is None or (asked is not None and asked.lifted):
            inner = held.subject_keys.inner(subject_id)
            identity = evidence_id(
                "erasure", caller.account, key, (claimed.since or now).isoformat(), inner, whom.controller_id
            )
            known = await erasures.find(tx, [erasures.named(identity)])
            if not known:
                scopes = ledger.closing(subject.state, controller.senders, controller.controller_id)
                statements = [
                    Statement(
                        subject_id,
                        None,
                        Evidence(
                            evidence_id=named,
                            kind="opt_out",
                            sender_id=sender_id,
                            purpose=purpose,
                            occurred_at=now,
                            received_at=now,
                            **dict(body.evidence),
                        ),
                        erases=named == identity,
                    )
                    for (sender_id, purpose), named in _named(scopes, identity)
                ]
                await erasures.begin(
                    tx,
                    await recorder.record(tx, held.subject_keys.inner, statements, now),
                    now,
                    controller.controller_id,
                )
                known = await erasures.find(tx, [erasures.named(identity)])
            (under_way,) = known
        location = {"Location": f"/v1/erasures/{under_way.erasure_id}"}
        return await claimed.keep(tx, _certificate(under_way, held), 202, location)


@router.get("/erasures", operation_id="erasures.list", responses=refuses(NotFound))
async def list_erasures(
    caller: Reads,
    held: Held,
    status: Progress = "open",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Certificate]:
    """List open or complete erasures of the token's controllers, oldest first; to the platform's operator, all."""

    async def read(tx: AsyncConnection, after: int, most: int) -> list[Erasure]:
        controllers = None if caller.everywhere else await _covered(tx, caller)
        return await erasures.page(
            tx,
            controllers,
            complete=status == "complete",
            after=after,
            limit=most,
            is_part=held.shards.divided,
        )

    found, behind = await _page(held, cursor, limit, read)
    items = [_certificate(each, held) for each in found]
    return Page[Certificate](items=items, next=behind)


async def _page(
    held: Resources[ServiceSettings],
    cursor: str | None,
    limit: int,
    read: Callable[[AsyncConnection, int, int], Awaitable[Sequence[R]]],
) -> tuple[Sequence[R], str | None]:
    """Return a page of what every shard has, the oldest first, and the cursor behind it. `read`: as of a shard."""
    places = positions(cursor, len(held.shards.each))
    place, asked_at = attrgetter("place"), attrgetter("requested_at")
    found, behind = await everywhere.merged(held.shards, places, limit, read, place, asked_at)
    return found, None if behind is None else cursor_of(behind)


@router.get("/erasures/{erasure_id}", operation_id="erasures.get")
async def get_erasure(erasure_id: Storable, caller: Reads, held: Held) -> Certificate:
    """Return an erasure's progress, and its certificate once complete."""

    async def ask(tx: AsyncConnection) -> Erasure | None:
        covered = await _covered(tx, caller)
        found = next(iter(await erasures.find(tx, [erasure_id])), None)
        return found if found is not None and (caller.everywhere or found.controller_id in covered) else None

    _, found = await everywhere.found(held.shards, ask)
    if found is None:
        raise NotFound("no such erasure", reasons=[Reason("erasure_id", "unknown_erasure")])
    return _certificate(found, held)


@router.post(
    "/copies",
    operation_id="copies.create",
    status_code=202,
    response_model=CopyView,
    responses=tells(202, "Location") | refuses(NotFound, BeingErased),
)
async def ask_for_copy(body: CopyBody, request: Request, caller: WritesCopies, held: Held, key: Key = None) -> Response:
    """Gather all data that any service holds about this number for a controller (RGPD art. 15 and 20).

    That the person stopped every sender is part of the copy, as a fact. The copy lasts a week, unless the person is
    erased. The caller has verified the person's identity.
    """
    number = any_number(body.number, held, await countries_of_all(caller, held, body.country))
    subject_id = held.subject_keys.subject_id(number)
    now = datetime.now(UTC)
    async with of_person(held, subject_id).database.begin() as tx:
        controller = (await _controller(tx, caller, body.controller)).controller_id
        seed = ("key", caller.account, key) if key is not None else ("at", now.isoformat())
        copy_id = str(message_id(EPOCH, "copy", *seed, subject_id, controller))
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        under_way = await erasures.under_way(tx, subject_id, controller)
        if under_way and under_way.known:
            raise BeingErased("there will be nothing to copy", reasons=[Reason("number", "being_erased")])
        await copies.begin(tx, held.field_keys, copy_id, subject_id, controller, now, bare=under_way is not None)
        found = await copies.find(tx, held.field_keys, copy_id, {controller}, now)
        if found is None:
            raise _no_copy()
        log.info("a copy is asked for", extra={"copy_id": copy_id, "subject_id": subject_id, "by": caller.subject})
        return await claimed.keep(tx, _copy(found, held), 202, {"Location": f"/v1/copies/{copy_id}"})


@router.get(
    "/copies/{copy_id}",
    operation_id="copies.get",
    responses={200: {"content": {"text/csv": CSV}}, **refuses(NotYet)},
    response_model=CopyView,
)
async def get_copy(copy_id: Storable, caller: ReadsCopies, held: Held, format: Format = "json") -> CopyView | Response:
    """Return a copy's progress, and its content once complete: JSON, or CSV with a row per value."""
    now = datetime.now(UTC)

    async def ask(tx: AsyncConnection) -> Copy | None:
        return await copies.find(tx, held.field_keys, copy_id, await _covered(tx, caller), now)

    _, found = await everywhere.found(held.shards, ask)
    if found is None:
        raise _no_copy()
    log.info("a copy is fetched", extra={"copy_id": copy_id, "by": caller.subject})
    if format == "json":
        return _copy(found, held)
    if found.completed_at is None:
        raise NotYet("ask again in a moment", reasons=[Reason("copy_id", "not_complete")])
    return Response(
        copies.csv_of(found),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{copy_id}.csv"', "Cache-Control": "no-store"},
    )


def _copy(copy: Copy, held: Resources[ServiceSettings]) -> CopyView:
    complete = copy.completed_at is not None
    return CopyView(
        copy_id=copy.copy_id,
        subject_id=held.edge_ids.of(copy.controller_id).shown(copy.subject_id),
        controller=copy.controller_id,
        status="complete" if complete else "open",
        requested_at=copy.requested_at,
        completed_at=copy.completed_at,
        expires_at=copy.expires_at,
        waiting_for=list(copy.waiting_for),
        data={service: [dict(item) for item in items] for service, items in copy.items.items()} if complete else None,
    )


def _no_copy() -> NotFound:
    return NotFound("no such copy, or not any more", reasons=[Reason("copy_id", "unknown_copy")])


@router.post(
    "/rectifications",
    operation_id="rectifications.create",
    status_code=202,
    response_model=RectificationView,
    responses=tells(202, "Location") | refuses(NotFound, BeingErased),
)
async def ask_for_rectification(
    body: RectificationBody,
    request: Request,
    caller: WritesRectifications,
    held: Held,
    key: Key = None,
) -> Response:
    """Correct a controller's data about this number (RGPD art. 16): a contact's fields, the number, or a ledger line.

    A rectification never opens a consent: record the right consent with `POST /v1/consents`. The caller has verified
    the person's identity.
    """
    number = any_number(body.number, held, await countries_of_all(caller, held, body.country))
    subject_id = held.subject_keys.subject_id(number)
    now = datetime.now(UTC)
    async with of_person(held, subject_id).database.begin() as tx:
        controller = await _controller(tx, caller, body.controller)
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        since = claimed.since or now
        inner = held.subject_keys.inner(subject_id)
        seed = caller.account, key or "", since.isoformat(), inner, controller.controller_id
        identity = str(message_id(EPOCH, "rectification", *seed))
        found = await rectifications.find(tx, held.field_keys, identity)
        if found is None:
            await _rectify(tx, caller, held, body, controller, identity, subject_id, now)
            found = await rectifications.find(tx, held.field_keys, identity)
        assert found is not None, "begun in this transaction"
        location = {"Location": f"/v1/rectifications/{identity}"}
        return await claimed.keep(tx, _rectification(found, held), 202, location)


@router.get("/rectifications", operation_id="rectifications.list", responses=refuses(NotFound))
async def list_rectifications(
    caller: ReadsRectifications,
    held: Held,
    status: Progress = "open",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[RectificationView]:
    """List open or complete rectifications of the token's controllers, oldest first."""

    async def read(tx: AsyncConnection, after: int, most: int) -> list[Rectification]:
        return await rectifications.page(
            tx,
            held.field_keys,
            await _covered(tx, caller),
            complete=status == "complete",
            after=after,
            limit=most,
            is_part=held.shards.divided,
        )

    found, behind = await _page(held, cursor, limit, read)
    items = [_rectification(each, held) for each in found]
    return Page[RectificationView](items=items, next=behind)


@router.get("/rectifications/{rectification_id}", operation_id="rectifications.get")
async def get_rectification(rectification_id: Storable, caller: ReadsRectifications, held: Held) -> RectificationView:
    """Return a rectification: the request, and the data corrected."""

    async def ask(tx: AsyncConnection) -> Rectification | None:
        covered = await _covered(tx, caller)
        found = await rectifications.find(tx, held.field_keys, rectification_id)
        return found if found is not None and found.controller_id in covered else None

    _, found = await everywhere.found(held.shards, ask)
    if found is None:
        raise NotFound("no such rectification", reasons=[Reason("rectification_id", "unknown_rectification")])
    return _rectification(found, held)


async def _rectify(
    tx: AsyncConnection,
    caller: Caller,
    held: Resources[ServiceSettings],
    body: RectificationBody,
    controller: Controller,
    identity: str,
    subject_id: str,
    now: datetime,
) -> None:
    """Record a rectification. Raises BeingErased, NotFound, Invalid."""
    what = body.correct
    under_way = await erasures.under_way(tx, subject_id, controller.controller_id)
    if what.kind != "number" and under_way and under_way.known:
        raise BeingErased("there will be nothing to put right", reasons=[Reason("number", "being_erased")])
    appended: list[Evidence] = []
    if isinstance(what, LineBody):
        line = await _line(tx, caller, controller, subject_id, what.evidence_id)
        appended = [_correction(line, what, body.asked, identity, now)]
    else:
        if what.sender_id is not None and what.sender_id not in controller.senders:
            raise NotFound("no such sender", reasons=[Reason("correct.sender_id", "unknown_sender")])
        if isinstance(what, NumberBody):
            appended = await _wrong_number(tx, what, body.asked, controller, identity, subject_id, now)
    if appended:
        await recorder.record(tx, held.subject_keys.inner, [Statement(subject_id, None, one) for one in appended], now)
    evidence = appended[-1] if appended else None
    new = Rectification(
        rectification_id=identity,
        place=0,  # Postgres assigns the place
        subject_id=subject_id,
        controller_id=controller.controller_id,
        kind=what.kind,
        sender_id=what.sender_id if not isinstance(what, LineBody) else evidence.sender_id if evidence else None,
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


async def _wrong_number(
    tx: AsyncConnection,
    what: NumberBody,
    asked: AskedBody,
    controller: Controller,
    identity: str,
    subject_id: str,
    now: datetime,
) -> list[Evidence]:
    """Return the opt-outs of a number that is not the person's, from a sender or from each of the controller."""
    locked = await ledger_store.lock_subjects(tx, {}, [subject_id])
    state = locked[subject_id].state if subject_id in locked else ledger.NEVER_SEEN
    if what.sender_id is None:
        scopes = ledger.closing(state, controller.senders, controller.controller_id)
    else:
        sender = await senders_store.find_sender(tx, what.sender_id)
        whole = controller.controller_id if sender and sender.stop_scope == "controller" else None
        scopes = [*ledger.given_to(state, what.sender_id, whole), (what.sender_id, None)]
    return [
        Evidence(
            evidence_id=named,
            kind="opt_out",
            sender_id=sender_id,
            purpose=purpose,
            source=RECTIFICATION,
            actor=asked.actor,
            occurred_at=now,
            received_at=now,
        )
        for (sender_id, purpose), named in _named(scopes, evidence_id(RECTIFICATION, identity))
    ]


def _named(scopes: Sequence[tuple[str, str | None]], identity: str) -> list[tuple[tuple[str, str | None], str]]:
    """Return each scope with the id of its evidence, `identity` for the last."""
    named = [(scope, evidence_id(identity, *scope)) for scope in scopes[:-1]]
    return [*named, (scopes[-1], identity)]


async def _line(tx: AsyncConnection, caller: Caller, controller: Controller, subject_id: str, wrong: str) -> Evidence:
    """Return the wrong line of this person's ledger, of a sender of the controller. Raises Invalid.

    A line about every sender is corrected by the platform's operator.
    """
    entry = await ledger_store.find_entry(tx, wrong)
    theirs = {*controller.senders, None} if caller.everywhere else {*controller.senders}
    if entry is None or entry.subject_id != subject_id or entry.evidence.sender_id not in theirs:
        raise Invalid("not on record", reasons=[Reason("correct.evidence_id", "unknown_evidence")])
    if entry.evidence.kind == "correction":
        raise Invalid(
            "`correct.evidence_id` names a correction: name the corrected line itself",
            reasons=[Reason("correct.evidence_id", "is_a_correction")],
        )
    return entry.evidence


def _rectification(found: Rectification, held: Resources[ServiceSettings]) -> RectificationView:
    return RectificationView(
        rectification_id=found.rectification_id,
        subject_id=held.edge_ids.of(found.controller_id).shown(found.subject_id),
        controller=found.controller_id,
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


def _certificate(erasure: Erasure, held: Resources[ServiceSettings]) -> Certificate:
    complete = erasure.completed_at is not None
    whose, subject_id = erasure.controller_id, erasure.subject_id
    return Certificate(
        erasure_id=erasure.erasure_id,
        subject_id=subject_id if whose is None else held.edge_ids.of(whose).shown(subject_id),
        controller=erasure.controller_id,
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
        kept=[
            Kept(service=service, what=what, why=why)
            for service, what, why in (*KEPT, *(KEPT_FOR_OTHERS if erasure.controller_id else ()))
        ],
    )
