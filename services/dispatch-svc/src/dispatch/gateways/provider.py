"""What an HTTP gateway's module must be able to do, and what an answer's status alone says. Pure.

    429                              ThrottledUntil where it says for how long, else Throttled
    3xx, 401, 402, 403, 404, 405     Misconfigured: our account or our address
    any other 4xx but 408            Refused
    408, 5xx                         Unanswered: somebody may have had it before it failed

A provider whose codes say more looks at them first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import msgspec

from dispatch.gateways.gateway import (
    Capabilities,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    Unanswered,
)

NOT_SAID_S = 1.0  # the first pause of a 429 that does not say how long, or says that it takes no time
OURS = frozenset((301, 302, 303, 307, 308, 401, 402, 403, 404, 405))


class ThrottledUntil(Throttled):
    """The operator says itself for how long. Of any other, `after_s` is where the pauses begin to grow (`health`)."""


class NotNow(Throttled):
    """Of this message alone, and for a while: its gateway takes others meanwhile."""


@dataclass(frozen=True, slots=True)
class Account:
    """Our account with a provider. `user` and `secret`: whatever it knows us by; `url`: where it is, if not where all
    its customers find it; `callback_url`: where its receipts are to go, told with each submit where it can be;
    `options`: what only this provider has, see the module's `OPTIONS`."""

    provider: str
    account: str = "main"
    user: str = ""
    secret: str = field(default="", repr=False)
    url: str | None = None
    callback_url: str | None = field(default=None, repr=False)  # its path may hold a secret
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A POST; a GET to look up. `path` after the account's URL, `body` as it is sent: a signature may cover it."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers`: whose names are looked up whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Described(Protocol):
    """What every gateway's module says of itself."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def NEEDS(self) -> Sequence[str]:  # noqa: N802 a module's constant
        """Of `Account`: user, secret, url."""

    @property
    def OPTIONS(self) -> Mapping[str, bool]:  # noqa: N802
        """Of `Account.options`, and whether it must be there."""


class HttpProvider(Described, Protocol):
    """One provider's formats: a module. Both functions are pure."""

    @property
    def URL(self) -> str:  # noqa: N802
        """Where all its customers find it; "" where each has its own."""

    def request(self, messages: Sequence[Submit], account: Account, now: datetime) -> Request:
        """At most `capabilities.batch` messages."""

    def read(self, answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        """Each message's result. Raises SendError when it is the same for all; whatever else it raises is an answer
        that cannot be read."""


class LooksUp(Protocol):
    """What a module has besides, whose provider can be asked by our reference (`Capabilities.looks_up`). Pure."""

    def lookup(self, reference: str, account: Account) -> Request: ...

    def found(self, answer: Answer, reference: str, subject_id: str) -> Result | None:
        """Raises as `read`."""


def by_status(answer: Answer) -> None:
    """Raises SendError for all but 2xx."""
    status = answer.status
    if 200 <= status < 300:
        return
    if status == 429:
        raise throttled(answer)
    if status in OURS:
        raise Misconfigured(f"http_{status}")
    if 400 <= status < 500 and status != 408:
        raise Refused(f"http_{status}")
    raise Unanswered(f"http_{status}")


def throttled(answer: Answer) -> Throttled:
    """By the header Retry-After, in seconds or as a date (RFC 9110 10.2.3) by the provider's own clock. That it takes
    no time, or less than a moment, is nothing usable."""
    said = answer.headers.get("retry-after", "").strip()
    try:
        if said[:1].isdigit():
            seconds = float(said)
        else:
            seconds = (parsedate_to_datetime(said) - parsedate_to_datetime(answer.headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return Throttled(NOT_SAID_S)
    return ThrottledUntil(seconds) if seconds >= NOT_SAID_S else Throttled(NOT_SAID_S)


def json_headers(**more: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Accept": "application/json", **more}


def encode(body: object) -> bytes:
    return msgspec.json.encode(body)


def decode(answer: Answer) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ValueError("no JSON object") from None  # the cause would carry the answer into the log


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A text that is not empty; a number is written out. Raises KeyError, ValueError."""
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{name} is no text")
    return str(value)


def list_of(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def object_of(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def each_of(
    said: Sequence[Any], name: str, references: Sequence[str], read: Callable[[str, Any], Result | SendError]
) -> list[Result | SendError]:
    """What a batch's answer says of each reference, which is the items' `name`. What is lacking or cannot be read is
    `Unanswered`; the others' answers stand."""
    items = {}
    for item in said:
        try:
            items[text_of(item, name)] = item
        except (KeyError, ValueError, TypeError):
            continue  # of nobody we know
    unread = Unanswered("the answer does not say, or cannot be read")
    results: list[Result | SendError] = []
    for reference in references:
        try:
            results.append(read(reference, items[reference]))
        except (KeyError, ValueError, TypeError):
            results.append(unread)
    return results


def digits(number: str) -> str:
    """An E.164 number without its plus, as most providers want it."""
    return number.removeprefix("+")
