"""The common form of callbacks, and the interface of a provider module.

Pure.

    NotGenuine     the signature is missing, wrong, too old or replayed: 401, nothing is kept
    Unreadable     the body is malformed for its content type: 400
    WrongField     a field is missing or malformed: 422 with the field's name, never its value; the readable items of
                   the callback are kept first
    Undocumented   the provider publishes no description of this callback: 404 with a reference to the gap

An undocumented format is never guessed. An undocumented detail (a time's zone, a new status) is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import msgspec

from common.contracts.inbound import ReceiptState

Kind = Literal["messages", "receipts"]
Signing = Literal["always", "optional", "never"]

ID_CHARS = 200  # the longest id seen is 36
JSON_BYTES = 1024 * 1024  # some providers send DLRs by the hundred
FORM_BYTES = 64 * 1024  # a form has 1 to 3 KiB
# the shortest documented, except where a module says less: Twilio gives up after 15 s (DOMAIN 3.1)
UNHURRIED_S = 15.0
RETRIES_FOR = timedelta(days=31)  # the longest documented: CM.com retries up to a month (DOMAIN 3.1)
NUMBER_CHARS = 64  # an E.164 number has 16; a sender name 11


class NotGenuine(Exception):
    """The callback is not from the provider, or not from now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unreadable(Exception):
    """The body cannot be read at all."""


class Undocumented(Exception):
    """No public description of this callback exists; the message names the gap."""


