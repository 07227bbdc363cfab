"""What an MO asks for: stop, start, confirm, contact, or a person should look (review), or nothing (none).

Pure. The words are data (`fr-1.json`, each list with its reason and sources); this file holds how they combine.

    a likeness, a phrase, a guess      may only tighten: stop or review
    start, confirm                     the whole text, exactly
    in doubt                           review, never none, for what smells like an opt-out

Order: an opt-out anywhere beats all; then what smells like one; then the rest. Asking for erasure is an opt-out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from common.contracts.inbound import Intent
from inbound.keywords.normal import Normal, normalise

CURRENT = "fr-1"
READ_CHARS = 2_000  # the longest SMS is 10 segments, 1,530 characters; a longer text is not left at "none"
DISGUISE_CHARS = 160  # one SMS: look-alikes are tried on texts up to this length (DOMAIN 2.3, step 6)
NEGATION_REACH = 4  # words before an opt-out phrase in which a negation turns it
SHORT_CODE = re.compile(r"[3-8]\d{4}")

EXACT, FOLLOWED, PHRASE, DISGUISED, NEAR, DOUBT, NOTHING = 1.0, 0.95, 0.9, 0.85, 0.75, 0.5, 0.0

Clause = Sequence[str]


@dataclass(frozen=True, slots=True)
class Understanding:
    """`rule`: the list and the rule in it that decided. `score`: 1.0 exact, less for a likeness, 0.5 a doubt.
    `normalised`: what the rules saw; as personal as the text itself."""

    intent: Intent
    rule: str
    score: float
    normalised: str


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One list of words or phrases, why it means what it means, and who says so."""

    words: frozenset[str]
    why: str
    sources: tuple[str, ...]


