"""Serve the page behind a double opt-in link: the offered consent, its sender, and a button that says yes.

A GET changes no state: messengers and scanners follow links before people do. The page for an invalid link reveals no
person.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.service import Resources
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in import rules as asking
from consent.double_opt_in.rules import Question
from consent.ledger import recorder
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.page.link import Link, form, form_holds, read, token
from consent.page.routes import HEADERS, Held, PageSettings, _form, _html, _Page, _words, is_from_the_page
from consent.page.words import Words
from consent.senders import store as senders_store
from consent.senders.store import Sender

PATH = "/c"
CONFIRM = b"double opt-in"  # no link of the preference page opens this page, nor the reverse
Said = Literal["ask", "confirmed", "unknown", "gone", "closed", "stale", "elsewhere"]
CODES: dict[Said, int] = {
    "ask": 200,
    "confirmed": 200,
    "unknown": 404,
    "gone": 410,
    "closed": 410,
    "stale": 409,
    "elsewhere": 403,
}

pages = APIRouter(prefix=PATH, route_class=_Page, default_response_class=HTMLResponse, include_in_schema=False)


def url(held: Resources[PageSettings], link_id: str, expires_at: datetime) -> str:
    """Return the link where the person confirms. The caller has checked `page_url`."""
    assert held.settings.page_url is not None, "the caller has looked"
    written = token(Link(link_id, expires_at), held.link_keys, CONFIRM)
    return f"{held.settings.page_url.rstrip('/')}{PATH}/{written}"


@dataclass(frozen=True, slots=True)
class _Visit:
    """A valid link with its question, sender and request."""

    question: Question
    number: str
    sender: Sender
    request: Evidence
    open: bool


@pages.get("/{written}")
async def show(written: str, request: Request, held: Held) -> Response:
    """Show the question, or its outcome. Changes no state."""
    words = _words(request)
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, held, written, datetime.now(UTC))
    if not isinstance(visit, _Visit):
        return _said(visit, words, written)
    if visit.question.confirmed:
        return _said("confirmed", words, written, visit)
    if not visit.open:
        return _said("closed", words, written)
    return _said("ask", words, written, visit, form(held.link_keys, "confirm", written))


@pages.post("/{written}")
async def confirm(written: str, request: Request, held: Held) -> Response:
    """Record the yes. A repeated or late yes changes no state."""
    sent, now = await _form(request), datetime.now(UTC)
    words = _words(request, sent.get("lang"))
    if not is_from_the_page(request, held.settings.page_url):
        return _said("elsewhere", words, written)
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, held, written, now, lock=True)
        if not isinstance(visit, _Visit):
            return _said(visit, words, written)
        if not visit.question.confirmed:
            if not visit.open:
                return _said("closed", words, written)
            if not form_holds(sent.get("form", ""), held.link_keys, "confirm", written):
                return _said("stale", words, written)
            said = asking.yes(
                visit.request,
                evidence_id=evidence_id(double_opt_ins.SOURCE, "yes", visit.question.evidence_id),
                source=double_opt_ins.SOURCE,
                at=now,
                received_at=now,
            )
            await recorder.record(
                tx, held.subject_keys.inner, [Statement(visit.question.subject_id, visit.number, said)], now
            )
            await double_opt_ins.confirm(tx, [visit.question.evidence_id], now)
    return RedirectResponse(f"{PATH}/{written}?lang={words.language}", 303, headers=HEADERS)


async def _where(held: Resources[PageSettings], written: str) -> Resources[PageSettings]:
    """Return the resources of the shard with the question of a link, which names nobody: every shard is asked."""
    named = read(written, held.link_keys, CONFIRM) if held.shards.divided else None
    if named is None or named.expires_at <= datetime.now(UTC):
        return held
    shard, _ = await everywhere.found(held.shards, lambda tx: double_opt_ins.by_link(tx, named.link_id))
    return held.of_shard(shard)


async def _visit(
    tx: AsyncConnection, held: Resources[PageSettings], written: str, now: datetime, *, lock: bool = False
) -> _Visit | Said:
    """Return the visit, or the reason for a refusal. `lock` holds the subject until the recording."""
    named = read(written, held.link_keys, CONFIRM)
    if named is None:
        return "unknown"
    if named.expires_at <= now:
        return "gone"
    question = await double_opt_ins.by_link(tx, named.link_id)
    if question is not None and lock:
        await ledger_store.lock_subjects(tx, {}, [question.subject_id])
        question = await double_opt_ins.by_link(tx, named.link_id)
    if question is None or question.number is None:  # erased
        return "gone"
    subject = await ledger_store.find_subject(tx, question.subject_id)
    sender = await senders_store.find_sender(tx, question.sender_id)
    request = (await double_opt_ins.requests(tx, [question])).get(question.evidence_id)
    if subject is None or sender is None or request is None:
        return "gone"
    waits = asking.answered_by_link(subject.state, question, now)
    return _Visit(question, question.number, sender, request, waits)


def _said(what: Said, words: Words, written: str, visit: _Visit | None = None, button: str = "") -> Response:
    told = {}
    if visit is not None:
        offered = {p.id: p.wording for p in visit.sender.purposes}
        told = {"wording": visit.request.text_shown or offered.get(visit.question.purpose, visit.question.purpose)}
    return _html(
        words,
        "confirm.html",
        CODES[what],
        what=what,
        here=f"{PATH}/{quote(written, safe='')}",
        sender=visit.sender if visit else None,
        form=button,
        expires_at=visit.question.expires_at if visit else None,
        **told,
    )
