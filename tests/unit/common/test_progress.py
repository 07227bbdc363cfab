"""Which partitions count as read on. Time is a number here."""

from common.kafka.reading.progress import RENEW_S, RETRY_S, Progress


def dealt(*partitions: int) -> Progress:
    progress = Progress()
    progress.dealing(0)
    progress.dealt(partitions, 0)
    return progress


def test_an_answer_that_nothing_follows_is_read_on_and_no_answer_is_not() -> None:
    progress = dealt(0)
    progress.seen(0, position=5, end=5, answer=1, now=10)
    assert progress.stalled_s(10) == 0
    progress.seen(0, position=5, end=5, answer=2, now=20)
    assert progress.stalled_s(20) == 0
    progress.seen(0, position=5, end=5, answer=2, now=30)
    assert progress.stalled_s(30) == 10


def test_an_answer_that_more_follows_is_not_read_on_until_the_position_moves() -> None:
    progress = dealt(0)
    progress.seen(0, position=5, end=9, answer=1, now=1)
    progress.seen(0, position=5, end=9, answer=2, now=20)
    assert progress.stalls(10, 20) == ["partition 0 stands at offset 5 since 19 s (no error)"]
    progress.seen(0, position=6, end=9, answer=2, now=21)
    assert progress.stalls(10, 21) == []


def test_a_producer_that_does_not_end_its_transaction_is_a_stall_with_its_reason() -> None:
    progress = dealt(0)
    progress.seen(0, position=5, end=9, answer=1, now=1, waits=True)
    progress.seen(0, position=5, end=9, answer=2, now=20, waits=True)
    [line] = progress.stalls(10, 20)
    assert line == "partition 0 stands at offset 5 since 19 s (a producer has not ended its transaction)"
    progress.seen(0, position=10, end=10, answer=3, now=21)
    assert progress.stalls(10, 40) == ["partition 0 stands at offset 10 since 19 s (no error)"]


def test_what_is_handled_or_waits_on_purpose_begins_anew_but_not_what_cannot_be_read() -> None:
    progress = dealt(0, 1)
    progress.failed(1, "CorruptRecordException", 7, now=1)
    for partition in (0, 1):
        progress.busy(partition, 60)
    assert progress.stalls(10, 60) == ["partition 1 stands at offset 7 since 60 s (CorruptRecordException)"]


def test_a_group_that_does_not_form_and_a_client_made_anew_forgive_nothing() -> None:
    progress = dealt(0, 1)
    progress.trouble("GroupAuthorizationFailedError", 1)
    progress.dealing(20)
    assert progress.stalls(10, 40)[0] == "no partitions have been dealt out for 20 s (GroupAuthorizationFailedError)"
    progress.dealt([0], 40)
    assert [line[:11] for line in progress.stalls(10, 41)] == ["partition 0"]
    progress.seen(0, position=0, end=0, answer=9, now=41)
    assert progress.stalls(0, 41) == []


def test_the_client_is_made_anew_only_where_no_partition_was_heard_of() -> None:
    progress = dealt(0, 1)
    late = RENEW_S + 2
    progress.failed(0, "TopicAuthorizationFailedError", 0, now=1)
    progress.seen(1, position=0, end=0, answer=1, now=late)
    assert not progress.is_silent(late)
    assert progress.is_silent(late + RENEW_S + 1)


def test_what_precedes_a_bad_record_is_read_at_once_and_the_record_again_more_and_more_rarely() -> None:
    progress = dealt(0)
    assert not progress.is_careful(1)
    rests = [progress.failed(0, "CorruptRecordException", 0, now) for now in range(8)]
    assert rests == [0, 1, 2, 4, 8, RETRY_S, RETRY_S, RETRY_S]
    assert progress.is_careful(1_000)
    progress.seen(0, position=1, end=1, answer=1, now=1_001)
    assert not progress.is_careful(1_001)


def test_of_a_partition_that_went_to_another_process_during_a_read_nothing_is_expected() -> None:
    progress = Progress()
    progress.dealt({0, 1}, 0.0)
    progress.dealt({0}, 1.0)
    progress.seen(1, 29, 29, 7, 1.5)  # read before the rebalance
    progress.seen(0, 5, 5, 7, 100.0)
    assert progress.stalls(10.0, 100.0) == []
    assert progress.stalled_s(100.0) == 0.0
