"""Who calls: a bearer JWT with scopes and the senders it may act for. No route is anonymous but health and callbacks.

In production an OIDC issuer, its keys by JWKS; in development one shared HS256 key. Claims: `sub`, `scope`
(space-separated), `senders` (list of sender ids, or "*").
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jwt
from fastapi import Request

from common.settings import ServiceSettings
from common.web.problems import Forbidden, Reason, Unauthorised, Unavailable

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
JWKS_TIMEOUT_S = 5
CLOCKS_DIFFER_S = 60  # the issuer's from ours: a token is used as soon as it is made (RFC 7519, 4.1.4 and 4.1.5)
OF_ANOTHER = "other_controller"  # as the gate calls it
CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Caller:
    """`senders`: None means every sender."""

    subject: str
    scopes: frozenset[str]
    senders: frozenset[str] | None

    def may_use(self, sender_id: str) -> None:
        """Raises Forbidden unless the token covers this sender."""
        if self.senders is not None and sender_id not in self.senders:
            raise Forbidden("the token does not cover this sender", reasons=[Reason("sender_id", "sender_not_granted")])

    def may_use_all(self) -> None:
        """Raises Forbidden unless the token covers every sender: what it asks for is of no one of them."""
        if self.senders is not None:
            raise Forbidden(
                "only a token for every sender may do this", reasons=[Reason("senders", "not_for_every_sender")]
            )

    def sees(self, sender_id: str | None) -> bool:
        """Whether what is held of this sender is shown. None: what concerns every sender, and so is shown to each."""
        return sender_id is None or self.senders is None or sender_id in self.senders

    def told(self, reasons: Iterable[str]) -> list[str]:
        """Reasons against a message to one person, as this caller may know them: that the person said yes to another
        sender is told to who may ask for every sender, and to nobody else."""
        return [reason for reason in reasons if self.senders is None or reason != OF_ANOTHER]


class Authenticator:
    """Turns an Authorization header into a Caller. Raises Unauthorised; Unavailable while the issuer is down."""

    def __init__(self, settings: ServiceSettings, *, keys_kept_s: float = 300, look_again_s: float = 30) -> None:
        """`keys_kept_s`: how long the issuer's key set is believed; `look_again_s`: how soon after asking for it a key
        that is not in it makes us ask again."""
        self._settings = settings
        # single keys are not kept by themselves (cache_keys): one that is withdrawn must stop counting
        self._jwks = (
            jwt.PyJWKClient(
                settings.auth_jwks_url,
                lifespan=keys_kept_s,
                cooldown_duration=look_again_s,
                timeout=JWKS_TIMEOUT_S,
            )
            if settings.auth_jwks_url
            else None
        )

    async def caller(self, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorised("send a bearer token", headers=CHALLENGE)
        try:
            claims = await self._claims(token.strip())
        except jwt.PyJWKClientConnectionError as error:
            raise Unavailable("the issuer of tokens does not answer", headers={"Retry-After": "1"}) from error
        except jwt.PyJWTError as error:
            raise Unauthorised(f"the token is refused: {type(error).__name__}", headers=CHALLENGE) from error
        senders = claims.get("senders", [])
        if senders != "*" and not isinstance(senders, list):
            raise Unauthorised('the token is refused: senders is neither a list nor "*"', headers=CHALLENGE)
        return Caller(
            subject=str(claims["sub"]),
            scopes=frozenset(str(claims.get("scope", "")).split()),
            senders=None if senders == "*" else frozenset(map(str, senders)),
        )

    async def _claims(self, token: str) -> dict[str, Any]:
        key: Any
        if self._jwks:
            key = (await asyncio.to_thread(self._jwks.get_signing_key_from_jwt, token)).key
            algorithms: tuple[str, ...] = ASYMMETRIC
        else:
            assert self._settings.auth_key is not None
            key, algorithms = self._settings.auth_key.get_secret_value(), ("HS256",)
        return jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=self._settings.auth_audience,
            issuer=self._settings.auth_issuer,
            leeway=CLOCKS_DIFFER_S,
            options={"require": ["exp", "sub"]},
        )


def require(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the Caller, if its token has `scope`."""

    async def caller(request: Request) -> Caller:
        found: Caller = await request.state.authenticator.caller(request.headers.get("authorization"))
        if scope not in found.scopes:
            raise Forbidden(f"the token lacks the scope {scope}", reasons=[Reason("scope", "scope_missing", scope)])
        return found

    return caller
