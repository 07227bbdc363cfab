"""Serve the page behind the preference link of a campaign's text, whose button opens the preference page.

The link is signed and stored nowhere. A GET changes no state: messengers and scanners follow links before people do. A
campaign's text is passed on more than an answer to one person, so the link opens what any link of a caller opens: it
shows, copies and stops, and neither opts in nor erases (ADR-0058).
"""

from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from common.privacy import erasing
from common.privacy.stop_link import PREFERENCES_PATH, StopLink, is_over, read
from common.service import Resources
from consent.calls import of_person
from consent.ledger import store as ledger_store
from consent.page.link import Link, token
from consent.page.routes import HEADERS, PATH, Held, PageSettings, _form, _html, _Page, _words
from consent.page.words import Words
from consent.rights import store as rights_store
from consent.rights.store import PreferenceLink
from consent.senders import store as senders_store
from consent.senders.store import Sender

Said = Literal["open", "unknown", "gone"]
CODES: dict[Said, int] = {"open": 200, "unknown": 404, "gone": 410}

pages = APIRouter(
    prefix=PREFERENCES_PATH, route_class=_Page, default_response_class=HTMLResponse, include_in_schema=False
)


@pages.get("/{sender_id}/{written}")
async def show(sender_id: str, written: str, request: Request, held: Held) -> Response:
    """Show the sender and the button. Changes no state, and shows no data of the person."""
    words = _words(request)
    link = read(written, held.link_keys, sender_id, "preference link")
    if link is None:
        return _said("unknown", words, sender_id, written)
    async with held.database.begin() as tx:
        sender = await senders_store.find_sender(tx, sender_id)
    return _said(_standing(link, sender, datetime.now(UTC)), words, sender_id, written, sender)


@pages.post("/{sender_id}/{written}")
async def enter(sender_id: str, written: str, request: Request, held: Held) -> Response:
    """Redirect to the preference page by a short link, the same at each visit until that link expires."""
    sent, now = await _form(request), datetime.now(UTC)
    words = _words(request, sent.get("lang"))
    link = read(written, held.link_keys, sender_id, "preference link")
    if link is None:
        return _said("unknown", words, sender_id, written)
    who = held.subject_keys.of_digits(link.person)
    async with of_person(held, who).database.begin() as tx:
        sender = await senders_store.find_sender(tx, sender_id)
        found = _standing(link, sender, now)
        short = await _short_link(tx, held, sender, written, who, now) if sender and found == "open" else None
    if short is None:
        return _said("gone" if found == "open" else found, words, sender_id, written, sender)
    return RedirectResponse(f"{PATH}/{token(short, held.link_keys)}?lang={words.language}", 303, headers=HEADERS)


async def _short_link(
    tx: AsyncConnection, held: Resources[PageSettings], sender: Sender, written: str, who: str, now: datetime
) -> Link | None:
    """Store the short link and return it, or None where no number is on record, or the sender's data is erased."""
    subject = await ledger_store.find_subject(tx, who)
    if subject is None or subject.number is None or subject.erased_at is not None:
        return None
    await erasing.be_waited_for(tx)
    erasures = (await erasing.asked_of(tx, [subject.subject_id])).get(subject.subject_id, ())
    asked = erasing.concerning(erasures, sender.controller)
    if asked is not None and not asked.lifted:
        return None
    short = PreferenceLink(
        link_id=held.link_keys.tag(f"preferences {sender.sender_id} {written}".encode())[:8].hex(),
        subject_id=subject.subject_id,
        number=subject.number,
        sender_id=sender.sender_id,
        expires_at=(now + timedelta(days=held.settings.link_days)).replace(microsecond=0),
    )
    return Link(short.link_id, await rights_store.add_link(tx, short, now))


def _standing(link: StopLink, sender: Sender | None, now: datetime) -> Said:
    if sender is None:
        return "unknown"
    return "gone" if is_over(link, now) else "open"


def _said(what: Said, words: Words, sender_id: str, written: str, sender: Sender | None = None) -> Response:
    """Return the page. `sender`: of a signed link alone."""
    return _html(
        words,
        "preferences.html",
        CODES[what],
        what=what,
        here=f"{PREFERENCES_PATH}/{quote(sender_id, safe='')}/{quote(written, safe='')}",
        sender=sender,
    )
