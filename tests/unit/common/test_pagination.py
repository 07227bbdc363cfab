"""A cursor is a key that a page gave; any other is refused in one way, whatever the list."""

import base64
from datetime import UTC, datetime

import pytest

from common.web.pagination import next_of, position
from common.web.problems import Invalid, Reason

AT = datetime(2026, 3, 2, 13, 5, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (0, int),
        (2**63 - 1, int),
        ("t1-ab", str),
        ("~ é?", str),
        ((AT, "t1-ab", "promotions"), tuple[datetime, str, str]),
    ],
)
def test_a_page_begins_behind_the_last_row_of_the_page_before(key: object, kind: type[object]) -> None:
    cursor = next_of(["first", "last"], 2, lambda row: key if row == "last" else None)
    assert cursor is not None
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum(), "a query needs no escapes for it"
    assert position(cursor, kind) == key


def test_behind_the_last_page_and_before_the_first_there_is_no_cursor() -> None:
    assert next_of(["row"], 2, len) is None
    assert position(None, int) is None
    assert position("", int) is None


def written(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("cursor", "kind"),
    [
        ("7", int),
        ("é", int),
        ("MQ MQ", int),
        (written("-1"), int),
        (written(str(2**63)), int),
        (written('"7"'), int),
        (written("true"), int),
        (written("7"), str),
        (written('"a\\u0000b"'), str),
        (written('["2026-03-02T13:05:00", "a", "b"]'), tuple[datetime, str, str]),
        (written('["0001-01-01T00:00:00+23:59", "a", "b"]'), tuple[datetime, str, str]),
        (written('["2026-03-02T13:05:00Z", "a"]'), tuple[datetime, str, str]),
        (written('["2026-03-02T13:05:00Z", "a", "\\u0000"]'), tuple[datetime, str, str]),
    ],
)
def test_a_cursor_that_no_page_of_the_list_gave_is_refused(cursor: str, kind: type[object]) -> None:
    with pytest.raises(Invalid) as refused:
        position(cursor, kind)
    assert refused.value.reasons == (Reason("cursor", "not_valid"),)
