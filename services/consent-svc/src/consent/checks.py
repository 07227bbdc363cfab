"""Check up to ten thousand numbers in one request: may a sender write to each, and if not, for which reasons?

The answer is no permission: dispatch's gate decides at the moment of sending.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from common.contracts.consent import State
from common.db.shards import Shard
from common.kafka.broker import partitions_of
from common.keyring import SubjectKeys
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.msisdn import NumberProblem, NumberRefused, applying, parse
from common.web.auth import Caller, rates, require
from common.web.edge_id import ControllerIds
from common.web.fields import NumberCountry, Short
from common.web.openapi import refuses
from common.web.problems import Invalid, NotFound, Reason
from consent.bodies import EXAMPLE_NUMBER, Body, Number
from consent.ledger import store as ledger_store
from consent.ledger.permission import Reason as Against
from consent.ledger.permission import permission
from consent.ledger.store import Standing, StoredStandings
from consent.senders import store as senders_store

router = APIRouter(prefix="/v1")

CHECK_NUMBERS = 10_000
READ_AT_ONCE = 2_000
NOBODY = Standing()

Held = Annotated[Resources[ServiceSettings], Depends(resources)]


class CheckBody(Body):
    """The numbers, and the sender and purpose of the intended message."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sender_id": "acme", "purpose": "promotions", "numbers": [EXAMPLE_NUMBER, "01 23 45 67 89"]}]
        }
    )

    sender_id: Short
    purpose: Short
    country: NumberCountry = None
    numbers: list[Number] = Field(
        min_length=1, max_length=CHECK_NUMBERS, description="The numbers, up to 10,000, in any usual notation."
    )


class CheckedNumber(BaseModel):
    """The answer for a number. `subject_id`: the person's id with the sender's controller."""

    subject_id: str | None = Field(
        description="The person's id with the sender's controller; null for a number that cannot be texted."
    )
    state: State = Field(
        description="The state of the consent: `unknown`, `pending` (a double opt-in is open), `opted_in`,"
        " `opted_out` or `expired`."
    )
    allowed: bool = Field(
        description="True: no reason stands against a message now. The gate decides again at the moment of sending."
    )
    reasons: list[Against | NumberProblem] = Field(
        description="The denial reasons, named as by the gate, or the fault of a number that cannot be texted."
    )


class CheckAnswer(BaseModel):
    """The answers for the numbers of a request."""

    results: list[CheckedNumber] = Field(description="An answer for each number, in request order.")
    counts: dict[Literal["allowed", "denied"], int] = Field(description="Numbers by answer.")


class _Checked(msgspec.Struct, frozen=True):
    """A CheckedNumber as a struct, which encodes faster."""

    subject_id: str | None
    state: State
    allowed: bool
    reasons: tuple[Against | NumberProblem, ...]


@router.post("/consents/check", operation_id="consents.check", response_model=CheckAnswer, responses=refuses(NotFound))
async def check_consents(
    body: CheckBody, caller: Annotated[Caller, Depends(require("consent:read", looks_up=True))], held: Held
) -> Response:
    """Return for each number the state of the consent, whether the sender may write, and every reason against.

    The answer is no permission: dispatch decides when the message leaves. 429: too many numbers a minute.
    """
    await rates.admit_numbers(held.allowances, caller.granted, caller.account, len(body.numbers), datetime.now(UTC))
    await caller.may_use(body.sender_id)
    async with held.database.begin() as tx:
        purposes = (await senders_store.purposes_of(tx, {body.sender_id})).get(body.sender_id)
        if purposes is None:
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
        if body.purpose not in purposes.offered:
            raise Invalid(
                "the sender has no such purpose: add it to the sender first",
                reasons=[Reason("purpose", "unknown_purpose")],
            )
        ids = held.edge_ids.of(purposes.controller)
        asked = _Asked(body.sender_id, body.purpose, purposes.months.get(body.purpose), ids, datetime.now(UTC))
        countries = applying(body.country, purposes.countries, held.settings.country)
        fictional = held.settings.fictional_numbers
        reading = partial(_read, keys=held.subject_keys, countries=countries, fictional=fictional)

        async def read(people: Sequence[str]) -> Sequence[StoredStandings]:
            return [await ledger_store.stored_standings(tx, people)]

        answering = [] if held.shards.divided else await _answering(body.numbers, reading, read, asked)
    if held.shards.divided:
        answering = await _answering(body.numbers, reading, partial(_of_shards, held), asked)
    results = [result for each in await asyncio.gather(*answering) for result in each]
    return Response(await asyncio.to_thread(_answer, results), media_type="application/json")


