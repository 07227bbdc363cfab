"""The preference page over HTTP, and the call by which an internal service makes a link to it.

An edge. A GET changes nothing, whoever follows the link before the person does. A stop needs the link and no more: it
is as easy as it can be. No answer here is JSON: a person reads it, and it says nothing of whose link it was where the
link does not hold.
"""

import base64
import hashlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources as files
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from common.auth import Caller, require
from common.fields import Short
from common.msisdn import NumberRefused, parse
from common.problems import DATABASE_DOWN, Conflict, Forbidden, Invalid, NotFound, Reason
from common.service import Resources, resources
from common.settings import ServiceSettings
from consent import recorder, store
from consent.bodies import Body, Number
from consent.chain import evidence_id
from consent.ledger import NEVER_SEEN, Evidence
from consent.page.link import Link, read, token
from consent.page.view import senders_shown, view
from consent.page.words import LANGUAGES, Words, chosen
from consent.recorder import Statement
from consent.store import PreferenceLink

log = logging.getLogger(__name__)

PATH = "/p"
FORM_BYTES = 4096  # of what a form of the page sends
SOURCE = "preference_page"
CSS = files.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
_STYLE = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
HEADERS = {
    # Nothing is fetched, framed or run; the one style sheet is in the page, under its hash, and the icon in its URL.
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
OURS = ("same-origin", "none")  # of Sec-Fetch-Site; a browser too old to say it cannot be told apart


class PageSettings(ServiceSettings):
    """`page_url`: where people reach this page, without its path: "https://p.example". Without it no link is made."""

    page_url: str | None = None
    link_days: int = Field(7, ge=1, le=90)  # how long a link lasts unless its maker says otherwise


Held = Annotated[Resources[PageSettings], Depends(resources)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
WritesConsent = Annotated[Caller, Depends(require("consent:write"))]
Status = Literal["unknown", "gone", "elsewhere", "down"]
CODES: dict[Status, int] = {"unknown": 404, "gone": 410, "elsewhere": 403, "down": 503}


class NoPage(Conflict):
    slug, title = "no-page", "This installation does not say where people reach the preference page"


class LinkBody(Body):
    """For whom. `sender_id` null: the page shows every sender; it must be said, not left out."""

    sender_id: Short | None
    number: Number
    days: int | None = Field(None, ge=1, le=90)


class LinkAnswer(BaseModel):
    """`url`: for this person's phone only. It is not kept: who loses it makes another."""

    subject_id: str
    url: str
    expires_at: datetime


class _Page(APIRoute):
    """Whatever goes wrong, a person reads a page, and how to stop without it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                down = isinstance(error, DATABASE_DOWN)
                log.error("a dependency is down" if down else "the page failed", exc_info=error)
                return _door(request, "down")

        return handled


router = APIRouter()
pages = APIRouter(prefix=PATH, route_class=_Page, default_response_class=HTMLResponse, include_in_schema=False)


@router.post("/v1/preference-links", status_code=201)
async def make_link(body: LinkBody, caller: WritesConsent, held: Held, key: Key = None) -> LinkAnswer:
    """A short link to the preference page of one person. With an Idempotency-Key, the same link again."""
    if body.sender_id is not None:
        caller.may_use(body.sender_id)
    elif caller.senders is not None:
        raise Forbidden("the token does not cover every sender", reasons=[Reason("sender_id", "sender_not_granted")])
    if held.settings.page_url is None:
        raise NoPage("set PLACET_PAGE_URL")
    try:
        number = parse(body.number, fictional=held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reason = Reason("number", refused.reason, "not a mobile number one may text")
        raise Invalid("no link made", reasons=[reason]) from None
    now = datetime.now(UTC)
    subject_id = held.subject_keys.subject_id(number)
    link = PreferenceLink(
        link_id=_link_id(held, caller, key, body, subject_id),
        subject_id=subject_id,
        number=held.field_keys.seal(number, f"number:{subject_id}"),
        sender_id=body.sender_id,
        expires_at=(now + timedelta(days=body.days or held.settings.link_days)).replace(microsecond=0),
    )
    async with held.database.begin() as tx:
        if body.sender_id is not None and await store.find_sender(tx, body.sender_id) is None:
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
        expires_at = await store.add_link(tx, link, now)
    written = token(Link(link.link_id, expires_at), held.link_keys)
    return LinkAnswer(
        subject_id=subject_id, url=f"{held.settings.page_url.rstrip('/')}{PATH}/{written}", expires_at=expires_at
    )


def _link_id(held: Resources[PageSettings], caller: Caller, key: str | None, body: LinkBody, subject_id: str) -> str:
    """Random, or the same for the same request of the same caller: the key's owner and all that was asked are in it."""
    if key is None:
        return secrets.token_hex(8)
    asked = "\n".join((caller.subject, key, subject_id, body.sender_id or "", str(body.days or "")))
    return held.link_keys.tag(b"link id " + asked.encode())[:8].hex()


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request with a link that holds. `here`: the page's path."""

    request: Request
    link: PreferenceLink
    words: Words
    now: datetime
    here: str


@pages.get("/{written}")
async def show(written: str, request: Request, held: Held) -> Response:
    """What is held, and the ways out of it. Changes nothing."""
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written)
        if isinstance(visit, Response):
            return visit
        link = visit.link
        subject = await store.find_subject(tx, link.subject_id)
        entries = await store.history(tx, link.subject_id, subject.entries) if subject else []
        state = subject.state if subject else NEVER_SEEN
        senders = await store.senders_of(tx, senders_shown(state, link.sender_id))
    number = held.field_keys.unseal(link.number, f"number:{link.subject_id}")
    seen = view(number, link.sender_id, state, entries, senders, subject.held_since if subject else None)
    return _html(
        visit.words,
        "page.html",
        200,
        here=visit.here,
        view=seen,
        one=link.sender_id is not None,
        expires_at=link.expires_at,
    )


@pages.post("/{written}/stop")
async def stop(written: str, request: Request, held: Held) -> Response:
    """Everything this link covers, at once. Any holder of the link may: it only tightens."""
    form = await _form(request)
    async with held.database.begin() as tx:
        visit = await _visit(tx, request, held, written, form.get("lang"))
        if isinstance(visit, Response):
            return visit
        link = visit.link
        evidence = Evidence(
            # never a repeat: a second stop, from a page left open, counts as much as the first
            evidence_id=evidence_id(SOURCE, link.link_id, "stop", secrets.token_hex(8)),
            kind="opt_out",
            sender_id=link.sender_id,
            purpose=None,
            source=SOURCE,
            actor=_actor(link),
            occurred_at=visit.now,
            received_at=visit.now,
        )
        await recorder.record(tx, [Statement(link.subject_id, link.number, evidence)], visit.now)
    return _back(visit)


async def _visit(
    tx: AsyncConnection, request: Request, held: Resources[PageSettings], written: str, asked: str | None = None
) -> _Visit | Response:
    """The link that `written` names; or the page that says why it opens nothing."""
    if request.method == "POST" and request.headers.get("sec-fetch-site", "none") not in OURS:
        return _door(request, "elsewhere")
    named, now = read(written, held.link_keys), datetime.now(UTC)
    if named is None:
        return _door(request, "unknown")
    link = await store.find_link(tx, named.link_id) if named.expires_at > now else None
    if link is None or link.expires_at != named.expires_at:
        return _door(request, "gone")
    return _Visit(request, link, _words(request, asked), now, f"{PATH}/{written}")


async def _form(request: Request) -> dict[str, str]:
    """The fields sent, the last of a name. What cannot be read is left out: a form short of a field is refused where
    the field matters."""
    body = (await request.body())[:FORM_BYTES].decode("ascii", errors="ignore")
    return dict(parse_qsl(body))


def _actor(link: PreferenceLink) -> str:
    return f"person, by link {link.link_id}"


def _words(request: Request, asked: str | None = None) -> Words:
    return chosen(asked or request.query_params.get("lang"), request.headers.get("accept-language"))


def _back(visit: _Visit) -> Response:
    """To the page as it now is: the ledger itself says what was done."""
    return RedirectResponse(f"{visit.here}?lang={visit.words.language}", 303, headers=HEADERS)


def _door(request: Request, what: Status) -> Response:
    here = f"{PATH}/{quote(str(request.path_params.get('written', '')), safe='')}"
    return _html(_words(request), "door.html", CODES[what], what=what, here=here)


def _html(words: Words, template: str, status: int, **more: Any) -> Response:
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
