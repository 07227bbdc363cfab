"""Limit the calls of each token and of each organisation, in every route that names its caller (`auth.require`).

A route that records an opt-out or stops messages is never limited. An answer says what is left in the fields
`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from math import ceil

from common.db.allowances import Allowances, Charge
from common.limits import Granted, Quota, minute_of, second_of
from common.telemetry import counter
from common.web.problems import Reason, TooMany

REFUSED = counter(
    "sms_limits_refused_total",
    "Calls and messages refused by a limit, by limit. docs/limits.md has the names.",
    ["rule"],
)


Headers = Sequence[tuple[bytes, bytes]]


class LimitReached(TooMany):
    """A limit of the organisation or of the token is used up for now. `reasons` names the limit (docs/limits.md).

    Wait as many seconds as `Retry-After` says, or ask the platform's operator for a higher limit.
    """

    slug, title = "limit-reached", "A limit of the organisation or of the token is reached"

    def __init__(self, detail: str, reasons: Sequence[Reason], after_s: float, fields: Headers = ()) -> None:
        again = {"Retry-After": str(max(1, ceil(after_s)))}
        super().__init__(
            detail, reasons=reasons, headers=again | {name.decode(): value.decode() for name, value in fields}
        )


@lru_cache(maxsize=10_000)
def holder_of(account: str) -> str:
    """Return the name under which an account is counted: an account may name a person."""
    return hashlib.sha256(account.encode()).hexdigest()[:32]


@lru_cache(maxsize=4096)
def calls_of(
    granted: Granted, organisation: str, account: str, second: datetime, *, looks_up: bool = False
) -> list[Quota]:
    """Return the quotas of a call in a second, the token's first. `looks_up`: the call looks a number up."""
    own, whole, token = granted.own, granted.organisation, holder_of(account)
    limits = (
        ("lookups_per_second", token, own.lookups_per_second if looks_up else None),
        ("token_requests_per_second", token, own.token_requests_per_second),
        ("requests_per_second", organisation, whole.requests_per_second),
    )
    return [Quota(name, holder, limit, *second_of(second)) for name, holder, limit in limits if limit is not None]


async def admit(allowances: Allowances, quotas: Sequence[Quota], now: datetime) -> Headers:
    """Count a call, and return the fields of its answer. Raises LimitReached."""
    refused = await allowances.use([Charge(quota, 1) for quota in quotas])
    if refused is not None:
        REFUSED.labels(refused.name).inc()
        raise LimitReached(
            f"more than {refused.limit} calls a second: wait, or ask the platform's operator for a higher limit",
            [Reason(None, refused.name, str(refused.limit))],
            (refused.until - now).total_seconds(),
            fields_of(allowances, quotas, now),
        )
    return fields_of(allowances, quotas, now)


async def admit_numbers(allowances: Allowances, granted: Granted, account: str, numbers: int, now: datetime) -> None:
    """Count the numbers of a call with many. Raises LimitReached, and then counts none of them."""
    limit = granted.own.numbers_per_minute
    if limit is None:
        return
    quota = Quota("numbers_per_minute", holder_of(account), limit, *minute_of(now))
    if await allowances.use([Charge(quota, numbers)]) is not None:
        REFUSED.labels(quota.name).inc()
        raise LimitReached(
            f"more than {limit} numbers a minute: wait, send fewer numbers, or ask the platform's operator for more",
            [Reason(None, quota.name, str(limit))],
            (quota.until - now).total_seconds(),
            fields_of(allowances, [quota], now),
        )


def fields_of(allowances: Allowances, quotas: Sequence[Quota], now: datetime) -> Headers:
    """Return the `RateLimit` fields: each policy, and what is left of it."""
    if not quotas:
        return []
    left = ", ".join(
        f'"{quota.name}";r={max(0, allowances.left(quota))};t={max(1, round((quota.until - now).total_seconds()))}'
        for quota in quotas
    )
    stated = tuple((quota.name, quota.limit, round((quota.until - quota.since).total_seconds())) for quota in quotas)
    return [(b"ratelimit-policy", _policy(stated)), (b"ratelimit", left.encode())]


@lru_cache(maxsize=4096)
def _policy(quotas: tuple[tuple[str, int, int], ...]) -> bytes:
    return ", ".join(f'"{name}";q={limit};w={window}' for name, limit, window in quotas).encode()
