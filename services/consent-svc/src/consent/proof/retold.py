"""The chain of a person as one controller gets it. Pure.

The ledger has one chain of a person, for every controller. The subject id, each hash and the count of entries in that
chain would let two controllers join their proofs. So a receipt and a bundle stand on a chain of their own for each
person and controller: the entries of the controller's senders, and those about every sender, in the order of the
ledger, linked anew under the person's id with the controller. As the ledger only grows, that chain only grows: a
receipt once given is in every later bundle (ADR-0071).
"""

from collections.abc import Collection, Iterable
from operator import attrgetter

from msgspec.structs import replace

from common.sms.subject_id import InnerId
from consent.ledger.chain import GENESIS, Ended, Entry, digest, erased, evidence_id, holds, link


def retold(entries: Iterable[Entry], senders: Collection[str], who: str) -> list[Entry]:
    """Return the entries that concern a controller as a chain under `who`, the person's id with the controller.

    `entries`: the whole ledger of a person, in order. `senders`: those of the controller, at least all that the entries
    name. An entry about every sender comes without what is personal.
    """
    chain: list[Entry] = []
    renamed: dict[str, str] = {}
    before = GENESIS
    for entry in entries:
        if entry.evidence.sender_id is None:
            renamed[entry.evidence.evidence_id] = about_all(entry.evidence.evidence_id, who)
            told = _fact(entry, who)
        elif entry.evidence.sender_id in senders:
            told = entry
        else:
            continue
        said, answers = told.evidence, told.evidence.answers
        said = replace(said, evidence_id=renamed.get(said.evidence_id, said.evidence_id))
        said = replace(said, answers=renamed.get(answers, answers) if answers else None)
        position = len(chain) + 1
        before = link(who, position, said, told.recorded_at, told.sealed, before)
        chain.append(replace(told, subject_id=who, position=position, evidence=said, hash=before))
    return chain


def own(entries: Iterable[Entry], ended: Iterable[Ended], inner: InnerId) -> list[Entry]:
    """Return the ledger's own chain of a person, linked anew under the subject id, which the platform's operator sees.

    The ledger's hashes stand on the inner id, which is shown nowhere. An entry that does not hold in the ledger keeps
    the hash that is stored, and so holds in no bundle. `entries`, `ended`: the whole ledger of a person, in order.
    """
    chain: list[Entry] = []
    before = stored = GENESIS
    whole: list[Entry | Ended] = [*entries, *ended]
    for entry in sorted(whole, key=attrgetter("position")):
        if isinstance(entry, Ended):
            before = stored = entry.hash
            continue
        told = entry
        if _stands(entry, inner, stored):
            who, said = entry.subject_id, entry.evidence
            told = replace(entry, hash=link(who, entry.position, said, entry.recorded_at, entry.sealed, before))
        chain.append(told)
        before, stored = told.hash, entry.hash
    return chain


def _stands(entry: Entry, inner: InnerId, stored: str) -> bool:
    try:
        return holds(entry, entry.subject_id, inner, entry.position, stored)
    except (OverflowError, ValueError):
        return False  # an impossible instant


def about_all(evidence: str, who: str) -> str:
    """Return the name, for one controller, of an entry about every sender."""
    return evidence_id("about all", who, evidence)


def _fact(entry: Entry, who: str) -> Entry:
    """Return an entry about every sender without what is personal, and with a digest that no other controller sees."""
    return replace(erased(entry), sealed=digest(who, entry.sealed))
