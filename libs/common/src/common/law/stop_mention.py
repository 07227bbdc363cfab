"""The STOP mention every French marketing SMS carries (CPCE L34-5; DOMAIN 1.7 and 1.11). Pure.

Checked when a campaign is written and again at the gate, on the text as it leaves.
"""

import re
from functools import lru_cache

_BETWEEN = 12  # characters at most between STOP and the code


def mentions_stop(text: str, stop_code: str) -> bool:
    """Does `text` tell how to stop: « STOP », then within 12 characters the sender's own 5-digit code?"""
    at = text.find(stop_code)  # most of a text need not be looked through
    return at >= 0 and _pattern(stop_code).search(text, max(0, at - _BETWEEN - len("STOP"))) is not None


@lru_cache(maxsize=256)
def _pattern(stop_code: str) -> re.Pattern[str]:
    return re.compile(rf"\bSTOP\b.{{0,{_BETWEEN}}}\b{re.escape(stop_code)}\b", re.IGNORECASE)
