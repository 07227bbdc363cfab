"""Every status against every action: where it leads, what the gate is told, or that it is not possible."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from campaign.schedule.lifecycle import EVER, Action, NotPossible, Status, Step, ends_by, message_of, step
from common.sms.subject_id import InnerId

START = datetime(2026, 11, 24, 9, tzinfo=UTC)

D, S, R, P, F, C = Status  # in the order of their lives
LEADS_TO: dict[Action, dict[Status, Step]] = {
    Action.EDIT: {D: Step(D), S: Step(D)},
    Action.SCHEDULE: {D: Step(S), S: Step(S)},
    Action.START: {S: Step(R, "running")},
    Action.PAUSE: {S: Step(P, "paused"), R: Step(P, "paused"), P: Step(P)},
    Action.RESUME: {S: Step(S), P: Step(R, "running"), R: Step(R)},
    Action.CANCEL: {
        D: Step(C, "cancelled"),
        S: Step(C, "cancelled"),
        R: Step(C, "cancelled"),
        P: Step(C, "cancelled"),
        C: Step(C),
    },
    Action.FINISH: {S: Step(F), R: Step(F), P: Step(F)},
    Action.ARCHIVE: {D: Step(D), F: Step(F), C: Step(C)},
}

# of what was paused before its start: the gate hears `running` when it starts
UNBEGUN = {Action.EDIT: Step(D), Action.SCHEDULE: Step(S), Action.RESUME: Step(S)}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("status", Status)
def test_every_action_on_every_status(status: Status, action: Action, begun: bool) -> None:
    expected = LEADS_TO[action].get(status)
    if status is P and not begun:
        expected = UNBEGUN.get(action, expected)
    if expected is not None:
        assert step(status, action, begun=begun) == expected
        return
    with pytest.raises(NotPossible) as refused:
        step(status, action, begun=begun)
    assert (refused.value.status, refused.value.action) == (status, action)


@pytest.mark.parametrize("status", [Status.FINISHED, Status.CANCELLED])
def test_nothing_leads_out_of_the_end(status: Status) -> None:
    for action in Action:
        try:
            assert step(status, action, begun=True) == step(status, action, begun=False) == Step(status)
        except NotPossible:
            continue


@pytest.mark.parametrize("begun", [True, False])
def test_asking_again_for_what_is_so_tells_the_gate_nothing(begun: bool) -> None:
    for status in Status:
        for action in Action:
            try:
                found = step(status, action, begun=begun)
            except NotPossible:
                continue
            assert found.control is None or found.status is not status


def test_a_message_id_is_the_same_whoever_derives_it() -> None:
    one = message_of("cmp-1", START, InnerId("s1-a"))
    assert one == message_of("cmp-1", START, InnerId("s1-a"))
    assert len({one, message_of("cmp-2", START, InnerId("s1-a")), message_of("cmp-1", START, InnerId("s1-b"))}) == 3
    assert UUID(one).version == 8


def test_without_an_end_of_its_own_a_campaign_ends_after_three_days() -> None:
    assert ends_by(START, None) == START + timedelta(days=3)
    assert ends_by(START, START + timedelta(hours=1)) == START + timedelta(hours=1)
    assert ends_by(EVER - timedelta(days=2), None) == EVER
