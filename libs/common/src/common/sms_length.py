"""How many SMS a text is, as operators count and as a handset gets it. Pure (DOMAIN 5; 3GPP TS 23.038)."""

import re
from dataclasses import dataclass
from typing import Literal

MAX_SEGMENTS = 10  # Twilio for French short codes; OVH stops at 6 (DOMAIN 1.7)

GSM7_SINGLE, GSM7_PART = 160, 153
UCS2_SINGLE, UCS2_PART = 70, 67
GSM7_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM7_EXTENSION = "\f^{}\\[~]|€"

_BASIC = re.compile(f"[{re.escape(GSM7_BASIC)}]*")
_GSM7 = re.compile(f"[{re.escape(GSM7_BASIC + GSM7_EXTENSION)}]*")


@dataclass(frozen=True, slots=True)
class Length:
    """What a text costs. `units`: septets (GSM7) or UTF-16 units (UCS2)."""

    encoding: Literal["GSM7", "UCS2"]
    units: int
    segments: int


def length(text: str) -> Length:
    """Counted as a handset gets it: an escaped character or a surrogate pair is never split over two parts."""
    if _BASIC.fullmatch(text):
        units = len(text)
        return Length("GSM7", units, 1 if units <= GSM7_SINGLE else -(-units // GSM7_PART))
    if _GSM7.fullmatch(text):
        costs = [2 if character in GSM7_EXTENSION else 1 for character in text]
        return Length("GSM7", sum(costs), _segments(costs, GSM7_SINGLE, GSM7_PART))
    costs = [2 if character > "\uffff" else 1 for character in text]
    return Length("UCS2", sum(costs), _segments(costs, UCS2_SINGLE, UCS2_PART))


def _segments(costs: list[int], single: int, part: int) -> int:
    if sum(costs) <= single:
        return 1
    segments, used = 1, 0
    for cost in costs:
        if used + cost > part:
            segments, used = segments + 1, 0
        used += cost
    return segments
