"""Count the SMS of a text, as operators and handsets count. Pure (DOMAIN 5; 3GPP TS 23.038)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_SEGMENTS = 10  # Twilio for French short codes; OVH stops at 6 (DOMAIN 1.7)
STOP_ANSWER_SEGMENTS = 2  # the longest answer to a STOP: no gateway for such answers takes less

GSM7_SINGLE, GSM7_PART = 160, 153
UCS2_SINGLE, UCS2_PART = 70, 67
GSM7_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM7_EXTENSION = "\f^{}\\[~]|€"

Encoding = Literal["GSM7", "UCS2"]

_HOLDS: dict[Encoding, tuple[int, int]] = {"GSM7": (GSM7_SINGLE, GSM7_PART), "UCS2": (UCS2_SINGLE, UCS2_PART)}
_BASIC = re.compile(f"[{re.escape(GSM7_BASIC)}]*")
_BASIC_BYTES = GSM7_BASIC.encode("latin-1", "ignore")
_GSM7 = re.compile(f"[{re.escape(GSM7_BASIC + GSM7_EXTENSION)}]*")
_PAIR = re.compile("[\U00010000-\U0010ffff]")
_OUTSIDE = re.compile(f"[^{re.escape(GSM7_BASIC + GSM7_EXTENSION)}]")


@dataclass(frozen=True, slots=True)
class Length:
    """The size of a text. `units`: septets (GSM7) or UTF-16 units (UCS2)."""

    encoding: Encoding
    units: int
    segments: int


@dataclass(frozen=True, slots=True)
class Place:
    """A character of a text. `at`: position in characters, from 1."""

    character: str
    at: int


def length(text: str) -> Length:
    """Return the size of a text; no part splits an escaped character or a surrogate pair."""
    if _BASIC.fullmatch(text):
        return _of_singles("GSM7", len(text))
    if not _GSM7.fullmatch(text) and not _PAIR.search(text):
        return _of_singles("UCS2", len(text))
    encoding, costs = _costs(text)
    return Length(encoding, sum(costs), sum(1 for _ in _ends(encoding, costs)))


def segments(text: str) -> int:
    """Return how many SMS the text needs, as `length` counts, in about a third of the time for a usual text."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return length(text).segments
    if raw.translate(None, _BASIC_BYTES):  # a character of another encoding, or of two units
        return length(text).segments
    return 1 if len(raw) <= GSM7_SINGLE else -(-len(raw) // GSM7_PART)


def fits(text: str) -> bool:
    """Return whether the text needs at most MAX_SEGMENTS.

    A character costs at most two units, and a part wastes at most one: a short text need not be counted.
    """
    return len(text) <= MAX_SEGMENTS * (UCS2_PART // 2) or length(text).segments <= MAX_SEGMENTS


def parts(text: str) -> tuple[str, ...]:
    """Cut the text into its SMS, as `length` counts; an empty text gives a part."""
    ends = list(_ends(*_costs(text)))
    return tuple(text[start:end] for start, end in zip([0, *ends], ends, strict=False))


def outside_gsm7(text: str) -> tuple[Place, ...]:
    """Return the characters that force UCS-2, which more than halves an SMS."""
    return tuple(Place(found[0], found.start() + 1) for found in _OUTSIDE.finditer(text))


def _of_singles(encoding: Encoding, units: int) -> Length:
    """Return the size of a text whose characters cost one unit each."""
    single, part = _HOLDS[encoding]
    return Length(encoding, units, 1 if units <= single else -(-units // part))


def _costs(text: str) -> tuple[Encoding, list[int]]:
    """Return the encoding, and each character's cost in units."""
    if _GSM7.fullmatch(text):
        return "GSM7", [2 if character in GSM7_EXTENSION else 1 for character in text]
    return "UCS2", [2 if character > "\uffff" else 1 for character in text]


def _ends(encoding: Encoding, costs: list[int]) -> Iterator[int]:
    """Yield the end of each part, in characters."""
    single, part = _HOLDS[encoding]
    if sum(costs) > single:
        used = 0
        for at, cost in enumerate(costs):
            if used + cost > part:
                yield at
                used = 0
            used += cost
    yield len(costs)
