"""Any operator without a format of its own: our JSON, in batches of up to 100, with a bearer token.

    POST /v1/submits    {"messages": [{"reference", "to", "from", "short_code", "category", "text", "deliver_by"}]}
    200                 {"results": [{"reference", "status", "id", "code"}]}

docs/operators/check.md has the whole format. MOs and DLRs come back by inbound-svc's provider of the same name. An
account states `idempotent` once the operator takes a repeated reference for the same SMS, as the format demands.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit, Unanswered
from dispatch.gateways.provider import Account, Answer, Request, by_status, decode, encode, json_headers, list_of

URL = ""
NEEDS = ("url", "secret")
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(batch=100, echoes_reference=True)


class _Answer(msgspec.Struct):
    reference: str
    status: Literal["accepted", "rejected"]
    id: str | None = None
    code: str | None = None


class _Answers(msgspec.Struct):
    results: list[_Answer]


_answers = msgspec.json.Decoder(_Answers)


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    body = {
        "messages": [
            {
                "reference": m.reference,
                "to": m.to,
                "from": m.sender,
                "short_code": m.short_code,
                "category": m.category,
                "text": m.text,
                "deliver_by": m.deliver_by and m.deliver_by.astimezone(UTC),
            }
            for m in messages
        ]
    }
    return Request("/v1/submits", json_headers(Authorization=f"Bearer {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    try:
        answers = _answers.decode(answer.body).results
    except msgspec.ValidationError:
        answers = _readable(answer)
    results = {r.reference: Result(outcome=r.status, gateway_message_id=r.id, code=r.code) for r in answers}
    unread = Unanswered("the answer does not say, or cannot be read")
    return [results.get(m.reference, unread) for m in messages]


def _readable(answer: Answer) -> list[_Answer]:
    """Return the readable answers of a batch with an unreadable answer."""
    found = []
    for each in list_of(decode(answer), "results"):
        with contextlib.suppress(msgspec.ValidationError):
            found.append(msgspec.convert(each, _Answer))
    return found
