"""Sign deliveries by Standard Webhooks, and rotate secrets. Pure.

A delivery has a signature of each secret that counts: after a rotation, the former secret signs along for a while, so
that a receiver changes its own without losing a delivery.
"""

import base64
from collections.abc import Sequence
from datetime import datetime

import msgspec
from standardwebhooks.webhooks import Webhook

SECRET_BYTES = 32  # the specification: 24 to 64
PREFIX = "whsec_"
MOST_SECRETS = 3


class Secret(msgspec.Struct, frozen=True):
    """A secret; `until`: when a former secret ends."""

    secret: str
    until: datetime | None = None


def secret_of(random: bytes) -> str:
    """Return a secret of these random bytes, as receivers' libraries read it."""
    return PREFIX + base64.b64encode(random).decode()


def counting(secrets: Sequence[Secret], now: datetime) -> list[Secret]:
    """Return the secrets that sign now, the current one first."""
    return [each for each in secrets if each.until is None or now < each.until]


def rotated(secrets: Sequence[Secret], new: str, now: datetime, until: datetime) -> list[Secret]:
    """Return the secrets after a rotation: the former ones end at `until` at the latest."""
    former = [Secret(each.secret, min(each.until or until, until)) for each in counting(secrets, now)]
    return [Secret(new), *former][:MOST_SECRETS]


def headers(event_id: str, at: datetime, body: str, secrets: Sequence[Secret]) -> dict[str, str]:
    """Return the headers of a delivery at `at`."""
    signatures = [Webhook(each.secret).sign(event_id, at, body) for each in counting(secrets, at)]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
