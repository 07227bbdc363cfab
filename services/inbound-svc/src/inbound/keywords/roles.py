"""Tell where an opt-out word asks for nothing: a thing, another's act, a word that is asked about. Pure.

    thing       "le prochain arrêt", "non-stop", "next stop"
    act         "ils ont arrêté le modèle", "la batterie s'arrête", "I will stop by"
    family      "mon fils veut arrêter le judo", "impossible d'arrêter mon mari"
    meaning     "c'est quoi STOP au 36111 ?"
    going on    "ne vous arrêtez surtout pas, j'adore"

A role takes a doubt away, and never a stop. Beside a word of our messages, or of a wish, no word has a role.
"""

from collections.abc import Sequence, Set

from inbound.keywords.grammar import Said
from inbound.keywords.lists import Words

PAIR = 2  # words
SUBJECT_REACH = 3  # words from another's pronoun, or name, to the verb
THE = frozenset(["le", "la", "les", "l", "son", "sa", "ses"])  # of a thing of the other's: "ce", "vos" may be of ours
POSSESSIVES = frozenset(["mon", "ma", "mes", "son", "sa", "ses"])


def asks_nothing(here: Said, at: int, told: Set[str], known: Words) -> bool:
    """Return whether the opt-out word `at` of the clause has a role in which nobody asks to stop.

    `told`: every word of the text.
    """
    if here.has("meanings"):
        return means_what(here, told, known)
    if goes_on(here, told, known):
        return True
    clause = here.clause
    if here.has("traffic"):
        return False
    if _of_family(clause, at, known):
        return True
    if here.has("urges"):
        return here.has("everyday") and clause[:at][-1:] == ("au",)
    if here.has("occasions") and clause[at + 1 : at + 2] in (("de",), ("d",)):
        return True
    return (len(told) > PAIR and _thing(clause, at, known)) or _act(here, at, known)


def means_what(here: Said, told: Set[str], known: Words) -> bool:
    """Return whether a clause asks for the meaning of a word; a STOP that does not work is no such question."""
    return here.has("meanings") and known.broken.isdisjoint(told)


def goes_on(here: Said, told: Set[str], known: Words) -> bool:
    """Return whether the person refuses to stop, and says why: praise that mocks is none."""
    return here.has("refusing") and not known.likes.isdisjoint(told) and known.mocks.isdisjoint(told)


def _thing(clause: Sequence[str], at: int, known: Words) -> bool:
    """Return whether the word names a thing. "Non stop" alone, and "no paren", are no things."""
    before, after = clause[:at][-1:], clause[at + 1 : at + 2]
    if clause[at] not in known.nouns:
        return False
    if any(word in known.compounds for word in (*before, *after)):
        return True
    return any(word in known.things for word in before)


def _of_family(clause: Sequence[str], at: int, known: Words) -> bool:
    """Return whether another stops a thing, or another is stopped: no word for the writer or for us stands between."""
    before, after = clause[max(0, at - SUBJECT_REACH) : at], clause[at + 1 :]
    if clause[at] != "arreter" or len(after) < PAIR:
        return False
    if after[0] in THE and any(word in known.others for word in before):
        return known.objects.isdisjoint(before)
    return after[0] in POSSESSIVES and after[1] in known.others


def _act(said: Said, at: int, known: Words) -> bool:
    """Return whether the word tells what another, or a thing, does or did; "vous n'avez pas arrêté" is a complaint."""
    clause = said.clause
    before, after = clause[max(0, at - SUBJECT_REACH) : at], clause[at + 1 :]
    if said.has("refusing"):
        return False
    if clause[at] == "stopped" or not known.abroad.isdisjoint(before) or not known.acted.isdisjoint(before[-2:]):
        return True
    if after and after[0] in known.goes_on:
        return True
    if len(after) <= 1 or (after[0] not in known.things and after[0] not in ("de", "d")):
        return False
    return before[-1:] == ("j",) or (before[-1:] == ("vous",) and said.question)