class Lists(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A keyword file. Each field is a rule; its `why` is in the file."""

    id: str
    about: str
    sources: dict[str, str]
    stop_first: Rule
    stop_alone: Rule
    stop_all: Rule
    stop_stems: Rule
    stop_phrases: Rule
    stop_negative_phrases: Rule
    stop_opening_phrases: Rule
    near_stop: Rule
    not_near_stop: Rule
    stop_signs: Rule
    start: Rule
    confirm: Rule
    contact: Rule
    contact_phrases: Rule
    erase_phrases: Rule
    review: Rule
    review_alone: Rule
    review_phrases: Rule
    review_verbs: Rule
    review_signs: Rule
    courtesy: Rule
    noise: Rule
    answers: Rule
    negations: Rule
    negations_after: Rule
    refusals: Rule


@cache
def load(name: str = CURRENT) -> Lists:
    """The keyword file `name`. Raises FileNotFoundError; msgspec.ValidationError on a file of another shape."""
    return msgspec.json.decode(resources.files(__package__).joinpath(f"{name}.json").read_bytes(), type=Lists)


def classify(text: str, name: str = CURRENT) -> Understanding:
    """What `text`, as the provider handed it over, asks for."""
    lists = load(name)
    plain = normalise(text[:READ_CHARS])
    intent, rule, score = _decide(plain, lists)
    if intent not in ("stop", "review"):
        if len(text) <= DISGUISE_CHARS:
            guess, by, _ = _decide(normalise(text, look_alikes=True), lists)
            if guess in ("stop", "review"):
                intent, rule, score = guess, f"disguised_{by}", DISGUISED if guess == "stop" else DOUBT
        elif len(text) > READ_CHARS:
            intent, rule, score = "review", "too_long", DOUBT
    return Understanding(intent, f"{lists.id}:{rule}", score, str(plain))


def _decide(plain: Normal, lists: Lists) -> tuple[Intent, str, float]:
    for clause in plain.clauses:
        if opt_out := _opt_out(clause, lists):
            return "stop", *opt_out
    content = [word for clause in plain.clauses for word in _content(clause, lists)]
    if _near_stop(content, lists):
        return "stop", "near_stop", NEAR
    if not content and plain.symbols & lists.stop_signs.words:
        return "stop", "stop_signs", EXACT
    if any(_holds(clause, lists.erase_phrases) for clause in plain.clauses):
        # until consent-svc takes erasures by MO, who asks for one is at least never written to again
        return "stop", "erase_phrases", PHRASE
    if doubt := _doubt(plain, lists):
        return "review", doubt, DOUBT
    return _request(plain, lists)


def _opt_out(clause: Clause, lists: Lists) -> tuple[str, float] | None:
    """The rule that makes this clause an opt-out, and its score."""
    exact, content = _exact(clause, lists), _content(clause, lists)
    if content and not _refused(content[0], clause, lists):
        first, rest = content[0], content[1:]
        if first in lists.stop_first.words or _glued(first, lists):
            if any(_begins(exact, words) for words in lists.stop_all.words):
                return "stop_all", EXACT
            if not rest:
                return "stop_first", EXACT
            if not (_turned_after(first, clause, lists) and set(rest) <= lists.negations_after.words):
                return "stop_first", FOLLOWED
        if first in lists.stop_alone.words and not rest:
            return "stop_alone", EXACT
    if len(exact) > 1 and "".join(exact) in lists.stop_first.words | lists.stop_alone.words:
        return "stop_joined", PHRASE
    for place, word in enumerate(clause):
        if _has_stem(word, lists) and not _negated(clause[:place], lists):
            return "stop_stems", PHRASE
    for phrase in lists.stop_phrases.words:
        found = _place(clause, phrase)
        if found is not None and not _negated(clause[:found], lists):
            return "stop_phrases", PHRASE
    if _holds(clause, lists.stop_negative_phrases):
        return "stop_negative_phrases", PHRASE
    if any(_begins(exact, phrase) for phrase in lists.stop_opening_phrases.words):
        return "stop_opening_phrases", PHRASE
    return None


def _near_stop(content: Clause, lists: Lists) -> bool:
    """The text says one word, and that word is one slip away from STOP (and no word of its own)."""
    if len(content) != 1 or not 4 <= len(content[0]) <= 8:
        return False
    word, single = content[0], re.sub(r"(.)\1", r"\1", content[0])
    if {word, single} & lists.not_near_stop.words:
        return False
    return any((single == stop != word) or (len(word) <= 5 and _one_slip(word, stop)) for stop in lists.near_stop.words)


def _doubt(plain: Normal, lists: Lists) -> str | None:
    """The rule that says a person should look: an opt-out may be meant."""
    said = [exact for clause in plain.clauses if (exact := _exact(clause, lists))]
    if len(said) == 1 and len(said[0]) == 1 and said[0][0] in lists.review_alone.words:
        return "review_alone"
    for clause in plain.clauses:
        if any(_mentions_stop(word, lists) for word in clause):
            return "mentions_stop"
        if _holds(clause, lists.stop_phrases) or _holds(clause, lists.stop_opening_phrases):
            return "mentions_stop_phrase"
        if lists.review.words & set(clause):
            return "review"
        if _holds(clause, lists.review_phrases):
            return "review_phrases"
        if lists.review_verbs.words & set(clause) and lists.negations.words & set(clause):
            return "review_verbs"
    if plain.symbols & (lists.stop_signs.words | lists.review_signs.words):
        return "review_signs"
    return None


def _request(plain: Normal, lists: Lists) -> tuple[Intent, str, float]:
    """START, OUI, CONTACT. The first two must be all there is, and not a question."""
    said = [exact for clause in plain.clauses if (exact := _exact(clause, lists))]
    if len(said) == 1 and len(said[0]) == 1 and not plain.question:
        if said[0][0] in lists.start.words:
            return "start", "start", EXACT
        if said[0][0] in lists.confirm.words:
            return "confirm", "confirm", EXACT
    if said and len(said[0]) == 1 and said[0][0] in lists.contact.words:
        return "contact", "contact", EXACT
    if any(_holds(clause, lists.contact_phrases) for clause in plain.clauses):
        return "contact", "contact_phrases", PHRASE
    return "none", "none", NOTHING


def _exact(clause: Clause, lists: Lists) -> Clause:
    """The clause without courtesy and without a short code at its end ("STOP au 36111")."""
    polite = f" {' '.join(clause)} "
    for phrase in lists.courtesy.words:
        if " " in phrase:
            polite = polite.replace(f" {phrase} ", " ")
    words = [word for word in polite.split() if word not in lists.courtesy.words]
    if words and SHORT_CODE.fullmatch(words[-1]):
        words = words[:-2] if words[-2:-1] == ["au"] else words[:-1]
    return words


def _content(clause: Clause, lists: Lists) -> Clause:
    """What is left of a clause without courtesy, words of the trade, answers and short codes."""
    ignored = lists.noise.words | lists.answers.words
    return [word for word in _exact(clause, lists) if word not in ignored and not SHORT_CODE.fullmatch(word)]


def _refused(word: str, clause: Clause, lists: Lists) -> bool:
    """ "non stop": a refusal right before `word` turns it; "non merci stop" does not."""
    place = clause.index(word)
    return place > 0 and clause[place - 1] in lists.refusals.words


def _turned_after(word: str, clause: Clause, lists: Lists) -> bool:
    """ "stop pas": spoken French for "do not stop"."""
    return set(clause[clause.index(word) + 1 :][:1]) <= lists.negations_after.words


def _negated(before: Clause, lists: Lists) -> bool:
    return not lists.negations.words.isdisjoint(before[-NEGATION_REACH:])


def _glued(word: str, lists: Lists) -> bool:
    """ "stoppub", "stopsms": an opt-out word and a word of the trade in one."""
    tails = [word[len(stop) :] for stop in lists.stop_first.words if word.startswith(stop)]
    return any(len(tail) > 1 and tail in lists.noise.words for tail in tails)


def _has_stem(word: str, lists: Lists) -> bool:
    return word.startswith(tuple(lists.stop_stems.words))


def _mentions_stop(word: str, lists: Lists) -> bool:
    if word in lists.start.words:  # UNSTOP
        return False
    return (
        word in lists.stop_alone.words or _has_stem(word, lists) or any(stop in word for stop in lists.stop_first.words)
    )


def _begins(clause: Clause, phrase: str) -> bool:
    return _place(clause, phrase) == 0


def _holds(clause: Clause, rule: Rule) -> bool:
    return any(_place(clause, phrase) is not None for phrase in rule.words)


def _place(clause: Clause, phrase: str) -> int | None:
    """At which word of `clause` the whole words of `phrase` begin."""
    text = f" {' '.join(clause)} "
    found = text.find(f" {phrase} ")
    return None if found < 0 else text[:found].count(" ")


def _one_slip(word: str, target: str) -> bool:
    """Damerau distance of exactly one: a letter added, dropped, changed, or two neighbours swapped."""
    if len(word) == len(target):
        wrong = [i for i in range(len(word)) if word[i] != target[i]]
        swapped = len(wrong) == 2 and wrong[1] == wrong[0] + 1 and word[wrong[0]] == target[wrong[1]]
        return len(wrong) == 1 or (swapped and word[wrong[1]] == target[wrong[0]])
    short, long = sorted((word, target), key=len)
    return len(long) == len(short) + 1 and any(short == long[:i] + long[i + 1 :] for i in range(len(long)))
