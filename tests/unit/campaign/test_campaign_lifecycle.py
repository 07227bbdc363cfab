"""Every status against every action: where it leads, what the gate is told, or that it is not possible."""

import pytest

from campaign.lifecycle import Action, NotPossible, Status, Step, step

D, S, R, P, F, C = Status  # in the order of their lives
LEADS_TO: dict[Action, dict[Status, Step]] = {
    Action.SCHEDULE: {D: Step(S), S: Step(S)},
    Action.START: {S: Step(R, "running")},
    Action.PAUSE: {R: Step(P, "paused"), P: Step(P)},
    Action.RESUME: {P: Step(R, "running"), R: Step(R)},
    Action.CANCEL: {
        D: Step(C, "cancelled"),
        S: Step(C, "cancelled"),
        R: Step(C, "cancelled"),
        P: Step(C, "cancelled"),
        C: Step(C),
    },
    Action.FINISH: {R: Step(F), P: Step(F)},
}


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("status", Status)
def test_every_action_on_every_status(status: Status, action: Action) -> None:
    expected = LEADS_TO[action].get(status)
    if expected is not None:
        assert step(status, action) == expected
        return
    with pytest.raises(NotPossible) as refused:
        step(status, action)
    assert (refused.value.status, refused.value.action) == (status, action)


@pytest.mark.parametrize("status", [Status.FINISHED, Status.CANCELLED])
def test_nothing_leads_out_of_the_end(status: Status) -> None:
    for action in Action:
        try:
            assert step(status, action) == Step(status)
        except NotPossible:
            continue


def test_asking_again_for_what_is_so_tells_the_gate_nothing() -> None:
    for status in Status:
        for action in Action:
            try:
                found = step(status, action)
            except NotPossible:
                continue
            assert found.control is None or found.status is not status
