"""inbound-svc, wired."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from common.service import Service
from common.settings import ServiceSettings
from inbound import store, webhooks
from inbound.providers import PROVIDERS, Account

SECRET_MIN_CHARS = 16  # Twilio's auth token has 32


class AccountSettings(BaseModel):
    """One account with one provider. `secrets`: two during a rotation, either is good. `public_url`: what stands before
    /v1/callbacks in the URL that the provider was given; needed where the signature covers the URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    account: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    secrets: tuple[SecretStr, ...] = Field(min_length=1)
    public_url: HttpUrl | None = None

    @model_validator(mode="after")
    def _can_be_verified(self) -> Self:
        if self.provider not in PROVIDERS:
            raise ValueError(f"no provider {self.provider!r}: there are {', '.join(PROVIDERS)}")
        if any(len(secret.get_secret_value()) < SECRET_MIN_CHARS for secret in self.secrets):
            raise ValueError(f"a secret has at least {SECRET_MIN_CHARS} characters")
        if PROVIDERS[self.provider].signs_url and self.public_url is None:
            raise ValueError(f"{self.provider} signs the public URL: set public_url")
        return self

    def account_with_secrets(self) -> Account:
        return Account(
            provider=self.provider,
            account=self.account,
            secrets=tuple(secret.get_secret_value() for secret in self.secrets),
            public_url=str(self.public_url) if self.public_url else None,
        )


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(hide_input_in_errors=True)  # an error at the start would print the secrets

    provider_accounts: tuple[AccountSettings, ...] = ()
    publish_timeout_s: float = Field(5.0, gt=0)  # then 503; under the 15 s after which operators give up (DOMAIN 3.1)

    @model_validator(mode="after")
    def _each_account_once(self) -> Self:
        names = [(account.provider, account.account) for account in self.provider_accounts]
        if len(names) != len(set(names)):
            raise ValueError("a provider account is given twice")
        return self


def build(settings: Settings | None = None) -> Service[Settings]:
    settings = settings or Settings()
    accounts = [account.account_with_secrets() for account in settings.provider_accounts]
    return Service(
        name="inbound",
        settings=settings,
        metadata=store.metadata,
        routers=[webhooks.router(accounts, settings.publish_timeout_s)],
        body_limits={"/v1/callbacks": None},  # each provider's
    )
