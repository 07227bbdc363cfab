"""Where the people of a wide topic are, before and after more partitions are added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kafka.broker import partition_of
from common.kafka.reading.dealing import deal
from common.kafka.widening import CannotWiden, next_count, parents_of

KEYS = st.text(max_size=40)
FACTORS = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@given(KEYS, st.integers(1, 48), FACTORS)
def test_a_person_stays_with_the_people_of_their_partition_and_was_only_in_parents(
    key: str, people: int, factors: list[int]
) -> None:
    """Whatever counts the topic had: locks and watermarks are the same, and a reader waits for all that was before."""
    counts = [people]
    for factor in factors:
        counts.append(next_count(counts[-1], counts[-1] * factor))
    places = [partition_of(key, count) for count in counts]
    assert {place % people for place in places} == {places[0]}
    for at, place in enumerate(places):
        assert {before for before in places[:at] if before != place} <= set(parents_of(place, people))


@given(st.integers(1, 1000), st.integers(1, 48))
def test_parents_are_smaller_so_no_partitions_wait_for_each_other(partition: int, people: int) -> None:
    assert all(parent < partition and parent % people == partition % people for parent in parents_of(partition, people))
    assert list(parents_of(partition % people, people)) == []


@given(st.integers(1, 100), st.integers(1, 400))
def test_the_count_grows_to_multiples_alone(published: int, wanted: int) -> None:
    if wanted > published and wanted % published:
        with pytest.raises(CannotWiden, match="set a multiple"):
            next_count(published, wanted)
    else:
        assert next_count(published, wanted) == max(published, wanted)


@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_a_partition_goes_to_the_shard_that_has_its_people(people: int, factor: int, data: st.DataObject) -> None:
    of = data.draw(st.lists(st.integers(0, 2), min_size=people, max_size=people))
    members = {f"m{shard}": [p for p in range(people) if of[p] == shard] for shard in range(3)}
    dealt = deal(range(people * factor), members, people)
    assert dealt == {f"m{s}": [q for q in range(people * factor) if of[q % people] == s] for s in range(3)}
