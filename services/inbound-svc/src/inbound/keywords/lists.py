"""The keyword files, merged for one country and language: `words(language, country)`. Pure.

    any-1        STOP itself, START, YES, HELP: the same in every language
    fr-2 ...     a file per language: its words, each list with its reason and sources
    free-1       refusals in free words, insults, complaints
    wishes-1     wishes told by their parts: a refusal and what we send, a farewell to the sender
    speech-1     who says stop, about what: the parts of speech of `grammar`
    us-1         a market: words certain there and doubtful elsewhere (END, CANCEL, QUIT)
    known-1      frequent words, from which nothing is read but that their language is known (`unread`)

Words which tighten are read from every file; words which loosen (start, confirm) or are certain only at home
(stop_at_home) for the given country or language. A used file is never edited but has a next version: a rule id in an
old event still names the list of its time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import msgspec

from inbound.keywords.sounds import GLUED_CHARS, glued, sound

CURRENT = (
    "any-1",
    "fr-3",
    "en-1",
    "es-1",
    "de-1",
    "nl-1",
    "it-1",
    "pt-1",
    "ar-1",
    "us-1",
    "regions-1",
    "world-1",
    "free-1",
    "wishes-1",
    "speech-1",
    "known-1",
)
NOT_READ = ("regions-1", "world-1")  # a few phrases of many languages: the rest of such a text stays unread
HOME = "FR"  # where neither country nor language is known
SOUNDED_CHARS = 5  # of a word, 9 of a phrase: what is shorter sounds like too many others
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NEAR_MIN_CHARS = 4  # shorter words have too many neighbours


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of words or phrases, its reason, and its sources."""

    words: frozenset[str] = frozenset()
    why: str = ""
    sources: tuple[str, ...] = ()


EMPTY = Rule()


