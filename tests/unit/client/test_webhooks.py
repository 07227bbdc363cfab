"""Standard Webhooks: the vector of its reference implementations, and each way to be no genuine webhook."""

from datetime import UTC, datetime, timedelta

import pytest

from placet_client.webhooks import NotGenuine, sign, verify

# standardwebhooks.com: the vector in the tests of each library of the specification
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1614265330, UTC)
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"webhook-id": ID, "webhook-timestamp": "1614265330", "webhook-signature": SIGNATURE}
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def test_the_vector_of_the_specification_is_genuine_and_signed_the_same() -> None:
    found = verify(BODY, HEADERS, SECRET, now=AT)
    assert (found.id, found.sent_at, found.body) == (ID, AT, {"test": 2432232314})
    assert "2432232314" not in repr(found), "a body may hold a person's data"
    assert sign(BODY, ID, AT, SECRET) == HEADERS


def test_the_names_of_headers_are_read_in_any_case_and_the_secret_without_its_prefix() -> None:
    assert verify(BODY, {k.title(): v for k, v in HEADERS.items()}, SECRET.removeprefix("whsec_"), now=AT).id == ID


def test_a_rotation_accepts_any_signature_by_any_secret() -> None:
    old, new = sign(BODY, ID, AT, OTHER)["webhook-signature"], SIGNATURE
    both = HEADERS | {"webhook-signature": f"v1a,bogus {old} {new} v2,x"}
    assert verify(BODY, both, SECRET, now=AT).id == ID
    assert verify(BODY, both, OTHER, now=AT).id == ID
    assert verify(BODY, HEADERS, [OTHER, SECRET], now=AT).id == ID


@pytest.mark.parametrize("late", [timedelta(minutes=5), timedelta(minutes=-5)])
def test_five_minutes_are_tolerated_and_no_second_more(late: timedelta) -> None:
    assert verify(BODY, HEADERS, SECRET, now=AT + late)
    with pytest.raises(NotGenuine, match="timestamp"):
        verify(
            BODY,
            HEADERS,
            SECRET,
            now=AT + late + (timedelta(seconds=1) if late > timedelta() else -timedelta(seconds=1)),
        )


@pytest.mark.parametrize(
    ("body", "headers", "secrets", "why"),
    [
        (b'{"test": 2432232315}', HEADERS, SECRET, "no signature matches"),
        (BODY, HEADERS, OTHER, "no signature matches"),
        (BODY, HEADERS | {"webhook-id": "msg_other"}, SECRET, "no signature matches"),
        (BODY, HEADERS | {"webhook-signature": SIGNATURE.removeprefix("v1,")}, SECRET, "no signature matches"),
        (BODY, HEADERS | {"webhook-signature": SIGNATURE.replace("v1,", "v2,")}, SECRET, "no signature matches"),
        (BODY, HEADERS | {"webhook-signature": "v1,é"}, SECRET, "no signature matches"),
        (BODY, HEADERS | {"webhook-signature": ""}, SECRET, "no signature matches"),
        (BODY, HEADERS | {"webhook-timestamp": "1614265330.0"}, SECRET, "number of seconds"),
        (BODY, HEADERS | {"webhook-timestamp": "-1614265330"}, SECRET, "number of seconds"),
        (BODY, HEADERS | {"webhook-timestamp": "9" * 30}, SECRET, "number of seconds"),
        (BODY, {"webhook-id": ID, "webhook-timestamp": "1614265330"}, SECRET, "webhook-signature"),
        (BODY, HEADERS, [], "no secret"),
        (BODY, HEADERS, "whsec_", "empty"),
        (BODY, HEADERS, "whsec_é", "base64"),
    ],
)
def test_what_is_not_genuine_is_refused(
    body: bytes, headers: dict[str, str], secrets: str | list[str], why: str
) -> None:
    with pytest.raises(NotGenuine, match=why):
        verify(body, headers, secrets, now=AT)


def test_a_genuine_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(NotGenuine, match="not JSON"):
        verify(b"x", sign(b"x", ID, AT, SECRET), SECRET, now=AT)
