"""Weigh the words around a STOP: who says stop, to whom, about what. Pure; the parts of speech are data (`speech-1`).

    another    "ma sœur vous a dit stop"           a STOP of another person
    regret     "j'ai envoyé STOP par erreur"       a STOP that the person takes back
    question   "si je réponds stop, je perds quoi ?"
    life       "au prochain arrêt de bus"          the word speaks of an order, a bus, an illness, and not of our texts

A turn never loosens: the classifier makes a review of a STOP that is another's, regretted or asked about, and nothing
of a doubt only where a clause speaks of life.
"""

from collections.abc import Sequence, Set
from typing import Literal

import msgspec

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
OF_RIGHTS = frozenset([kind for kind, _ in RIGHTS])
REACH = 8  # words from "stop" to the brands it names
VOCATIVE_WORDS = 3  # "coucou maman,"
THING_REACH = 4  # words from a phrase to its thing
SENTENCE_WORDS = 2  # before the "je" of another sentence
NEAR = 1  # clauses between "par erreur" and the STOP it regrets


class Said(msgspec.Struct, frozen=True, gc=False):
    """A clause with its phrases, and the punctuation that ends it."""

    clause: Clause
    hits: Sequence[Hit]
    mark: str
    kinds: Set[str]  # of its phrases

    def has(self, kind: str) -> bool:
        return kind in self.kinds

    @property
    def question(self) -> bool:
        return "?" in self.mark


def turn(said: Sequence[Said], place: int, known: Words) -> Turn | None:
    """Return what the words around the STOP of clause `place` make of the STOP."""
    here = said[place]
    if regretted(said, known):
        return "regret"
    if of_another(here.clause, known):
        return "life" if _to_a_thing(here.clause, known) or about_life(here, known) else "another"
    if place > 0 and len(said[0].clause) <= VOCATIVE_WORDS and not known.vocatives.isdisjoint(said[0].clause):
        return "another"
    asked = [each for each in said[place : place + 1 + NEAR] if each.question and each.has("asks")]
    if asked or not known.hesitates.isdisjoint(here.clause):
        return "question"
    return "life" if about_life(here, known) and not _before_life(here, known) else None


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


def mistaken(said: Sequence[Said], place: int) -> bool:
    """Return whether a mistake is told beside the clause, where no STOP is asked for: "oups le STOP, fausse manip"."""
    return any(each.has("mistakes") for each in said[max(0, place - NEAR) : place + NEAR + 1])


def of_another(clause: Clause, known: Words) -> bool:
    """Return whether another person says the STOP: "mon mari a écrit stop", and not "mon mari et moi"."""
    if _told_by_another(clause, known):
        return True
    if known.others.isdisjoint(clause):
        return False
    if _third_person(clause, known):
        return True
    last = max((place for place, word in enumerate(clause) if word in known.says), default=None)
    if last is None:
        return False
    writer = [place for place, word in enumerate(clause[:last]) if word in known.selves]
    return all(place > 0 and clause[place - 1] in known.negations_after for place in writer)


def _told_by_another(clause: Clause, known: Words) -> bool:
    """Return whether somebody, or our text, is told to say STOP: "le facteur a dit stop", "votre sms dit stop"."""
    if not known.selves.isdisjoint(clause) or "on" in clause:
        return False
    pairs = zip(clause, clause[1:], clause[2:], strict=False)
    return any(
        word in ("a", "ont", "sms", "message", "texto") and said in known.says and stop in known.stop_first
        for word, said, stop in pairs
    )


def _to_a_thing(clause: Clause, known: Words) -> bool:
    """Return whether the STOP of another is to something other than messages: "a dit stop aux achats"."""
    pairs = zip(clause, clause[1:], [*clause[2:], ""], strict=False)
    told = any(
        word in known.stop_first and to in ("au", "aux", "to") and not then.isdigit() for word, to, then in pairs
    )
    return told and known.traffic.isdisjoint(clause)


def _third_person(clause: Clause, known: Words) -> bool:
    """Return whether the first word for a person is another's, with a verb: "ma voisine ne veut plus", "il s est"."""
    for place, word in enumerate(clause):
        if word in known.selves:
            return False
        if word in known.others:
            for after, then in zip(clause[place + 1 : place + 4], [*clause[place + 2 : place + 5], ""], strict=False):
                if after in known.third or (after in ("s", "se") and then in known.done):
                    return True
    return False


def about_life(said: Said, known: Words) -> bool:
    """Return whether the clause speaks of everyday things, and not of messages."""
    return said.has("everyday") and not said.has("traffic")


def _before_life(said: Said, known: Words) -> bool:
    """Return whether the everyday things come after a new sentence: "laissez moi tranquille je suis au travail"."""
    starts = (place for place, word in enumerate(said.clause) if place >= SENTENCE_WORDS and word in known.starts)
    start = next(starts, None)
    return start is not None and all(place > start for _, place, phrase in said.hits if phrase.kind == "everyday")


def owns_things(said: Said, known: Words) -> bool:
    """Return whether everyday things are what is asked for: "n'envoyez pas le colis", and not "au travail"."""
    return any(
        place > 0 and said.clause[place - 1] in known.things and said.clause[place - 1] not in ("au", "aux")
        for _, place, phrase in said.hits
        if phrase.kind == "everyday"
    )


def of_a_shop(said: Said) -> bool:
    """Return whether the clause speaks of what a shop sells or when it opens, and not of messages."""
    return said.has("occasions") and not said.has("traffic")


def of_things(said: Said, place: int, phrase: Phrase) -> bool:
    """Return whether a phrase is about a thing of the shop just after: "je ne veux plus le canapé"."""
    end = place + len(phrase.words)
    return any(end <= at < end + THING_REACH for _, at, each in said.hits if each.kind == "occasions")


def of_a_purchase(said: Sequence[Said]) -> bool:
    """Return whether the text speaks of a shop or everyday things, and nowhere of messages: a customer's."""
    kinds = set[str]().union(*[each.kinds for each in said])
    return ("everyday" in kinds or "occasions" in kinds) and "traffic" not in kinds


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
    asking = [each for each in said if not OF_RIGHTS.isdisjoint(each.kinds)]
    if not asking:
        return None
    bought = of_a_purchase(said)
    for kind, concern in RIGHTS:
        for each in asking:
            for *_, phrase in each.hits:
                if phrase.kind == kind and not (concern == "return" and bought):
                    return phrase.file, concern
    return None
