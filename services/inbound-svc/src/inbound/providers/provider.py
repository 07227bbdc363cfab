"""What every provider's callbacks are turned into, and what a provider module must be able to do.

Pure: bytes, headers, account and time in; values out. A provider is one module that has the functions of `Provider`;
the registry is in `__init__`.

    NotGenuine     the signature is missing, wrong, too old or used before: 401, nothing is kept
    Unreadable     the body is not what its kind of body is made of: 400
    WrongField     a field is missing or of the wrong form: 422, the field is named, its value never; what else came
                   with it, and can be read, is kept first
    Undocumented   the provider publishes no description of this callback: 404, with where to look

What a provider does not document is never guessed. Where only a detail is missing (the zone of a time, what a status
of tomorrow means) the detail is left out: None, "unknown".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from common.contracts.inbound import ReceiptState

Kind = Literal["messages", "receipts"]
Signing = Literal["always", "optional", "never"]

ID_CHARS = 200  # the longest provider message id seen is 36
JSON_BYTES = 1024 * 1024  # what is read of a body: some providers send receipts by the hundred
FORM_BYTES = 64 * 1024  # a form has 1 to 3 KiB
UNHURRIED_S = 15.0  # nobody else says less; Twilio gives up after 15 s (DOMAIN 3.1)
RETRIES_FOR = timedelta(days=31)  # nobody says more: CM.com, up to a month (DOMAIN 3.1)
NUMBER_CHARS = 64  # an E.164 number has 16; a sender name 11


class NotGenuine(Exception):
    """This callback is not from the provider, or not from now. `reason` is a slug."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unreadable(Exception):
    """The body cannot be read at all."""


class Undocumented(Exception):
    """Nothing public says what this callback looks like. The text says where the gap is, and what to do instead."""


class WrongField(Exception):
    """`field` as the provider writes it (dots and indexes); `reason` is a slug. `readable`: the MOs or receipts of the
    same callback that can be read."""

    def __init__(self, field: str, reason: str, readable: Sequence[Any] = ()) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.readable = readable


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider does on its own, so that we neither do it twice nor rely on what is not there. The defaults are
    the cautious ones; a module says what its provider documents, an account may say otherwise.

    `adds_stop_clause`   appends the STOP mention to a marketing text itself
    `answers_stop`       confirms a STOP to the person itself: we must not
    `keeps_blacklist`    refuses to send to who opted out with it, whatever we think: to be reconciled
    `signs`              its callbacks are signed
    `idempotent_submit`  the same submit twice, with the same reference, is one message
    `retries_for`        how long a callback that we did not take comes again: where it tells no time, the text in it
                         may be that old
    """

    adds_stop_clause: bool = False
    answers_stop: bool = False
    keeps_blacklist: bool = False
    signs: bool = False
    idempotent_submit: bool = False
    retries_for: timedelta = RETRIES_FOR


@dataclass(frozen=True, slots=True)
class Account:
    """Our account with a provider. Several secrets during a rotation: any of them is good.

    `public_url`      what stands before our path in the URL the provider was given
    `path_secrets`    a segment of that URL, before its last, that nobody else knows
    `basic`           "user:password", of basic authentication
    `addresses`       networks the provider calls from, as CIDR
    `short_code`      what people answer to, where the provider's callbacks do not say
    """

    provider: str
    account: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    public_url: str | None = None
    path_secrets: tuple[str, ...] = field(default=(), repr=False)
    basic: tuple[str, ...] = field(default=(), repr=False)
    addresses: tuple[str, ...] = ()
    short_code: str = ""
    capabilities: Capabilities | None = None  # None: those of the provider's module


@dataclass(frozen=True, slots=True)
class Callback:
    """The request as it came. `target`: path and query, escapes untouched; `headers`: lower-case names; `address`: of
    who called; `path_secret`: the segment of the path that should be secret, if there was one."""

    target: str = field(repr=False)  # a GET has everything in it
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"
    address: str = ""
    path_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Once:
    """A callback's nonce, to be remembered: until `forget_after` no callback with other content may use it."""

    nonce: str
    forget_after: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """Which piece of a concatenated SMS a message is. `number` counts from 1."""

    reference: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Message:
    """An MO. `provider_message_id` None where the provider gives an MO no id of its own; `sender` is the person's
    number as the provider writes it; `short_code` "" and `sent_at` None where it says nothing. `opted_out`: the
    provider itself took it for an opt-out. `written_at`: the time as the provider writes it, where it is not in the
    body and its zone is not known: it tells a STOP from the one before it, and nothing else."""

    provider_message_id: str | None
    sender: str = field(repr=False)
    short_code: str
    text: str = field(repr=False)
    sent_at: datetime | None
    part: Part | None = None
    opted_out: bool = False
    written_at: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A delivery receipt of a message of ours.

    `reference`   our message id, where the provider echoes it
    `recipient`   the number, only where the id is that of a whole submit: the two together name a message
    `blocked`     the provider will not deliver to this number, and its code does not say whether the person asked so
    """

    provider_message_id: str
    reference: str | None
    state: ReceiptState
    code: str | None
    at: datetime | None
    recipient: str | None = field(default=None, repr=False)
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider wants to hear when all went well."""

    status: int
    media_type: str | None
    body: bytes


