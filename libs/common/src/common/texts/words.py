"""Find listed words in a text as read, however their letters are disguised. Pure.

    pro mo, P.R.0.M.O, prooomo, prorno      promo

Text and list are folded to the same letters: a disguise is the letter that it looks like, and a run of one letter is
one letter. Each place is then compared with the words of its letter: the effort is of the text's length, for any text.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from common.texts.reading import Reading

LOOKS_LIKE = {
    "4": "a", "@": "a", "8": "b", "3": "e", "€": "e", "9": "g", "1": "i", "!": "i", "0": "o", "()": "o",
    "5": "s", "$": "s", "7": "t",
}  # fmt: skip
LOOKS_LIKE_TOO = {"1": "l", "!": "l"}
SHORT_WORD = 4  # letters: so short a word is read joined, or with every letter apart, without a digit
FAR = 5  # signs: from a letter to the next are a space, a repeat of the letter, and a space, at most

_SIGN = re.compile(r"\(\)|[^\W_]|[@€$]|(?<=\w)!(?=\w)|(?:(?!\(\)|[@€$])[\W_])+")
_OF_A_SENTENCE = re.compile(r"[.,;:?!]\s")


class Sign(NamedTuple):
    """A run of one letter, or what stands between letters (""), with its span in the text as read."""

    letter: str
    start: int
    end: int


class Words(NamedTuple):
    """Listed words by their first letter, the longest first: each folded, and as listed."""

    by_first: Mapping[str, tuple[tuple[str, str], ...]]
    listed: tuple[str, ...]


class Found(NamedTuple):
    """A listed word, with its span in the text as read."""

    word: str
    start: int
    end: int


def words_of(listed: Iterable[str]) -> Words:
    """Fold the listed words, each in small letters without accents. An m may be drawn as rn."""
    once = tuple(dict.fromkeys(listed))
    folds = dict.fromkeys((_folded(drawn), word) for word in once for drawn in (word, word.replace("m", "rn")))
    by_first: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for folded, word in sorted(folds, key=lambda pair: -len(pair[1])):
        by_first[folded[0]].append((folded, word))
    return Words({first: tuple(some) for first, some in by_first.items()}, once)


def find(reading: Reading, words: Words) -> Iterator[Found]:
    """Yield the listed words of the text; of words that begin at one place, the longest."""
    found = list(_find(reading, words, LOOKS_LIKE))
    yield from found
    if any(sign in reading.plain for sign in LOOKS_LIKE_TOO):
        again = _find(reading, words, LOOKS_LIKE | LOOKS_LIKE_TOO)
        yield from (each for each in again if all(each.end <= one.start or one.end <= each.start for one in found))


def _find(reading: Reading, words: Words, looks_like: Mapping[str, str]) -> Iterator[Found]:
    signs = list(_signs(reading.plain, looks_like))
    taken = 0
    for at, sign in enumerate(signs):
        if not sign.letter or sign.start < taken or not _begins(reading, sign.start):
            continue
        for folded, word in words.by_first.get(sign.letter, ()):
            last = _last(signs, at, folded)
            if last is None or not _ends(reading, signs[last].end):
                continue
            short = sum(map(str.isalpha, word)) <= SHORT_WORD
            if _is_word(reading.plain, signs, at, last, len(folded), short=short):
                taken = signs[last].end
                yield Found(word, sign.start, taken)
                break


def _folded(word: str) -> str:
    letters = "".join(sign.letter for part in word.split() for sign in _signs(part))
    return re.sub(r"(.)\1+", r"\1", letters)


def _signs(plain: str, looks_like: Mapping[str, str] = LOOKS_LIKE) -> Iterator[Sign]:
    run = Sign("", 0, 0)
    for match in _SIGN.finditer(plain):
        shown = match[0]
        letter = looks_like.get(shown) or (shown if shown.isalnum() else "")
        if letter == run.letter and run.end:
            run = Sign(letter, run.start, match.end())
            continue
        if run.end:
            yield run
        run = Sign(letter, *match.span())
    if run.end:
        yield run


def _last(signs: list[Sign], at: int, folded: str) -> int | None:
    """Return the index of the word's last letter, if the word begins at `at`."""
    for letter in folded[1:]:
        passed = ("", signs[at].letter)
        for following in range(at + 1, min(at + FAR, len(signs))):
            if signs[following].letter == letter:
                at = following
                break
            if signs[following].letter not in passed:
                return None
        else:
            return None
    return at


def _is_word(plain: str, signs: list[Sign], first: int, last: int, letters: int, *, short: bool) -> bool:
    """Return whether these letters are read as one word, and not as parts of several.

    The end of a sentence between the letters parts them, unless every letter stands apart.
    """
    start, end = signs[first].start, signs[last].end
    shown = plain[start:end]
    gaps = sum(not sign.letter for sign in signs[first:last])
    apart = gaps >= letters - 1
    if short and ((gaps and not apart) or any(map(str.isdigit, plain[max(0, start - 1) : end + 1]))):
        return False
    return re.search(r"[a-z]", shown) is not None and (apart or not _OF_A_SENTENCE.search(shown))


def _begins(reading: Reading, start: int) -> bool:
    return start == 0 or not reading.plain[start - 1].isalpha() or _edge(reading, start)


def _ends(reading: Reading, end: int) -> bool:
    return end == len(reading.plain) or not reading.plain[end].isalpha() or _edge(reading, end)


def _edge(reading: Reading, at: int) -> bool:
    """Return whether a capital behind a small letter begins a word: SoldesLune."""
    before, behind = (reading.text[reading.places[place]] for place in (at - 1, at))
    return before.islower() and behind.isupper()
