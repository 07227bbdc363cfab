"""Authentication of callers: a bearer JWT with an organisation, scopes, and the senders for which the caller may act.

Anonymous routes: health and metrics, operators' callbacks, and the pages and links that people open. In development a
shared HS256 key signs. Claims: `sub`, `organisation`, `scope` (space-separated), `senders` (list of sender ids, or "*"
for every sender of the organisation), `limits` (narrower than the organisation's, `common/limits`). `sub` and
`organisation` hold printable characters alone. The scope `platform:admin` opens the routes about the whole platform,
and never another organisation's senders.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import jwt
from fastapi import Request
from fastapi.dependencies.models import Dependant
from sqlalchemy.ext.asyncio import AsyncConnection

from common.limits import NO_LIMITS, Granted, LimitsUnreadable
from common.settings import ServiceSettings
from common.sms.msisdn import applying
from common.web.auth import rates
from common.web.auth.issuer import Issuer
from common.web.auth.organisations import NO_SENDERS, Organisations
from common.web.problems import Forbidden, NotFound, Reason, Unauthorised

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
CLOCKS_DIFFER_S = 60  # callers use a token at once (RFC 7519, 4.1.4 and 4.1.5)
PLATFORM = "platform:admin"
NOBODY = ""  # no sender has this id; its look-up takes as long as a real one
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class OfSender(Protocol):
    @property
    def sender_id(self) -> str | None: ...


T = TypeVar("T", bound=OfSender)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid token. `senders`: `None` for every sender of the organisation."""

    subject: str
    organisation: str
    scopes: frozenset[str]
    senders: frozenset[str] | None
    organisations: Organisations = field(default=NO_SENDERS, compare=False, repr=False)
    granted: Granted = field(default=NO_LIMITS, compare=False, repr=False)

    def may(self, *scopes: str) -> None:
        """Raise Forbidden unless the token has one of the scopes."""
        if self.scopes.isdisjoint(scopes):
            named = " or ".join(scopes)
            raise Forbidden(f"the token lacks the scope {named}", reasons=[Reason("scope", "scope_missing", named)])

    @property
    def account(self) -> str:
        """Return the name under which keys are claimed: a person may have an account with two organisations."""
        return f"{self.organisation}\x1f{self.subject}"

    @property
    def platform(self) -> bool:
        """Return whether the caller operates the platform."""
        return PLATFORM in self.scopes

    def names(self, sender_ids: Iterable[str]) -> bool:
        """Return whether the token is for all of these senders, registered or not."""
        return self.senders is None or self.senders.issuperset(sender_ids)

    def may_name(self, sender_id: str) -> None:
        """Raise Forbidden if the token is for other senders. The answer does not depend on what is registered."""
        if not self.names([sender_id]):
            raise Forbidden("the token does not cover this sender", reasons=[Reason("sender_id", "sender_not_granted")])

    async def may_use(self, sender_id: str, field: str = "sender_id") -> None:
        """Raise Forbidden or NotFound unless the token covers this sender.

        A sender of another organisation is answered as an unknown one, and as late.
        """
        self.may_name(sender_id)
        if not await self.organisations.has(self.organisation, sender_id):
            raise NotFound("no such sender", reasons=[Reason(field, "unknown_sender")])

    async def seen(self, sender_ids: Iterable[str | None], tx: AsyncConnection | None = None) -> frozenset[str]:
        """Return those of the senders whose data the caller may see. `tx`: an open transaction, if any.

        With no sender left, NOBODY is looked up, so that the time of the answer tells nothing.
        """
        return frozenset(await self.controllers(sender_ids, tx))

    async def controllers(self, sender_ids: Iterable[str | None], tx: AsyncConnection | None = None) -> dict[str, str]:
        """Return the controller of each of the senders whose data the caller may see. `tx`: as for `seen`."""
        asked = {one for one in sender_ids if one is not None and (one == NOBODY or self.names([one]))}
        return await self.organisations.controllers(self.organisation, asked or {NOBODY}, tx)

    async def controller_of(self, sender_id: str, tx: AsyncConnection | None = None) -> str:
        """Return the controller of a sender whose data the caller may see. `tx`: as for `seen`. Raises NotFound."""
        found = await self.controllers([sender_id], tx)
        if sender_id not in found:  # the registration has failed since
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
        return found[sender_id]

    async def theirs(self, tx: AsyncConnection, found: T | None, missing: NotFound) -> T:
        """Return `found` if the caller may see its sender's data; else raise `missing`, as for no data.

        What belongs to a stranger is answered after as much work as what does not exist.
        """
        if await self.seen([found.sender_id if found else NOBODY], tx) and found is not None:
            return found
        raise missing

    async def countries(
        self, named: str | None, sender_ids: Iterable[str], home: str, tx: AsyncConnection | None = None
    ) -> tuple[str, ...]:
        """Return the countries whose national writings of numbers apply (`msisdn.applying`). `tx`: as for `seen`.

        named       by the call: this country alone
        sender_ids  the senders concerned, which the caller may use
        home        the installation's, where no sender is concerned; of several senders' countries it is the first
        """
        asked = [] if named is not None else list(sender_ids)
        theirs = (await self.organisations.countries(asked, tx)).values() if asked else ()
        countries = dict.fromkeys(country for each in theirs for country in each)
        several = len({each[0] for each in theirs}) > 1
        return applying(named, sorted(countries, key=lambda one: one != home) if several else tuple(countries), home)

    async def covered(self, sender_id: str | None = None, tx: AsyncConnection | None = None) -> list[str]:
        """Return every sender that the token covers, for a list; or the sender that narrows the list.

        `tx`: as for `seen`, where no sender narrows the list. Raises Forbidden or NotFound for a sender that the caller
        may not use.
        """
        if sender_id is not None:
            await self.may_use(sender_id)
            return [sender_id]
        every = await self.organisations.of(self.organisation, tx)
        return sorted(every if self.senders is None else every & self.senders)

    @property
    def for_every_sender(self) -> bool:
        """Return whether the token is for every sender of the organisation."""
        return self.senders is None

    @property
    def everywhere(self) -> bool:
        """Return whether the caller may act for every sender of every organisation."""
        return self.platform and self.for_every_sender

    def may_operate(self) -> None:
        """Raise Forbidden unless the caller operates the platform: the route is about every organisation."""
        if not self.for_every_sender:
            raise Forbidden(
                "only a token for every sender may do this", reasons=[Reason("senders", "not_for_every_sender")]
            )
        if not self.platform:
            raise Forbidden(
                f"only the platform's operator may do this: the token lacks the scope {PLATFORM}",
                reasons=[Reason("scope", "scope_missing", PLATFORM)],
            )


