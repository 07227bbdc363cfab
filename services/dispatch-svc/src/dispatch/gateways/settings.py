"""PLACET_GATEWAYS: the accounts for hand-offs, and the routes of each. docs/providers.md has an example."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Self

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, SecretStr, model_validator

from common.contracts.campaign import Category
from common.settings import ServiceSettings
from common.sms.sms_length import MAX_SEGMENTS, STOP_ANSWER_SEGMENTS
from dispatch.gateways import (
    HTTP_PROVIDERS,
    PROVIDERS,
    Account,
    Bounds,
    Capabilities,
    Gateway,
    gateway_name,
    open_gateway,
)
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.connections import MOST, OPENING
from dispatch.gateways.pool import Rates, Traffic
from dispatch.gateways.routing import Route, stop_unanswered

Territory = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Option = Annotated[str, Field(coerce_numbers_to_str=True)]  # `"binds": 4` becomes "4"


class RouteSettings(BaseModel):
    """A route of the gateway; an omitted field means any. See `routing.Route`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    territories: frozenset[Territory] = frozenset()
    senders: frozenset[str] = frozenset()
    categories: frozenset[Category] = frozenset()
    price: Decimal = Field(Decimal(0), ge=0)
    weight: int = Field(1, ge=1, le=1000)


class GatewaySettings(BaseModel):
    """An account with a provider.

    `account` is inbound-svc's name for the account that receives the DLRs; `receipts` is the full name of the
    account where DLRs come by another provider. `connections` and `connections_opening` are the `Bounds` of a gateway
    over HTTP. `rate` and `sender_rate` are messages a second, over all processes.
    `batch`, `idempotent`, `adds_stop`, `stop_added`, `echoes_reference`, `unicode` and `segments` override the
    provider's module.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: str
    account: str = Field("main", pattern=r"^[a-z0-9-]{1,40}$")
    user: str = ""
    secret: SecretStr = SecretStr("")
    url: AnyUrl | None = None
    callback_url: SecretStr | None = None
    receipts: str | None = Field(None, pattern=r"^[a-z0-9-]{1,40}(\.[a-z0-9-]{1,40})?$")
    options: dict[str, Option] = Field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = (RouteSettings(),)
    rate: float | None = Field(None, gt=0)
    sender_rate: float | None = Field(None, gt=0)
    connections: int | None = Field(None, ge=1)
    connections_opening: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1)
    idempotent: bool | None = None
    adds_stop: bool | None = None
    stop_added: str | None = Field(None, min_length=1, max_length=40)
    echoes_reference: bool | None = None
    segments: int | None = Field(None, ge=1, le=MAX_SEGMENTS)
    unicode: bool | None = None

    @property
    def name(self) -> str:
        return gateway_name(self.provider, self.account)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.provider not in PROVIDERS:
            raise ValueError(f"no gateway {self.provider!r}: there are {', '.join(sorted(PROVIDERS))}")
        provider = PROVIDERS[self.provider]
        given = {"user": self.user, "secret": self.secret.get_secret_value(), "url": self.url}
        if missing := [name for name in provider.NEEDS if not given[name]]:
            raise ValueError(f"{self.provider} needs {', '.join(missing)}")
        schemes = ("smpp", "smpps") if self.provider == "smpp" else ("http", "https")
        if self.url is not None and self.url.scheme not in schemes:
            raise ValueError(f"{self.provider} is at {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if unknown := sorted(set(self.options) - set(provider.OPTIONS)):
            raise ValueError(f"{self.provider} has no option {', '.join(unknown)}")
        if lacking := [name for name, must in provider.OPTIONS.items() if must and not self.options.get(name)]:
            raise ValueError(f"{self.provider} needs the options {', '.join(lacking)}")
        if not provider.capabilities.marketing and any(_takes_marketing(route) for route in self.routes):
            raise ValueError(
                f"{self.provider} may have no marketing (docs/providers.md says why): name the categories of each"
                " route, transactional or service"
            )
        if "sender" in provider.OPTIONS and not all(route.senders for route in self.routes):
            raise ValueError(f"{self.provider} sends for one sender: name that one in the senders of each route")
        if self.provider == "smpp" and (wrong := by_smpp.wrong(self._account)) is not None:
            raise ValueError(wrong)
        if self.provider not in HTTP_PROVIDERS and (self.connections or self.connections_opening):
            raise ValueError(f"leave out connections and connections_opening: {self.provider} has no HTTP connections")
        return self

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.connections or MOST, self.connections_opening or OPENING)

    @property
    def capabilities(self) -> Capabilities:
        otherwise = self.model_dump(
            include={"idempotent", "adds_stop", "stop_added", "echoes_reference", "segments", "unicode"},
            exclude_none=True,
        )
        return replace(PROVIDERS[self.provider].capabilities, **otherwise)

    @property
    def told_by(self) -> frozenset[str]:
        """Return the accounts of inbound-svc that DLRs come by, where they have other names."""
        heard = gateway_name("kafka", self.account) if self.hears else None
        return frozenset(name for name in (self.receipts, heard) if name)

    @property
    def hears(self) -> bool:
        """Return whether the gateway itself writes the MOs and DLRs on the operator's topics."""
        return self.provider == "smpp" and by_smpp.receives(self.options)

    @property
    def _account(self) -> Account:
        return Account(
            provider=self.provider,
            account=self.account,
            user=self.user,
            secret=self.secret.get_secret_value(),
            url=str(self.url) if self.url else None,
            callback_url=self.callback_url.get_secret_value() if self.callback_url else None,
            options=self.options,
        )

    def gateway_with_secrets(
        self, settings: ServiceSettings, *, timeout_s: float, submits: int, binds: by_smpp.Shared | None = None
    ) -> Gateway:
        """Open the gateway. `binds`: those that it shares with the other lane."""
        return open_gateway(
            self._account,
            settings,
            binds=binds or by_smpp.Shared(),
            timeout_s=timeout_s,
            submits=submits,
            batch=self.batch,
            capabilities=self.capabilities,
            bounds=self.bounds,
        )


