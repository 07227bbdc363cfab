"""Our bytes of fetches beside aiokafka's own: the same requests, the same answers, the same refusals."""

from io import BytesIO

import pytest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v10, FetchRequest_v11, FetchResponse_v11
from hypothesis import example, given
from hypothesis import strategies as st

from common.kafka import fetching

INT16, INT32, INT64 = (st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (16, 32, 64))
NAMES = st.text(max_size=30)

wanted = st.tuples(INT32, INT32, INT64, INT64, INT32)
requests = st.tuples(
    INT32,
    INT32,
    INT32,
    INT32,
    st.integers(0, 1),
    INT32,
    INT32,
    st.lists(st.tuples(NAMES, st.lists(wanted, max_size=14)), max_size=3),
    st.just([]),
    NAMES,
)
aborted = st.none() | st.lists(st.tuples(INT64, INT64), max_size=3)
brought = st.tuples(INT32, INT16, INT64, INT64, INT64, aborted, INT32, st.none() | st.binary(max_size=200))
answers = st.tuples(INT32, INT16, INT32, st.lists(st.tuples(NAMES, st.lists(brought, max_size=14)), max_size=3))


@given(requests)
def test_a_request_has_the_bytes_of_aiokafka(values: tuple[object, ...]) -> None:
    assert fetching.Fetch(*values).encode() == FetchRequest_v11(*values).encode()


@given(INT32, NAMES)
def test_a_header_has_the_bytes_of_aiokafka(correlation_id: int, client_id: str) -> None:
    of_both = [
        kind(max_wait_time=1).build_request_header(correlation_id, client_id).encode()
        for kind in (fetching.Fetch, FetchRequest_v11)
    ]
    assert of_both[0] == of_both[1]


@given(INT32, answers)
def test_an_answer_is_read_as_by_aiokafka(correlation_id: int, values: tuple[object, ...]) -> None:
    content = correlation_id.to_bytes(4, "big", signed=True) + FetchResponse_v11(*values).encode()
    found = []
    for kind in (fetching.Fetch, FetchRequest_v11):
        buffer, request = BytesIO(content), kind(max_wait_time=1)
        header = request.parse_response_header(buffer)
        assert header.correlation_id == correlation_id
        found.append(request.RESPONSE_TYPE.decode(buffer))
    ours, theirs = found
    assert ours == theirs
    assert ours.topics == theirs.topics
    assert ours.API_VERSION == theirs.API_VERSION


@given(answers)
@example((0, 0, 0, [("a.topic", [(0, 0, 9, 9, 0, [(7, 8)], -1, b"some records")])]))
def test_an_answer_with_too_few_bytes_is_refused(values: tuple[object, ...]) -> None:
    content = FetchResponse_v11(*values).encode()
    for cut in range(max(0, len(content) - 60), len(content)):
        for kind in (fetching.FetchResponse, FetchResponse_v11):
            with pytest.raises(ValueError, match=r"short|attempting to convert|underrun"):
                kind.decode(BytesIO(content[:cut]))


def test_the_consumers_of_a_process_fetch_by_our_bytes_where_the_broker_knows_the_version() -> None:
    fetching.hasten()
    fetching.hasten()
    request = FetchRequest(500, 1, 1 << 20, 1, [("a.topic", [(0, 7, 1 << 18)])])
    assert type(request.prepare({1: (4, 17)})) is fetching.Fetch
    assert type(request.prepare({1: (4, 10)})) is FetchRequest_v10
    assert sum(issubclass(each, FetchRequest_v11) for each in FetchRequest._CLASSES) == 1
