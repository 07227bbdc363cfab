"""Tell persons from machines among visitors of a link. Pure.

A click is contact from the person and prolongs retention (DOMAIN 1.4), so doubt counts as a machine. A scanner with a
browser's headers passes for a person.
"""

import re
from collections.abc import Mapping

# Robots, and messengers and networks which draw a preview. A messenger on a phone fetches the preview itself; iMessage
# calls itself "facebookexternalhit". Cubot makes phones.
_MACHINES = re.compile(
    r"(?<!cu)bot\b|crawl|spider|slurp|scan|preview|prefetch|fetch|monitor|headless|externalhit|facebot|whatsapp|telegram"
    r"|skypeuri|slack|discord|vkshare|pinterest|embedly|mediapartners|adsbot|lighthouse|safelinks|urldefense|proofpoint"
    r"|mimecast|barracuda|python|curl|wget|java/|okhttp|go-http|libwww|httpclient|axios|node-",
    re.IGNORECASE,
)
_AHEAD = ("purpose", "x-purpose", "sec-purpose", "x-moz")  # sent by browsers which prefetch


def is_person(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether the visitor is a person. Header names are in lower case."""
    said = headers.get("user-agent", "")
    if method != "GET" or not said.startswith("Mozilla/") or _MACHINES.search(said):
        return False
    if any(word in headers.get(name, "").lower() for name in _AHEAD for word in ("prefetch", "preview", "prerender")):
        return False
    # old browsers do not send these headers
    return headers.get("sec-fetch-mode", "navigate") == "navigate" and headers.get("sec-fetch-dest", "document") == (
        "document"
    )
