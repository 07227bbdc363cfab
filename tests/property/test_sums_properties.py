"""What states add up to: the order does not matter, and whatever is different makes it another sum."""

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.consent import Consent, Suppression
from consent.proof.checksums import Sums, add, digest
from tests.support.builders import now

AT = now()
slugs = st.sampled_from(["a", "b", "ab", "c"])
consents = st.builds(
    Consent,
    sender_id=slugs,
    purpose=slugs,
    state=st.sampled_from(["unknown", "pending", "opted_in", "opted_out", "expired"]),
    basis=st.none(),
    occurred_at=st.just(AT),
    evidence_id=st.just("e"),
)
suppressions = st.builds(Suppression, sender_id=st.none() | slugs, since=st.just(AT))
told = st.fixed_dictionaries(
    {
        "version": st.integers(1, 12),
        "consents": st.lists(consents, max_size=3, unique_by=lambda c: (c.sender_id, c.purpose)),
        "suppressions": st.lists(suppressions, max_size=2, unique_by=lambda s: s.sender_id),
        "erased": st.booleans(),
    }
)


def said(state: dict[str, Any]) -> Any:
    return (
        state["version"],
        state["erased"],
        {
            (c.sender_id, c.purpose, c.state)
            for c in state["consents"]
            if c.state != "opted_out" or all(s.sender_id not in (None, c.sender_id) for s in state["suppressions"])
        },
        {s.sender_id for s in state["suppressions"]},
    )


@given(state=told, other=told)
def test_two_states_have_one_digest_only_where_they_say_the_same(state: dict[str, Any], other: dict[str, Any]) -> None:
    assert (digest("s", **state) == digest("s", **other)) == (said(state) == said(other))
    assert digest("s", **state) != digest("t", **state)


@given(state=told, data=st.data())
def test_the_order_of_people_and_of_what_is_told_of_one_does_not_matter(
    state: dict[str, Any], data: st.DataObject
) -> None:
    mixed = {**state, "consents": data.draw(st.permutations(state["consents"]))}
    people = ["t1-000aaa", "t1-111aaa", "t1-000bbb"]
    one: Sums = {}
    other: Sums = {}
    for person in people:
        add(one, person, digest(person, **state))
    for person in data.draw(st.permutations(people)):
        add(other, person, digest(person, **mixed))
    assert one == other
    assert {name: many for name, (many, _) in one.items()} == {"aaa": 2, "bbb": 1}


@given(state=told)
def test_a_consent_that_is_newer_and_says_the_same_is_no_difference(state: dict[str, Any]) -> None:
    """When it was said, and by which evidence, is the ledger's."""
    assume(state["consents"])
    again = [replace(consent, evidence_id="other") for consent in state["consents"]]
    assert digest("s", **state) == digest("s", **{**state, "consents": again})
