"""Make the environment of each process of a local stack: ports, databases, keys, tokens. All values are temporary.

Fictional numbers count as mobiles; on the local broker, topics have one replica and consumers use no groups. Never copy
these settings to production.
"""

import base64
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jwt

from stack.processes import free_port

Hours = Literal["demonstration", "france"]

SERVICES = ("consent", "inbound", "campaign", "dispatch")
PARTITIONS = 6
ISSUER = "placet-development"
SCOPES = (
    "sender:read sender:write sender:reopen consent:read consent:write contact:write"
    " campaign:read campaign:write campaign:approve campaign:rules campaign:trace"
    " message:send:transactional message:send:service message:send:marketing"
    " message:send:free_text message:send:override template:read template:write template:approve"
    " message:read message:write review:read review:write"
    " erasure:read erasure:write copy:read copy:write rectification:read rectification:write"
    " dead-letter:read dead-letter:write"
)
TOKEN_DAYS = 30
TWILIO_PUBLIC_URL = "https://placet.example"  # signed by Twilio
DRAIN_S = 10.0  # longer than a submit's timeout
LEAVE_S = 1.0  # the stack has no load balancer


def _url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def _ring(key_id: str) -> str:
    """Return a key ring with a random key, as JSON."""
    return json.dumps({"current": key_id, "keys": {key_id: base64.b64encode(os.urandom(32)).decode()}})


@dataclass(frozen=True)
class Environment:
    """The values of a stack. `kafka`: brokers of Apache Kafka; 0: the local broker.

    `more`: further variables by service, which override.
    """

    hours: Hours = "demonstration"
    kafka: int = 0
    idempotent_gateway: bool = False  # the operator treats a repeated reference as the same SMS
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=lambda: {name: _url() for name in (*SERVICES, "simulator")})
    projection_url: str = field(default_factory=_url)
    database_passwords: Mapping[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(16) for name in SERVICES}, repr=False
    )
    subject_keys: str = field(default_factory=lambda: _ring("s1"), repr=False)
    field_keys: str = field(default_factory=lambda: _ring("f1"), repr=False)
    signing_keys: str = field(default_factory=lambda: _ring("p1"), repr=False)
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
            "PLACET_AUTH_KEY": self.auth_key,
            "PLACET_AUTH_ISSUER": ISSUER,
            "PLACET_AUTH_AUDIENCE": ISSUER,
            "PLACET_FICTIONAL_NUMBERS": "true",
        }
        if name == "consent":
            told["PLACET_SIGNING_KEYS"] = self.signing_keys
            told["PLACET_PAGE_URL"] = self.urls["consent"]
        if name in ("consent", "campaign", "dispatch"):
            told["PLACET_HOURS"] = self.hours
        if name == "dispatch":
            told["PLACET_ROLES"] = "api,worker,relay"  # see `of_projection`
            told["PLACET_NICE"] = "5"  # STOPs and codes get the processor before a campaign
            told["PLACET_GATEWAY_URL"] = self.urls["simulator"]
            told["PLACET_GATEWAY_TOKEN"] = self.gateway_token
            told["PLACET_GATEWAY_IDEMPOTENT"] = str(self.idempotent_gateway).lower()
        if name == "inbound":
            told["PLACET_PROVIDER_ACCOUNTS"] = json.dumps(self._provider_accounts())
        return {**_inherited(), **told, **self.more.get(name, {})}

    def of_projection(self, dispatch: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of dispatch-svc's projection process: opt-outs and codes must not wait for campaigns."""
        port = self.projection_url.rpartition(":")[2]
        return {**dispatch, "PLACET_ROLES": "projection", "PLACET_NICE": "0", "PLACET_PORT": port}

    def of_simulator(self, log: Path) -> dict[str, str]:
        return _inherited() | {
            "PLACET_SIM_PORT": self.urls["simulator"].rpartition(":")[2],
            "PLACET_SIM_TOKEN": self.gateway_token,
            "PLACET_SIM_SECRET": self.simulator_secret,
            "PLACET_SIM_LOG": str(log),
            "PLACET_SIM_IDEMPOTENT": str(int(self.idempotent_gateway)),
            "PLACET_INBOUND_URL": self.urls["inbound"],
            **self.more.get("simulator", {}),
        }

    def token(self, scope: str = SCOPES, subject: str = "developer") -> str:
        """Return a development JWT for every sender."""
        now = int(time.time())
        claims = {"sub": subject, "scope": scope, "senders": "*", "iss": ISSUER, "aud": ISSUER}
        return jwt.encode({**claims, "iat": now, "exp": now + TOKEN_DAYS * 86_400}, self.auth_key, algorithm="HS256")

    def write(self, path: Path) -> None:
        """Write `stack.env`, readable by the owner alone, complete or not at all."""
        lines = {f"{name.upper()}_URL": url for name, url in self.urls.items()}
        lines |= {"TOKEN": self.token(), "COLLEAGUE_TOKEN": self.token(subject="colleague")}
        lines |= {"SIMULATOR_SECRET": self.simulator_secret, "TWILIO_SECRET": self.twilio_secret}
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        fresh.replace(path)

    def _provider_accounts(self) -> list[dict[str, object]]:
        return [
            {"provider": "simulator", "account": "main", "secrets": [self.simulator_secret]},
            {
                "provider": "twilio",
                "account": "main",
                "secrets": [self.twilio_secret],
                "public_url": TWILIO_PUBLIC_URL,
            },
        ]


def _inherited() -> dict[str, str]:
    """Return this process's variables except PLACET_*, which must not reach a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PLACET_")}
