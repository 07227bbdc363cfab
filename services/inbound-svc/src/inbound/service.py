"""The wiring of inbound-svc: settings, routes, subscriptions, workers."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from common import division
from common.contracts import operator_topics
from common.privacy.pruning import Pruner
from common.privacy.resealing import Sealed, whole
from common.service import Background, Resources, Service
from common.settings.shards import ShardedSettings
from inbound import codes, operators, pruning, replies, store, webhooks
from inbound.copier import copier
from inbound.eraser import eraser
from inbound.providers import PROVIDERS, SCHEMES, UNDOCUMENTED, Account, Kind
from inbound.providers.provider import JSON_BYTES
from inbound.pulls import LISTINGS, Keys, ovh_messages, puller
from inbound.pulls.puller import Pull
from inbound.reviews import api as reviews
from inbound.reviews.effect import Effect

SECRET_MIN_CHARS = 16  # Twilio's auth token has 32
UNRESERVED = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)  # never escaped in a URL path


class CapabilitySettings(BaseModel):
    """How this account deviates from the capabilities in its provider's module; see `Capabilities`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adds_stop_clause: bool | None = None
    answers_stop: bool | None = None
    keeps_blacklist: bool | None = None
    idempotent_submit: bool | None = None
    retries_for: timedelta | None = Field(None, ge=timedelta(0))


