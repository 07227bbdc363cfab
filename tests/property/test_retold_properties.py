"""The chain of a person as each controller gets it: checkable by itself, and of no use to another controller."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consent.ledger import rules as ledger
from consent.ledger.chain import Entry, erased
from consent.ledger.rules import Evidence
from consent.proof.bundle import check
from consent.proof.retold import retold
from tests.property.test_ledger_properties import CONTROLLERS, SENDERS, histories
from tests.support.builders import shown
from tests.unit.consent.bundles import bundle_of, chain_of, published, subject_line

GROUP, INITECH = "group", "initech"
OF = {c: frozenset(s for s in SENDERS if CONTROLLERS[s] == c) for c in (GROUP, INITECH)}


def named(said: list[Evidence]) -> list[Evidence]:
    """The recorder takes an id once."""
    return [replace(evidence, evidence_id=f"ev-{place}") for place, evidence in enumerate(said)]


def told(entries: list[Entry], controller: str) -> list[Entry]:
    return retold(entries, OF[controller], shown(1, controller))


def traces(chain: list[Entry]) -> set[str]:
    """Whatever two files could be joined by."""
    return {
        trace for e in chain for trace in (e.subject_id, e.hash, e.sealed, e.salt or e.hash, e.evidence.evidence_id)
    }


@given(histories)
def test_two_controllers_proofs_of_one_person_share_no_id_no_hash_and_no_digest(said: list[Evidence]) -> None:
    entries = chain_of(named(said))
    ours, theirs = traces(told(entries, GROUP)), traces(told(entries, INITECH))
    assert ours.isdisjoint(theirs)
    shared = traces([e for e in entries if e.evidence.sender_id is None]) | {e.hash for e in entries}
    assert (ours | theirs).isdisjoint(shared), "nor do they show what the ledger has for all"


@given(histories, st.sampled_from((GROUP, INITECH)))
def test_the_chain_of_a_controller_holds_and_amounts_to_what_the_ledger_says_of_its_senders(
    said: list[Evidence], controller: str
) -> None:
    entries = chain_of(named(said))
    chain = told(entries, controller)
    report = check(
        bundle_of(subject_line(chain, subject_id=shown(1, controller)), chain).splitlines(keepends=True), published
    )
    assert report.problems == []
    assert len(chain) == sum(e.evidence.sender_id in {None, *OF[controller]} for e in entries)
    whole, own = (ledger.fold(e.evidence for e in each) for each in (entries, chain))
    meant = [replace(c, evidence_id="") for c in ledger.consents(whole) if c.sender_id in OF[controller]]
    assert [replace(c, evidence_id="") for c in ledger.consents(own)] == meant


@given(histories, st.integers(0, 12), st.sampled_from((GROUP, INITECH)))
def test_a_chain_only_grows_and_an_erasure_leaves_it_as_it_was(
    said: list[Evidence], known: int, controller: str
) -> None:
    """A receipt given today is in every later bundle."""
    entries = chain_of(named(said))
    before, after = told(entries[:known], controller), told([erased(e) for e in entries], controller)
    assert [e.hash for e in before] == [e.hash for e in after][: len(before)]
    assert [e.evidence.evidence_id for e in before] == [e.evidence.evidence_id for e in after][: len(before)]


@given(histories)
def test_a_line_about_every_sender_comes_without_words(said: list[Evidence]) -> None:
    entries = chain_of([replace(e, actor="agent-12", text_shown="Non", reference="crm/1") for e in named(said)])
    of_all = [e for e in told(entries, GROUP) if e.evidence.sender_id is None]
    assert all(
        e.erased and (e.evidence.actor, e.evidence.text_shown, e.evidence.reference) == (None,) * 3 for e in of_all
    )