OK = Answer(200, "text/plain", b"OK")
EMPTY = Answer(200, None, b"")
NO_CONTENT = Answer(204, None, b"")


class Provider(Protocol):
    """One provider's formats. Every function is pure."""

    signing: Signing
    signs_url: bool  # the signature covers the public URL, so the account must name it
    max_body_bytes: int  # what is read of a body before anyone is known
    takes_get: bool  # its callbacks may be GETs
    answer_within_s: float  # after which it does not listen any more
    capabilities: Capabilities

    def secret_key(self, secret: str) -> bytes:
        """The bytes of a configured secret. Raises ValueError: this cannot be one of this provider's."""

    def verify(self, callback: Callback, account: Account, now: datetime) -> Once | None:
        """Raises NotGenuine. Over the raw body, before anything is parsed; in constant time. What is to be remembered,
        if the scheme has a nonce. Not called for an account without secrets."""

    def kind_of(self, callback: Callback, kind: Kind) -> Kind:
        """What it is, whichever URL it came to: some providers have one URL for everything."""

    def parse_messages(self, callback: Callback) -> Sequence[Message]:
        """Raises Unreadable, WrongField, Undocumented. Empty: genuine, and nothing for us."""

    def parse_receipts(self, callback: Callback) -> Sequence[Receipt]:
        """Raises Unreadable, WrongField, Undocumented. Empty: genuine, and nothing for us."""

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


def optional(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str | None:
    """As `required`, or None where the field is missing, null or empty. Integers are written out."""
    value = fields.get(name)
    return None if value is None or value == "" else required(_written(fields, name), name, where=where, most=most)


def identifier(fields: Mapping[str, object], name: str, *, where: str = "", most: int = ID_CHARS) -> str:
    """As `required`; an integer is written out: some providers number their messages."""
    return required(_written(fields, name), name, where=where, most=most)


def text_of(fields: Mapping[str, object], name: str, *, where: str = "") -> str:
    """A field that must be a string, empty or not. Half a surrogate pair (an emoji cut by a concatenated SMS) becomes
    the replacement character: the rest may say STOP."""
    if name not in fields:
        raise WrongField(where + name, "missing")
    value = fields[name]
    if not isinstance(value, str):
        raise WrongField(where + name, "not_a_string")
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _written(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = fields.get(name)
    return {name: str(value)} if isinstance(value, int) and not isinstance(value, bool) else fields


def as_addressed(callback: Callback, kind: Kind) -> Kind:
    """`Provider.kind_of` where the URL says it."""
    return kind


def text_key(secret: str) -> bytes:
    """`Provider.secret_key` where the secret is a text."""
    return secret.encode()


def nothing_signed(callback: Callback, account: Account, now: datetime) -> Once | None:
    """`Provider.verify` where nothing is signed: not called, since such an account has no secrets."""
    raise NotGenuine("nothing_is_signed")
