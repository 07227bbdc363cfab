"""Serve the page behind a stop link: one button that stops a sender's marketing, for a person without an account.

A GET changes no state: messengers and scanners follow links before people do. A POST stops at once, from the button or
from a program (RFC 8058 asks the same of mail): the link alone suffices, because a stop only tightens. A link that is
not signed here reads no database and reveals nothing.
"""

import secrets
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from common.privacy.stop_link import PATH, StopLink, is_over, read
from common.sms.subject_id import Inner
from consent.calls import of_person
from consent.ledger import recorder
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.reopening import is_repeat
from consent.ledger.rules import Evidence
from consent.page.routes import Held, _form, _html, _Page, _reaches_further, _words
from consent.page.words import Words
from consent.senders import store as senders_store
from consent.senders.store import Sender

SOURCE = "stop_link"
ACTOR = "holder of a stop link"
Said = Literal["ask", "stopped", "unknown", "gone"]
CODES: dict[Said, int] = {"ask": 200, "stopped": 200, "unknown": 404, "gone": 410}

pages = APIRouter(prefix=PATH, route_class=_Page, default_response_class=HTMLResponse, include_in_schema=False)


@pages.get("/{sender_id}/{written}")
async def show(sender_id: str, written: str, request: Request, held: Held) -> Response:
    """Show the sender and the button. Changes no state, and shows nothing of the person."""
    words = _words(request)
    link = read(written, held.link_keys, sender_id)
    if link is None:
        return _said("unknown", words, sender_id, written)
    async with held.database.begin() as tx:
        sender = await senders_store.find_sender(tx, sender_id)
        wide = sender is not None and await _reaches_further(tx, sender)
    return _said(_standing(link, sender, datetime.now(UTC)), words, sender_id, written, sender, reaches_further=wide)


@pages.post("/{sender_id}/{written}")
async def stop(sender_id: str, written: str, request: Request, held: Held) -> Response:
    """Stop the marketing of this sender. A press after an opt-in or a question counts anew."""
    sent, now = await _form(request), datetime.now(UTC)
    words = _words(request, sent.get("lang"))
    link = read(written, held.link_keys, sender_id)
    if link is None:
        return _said("unknown", words, sender_id, written)
    keys = held.subject_keys
    subject_id = keys.of_digits(link.person)
    async with of_person(held, subject_id).database.begin() as tx:
        sender = await senders_store.find_sender(tx, sender_id)
        if (found := _standing(link, sender, now)) != "ask":
            return _said(found, words, sender_id, written, sender)
        await _record(tx, keys.inner, subject_id, sender_id, now)
        wide = sender is not None and await _reaches_further(tx, sender)
    return _said("stopped", words, sender_id, written, sender, reaches_further=wide)


async def _record(tx: AsyncConnection, inner: Inner, subject_id: str, sender_id: str, now: datetime) -> None:
    """Record the STOP, unless nothing has come since the same STOP: a link can be posted without end."""
    evidence = Evidence(
        evidence_id=evidence_id(SOURCE, subject_id, sender_id, secrets.token_hex(8)),
        kind="opt_out",
        sender_id=sender_id,
        purpose=None,
        source=SOURCE,
        actor=ACTOR,
        occurred_at=now,
        received_at=now,
    )
    subjects = await ledger_store.lock_subjects(tx, {subject_id: None})  # an opt-in may be in progress
    registered = (await ledger_store.known(tx, senders=[sender_id])).senders
    if not is_repeat(subjects[subject_id].state, recorder.controlled(evidence, registered)):
        await recorder.record(tx, inner, [Statement(subject_id, None, evidence)], now)


def _standing(link: StopLink, sender: Sender | None, now: datetime) -> Said:
    if sender is None:
        return "unknown"
    return "gone" if is_over(link, now) else "ask"


def _said(
    what: Said,
    words: Words,
    sender_id: str,
    written: str,
    sender: Sender | None = None,
    *,
    reaches_further: bool = False,
) -> Response:
    """Return the page. `sender`: of a signed link alone."""
    return _html(
        words,
        "stop.html",
        CODES[what],
        what=what,
        here=f"{PATH}/{quote(sender_id, safe='')}/{quote(written, safe='')}",
        sender=sender,
        reaches_further=reaches_further,
    )
