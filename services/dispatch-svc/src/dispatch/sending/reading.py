"""Read the requests of a batch from Kafka. No database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from common.contracts.campaign import MessageRequested, MessageReworded, MessagesRequested, Request
from common.kafka.broker import partitions_of
from common.kafka.reading.records import people_of
from common.kafka.subscription import Poison, Received
from dispatch.gate.candidate import Candidate, requested, requested_together


@dataclass(slots=True)
class Requests:
    """The requests of a batch. `partitions`: of their people, and of the batch."""

    partitions: set[int]
    candidates: dict[UUID, Candidate] = field(default_factory=dict)
    reworded: dict[UUID, MessageReworded] = field(default_factory=dict)
    repeated: dict[UUID, bool] = field(default_factory=dict)  # whether the batch has no first request before
    reported: dict[UUID, int] = field(default_factory=dict)  # the newest version that the requester of a repeat knows


def messages_in(value: bytes) -> int:
    """Return how many messages a record holds: a request, or a new text, names its message once."""
    return value.count(b'"message_id"')


def count_of(batch: Sequence[Received]) -> int:
    """Return how many messages the records hold."""
    events = (received.event for received in batch)
    return sum(len(event.requests) if isinstance(event, MessagesRequested) else 1 for event in events)


def read(batch: Sequence[Received], partitions: int, *, rest: bool = False) -> Requests:
    """Return the requests of a batch of one partition, of so many partitions.

    Raise Poison for a request in another partition than its person's, in a category that its requester may not use, or
    with a message id that is no UUID. `rest`: leave out such a request of an event with several; raise Poison where
    none is left.
    """
    partition = batch[0].partition
    people = [who.encode() for received in batch for who in people_of(received.event)]
    homes, requests = iter(partitions_of(people, partitions)), Requests({partition})
    for received in batch:
        event = received.event
        if isinstance(event, MessagesRequested):
            for request in event.requests:
                try:
                    _together(event, request, _home(request.subject_id, next(homes), received), requests)
                except Poison:
                    if not rest:
                        raise
            continue
        assert isinstance(event, (MessageRequested, MessageReworded))
        home = _home(event.subject_id, next(homes), received)
        requests.partitions.add(home)
        if isinstance(event, MessageReworded):
            _reword(event, requests)
        else:
            _request(event, home, requests)
    if rest and not (requests.candidates or requests.reworded):
        raise Poison("no request can be handled")
    return requests


def _home(subject_id: str, home: int, received: Received) -> int:
    """Return the partition of the person. Raise Poison for another than the record's, unless the person's id is new."""
    if home != received.partition and subject_id not in received.moved:
        raise Poison("in another partition than its subject's: its lock and its watermark are not the same")
    return home


def _together(event: MessagesRequested, request: Request, home: int, requests: Requests) -> None:
    """Note one of several first requests."""
    try:
        candidate = requested_together(event, request, home)
    except ValueError as error:
        raise Poison("the message id is not a UUID") from error
    requests.partitions.add(home)
    requests.candidates.setdefault(candidate.message_id, candidate)


def _request(event: MessageRequested, home: int, requests: Requests) -> None:
    if event.category == "service" and event.campaign_id is not None:
        raise Poison("a campaign cannot send in the service category")
    try:
        candidate = requested(event, home)
    except ValueError as error:
        raise Poison("the message id is not a UUID") from error
    identity = candidate.message_id
    if event.repeated:
        requests.repeated.setdefault(identity, identity not in requests.candidates)
        requests.reported[identity] = max(event.known_version, requests.reported.get(identity, 0))
    # the first request counts, as in the ledger: a duplicate lacks a text updated since
    requests.candidates.setdefault(identity, candidate)


def _reword(event: MessageReworded, requests: Requests) -> None:
    """Note an updated text, for the ledger and the same batch."""
    try:
        identity = UUID(event.message_id)
    except ValueError as error:
        raise Poison("the message id is not a UUID") from error
    requests.reworded[identity] = event
    candidate = requests.candidates.get(identity)
    if candidate is not None and candidate.subject_id == event.subject_id:
        region = candidate.region if event.region is None else event.region or None
        requests.candidates[identity] = replace(candidate, text=event.text or "", region=region)
