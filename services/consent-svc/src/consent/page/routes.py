"""Serve the preference page.

A GET changes no state: scanners follow a link before the person does. Tightening needs the link alone. An opt-in, a
copy or an erasure also needs the link's browser, and a form made for the present ledger (ADR-0021); an opt-in or an
erasure, a link texted to the person, or given to a caller for every sender (ADR-0058). The page for an invalid link
reveals no owner.
"""

import base64
import hashlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources as files
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.privacy.erasing import Whom
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.subject_id import Inner
from common.telemetry import counter
from common.web.problems import DATABASE_DOWN
from consent.ledger import recorder
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.ledger.store import Subject
from consent.page import store
from consent.page.copies import csv_copy, json_copy
from consent.page.link import BROWSER, Link, browser_hash, form_holds, read
from consent.page.link import form as link_form
from consent.page.view import Choice, View, actor, of_the_controllers, senders_shown, senders_told, view
from consent.page.words import LANGUAGES, Words, chosen
from consent.retention import contacts
from consent.rights import erasures
from consent.rights import store as rights_store
from consent.rights.store import PreferenceLink
from consent.senders import store as senders_store
from consent.senders.store import Sender

log = logging.getLogger(__name__)

PATH = "/p"
FORM_BYTES = 4096
SOURCE = "preference_page"
CSS = files.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
_STYLE = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
HEADERS = {
    # the style sheet is inline under its hash, the icon in its URL
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE}'; img-src data:; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the link is in the URL
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept-Language",
}
OURS = ("same-origin", "none")  # of Sec-Fetch-Site; an old browser sends none


def is_from_the_page(request: Request, page_url: str | None) -> bool:
    """Return whether a form was sent by a page of ours, as far as the browser says.

    An old browser says nothing, and `Origin: null` is what `Referrer-Policy: no-referrer` makes of ours.
    """
    if request.headers.get("sec-fetch-site", "none") not in OURS:
        return False
    origin = request.headers.get("origin", "null")
    here = {f"{request.url.scheme}://{request.url.netloc}", (page_url or "").rstrip("/")}
    return origin == "null" or origin in here


class PageSettings(ServiceSettings):
    """`page_url`: without path, "https://p.example"; if None, no link is made."""

    page_url: str | None = None
    """The URL of the preference page, without a path: `https://p.example`. Without: no link is made."""
    link_days: int = Field(7, ge=1, le=90)
    """A link to the preference page is good for so long."""

    @property
    def page_over_tls(self) -> bool:
        """Return whether browsers reach the page over TLS. In development they need not."""
        return (self.page_url or "").startswith("https://")

    @model_validator(mode="after")
    def _the_page_is_over_tls_outside_development(self) -> "PageSettings":
        if not (self.development or self.page_url is None or self.page_over_tls):
            raise ValueError("PLACET_PAGE_URL is no https: browsers keep the page's cookie over https alone")
        return self


Held = Annotated[Resources[PageSettings], Depends(resources)]
Status = Literal["unknown", "gone", "other", "limited", "halted", "stale", "elsewhere", "down"]
CODES: dict[Status, int] = {
    "unknown": 404,
    "gone": 410,
    "other": 403,
    "limited": 403,
    "halted": 200,
    "stale": 409,
    "elsewhere": 403,
    "down": 503,
}
Reach = Literal["all", "house", "brand", "purpose"]  # of a stop; "house": each brand of the controller
ANSWERS = counter("sms_consent_page_answers_total", "Responses of the preference page, by kind.", ["result"])


class _Page(APIRoute):
    """A route whose every failure is a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                down = isinstance(error, DATABASE_DOWN)
                log.error("a dependency is down" if down else "the page failed", exc_info=error)
                page = _door(request, "down")
                if down:
                    page.headers["Retry-After"] = "1"
                return page

        return handled


pages = APIRouter(prefix=PATH, route_class=_Page, default_response_class=HTMLResponse, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request with a valid link. `browser`: from the cookie."""

    token: str
    link: PreferenceLink
    words: Words
    now: datetime
    browser: str | None

    @property
    def here(self) -> str:
        return f"{PATH}/{self.token}"

    @property
    def elsewhere(self) -> bool:
        """Return whether the link belongs to another browser."""
        return self.link.browser is not None and self.link.browser != browser_hash(self.browser or "")


