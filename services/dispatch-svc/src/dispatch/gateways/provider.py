"""The interface of an HTTP gateway's module, and the meaning of an HTTP status on its own. Pure.

    429                              ThrottledUntil with a usable Retry-After, else Throttled
    3xx, 401, 402, 403, 404, 405     Misconfigured: our account or our address
    any other 4xx but 408            Refused
    408, 5xx                         Unanswered: the operator may have had the message before the failure

A module whose provider has more precise codes reads the codes first.
"""

import base64
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

NOT_SAID_S = 1.0  # first pause after a 429 without a usable length
OURS = frozenset((301, 302, 303, 307, 308, 401, 402, 403, 404, 405))


class ThrottledUntil(Throttled):
    """A throttle of a length named by the operator."""


class NotNow(Throttled):
    """A throttle of a single message; the gateway takes other messages."""


@dataclass(frozen=True, slots=True)
class Account:
    """Our account with a provider.

    `url` replaces the provider's common URL. `callback_url` is where DLRs go. `options` are the module's `OPTIONS`.
    """

    provider: str
    account: str = "main"
    user: str = ""
    secret: str = field(default="", repr=False)
    url: str | None = None
    callback_url: str | None = field(default=None, repr=False)  # the path may hold a secret
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, or a GET for a look-up.

    `body` is sent as is: a signature may cover it.
    """

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's HTTP response. `headers` ignores the case of names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Described(Protocol):
    """The description in each gateway's module."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def NEEDS(self) -> Sequence[str]:  # noqa: N802 a module's constant
        """The required fields of `Account`: user, secret, url."""

    @property
    def OPTIONS(self) -> Mapping[str, bool]:  # noqa: N802
        """The options of `Account.options`, and whether each is required."""


class HttpProvider(Described, Protocol):
    """The formats of one provider. Both functions are pure."""

    @property
    def URL(self) -> str:  # noqa: N802
        """The URL of all customers, or ""."""

    def request(self, messages: Sequence[Submit], account: Account, now: datetime) -> Request:
        """Build the request for at most `capabilities.batch` messages."""

    def read(self, answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        """Return the result of each message.

        Raise SendError when all messages share the error. Any other exception means an unreadable answer.
        """


class LooksUp(Protocol):
    """The functions of a module that looks up our reference (`Capabilities.looks_up`). Pure."""

    def lookup(self, reference: str, account: Account) -> Request: ...

    def found(self, answer: Answer, reference: str, subject_id: str) -> Result | None:
        """Return the result. Raise as `read` does."""


class Explains(Protocol):
    """The functions of a module whose provider tells more of a refusal when asked. Pure."""

    def question(self, message: Submit, result: Result, account: Account, now: datetime) -> Request | None:
        """Return the question about a refusal, if there is one."""

    def explained(self, result: Result, answer: Answer) -> Result:
        """Return the result with what the provider tells. Any exception leaves the result as it was."""


def by_status(answer: Answer) -> None:
    """Raise SendError for every status but 2xx."""
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
    """Return the throttle of a 429's Retry-After: seconds, or a date (RFC 9110 10.2.3).

    A date counts from the Date header, the provider's clock. A pause under `NOT_SAID_S` counts as no length.
    """
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


def basic(account: Account) -> str:
    """Return the value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{account.user}:{account.secret}".encode()).decode()


def encode(body: object) -> bytes:
    return msgspec.json.encode(body)


def decode(answer: Answer) -> dict[str, object]:
    """Return the JSON object. Raise ValueError."""
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except msgspec.DecodeError:
        raise ValueError("no JSON object") from None  # a cause would carry the answer into the log


def text_of(fields: Mapping[str, object], name: str) -> str:
    """Return a non-empty text; a number is written out. Raise KeyError, ValueError."""
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{name} is no text")
    return str(value)


def list_of(fields: Mapping[str, object], name: str) -> list[Any]:
    value = fields[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def object_of(fields: Mapping[str, object], name: str) -> dict[str, object]:
    value = fields[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def each_of(
    said: Sequence[Any], name: str, references: Sequence[str], read: Callable[[str, Any], Result | SendError]
) -> list[Result | SendError]:
    """Return one result per reference, from the items with the reference under `name`.

    A missing or unreadable item is `Unanswered`; the other items stand.
    """
    items = {}
    for item in said:
        try:
            items[text_of(item, name)] = item
        except (KeyError, ValueError, TypeError):
            continue  # an item without a reference
    unread = Unanswered("the answer does not say, or cannot be read")
    results: list[Result | SendError] = []
    for reference in references:
        try:
            results.append(read(reference, items[reference]))
        except (KeyError, ValueError, TypeError):
            results.append(unread)
    return results


def seconds_left(message: Submit, now: datetime) -> int | None:
    """Return the validity period of a message in whole seconds, at least 1, or None without one."""
    if message.deliver_by is None:
        return None
    return max(1, int((message.deliver_by - now).total_seconds()))


def minutes_left(message: Submit, now: datetime) -> int | None:
    """Return the validity period of a message in whole minutes, at least 1, or None without one."""
    seconds = seconds_left(message, now)
    return None if seconds is None else max(1, seconds // 60)


def digits(number: str) -> str:
    """Return an E.164 number without its plus."""
    return number.removeprefix("+")
