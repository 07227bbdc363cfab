"""The shop's pages, and the door of its webhooks. Plain HTML, no script.

cd examples/shop && uvicorn --factory shop.app:create
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from fastapi import Cookie, Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.templating import Jinja2Templates

from placet_client import NotGenuine, Placet, Retrying
from shop.link import Busy, Link
from shop.settings import FORM, VERSION, WORDINGS, Settings
from shop.store import Proof, Store

PAGES = Path(__file__).parent / "pages"
TOKEN = "client"  # noqa: S105 (the cookie's name)
MOBILE = re.compile(r"(?:\+33|0033|0)([67]\d{8})")
MOST_BYTES = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
templates = Jinja2Templates(PAGES)
staff_login = HTTPBasic(realm="Maison Lune")

Key = Annotated[str, Form(alias="cle", pattern=r"^[0-9a-f]{32}$")]
Client = Annotated[str | None, Cookie(alias=TOKEN)]


def create() -> FastAPI:
    settings = Settings.from_environment()
    store = Store(settings.database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with Placet(retrying=Retrying(times=1)) as placet, Link(settings, store, placet).running() as app.state.link:
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    def staff(said: Annotated[HTTPBasicCredentials, Depends(staff_login)]) -> None:
        if not secrets.compare_digest(said.password.encode(), settings.staff_password.encode()):
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    @app.get("/")
    def checkout(request: Request) -> HTMLResponse:
        return _checkout(request)

    @app.post("/commande")
    def order(
        request: Request,
        key: Key,
        name: Annotated[str, Form(alias="nom", max_length=100)] = "",
        said: Annotated[str, Form(alias="mobile", max_length=40)] = "",
        offers: Annotated[bool, Form(alias="offres")] = False,
        version: Annotated[str, Form()] = VERSION,
        token: Client = None,
    ) -> Response:
        """Take an order. The box is the customer's free choice: the order goes through without."""
        number = number_of(said)
        faults = {}
        if not name.strip():
            faults["nom"] = "Indiquez votre nom."
        if number is None:
            faults["mobile"] = "Indiquez un numéro de mobile français, par exemple 06\u00a039\u00a098\u00a001\u00a002."
        if faults or number is None:
            return _checkout(request, faults, name=name, mobile=said, offers=offers)
        proof = _proof(request, version) if offers else None
        token = store.order(key, token, name.strip(), number, proof)
        request.app.state.link.wake()
        answer = RedirectResponse("/merci", 303)
        secure = request.url.scheme == "https"
        # Lax: no form of another site acts for the customer
        answer.set_cookie(TOKEN, token, max_age=365 * 86_400, httponly=True, samesite="lax", secure=secure)
        return answer

    @app.get("/merci")
    def thanks(request: Request) -> HTMLResponse:
        return _page(request, "merci.html")

    @app.get("/preferences")
    def preferences(request: Request, token: Client = None) -> HTMLResponse:
        customer = next(iter(store.customers(token=token)), None) if token else None
        wording = WORDINGS[VERSION]
        return _page(request, "preferences.html", customer=customer, wording=wording, version=VERSION, key=uuid4().hex)

    @app.post("/preferences")
    def choose(
        request: Request,
        key: Key,
        offers: Annotated[bool, Form(alias="offres")] = False,
        version: Annotated[str, Form()] = VERSION,
        token: Client = None,
    ) -> Response:
        if not token or not store.customers(token=token):
            raise HTTPException(403, "Cette page est celle d'un autre navigateur.")
        store.choose(key, token, offers, _proof(request, version))
        request.app.state.link.wake()
        return RedirectResponse("/preferences", 303)

    @app.get("/clients", dependencies=[Depends(staff)])
    def customers(request: Request, stopped: bool = False) -> HTMLResponse:
        found = [each for each in store.customers() if each.opted_out or not stopped]
        return _page(request, "clients.html", customers=found, stopped=stopped)

    @app.post("/placet")
    def webhook(request: Request, body: Annotated[bytes, Depends(_raw)]) -> Response:
        """Take a webhook: 204 once the event is stored, and not before."""
        try:
            request.app.state.link.take(body, request.headers)
        except NotGenuine as error:
            return PlainTextResponse(str(error), 401)
        except Busy:
            return PlainTextResponse("later", 503, headers={"Retry-After": "1"})
        return Response(status_code=204)

    @app.get("/style.css")
    def style() -> FileResponse:
        return FileResponse(PAGES / "style.css", media_type="text/css")

    @app.get("/livez")
    def alive() -> PlainTextResponse:
        return PlainTextResponse("ok")

    return app


def number_of(said: str) -> str | None:
    """Return a French mobile number in its international form, or None."""
    found = MOBILE.fullmatch(re.sub(r"[\s.()-]", "", said))
    return None if found is None else f"+33{found[1]}"


def _checkout(request: Request, faults: dict[str, str] | None = None, **said: object) -> HTMLResponse:
    more = {"faults": faults or {}, "wording": WORDINGS[VERSION], "version": VERSION, "key": uuid4().hex}
    return _page(request, "commande.html", 422 if faults else 200, said=said, **more)


def _page(request: Request, name: str, status: int = 200, **more: object) -> HTMLResponse:
    return templates.TemplateResponse(request, name, more, status_code=status, headers=HEADERS)


def _proof(request: Request, version: str) -> Proof:
    if version not in WORDINGS:
        raise HTTPException(422, "Rechargez la page : ce formulaire est inconnu.")
    ip = request.client.host if request.client else "unknown"
    return Proof(FORM, version, WORDINGS[version], ip, request.headers.get("user-agent", "unknown"))


async def _raw(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413)
    return body
