"""Who may call: tokens of one key in development, of an issuer's keys in production, and nobody without."""

import asyncio
import base64
import contextlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Annotated, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from common.settings import ServiceSettings
from common.web import problems
from common.web.auth import Authenticator, Caller, require
from common.web.auth.organisations import NO_SENDERS
from common.web.problems import Forbidden, Unauthorised, Unavailable
from tests.support.eventually import eventually, is_so
from tests.support.running import AUTH_KEY, ISSUER, KEY_RING, LIMITS, SUBJECT_RING

OTHER_KEY = "another key, of thirty-two bytes or more, of somebody else"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def settings(**more: Any) -> ServiceSettings:
    return ServiceSettings(
        database_url="postgresql://consent@127.0.0.1/consent",
        kafka_bootstrap="127.0.0.1:9092",
        subject_keys=SUBJECT_RING,
        field_keys=KEY_RING,
        auth_issuer=ISSUER,
        auth_audience=ISSUER,
        limits=LIMITS,
        development=True,
        **more,
    )


def claims(**more: Any) -> dict[str, Any]:
    full = {
        "sub": "shop",
        "organisation": "lune",
        "scope": "consent:read consent:write",
        "senders": ["maison-lune"],
        "iss": ISSUER,
        "aud": ISSUER,
        "exp": int(time.time()) + 60,
        **more,
    }
    return {name: value for name, value in full.items() if value is not None}


