"""The answers of shards that stand for their service."""

from consent.rights.parts import whole


def test_a_service_has_answered_once_as_many_shards_have_as_one_count_says() -> None:
    assert whole({(1, ""): "all"}) == {"": "all"}
    assert whole({(2, "a"): "a", (2, "b"): "b"}) == {"a": "a", "b": "b"}
    assert whole({(2, "a"): "a", (2, "b"): "b", (3, "b"): "of three"}) == {"a": "a", "b": "b"}
    assert whole({(1, ""): "all", (2, "a"): "a"}) == {"": "all"}


def test_a_shard_that_answered_before_another_was_divided_is_not_waited_for() -> None:
    assert whole({(2, "a"): "a", (3, "b"): "b", (3, "c"): "c"}) == {"a": "a", "b": "b", "c": "c"}
    assert whole({(2, "a"): "a", (2, "b"): "former", (4, "b"): "b", (4, "c"): "c", (4, "d"): "d"})["b"] == "former"


def test_a_shard_counts_once_and_a_missing_one_is_waited_for() -> None:
    assert whole({}) == {}
    assert whole({(2, "a"): "a", (3, "b"): "b"}) == {}
    assert whole({(2, "b"): "former", (3, "b"): "b", (3, "c"): "c"}) == {}
    assert whole({(2, "b"): "former", (3, "a"): "a", (3, "b"): "b", (4, "c"): "c", (4, "d"): "d"})["b"] == "b"
