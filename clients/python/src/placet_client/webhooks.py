"""Verify webhooks by Standard Webhooks (standardwebhooks.com): HMAC-SHA256 over id, timestamp and body. Pure."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from placet_client.problem import PlacetError

PREFIX = "whsec_"
VERSION = "v1"
TOLERANCE = timedelta(minutes=5)


class NotGenuine(PlacetError):
    """The webhook is refused: answer 401, and do nothing. The message names the reason, never a secret."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A genuine webhook. `id` is the same at each repeat: keep ids, and do nothing at a repeated one."""

    id: str
    sent_at: datetime
    body: Any = field(repr=False)


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secrets: str | Iterable[str],
    *,
    now: datetime | None = None,
    tolerance: timedelta = TOLERANCE,
) -> Webhook:
    """Return the webhook of a request. Raises NotGenuine.

    `body`: the bytes as received, before any parser. `secrets`: `whsec_…`; several during a rotation, of which any may
    have signed. `now`: default the clock; a timestamp further away than `tolerance` is refused, so that an old
    request cannot be replayed.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, timestamp, signatures = (lower[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise NotGenuine(f"the header {missing.args[0]} is missing") from None
    sent_at = _instant(timestamp)
    if abs((now or datetime.now(UTC)) - sent_at) > tolerance:
        raise NotGenuine("the timestamp is too far from now: check the clock of this machine")
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise NotGenuine("no secret to verify by: pass the secret of the webhook's subscription")
    told = [value for version, _, value in (each.partition(",") for each in signatures.split()) if version == VERSION]
    right = [_signature(key, webhook_id, timestamp, body) for key in keys]
    matching = [hmac.compare_digest(mine.encode(), theirs.encode()) for mine in right for theirs in told]  # all of them
    if not any(matching):
        raise NotGenuine("no signature matches: pass the body as received, and the secret of this subscription")
    try:
        return Webhook(webhook_id, sent_at, json.loads(body))
    except ValueError:
        raise NotGenuine("the body is not JSON") from None


def sign(body: bytes, webhook_id: str, sent_at: datetime, secret: str) -> dict[str, str]:
    """Return the headers of a webhook as a service signs the webhook: for tests of your own endpoint."""
    timestamp = str(int(sent_at.timestamp()))
    signature = _signature(_key(secret), webhook_id, timestamp, body)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"{VERSION},{signature}",
    }


def _signature(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise NotGenuine("the secret is not base64 behind `whsec_`") from None
    if not key:
        raise NotGenuine("the secret is empty")
    return key


def _instant(timestamp: str) -> datetime:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 11):
        raise NotGenuine("the header webhook-timestamp is not a number of seconds")
    return datetime.fromtimestamp(int(timestamp), UTC)
