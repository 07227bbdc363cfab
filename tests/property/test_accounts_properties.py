"""The accounts of a campaign add up, whatever dispatch reports in whatever order, twice or late."""

from collections import Counter
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from campaign.accounts import COUNTS, STANDINGS, Standing, moved, moved_together
from common.contracts.dispatch import Status
from common.contracts.inbound import ReceiptState

PEOPLE = 4
standings = st.builds(
    Standing,
    st.sampled_from(get_args(Status)),
    st.lists(st.sampled_from(["no_consent", "erased", "quiet_hours"]), unique=True, max_size=2).map(tuple),
    st.sampled_from((None, *get_args(ReceiptState))),
)
lives = st.lists(st.lists(standings, max_size=5), min_size=PEOPLE, max_size=PEOPLE)  # of each person, by version


@given(lives, st.data())
def test_sums_add_up_at_every_step_and_end_the_same_in_any_order(
    told: list[list[Standing]], data: st.DataObject
) -> None:
    events = [(who, version) for who, life in enumerate(told) for version in range(len(life))]
    again = data.draw(st.lists(st.sampled_from(events), max_size=6)) if events else []
    known = dict.fromkeys(range(PEOPLE), -1)
    held = [Standing() for _ in range(PEOPLE)]
    counts, denials = Counter({"pending": PEOPLE}), Counter[str]()
    for who, version in data.draw(st.permutations([*events, *again])):
        if version <= known[who]:
            continue  # older than what is known: the consumer's guard
        before, held[who], known[who] = held[who], told[who][version], version
        counts.update(moved(before.counts, held[who].counts))
        denials.update(moved(before.denials, held[who].denials))
        assert sum(counts[name] for name in STANDINGS) == PEOPLE
        assert all(counts[name] >= 0 for name in COUNTS)
    last = [life[-1] if life else Standing() for life in told]
    assert +counts == sum((each.counts for each in last), Counter())
    assert +denials == sum((each.denials for each in last), Counter())


@given(changes=st.lists(st.tuples(standings, standings), max_size=8), again=st.integers(1, 3))
def test_recipients_counted_together_move_the_tallies_as_each_by_itself(
    changes: list[tuple[Standing, Standing]], again: int
) -> None:
    counts, denials = Counter[str](), Counter[str]()
    for before, after in changes * again:
        counts.update(moved(before.counts, after.counts))
        denials.update(moved(before.denials, after.denials))
    together = moved_together(Counter(changes * again))
    assert together == (counts, denials)
    assert sum(together[0][name] for name in STANDINGS) == 0
