"""Read the settings of a service from the environment or from secret files, under the prefix `PLACET_`.

No module reads the environment at import.
"""

import base64
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from common.law import Policy, load
from common.limits import Limited, shipped
from common.limits import read as read_limits
from common.sms.msisdn import HOME, PLANS
from common.sms.prices import NO_PRICES, Prices
from common.sms.prices import read as read_prices

Role = Literal["api", "worker", "projection", "relay"]
AUTH_KEY_BYTES = 32  # RFC 7518, 3.2
ALL_ROLES: frozenset[Role] = frozenset(("api", "worker", "projection", "relay"))
RELAY_ALONE: frozenset[Role] = frozenset(("relay",))
NO_KEY, NO_OUTER_KEY = "none", "noouter"  # the ids of the keys of a process without keys
OUTER_KEY_ID = re.compile(r"[a-z][a-z0-9]{0,15}")  # not "00", which begins a traceparent
OTHER_IDS = frozenset(("cmp", "ev", "evt", "imp", "mo", "pulled", "sar", "seg", "tpl", "whk"))  # what others begin with


class KeyRingSettings(BaseModel):
    """A key ring. `keys`: key id to base64 of 32 bytes. `current`: id of the key for new values; all keys read."""

    model_config = ConfigDict(frozen=True)

    current: str
    keys: dict[str, SecretStr]

    @model_validator(mode="after")
    def _current_is_one_of_them(self) -> "KeyRingSettings":
        if self.current not in self.keys:
            raise ValueError(f"the current key {self.current!r} is not in the ring")
        return self


class SubjectRingSettings(KeyRingSettings):
    """The ring of subject ids. `current`: the key that hashes numbers, never replaced. `outer`: the keys that encrypt
    the hash, of which one is current and the others are read (ADR-0093).
    """

    outer: KeyRingSettings

    @model_validator(mode="after")
    def _outer_keys_have_ids_of_their_own(self) -> "SubjectRingSettings":
        if wrong := sorted(key_id for key_id in self.outer.keys if not OUTER_KEY_ID.fullmatch(key_id)):
            raise ValueError(
                f"outer key id {wrong[0]!r}: use a letter and then up to 15 of a-z and 0-9, because ids begin with it"
            )
        if taken := sorted(OTHER_IDS & self.outer.keys.keys()):
            raise ValueError(f"the ids of something else begin with {taken[0]!r}: rename the outer key")
        if shared := sorted(self.outer.keys.keys() & self.keys.keys()):
            raise ValueError(f"the key id {shared[0]!r} names a subject key and an outer key: rename the outer key")
        return self


class MountedSettings(BaseSettings):
    """Settings from the environment, or from the files of PLACET_SECRETS_DIR."""

    model_config = SettingsConfigDict(env_prefix="PLACET_", frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = os.environ.get("PLACET_SECRETS_DIR")
        if not folder or not Path(folder).is_dir():  # validation refuses a missing folder
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)


def _random_ring(key_id: str) -> dict[str, object]:
    return {"current": key_id, "keys": {key_id: base64.b64encode(os.urandom(32)).decode()}}


