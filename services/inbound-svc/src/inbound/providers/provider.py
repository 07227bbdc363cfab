"""What every provider's callbacks are turned into, and what a provider module must be able to do.

Pure: bytes, headers, account and time in; values out. A provider is one module that has the functions of `Provider`;
the registry is in `__init__`.

    NotGenuine     the signature is missing, wrong or too old: 401, nothing is kept
    Unreadable     the body is not what its kind of body is made of: 400
    WrongField     a field is missing or of the wrong form: 422, the field is named, its value never
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from common.contracts.inbound import ReceiptState

Kind = Literal["messages", "receipts"]

ID_CHARS = 200  # the longest provider message id seen is 36
NUMBER_CHARS = 64  # an E.164 number has 16; a sender name 11


class NotGenuine(Exception):
    """This callback is not from the provider, or not from now. `reason` is a slug."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unreadable(Exception):
    """The body cannot be read at all."""


class WrongField(Exception):
    """`field` as the provider writes it (dots and indexes); `reason` is a slug."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Account:
    """Our account with a provider. Several secrets during a rotation; `public_url`: what stands before our path in the
    URL the provider was given."""

    provider: str
    account: str
    secrets: tuple[str, ...] = field(repr=False)
    public_url: str | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """The request as it came. `target`: path and query, escapes untouched; `headers`: lower-case names."""

    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """An MO. `sender` is the person's number as the provider writes it; `sent_at` None where it gives no time."""

    provider_message_id: str
    sender: str = field(repr=False)
    short_code: str
    text: str = field(repr=False)
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A delivery receipt of a message of ours. `reference`: our message id, where the provider echoes it."""

    provider_message_id: str
    reference: str | None
    state: ReceiptState
    code: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider wants to hear when all went well."""

    status: int
    media_type: str | None
    body: bytes


class Provider(Protocol):
    """One provider's formats. Every function is pure."""

    signs_url: bool  # the signature covers the public URL, so the account must name it
    max_body_bytes: int  # what is read of a body before anyone is known

    def verify(self, callback: Callback, account: Account, now: datetime) -> None:
        """Raises NotGenuine. Over the raw body, before anything is parsed; in constant time."""

    def parse_messages(self, body: bytes) -> Sequence[Message]:
        """Raises Unreadable, WrongField."""

    def parse_receipts(self, body: bytes) -> Sequence[Receipt]:
        """Raises Unreadable, WrongField."""

    def answer(self, kind: Kind) -> Answer: ...


def required(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str:
    """A field that must be a non-empty string of at most `most` printable characters. `where`: path before the name."""
    value = text_of(fields, name, where=where)
    if not value.strip():
        raise WrongField(where + name, "empty")
    if len(value) > most:
        raise WrongField(where + name, "too_long")
    if not value.isprintable():  # a NUL or half a surrogate would not be storable
        raise WrongField(where + name, "not_printable")
    return value


def text_of(fields: Mapping[str, object], name: str, *, where: str = "") -> str:
    """A field that must be a string, empty or not. Half a surrogate pair (an emoji cut by a concatenated SMS) becomes
    the replacement character: the rest may say STOP."""
    if name not in fields:
        raise WrongField(where + name, "missing")
    value = fields[name]
    if not isinstance(value, str):
        raise WrongField(where + name, "not_a_string")
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
