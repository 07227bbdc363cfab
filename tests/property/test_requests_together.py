"""However campaign-svc cuts an expansion's requests into records, dispatch-svc reads the same requests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from campaign.planning.asking import EVENT_CHARS, cut
from common.contracts import CAMPAIGN_REQUESTS, Event
from common.contracts.campaign import REQUESTS_TOGETHER, MessageRequested, MessagesRequested, Request
from common.kafka import broker as kafka
from common.kafka.broker import partition_of
from common.kafka.reading.records import received_as
from common.kafka.subscription import Poison, Received
from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings
from dispatch.sending.reading import count_of, messages_in, read
from tests.support.builders import together
from tests.support.running import OUTER_RING, SUBJECT_RING

PARTITIONS = 3
SIZES = [0, EVENT_CHARS // 2, EVENT_CHARS // 2 + 1, EVENT_CHARS, 2 * EVENT_CHARS]
NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
PEOPLE = [f"t1-{n:032x}" for n in range(12)]
PARTITION = partition_of(PEOPLE[0], PARTITIONS)
OF_ONE = [who for who in PEOPLE if partition_of(who, PARTITIONS) == PARTITION]
ELSEWHERE = next(who for who in PEOPLE if who not in OF_ONE)
NEW_OUTER = "bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5ubm4="
ROTATED = SubjectKeys(
    SubjectRingSettings.model_validate(
        SUBJECT_RING | {"outer": {"current": "t2", "keys": OUTER_RING["keys"] | {"t2": NEW_OUTER}}}
    )
)

requests = st.builds(
    MessageRequested,
    message_id=st.integers(0, 5).map(lambda n: f"019abcde-0000-8000-8000-{n:012x}"),  # a few: some come twice
    campaign_id=st.sampled_from(["c1", "c2"]),
    sender_id=st.sampled_from(["lune", "message_id"]),
    purpose=st.sampled_from(["promotions", None]),
    category=st.just("marketing"),
    subject_id=st.sampled_from(OF_ONE),
    number=st.sampled_from(["sealed", "other"]),
    text=st.text(alphabet='ab"\\', max_size=3),
    requested_at=st.just(NOW),
    send_before=st.sampled_from([NOW, NOW + timedelta(days=1)]),
    region=st.sampled_from([None, "FR-6AE"]),
)


def received(event: Event, partition: int = PARTITION) -> Received:
    return Received(event, event.key, partition, 0, NOW, None)


def alone(event: MessagesRequested) -> list[MessageRequested]:
    return [
        MessageRequested(
            message_id=each.message_id,
            campaign_id=event.campaign_id,
            sender_id=event.sender_id,
            purpose=event.purpose,
            category="marketing",
            subject_id=each.subject_id,
            number=each.number,
            text=each.text,
            requested_at=event.requested_at,
            send_before=event.send_before,
            region=each.region,
        )
        for each in event.requests
    ]


def through_kafka(event: Event) -> Event:
    found = kafka.decode(kafka.encode(event), [("ce_type", event.type.encode())])
    assert found is not None
    return found


@given(asked=st.lists(requests, min_size=1, max_size=8), most=st.integers(1, 4), singly=st.sets(st.integers(0, 3)))
def test_any_cut_of_requests_into_records_is_read_as_the_requests_alone(
    asked: list[MessageRequested], most: int, singly: set[int]
) -> None:
    """`singly`: which of the campaign's events are of an older process, a record a request."""
    events: list[Event] = []
    order: list[MessageRequested] = []
    for place, some in enumerate(together(asked, PARTITIONS, most)):
        order += alone(some)
        events += alone(some) if place in singly else [some]
    assert len(order) == len(asked)
    sent = [through_kafka(event) for event in events]
    batch = [received(event) for event in sent]
    assert read(batch, PARTITIONS) == read([received(event) for event in order], PARTITIONS)
    assert count_of(batch) == len(asked)
    for event in sent:
        held = len(event.requests) if isinstance(event, MessagesRequested) else 1
        named = sum(each.count("message_id") for each in [getattr(event, "sender_id", "")])
        assert held <= messages_in(kafka.encode(event)) <= held + named


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"subject_id": ELSEWHERE}, "another partition"),
        ({"message_id": "no uuid"}, "not a UUID"),
    ],
)
@given(asked=st.lists(requests, min_size=2, max_size=5), place=st.integers(0, 4))
def test_a_bad_request_keeps_back_only_itself(
    wrong: dict[str, str], why: str, asked: list[MessageRequested], place: int
) -> None:
    [event] = together([replace(each, campaign_id="c1", sender_id="s", purpose="p", send_before=NOW) for each in asked],
                       PARTITIONS)  # fmt: skip
    place %= len(asked)
    bad = tuple(replace(each, **wrong) if n == place else each for n, each in enumerate(event.requests))
    others = [each for n, each in enumerate(alone(event)) if n != place]
    record = received(replace(event, requests=bad))
    with pytest.raises(Poison, match=why):
        read([record], PARTITIONS)
    assert read([record], PARTITIONS, rest=True) == read([received(each) for each in others], PARTITIONS)


