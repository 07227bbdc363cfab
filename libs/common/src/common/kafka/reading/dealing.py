"""Deal the partitions of a group to its members, where each member holds the people of some partitions only.

The members of a group say which partitions their shard holds. A partition that two shards claim goes to nobody: two
databases would each send its messages.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

log = logging.getLogger(__name__)


def deal(
    partitions: Iterable[int], members: Mapping[str, Collection[int]], of: int | None = None
) -> dict[str, list[int]]:
    """Return the partitions of each member, by turns among those of one shard. Pure.

    `of`: the partitions of people, of which a wide topic has a multiple: a partition is of the shard of its people.
    """
    dealt: dict[str, list[int]] = {member: [] for member in members}
    turns: dict[frozenset[int], int] = {}
    for partition in sorted(partitions):
        claiming = sorted(
            member for member, held in members.items() if (partition if of is None else partition % of) in held
        )
        shards = {frozenset(members[member]) for member in claiming}
        if len(shards) != 1:
            continue  # nobody's, or two shards'
        [shard] = shards
        turn = turns.get(shard, 0)
        dealt[claiming[turn % len(claiming)]].append(partition)
        turns[shard] = turn + 1
    return dealt


def dealer(own: Sequence[int], of: int) -> type[AbstractPartitionAssignor]:
    """Return the assignor of a member whose shard holds the people of the partitions `own` of `of`."""

    class OfShards(AbstractPartitionAssignor):  # type: ignore[misc]
        name = "placet-shards"
        version = 0

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(cls.version, list(topics), _told(own))

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            held = {member: _read(told.user_data) for member, told in members.items()}
            of_topics: dict[str, dict[str, list[int]]] = {member: {} for member in members}
            for topic in sorted({topic for told in members.values() for topic in told.subscription}):
                readers = {member: held[member] for member, told in members.items() if topic in told.subscription}
                there = cluster.partitions_for_topic(topic) or set()
                dealt = deal(there, readers, of)
                if left := there - {partition for each in dealt.values() for partition in each}:
                    log.error("partitions of no shard, or of two", extra={"topic": topic, "partitions": sorted(left)})
                for member, partitions in dealt.items():
                    if partitions:
                        of_topics[member][topic] = partitions
            return {
                member: ConsumerProtocolMemberAssignment(cls.version, sorted(of.items()), b"")
                for member, of in of_topics.items()
            }

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            pass

    return OfShards


def _told(own: Sequence[int]) -> bytes:
    return ",".join(map(str, own)).encode()


def _read(told: bytes) -> Collection[int]:
    return frozenset(map(int, told.decode().split(","))) if told else frozenset()