class Authenticator:
    """Turns an Authorization header into a Caller. Raises Unauthorised; Unavailable for a silent issuer."""

    def __init__(self, settings: ServiceSettings, *, keys_kept_s: float = 300, look_again_s: float = 30) -> None:
        """Read tokens by the issuer's key set, or by the shared key of development. Times: `Issuer`."""
        self._settings = settings
        self.issuer = (
            Issuer(
                settings.auth_jwks_url,
                keys_kept_s=keys_kept_s,
                grace_s=settings.auth_keys_grace_s,
                look_again_s=look_again_s,
            )
            if settings.auth_jwks_url
            else None
        )

    @asynccontextmanager
    async def kept(self) -> AsyncIterator["Authenticator"]:
        """Keep the issuer's keys fresh during the block, also without a call."""
        keeping = asyncio.create_task(self.issuer.run(), name="issuer's keys") if self.issuer else None
        try:
            yield self
        finally:
            if self.issuer and keeping:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await self.issuer.close()

    async def caller(self, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorised("send a bearer token", headers=CHALLENGE)
        try:
            claims = await self._claims(token.strip())
        except jwt.PyJWTError as error:
            raise Unauthorised(f"the token is refused: {type(error).__name__}", headers=CHALLENGE) from error
        senders = claims.get("senders", [])
        if senders != "*" and not isinstance(senders, list):
            raise Unauthorised('the token is refused: senders is neither a list nor "*"', headers=CHALLENGE)
        subject, organisation = str(claims["sub"]), claims.get("organisation")
        if not isinstance(organisation, str) or not organisation.strip():
            raise Unauthorised("the token is refused: it names no organisation", headers=CHALLENGE)
        if not (subject.isprintable() and organisation.isprintable()):  # both reach logs, and `account` joins them
            raise Unauthorised(
                "the token is refused: `sub` and `organisation` hold printable characters alone", headers=CHALLENGE
            )
        try:
            granted = self._settings.limited.granted(organisation, claims.get("limits"))
        except LimitsUnreadable as error:
            raise Unauthorised(f"the token is refused: {error}", headers=CHALLENGE) from error
        return Caller(
            subject=subject,
            organisation=organisation,
            scopes=frozenset(str(claims.get("scope", "")).split()),
            senders=frozenset(map(str, senders)) if isinstance(senders, list) else None,
            granted=granted,
        )

    async def _claims(self, token: str) -> Mapping[str, object]:
        key: Any
        if self.issuer:
            key = await self.issuer.key(token)
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


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A caller with a valid token, and what the route demands: known also where the route refuses the caller."""

    caller: Caller
    required: "Required"


@dataclass(frozen=True, slots=True)
class Required:
    """The FastAPI dependency of a route with a caller; the OpenAPI document reads its fields (`openapi.py`).

    `scopes`: the token has at least one. `platform`: the caller operates the platform.
    """

    scopes: tuple[str, ...]
    limited: bool
    looks_up: bool
    platform: bool

    async def __call__(self, request: Request) -> Caller:
        """Return the caller. A route asks once more after `edge/bodies.py`, and gets the same."""
        asked: dict[Required, Caller] = request.scope.setdefault("placet.callers", {})
        if self not in asked:
            asked[self] = await self._asked(request)
        return asked[self]

    async def _asked(self, request: Request) -> Caller:
        state = request.state
        found: Caller = await state.authenticator.caller(request.headers.get("authorization"))
        state.authenticated = Authenticated(found, self)
        now = datetime.now(UTC)
        second, account = now.replace(microsecond=0), found.account
        if self.limited and (
            quotas := rates.calls_of(found.granted, found.organisation, account, second, looks_up=self.looks_up)
        ):
            state.rate_limit = await rates.admit(state.resources.allowances, quotas, now)
        found.may(*self.scopes)
        if self.platform:
            found.may_operate()
        return replace(found, organisations=state.organisations(found.organisation))


def require(*scopes: str, limited: bool = True, looks_up: bool = False, platform: bool = False) -> Required:
    """Return a FastAPI dependency: the Caller. Raises Forbidden unless the token has one of the scopes.

    Raises LimitReached for too many calls, unless not `limited`: a route that records an opt-out or stops messages.
    `looks_up`: the answer depends on what is known of a number. `platform`: the route is about every organisation.
    """
    return Required(scopes, limited, looks_up, platform)


def required_of(dependant: Dependant) -> Iterator[Required]:
    """Yield what each dependency demands of the caller."""
    for each in dependant.dependencies:
        if isinstance(each.call, Required):
            yield each.call
        yield from required_of(each)
