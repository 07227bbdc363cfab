"""Records of the Kafka client, read as events and watermarks."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from common.contracts import Event, Topic, Watermark
from common.contracts.campaign import MessagesRequested
from common.contracts.dispatch import MessagesChanged
from common.kafka import broker as kafka
from common.kafka.reading import foreign
from common.kafka.subscription import NOBODY, Poison, Received, Subscription, UnknownType
from common.keyring import SubjectKeys
from common.sms.subject_id import is_subject_id


class Mark(NamedTuple):
    """A watermark read from a partition."""

    offset: int
    as_of: datetime | None  # `None` where the publisher has other subject keys
    last_number: int


def event_of(subscription: Subscription, record: Any) -> Event | None:
    """Return the event, or None for an unknown type to skip. Raises Poison."""
    try:
        if subscription.foreign:
            return foreign.decode(subscription.topic, record.value, record.headers)
        event = kafka.decode(record.value, record.headers)
    except kafka.Undecodable as error:
        raise Poison(str(error)) from error
    if event is None and not (subscription.skips_unknown or _is_watermark(record)):
        raise UnknownType("an event type that is not known here")
    if event is not None and type(event) is not Watermark and type(event) not in subscription.topic.events:
        raise Poison(f"{type(event).type} on {subscription.topic.name}")
    return event


def is_tombstone(subscription: Subscription, record: Any, keys: SubjectKeys) -> bool:
    """Return whether the record only takes the state of an id of another outer key out of a compacted topic.

    The person's state stands under the id of now. The ring may no longer have the key of the tombstone.
    """
    if record.value is not None or subscription.topic.cleanup != "compact":
        return False
    key = key_of(record) or ""
    return is_subject_id(key) and not keys.is_subject_id(key)


def received_as(record: Any, event: Event, keys: SubjectKeys, partitions: int, topic: Topic) -> Received:
    """Return the record as received, its people by the current outer key. Raises UnknownOuterKey.

    A key is read as a person's id only where the event names that person: an operator's key, or a sender's id, may look
    like one.
    """
    trace = kafka.header_of(record.headers, "traceparent")
    named = key_of(record) or ""
    key = keys.read(named) if not keys.is_usual(named) and named in people_of(event) else named
    current = of_current_key(event, keys)
    moved = NOBODY if current is event else _moved(people_of(event), people_of(current))
    return Received(
        event=current,
        key=key,
        partition=record.partition % partitions if topic.wide else record.partition,
        offset=record.offset,
        published_at=_instant(record.timestamp),
        traceparent=trace.decode(errors="replace") if trace else None,
        moved_to=None if key == named else kafka.partition_of(key, partitions),
        moved=moved,
        read_in=record.partition if topic.wide else None,
    )


def people_of(event: Event) -> Sequence[str]:
    """Return the subject ids that an event names."""
    if isinstance(event, MessagesChanged):
        return [each.subject_id for each in event.changes]
    if isinstance(event, MessagesRequested):
        return [each.subject_id for each in event.requests]
    named: str | None = getattr(event, "subject_id", None)
    return () if named is None else (named,)


def of_current_key(event: Event, keys: SubjectKeys) -> Event:
    """Return the event with each person's id by the current outer key. Raises UnknownOuterKey."""
    named = people_of(event)
    if all(map(keys.is_usual, named)):
        return event
    people = [keys.read(each) for each in named]
    if people == [*named]:
        return event
    if isinstance(event, MessagesChanged):
        changes = [replace(each, subject_id=who) for who, each in zip(people, event.changes, strict=True)]
        return replace(event, changes=tuple(changes))
    if isinstance(event, MessagesRequested):
        requests = [replace(each, subject_id=who) for who, each in zip(people, event.requests, strict=True)]
        return replace(event, requests=tuple(requests))
    return replace(event, subject_id=people[0])


def _moved(named: Sequence[str], current: Sequence[str]) -> frozenset[str]:
    return frozenset(now for was, now in zip(named, current, strict=True) if was != now)


@lru_cache(maxsize=64)  # the records of a batch share a few instants
def _instant(timestamp_ms: int) -> datetime:
    """Return a record's time; the epoch for one that no calendar has: a foreign producer may write any."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def watermarks_of(records: Sequence[Any], counts: Callable[[Watermark], bool]) -> list[Mark]:
    """Return the watermarks, or [] where any record is another or unreadable."""
    marks: list[Mark] = []
    for record in records:
        if type_of(record) != Watermark.type:
            return []
        try:
            mark = kafka.decode(record.value, record.headers)
        except kafka.Undecodable:
            return []
        assert isinstance(mark, Watermark)
        marks.append(Mark(record.offset, mark.as_of if counts(mark) else None, mark.last_number))
    return marks


def key_of(record: Any) -> str | None:
    """Return the key, None where missing or unreadable."""
    try:
        key: str | None = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None
    return None if key and "\0" in key else key  # no text column takes a NUL


def type_of(record: Any) -> str | None:
    value = kafka.header_of(record.headers, "ce_type")
    return None if value is None else str(value, errors="replace")


def _is_watermark(record: Any) -> bool:
    """Return whether the record is a watermark of any version: without it, knowledge only grows older."""
    return (type_of(record) or "").startswith(f"{Watermark.type.rpartition('.')[0]}.")