class ServiceSettings(MountedSettings):
    """The settings shared by the four services; each service adds its own in `service.py`."""

    secrets_dir: DirectoryPath | None = None
    """The folder of secret files: a file per setting, named after the variable in lower case. The environment has
    precedence.
    """

    database_url: str
    """The service's own database, `postgresql://role:password@host:port/database`."""
    database_pool: int = Field(20, ge=3)
    """Connections of a process to its database. With an exhausted pool an opt-out waits behind messages."""

    kafka_bootstrap: str
    """The brokers to ask first, `host:port`, separated by commas."""
    kafka_idempotence: bool = True
    """Idempotent producers. Off for a broker without InitProducerId (local stack)."""
    kafka_groups: bool = True
    """Consumers join groups. Off: a consumer reads every partition, for a single process on a broker whose groups take
    seconds to form (local stack). With two processes, the row lock on the stored offset lets each record take effect
    once.
    """
    kafka_replication: int = Field(3, ge=1)
    """Replicas of the topics created by Placet; 1 on a single broker."""
    kafka_tls: bool = False
    """TLS to the brokers, checked by the machine's certificate authorities unless `kafka_ca_file` is set."""
    kafka_ca_file: FilePath | None = None
    """The brokers' certificate authority, PEM."""
    kafka_cert_file: FilePath | None = None
    """The client certificate, PEM."""
    kafka_key_file: FilePath | None = None
    """The key of the client certificate, PEM."""
    kafka_sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """The mechanism of the password. Needs `kafka_tls`."""
    kafka_user: str | None = None
    """The user of the password."""
    kafka_password: SecretStr | None = None
    """The password."""
    topic_prefix: str = ""
    """Separates two test runs on a broker."""
    partitions: int = Field(12, ge=1)
    """Partitions of people, and of all topics keyed by subject: the same for every service for ever, with many divisors
    (ADR-0004).
    """
    work_partitions: int | None = Field(None, ge=1)
    """Partitions of the topics of requests and reports, a multiple of `partitions`: as many, unless set. May be raised
    while the services run (docs/scale.md).
    """

    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = Field(8000, ge=0, le=65535)
    """The port to listen at."""
    health_port: int | None = Field(None, ge=1, le=65535)
    """The port of /livez, /readyz, /metrics and /openapi.json. Without: `port`, for development."""
    docs: bool = False
    """Serves /openapi.json."""
    roles: Annotated[frozenset[Role], NoDecode] = ALL_ROLES
    """The roles of the process, separated by commas; `all` is every role."""
    nice: int = Field(0, ge=0, le=19)
    """Raises the niceness of the process, and of the session that it leads: others get the processor first. Without
    effect between containers.
    """
    keep_alive_s: int = Field(620, ge=1)
    """How long an idle connection of a client stays open. Longer than any client keeps its own, or a request can arrive
    on a closing connection (docs/operators/webhook.md).
    """
    connections: int = Field(500, ge=1)
    """Connections of a process. Beyond, the one that has waited longest for a request is closed."""
    bodies_bytes: int = Field(64 * 1024 * 1024, ge=1024 * 1024)
    """Bytes of all bodies in memory. Beyond, the answer is 503."""
    leave_s: float = Field(5.0, ge=0)
    """After SIGTERM, answers say `Connection: close` for so long."""
    drain_s: float = 10.0
    """After SIGTERM, workers may finish for so long."""

    subject_keys: SubjectRingSettings = Field(None, validate_default=True)
    """The key ring of subject ids: the same for every service. The subject key is never replaced, its outer keys are
    (docs/runbook.md). Required, but for a process whose only role is `relay`.
    """
    field_keys: KeyRingSettings = Field(None, validate_default=True)
    """The key ring of encrypted numbers and texts: the same for every service. Required, but for a process whose only
    role is `relay`.
    """
    link_keys: KeyRingSettings | None = None
    """The key ring of the links in texts, the same for every service: a key stays until its last stop link has ended,
    three years. Without: `field_keys`.
    """

    development: bool = False
    """A machine of one's own: allows `auth_key`, and plain text."""
    plain_text: Annotated[frozenset[Literal["kafka", "issuer", "traces"]], NoDecode] = frozenset()
    """The peers that may be reached in plain text all the same, separated by commas."""
    auth_key: SecretStr | None = None
    """The HS256 key of tokens, of 32 bytes or more: development only."""
    auth_jwks_url: str | None = None
    """The key set of the identity provider (JWKS)."""
    auth_keys_grace_s: float = Field(3600.0, ge=0)
    """How long the last keys count while the issuer does not answer."""
    auth_issuer: str = "placet-development"
    """The issuer (`iss`) of the tokens taken."""
    auth_audience: str = "placet-development"
    """The audience (`aud`) of the tokens taken."""

    limits: Path | None = None
    """The file of limits of organisations and tokens (docs/limits.md), the same for every service. Without: the limits
    shipped.
    """

    max_clock_skew_s: float = Field(0.1, ge=0)
    """The largest difference of the clocks of two hosts; subtracted from every watermark."""
    watermark_every_s: float = Field(0.25, gt=0)
    """The interval of watermarks while the outbox is empty; doubled once nothing was published for ten seconds."""
    relay_batch: int = Field(2000, ge=1)
    """Rows of the outbox that the relay publishes at once."""
    relay_ack_timeout_s: float = Field(5.0, gt=0)
    """A leading relay without an acknowledgement for so long resigns (ADR-0006)."""

    traces_url: str | None = None
    """The OpenTelemetry collector, `http://host:4318`: spans go to its `/v1/traces`. Without: no span is made
    (docs/traces.md).
    """
    traces_ratio: float = Field(1.0, ge=0, le=1)
    """The share of traces whose spans are kept: the same for every service."""

    fictional_numbers: bool = False
    """Numbers 06 39 98 xx xx count as metropolitan mobiles: development only."""
    country: str = HOME
    """The country by whose plan a number without a country code is read, where neither the call nor a sender says
    which (ISO 3166-1 alpha-2).
    """

    @field_validator("subject_keys", "field_keys", mode="before")
    @classmethod
    def _of_none_for_a_relay(cls, value: Any, told: ValidationInfo) -> Any:
        """Give a relay, which makes no id and opens no field, a key that nothing was made with."""
        if value is not None:
            return value
        if told.data.get("roles") != RELAY_ALONE:
            raise PydanticCustomError("missing", "Field required")
        ring = _random_ring(NO_KEY)
        return ring | {"outer": _random_ring(NO_OUTER_KEY)} if told.field_name == "subject_keys" else ring

    @field_validator("country")
    @classmethod
    def _with_a_plan(cls, value: str) -> str:
        if value not in PLANS:
            raise ValueError(f"no numbering plan is known: one of {', '.join(sorted(PLANS))}")
        return value

    @field_validator("plain_text", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return frozenset(filter(None, value.replace(" ", "").split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _two_ports(self) -> "ServiceSettings":
        if self.health_port == self.port:
            raise ValueError("PLACET_HEALTH_PORT is PLACET_PORT: name another port, or leave it out")
        return self

    @model_validator(mode="after")
    def _no_key_of_development_outside(self) -> "ServiceSettings":
        if self.auth_key is None or not self.auth_key.get_secret_value():
            return self
        if not self.development:
            raise ValueError("PLACET_AUTH_KEY is for PLACET_DEVELOPMENT=true alone: set PLACET_AUTH_JWKS_URL")
        if len(self.auth_key.get_secret_value().encode()) < AUTH_KEY_BYTES:
            raise ValueError(f"PLACET_AUTH_KEY has fewer than {AUTH_KEY_BYTES} bytes: make a random one")
        return self

    @model_validator(mode="after")
    def _no_plain_text_outside_development(self) -> "ServiceSettings":
        if self.development:
            return self
        if not (self.kafka_tls or "kafka" in self.plain_text):
            raise ValueError("set PLACET_KAFKA_TLS=true, or PLACET_PLAIN_TEXT=kafka for a network of your own")
        of_issuer = self.auth_jwks_url is None or self.auth_jwks_url.startswith("https://")
        if not (of_issuer or "issuer" in self.plain_text):
            raise ValueError("PLACET_AUTH_JWKS_URL is no https: set PLACET_PLAIN_TEXT=issuer for a network of your own")
        of_collector = self.traces_url is None or self.traces_url.startswith("https://")
        if not (of_collector or "traces" in self.plain_text):
            raise ValueError("PLACET_TRACES_URL is no https: set PLACET_PLAIN_TEXT=traces for a network of your own")
        return self

    @field_validator("roles", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return ALL_ROLES if value == "all" else frozenset(filter(None, value.replace(" ", "").split(",")))
        return value

    @model_validator(mode="after")
    def _the_broker_is_told_who_we_are_and_nobody_else(self) -> "ServiceSettings":
        if (self.kafka_sasl, self.kafka_user, self.kafka_password).count(None) not in (0, 3):
            raise ValueError("PLACET_KAFKA_SASL, PLACET_KAFKA_USER and PLACET_KAFKA_PASSWORD go together")
        if (self.kafka_cert_file is None) != (self.kafka_key_file is None):
            raise ValueError("PLACET_KAFKA_CERT_FILE and PLACET_KAFKA_KEY_FILE go together")
        if not self.kafka_tls and (self.kafka_sasl or self.kafka_cert_file or self.kafka_ca_file):
            raise ValueError("set PLACET_KAFKA_TLS too: a password, or a certificate, needs it")
        return self

    @model_validator(mode="after")
    def _people_of_a_partition_stay_together(self) -> "ServiceSettings":
        if self.wide_partitions % self.partitions:
            raise ValueError(
                f"PLACET_WORK_PARTITIONS is {self.work_partitions}: set a multiple of PLACET_PARTITIONS,"
                f" which is {self.partitions}"
            )
        return self

    @property
    def wide_partitions(self) -> int:
        """Return how many partitions the topics of requests and reports shall have."""
        return self.work_partitions or self.partitions

    @property
    def own_partitions(self) -> Sequence[int]:
        """Return the partitions whose people the database holds: all, but of a shard (`shards.py`)."""
        return range(self.partitions)

    @property
    def places(self) -> int:
        """Return how many places the shards of the service share out: as many as there are partitions, of people."""
        return self.partitions

    @property
    def own_places(self) -> Sequence[int]:
        """Return the places that the database holds: all, but of a shard."""
        return self.own_partitions

    @property
    def people_are_divided(self) -> bool:
        """Return whether a person is in one shard, which alone reads the person's partition."""
        return False

    @property
    def own_shard(self) -> str:
        """Return the name of the shard of the process; empty where the service has one database."""
        return ""

    @property
    def divided(self) -> Sequence[tuple[str, Sequence[int], str]]:
        """Return the name, the places and the database's URL of each shard, that of place 0 first, if any."""
        return ()

    @property
    def first_url(self) -> str:
        """Return the URL of the database that keeps what is counted over all shards."""
        return self.divided[0][2] if self.divided else self.database_url

    @property
    def keyless(self) -> bool:
        """Return whether the process is a relay without keys."""
        return self.roles == RELAY_ALONE and self.subject_keys.current == NO_KEY

    @cached_property
    def limited(self) -> Limited:
        """Return the limits, read at the start, which an unreadable file stops."""
        return read_limits(self.limits.read_bytes()) if self.limits else shipped()

    @model_validator(mode="after")
    def _the_limits_can_be_read(self) -> "ServiceSettings":
        try:
            assert self.limited.version
        except OSError as error:
            raise ValueError(f"limits: {error.strerror}") from error
        return self

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> "ServiceSettings":
        if "api" in self.roles and not (self.auth_key or self.auth_jwks_url):
            raise ValueError("set PLACET_AUTH_JWKS_URL (or PLACET_AUTH_KEY in development): no call is anonymous")
        return self


class MigrationSettings(MountedSettings):
    """The settings of `migrate`, which needs no key and reads no other variable."""

    database_url: str
    """As the running service has it: the migration lets this role read and write rows."""
    owner_url: str | None = None
    """The same database by the role that owns it, for `migrate` alone: a running service refuses to start with it.
    Without, the role of `PLACET_DATABASE_URL` owns the database: development only.
    """


class MovingSettings(MigrationSettings):
    """The settings of `keys --subjects`, which needs the ring and no other key, and reads no other variable."""

    subject_keys: SubjectRingSettings
    """As every service has it, with the outer key of before among the others."""
    partitions: int = Field(ge=1)
    """As every service has it. Without a default: rows of another partition than their person's are under no lock."""


class HoursSettings(ServiceSettings):
    """The settings of the services that compute sending hours; all need the same values."""

    hours: Literal["france", "demonstration"] = "france"
    """The edition of the sending hours: the same for every service. `demonstration` is for demonstrations only."""
    house_rules: Path | None = None
    """The file of the house's own rules (`common/law/files.py`), the same for every service."""

    @cached_property
    def policy(self) -> Policy:
        """Return the policy, read at the start, which an unreadable policy stops."""
        return load(self.hours, self.house_rules.read_bytes() if self.house_rules else None)

    @model_validator(mode="after")
    def _the_rules_can_be_read(self) -> "HoursSettings":
        try:
            assert self.policy.version
        except OSError as error:
            raise ValueError(f"house_rules: {error.strerror}") from error
        return self


class PricedSettings(HoursSettings):
    """The settings of the services that compute costs; both need the same values."""

    prices: Path | None = None
    """The operator's table of prices (`common/sms/prices.py`), the same for both services. Without: no cost is known.
    """

    @cached_property
    def price_table(self) -> Prices:
        """Return the prices, read at the start, which an unreadable table stops."""
        return read_prices(self.prices.read_bytes()) if self.prices else NO_PRICES

    @model_validator(mode="after")
    def _the_prices_can_be_read(self) -> "PricedSettings":
        try:
            assert self.price_table.version
        except OSError as error:
            raise ValueError(f"prices: {error.strerror}") from error
        return self
