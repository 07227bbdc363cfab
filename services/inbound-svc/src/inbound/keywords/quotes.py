"""The person's own words in a text: without quoted lines, a signature, or a phone's reaction. Pure.

A reaction repeats our message: "A aimé « ... STOP au 36111 »".
"""

import re
from collections.abc import Sequence

from inbound.keywords.normal import normalise, words_of

MAY_QUOTE = re.compile(r"[>\n«“„‟\"»”]")
QUOTED = re.compile(r"«[^«»]*»|“[^“”]*”|„[^„“”]*[“”]|\"[^\"]*\"")
QUOTED_LINE = re.compile(r"^\s*>")
SIGNATURE = re.compile(r"^\s*(?:--+|__+|—+)\s*$")
LONG_QUOTE_WORDS = 4  # a shorter quotation is the person's own: « STOP »


def own_words(text: str, wrote: Sequence[str]) -> str:
    """Return `text` without its quotations, or all of `text` where nothing else remains.

    `wrote`: the endings of a line before a quotation ("a ecrit", "wrote").
    """
    if MAY_QUOTE.search(text) is None:
        return text
    lines: list[str] = []
    for line in text.splitlines():
        if SIGNATURE.match(line) or (line.rstrip().endswith(":") and str(normalise(line)).endswith(tuple(wrote))):
            break
        if not QUOTED_LINE.match(line):
            lines.append(line)
    own = QUOTED.sub(lambda quote: " " if _long(quote.group()) else quote.group(), "\n".join(lines))
    nothing_dropped = own == "\n".join(text.splitlines())
    return text if nothing_dropped or not words_of(normalise(own).clauses) else own


def _long(quote: str) -> bool:
    return len(words_of(normalise(quote).clauses)) >= LONG_QUOTE_WORDS
