"""The chain of a person as one controller gets it. Pure.

The ledger has one chain of a person, for every controller. The subject id, each hash and the count of entries in that
chain would let two controllers join their proofs. So a receipt and a bundle stand on a chain of their own for each
person and controller: the entries of the controller's senders, and those about every sender, in the order of the
ledger, linked anew under the person's id with the controller. As the ledger only grows, that chain only grows: a
receipt once given is in every later bundle (ADR-0071).
"""

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from consent.ledger.chain import GENESIS, Entry, digest, erased, evidence_id, link


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


def about_all(evidence: str, who: str) -> str:
    """Return the name, for one controller, of an entry about every sender."""
    return evidence_id("about all", who, evidence)


def _fact(entry: Entry, who: str) -> Entry:
    """Return an entry about every sender without what is personal, and with a digest that no other controller sees."""
    return replace(erased(entry), sealed=digest(who, entry.sealed))
