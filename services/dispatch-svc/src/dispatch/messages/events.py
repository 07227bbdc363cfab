"""The events of messages: the current state of a message, and its publication."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka import outbox, widening
from common.kafka.broker import partitions_of
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import CHARGED, TOLD

MOST = 500  # changes of an event: a quarter of a Kafka record, or more where a gateway's ids are long


class Changed(NamedTuple):
    """The current state of a message, and the partition of its subject."""

    partition: int
    state: MessageChanged


# the columns of a state: first a message's own, then the columns that many messages have in common
_OWN = ("message_id", "subject_id", "consent_version", "gateway_message_id", "receipt_at")
STATE = (
    *_OWN,
    *("partition", "campaign_id", "sender_id", "category", "version", "status", "due_at", "policy_version", "as_of"),
    *("decided_at", "gateway", "receipt", "code", "purpose", "handed_off_at", "segments", "cost", "number", "reasons"),
)
_state_of: Callable[[MessageRow], Sequence[Any]] = attrgetter(*STATE)


def changed(row: MessageRow) -> Changed:
    return _changed(_state_of(row))


def states(rows: Iterable[Sequence[Any]]) -> list[Changed]:
    """Return the states of a query's rows of `STATE`, with reasons as "one,other".

    Rows with equal columns behind their own share one build: a fourth of the time, for the DLRs of a campaign.
    """
    changes: list[Changed] = []
    alike: dict[Sequence[Any], Changed] = {}
    for row in rows:
        common = row[len(_OWN) :]
        if (first := alike.get(common)) is None:
            *columns, reasons = row
            alike[common] = first = _changed((*columns, reasons.split(",") if reasons else ()))
            changes.append(first)
        else:
            identity, subject_id, consent_version, gateway_message_id, receipt_at = row[: len(_OWN)]
            told = replace(
                first.state,
                message_id=str(identity),
                subject_id=subject_id,
                consent_version=consent_version,
                gateway_message_id=gateway_message_id,
                receipt_at=receipt_at,
            )
            changes.append(Changed(first.partition, told))
    return changes


# the columns behind a change of a row, besides the message, its person and the version of the consent
_COMMON: Callable[[MessageRow], tuple[object, ...]] = attrgetter(
    *("partition", "campaign_id", "sender_id", "category", "version", "status", "reasons", "due_at", "policy_version"),
    *("as_of", "decided_at", "gateway", "gateway_message_id", "receipt", "code", "receipt_at", "purpose"),
    *("handed_off_at", "segments", "cost"),
)


def all_changed(rows: Iterable[MessageRow]) -> list[Changed]:
    """Return `changed` of each, in a fourth of the time where rows before and after have much in common."""
    changes: list[Changed] = []
    like: tuple[object, ...] | None = None
    for row in rows:
        common = _COMMON(row)
        if common != like or row.receipt == "opted_out":  # which tells the person's number
            partition, state = first = changed(row)
            like = common
            changes.append(first)
        else:
            identity, version = str(row.message_id), row.consent_version
            told = replace(state, message_id=identity, subject_id=row.subject_id, consent_version=version)
            changes.append(Changed(partition, told))
    return changes


# as `_COMMON`, of a decision; and of its outcome
_OF_DECISION: Callable[[MessageRow], tuple[object, ...]] = attrgetter(
    *("partition", "campaign_id", "sender_id", "category", "version", "policy_version", "as_of", "decided_at"),
    *("gateway", "receipt", "code", "receipt_at", "purpose", "segments", "cost"),
)
_OF_OUTCOME: Callable[[Outcome], tuple[object, ...]] = attrgetter("status", "reasons", "due_at", "handed_off_at")


def all_accepted(stored: Iterable[tuple[Outcome, MessageRow]]) -> list[Changed]:
    """Return `accepted` of each, as `all_changed` does."""
    changes: list[Changed] = []
    like: tuple[object, ...] | None = None
    for outcome, decision in stored:
        common = *_OF_DECISION(decision), *_OF_OUTCOME(outcome)
        if common != like or decision.receipt == "opted_out":
            partition, state = first = accepted(decision, outcome)
            like = common
            changes.append(first)
        else:
            told = replace(
                state,
                message_id=str(decision.message_id),
                subject_id=decision.subject_id,
                consent_version=decision.consent_version,
                gateway_message_id=outcome.gateway_message_id,
            )
            changes.append(Changed(partition, told))
    return changes


def accepted(decision: MessageRow, outcome: Outcome) -> Changed:
    """Return the state of a message after `accept`, from the row after the decision."""
    row = replace(
        decision,
        version=decision.version + 1,
        status=outcome.status,
        reasons=outcome.reasons,
        due_at=outcome.due_at,
        gateway_message_id=outcome.gateway_message_id,
        handed_off_at=outcome.handed_off_at,
    )
    return changed(row)


def _changed(state: Sequence[Any]) -> Changed:
    """Return the state of a message from its columns (`STATE`)."""
    of = dict(zip(STATE, state, strict=True))
    charged = of["status"] in CHARGED
    return Changed(
        of["partition"],
        MessageChanged(
            message_id=str(of["message_id"]),
            campaign_id=of["campaign_id"],
            sender_id=of["sender_id"],
            subject_id=of["subject_id"],
            category=of["category"],
            version=of["version"],
            status=TOLD[of["status"]],
            reasons=tuple(of["reasons"]),
            until=of["due_at"],
            policy_version=of["policy_version"],
            consent_version=of["consent_version"],
            as_of=of["as_of"],
            decided_at=of["decided_at"],
            gateway=of["gateway"],
            gateway_message_id=of["gateway_message_id"],
            receipt=of["receipt"],
            code=of["code"],
            receipt_at=of["receipt_at"],
            purpose=of["purpose"],
            handed_off_at=of["handed_off_at"],
            number=of["number"] if of["receipt"] == "opted_out" else None,
            segments=of["segments"] if charged else None,
            cost=of["cost"] if charged else None,
        ),
    )


async def append_changes(tx: AsyncConnection, changes: Sequence[Changed]) -> None:
    """Publish the current state of each message, in this order; changes of a partition share an event."""
    if changes:
        await widening.in_parts(DISPATCH_MESSAGES, partial(_append, tx, changes))


async def _append(tx: AsyncConnection, changes: Sequence[Changed], count: int | None) -> None:
    """Publish changes packed by `count` partitions, or by that of their people. Raises Coarse."""
    groups, most = by_partition(changes, count), MOST
    while True:
        try:
            await outbox.append(tx, DISPATCH_MESSAGES, list(batches(groups, most)), packed_by=count or 1)
            return
        except outbox.TooLarge:
            if most == 1:
                raise
            most //= 2


def by_partition(changes: Sequence[Changed], count: int | None) -> Collection[Sequence[MessageChanged]]:
    """Return the changes of each of `count` partitions, or of each partition of people. Pure."""
    found: dict[int, list[MessageChanged]] = defaultdict(list)
    places: Iterable[int] = map(attrgetter("partition"), changes)
    if count is not None:
        places = partitions_of([state.subject_id.encode() for _, state in changes], count)
    for place, (_, state) in zip(places, changes, strict=True):
        found[place].append(state)
    return found.values()


def batches(groups: Iterable[Sequence[MessageChanged]], most: int) -> Iterator[MessagesChanged]:
    """Yield events of at most `most` changes, each of a single group. Pure."""
    for group in groups:
        for at in range(0, len(group), most):
            yield MessagesChanged(changes=tuple(group[at : at + most]))