class PullSettings(BaseModel):
    """Our keys to a provider's list of MOs and DLRs, as those of its gateway, and how to ask.

    `kinds`: all that the list has, unless set. `numbers`: our own, to ask about each instead of about all. `hours`: how
    far back a pull asks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = ""
    secret: SecretStr = SecretStr("")
    url: HttpUrl | None = None
    options: dict[str, SecretStr] = Field(default_factory=dict)
    numbers: tuple[Annotated[str, Field(pattern=r"^\+?\d{3,15}$")], ...] = ()
    kinds: tuple[Kind, ...] = ()
    hours: int = Field(6, ge=1, le=24)  # Vonage gives 24 h at once, Infobip keeps 48 h
    every_s: float = Field(300.0, gt=0)

    def lacking(self, provider: str) -> str | None:
        """Return what is wrong with the settings for this provider, or None."""
        if provider not in LISTINGS:
            return f"{provider} has no list to pull: there are {', '.join(LISTINGS)}"
        listing = LISTINGS[provider]
        given = {"user": self.user, "secret": self.secret.get_secret_value(), "url": self.url}
        if missing := [name for name in listing.NEEDS if not given[name]]:
            return f"the pull of {provider} needs {', '.join(missing)}"
        if unknown := sorted(set(self.options) - set(listing.OPTIONS)):
            return f"the pull of {provider} has no option {', '.join(unknown)}"
        if needed := [name for name, must in listing.OPTIONS.items() if must and name not in self.options]:
            return f"the pull of {provider} needs the options {', '.join(needed)}"
        if other := [kind for kind in self.kinds if kind not in listing.KINDS]:
            return f"the list of {provider} has no {', '.join(other)}"
        return None

    def pull_with_secrets(self, account: Account) -> Pull:
        keys = Keys(
            user=self.user,
            secret=self.secret.get_secret_value(),
            url=str(self.url).rstrip("/") if self.url else None,
            options={name: value.get_secret_value() for name, value in self.options.items()},
            numbers=self.numbers,
        )
        kinds = tuple(kind for kind in LISTINGS[account.provider].KINDS if not self.kinds or kind in self.kinds)
        return Pull(account, keys, kinds, self.hours, self.every_s)


class AccountSettings(BaseModel):
    """An account with a provider.

    `secrets`: two during a rotation, either is valid. `public_url`: the part before /v1/callbacks of the URL given to
    the provider; required where the signature covers the URL.

    A provider which signs nothing needs at least one fence, and every configured fence must hold: `path_secrets` (the
    URL is then /v1/callbacks/<provider>/<account>/<secret>/…), `basic` ("user:password"), `addresses` (networks; behind
    a proxy, FORWARDED_ALLOW_IPS must name the proxy). `short_code`: the number people answer to, where callbacks omit
    it. `scheme`: how the provider signs for this account, where the provider has several. `pull`: ask the provider for
    what no callback told; nothing is pulled without. `language` ("es"), `country` ("US"): of the
    people who answer, for the words that are certain only there; France where neither is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    account: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    secrets: tuple[SecretStr, ...] = ()
    public_url: HttpUrl | None = None
    path_secrets: tuple[SecretStr, ...] = ()
    basic: tuple[SecretStr, ...] = ()
    addresses: tuple[IPvAnyNetwork, ...] = ()
    short_code: str = Field("", pattern=r"^(\+?\d{3,15})?$")
    language: str | None = Field(None, pattern=r"^[a-z]{2}$")
    country: str | None = Field(None, pattern=r"^[A-Z]{2}$")
    capabilities: CapabilitySettings = CapabilitySettings()
    scheme: str = ""
    pull: PullSettings | None = None

    @model_validator(mode="after")
    def _can_be_verified(self) -> Self:
        if self.provider in UNDOCUMENTED:
            raise ValueError(f"{self.provider} is not supported: {UNDOCUMENTED[self.provider]}")
        if self.provider not in PROVIDERS:
            raise ValueError(f"no provider {self.provider!r}: there are {', '.join(PROVIDERS)}")
        provider = PROVIDERS[self.provider]
        secrets = _plain(self.secrets)
        if provider.signing == "always" and not secrets:
            raise ValueError(f"{self.provider} signs its callbacks: secrets must have at least 1 item")
        if provider.signing == "never" and secrets:
            raise ValueError(f"{self.provider} signs nothing: give path_secrets, basic or addresses, not secrets")
        if not (secrets or self.path_secrets or self.basic or self.addresses):
            raise ValueError("nothing would be checked: give path_secrets, basic or addresses")
        passwords = tuple(pair.partition(":")[2] for pair in _plain(self.basic))
        if any(len(secret) < SECRET_MIN_CHARS for secret in (*secrets, *_plain(self.path_secrets), *passwords)):
            raise ValueError(f"a secret has at least {SECRET_MIN_CHARS} characters")
        if not all(UNRESERVED.fullmatch(secret) for secret in _plain(self.path_secrets)):
            raise ValueError("a path secret is made of letters, digits, - and _")
        for secret in secrets:
            provider.secret_key(secret)
        if secrets and provider.signs_url and self.public_url is None:
            raise ValueError(f"{self.provider} signs the public URL: set public_url")
        if self.scheme not in ("", *SCHEMES.get(self.provider, ())):
            raise ValueError(f"{self.provider} has no scheme {self.scheme}: there are {SCHEMES.get(self.provider, ())}")
        if self.pull is not None and (lacking := self.pull.lacking(self.provider)) is not None:
            raise ValueError(lacking)
        return self

    def account_with_secrets(self) -> Account:
        usual = PROVIDERS[self.provider].capabilities
        otherwise = self.capabilities.model_dump(exclude_none=True)
        capabilities = replace(usual, signs=bool(self.secrets), **otherwise)
        return Account(
            provider=self.provider,
            account=self.account,
            secrets=_plain(self.secrets),
            public_url=str(self.public_url) if self.public_url else None,
            path_secrets=_plain(self.path_secrets),
            basic=_plain(self.basic),
            addresses=tuple(str(network) for network in self.addresses),
            short_code=self.short_code,
            capabilities=None if capabilities == usual else capabilities,
            scheme=self.scheme,
            language=self.language,
            country=self.country,
        )


def _plain(secrets: Sequence[SecretStr]) -> tuple[str, ...]:
    return tuple(secret.get_secret_value() for secret in secrets)


