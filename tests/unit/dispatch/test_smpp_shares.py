"""How an operator's binds are shared between processes."""

from hypothesis import given
from hypothesis import strategies as st

from dispatch.gateways.by_smpp.shares import CODES_PART, Claim, granted, shares


def claim(holder: str, *, codes: bool = False, wants: int = 2, holds: int = 0) -> Claim:
    return Claim(holder, codes, wants, holds)


def test_a_process_alone_gets_what_it_wants() -> None:
    assert shares([claim("all", codes=True)], 2) == {"all": 2}


def test_of_two_binds_one_is_never_a_campaigns() -> None:
    assert shares([claim("worker")], 2) == {"worker": 1}
    assert shares([claim("worker"), claim("codes", codes=True)], 2) == {"worker": 1, "codes": 1}


def test_the_only_bind_is_for_codes() -> None:
    assert shares([claim("worker", wants=1)], 1) == {"worker": 1}
    assert shares([claim("worker", wants=1), claim("codes", codes=True, wants=1)], 1) == {"worker": 0, "codes": 1}


def test_processes_of_a_kind_share_alike_and_a_new_one_waits_where_there_are_too_few() -> None:
    four = [claim("old"), claim("codes", codes=True), claim("new")]
    assert shares(four, 4) == {"old": 2, "codes": 1, "new": 1}
    assert shares(four, 2) == {"old": 1, "codes": 1, "new": 0}


def test_a_bind_is_granted_once_its_holder_has_given_it_back() -> None:
    claims = [claim("old", codes=True, holds=2), claim("new", codes=True, holds=0)]
    assert (granted("old", claims, 2), granted("new", claims, 2)) == (1, 0)
    claims = [claim("old", codes=True, holds=1), claim("new", codes=True, holds=0)]
    assert granted("new", claims, 2) == 1
    assert granted("unknown", claims, 2) == 0


CLAIMS = st.lists(st.tuples(st.booleans(), st.integers(1, 5)), min_size=1, max_size=6).map(
    lambda drawn: [Claim(str(at), codes, wants, 0) for at, (codes, wants) in enumerate(drawn)]
)


@given(CLAIMS, st.integers(1, 12))
def test_no_bind_is_shared_out_twice_and_a_part_is_kept_for_codes(claims: list[Claim], allowed: int) -> None:
    given = shares(claims, allowed)
    assert sum(given.values()) <= allowed
    assert all(0 <= given[each.holder] <= each.wants for each in claims)
    campaigns = sum(given[each.holder] for each in claims if not each.codes)
    if allowed > 1:
        assert campaigns <= allowed - max(1, allowed // CODES_PART)
    if any(each.codes for each in claims):
        assert any(given[each.holder] for each in claims if each.codes)
    alike = [given[each.holder] for each in claims if each.wants == 5 and not each.codes]
    assert not alike or max(alike) - min(alike) <= 1


@given(CLAIMS, st.integers(1, 12), st.lists(st.integers(0, 5), max_size=40))
def test_processes_that_take_and_leave_in_any_order_never_hold_too_many(
    claims: list[Claim], allowed: int, turns: list[int]
) -> None:
    """Each turn one process renews: it takes at once, and leaves what it may no longer hold by its next turn."""
    for turn in turns:
        at = turn % len(claims)
        may = granted(claims[at].holder, claims, allowed)
        claims = [each._replace(holds=may) if n == at else each for n, each in enumerate(claims)]
        assert sum(each.holds for each in claims) <= allowed
