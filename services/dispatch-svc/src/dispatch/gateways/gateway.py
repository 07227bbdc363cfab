"""The door to operators: a protocol, the capabilities of a gateway, and an error taxonomy.

    SendError
    ├ Late            not begun: `begin_by` passed first; decided again at once
    ├ Throttled       not begun: the operator asks to come back after `after_s`
    ├ Unreachable     not begun: no connection
    ├ Misconfigured   not taken, nor will be until a person acts: our account, its money, its sender
    ├ Refused         not taken, finally: `code`
    └ Unanswered      begun, with an unknown end: never sent again blindly

`Throttled`, `Unreachable` and `Misconfigured` messages are tried again until `send_before`, with back-off. `Unanswered`
becomes the status `unknown` (DOMAIN 4.4; ADR-0032 says why a 5xx is `Unanswered`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

import msgspec

from common.contracts.campaign import Category
from common.sms.sms_length import segments

LONGEST_PAUSE_S = 300.0


class SendError(Exception):
    """A message, or a whole batch, without a result. No error text repeats a number or a message text."""


class Late(SendError):
    pass


class Throttled(SendError):
    def __init__(self, after_s: float) -> None:
        super().__init__(f"come back in {after_s:g} s")
        self.after_s = min(after_s, LONGEST_PAUSE_S)


class Unreachable(SendError):
    pass


class Misconfigured(SendError):
    """`of_sender`: only this sender's messages are refused."""

    def __init__(self, code: str, *, of_sender: bool = False) -> None:
        super().__init__(f"needs somebody: {code}")
        self.code = code
        self.of_sender = of_sender


class Refused(SendError):
    def __init__(self, code: str) -> None:
        super().__init__(f"refused: {code}")
        self.code = code


class Unanswered(SendError):
    """`code`: what is known of the end."""

    def __init__(self, why: str, *, code: str | None = None) -> None:
        super().__init__(why)
        self.code = code


class Submit(msgspec.Struct, frozen=True, gc=False):
    """A message for an operator.

    `reference` is our message id. The gateway writes no byte of the message after `begin_by` (`uptime_s`). The message
    must not reach the person from `deliver_by` on: the gateway says so where the provider takes a validity period.
    """

    reference: str
    subject_id: str
    to: str  # E.164
    sender: str  # OADC
    short_code: str
    category: Category
    text: str
    begin_by: float
    deliver_by: datetime | None = None

    def __repr__(self) -> str:  # omits number and text
        return f"Submit({self.reference})"


class Result(msgspec.Struct, frozen=True, gc=False):
    """The operator's answer for one message.

    `opted_out`: refused because the person told this provider to stop. `blocked`: not delivered to the number, perhaps
    by the person's wish (DOMAIN 4.3).
    """

    outcome: Literal["accepted", "rejected"]
    gateway_message_id: str | None
    code: str | None
    opted_out: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a gateway, as the provider states in writing; the defaults are the cautious ones.

    `batch`              messages of one request, each with its own text, id and result
    `idempotent`         a second submit of a reference is the same SMS, within `idempotent_for` of the first
    `adds_stop`          the provider appends the STOP mention to a marketing text
    `stop_added`         the appended text, for the count of SMS; `{code}` stands for the sender's short code
    `echoes_reference`   every DLR names our reference, not only an id, which we never learn for an `unknown`
    `looks_up`           the provider answers what became of a reference
    `unicode`            accepts characters outside GSM 7-bit
    `segments`           the longest text, in SMS
    `marketing`          may have marketing: the provider takes it, and its STOPs come to us
    """

    batch: int = 1
    idempotent: bool = False
    idempotent_for: timedelta = timedelta(hours=23)  # providers with a documented period say 24 h
    adds_stop: bool = False
    stop_added: str = " STOP au {code}"  # the longest documented (DOMAIN 1.7)
    echoes_reference: bool = False
    looks_up: bool = False
    unicode: bool = True
    segments: int = 10
    marketing: bool = True

    def as_sent(self, text: str, category: Category, stop_code: str) -> str:
        """Return the text that a person receives, with the STOP mention that the provider appends."""
        if self.adds_stop and category == "marketing":
            return text + self.stop_added.replace("{code}", stop_code)
        return text


def longest_sent(gateways: Iterable[Capabilities], text: str, category: Category, stop_code: str) -> str:
    """Return the text that a person receives by the gateway that makes most SMS of the text."""
    return max({each.as_sent(text, category, stop_code) for each in gateways}, key=segments, default=text)


class Gateway(Protocol):
    """An account with an operator, ready for submits.

    `batch`: messages per submit. `timeout_s` bounds a whole submit, waiting included.
    """

    name: str
    capabilities: Capabilities
    batch: int
    timeout_s: float

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        """Return one result or error per message, in the order given. Raise SendError when all share the error."""
        ...

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        """Return what became of a message with a lost answer, or `None`, which proves nothing.

        Raise SendError: ask again later.
        """
        ...

    async def close(self) -> None: ...


def gateway_name(provider: str, account: str) -> str:
    """Return the shared name of the submitting account and of the account that receives the DLRs."""
    return provider if account == "main" else f"{provider}.{account}"