def token(key: Any = AUTH_KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


development = Authenticator(settings(auth_key=AUTH_KEY))


async def test_a_token_names_its_caller_scopes_and_senders() -> None:
    assert await development.caller(f"Bearer {token()}") == Caller(
        subject="shop",
        organisation="lune",
        scopes=frozenset(("consent:read", "consent:write")),
        senders=frozenset(("maison-lune",)),
    )


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
async def test_the_scheme_is_read_as_http_reads_it(scheme: str) -> None:
    assert (await development.caller(f"{scheme} {token()}")).subject == "shop"


def bearer_of(claim: str, char: str) -> str:
    """Return a token whose claim has the character: the character would forge a line of the log, or another account."""
    forged: dict[str, Any] = {claim: f"lune{char}2026-11-29 ERROR"}
    return f"Bearer {token(**forged)}"


@pytest.mark.parametrize(
    ("why", "authorization"),
    [
        ("nothing", lambda: None),
        ("empty", lambda: ""),
        ("no token", lambda: "Bearer "),
        ("another scheme", lambda: f"Basic {token()}"),
        ("no scheme", lambda: token()),
        ("nonsense", lambda: "Bearer nonsense"),
        ("another key", lambda: f"Bearer {token(OTHER_KEY)}"),
        ("unsigned", lambda: f"Bearer {token(None, 'none')}"),
        ("expired", lambda: f"Bearer {token(exp=int(time.time()) - 90)}"),
        ("for ever", lambda: f"Bearer {token(exp=None)}"),
        ("not yet", lambda: f"Bearer {token(nbf=int(time.time()) + 90)}"),
        ("of tomorrow", lambda: f"Bearer {token(iat=int(time.time()) + 86_400)}"),
        ("of nobody", lambda: f"Bearer {token(sub=None)}"),
        ("for another audience", lambda: f"Bearer {token(aud='elsewhere')}"),
        ("for no audience", lambda: f"Bearer {token(aud=None)}"),
        ("of another issuer", lambda: f"Bearer {token(iss='elsewhere')}"),
        ("of no issuer", lambda: f"Bearer {token(iss=None)}"),
        ("a letter changed", lambda: f"Bearer {token()[:-1]}"),
        ("of no organisation", lambda: f"Bearer {token(organisation=None)}"),
        ("of an organisation without a name", lambda: f"Bearer {token(organisation=' ')}"),
        ("of two organisations", lambda: f"Bearer {token(organisation=['lune', 'soleil'])}"),
        *(
            (f"{claim} with {char!r}", partial(bearer_of, claim, char))
            for claim in ("organisation", "sub")
            for char in ("\n", "\r", "\x1b", "\x1f", "\x7f", "\x85", "\u2028", "\u202e", "\u200b")
        ),
        ("one sender as a word", lambda: f"Bearer {token(senders='maison-lune')}"),
        ("senders as a number", lambda: f"Bearer {token(senders=1)}"),
    ],
)
async def test_anything_else_is_nobody(why: str, authorization: Callable[[], str | None]) -> None:
    with pytest.raises(Unauthorised) as refused:
        await development.caller(authorization())
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "eyJ" not in refused.value.detail


@pytest.mark.parametrize("times", [{"iat": 30}, {"nbf": 30}, {"iat": 30, "nbf": 30}, {"exp": -30}])
async def test_a_clock_that_is_half_a_minute_off_ours_makes_nobody_a_stranger(times: dict[str, int]) -> None:
    """The issuer's, or ours that has jumped: a token is used as soon as it is made."""
    of_then: dict[str, Any] = {name: int(time.time()) + off for name, off in times.items()}
    assert (await development.caller(f"Bearer {token(**of_then)}")).subject == "shop"


async def test_the_right_key_with_another_algorithm_is_nobody() -> None:
    long_key = AUTH_KEY * 2  # HS512 wants one
    authenticator = Authenticator(settings(auth_key=long_key))
    assert (await authenticator.caller(f"Bearer {token(long_key)}")).subject == "shop"
    with pytest.raises(Unauthorised):
        await authenticator.caller(f"Bearer {token(long_key, 'HS512')}")


async def test_without_a_scope_or_senders_a_token_grants_nothing() -> None:
    caller = await development.caller(f"Bearer {token(scope=None, senders=None)}")
    assert caller.scopes == frozenset()
    with pytest.raises(Forbidden):
        caller.may_name("maison-lune")


async def test_the_senders_of_a_token_are_the_only_ones_it_may_use() -> None:
    caller = await development.caller(f"Bearer {token(senders=['maison-lune', 'atelier-9'])}")
    caller.may_name("atelier-9")
    with pytest.raises(Forbidden) as refused:
        caller.may_name("somebody-else")
    [reason] = refused.value.reasons
    assert (reason.field, reason.reason) == ("sender_id", "sender_not_granted")
    every = await development.caller(f"Bearer {token(senders='*')}")
    every.may_name("somebody-else")
    literally = await development.caller(f"Bearer {token(senders=['*'])}")
    with pytest.raises(Forbidden):
        literally.may_name("somebody-else")


async def test_only_the_platform_s_operator_acts_for_every_organisation() -> None:
    """Every sender is every one of the organisation: an operator's token of one sender operates nothing."""
    cases: tuple[tuple[dict[str, Any], bool], ...] = (
        ({"senders": "*"}, False),
        ({"senders": "*", "scope": "platform:admin"}, True),
        ({"senders": ["maison-lune"], "scope": "platform:admin"}, False),
    )
    for told, operates in cases:
        caller = await development.caller(f"Bearer {token(**told)}")
        assert caller.everywhere is operates
        if operates:
            caller.may_operate()
        else:
            with pytest.raises(Forbidden):
                caller.may_operate()


async def _ask(authorization: str | None) -> httpx.Response:
    app = FastAPI()
    problems.install(app)

    @app.get("/consents")
    async def consents(caller: Annotated[Caller, Depends(require("consent:read"))]) -> str:
        return caller.subject

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app(
            {**scope, "state": {"authenticator": development, "organisations": lambda _: NO_SENDERS}}, receive, send
        )

    transport = httpx.ASGITransport(app=with_state)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get("/consents", headers={"Authorization": authorization} if authorization else {})


async def test_a_route_answers_whose_token_has_its_scope() -> None:
    assert (await _ask(f"Bearer {token()}")).json() == "shop"
    nobody = await _ask(None)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")
    lacking = await _ask(f"Bearer {token(scope='consent:reader consent:write')}")
    assert lacking.status_code == 403
    assert lacking.json()["reasons"] == [{"field": "scope", "reason": "scope_missing", "detail": "consent:read"}]


@dataclass
class Issuer:
    """An OIDC issuer's key set, over HTTP on this machine."""

    url: str = ""
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    asked: int = 0
    hangs: Event = field(default_factory=Event)  # cleared: does not answer

    def jwks(self) -> dict[str, Any]:
        self.asked += 1
        self.hangs.wait(60)
        return {"keys": [{**_public(key), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]}

    def token(self, kid: str, **more: Any) -> str:
        algorithm = "RS256" if isinstance(self.keys[kid], rsa.RSAPrivateKey) else "ES256"
        return token(self.keys[kid], algorithm, {"kid": kid}, **more)


def _public(key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "RS256"}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "ES256"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer(keys={"ec-1": ec.generate_private_key(ec.SECP256R1())})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(found.jwks()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            with contextlib.suppress(ConnectionError):  # the service has given up
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Not to the test's output."""

    found.hangs.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/jwks"
    serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield found
    server.shutdown()
    server.server_close()
    serving.join()


async def test_an_issuers_keys_are_fetched_once_and_trusted(issuer: Issuer) -> None:
    issuer.keys["rsa-1"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    production = Authenticator(settings(auth_jwks_url=issuer.url))
    for kid in ("ec-1", "rsa-1", "ec-1"):
        assert (await production.caller(f"Bearer {issuer.token(kid)}")).subject == "shop"
    assert issuer.asked == 1


async def test_a_key_that_the_issuer_has_added_is_fetched_but_not_for_everybody_who_invents_one(issuer: Issuer) -> None:
    patient = Authenticator(settings(auth_jwks_url=issuer.url))
    await patient.caller(f"Bearer {issuer.token('ec-1')}")
    for _ in range(3):
        with pytest.raises(Unauthorised):
            await patient.caller(f"Bearer {token(issuer.keys['ec-1'], 'ES256', {'kid': 'invented'})}")
    assert issuer.asked == 1
    production = Authenticator(settings(auth_jwks_url=issuer.url), look_again_s=0)
    await production.caller(f"Bearer {issuer.token('ec-1')}")
    issuer.keys["ec-2"] = ec.generate_private_key(ec.SECP256R1())
    assert (await production.caller(f"Bearer {issuer.token('ec-2')}")).subject == "shop"


async def test_a_key_that_the_issuer_has_withdrawn_stops_counting_with_the_next_set(issuer: Issuer) -> None:
    production = Authenticator(settings(auth_jwks_url=issuer.url), keys_kept_s=0.05)
    old = issuer.token("ec-1")
    await production.caller(f"Bearer {old}")
    issuer.keys = {"ec-2": ec.generate_private_key(ec.SECP256R1())}

    async def refused() -> bool:
        try:
            await production.caller(f"Bearer {old}")
        except Unauthorised:
            return True
        return False

    await eventually(refused)
    assert (await production.caller(f"Bearer {issuer.token('ec-2')}")).subject == "shop"


async def test_a_token_of_anothers_key_or_a_public_key_as_secret_is_nobody(issuer: Issuer) -> None:
    production = Authenticator(settings(auth_jwks_url=issuer.url, auth_key=AUTH_KEY))
    mine = ec.generate_private_key(ec.SECP256R1())
    for forged in (
        token(mine, "ES256", {"kid": "ec-1"}),
        token(mine, "ES256", {"kid": "unknown"}),
        token(mine, "ES256"),
        token(AUTH_KEY, "HS256", {"kid": "ec-1"}),  # the development key does not count beside an issuer
        _signed_with_what_everybody_knows(_public(issuer.keys["ec-1"])),
        token(None, "none", {"kid": "ec-1"}),
        issuer.token("ec-1", exp=int(time.time()) - 90),
        issuer.token("ec-1", aud="elsewhere"),
        issuer.token("ec-1", iss="elsewhere"),
    ):
        with pytest.raises(Unauthorised):
            await production.caller(f"Bearer {forged}")


def _signed_with_what_everybody_knows(public: dict[str, Any]) -> str:
    """By hand: no honest library makes an HMAC of a public key."""

    def part(content: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT", "kid": "ec-1"}) + b"." + part(claims())
    mac = hmac.new(json.dumps(public).encode(), signed, "sha256").digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


async def test_a_hanging_issuer_stops_no_call_with_a_known_key(issuer: Issuer) -> None:
    production = Authenticator(settings(auth_jwks_url=issuer.url), keys_kept_s=0.0, look_again_s=0)
    known = f"Bearer {issuer.token('ec-1')}"
    await production.caller(known)
    issuer.hangs.clear()
    async with asyncio.timeout(30):
        for _ in range(12):
            assert (await production.caller(known)).subject == "shop"  # the last keys
        with pytest.raises(Unauthorised):  # after a second, whoever invents a key
            await production.caller(f"Bearer {token(issuer.keys['ec-1'], 'ES256', {'kid': 'invented'})}")
    assert issuer.asked <= 2  # a single fetch is under way
    issuer.hangs.set()
    assert production.issuer is not None
    await production.issuer.close()


async def test_the_last_keys_end_with_the_grace_and_the_refusal_comes_at_once(issuer: Issuer) -> None:
    production = Authenticator(settings(auth_jwks_url=issuer.url, auth_keys_grace_s=0.0), keys_kept_s=0.2)
    known = f"Bearer {issuer.token('ec-1')}"
    await production.caller(known)
    issuer.hangs.clear()
    refusals: list[float] = []

    async def refused() -> bool:
        begun = time.monotonic()
        try:
            await production.caller(known)
        except Unavailable:
            refusals.append(time.monotonic() - begun)
        return len(refusals) >= 12

    await eventually(refused)
    assert sorted(refusals)[5] < 0.5  # those of the first second wait for the rest of the second
    issuer.hangs.set()

    async def trusted_again() -> bool:
        try:
            return (await production.caller(known)).subject == "shop"
        except Unavailable:
            return False

    await eventually(trusted_again)
    assert production.issuer is not None
    await production.issuer.close()


async def test_the_keys_are_fetched_without_a_call(issuer: Issuer) -> None:
    async with Authenticator(settings(auth_jwks_url=issuer.url), keys_kept_s=0.0, look_again_s=0.01).kept():
        await eventually(lambda: is_so(issuer.asked >= 3))


async def test_while_the_issuer_is_down_the_caller_is_told_to_come_back(issuer: Issuer) -> None:
    """A 401 would send every client to fetch new tokens, from the issuer that is down."""
    nowhere = Authenticator(settings(auth_jwks_url="http://127.0.0.1:1/jwks"))
    with pytest.raises(Unavailable) as refused:
        await nowhere.caller(f"Bearer {issuer.token('ec-1')}")
    assert refused.value.headers == {"Retry-After": "1"}
