"""The reader on texts in twenty scripts: nothing loosens by accident, and no STOP disappears between foreign words.

In the suite always the same few texts; `make fuzz T=tests/property/test_keyword_scripts.py` reads others for
FUZZ_SECONDS.
"""

import os
import time
import unicodedata
from random import Random

import pytest

from inbound.keywords import classify
from inbound.keywords.lists import CURRENT

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FEW = 400  # texts where there is no time
LETTERS = 60  # of a script

LISTED = {"Latin": 0x61, "Arabic": 0x627}
WITHOUT_LISTS = {
    "Armenian": 0x561,
    "Devanagari": 0x905,
    "Bengali": 0x985,
    "Gurmukhi": 0xA05,
    "Gujarati": 0xA85,
    "Tamil": 0xB85,
    "Telugu": 0xC05,
    "Kannada": 0xC85,
    "Malayalam": 0xD05,
    "Sinhala": 0xD85,
    "Thai": 0xE01,
    "Lao": 0xE81,
    "Georgian": 0x10D0,
    "Ethiopic": 0x1200,
    "Khmer": 0x1780,
    "Tifinagh": 0x2D30,
    "Hiragana": 0x3041,
    "Hangul": 0xAC00,
}
FEW_WORDS = {"Greek": 0x3B1, "Cyrillic": 0x430, "Hebrew": 0x5D0, "Han": 0x4E00}
SCRIPTS = LISTED | WITHOUT_LISTS | FEW_WORDS

WISHES = ("STOP", "stop", "arrêtez", "désinscription", "unsubscribe", "BAJA", "abmelden", "توقف", "STOP svp", "S T O P")
LOOSENING = ("START", "OUI", "YES", "unstop", "reprendre")
BETWEEN = ("\n", ". ", " ! ", "\n\n", " — ", "… ")
HIDDEN = ("\u200b", "\u200d", "\u2060", "\ufeff", "\u202a", "\u00ad", "\ufe0f", "\u0301", "\u0327")


def letters(script: str) -> str:
    start = SCRIPTS[script]
    return "".join(
        char for char in map(chr, range(start, start + LETTERS)) if unicodedata.category(char) in ("Lo", "Ll")
    )


def words(dice: Random, script: str) -> str:
    """Words of a script, and now and then a number, an emoji or a hidden character.

    A word has four letters or more: "mr" after a START is courtesy, and may be there.
    """
    alphabet = letters(script)
    said = ["".join(dice.choices(alphabet, k=dice.randint(4, 9))) for _ in range(dice.randint(1, 12))]
    if dice.random() < 0.2:
        said.insert(dice.randrange(len(said) + 1), dice.choice(["36111", "20", "🙏", "😡", "?", "!!", *HIDDEN]))
    return " ".join(said)


def look(dice: Random) -> None:
    """Read a text of one script, alone and beside a wish, and a text of several."""
    script = dice.choice(list(SCRIPTS))
    text = words(dice, script)
    alone = classify(text)
    assert 0.0 <= alone.score <= 1.0, ascii(text)
    assert alone.rule.partition(":")[0] in (*CURRENT, "likeness-1"), ascii(text)
    assert alone.intent not in ("start", "confirm"), ascii(text)
    if script in WITHOUT_LISTS:
        assert alone.intent == "review", ascii(text)

    wish = dice.choice(WISHES)
    beside = dice.choice([f"{wish}{dice.choice(BETWEEN)}{text}", f"{text}{dice.choice(BETWEEN)}{wish}"])
    assert classify(beside).intent in ("stop", "review"), ascii(beside)

    place = dice.randrange(len(wish) + 1)
    hidden = wish[:place] + dice.choice(HIDDEN) + wish[place:]
    assert classify(hidden).intent == "stop", ascii(hidden)

    loosening = f"{dice.choice(LOOSENING)} {text}"
    assert classify(loosening).intent not in ("start", "confirm"), ascii(loosening)

    mixed = " ".join(words(dice, each) for each in dice.sample(list(SCRIPTS), 3))
    assert classify(mixed).intent not in ("start", "confirm"), ascii(mixed)


@pytest.mark.timeout(60 + int(2 * FUZZ_SECONDS))
def test_twenty_scripts_loosen_nothing_and_hide_no_wish() -> None:
    assert len(SCRIPTS) >= 20
    assert all(len(letters(script)) >= 20 for script in SCRIPTS)
    if not FUZZ_SECONDS:
        dice = Random(7)
        for _ in range(FEW):
            look(dice)
        return
    dice, read, until = Random(), 0, time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < until:
        look(dice)
        read += 1
    print(f"\nthe reader: {5 * read:,} texts in {len(SCRIPTS)} scripts")  # noqa: T201
