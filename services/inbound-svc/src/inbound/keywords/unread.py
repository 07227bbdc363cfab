"""Tell whether the rules could read a text at all: the script and the language of a text. Pure.

A text without a listed word may still ask to stop, in Tamil or in Turkish. `hardly_read` finds such texts, so that a
reviewer reads them; no rule guesses what they say.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

from inbound.keywords.normal import Normal, normalise

ADDRESS = re.compile(r"\S*(?:@|://|www\.)\S*")
OF_ADDRESS = ("@", "://", "www.")  # one of them stands in every address
FEW_WORDS = 3  # fewer words in Latin letters are a name, or a word that the lists do not have
WESTERN = frozenset("àáâãäåæçèéêëìíîïñòóôõöøœùúûüýÿß")  # letters of the listed languages
ARABIC_BY_DIGITS = re.compile(r"[a-z]*[379][a-z]{3,}[379a-z]*")  # "3afak", "wa9fou": Arabic in Latin letters
BEFORE_A_WORD = ("j", "l", "d", "m", "n", "t", "s", "c", "qu", "ال", "و")  # "jarrive"
LATIN_WITHOUT_MARK = frozenset("ığłđħəŋ")  # letters of other languages, which have no combining mark to drop


def hardly_read(text: str, plain: Normal, known: Collection[str], traffic: Collection[str]) -> bool:
    """Return whether hardly a word of the text is known. `plain`: the text normalised.

    In a script of no listed language, with letters of none, or beside a word of `traffic` (SMS, message: the same in
    many languages), half of the words have to be known; else a third. A text without words (emoji, numbers, an
    address) is read.
    """
    clauses = plain.clauses
    if any(map(text.__contains__, OF_ADDRESS)):
        clauses = normalise(ADDRESS.sub(" ", text)).clauses
    said = [word for clause in clauses for word in clause if not word.isdigit()]
    said = [word for word in said if len(word) > 1 or not word.isascii()]
    read = sum([_known(word, known) for word in said])
    is_foreign = not text.isascii() and any(map(_foreign, [char for char in text if not char.isascii()]))
    if is_foreign or any(map(ARABIC_BY_DIGITS.fullmatch, [word for word in said if not word.isalpha()])):
        return 2 * read < len(said)
    others = [word for word in said if word not in traffic]
    if len(others) < len(said):
        return 2 * sum([_known(word, known) for word in others]) < len(others)
    return len(said) >= FEW_WORDS and 3 * read < len(said)


def _known(word: str, known: Collection[str]) -> bool:
    if not word.isalpha():
        word = word.strip("0123456789") or word
    return word in known or any(word.startswith(each) and word[len(each) :] in known for each in BEFORE_A_WORD)


@lru_cache(maxsize=4096)
def _foreign(char: str) -> bool:
    """Return whether a letter is in no alphabet of the listed languages. Fonts ("𝐒") are no letters of their own."""
    for each in unicodedata.normalize("NFKC", char).casefold():
        if unicodedata.category(each)[0] != "L" or each.isascii() or each in WESTERN:
            continue
        name = unicodedata.name(each, "")
        if not name.startswith("LATIN ") or each in LATIN_WITHOUT_MARK:
            return True
        marked = unicodedata.normalize("NFD", each)
        if len(marked) > 1 and marked[0].isascii():
            return True
    return False
