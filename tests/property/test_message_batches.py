"""Batches of changes of messages: a record says the same changes in the same order."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka import broker as kafka
from dispatch.messages.events import batches
from tests.support.reading import changes_in

# no NUL and no half of a surrogate pair: the ledger's text columns hold neither
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
instants = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 bounds
changes = st.builds(
    MessageChanged,
    message_id=texts,
    campaign_id=st.none() | texts,
    sender_id=texts,
    subject_id=st.sampled_from(["s1-a", "s1-b"]),
    category=st.sampled_from(["marketing", "transactional", "service"]),
    version=st.integers(1, 2**31),
    status=st.sampled_from(["pending", "denied", "deferred", "accepted", "rejected", "unknown", "expired"]),
    reasons=st.lists(texts, max_size=2).map(tuple),
    until=st.none() | instants,
    policy_version=texts,
    consent_version=st.none() | st.integers(0, 2**31),
    as_of=st.none() | instants,
    decided_at=st.none() | instants,
    gateway=st.none() | texts,
    gateway_message_id=st.none() | texts,
    receipt=st.none() | st.sampled_from(["delivered", "opted_out"]),
    code=st.none() | texts,
    receipt_at=st.none() | instants,
    number=st.none() | texts,
    purpose=st.none() | texts,
    handed_off_at=st.none() | instants,
    segments=st.none() | st.integers(0, 10),
    cost=st.none() | st.integers(0, 10**6),
)


@given(groups=st.lists(st.lists(changes, max_size=5), max_size=3), most=st.integers(1, 6))
def test_records_hold_the_changes_of_each_group_in_their_order(groups: list[list[MessageChanged]], most: int) -> None:
    records = [(event.key, kafka.encode(event)) for event in batches(groups, most)]
    read = [kafka.decode(value, [("ce_type", MessagesChanged.type.encode())]) for _, value in records]
    assert changes_in(read) == [change for group in groups for change in group]
    assert len(read) == sum(-(-len(group) // most) for group in groups), "of a single group, and full"
    for (key, _), event in zip(records, read, strict=True):
        assert 1 <= len(changes_in([event])) <= most
        assert key == changes_in([event])[0].subject_id
