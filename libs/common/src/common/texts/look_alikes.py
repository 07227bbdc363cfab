"""Know the letters and signs that are drawn like others. Pure.

`LETTERS` and `SIGNS` hold after case folding, `BEFORE_FOLDING` before: folding makes another letter of these.
"""

import unicodedata

# letters drawn as symbols; NFKC folds mathematical, circled and full-width letters
_DRAWN = (
    "NEGATIVE CIRCLED LATIN CAPITAL LETTER ",
    "NEGATIVE SQUARED LATIN CAPITAL LETTER ",
    "REGIONAL INDICATOR SYMBOL LETTER ",
    "LATIN LETTER SMALL CAPITAL ",
)
_LETTERS = {
    "a": "аαɑ₳", "b": "вβƅ฿", "c": "с¢₵", "d": "đðԁɗ₫", "e": "еεєɛ", "f": "ƒ₣", "g": "ɡɢ₲", "h": "нһħ", "i": "ıіιɩ",
    "j": "јʝ", "k": "кκ₭", "l": "łӏǀ", "m": "мϻ₥", "n": "ոηпɴ₦",
    "o": "оοøөօ", "p": "рρ₱", "q": "ԛ", "r": "гɾʀ", "s": "ѕσꜱ",
    "t": "тτŧ₮", "u": "υսʋ", "v": "νѵ", "w": "ѡωԝш₩", "x": "хχ", "y": "уγү", "z": "ᴢƶ",
}  # fmt: skip
_SIGNS = {"-": "−", "%": "٪", ".": "。｡·•․", "'": "’ʼ"}

LETTERS = {drawn: plain for plain, drawings in _LETTERS.items() for drawn in drawings}
SIGNS = {drawn: plain for plain, drawings in _SIGNS.items() for drawn in drawings}
BEFORE_FOLDING = dict(zip("ΒΗΜΝΥВНРСТУХМКГϲϹ", "bhmnybhpctyxmkrcc", strict=True))


def letter_drawn(char: str) -> str:
    """Return the capital that a symbol draws, or else the character."""
    name = unicodedata.name(char, "")
    for prefix in _DRAWN:
        if name.startswith(prefix) and len(name) == len(prefix) + 1:
            return name[-1]
    return char
