"""Reconcile our opt-outs with a provider's list: record the missing opt-outs, count the opt-outs only we have.

A person may opt out with the provider without our knowledge (DOMAIN 1.7). The opt-out counts from now: the provider
would not deliver, with any consent on record. Only a token for every sender reports a STOP of the person's own: another
caller could write any list, and the STOP would hold for the whole controller.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field

from common.files.columns import Meaning
from common.kafka.broker import partitions_of
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.msisdn import NumberRefused, applying, readings
from common.web.auth import Caller, require
from common.web.fields import NumberCountry, Short, Slug
from common.web.openapi import refuses
from common.web.problems import Invalid, NotFound, Reason
from common.web.upload import (
    DRY_RUN_LINES,
    DRY_RUN_REFUSALS,
    ColumnRead,
    DryRun,
    FileProblem,
    LineRead,
    LineRefused,
)
from consent.bodies import EXAMPLE_NUMBER, Body
from consent.imports import provider_list
from consent.imports.provider_list import LIST_NUMBERS, NotAList
from consent.ledger import recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.senders import store as senders_store
from consent.senders.store import Sender

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")

SOURCE = "provider_list"  # the person's own STOP, as the provider reports it
OF_LIMITED_CALLERS = "sender_list"  # a caller's opt-out: `provider` is the caller's word alone
CHUNK = 1000
LIST_CHARS = 4_000_000
LIST_BYTES = 2 * LIST_CHARS  # JSON writes a line break as two bytes
LINES_NAMED = 100
TOO_LONG = f"at most {LIST_NUMBERS} numbers at once"

Held = Annotated[Resources[ServiceSettings], Depends(resources)]


class ListBody(Body):
    """A provider's list of opted-out numbers, for the traffic of one sender."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sender_id": "acme", "provider": "ovh", "list": f"number\n{EXAMPLE_NUMBER}\n"}]
        }
    )

    sender_id: Short
    provider: Slug
    country: NumberCountry = None
    list: Annotated[str, Field(max_length=LIST_CHARS, description="A CSV, or a JSON list of numbers, as text.")]


class Drift(Body):
    """The differences found."""

    listed: int = Field(description="People on the list, not lines: a number with two readings counts two.")
    known_opted_out: int = Field(description="People of the list with an opt-out on record before.")
    missing_here: int = Field(
        description="People of the list without an opt-out on record, who are opted out from now on."
    )
    only_here: int = Field(
        description="Numbers opted out of the sender and missing in the provider's list: the provider would deliver"
        " to these numbers."
    )
    unreadable: int = Field(description="Lines without a readable number.")
    unreadable_lines: list[int] = Field(description=f"The first {LINES_NAMED} unreadable lines.")


@router.post("/reconciliations", operation_id="reconciliations.create", responses=refuses(NotFound))
async def reconcile(
    body: ListBody, caller: Annotated[Caller, Depends(require("consent:write", limited=False))], held: Held
) -> Drift:
    """Compare the lists, and record the missing opt-outs. The same list again finds nothing more.

    By a token for every sender of the organisation, a missing opt-out is the person's own STOP. By another token, the
    opt-out is the caller's, as by `POST /v1/opt-outs`.
    The work runs in chunks: after an error, send the list again.
    """
    await caller.may_use(body.sender_id)
    async with held.database.begin() as tx:
        sender = await senders_store.find_sender(tx, body.sender_id)
    assert sender is not None, "the caller may use it"
    countries = applying(body.country, sender.countries, held.settings.country)
    listed, unreadable = _listed(body.list, held, countries)
    missing = only_here = 0
    for of_shard, subject_ids in _by_shard(held, sorted(listed)):
        for at in range(0, len(subject_ids), CHUNK):
            chunk = {subject_id: listed[subject_id] for subject_id in subject_ids[at : at + CHUNK]}
            missing += await _record_missing(of_shard, body, caller, chunk)
        only_here += await _only_here(of_shard, sender, listed)
    found = Drift(
        listed=len(listed),
        known_opted_out=len(listed) - missing,
        missing_here=missing,
        only_here=only_here,
        unreadable=len(unreadable),
        unreadable_lines=unreadable[:LINES_NAMED],
    )
    counts = found.model_dump(exclude={"unreadable_lines"})
    log.info(
        "a provider's list is reconciled", extra={"provider": body.provider, "sender_id": body.sender_id, **counts}
    )
    return found


@router.post("/reconciliations/dry-run", operation_id="reconciliations.dry_run", responses=refuses(NotFound))
async def dry_run(body: ListBody, caller: Annotated[Caller, Depends(require("consent:write"))], held: Held) -> DryRun:
    """Read a provider's list as a reconciliation would, compare nothing, and store nothing.

    The answer has the first lines as read, the meaning that each column was taken for, and the lines without a number.
    """
    await caller.may_use(body.sender_id)
    async with held.database.begin() as tx:
        sender = await senders_store.find_sender(tx, body.sender_id)
    assert sender is not None, "the caller may use it"
    countries = applying(body.country, sender.countries, held.settings.country)
    return await asyncio.to_thread(_tried, body.list, countries, fictional=held.settings.fictional_numbers)