@pages.get("/{written}")
async def show(written: str, request: Request, held: Held) -> Response:
    """Show the records, and the ways out. Changes no state."""
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written)
        if isinstance(visit, Response):
            return visit
        if visit.elsewhere:
            return await _other(tx, request, visit)
        seen = await _seen(tx, held, visit)
    browser = visit.browser or secrets.token_urlsafe(16)

    def form(*of: object) -> str:
        return link_form(held.link_keys, visit.token, browser, seen.entries, *of)

    page = _html(
        visit.words,
        "page.html",
        200,
        here=visit.here,
        view=seen,
        one=visit.link.sender_id is not None,
        only_stops=visit.link.only_stops,
        form=form,
        agreement=lambda choice: _agreement(visit.words, choice),
        expires_at=visit.link.expires_at,
    )
    page.set_cookie(
        cookie_of(visit.link, held.settings),
        browser,
        expires=visit.link.expires_at,
        secure=held.settings.page_over_tls,
        httponly=True,
        samesite="lax",  # the first visit comes from a message
    )
    return page


@pages.post("/{written}/stop")
async def stop(written: str, request: Request, held: Held) -> Response:
    """Stop everything that the link covers. Any holder of the link may, because a stop only tightens."""
    form = await _form(request)
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written, form.get("lang"))
        if isinstance(visit, Response):
            return visit
        await _refuse(tx, held.subject_keys.inner, visit, visit.link.sender_id, None)
        reach = await _reach(tx, visit.link)
    return _door(request, "halted", visit.words, reach) if visit.elsewhere else _back(visit)


@pages.post("/{written}/purposes")
async def choose(written: str, request: Request, held: Held) -> Response:
    """Turn a purpose off or on."""
    form = await _form(request)
    sender_id, purpose = form.get("sender", ""), form.get("purpose", "")
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written, form.get("lang"))
        if isinstance(visit, Response):
            return visit
        link = visit.link
        if form.get("want") != "on":
            purposes = (await senders_store.purposes_of(tx, [sender_id])).get(sender_id)
            if link.sender_id not in (None, sender_id) or purposes is None or purpose not in purposes.ever:
                return _door(request, "stale", visit.words)
            inner = held.subject_keys.inner
            said = contacts.contact(
                inner, link.subject_id, sender_id, visit.now, visit.now, source=SOURCE, actor=actor(link)
            )
            # an opt-out of one purpose is no contact by itself; a link that only stops may be in other hands
            met = {} if link.only_stops else await contacts.worth_keeping(tx, {0: said})
            await _refuse(tx, held.subject_keys.inner, visit, sender_id, purpose, *met.values())
            return _door(request, "halted", visit.words, "purpose") if visit.elsewhere else _back(visit)
        if link.only_stops:
            return _door(request, "limited", visit.words)
        # no STOP comes between the page the person saw and the record
        await ledger_store.lock_subjects(tx, {}, known=[link.subject_id])
        seen = await _seen(tx, held, visit)
        choice = next(
            (c for p in seen.parties for c in p.choices if (c.sender.sender_id, c.purpose) == (sender_id, purpose)),
            None,
        )
        of = ("on", sender_id, purpose, choice.sender.version if choice else 0, visit.words.language)
        if choice is None or not choice.offered or not await _taken(tx, held, visit, form, seen.entries, *of):
            return await _other_or_stale(tx, request, visit)
        evidence = Evidence(
            evidence_id=evidence_id(SOURCE, link.link_id, "on", sender_id, purpose, str(seen.entries)),
            kind="opt_in",
            sender_id=sender_id,
            purpose=purpose,
            basis="opt_in",
            source=SOURCE,
            form_id=SOURCE,
            form_version=str(choice.sender.version),
            text_shown=_agreement(visit.words, choice),
            actor=actor(link),
            occurred_at=visit.now,
            received_at=visit.now,
        )
        await recorder.record(
            tx, held.subject_keys.inner, [Statement(link.subject_id, link.number, evidence)], visit.now
        )
    return _back(visit)


@pages.post("/{written}/copy")
async def copy(written: str, request: Request, held: Held) -> Response:
    """Download the page's content and the evidence as a file.

    The method is POST, so that a scanner that follows links downloads no personal data.
    """
    form = await _form(request)
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written, form.get("lang"))
        if isinstance(visit, Response):
            return visit
        seen = await _seen(tx, held, visit)
        if not await _taken(tx, held, visit, form, seen.entries, "copy"):
            return await _other_or_stale(tx, request, visit)
    ANSWERS.labels("copy").inc()
    name = f"{visit.words('copy_file')}-{visit.now:%Y-%m-%d}"
    as_csv = form.get("format") == "csv"
    return Response(
        csv_copy(seen) if as_csv else json_copy(seen, visit.now),
        media_type="text/csv; charset=utf-8" if as_csv else "application/json",
        headers={**HEADERS, "Content-Disposition": f'attachment; filename="{name}.{"csv" if as_csv else "json"}"'},
    )


