"""A schedule of faults is its seed's, and leaves nothing out."""

from chaos.schedule import LASTS_S, Possible, schedule

POSSIBLE = [Possible("kill", "dispatch-worker"), Possible("cut", "consent to the broker"), Possible("replay", "topics")]


def test_the_same_seed_is_the_same_schedule_and_another_is_another() -> None:
    assert schedule(7, POSSIBLE, 30) == schedule(7, POSSIBLE, 30)
    assert schedule(7, POSSIBLE, 30) != schedule(8, POSSIBLE, 30)
    assert schedule(7, POSSIBLE, 5) == schedule(7, POSSIBLE, 30)[:5], "a shorter run is the beginning of a longer one"


def test_everything_comes_once_before_anything_comes_twice() -> None:
    planned = schedule(7, POSSIBLE, 7)
    for turn in (planned[:3], planned[3:6]):
        assert {(each.kind, each.target) for each in turn} == {(each.kind, each.target) for each in POSSIBLE}


def test_each_lasts_as_its_kind_does() -> None:
    for each in schedule(7, POSSIBLE, 100):
        least, most = LASTS_S.get(each.kind, (0.0, 0.0))
        assert least <= each.lasts_s <= most
