"""Dealing the partitions of a group to the members of shards."""

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from common.kafka.reading.dealing import deal

PARTITIONS = range(12)


@st.composite
def divided(draw: st.DrawFn) -> Mapping[str, Collection[int]]:
    """Members by name with the partitions of their shard; no two shards claim one, and some may be nobody's."""
    of = draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))
    members = draw(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 3), max_size=8))
    return {name: [p for p in PARTITIONS if of[p] == shard] for name, shard in members.items()}


@given(divided())
def test_each_partition_goes_to_one_member_of_its_shard_and_the_members_share_evenly(
    members: Mapping[str, Collection[int]],
) -> None:
    dealt = deal(PARTITIONS, members)
    assert dealt.keys() == members.keys()
    given_out = [partition for each in dealt.values() for partition in each]
    assert sorted(given_out) == sorted({partition for held in members.values() for partition in held})
    for name, partitions in dealt.items():
        assert set(partitions) <= set(members[name])
        alike = [len(dealt[other]) for other in members if members[other] == members[name]]
        assert max(alike) - min(alike) <= 1


@given(divided(), st.sets(st.integers(0, 11), min_size=1))
def test_a_partition_that_two_shards_claim_goes_to_nobody(
    members: Mapping[str, Collection[int]], also: Collection[int]
) -> None:
    claimed = {**members, "second shard": also}
    dealt = deal(PARTITIONS, claimed)
    shards = {frozenset(held) for held in claimed.values()}
    for partition in PARTITIONS:
        owners = [name for name, partitions in dealt.items() if partition in partitions]
        assert len(owners) == (sum(partition in shard for shard in shards) == 1)
