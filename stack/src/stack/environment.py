"""Make the environment of each process of a local stack: ports, databases, keys, tokens. All values are temporary.

Fictional numbers count as mobiles; on the local broker, topics have one replica and consumers use no groups. Never copy
these settings to production.
"""

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import jwt

from stack.processes import DidNotStart, free_port

Hours = Literal["demonstration", "france"]
Kind = Literal["kafka", "smpp", "kannel"]  # of an operator before the simulator: `stack.bridge`
KINDS: Sequence[Kind] = get_args(Kind)
OPERATOR = "demo"  # in its topics, and the account's name
SMPP_USER, SMPP_PASSWORD_CHARS = "placet", 8
SEGMENTS = 10  # of the bridge's Kannel: `max-messages` of its group

SERVICES = ("consent", "inbound", "campaign", "dispatch")
PARTITIONS = 6
ISSUER = "placet-development"
ORGANISATION, NEIGHBOUR = "development", "neighbour"
SHARED_CODES = ("36111",)  # open to both organisations
SCOPES = (
    "sender:read sender:write sender:reopen consent:read consent:write contact:read contact:write"
    " campaign:read campaign:write campaign:approve campaign:rules campaign:trace"
    " message:send:transactional message:send:service message:send:marketing"
    " message:send:free_text message:send:override template:read template:write template:approve"
    " message:read message:write review:read review:write"
    " erasure:read erasure:write copy:read copy:write rectification:read rectification:write"
    " dead-letter:read dead-letter:write event:read webhook:read webhook:write audit:read platform:admin"
)
# of an organisation that operates no platform and may not override what looks like advertising
TENANT_SCOPES = " ".join(s for s in SCOPES.split() if s not in ("platform:admin", "message:send:override"))
TOKEN_DAYS = 30
LIMITS = Path(__file__).with_name("limits.json")  # large: a run of the stack is not about them
PRICES = Path(__file__).parents[3] / "examples/prices.json"
TWILIO_PUBLIC_URL = "https://placet.example"  # signed by Twilio
DRAIN_S = 10.0  # longer than a submit's timeout
REVIEW_UNDO_S = 3.0  # long enough to see, and short for who waits
LEAVE_S = 1.0  # the stack has no load balancer
# variables of clients and tests, which no service reads
NO_SETTINGS = frozenset(
    (
        *("PLACET_PROFILE", "PLACET_TOKEN", "PLACET_WEBHOOK_SECRET", "PLACET_WEBHOOK_SECRETS"),
        *("PLACET_OPERATOR_TOKEN", "PLACET_OPERATOR_SECRET"),
        *(f"PLACET_{name.upper()}_URL" for name in SERVICES),
    )
)


@dataclass(frozen=True)
class Operators:
    """The operators of a stack beside the simulator.

    `gateways`: PLACET_GATEWAYS, instead of the simulator's gateway; `{inbound}` in them is the URL of the stack's
    inbound-svc. `accounts`: of PLACET_PROVIDER_ACCOUNTS, beside the stack's own. `kind`: how the services reach the
    simulator (`stack.bridge`); by its HTTP unless set.
    """

    gateways: Sequence[Mapping[str, object]] | None = field(default=None, repr=False)
    accounts: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    kind: Kind | None = None


NO_OPERATORS = Operators()
INBOUND = "{inbound}"


def operators_asked(told: Mapping[str, str]) -> Operators:
    """Read the files that the variables GATEWAYS and ACCOUNTS name, and OPERATOR. Raises DidNotStart."""
    kind = next((each for each in KINDS if each == told.get("OPERATOR")), None)
    if told.get("OPERATOR") and kind is None:
        raise DidNotStart(f"OPERATOR is one of {', '.join(KINDS)}; without it the simulator is reached by HTTP")
    if kind is not None and told.get("GATEWAYS"):
        raise DidNotStart("leave out GATEWAYS or OPERATOR: both name the gateway")
    return Operators(
        kind=kind,
        gateways=_listed("GATEWAYS", told["GATEWAYS"]) if told.get("GATEWAYS") else None,
        accounts=_listed("ACCOUNTS", told["ACCOUNTS"]) if told.get("ACCOUNTS") else (),
    )