class OvhServiceSettings(BaseModel):
    """An OVHcloud SMS service whose MOs are polled; see `ovh_messages.OvhService`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    service: str = Field(min_length=1, max_length=100)
    application_key: str = Field(min_length=1)
    application_secret: SecretStr
    consumer_key: SecretStr
    url: HttpUrl = HttpUrl("https://eu.api.ovh.com/1.0")
    short_code: str = Field("", pattern=r"^(\+?\d{3,15})?$")

    def with_secrets(self) -> ovh_messages.OvhService:
        return ovh_messages.OvhService(
            account=self.account,
            service=self.service,
            application_key=self.application_key,
            application_secret=self.application_secret.get_secret_value(),
            consumer_key=self.consumer_key.get_secret_value(),
            url=str(self.url).rstrip("/"),
            short_code=self.short_code,
        )


class Settings(ShardedSettings):
    # an error at the start would print the secrets
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    provider_accounts: tuple[AccountSettings, ...] = ()
    """The accounts of providers whose callbacks are taken: docs/providers.md."""
    kafka_operators: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")], ...] = ()
    """The names of operators that integrate by Kafka, as in their topics."""
    ovh_services: tuple[OvhServiceSettings, ...] = ()
    """The OVHcloud services whose MOs are polled: docs/providers.md."""
    ovh_poll_every_s: float = Field(20.0, gt=0)
    """The interval of these polls; a STOP may wait so long."""
    publish_timeout_s: float = Field(5.0, gt=0)
    """A callback waits so long for its record on Kafka, then gets 503. Operators give up after 15 s (DOMAIN
    3.1)."""

    review_undo_s: float = Field(300.0, ge=0)
    """How long a reviewer may undo a decision, before the decision takes effect. A STOP takes effect at once."""

    keep: pruning.Periods = pruning.Periods()
    """Retention periods, an object with the fields of `Periods`: docs/retention.md."""

    @model_validator(mode="after")
    def _each_account_once(self) -> Self:
        names = [(account.provider, account.account) for account in self.provider_accounts]
        if len(names) != len(set(names)):
            raise ValueError("a provider account is given twice")
        return self


SEALED = (
    whole("callback", "body", "callback:{id}"),
    whole("part", "text", "part:{provider_message_id}"),
    whole("review", "note", "note:{mo_id}"),
    Sealed("review", "event", {"number": "number:{subject_id}", "text": "text:{mo_id}", "named": "named:{mo_id}"}),
)


def build(settings: Settings | None = None) -> Service[Settings]:
    settings = settings or Settings()
    accounts = [account.account_with_secrets() for account in settings.provider_accounts]
    quick, described = webhooks.callbacks(accounts, settings.publish_timeout_s)

    def background(held: Resources[Settings]) -> Background:
        erasing = eraser(held.database, held.field_keys)
        pulls = [
            each.pull.pull_with_secrets(each.account_with_secrets()) for each in settings.provider_accounts if each.pull
        ]
        ovh = [
            ovh_messages.worker(held, each.with_secrets(), settings.ovh_poll_every_s) for each in settings.ovh_services
        ]
        asking = [*ovh, *(puller.worker(held, pull) for pull in pulls)] if held.shards.own is held.shards.first else []
        return Background(
            subscriptions=[
                codes.subscription(),
                *operators.subscriptions(held, settings.kafka_operators),
                erasing.subscription(),
                copier(held.field_keys).subscription(),
            ],
            workers=[
                *asking,
                erasing.worker(),
                *Effect(held.database).workers(),
                Pruner(held.database, pruning.policy(settings.keep)).worker(),
            ],
        )

    return Service(
        name="inbound",
        about="The callbacks of operators (MOs and delivery receipts), and the review of unclear texts.",
        settings=settings,
        metadata=store.metadata,
        admitted=lambda held: division.admit(held.shards, settings, {"api", "worker"}),
        sealed=SEALED,
        subject_ids={store.callback_item.c.subject_id: store.callback_item.c.subject_id},
        quick=quick,
        routers=[described, reviews.router, replies.router],
        senders_arrive_within_s=codes.ARRIVE_WITHIN_S,
        published=store.PUBLISHED,
        body_limits={"/v1/callbacks": JSON_BYTES},  # of the largest; each provider has a limit
        background=background,
        more_topics=[topic for name in settings.kafka_operators for topic in operator_topics(name)],
    )