class Together(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An opt-out when a clause has a word of each group, in order, and no word of `unless`."""

    groups: tuple[frozenset[str], ...]
    unless: frozenset[str]
    why: str
    sources: tuple[str, ...]


class Lists(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A keyword file. Each field's `why` is in the file."""

    id: str
    about: str
    sources: dict[str, str]
    language: str | None = None
    countries: tuple[str, ...] = ()
    stop_first: Rule = EMPTY
    stop_alone: Rule = EMPTY
    stop_at_home: Rule = EMPTY
    stop_all: Rule = EMPTY
    stop_whole: Rule = EMPTY
    stop_last: Rule = EMPTY
    stop_stems: Rule = EMPTY
    stop_phrases: Rule = EMPTY
    stop_negative_phrases: Rule = EMPTY
    stop_opening_phrases: Rule = EMPTY
    stop_together: tuple[Together, ...] = ()
    stop_idioms: Rule = EMPTY
    not_before_stop: Rule = EMPTY
    near_stop: Rule = EMPTY
    not_near_stop: Rule = EMPTY
    stop_signs: Rule = EMPTY
    praise: Rule = EMPTY
    start: Rule = EMPTY
    confirm: Rule = EMPTY
    contact: Rule = EMPTY
    contact_phrases: Rule = EMPTY
    erase_phrases: Rule = EMPTY
    review: Rule = EMPTY
    review_alone: Rule = EMPTY
    review_phrases: Rule = EMPTY
    review_verbs: Rule = EMPTY
    review_things: Rule = EMPTY
    review_signs: Rule = EMPTY
    courtesy: Rule = EMPTY
    noise: Rule = EMPTY
    answers: Rule = EMPTY
    fillers: Rule = EMPTY
    negations: Rule = EMPTY
    negations_after: Rule = EMPTY
    refusals: Rule = EMPTY
    reports: Rule = EMPTY
    wrote: Rule = EMPTY
    known: Rule = EMPTY
    stop_all_together: tuple[Together, ...] = ()
    says: Rule = EMPTY
    others: Rule = EMPTY
    selves: Rule = EMPTY
    enrolled: Rule = EMPTY
    done: Rule = EMPTY
    traffic: Rule = EMPTY
    everyday: Rule = EMPTY
    mistakes: Rule = EMPTY
    regrets: Rule = EMPTY
    asks: Rule = EMPTY
    erasers: Rule = EMPTY
    personal: Rule = EMPTY
    records: Rule = EMPTY
    mine: Rule = EMPTY
    things: Rule = EMPTY
    compounds: Rule = EMPTY
    urges: Rule = EMPTY
    abroad: Rule = EMPTY
    acted: Rule = EMPTY
    goes_on: Rule = EMPTY
    likes: Rule = EMPTY
    mocks: Rule = EMPTY
    hesitates: Rule = EMPTY
    third: Rule = EMPTY
    meanings: Rule = EMPTY
    occasions: Rule = EMPTY
    broken: Rule = EMPTY
    nouns: Rule = EMPTY
    objects: Rule = EMPTY
    starts: Rule = EMPTY
    vocatives: Rule = EMPTY
    erasure_phrases: Rule = EMPTY
    access_phrases: Rule = EMPTY
    source_phrases: Rule = EMPTY
    wrong_number_phrases: Rule = EMPTY
    return_phrases: Rule = EMPTY


# anywhere in a clause, in order of precedence
PHRASES = (
    "erase_phrases",
    "stop_phrases",
    "stop_negative_phrases",
    "stop_opening_phrases",
    "stop_idioms",
    "review",
    "review_phrases",
    "contact_phrases",
    "everyday",
    "mistakes",
    "regrets",
    "asks",
    "meanings",
    "occasions",
    "erasure_phrases",
    "access_phrases",
    "source_phrases",
    "wrong_number_phrases",
    "return_phrases",
)


OPT_OUTS = ("erase_phrases", "stop_phrases", "stop_negative_phrases", "stop_opening_phrases", "review_phrases")


class Phrase(NamedTuple):
    words: tuple[str, ...]
    kind: str
    file: str


@dataclass(frozen=True, slots=True)
class Words:
    """The lists for one public, ready for look-up. A dict gives the file which lists the word."""

    phrases: dict[str, dict[str, tuple[Phrase, ...]]]  # by first and second word ("" for none), longest first
    together: dict[str, tuple[tuple[Together, str], ...]]  # by a word of the first group
    stop_first: dict[str, str]
    stop_alone: dict[str, str]
    stop_all: dict[tuple[str, ...], str]
    stop_whole: dict[tuple[str, ...], str]
    stop_last: dict[str, str]
    stop_mentions: frozenset[str]  # an opt-out may be meant, wherever the word stands
    stop_roots: tuple[str, ...]
    stop_parts: tuple[str, ...]  # one of them stands in each word that is like an opt-out
    doubted: frozenset[str]  # in a clause with none of them, and with no part of an opt-out, no word is in doubt
    stems: dict[str, str]
    stem_prefixes: tuple[str, ...]
    near: dict[str, str]
    not_near: frozenset[str]
    stop_signs: frozenset[str]
    start: dict[str, str]
    confirm: dict[str, str]
    contact: dict[str, str]
    review_alone: dict[str, str]
    review_verbs: dict[str, str]
    review_things: dict[str, str]
    review_signs: frozenset[str]
    courtesy: dict[str, tuple[tuple[str, ...], ...]]  # by first word, longest first
    noise: frozenset[str]
    answers: frozenset[str]
    fillers: frozenset[str]
    ignored: frozenset[str]
    negations: dict[str, frozenset[str]]  # by file; without negations of its own, all
    negations_after: frozenset[str]
    refusals: frozenset[str]
    not_before_stop: frozenset[str]
    praise: frozenset[str]
    reports: frozenset[str]
    wrote: tuple[str, ...]
    says: frozenset[str]
    others: frozenset[str]
    selves: frozenset[str]
    enrolled: frozenset[str]
    done: frozenset[str]
    traffic: frozenset[str]
    everyday: frozenset[str]  # the single words; phrases are in `phrases`
    erasers: frozenset[str]
    personal: frozenset[str]
    records: frozenset[str]
    mine: frozenset[str]
    things: frozenset[str]
    compounds: frozenset[str]
    urges: frozenset[str]
    abroad: frozenset[str]
    acted: frozenset[str]
    goes_on: frozenset[str]
    likes: frozenset[str]
    mocks: frozenset[str]
    hesitates: frozenset[str]
    third: frozenset[str]
    broken: frozenset[str]
    nouns: frozenset[str]
    objects: frozenset[str]
    starts: frozenset[str]
    vocatives: frozenset[str]
    refusing: frozenset[str]
    everyone: dict[str, tuple[tuple[Together, str], ...]]
    sounded: dict[str, tuple[Phrase, ...]]  # opt-outs as they sound, by first word
    sounded_alone: dict[str, str]
    glued_stops: frozenset[str]  # opt-outs in one word
    glued: dict[str, tuple[str, ...]]  # opt-outs without spaces, by `sounds`
    known: frozenset[str]  # every word of a language that the rules read


@cache
def load(name: str) -> Lists:
    """Load the keyword file `name`. Raises FileNotFoundError or msgspec.ValidationError."""
    return msgspec.json.decode(resources.files(__package__).joinpath(f"{name}.json").read_bytes(), type=Lists)


@lru_cache(maxsize=64)
def words(language: str | None = None, country: str | None = None) -> Words:
    """Return the words for a language ("es") or country ("US"); else for France."""
    files = [load(name) for name in CURRENT]
    if language is None and country is None:
        country = HOME
    home = [f for f in files if _at_home(f, language, country)]
    away = [f for f in files if f not in home]

    def union(kind: str) -> frozenset[str]:
        return frozenset().union(*(_rule(f, kind).words for f in files))

    everyones = union("negations")
    courtesies = sorted((tuple(phrase.split()) for phrase in union("courtesy")), key=lambda p: (-len(p), p))
    phrases = sorted(_phrases(files), key=lambda p: (-len(p.words), PHRASES.index(p.kind), p.file, p.words))
    stems = _by_word(files, "stop_stems")
    at_home = _by_word(home, "stop_at_home")
    first, alone = _by_word(files, "stop_first"), _by_word(files, "stop_alone")
    start = _by_word(home, "start")
    roots = tuple(sorted(word for word in first if not any(o in word for o in first if o != word)))
    return Words(
        phrases=_by_first_words(phrases),
        together=_together(files, "stop_together"),
        stop_first=first,
        stop_alone=at_home | alone,
        stop_all={tuple(phrase.split()): file for phrase, file in _by_word(files, "stop_all").items()},
        stop_whole={tuple(phrase.split()): file for phrase, file in _by_word(files, "stop_whole").items()},
        stop_last=_by_word(files, "stop_last"),
        stop_mentions=frozenset(alone),
        stop_roots=roots,
        stop_parts=(*roots, *stems),
        doubted=frozenset(alone).union(
            *[_rule(f, kind).words for f in files for kind in ("review_verbs", "review_things")]
        ),
        stems=stems,
        stem_prefixes=tuple(stems),
        near={slip: f.id for f in reversed(files) for word in f.near_stop.words for slip in slips(word)},
        not_near=union("not_near_stop"),
        stop_signs=union("stop_signs"),
        start=start,
        confirm=_by_word(home, "confirm"),
        contact=_by_word(files, "contact"),
        review_alone=_by_word(away, "stop_at_home") | _by_word(files, "review_alone"),
        review_verbs=_by_word(files, "review_verbs"),
        review_things=_by_word(files, "review_things"),
        review_signs=union("review_signs"),
        courtesy={w: tuple(c for c in courtesies if c[0] == w) for w in {c[0] for c in courtesies}},
        noise=union("noise"),
        answers=union("answers"),
        fillers=union("fillers"),
        ignored=union("noise") | union("answers"),
        negations={f.id: f.negations.words or everyones for f in files},
        negations_after=union("negations_after"),
        refusals=union("refusals"),
        not_before_stop=union("not_before_stop"),
        praise=union("praise"),
        reports=union("reports"),
        wrote=tuple(sorted(union("wrote"))),
        says=union("says"),
        others=union("others"),
        selves=union("selves"),
        enrolled=union("enrolled"),
        done=union("done"),
        traffic=union("traffic"),
        everyday=frozenset(word for word in union("everyday") if " " not in word),
        erasers=union("erasers"),
        personal=union("personal"),
        records=union("records"),
        mine=union("mine"),
        things=union("things"),
        compounds=union("compounds"),
        urges=union("urges"),
        abroad=union("abroad"),
        acted=union("acted"),
        goes_on=union("goes_on"),
        likes=union("likes"),
        mocks=union("mocks"),
        hesitates=union("hesitates"),
        third=union("third"),
        broken=union("broken"),
        nouns=union("nouns"),
        objects=union("objects"),
        starts=union("starts"),
        vocatives=union("vocatives"),
        refusing=union("negations_after"),
        everyone=_together(files, "stop_all_together"),
        sounded=_sounded(phrases),
        sounded_alone={s: file for word, file in (alone | stems).items() if len(s := sound(word)) >= SOUNDED_CHARS},
        glued=glued(phrase.words for phrase in phrases if phrase.kind in OPT_OUTS),
        glued_stops=_glued_stops(phrases),
        known=_known(files),
    )


def _known(files: list[Lists]) -> frozenset[str]:
    """Return every word in a list of a language that the rules read; of the others, their `known` and courtesies."""
    read = [file for file in files if file.id not in NOT_READ]
    rules = [getattr(file, name) for file in read for name in file.__struct_fields__]
    rules += [rule for file in files if file.id in NOT_READ for rule in (file.known, file.courtesy)]
    said = {phrase for rule in rules if isinstance(rule, Rule) for phrase in rule.words}
    grouped = {word for file in files for rule in file.stop_together for group in rule.groups for word in group}
    return frozenset(grouped.union(*(phrase.split() for phrase in said)))


def _at_home(file: Lists, language: str | None, country: str | None) -> bool:
    """Return whether the file is for this public, or everyone."""
    everywhere = file.language is None and not file.countries
    return everywhere or (language is not None and file.language == language) or country in file.countries


def _rule(file: Lists, kind: str) -> Rule:
    rule: Rule = getattr(file, kind)
    return rule


def _by_word(files: list[Lists], kind: str) -> dict[str, str]:
    """Map each word to the first file which lists it."""
    return {word: file.id for file in reversed(files) for word in sorted(_rule(file, kind).words)}


def _phrases(files: list[Lists]) -> Iterator[Phrase]:
    for file in files:
        for kind in PHRASES:
            for phrase in _rule(file, kind).words:
                yield Phrase(tuple(phrase.split()), kind, file.id)


def _by_first_words(phrases: list[Phrase]) -> dict[str, dict[str, tuple[Phrase, ...]]]:
    found: dict[str, dict[str, tuple[Phrase, ...]]] = {}
    for phrase in phrases:
        by_second = found.setdefault(phrase.words[0], {})
        second = phrase.words[1] if len(phrase.words) > 1 else ""
        by_second[second] = (*by_second.get(second, ()), phrase)
    return found


def _sounded(phrases: list[Phrase]) -> dict[str, tuple[Phrase, ...]]:
    found: dict[str, tuple[Phrase, ...]] = {}
    for phrase in phrases:
        words = tuple(map(sound, phrase.words))
        least = 2 * SOUNDED_CHARS - 1 if len(words) > 1 else SOUNDED_CHARS
        if phrase.kind in (*OPT_OUTS, "review") and sum(map(len, words)) >= least:
            found[words[0]] = (*found.get(words[0], ()), Phrase(words, phrase.kind, phrase.file))
    return found


def _glued_stops(phrases: list[Phrase]) -> frozenset[str]:
    stops = [phrase.words for phrase in phrases if phrase.kind in OPT_OUTS[1:4] and len(phrase.words) > 1]
    written = {"".join(words) for words in stops} | {"".join(map(sound, words)) for words in stops}
    return frozenset(word for word in written if len(word) >= GLUED_CHARS)


def _together(files: list[Lists], kind: str) -> dict[str, tuple[tuple[Together, str], ...]]:
    found: dict[str, tuple[tuple[Together, str], ...]] = {}
    for file in files:
        for rule in getattr(file, kind):
            for word in sorted(rule.groups[0]):
                found[word] = (*found.get(word, ()), (rule, file.id))
    return found


def slips(word: str) -> frozenset[str]:
    """Return every word at Damerau distance one."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    dropped = {a + b[1:] for a, b in cuts if b}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    changed = {a + c + b[1:] for a, b in cuts if b for c in LETTERS}
    added = {a + c + b for a, b in cuts for c in LETTERS}
    return frozenset(w for w in dropped | swapped | changed | added if len(w) >= NEAR_MIN_CHARS) - {word}