@pages.post("/{written}/erase")
async def erase(written: str, request: Request, held: Held) -> Response:
    """Erase the person for every sender: record the opt-out, then have each service erase its data."""
    form = await _form(request)
    held = await _where(held, written)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written, form.get("lang"))
        if isinstance(visit, Response):
            return visit
        link = visit.link
        if link.only_stops:
            return _door(request, "limited", visit.words)
        await ledger_store.lock_subjects(tx, {link.subject_id: None})  # an opt-in may be in progress
        now = datetime.now(UTC)
        seen = await _seen(tx, held, visit)
        if form.get("sure") != "yes" or not await _taken(tx, held, visit, form, seen.entries, "erase"):
            return await _other_or_stale(tx, request, visit)
        evidence = Evidence(
            evidence_id=_erasing(Link(link.link_id, link.expires_at)),
            kind="opt_out",
            sender_id=None,
            purpose=None,
            source=SOURCE,
            actor=actor(link),
            occurred_at=now,
            received_at=now,
        )
        recorded = await recorder.record(
            tx, held.subject_keys.inner, [Statement(link.subject_id, None, evidence, erases=True)], now
        )
        await erasures.begin(tx, recorded, now)
        # the token still opens the certificate
        await rights_store.delete_links(tx, {Whom(link.subject_id, None): now})
    return _back(visit)


def _erasing(link: Link) -> str:
    """Return the evidence id of an erasure by this link, found by the token alone.

    An Idempotency-Key may make a later link with the same id but another expiry.
    """
    return evidence_id(SOURCE, link.link_id, link.expires_at.isoformat(), "erase")


async def _refuse(
    tx: AsyncConnection, inner: Inner, visit: _Visit, sender_id: str | None, purpose: str | None, *before: Statement
) -> None:
    link = visit.link
    evidence = Evidence(
        # a second no, from a page left open, counts as much as the first
        evidence_id=evidence_id(SOURCE, link.link_id, "off", secrets.token_hex(8)),
        kind="opt_out",
        sender_id=sender_id,
        purpose=purpose,
        source=SOURCE,
        actor=actor(link),
        occurred_at=visit.now,
        received_at=visit.now,
    )
    await recorder.record(tx, inner, [*before, Statement(link.subject_id, link.number, evidence)], visit.now)


async def _taken(
    tx: AsyncConnection,
    held: Resources[PageSettings],
    visit: _Visit,
    form: Mapping[str, str],
    entries: int,
    *of: object,
) -> bool:
    """Check the form of an action beyond a stop, and bind the link to the browser. Return whether both hold."""
    sent, browser = form.get("form", ""), visit.browser
    if browser is None or not form_holds(sent, held.link_keys, visit.token, browser, entries, *of):
        return False
    return await rights_store.bind_link(tx, visit.link.link_id, browser_hash(browser))


async def _seen(tx: AsyncConnection, held: Resources[PageSettings], visit: _Visit) -> View:
    link = visit.link
    subject = await ledger_store.find_subject(tx, link.subject_id) or Subject(subject_id=link.subject_id)
    told = await senders_store.senders_of(tx, senders_told(subject.state, link.sender_id))
    senders = of_the_controllers(told, senders_shown(subject.state, link.sender_id))
    theirs = [sender.sender_id for sender in senders]
    entries = await ledger_store.history(tx, link.subject_id, subject.entries, theirs)
    number = held.field_keys.unseal(link.number, f"number:{link.subject_id}")
    wide = await _reach(tx, link) == "house"
    return view(number, link, subject, entries, senders, visit.now, reaches_further=wide)


async def _reach(tx: AsyncConnection, link: PreferenceLink) -> Reach:
    """Return what the link's stop covers, as `recorder.controlled` widens the opt-out."""
    if link.sender_id is None:
        return "all"
    sender = await senders_store.find_sender(tx, link.sender_id)
    return "house" if sender is not None and await _reaches_further(tx, sender) else "brand"


async def _reaches_further(tx: AsyncConnection, sender: Sender) -> bool:
    """Return whether a STOP to the sender covers other senders on record."""
    return sender.stop_scope == "controller" and await senders_store.has_sisters(tx, sender)


async def _other(tx: AsyncConnection, request: Request, visit: _Visit) -> Response:
    """Return the page of another browser's link: the button says what the link stops, and names no brand."""
    return _door(request, "other", visit.words, await _reach(tx, visit.link))


async def _other_or_stale(tx: AsyncConnection, request: Request, visit: _Visit) -> Response:
    return await _other(tx, request, visit) if visit.elsewhere else _door(request, "stale", visit.words)


