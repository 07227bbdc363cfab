"""The ids by which controllers know people: two of them share none, and each is read back by its own controller."""

from hypothesis import given
from hypothesis import strategies as st

from common.settings import SubjectRingSettings
from common.sms.subject_id import is_subject_id
from common.web.edge_id import EdgeIds
from tests.support.builders import edge_ids, subject
from tests.support.running import SUBJECT_RING

people = st.integers(0, 9999).map(subject)
controllers = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable())
two = st.lists(controllers, min_size=2, max_size=2, unique=True)


@given(st.sets(people, min_size=1, max_size=20), two)
def test_exports_of_two_controllers_about_the_same_people_share_no_id(whom: set[str], both: list[str]) -> None:
    ours, theirs = ({edge_ids.of(controller).shown(one) for one in whom} for controller in both)
    assert len(ours) == len(theirs) == len(whom)
    assert ours.isdisjoint(theirs)
    assert not any(one.rpartition("-")[2] in shown for one in whom for shown in ours | theirs)


@given(people, two)
def test_an_id_is_read_back_by_its_controller_and_refused_to_another(one: str, both: list[str]) -> None:
    ours, theirs = map(edge_ids.of, both)
    assert ours.subject_id(ours.shown(one)) == one
    assert theirs.subject_id(ours.shown(one)) is None
    assert not is_subject_id(ours.shown(one)), "no reader takes the one for the other"
    assert ours.subject_id(one) is None


@given(people, controllers)
def test_every_service_and_every_start_derives_the_same_ids(one: str, controller: str) -> None:
    elsewhere = EdgeIds(SubjectRingSettings.model_validate(SUBJECT_RING))
    assert elsewhere.of(controller).shown(one) == edge_ids.of(controller).shown(one)


@given(people, st.integers(0, 67), st.characters())
def test_a_damaged_id_is_nobodys(one: str, place: int, other: str) -> None:
    ids = edge_ids.of("acme")
    shown = ids.shown(one)
    damaged = shown[:place] + other + shown[place + 1 :]
    assert ids.subject_id(damaged) == (one if damaged == shown else None)


def test_an_id_once_shown_is_the_id_for_ever() -> None:
    """Callers have stored the ids: a change of the derivation would make each person a stranger."""
    assert (
        edge_ids.of("acme").shown(subject(1)) == "sub_1d56c32c62bf7654cf283d0db121e6bbbc14860e496add31b13b82d0048b5174"
    )
