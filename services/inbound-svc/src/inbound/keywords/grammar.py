"""Weigh the words around a STOP: who says stop, to whom, about what. Pure; the parts of speech are data (`speech-1`).

    another    "ma sœur vous a dit stop"           a STOP of another person
    regret     "j'ai envoyé STOP par erreur"       a STOP that the person takes back
    question   "si je réponds stop, je perds quoi ?"
    life       "au prochain arrêt de bus"          the word speaks of an order, a bus, an illness, and not of our texts

A turn never loosens: the classifier makes a review of a STOP that is another's, regretted or asked about, and nothing
of a doubt only where a clause speaks of life.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.contracts.inbound import Concern
from inbound.keywords.lists import Phrase, Words

Clause = Sequence[str]
Hit = tuple[Clause, int, Phrase]  # with the index of the phrase's first word
Turn = Literal["another", "regret", "question", "life"]

# by the kind of its phrases; an earlier right decides
RIGHTS: tuple[tuple[str, Concern], ...] = (
    ("erasure_phrases", "erasure"),
    ("access_phrases", "access"),
    ("source_phrases", "source"),
    ("wrong_number_phrases", "wrong_number"),
    ("return_phrases", "return"),
)
REACH = 8  # words from "stop" to the brands it names
NEAR = 1  # clauses between "par erreur" and the STOP it regrets


@dataclass(frozen=True, slots=True)
class Said:
    """A clause with its phrases, and the punctuation that ends it."""

    clause: Clause
    hits: Sequence[Hit]
    mark: str

    def has(self, kind: str) -> bool:
        return any(phrase.kind == kind for *_, phrase in self.hits)

    @property
    def question(self) -> bool:
        return "?" in self.mark


def turn(said: Sequence[Said], place: int, known: Words) -> Turn | None:
    """Return what the words around the STOP of clause `place` make of the STOP."""
    here = said[place]
    if regretted(said, known):
        return "regret"
    if of_another(here.clause, known):
        return "another"
    if here.question and here.has("asks"):
        return "question"
    return "life" if about_life(here, known) else None


def regretted(said: Sequence[Said], known: Words) -> bool:
    """Return whether the text takes a STOP back.

    A mistake of the sender ("inscrite par erreur, STOP") is no regret: the words of enrolment tell.
    """
    for place, each in enumerate(said):
        if each.has("regrets"):
            return True
        if (each.has("mistakes") or each.has("return_phrases")) and known.enrolled.isdisjoint(each.clause):
            near = [word for other in said[max(0, place - NEAR) : place + NEAR + 1] for word in other.clause]
            if not known.says.isdisjoint(near) and any(word in known.stop_first for word in near):
                return True
    return False


def of_another(clause: Clause, known: Words) -> bool:
    """Return whether another person says the STOP: "mon mari a écrit stop", and not "mon mari et moi"."""
    last = max((place for place, word in enumerate(clause) if word in known.says), default=None)
    if last is None or known.others.isdisjoint(clause):
        return False
    writer = [place for place, word in enumerate(clause[:last]) if word in known.selves]
    return all(place > 0 and clause[place - 1] in known.negations_after for place in writer)


def about_life(said: Said, known: Words) -> bool:
    """Return whether the clause speaks of everyday things, and not of messages."""
    return said.has("everyday") and known.traffic.isdisjoint(said.clause)


def everyone(clause: Clause, known: Words) -> str | None:
    """Return the file of the rule by which a STOP names every brand: "stop toutes vos marques"."""
    for place, word in enumerate(clause):
        for rule, file in known.everyone.get(word, ()):
            after = iter(clause[place + 1 : place + 1 + REACH])
            told = all(any(word in group for word in after) for group in rule.groups[1:])
            if told and rule.unless.isdisjoint(clause):
                return file
    return None


def erasure(said: Said, known: Words) -> Literal["certain", "perhaps"] | None:
    """Return whether the clause asks to erase the writer's data.

    "Effacez mes données" does; "avez-vous effacé mes données ?" and "supprimez mon compte" perhaps.
    """
    words = said.clause
    if known.erasers.isdisjoint(words) or known.mine.isdisjoint(words):
        return None
    negated = any(word in words for word in known.refusing)
    if not known.personal.isdisjoint(words):
        return "perhaps" if said.question or negated or not known.reports.isdisjoint(words) else "certain"
    return None if known.records.isdisjoint(words) else "perhaps"


def right(said: Sequence[Said]) -> tuple[str, Concern] | None:
    """Return the right that the text asks for, with the file of its phrase."""
    for kind, concern in RIGHTS:
        for each in said:
            for *_, phrase in each.hits:
                if phrase.kind == kind:
                    return phrase.file, concern
    return None