async def _visit(
    tx: AsyncConnection, request: Request, held: Resources[PageSettings], written: str, asked: str | None = None
) -> _Visit | Response:
    """Return the visit, or the page that says why the link opens nothing."""
    if request.method == "POST" and not is_from_the_page(request, held.settings.page_url):
        return _door(request, "elsewhere")
    named, now = read(written, held.link_keys), datetime.now(UTC)
    if named is None:
        return _door(request, "unknown")
    if named.expires_at <= now:
        return _door(request, "gone")
    link = await store.find_link(tx, named.link_id)
    if link is None or link.expires_at != named.expires_at:
        return await _certificate(tx, request, named, written) or _door(request, "gone")
    browser = request.cookies.get(cookie_of(link, held.settings), "")
    return _Visit(written, link, _words(request, asked), now, browser if BROWSER.fullmatch(browser) else None)


async def _where(held: Resources[PageSettings], written: str) -> Resources[PageSettings]:
    """Return the resources of the shard with the link, or with the certificate of its erasure.

    A link names nobody, so every shard is asked. One that does not answer fails the visit where no other has the link.
    """
    named = read(written, held.link_keys) if held.shards.divided else None
    if named is None or named.expires_at <= datetime.now(UTC):
        return held
    erasure_id = erasures.named(_erasing(named))

    async def ask(tx: AsyncConnection) -> object:
        link = await store.find_link(tx, named.link_id)
        return link if link is not None and link.expires_at == named.expires_at else None

    async def ask_erased(tx: AsyncConnection) -> object:
        return await erasures.find(tx, [erasure_id]) or None

    shard, link = await everywhere.found(held.shards, ask)
    if link is None:
        shard, _ = await everywhere.found(held.shards, ask_erased)
    return held.of_shard(shard)


async def _certificate(tx: AsyncConnection, request: Request, named: Link, written: str) -> Response | None:
    """Return the certificate of the erasure that this link asked for."""
    found = await erasures.find(tx, [erasures.named(_erasing(named))])
    if not found:
        return None
    return _html(
        _words(request),
        "erased.html",
        200,
        here=f"{PATH}/{written}",
        erasure=found[0],
        services=erasures.SERVICES,
        times={ack.service: ack.erased_at for ack in found[0].acks},
        expires_at=named.expires_at,
    )


async def _form(request: Request) -> dict[str, str]:
    """Return the readable fields sent; the last of a name wins."""
    body = (await request.body()).decode("ascii", errors="ignore")
    return {name: value for name, value in parse_qsl(body) if "\0" not in value}


def cookie_of(link: PreferenceLink, settings: PageSettings) -> str:
    """Return the name of the cookie that holds a link's browser.

    `__Host-` (RFC 6265bis): browsers take the cookie over TLS alone, from this host alone, never from a sister host.
    Such a cookie is of every path, so its name has the link: two links in a browser share no value.
    """
    return f"{'__Host-' if settings.page_over_tls else ''}browser-{link.link_id}"


def _agreement(words: Words, choice: Choice) -> str:
    """Return the sentence that the person reads before a yes: the `text_shown`."""
    sender = choice.sender
    return words(
        "agree",
        brand=sender.brand,
        legal_name=sender.legal_name,
        wording=choice.wording,
        stop_code=sender.stop_code,
    )


def _words(request: Request, asked: str | None = None) -> Words:
    return chosen(asked or request.query_params.get("lang"), request.headers.get("accept-language"))


def _back(visit: _Visit) -> Response:
    """Redirect to the page."""
    ANSWERS.labels("done").inc()
    return RedirectResponse(f"{visit.here}?lang={visit.words.language}", 303, headers=HEADERS)


def _door(request: Request, what: Status, words: Words | None = None, reach: Reach | None = None) -> Response:
    """Return the page shown instead, without any detail of the link's owner. `reach`: of "other" and "halted"."""
    page, named = request.url.path.split("/")[1], request.path_params
    parts = (quote(str(named[part]), safe="") for part in ("sender_id", "written") if part in named)
    here = "/".join(("", page, *parts))
    return _html(words or _words(request), "door.html", CODES[what], what=what, here=here, reach=reach)


def _html(words: Words, template: str, status: int, **more: Any) -> Response:
    ANSWERS.labels(more.get("what", "page")).inc()
    [other] = [language for language in LANGUAGES if language != words.language]
    markup = _templates.get_template(template).render(t=words, other=other, css=Markup(CSS), **more)  # noqa: S704
    return HTMLResponse(markup, status, headers={**HEADERS, "Content-Language": words.language})


_templates = Environment(
    loader=PackageLoader(__package__, "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