def test_a_record_of_only_bad_requests_has_no_rest() -> None:
    request = Request(message_id="no uuid", subject_id=OF_ONE[0], number="n", text="t")
    event = MessagesRequested(
        campaign_id="c1", sender_id="s", purpose=None, requested_at=NOW, send_before=NOW, requests=(request,)
    )
    for some in (event, alone(event)[0]):
        with pytest.raises(Poison):
            read([received(some)], PARTITIONS, rest=True)


@given(moved=st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_person_of_an_older_outer_key_is_of_the_partition_of_the_id_of_now(moved: list[bool]) -> None:
    """Among others of the id of now in the record, as a campaign requests while the ids move."""
    new = [f"t2-{n:032x}" for n in range(60)]
    new = [who for who in new if partition_of(who, PARTITIONS) == PARTITION]
    named = [OF_ONE[n] if old else new[n] for n, old in zip(range(len(moved)), moved, strict=False) if n < len(OF_ONE)]
    event = MessagesRequested(
        campaign_id="c1",
        sender_id="s",
        purpose=None,
        requested_at=NOW,
        send_before=NOW,
        requests=tuple(
            Request(message_id=f"019abcde-0000-8000-8000-{n:012x}", subject_id=who, number="n", text="t")
            for n, who in enumerate(named)
        ),
    )
    record = received_as(_record(event), event, ROTATED, PARTITIONS, CAMPAIGN_REQUESTS)
    found = read([record], PARTITIONS)
    current = [ROTATED.read(who) for who in named]
    homes = [partition_of(who, PARTITIONS) for who in current]
    assert [(c.subject_id, c.partition) for c in found.candidates.values()] == list(zip(current, homes, strict=True))
    assert found.partitions == {PARTITION, *homes}


class _Raw:
    def __init__(self, key: bytes) -> None:
        self.key, self.partition, self.offset, self.timestamp = key, PARTITION, 0, 0
        self.headers: list[tuple[str, bytes]] = []


def _record(event: Event) -> _Raw:
    return _Raw(event.key.encode())


@given(sizes=st.lists(st.sampled_from(SIZES), max_size=8), few=st.integers(0, 2 * REQUESTS_TOGETHER))
def test_an_event_holds_no_more_than_a_record_may(sizes: Sequence[int], few: int) -> None:
    texts = ["x" * size for size in sizes] + [""] * few
    asked = [Request(message_id=str(n), subject_id="s", number="n", text=text) for n, text in enumerate(texts)]
    cuts = list(cut(asked))
    assert [each for some in cuts for each in some] == asked
    for some in cuts:
        assert 1 <= len(some) <= REQUESTS_TOGETHER
        assert len(some) == 1 or sum(len(each.text) for each in some) <= EVENT_CHARS
