"""PLACET_GATEWAYS: the accounts that messages leave by, and what may go by each. docs/providers.md has an example."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, model_validator

from common.contracts.campaign import Category
from dispatch.gateways import HTTP_PROVIDERS, Account, Gateway, HttpGateway, gateway_name
from dispatch.routing import Route
from dispatch.traffic import Rates, Traffic

Territory = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class RouteSettings(BaseModel):
    """What may go by this gateway; nothing named means any. See `routing.Route`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    territories: frozenset[Territory] = frozenset()
    senders: frozenset[str] = frozenset()
    categories: frozenset[Category] = frozenset()
    price: Decimal = Field(Decimal(0), ge=0)
    weight: int = Field(1, ge=1, le=1000)


class GatewaySettings(BaseModel):
    """One account with one provider. `account`: as inbound-svc calls the one its receipts come to. `rate` and
    `sender_rate`: messages a second, over all processes. `batch`, `idempotent`, `adds_stop`: where this account differs
    from its provider's module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    account: str = Field("main", pattern=r"^[a-z0-9-]{1,40}$")
    user: str = ""
    secret: SecretStr = SecretStr("")
    url: HttpUrl | None = None
    callback_url: SecretStr | None = None
    options: dict[str, str] = Field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = (RouteSettings(),)
    rate: float | None = Field(None, gt=0)
    sender_rate: float | None = Field(None, gt=0)
    batch: int | None = Field(None, ge=1)
    idempotent: bool | None = None
    adds_stop: bool | None = None

    @property
    def name(self) -> str:
        return gateway_name(self.provider, self.account)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.provider not in HTTP_PROVIDERS:
            raise ValueError(f"no gateway {self.provider!r}: there are {', '.join(sorted(HTTP_PROVIDERS))}")
        provider = HTTP_PROVIDERS[self.provider]
        given = {"user": self.user, "secret": self.secret.get_secret_value(), "url": self.url}
        if missing := [name for name in provider.NEEDS if not given[name]]:
            raise ValueError(f"{self.provider} needs {', '.join(missing)}")
        if unknown := sorted(set(self.options) - set(provider.OPTIONS)):
            raise ValueError(f"{self.provider} has no option {', '.join(unknown)}")
        if lacking := [name for name, must in provider.OPTIONS.items() if must and not self.options.get(name)]:
            raise ValueError(f"{self.provider} needs the options {', '.join(lacking)}")
        return self

    def gateway_with_secrets(self, timeout_s: float) -> Gateway:
        provider = HTTP_PROVIDERS[self.provider]
        otherwise = {
            name: value
            for name, value in (("idempotent", self.idempotent), ("adds_stop", self.adds_stop))
            if value is not None
        }
        return HttpGateway(
            self.name,
            provider,
            Account(
                provider=self.provider,
                account=self.account,
                user=self.user,
                secret=self.secret.get_secret_value(),
                url=str(self.url) if self.url else None,
                callback_url=self.callback_url.get_secret_value() if self.callback_url else None,
                options=self.options,
            ),
            timeout_s=timeout_s,
            batch=self.batch,
            capabilities=replace(provider.capabilities, **otherwise),
        )


def traffic_of(gateways: Sequence[GatewaySettings], *, timeout_s: float, partitions: int) -> Traffic:
    """Opens the gateways' connection pools: close it."""
    return Traffic(
        [each.gateway_with_secrets(timeout_s) for each in gateways],
        [Route(each.name, **route.model_dump()) for each in gateways for route in each.routes],
        {each.name: Rates(each.rate, each.sender_rate) for each in gateways},
        partitions,
    )
