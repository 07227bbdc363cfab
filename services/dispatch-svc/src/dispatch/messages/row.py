"""The row of a message in the ledger, and the changes that hand-offs and DLRs make to a row. Pure.

`MessageRow` is the only list of the ledger's columns.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Self, get_args, get_type_hints
from uuid import UUID

import msgspec

from common.contracts.campaign import Category
from common.contracts.inbound import ReceiptState
from dispatch.messages.status import Status

FREE_TEXT = "free_text"
Small = Annotated[int, "smallint"]


class MessageRow(msgspec.Struct, frozen=True, gc=False):
    message_id: UUID
    status: Status
    reasons: tuple[str, ...]
    campaign_id: str | None
    sender_id: str
    purpose: str | None
    category: Category
    subject_id: str
    partition: Small
    number: str | None  # encrypted; erased with the person, or by `pruning.py`
    text: str | None  # as `number`
    requested_at: datetime
    send_before: datetime
    version: int
    policy_version: str
    due_at: datetime | None = None  # next decision, of a waiting message
    consent_version: int | None = None
    as_of: datetime | None = None
    decided_at: datetime | None = None
    region: str | None = None  # from an address, where known
    # the decision record (`record.py`), or the message's own part beside `shared_id`; null: no decision yet
    facts: str | None = None
    handed_off_at: datetime | None = None  # start of the submit
    gateway: str | None = None
    gateway_message_id: str | None = None
    known_as: str | None = None  # the same id, where DLRs lack our message id
    receipt: ReceiptState | None = None
    code: str | None = None
    receipt_at: datetime | None = None  # the DLR's time at source
    unknown_since: datetime | None = None  # only of an `unknown` message
    template: str | None = None  # of a request over HTTP: "<template_id>@<number>", or FREE_TEXT
    # of a permitted message: the SMS of its text as sent, their cost (`common/sms/prices.py`) by the version `prices`
    segments: Small | None = None
    cost: int | None = None
    prices: str | None = None
    charged: bool = False  # counted by the limits of its organisation
    shared_id: UUID | None = None  # of the part of the decision record that other messages share

    @classmethod
    def read(cls, columns: Sequence[Any]) -> Self:
        """Return the row of a query with `columns_of`."""
        message_id, status, reasons, *more = columns
        return cls(message_id, _STATUSES[status], tuple(reasons), *more)

    def __repr__(self) -> str:  # omits number and text
        return f"MessageRow({self.message_id}, {self.status})"


_STATUSES = {status.value: status for status in Status}

_KINDS = {
    UUID: "uuid",
    str: "text",
    Status: "text",
    Category: "text",
    ReceiptState: "text",
    tuple[str, ...]: "text[]",
    bool: "boolean",
    int: "integer",
    Small: "smallint",
    datetime: "timestamptz",
}


def _kind(declared: object) -> tuple[str, bool]:
    options = get_args(declared) if NoneType in get_args(declared) else (declared,)
    return _KINDS[options[0]], len(options) > 1


# the type in Postgres, and whether nullable
COLUMNS: Mapping[str, tuple[str, bool]] = {
    name: _kind(declared) for name, declared in get_type_hints(MessageRow, include_extras=True).items()
}


def columns_of(table: str, instead: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the SQL list of columns for `MessageRow.read`. `instead`: SQL expressions in place of columns."""
    given = {"facts": facts_of(table)} | dict(instead)
    return ", ".join(given.get(name, f"{table}.{name}") for name in COLUMNS)


# What most records say of a person. The ledger stores a phrase as one control character, which no JSON text has.
PHRASES = {
    "\x01": '"person":{"consent":{"state":"opted_in","at":"',
    "\x02": 'Z","basis":"opt_in","proven":true',
    "\x03": ',"until":"',
}


def shortened(own: str) -> str:
    """Return the message's own part of a decision record, as the ledger stores the part."""
    for short, phrase in PHRASES.items():
        own = own.replace(phrase, short)
    return own


@lru_cache(maxsize=1024)
def shared_id(shared: str) -> UUID:
    """Return the id of a shared part, a hash: nobody finds two parts with one id."""
    return UUID(bytes=hashlib.sha256(shared.encode()).digest()[:16])


def own_facts_of(table: str) -> str:
    """Return the SQL of the message's own part of its decision record, as JSON."""
    told = f"{table}.facts"
    for short, phrase in PHRASES.items():
        literal = phrase.replace(":", "' || ':' || '")  # apart: SQLAlchemy takes a word behind a colon for a parameter
        told = f"replace({told}, chr({ord(short)}), '{literal}')"
    return told


def facts_of(table: str) -> str:
    """Return the SQL of a message's whole decision record."""
    own = own_facts_of(table)
    return (
        f"coalesce((SELECT left(s.content, -1) || ',' || substr({own}, 2) FROM shared_record AS s"
        f" WHERE s.id = {table}.shared_id LIMIT 1), {own})"
    )


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of a hand-off, perhaps unknown.

    `decided_at` names the decision; `None`: any. `decision`: the row after the decision, where known. `asked`: the
    gateway of the submit.
    """

    message_id: UUID
    subject_id: str
    status: Status
    decided_at: datetime | None
    gateway: str | None
    asked: str = ""
    reasons: tuple[str, ...] = ()
    due_at: datetime | None = None
    gateway_message_id: str | None = None
    known_as: str | None = None
    code: str | None = None
    handed_off_at: datetime | None = None
    decision: MessageRow | None = None
    opted_out: bool = False
    blocked: bool = False


class ReceiptChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The DLR that a row holds from now on.

    `proves`: the operator had the message. `version`: of the row as read; `None` where the caller has locked the row.
    """

    message_id: UUID
    proves: bool
    version: int | None = None
    receipt: ReceiptState
    gateway: str
    gateway_message_id: str | None
    code: str | None
    receipt_at: datetime | None
