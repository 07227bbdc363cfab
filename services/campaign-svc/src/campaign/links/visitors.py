"""Who opens a link: a person, or a machine that looks at links. Pure.

A click is contact from the person and prolongs how long their data may be kept (DOMAIN 1.4), so that doubt counts as a
machine: what counts is a GET for a page to be shown, from what calls itself a browser, and no known reader of links.
A scanner that passes itself off as a browser in every header is not told apart.
"""

import re
from collections.abc import Mapping

# Robots name themselves by these words; messengers and networks that draw a preview by their names. A messenger on a
# phone asks for its preview itself, hence "facebookexternalhit", which iMessage says as well. Cubot makes phones.
_MACHINES = re.compile(
    r"(?<!cu)bot\b|crawl|spider|slurp|scan|preview|prefetch|fetch|monitor|headless|externalhit|facebot|whatsapp|telegram"
    r"|skypeuri|slack|discord|vkshare|pinterest|embedly|mediapartners|adsbot|lighthouse|safelinks|urldefense|proofpoint"
    r"|mimecast|barracuda|python|curl|wget|java/|okhttp|go-http|libwww|httpclient|axios|node-",
    re.IGNORECASE,
)
_AHEAD = ("purpose", "x-purpose", "sec-purpose", "x-moz")  # how browsers say that nobody has asked yet


def is_person(method: str, headers: Mapping[str, str]) -> bool:
    """`headers`: names in small letters."""
    said = headers.get("user-agent", "")
    if method != "GET" or not said.startswith("Mozilla/") or _MACHINES.search(said):
        return False
    if any(word in headers.get(name, "").lower() for name in _AHEAD for word in ("prefetch", "preview", "prerender")):
        return False
    # browsers of today say what they ask for; one that says nothing is an old one
    return headers.get("sec-fetch-mode", "navigate") == "navigate" and headers.get("sec-fetch-dest", "document") == (
        "document"
    )
