"""Batches of changes of messages: a record says the same changes in the same order."""

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka import broker as kafka
from dispatch.messages.events import STATE, accepted, all_accepted, all_changed, batches, changed, states
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import Status
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


AT, LATER = datetime(2026, 11, 24, 9, tzinfo=UTC), datetime(2026, 11, 24, 10, tzinfo=UTC)
ROW = MessageRow(
    message_id=UUID(int=1),
    status=Status.DENIED,
    reasons=(),
    campaign_id="c1",
    sender_id="a",
    purpose="news",
    category="marketing",
    subject_id="s1-a",
    partition=1,
    number="sealed",
    text="sealed",
    requested_at=AT,
    send_before=LATER,
    version=1,
    policy_version="p1",
)
VALUES: dict[str, tuple[object, ...]] = {
    "message_id": (UUID(int=2), UUID(int=3)),
    "status": (Status.DEFERRED, Status.ACCEPTED, Status.UNKNOWN),
    "reasons": (("no_consent",), ("no_consent", "erased")),
    "campaign_id": (None, "c2"),
    "sender_id": ("b",),
    "purpose": (None, "offers"),
    "category": ("transactional", "service"),
    "subject_id": ("s1-b",),
    "partition": (2,),
    "number": (None, "other"),
    "version": (2, 3),
    "policy_version": ("p2",),
    "due_at": (AT, LATER),
    "consent_version": (1, 2),
    "as_of": (AT, LATER),
    "decided_at": (AT, LATER),
    "handed_off_at": (AT, LATER),
    "gateway": ("simulator", "other"),
    "gateway_message_id": ("g-1", "g-2"),
    "receipt": ("delivered", "opted_out"),
    "code": ("1", "2"),
    "receipt_at": (AT, LATER),
    "segments": (1, 2),
    "cost": (0, 500),
}
OUTCOME = Outcome(message_id=ROW.message_id, subject_id="s1-a", status=Status.ACCEPTED, decided_at=AT, gateway="g")
OF_OUTCOME = ("status", "reasons", "due_at", "gateway_message_id", "handed_off_at")
varied = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])
fields = st.lists(varied, max_size=2).map(dict)


def _as_read(row: MessageRow) -> tuple[object, ...]:
    """Return the row as a query of `STATE` does."""
    *columns, reasons = (getattr(row, name) for name in STATE)
    return (*columns, ",".join(reasons))


@given(st.lists(fields, max_size=6), fields)
def test_rows_in_a_batch_are_told_as_each_alone(some: list[dict[str, object]], base: dict[str, object]) -> None:
    rows = [replace(ROW, **(base | more)) for more in some]
    assert all_changed(rows) == states(map(_as_read, rows)) == [changed(row) for row in rows]


@given(st.lists(st.tuples(fields, fields), max_size=6), fields)
def test_outcomes_in_a_batch_are_told_as_each_alone(
    some: list[tuple[dict[str, object], dict[str, object]]], base: dict[str, object]
) -> None:
    pairs = [
        (
            replace(OUTCOME, **{name: value for name, value in ended.items() if name in OF_OUTCOME}),
            replace(ROW, **(base | more)),
        )
        for more, ended in some
    ]
    assert all_accepted(pairs) == [accepted(decision, outcome) for outcome, decision in pairs]


def test_a_column_that_differs_is_told_whichever_row_comes_first() -> None:
    for name, values in VALUES.items():
        for value in values:
            other = replace(ROW, **{name: value})
            for rows in ([ROW, other, ROW], [other, ROW, other]):
                assert all_changed(rows) == states(map(_as_read, rows)) == [changed(row) for row in rows], name
                pairs = [(OUTCOME, row) for row in rows]
                assert all_accepted(pairs) == [accepted(row, outcome) for outcome, row in pairs], name