class WrongField(Exception):
    """A field is missing or malformed.

    `field`: the provider's name (dots and indexes). `readable`: the readable items of the callback.
    """

    def __init__(self, field: str, reason: str, readable: Sequence[Any] = ()) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.readable = readable


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The actions a provider takes on its own, neither to be repeated nor wrongly expected.

    The defaults are cautious; a module states what its provider documents.

        `adds_stop_clause`   appends the STOP mention to a marketing text
        `answers_stop`       confirms a STOP to the person: we must not
        `keeps_blacklist`    refuses to send to people opted out with the provider, whatever we decide: to be reconciled
        `signs`              signs its callbacks
        `idempotent_submit`  takes a repeated submit with the same reference for one message
        `retries_for`        how long the provider retries a callback: a text without a time may be so old
    """

    adds_stop_clause: bool = False
    answers_stop: bool = False
    keeps_blacklist: bool = False
    signs: bool = False
    idempotent_submit: bool = False
    retries_for: timedelta = RETRIES_FOR


@dataclass(frozen=True, slots=True)
class Account:
    """Our account with a provider. During a rotation each of several secrets is valid.

    `public_url`      the part before our path of the URL given to the provider
    `path_secrets`    a secret segment of the URL, before its last segment
    `basic`           "user:password" of basic authentication
    `addresses`       networks the provider calls from, as CIDR
    `short_code`      the number people answer to, where callbacks omit it
    `scheme`          how the provider signs for this account, where the provider has several: see `SCHEMES`
    """

    provider: str
    account: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    public_url: str | None = None
    path_secrets: tuple[str, ...] = field(default=(), repr=False)
    basic: tuple[str, ...] = field(default=(), repr=False)
    addresses: tuple[str, ...] = ()
    short_code: str = ""
    capabilities: Capabilities | None = None  # by default the module's
    scheme: str = ""  # by default the first
    language: str | None = None  # of the people who answer
    country: str | None = None


class Callback(msgspec.Struct, frozen=True, gc=False):
    """The request as received.

    `target`: path and query with their escapes, all content of a GET. `headers`: lower-case names.
    """

    target: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    address: str = ""
    path_secret: str | None = None

    def __repr__(self) -> str:
        """Return the fields without the content."""
        return f"Callback(method={self.method!r}, address={self.address!r})"


class Once(msgspec.Struct, frozen=True, gc=False):
    """A nonce, not to be used with other content until `forget_after`."""

    nonce: str
    forget_after: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """The place in a concatenated SMS, from 1."""

    reference: str
    number: int
    total: int


class Message(msgspec.Struct, frozen=True, gc=False):
    """An MO.

    `opted_out`: the provider took the MO for an opt-out. `written_at`: a time outside the body without a known zone;
    only tells a STOP from the STOP before.
    """

    provider_message_id: str | None
    sender: str
    short_code: str
    text: str
    sent_at: datetime | None
    part: Part | None = None
    opted_out: bool = False
    written_at: str = ""

    def __repr__(self) -> str:
        """Return the fields without the number and the text."""
        return (
            f"Message({self.provider_message_id!r}, {self.short_code!r}, {self.sent_at}, {self.part},"
            f" opted_out={self.opted_out}, written_at={self.written_at!r})"
        )


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """A DLR of a message of ours.

    `reference`   our message id, where the provider echoes the id
    `recipient`   the number, only where the id names a whole submit: id and number together name a message
    `blocked`     the provider will not deliver to the number, and its code does not say whether the person asked
    """

    provider_message_id: str
    reference: str | None
    state: ReceiptState
    code: str | None
    at: datetime | None
    recipient: str | None = None
    blocked: bool = False

    def __repr__(self) -> str:
        """Return the fields without the number."""
        return f"Receipt({self.provider_message_id!r}, {self.reference!r}, {self.state}, {self.code!r}, {self.at})"


@dataclass(frozen=True, slots=True)
class Answer:
    """The response which the provider expects on success."""

    status: int
    media_type: str | None
    body: bytes


OK = Answer(200, "text/plain", b"OK")
EMPTY = Answer(200, None, b"")
NO_CONTENT = Answer(204, None, b"")


class Provider(Protocol):
    """The formats of a provider. Every function is pure."""

    signing: Signing
    signs_url: bool  # the signature covers the URL: the account must name the URL
    max_body_bytes: int  # read before authentication
    takes_get: bool
    answer_within_s: float  # the provider stops listening
    capabilities: Capabilities

    def secret_key(self, secret: str) -> bytes:
        """Return the bytes of a configured secret. Raises ValueError."""

    def verify(self, callback: Callback, account: Account, now: datetime) -> Once | None:
        """Verify the signature over the raw body, before any parsing and in constant time.

        Return the nonce to remember, if any. Raises NotGenuine. Not called for an account without secrets.
        """

    def kind_of(self, callback: Callback, kind: Kind) -> Kind:
        """Return the kind of the callback: some providers have one URL for all."""

    def parse_messages(self, callback: Callback) -> Sequence[Message]:
        """Return the MOs, if any. Raises Unreadable, WrongField, Undocumented."""

    def parse_receipts(self, callback: Callback) -> Sequence[Receipt]:
        """Return the DLRs, if any. Raises Unreadable, WrongField, Undocumented."""

    def answer(self, kind: Kind) -> Answer: ...


def required(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str:
    """Return a non-empty string of at most `most` printable characters."""
    value = text_of(fields, name, where=where)
    if not value.strip():
        raise WrongField(where + name, "empty")
    if len(value) > most:
        raise WrongField(where + name, "too_long")
    if not value.isprintable():  # Postgres stores neither NUL nor half a surrogate
        raise WrongField(where + name, "not_printable")
    return value


def optional(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str | None:
    """Return a field as `identifier` does, or None if missing, null or empty."""
    value = fields.get(name)
    return None if value is None or value == "" else required(_written(fields, name), name, where=where, most=most)


def identifier(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str:
    """Return a field as `required` does, or an integer as text: some providers number their messages."""
    return required(_written(fields, name), name, where=where, most=most)


def text_of(fields: Mapping[str, object], name: str, *, where: str = "") -> str:
    """Return a string field, perhaps empty.

    Half a surrogate pair (an emoji cut by a concatenated SMS) is replaced: the rest may say STOP.
    """
    if name not in fields:
        raise WrongField(where + name, "missing")
    value = fields[name]
    if not isinstance(value, str):
        raise WrongField(where + name, "not_a_string")
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _written(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = fields.get(name)
    return {name: str(value)} if isinstance(value, int) and not isinstance(value, bool) else fields


def as_addressed(callback: Callback, kind: Kind) -> Kind:
    """Implement `Provider.kind_of` where the URL tells the kind."""
    return kind


def text_key(secret: str) -> bytes:
    """Implement `Provider.secret_key` where the secret is a text."""
    return secret.encode()


def nothing_signed(callback: Callback, account: Account, now: datetime) -> Once | None:
    """Implement `Provider.verify` where no callback is signed: never called."""
    raise NotGenuine("nothing_is_signed")