def _tried(text: str, countries: Sequence[str], *, fictional: bool) -> DryRun:
    found = DryRun.of_nothing(len(text.encode("utf-8", "replace")))
    try:
        header = provider_list.header(text)
        found.delimiter = header.delimiter
        found.columns = [ColumnRead(place=c.place, title=c.title, taken_for=c.meaning) for c in header.columns]
        found.unknown_columns = [c.title for c in header.columns if c.meaning is Meaning.UNKNOWN]
        _read_lines(found, text, countries, fictional=fictional)
    except NotAList as error:
        found.file_refused = FileProblem(reason="not_a_list", detail=str(error))
    return found


def _read_lines(found: DryRun, text: str, countries: Sequence[str], *, fictional: bool) -> None:
    people: set[str] = set()
    reasons: Counter[str] = Counter()
    for line, raw in provider_list.numbers(text):
        found.lines += 1
        try:
            numbers = readings(raw, countries=countries, fictional=fictional)
        except NumberRefused as refused:
            reasons[refused.reason] += 1
            if len(found.refusals) < DRY_RUN_REFUSALS:
                found.refusals.append(LineRefused(line=line, field="number", reason=refused.reason))
            continue
        people.update(numbers)
        if len(found.first_lines) < DRY_RUN_LINES:
            others = {"other_readings": ", ".join(numbers[1:])} if len(numbers) > 1 else {}
            found.first_lines.append(LineRead(line=line, read={"number": numbers[0], **others}))
    found.refused, found.reasons = reasons.total(), dict(reasons)
    if len(people) > LIST_NUMBERS:
        found.file_refused = FileProblem(reason="too_long", detail=TOO_LONG)


def _listed(text: str, held: Resources[ServiceSettings], countries: Sequence[str]) -> tuple[dict[str, str], list[int]]:
    """Return numbers by subject_id, and the lines without a digit. Raises Invalid."""
    listed: dict[str, str] = {}
    unreadable = []
    try:
        for line, raw in provider_list.numbers(text):
            try:
                numbers = readings(raw, countries=countries, fictional=held.settings.fictional_numbers)
            except NumberRefused:
                unreadable.append(line)
            else:
                listed |= {held.subject_keys.subject_id(number): number for number in numbers}
    except NotAList as error:
        raise Invalid(str(error), reasons=[Reason("list", "not_a_list", str(error))]) from error
    if len(listed) > LIST_NUMBERS:
        raise Invalid(TOO_LONG, reasons=[Reason("list", "too_long")])
    return listed, unreadable


def _by_shard(
    held: Resources[ServiceSettings], subject_ids: Sequence[str]
) -> Iterator[tuple[Resources[ServiceSettings], Sequence[str]]]:
    """Yield the resources of each shard, with those of the people whom it holds."""
    if not held.shards.divided:
        yield held, subject_ids
        return
    partitions = partitions_of([subject_id.encode() for subject_id in subject_ids], held.settings.partitions)
    for shard in held.shards.each:
        held_there = [
            who for who, partition in zip(subject_ids, partitions, strict=True) if partition in shard.partitions
        ]
        yield held.of_shard(shard), held_there


async def _record_missing(
    held: Resources[ServiceSettings], body: ListBody, caller: Caller, chunk: Mapping[str, str]
) -> int:
    """Opt out the people of the chunk who are not, and return their number.

    The others get a suppression-list entry.
    """
    sealed = {subject_id: held.field_keys.seal(number, f"number:{subject_id}") for subject_id, number in chunk.items()}
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        subjects = await ledger_store.lock_subjects(tx, sealed)
        said = {subject_id: _statement(subject_id, sealed, body, caller, now) for subject_id in subjects}
        senders = (await ledger_store.known(tx, senders=[body.sender_id])).senders
        out = {
            subject_id
            for subject_id, s in subjects.items()
            if ledger.is_out(s.state, recorder.controlled(said[subject_id].evidence, senders))
        }
        await recorder.keep_listed(tx, [said[subject_id] for subject_id in out])
        missing = [statement for subject_id, statement in said.items() if subject_id not in out]
        await recorder.record(tx, held.subject_keys.inner, missing, now)
    return len(missing)


def _statement(subject_id: str, sealed: Mapping[str, str], body: ListBody, caller: Caller, now: datetime) -> Statement:
    source = SOURCE if caller.for_every_sender else OF_LIMITED_CALLERS
    evidence = Evidence(
        evidence_id=evidence_id(source, body.provider, subject_id, body.sender_id, now.isoformat()),
        kind="opt_out",
        sender_id=body.sender_id,
        purpose=None,
        source=source,
        actor=caller.subject,
        reference=f"{body.provider}/opt-out-list",
        occurred_at=now,
        received_at=now,
    )
    return Statement(subject_id, sealed[subject_id], evidence)


async def _only_here(held: Resources[ServiceSettings], sender: Sender, listed: Mapping[str, str]) -> int:
    only_here, after = 0, ""
    while True:
        async with held.database.begin() as tx:
            page = await ledger_store.with_opt_out_of(tx, sender.sender_id, sender.controller, after, CHUNK)
        only_here += sum(
            s.subject_id not in listed and ledger.is_out_of_sender(s.state, sender.sender_id, sender.controller)
            for s in page
        )
        if len(page) < CHUNK:
            return only_here
        after = page[-1].subject_id
