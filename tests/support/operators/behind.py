"""Placet behind a gateway of an operator's: senders with their people, campaigns, and what the ledger says of them."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg

from stack.calling import Api
from stack.running import Stack
from tests.support.eventually import eventually

OADC = "MAISONLUNE"
FORM = {"source": "form", "form_id": "checkout", "form_version": "3", "text_shown": "Oui, je veux les offres par SMS"}
codes = itertools.count(36200)


def number(n: int) -> str:
    return f"+3363998{n:04d}"


@dataclass
class Sender:
    """A sender with a code, people and a text of its own."""

    sender_id: str
    code: str
    people: Sequence[str]
    text: str
    campaigns: list[str] = field(default_factory=list)


@dataclass
class Behind:
    """`within_s`: a campaign ends."""

    stack: Stack
    api: Api
    within_s: float

    async def sender(self, people: Iterable[int], text: Callable[[str], str], code: str | None = None) -> Sender:
        """Register a sender with a code of its own, and the consent of these people."""
        code = code or str(next(codes))
        made = Sender("s" + uuid4().hex[:8], code, [number(n) for n in people], text(code))
        await self.api.call(
            "POST",
            "consent",
            "/v1/senders",
            {
                "sender_id": made.sender_id,
                "legal_name": "Maison Lune SAS",
                "brand": "Maison Lune",
                "contact": "contact@maison-lune.example",
                "country": "FR",
                "oadc": OADC,
                "stop_code": code,
                "controller": "maison-lune",
                "stop_scope": "sender",
                "purposes": [{"id": "promotions", "wording": "Nos offres"}],
            },
        )
        given = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        for at in range(0, len(made.people), 500):
            items = [
                {
                    "sender_id": made.sender_id,
                    "purpose": "promotions",
                    "number": each,
                    "basis": "opt_in",
                    "occurred_at": given,
                    "evidence": FORM,
                }
                for each in made.people[at : at + 500]
            ]
            await self.api.call("POST", "consent", "/v1/consents/batch", {"items": items}, key=f"{code} {at}")
        lines = "number\n" + "\n".join(made.people)
        path = f"/v1/imports?sender_id={made.sender_id}"
        await self.api.call("POST", "campaign", path, csv=lines.encode(), key=f"contacts {code}")
        return made

    async def campaign(self, sender: Sender) -> str:
        body = {
            "sender_id": sender.sender_id,
            "name": "Samedi",
            "purpose": "promotions",
            "text": sender.text,
            "audience": {"all": True},
        }
        key = f"campaign {sender.code} {len(sender.campaigns)}"
        created = await self.api.call("POST", "campaign", "/v1/campaigns", body, key=key)
        identity = str(created["campaign_id"])
        sender.campaigns.append(identity)
        await self.api.call("POST", "campaign", f"/v1/campaigns/{identity}/schedule", {"acknowledge": ["many_parts"]})
        return identity

    async def finished(self, campaign: str) -> Mapping[str, int]:
        """Wait for the campaign's end, its numbers checked: they add up at every instant."""

        async def look() -> Mapping[str, int]:
            found = await self.api.call("GET", "campaign", f"/v1/campaigns/{campaign}")
            s: Mapping[str, int] = found["statistics"]
            assert s["audience"] == s["pending"] + s["denied"] + s["deferred"] + s["handed_off"] + s["expired"], s
            assert s["handed_off"] == s["accepted"] + s["rejected"] + s["unknown"], s
            assert found["status"] == "finished", found
            return s

        return await eventually(look, within_s=self.within_s)

    async def counted(self, senders: Iterable[Sender]) -> Counter[tuple[str, str | None]]:
        """Count their marketing by status and receipt, in the ledger itself."""
        connection = await asyncpg.connect(self.stack.databases["dispatch"])
        try:
            rows = await connection.fetch(
                "SELECT status, receipt, count(*) FROM message WHERE sender_id = ANY($1) AND category = 'marketing'"
                " GROUP BY 1, 2",
                [each.sender_id for each in senders],
            )
        finally:
            await connection.close()
        return Counter({(row[0], row[1]): row[2] for row in rows})

    async def enforced(self) -> set[str]:
        """Return the operator's ids of the STOPs that are enforced."""
        pages = self.api.pages("dispatch", "/v1/enforcements?limit=1000")
        return {str(e["reference"]).rpartition("/")[2] async for e in pages if e["enforced_at"] and e["reference"]}
