"""What a gateway's answer makes of a message, and of one that it may have had before."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from dispatch.gate.candidate import Permit, requested
from dispatch.gateways import Misconfigured, Refused, Result, SendError, Throttled, Unanswered, Unreachable
from dispatch.messages.reasons import Reason
from dispatch.messages.row import Outcome
from dispatch.messages.status import Status
from dispatch.sending.outcomes import KEPT_CHARS, HandedOff, answered, is_a_second
from tests.support import builders
from tests.support.ledger import message

PERMIT = Permit(
    requested(builders.requested(1), 0), builders.number(1), "Offre", "MAISONLUNE", "36111", "telnyx", 0.0, message()
)
BECOMES: dict[SendError, tuple[str, tuple[Reason, ...]]] = {
    Throttled(1.0): ("deferred", (Reason.GATEWAY_THROTTLED,)),
    Unreachable("nobody there"): ("deferred", (Reason.GATEWAY_UNREACHABLE,)),
    Misconfigured("40001"): ("deferred", (Reason.GATEWAY_NEEDS_SOMEBODY,)),
    Refused("http_422"): ("rejected", ()),
    Unanswered("silence"): ("unknown", ()),
}


def _answered(permit: Permit, answer: Result | SendError) -> Outcome:
    return answered(permit, answer, builders.now(), builders.now(), echoes_reference=False)


@pytest.mark.parametrize("error", BECOMES, ids=lambda error: type(error).__name__)
def test_what_failed_is_tried_again_is_final_or_is_not_known(error: SendError) -> None:
    row = _answered(PERMIT, error)
    assert (row.status, row.reasons) == BECOMES[error]


OUT = Result("rejected", None, "40300", opted_out=True)


@pytest.mark.parametrize("said", [*BECOMES, OUT], ids=lambda said: type(said).__name__)
def test_whatever_is_said_of_a_repeat_the_first_may_have_arrived(said: SendError | Result) -> None:
    row = _answered(msgspec.structs.replace(PERMIT, again=True), said)
    assert (row.status, row.reasons, row.code) == ("unknown", (), None)
    assert row.opted_out == (said is OUT), "who is out with the provider is out"


TAKEN = _answered(PERMIT, Result("accepted", "SM1", None))
THEN = builders.now() - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("known", "second"),
    [
        ({}, False),
        ({"gateway_message_id": None}, False),
        ({"gateway_message_id": "SM2"}, True),
        ({"gateway_message_id": "SM2", "handed_off_at": TAKEN.handed_off_at}, False),  # by a receipt of a part
        ({"gateway": "twilio"}, True),
        ({"status": Status.REJECTED}, True),
        ({"status": Status.DENIED}, True),
    ],
)
def test_what_is_accepted_besides_what_its_row_has_left_twice(known: dict[str, Any], second: bool) -> None:
    row = HandedOff(TAKEN.message_id, Status.ACCEPTED, "telnyx", "SM1", THEN)._replace(**known)
    assert is_a_second(TAKEN, row, idempotent=True) == second
    assert is_a_second(TAKEN, row, idempotent=False) == (row.handed_off_at == THEN), "whatever it is called"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("SM\x001", "SM 1"),
        ("SM\ud83d", "SM "),
        ("S" * (KEPT_CHARS + 1), "S" * KEPT_CHARS),
        ("Solde insuffisant\u00a0: 12", "Solde insuffisant : 12"),
    ],
)
def test_an_id_that_the_ledger_cannot_take_is_none_and_of_a_code_it_takes_what_it_can(said: str, kept: str) -> None:
    taken = _answered(PERMIT, Result("accepted", said, None))
    assert (taken.status, taken.gateway_message_id, taken.known_as) == ("accepted", None, None)
    for answer in (Result("rejected", None, said), Refused(said)):
        refused = _answered(PERMIT, answer)
        assert (refused.status, refused.code) == ("rejected", kept)


def test_one_that_it_can_take_is_kept_as_it_is() -> None:
    row = _answered(PERMIT, Result("accepted", "S" * KEPT_CHARS, "40 001"))
    assert (row.gateway_message_id, row.known_as, row.code) == ("S" * KEPT_CHARS, "S" * KEPT_CHARS, "40 001")