async def _answering(
    numbers: Sequence[str],
    reading: Callable[[Sequence[str]], Sequence[str | NumberProblem]],
    stored: Callable[[Sequence[str]], Awaitable[Sequence[StoredStandings]]],
    asked: "_Asked",
) -> list[asyncio.Task[list[_Checked]]]:
    """Return the tasks that answer the numbers, some each. `stored`: the standings of people."""
    answering = []
    for first in range(0, len(numbers), READ_AT_ONCE):  # the previous chunk is answered meanwhile
        some = await asyncio.to_thread(reading, numbers[first : first + READ_AT_ONCE])
        found = await stored([of for of in some if not isinstance(of, NumberProblem)])
        answering.append(asyncio.create_task(asyncio.to_thread(_checks, some, found, asked)))
    return answering


async def _of_shards(held: Resources[Any], people: Sequence[str]) -> list[StoredStandings]:
    """Return the standings of these people, each from the shard of the person."""
    of = partitions_of([subject_id.encode() for subject_id in people], held.settings.partitions) if people else ()
    by_shard: dict[str, list[str]] = defaultdict(list)
    for subject_id, partition in zip(people, of, strict=True):
        by_shard[held.shards.of(partition).name].append(subject_id)

    async def read(shard: Shard) -> StoredStandings:
        async with shard.database.begin() as tx:
            return await ledger_store.stored_standings(tx, by_shard[shard.name])

    return list(await asyncio.gather(*(read(shard) for shard in held.shards.each if shard.name in by_shard)))


def _read(
    numbers: Sequence[str], *, keys: SubjectKeys, countries: Sequence[str], fictional: bool
) -> list[str | NumberProblem]:
    """Return the subject_id of each number, or its fault. A thread runs this function and the functions below."""
    read: list[str | NumberProblem] = []
    e164s: dict[int, str] = {}
    for place, number in enumerate(numbers):
        try:
            read.append(e164 := parse(number, countries=countries, fictional=fictional).e164)
            e164s[place] = e164
        except NumberRefused as refused:
            read.append(refused.reason)
    for place, subject_id in zip(e164s, keys.subject_ids(e164s.values()), strict=True):
        read[place] = subject_id
    return read


@dataclass(frozen=True, slots=True)
class _Asked:
    """The intended message. `months`: how long a consent holds; `ids`: of people with the sender's controller."""

    sender_id: str
    purpose: str
    months: int | None
    ids: ControllerIds
    now: datetime


def _checks(read: Sequence[str | NumberProblem], stored: Sequence[StoredStandings], asked: _Asked) -> list[_Checked]:
    standing = {subject_id: one for each in stored for subject_id, one in each.decoded().items()}
    return [
        _Checked(None, "unknown", False, (of,))
        if isinstance(of, NumberProblem)
        else _checked(of, standing.get(of, NOBODY), asked)
        for of in read
    ]


def _answer(results: Sequence[_Checked]) -> bytes:
    counts = Counter(result.allowed for result in results)
    return msgspec.json.encode({"results": results, "counts": {"allowed": counts[True], "denied": counts[False]}})


def _checked(subject_id: str, standing: Standing, asked: _Asked) -> _Checked:
    found = permission(
        standing.state,
        asked.sender_id,
        asked.purpose,
        standing.held_since,
        asked.months,
        asked.now,
        erased=standing.erased,
    )
    return _Checked(asked.ids.shown(subject_id), found.state, not found.reasons, found.reasons)
