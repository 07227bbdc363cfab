"""The demo waits as long as something moves, and no longer."""

from stack.calling import STANDSTILL_S, Patience


def test_a_run_that_gets_on_is_waited_for_however_long_it_takes() -> None:
    patience = Patience()
    assert not any(patience.ends(("running", step), step * STANDSTILL_S) for step in range(100))


def test_a_run_that_stands_still_is_given_up_after_a_while_and_not_before() -> None:
    patience = Patience()
    assert not patience.ends(0, 1000.0)
    assert not patience.ends(7, 1000.0 + STANDSTILL_S)
    assert not patience.ends(7, 1000.0 + 2 * STANDSTILL_S)
    assert patience.ends(7, 1000.1 + 2 * STANDSTILL_S)
