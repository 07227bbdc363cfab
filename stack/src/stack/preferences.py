"""Make a link to the preference page of a person on record, in the stack started by `make up` (`make page`).

The sender is used nowhere else, so the page does not touch a developer's own data.
"""

import json
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

NUMBER = "06 39 98 77 01"
SENDER = {
    "sender_id": "librairie-aube",
    "legal_name": "Librairie de l’Aube SARL",
    "brand": "Librairie de l’Aube",
    "contact": "bonjour@librairie-aube.example",
    "country": "FR",
    "oadc": "AUBE",
    "stop_code": "36222",
    "purposes": [
        {"id": "promotions", "wording": "Nos nouveautés et nos soldes"},
        {"id": "encounters", "wording": "Les rencontres avec des auteurs"},
        {"id": "loyalty", "wording": "Les avantages de votre carte"},
    ],
}
WORDS = "Oui, je veux recevoir les rendez-vous de la Librairie de l’Aube par SMS. STOP au 36222 à tout moment."
GIVEN = (  # purpose, basis, evidence, age in days
    (
        "encounters",
        "opt_in",
        {"source": "formulaire-boutique", "form_id": "rencontres", "form_version": "3", "text_shown": WORDS},
        200,
    ),
    (
        "promotions",
        "soft_opt_in",
        {"source": "caisse", "form_id": "ticket", "form_version": "12", "sale_reference": "T-2026-0412"},
        45,
    ),
)


def link(url: str, token: str, number: str = NUMBER) -> str:
    """Put the person on record, once over all calls, and return the address of the page."""

    def post(path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)  # noqa: S310  (our own URL)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    sender_id = SENDER["sender_id"]
    post("/v1/senders", SENDER)
    today = datetime.now(UTC).replace(hour=9, minute=30, second=0, microsecond=0)
    for purpose, basis, evidence, days in GIVEN:
        said = {"sender_id": sender_id, "purpose": purpose, "number": number, "basis": basis, "evidence": evidence}
        post("/v1/consents", said | {"occurred_at": (today - timedelta(days=days)).isoformat()})
    return str(post("/v1/preference-links", {"sender_id": sender_id, "number": number})["url"])
