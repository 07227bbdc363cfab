"""Authentication of callers: a bearer JWT with scopes, and the senders for which the caller may act.

Anonymous routes: health and metrics, operators' callbacks, and the pages and links that people open. In development a
shared HS256 key signs. Claims: `sub`, `scope` (space-separated), `senders` (list of sender ids, or "*").
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from fastapi import Request

from common.settings import ServiceSettings
from common.web.problems import Forbidden, Reason, Unauthorised, Unavailable

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
JWKS_TIMEOUT_S = 5
CLOCKS_DIFFER_S = 60  # callers use a token at once (RFC 7519, 4.1.4 and 4.1.5)
OF_ANOTHER = "other_controller"  # the gate's name
CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid token. `senders`: `None` for every sender."""

    subject: str
    scopes: frozenset[str]
    senders: frozenset[str] | None

    def may(self, *scopes: str) -> None:
        """Raise Forbidden unless the token has one of the scopes."""
        if self.scopes.isdisjoint(scopes):
            named = " or ".join(scopes)
            raise Forbidden(f"the token lacks the scope {named}", reasons=[Reason("scope", "scope_missing", named)])

    def may_use(self, sender_id: str) -> None:
        """Raise Forbidden unless the token covers this sender."""
        if self.senders is not None and sender_id not in self.senders:
            raise Forbidden("the token does not cover this sender", reasons=[Reason("sender_id", "sender_not_granted")])

    def may_use_all(self) -> None:
        """Raise Forbidden unless the token covers every sender."""
        if self.senders is not None:
            raise Forbidden(
                "only a token for every sender may do this", reasons=[Reason("senders", "not_for_every_sender")]
            )

    def sees(self, sender_id: str | None) -> bool:
        """Return whether the caller may see data of this sender. Every caller may see data of all (`None`)."""
        return sender_id is None or self.senders is None or sender_id in self.senders

    def told(self, reasons: Iterable[str]) -> list[str]:
        """Return the reasons against a message that this caller may know.

        Only a token for every sender learns that the person has opted in to another sender.
        """
        return [reason for reason in reasons if self.senders is None or reason != OF_ANOTHER]


class Authenticator:
    """Turns an Authorization header into a Caller. Raises Unauthorised; Unavailable for a silent issuer."""

    def __init__(self, settings: ServiceSettings, *, keys_kept_s: float = 300, look_again_s: float = 30) -> None:
        """Read tokens by the issuer's key set, or by the shared key of development.

        `look_again_s`: how soon after a fetch an unknown key causes another.
        """
        self._settings = settings
        # no `cache_keys`: the cache would keep a withdrawn key valid
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
            senders=frozenset(map(str, senders)) if isinstance(senders, list) else None,
        )

    async def _claims(self, token: str) -> Mapping[str, object]:
        key: Any
        if self._jwks:
            key = (await asyncio.to_thread(self._jwks.get_signing_key_from_jwt, token)).key
            algorithms: tuple[str, ...] = ASYMMETRIC
        else:
            assert self._settings.auth_key is not None
            key, algorithms = self._settings.auth_key.get_secret_value(), ("HS256",)
        claims: Mapping[str, object] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=self._settings.auth_audience,
            issuer=self._settings.auth_issuer,
            leeway=CLOCKS_DIFFER_S,
            options={"require": ["exp", "sub"]},
        )
        return claims


def require(*scopes: str) -> Callable[[Request], Awaitable[Caller]]:
    """Return a FastAPI dependency: the Caller. Raises Forbidden unless the token has one of the scopes."""

    async def caller(request: Request) -> Caller:
        found: Caller = await request.state.authenticator.caller(request.headers.get("authorization"))
        found.may(*scopes)
        return found

    return caller
