"""Check the STOP mention required in every French marketing SMS (CPCE L34-5; DOMAIN 1.7 and 1.11). Pure.

campaign-svc checks a text as the text is written; the gate checks the final text again.
"""

import re
from functools import lru_cache

_BETWEEN = 12  # maximum characters between STOP and the code


def mentions_stop(text: str, stop_code: str) -> bool:
    """Return whether `text` says how to stop: « STOP », and within 12 characters the sender's 5-digit code."""
    at = text.find(stop_code)  # skips most of the text
    return at >= 0 and _pattern(stop_code).search(text, max(0, at - _BETWEEN - len("STOP"))) is not None


@lru_cache(maxsize=256)
def _pattern(stop_code: str) -> re.Pattern[str]:
    return re.compile(rf"\bSTOP\b.{{0,{_BETWEEN}}}\b{re.escape(stop_code)}\b", re.IGNORECASE)
