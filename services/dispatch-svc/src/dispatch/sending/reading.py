"""Read the requests of a batch from Kafka. No database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from common.contracts.campaign import MessageRequested, MessageReworded
from common.kafka.broker import partitions_of
from common.kafka.subscription import Poison, Received
from dispatch.gate.candidate import Candidate, requested


@dataclass(slots=True)
class Requests:
    """The requests of a batch. `partitions`: of their people, and of the batch."""

    partitions: set[int]
    candidates: dict[UUID, Candidate] = field(default_factory=dict)
    reworded: dict[UUID, MessageReworded] = field(default_factory=dict)
    repeated: dict[UUID, bool] = field(default_factory=dict)  # whether the batch has no first request before
    reported: dict[UUID, int] = field(default_factory=dict)  # the newest version that the requester of a repeat knows


def read(batch: Sequence[Received], partitions: int) -> Requests:
    """Return the requests of a batch of one partition, of so many partitions.

    Raise Poison for a request in another partition than its person's, in a category that its requester may not use, or
    with a message id that is no UUID.
    """
    partition = batch[0].partition
    whose = partitions_of([received.event.key.encode() for received in batch], partitions)
    homes = [partition if received.moved_to is None else received.moved_to for received in batch]
    if list(whose) != homes:
        raise Poison("in another partition than its subject's: its lock and its watermark are not the same")
    requests = Requests({partition, *homes})
    for event, home in zip((received.event for received in batch), homes, strict=True):
        if isinstance(event, MessageReworded):
            _reword(event, requests)
        else:
            assert isinstance(event, MessageRequested)
            _request(event, home, requests)
    return requests


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