def refuse_settings(told: Mapping[str, str]) -> None:
    """Raise DidNotStart for settings of services among the caller's variables: the stack would drop them."""
    dropped = sorted(
        name
        for name in told
        if name.startswith("PLACET_") and not name.startswith("PLACET_TEST_") and name not in NO_SETTINGS
    )
    if dropped:
        raise DidNotStart(
            f"unset {', '.join(dropped)}: the stack makes the settings of its services. GATEWAYS=file and ACCOUNTS=file"
            " take what PLACET_GATEWAYS and PLACET_PROVIDER_ACCOUNTS hold"
        )


def _listed(variable: str, path: str) -> list[Mapping[str, object]]:
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DidNotStart(f"{variable}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DidNotStart(f"{variable}: {path} is no JSON") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise DidNotStart(f"{variable}: {path} holds no JSON list of objects (docs/providers.md has one)")
    return found


def _url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def _ring(key_id: str) -> str:
    """Return a key ring with a random key, as JSON."""
    return json.dumps({"current": key_id, "keys": {key_id: _key()}})


def _subject_ring(key_id: str, outer: str) -> str:
    return json.dumps({"current": key_id, "keys": {key_id: _key()}, "outer": json.loads(_ring(outer))})


def _key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def ring_with(ring: str, key_id: str) -> str:
    """Return a key ring with a further random key; the current key stays."""
    told = json.loads(ring)
    return json.dumps({**told, "keys": {**told["keys"], key_id: _key()}})


def outer_ring(ring: str, change: Callable[[str], str]) -> str:
    """Return a ring of subject keys with its outer ring changed."""
    told = json.loads(ring)
    return json.dumps({**told, "outer": json.loads(change(json.dumps(told["outer"])))})


def ring_under(ring: str, key_id: str) -> str:
    """Return a key ring with another of its keys as the current one."""
    return json.dumps({**json.loads(ring), "current": key_id})


def ring_of_current(ring: str) -> str:
    """Return a key ring without its older keys."""
    told = json.loads(ring)
    return json.dumps({**told, "keys": {told["current"]: told["keys"][told["current"]]}})


@dataclass(frozen=True)
class Environment:
    """The values of a stack. `kafka`: brokers of Apache Kafka; 0: the local broker.

    `more`: further variables by service, which override.
    """

    hours: Hours = "demonstration"
    kafka: int = 0
    operators: Operators = NO_OPERATORS
    idempotent_gateway: bool = False  # the operator treats a repeated reference as the same SMS
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=lambda: {name: _url() for name in (*SERVICES, "simulator")})
    projection_url: str = field(default_factory=_url)
    bridge_url: str = field(default_factory=_url)
    smpp_port: int = field(default_factory=free_port)
    database_passwords: Mapping[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(16) for name in SERVICES}, repr=False
    )
    owner_passwords: Mapping[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(16) for name in SERVICES}, repr=False
    )
    subject_keys: str = field(default_factory=lambda: _subject_ring("s1", "o1"), repr=False)
    field_keys: str = field(default_factory=lambda: _ring("f1"), repr=False)
    link_keys: str | None = field(default=None, repr=False)  # without: `field_keys`
    signing_keys: str = field(default_factory=lambda: _ring("p1"), repr=False)
    retired_signing_keys: Mapping[str, str] = field(default_factory=dict)
    auth_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    gateway_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    simulator_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    twilio_secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def of_service(self, name: str, database_url: str, bootstrap: str) -> dict[str, str]:
        told = {
            "PLACET_DATABASE_URL": database_url,
            "PLACET_KAFKA_BOOTSTRAP": bootstrap,
            "PLACET_KAFKA_IDEMPOTENCE": str(self.kafka > 0).lower(),
            "PLACET_KAFKA_GROUPS": str(self.kafka > 0).lower(),
            "PLACET_KAFKA_REPLICATION": str(max(self.kafka, 1)),
            "PLACET_PARTITIONS": str(PARTITIONS),
            "PLACET_PORT": self.urls[name].rpartition(":")[2],
            "PLACET_ROLES": "all",
            "PLACET_LEAVE_S": str(LEAVE_S),
            "PLACET_DRAIN_S": str(DRAIN_S),
            "PLACET_SUBJECT_KEYS": self.subject_keys,
            "PLACET_FIELD_KEYS": self.field_keys,
            "PLACET_DEVELOPMENT": "true",
            "PLACET_DOCS": "true",
            "PLACET_AUTH_KEY": self.auth_key,
            "PLACET_AUTH_ISSUER": ISSUER,
            "PLACET_AUTH_AUDIENCE": ISSUER,
            "PLACET_FICTIONAL_NUMBERS": "true",
            "PLACET_LIMITS": str(LIMITS),
        }
        if self.link_keys is not None:
            told["PLACET_LINK_KEYS"] = self.link_keys
        if name == "consent":
            told["PLACET_SIGNING_KEYS"] = self.signing_keys
            told["PLACET_RETIRED_SIGNING_KEYS"] = json.dumps(dict(self.retired_signing_keys))
            told["PLACET_PAGE_URL"] = self.urls["consent"]
            told["PLACET_SHARED_CODES"] = json.dumps(SHARED_CODES)
        if name in ("consent", "campaign", "dispatch"):
            told["PLACET_HOURS"] = self.hours
        if name in ("campaign", "dispatch"):
            told["PLACET_PRICES"] = str(PRICES)
        if name == "campaign":
            told["PLACET_WEBHOOKS_PRIVATE"] = "true"  # a receiver of this machine
        if name == "dispatch":
            told["PLACET_ROLES"] = "api,worker,relay"  # see `of_projection`
            if self.operators.kind is not None:
                told["PLACET_GATEWAYS"] = json.dumps([self._gateway(self.operators.kind)])
            elif self.operators.gateways is not None:
                told["PLACET_GATEWAYS"] = json.dumps(self.operators.gateways).replace(INBOUND, self.urls["inbound"])
            else:
                told["PLACET_GATEWAY_URL"] = self.urls["simulator"]
                told["PLACET_GATEWAY_TOKEN"] = self.gateway_token
                told["PLACET_GATEWAY_IDEMPOTENT"] = str(self.idempotent_gateway).lower()
        if name == "inbound":
            told["PLACET_PROVIDER_ACCOUNTS"] = json.dumps(self._provider_accounts())
            told["PLACET_REVIEW_UNDO_S"] = str(REVIEW_UNDO_S)
            if self.operators.kind in ("kafka", "smpp"):
                told["PLACET_KAFKA_OPERATORS"] = json.dumps([OPERATOR])
        return {**_inherited(), **told, **self.more.get(name, {})}

    def of_migration(self, database_url: str, owner_url: str) -> dict[str, str]:
        """Return the variables of a migration, which has no key. The service's role gets no right on the schema."""
        return _inherited() | {"PLACET_DATABASE_URL": database_url, "PLACET_OWNER_URL": owner_url}

    def of_move(self, database_url: str, owner_url: str) -> dict[str, str]:
        """Return the variables of a move of subject ids to the current outer key."""
        told = {"PLACET_PARTITIONS": str(PARTITIONS), "PLACET_SUBJECT_KEYS": self.subject_keys}
        return self.of_migration(database_url, owner_url) | told

    def of_projection(self, dispatch: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of dispatch-svc's projection process: opt-outs and codes must not wait for campaigns."""
        port = self.projection_url.rpartition(":")[2]
        return {**dispatch, "PLACET_ROLES": "projection", "PLACET_PORT": port}

    def of_bridge(self, bootstrap: str) -> dict[str, str]:
        """Return the variables of the bridge between the services and the simulator."""
        return _inherited() | {
            "PLACET_BRIDGE_PORT": self.bridge_url.rpartition(":")[2],
            "PLACET_BRIDGE_SIMULATOR": self.urls["simulator"],
            "PLACET_BRIDGE_INBOUND": self.urls["inbound"],
            "PLACET_BRIDGE_TOKEN": self.gateway_token,
            "PLACET_BRIDGE_KAFKA": bootstrap,
            "PLACET_BRIDGE_SMPP_PORT": str(self.smpp_port),
        }

    def _gateway(self, kind: Kind) -> dict[str, object]:
        """Return the gateway to the bridge. A repeated reference on the topic is the same SMS to the simulator."""
        if kind == "kafka":
            return {"provider": "kafka", "account": OPERATOR, "idempotent": True}
        if kind == "kannel":
            return {
                "provider": "kannel",
                "account": OPERATOR,
                "url": self.bridge_url,
                "user": SMPP_USER,
                "secret": self.gateway_token,
                "callback_url": f"{self.urls['inbound']}/v1/callbacks/kannel/{OPERATOR}/receipts",
                "segments": SEGMENTS,
            }
        secret = self.gateway_token[:SMPP_PASSWORD_CHARS]
        url = f"smpp://127.0.0.1:{self.smpp_port}"
        return {"provider": "smpp", "account": OPERATOR, "url": url, "user": SMPP_USER, "secret": secret}

    def of_simulator(self, log: Path) -> dict[str, str]:
        return _inherited() | {
            "PLACET_SIM_PORT": self.urls["simulator"].rpartition(":")[2],
            "PLACET_SIM_TOKEN": self.gateway_token,
            "PLACET_SIM_SECRET": self.simulator_secret,
            "PLACET_SIM_LOG": str(log),
            "PLACET_SIM_IDEMPOTENT": str(int(self.idempotent_gateway or self.operators.kind is not None)),
            "PLACET_INBOUND_URL": self.urls["inbound"] if self.operators.kind is None else self.bridge_url,
            **self.more.get("simulator", {}),
        }

    def token(self, scope: str = SCOPES, subject: str = "developer", organisation: str = ORGANISATION) -> str:
        """Return a development JWT for every sender of an organisation."""
        now = int(time.time())
        claims = {
            "sub": subject,
            "organisation": organisation,
            "scope": scope,
            "senders": "*",
            "iss": ISSUER,
            "aud": ISSUER,
        }
        return jwt.encode({**claims, "iat": now, "exp": now + TOKEN_DAYS * 86_400}, self.auth_key, algorithm="HS256")

    def tokens(self) -> dict[str, str]:
        """Return the tokens of both organisations by variable. The colleagues approve what the others wrote."""
        return {
            "TOKEN": self.token(),
            "COLLEAGUE_TOKEN": self.token(subject="colleague"),
            "NEIGHBOUR_TOKEN": self.token(TENANT_SCOPES, "neighbour", NEIGHBOUR),
            "NEIGHBOUR_COLLEAGUE_TOKEN": self.token(TENANT_SCOPES, "colleague", NEIGHBOUR),
        }

    def write(self, path: Path) -> None:
        """Write `stack.env`, readable by the owner alone, complete or not at all."""
        lines = {f"{name.upper()}_URL": url for name, url in self.urls.items()}
        lines |= self.tokens()
        lines |= {"SIMULATOR_SECRET": self.simulator_secret, "TWILIO_SECRET": self.twilio_secret}
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        fresh.replace(path)

    def _provider_accounts(self) -> list[Mapping[str, object]]:
        """Return the stack's own accounts, but those of which ACCOUNTS has the name, and those of ACCOUNTS."""
        own: list[dict[str, object]] = [
            {"provider": "simulator", "account": "main", "secrets": [self.simulator_secret]},
            {
                "provider": "twilio",
                "account": "main",
                "secrets": [self.twilio_secret],
                "public_url": TWILIO_PUBLIC_URL,
            },
        ]
        if self.operators.kind == "kannel":
            own.append({"provider": "kannel", "account": OPERATOR, "addresses": ["127.0.0.1/32"]})
        named = {(each.get("provider"), each.get("account")) for each in self.operators.accounts}
        return [*(each for each in own if (each["provider"], each["account"]) not in named), *self.operators.accounts]


def _inherited() -> dict[str, str]:
    """Return this process's variables except PLACET_*, which must not reach a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PLACET_")}
