"""The door to operators: one protocol, what each gateway can, and one error taxonomy.

SendError
 ├ Late           not begun: it could not be before `begin_by`, so it may not be on this permit
 ├ Throttled      not begun: the operator asks to come back after `after_s`
 ├ Unreachable    not begun: no connection; nothing was handed off
 ├ Misconfigured  nothing taken, and nothing will be until somebody acts: our account, its money, its sender
 ├ Refused        nothing taken: something in the batch is wrong, finally: `code`
 └ Unanswered     begun, and nobody knows how it ended: never sent again blindly

What is late is decided on again at once. The next three are tried again until `send_before`, with back-off; `Refused`
is final for the message; `Unanswered` is the outcome `unknown` (DOMAIN 4.4; ADR-0032 says why a 5xx is one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import msgspec

from common.contracts.campaign import Category

LONGEST_PAUSE_S = 300.0


class SendError(Exception):
    """A message, or a whole batch, did not get its result. No message of ours repeats a number or a text."""


class Late(SendError):
    pass


class Throttled(SendError):
    def __init__(self, after_s: float) -> None:
        super().__init__(f"come back in {after_s:g} s")
        self.after_s = min(after_s, LONGEST_PAUSE_S)


class Unreachable(SendError):
    pass


class Misconfigured(SendError):
    """`of_sender`: only what bears this sender's name is refused."""

    def __init__(self, code: str, *, of_sender: bool = False) -> None:
        super().__init__(f"needs somebody: {code}")
        self.code = code
        self.of_sender = of_sender


class Refused(SendError):
    def __init__(self, code: str) -> None:
        super().__init__(f"refused: {code}")
        self.code = code


class Unanswered(SendError):
    pass


class Submit(msgspec.Struct, frozen=True, gc=False):
    """One message for an operator. `reference` is our message id, echoed in receipts where the operator can. Nothing of
    it may be written later than `begin_by` (`uptime_s`): a connection that took longer is no way for it."""

    reference: str
    subject_id: str
    to: str  # E.164
    sender: str  # OADC
    short_code: str
    category: Category
    text: str
    begin_by: float

    def __repr__(self) -> str:  # neither the number nor the text
        return f"Submit({self.reference})"


class Result(msgspec.Struct, frozen=True, gc=False):
    """`opted_out`: refused because the person told this provider to stop. `blocked`: this provider does not deliver to
    the number, and does not say whether the person asked for that (DOMAIN 4.3)."""

    outcome: Literal["accepted", "rejected"]
    gateway_message_id: str | None
    code: str | None
    opted_out: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a gateway can, as its provider says in writing; the defaults are the cautious ones.

    `batch`              messages of one request, each with its own text, id and result
    `idempotent`         a second submit of one reference is the same SMS, within `idempotent_for` of the first
    `adds_stop`          appends the STOP mention to a marketing text itself
    `echoes_reference`   all its receipts name our reference; else only its own id, which an `unknown` never learnt
    `looks_up`           can be asked what became of a reference
    `unicode`            takes what GSM 7-bit cannot write
    `segments`           the longest text, in SMS
    """

    batch: int = 1
    idempotent: bool = False
    idempotent_for: timedelta = timedelta(hours=23)  # those who say how long they remember say 24 h
    adds_stop: bool = False
    echoes_reference: bool = False
    looks_up: bool = False
    unicode: bool = True
    segments: int = 10


class Gateway(Protocol):
    """`name` is what the ledger, receipts and metrics call it (`gateway_name`). `batch`: messages per submit.
    `timeout_s`: of a whole submit from the call on, with all that it waits for."""

    name: str
    capabilities: Capabilities
    batch: int
    timeout_s: float

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        """One result or error for each, in the order asked. Raises SendError when it is the same for all."""
        ...

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        """What became of a message whose answer was lost; None where it does not know, which is no proof that it never
        had it. Raises SendError: ask later."""
        ...

    async def close(self) -> None: ...


def gateway_name(provider: str, account: str) -> str:
    """One name for the account that submits and for the one its receipts come back to. Most have one: `main`."""
    return provider if account == "main" else f"{provider}.{account}"
