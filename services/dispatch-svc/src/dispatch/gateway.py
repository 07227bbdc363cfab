"""The door to operators: one protocol, one error taxonomy, and the gateway `simulator` over HTTP.

SendError
 ├ Throttled     not begun: the operator asks to come back after `after_s`
 ├ Unreachable   not begun: no connection, or an operator that does not know us; nothing was handed off
 ├ Refused       nothing taken: something in the batch is wrong, finally: `code`
 └ Unanswered    begun, and nobody knows how it ended: never sent again blindly
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import aiohttp
import msgspec

LONGEST_PAUSE_S = 300.0


class SendError(Exception):
    """A whole batch did not get its results. No message of ours repeats a number or a text."""


class Throttled(SendError):
    def __init__(self, after_s: float) -> None:
        super().__init__(f"come back in {after_s:g} s")
        self.after_s = after_s


class Unreachable(SendError):
    pass


class Refused(SendError):
    def __init__(self, code: str) -> None:
        super().__init__(f"refused: {code}")
        self.code = code


class Unanswered(SendError):
    pass


@dataclass(frozen=True, slots=True)
class Submit:
    """One message for an operator. `reference` is our message id, echoed in receipts where the operator can."""

    reference: str
    to: str  # E.164
    sender: str  # OADC
    short_code: str
    category: str
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    outcome: Literal["accepted", "rejected"]
    gateway_message_id: str | None
    code: str | None


class Gateway(Protocol):
    """`idempotent`: a second submit of one reference is the same SMS. `submit` answers in the order asked."""

    name: str
    idempotent: bool
    batch: int  # messages per submit, at most

    async def submit(self, messages: Sequence[Submit]) -> list[Result]:
        """Raises SendError."""
        ...

    async def close(self) -> None: ...


class _Answer(msgspec.Struct):
    reference: str
    status: Literal["accepted", "rejected"]
    id: str | None = None
    code: str | None = None


class _Answers(msgspec.Struct):
    results: list[_Answer]


_answers = msgspec.json.Decoder(_Answers)


class SimulatorGateway:
    """The development operator: JSON batches of up to 1,000 over HTTP with a bearer token."""

    name = "simulator"

    def __init__(self, url: str, token: str, *, timeout_s: float, batch: int, idempotent: bool) -> None:
        self.idempotent = idempotent
        self.batch = batch
        self._url = url.rstrip("/") + "/v1/submits"
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(2.0, timeout_s)),
            connector=aiohttp.TCPConnector(limit=64),
        )

    async def submit(self, messages: Sequence[Submit]) -> list[Result]:
        body = msgspec.json.encode(
            {
                "messages": [
                    {
                        "reference": m.reference,
                        "to": m.to,
                        "from": m.sender,
                        "short_code": m.short_code,
                        "category": m.category,
                        "text": m.text,
                    }
                    for m in messages
                ]
            }
        )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                status, answer = response.status, await response.read()
                retry_after = response.headers.get("Retry-After", "1")
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(type(error).__name__) from error
        except (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError) as error:
            kind = Unreachable if isinstance(error, aiohttp.ConnectionTimeoutError) else Unanswered
            raise kind(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise Unanswered(type(error).__name__) from error
        if status == 429:
            asked = float(retry_after) if retry_after.replace(".", "", 1).isdigit() else 1.0
            raise Throttled(min(asked, LONGEST_PAUSE_S))
        if status in (400, 413, 422):
            raise Refused(f"http_{status}")
        if 400 <= status < 500:  # our token, our address: nothing that a message could have caused
            raise Unreachable(f"http_{status}")
        if status != 200:
            raise Unanswered(f"http_{status}")
        try:
            results = _answers.decode(answer).results
        except msgspec.DecodeError as error:
            raise Unanswered("the answer cannot be read") from error
        by_reference = {r.reference: r for r in results}
        if len(results) != len(messages) or any(m.reference not in by_reference for m in messages):
            raise Unanswered("the answer is not about what was submitted")
        ordered = (by_reference[m.reference] for m in messages)
        return [Result(outcome=r.status, gateway_message_id=r.id, code=r.code) for r in ordered]

    async def close(self) -> None:
        await self._session.close()