def _takes_marketing(route: RouteSettings) -> bool:
    return not route.categories or "marketing" in route.categories


def routes_of(gateways: Sequence[GatewaySettings]) -> list[Route]:
    return [Route(each.name, **route.model_dump()) for each in gateways for route in each.routes]


def refuse_unanswered(gateways: Sequence[GatewaySettings]) -> None:
    """Raise ValueError where an answer to a STOP could not leave to everybody who gets marketing."""
    able = {
        each.name
        for each in gateways
        if each.capabilities.segments >= STOP_ANSWER_SEGMENTS and each.capabilities.unicode
    }
    if (lacking := stop_unanswered(routes_of(gateways), able)) is None:
        return
    whom = f"to {lacking.territory or 'any place'} of {lacking.sender_id or 'any sender'}"
    raise ValueError(
        f"{lacking.gateway} takes marketing {whom}, and no route takes the answer to a STOP there: add a route with the"
        f" category service, by a gateway whose segments are {STOP_ANSWER_SEGMENTS} or more and whose `unicode` is true"
        " (docs/providers.md)"
    )


def traffic_of(
    gateways: Sequence[GatewaySettings],
    settings: ServiceSettings,
    *,
    timeout_s: float,
    submits: int,
    part: float,
    binds: by_smpp.Shared,
) -> Traffic:
    """Open the gateways and return their pool; the caller closes the pool.

    `submits`: of a gateway at once, over both lanes. `part`: of the rates. `binds`: of both lanes in this process.
    """
    return Traffic(
        [each.gateway_with_secrets(settings, timeout_s=timeout_s, submits=submits, binds=binds) for each in gateways],
        routes_of(gateways),
        {each.name: Rates(each.rate, each.sender_rate) for each in gateways},
        settings.partitions,
        part,
    )
