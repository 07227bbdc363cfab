"""An organisation of the demo, with one brand: its sender, contacts, consents and campaigns."""

import asyncio
import csv
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.progress import Progress, TaskID

from stack.calling import STANDSTILL_S, Api, DemoFailed, Patience, together
from stack.demo.brands import Brand, Fact, Other, account, is_answered
from stack.demo.report import Campaign, Imported, folded

LUNE = {
    "sender_id": "maison-lune",
    "legal_name": "Maison Lune SAS",
    "brand": "Maison Lune",
    "contact": "contact@maison-lune.example",
    "country": "FR",
    "oadc": "MAISONLUNE",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Recevoir nos offres par SMS"}],
}
NORD = {
    "sender_id": "atelier-nord",
    "legal_name": "Atelier Nord SARL",
    "brand": "Atelier Nord",
    "contact": "bonjour@atelier-nord.example",
    "country": "FR",
    "oadc": "ATELIERNORD",
    "stop_code": LUNE["stop_code"],
    "purposes": [{"id": "promotions", "wording": "Recevoir nos nouveautés par SMS"}],
    "abroad": ["DE"],
}
FORM = {
    "source": "form",
    "form_id": "checkout",
    "form_version": "2026-03",
    "text_shown": "[ ] Oui, je veux recevoir les offres de Maison Lune par SMS. STOP au 36111 à tout moment.",
    "actor": "person",
}
CONSENT_BATCH = 500
POLL_S = 0.25


@dataclass(slots=True)
class House:
    """A brand with the API of its organisation. `people`: numbers as written, by E.164; `consented`: with a consent."""

    api: Api
    sender: Mapping[str, Any]
    text: str
    progress: Progress
    imported: Imported = field(default_factory=Imported)
    contacts: bytes = b""
    lines: list[str] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    consented: list[str] = field(default_factory=list)
    campaigns: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.sender["brand"])

    @property
    def oadc(self) -> str:
        return str(self.sender["oadc"])

    @property
    def brand(self) -> Brand:
        return Brand(self.name, self.oadc, frozenset(self.consented))

    async def register(self) -> None:
        await self.api.call("POST", "consent", "/v1/senders", self.sender)

    def read(self, contacts: bytes, *, without: int) -> None:
        """Read the contacts of a CSV file. All but every n-th person will consent."""
        self.contacts = contacts
        rows = csv.DictReader(contacts.decode("utf-8-sig").splitlines(), delimiter=";")
        self.lines = [row["number"] or "" for row in rows]
        for written in self.lines:
            if (e164 := folded(written)) is not None:
                self.people.setdefault(e164, written)
        self.consented = [e164 for at, e164 in enumerate(self.people) if at % without]

    async def invite(self) -> None:
        """Import the contacts, and record the consents."""
        await self._import()
        await self._consent()

    async def _import(self) -> None:
        task = self._task("contacts", 1)
        path = f"/v1/imports?sender_id={self.sender['sender_id']}"
        answer = await self.api.call("POST", "campaign", path, csv=self.contacts, key=f"{self.name} contacts")
        self.imported = msgspec.convert(answer, Imported)
        self.progress.update(task, total=self.imported.lines, completed=self.imported.lines)

    async def _consent(self) -> None:
        """Record evidence, with numbers as written by the people."""
        task = self._task("consents", len(self.consented))
        given = (datetime.now(UTC) - timedelta(days=40)).isoformat()
        items = [
            {
                "sender_id": self.sender["sender_id"],
                "purpose": "promotions",
                "number": self.people[e164],
                "basis": "opt_in",
                "occurred_at": given,
                "evidence": FORM | {"text_shown": FORM["text_shown"].replace(str(LUNE["brand"]), self.name)},
            }
            for e164 in self.consented
        ]
        for at in range(0, len(items), CONSENT_BATCH):
            batch = items[at : at + CONSENT_BATCH]
            key = f"{self.name} {at}"
            answer = await self.api.call("POST", "consent", "/v1/consents/batch", {"items": batch}, key=key)
            refused = [r for r in answer["results"] if r["verdict"] == "refused"]
            if refused:
                raise DemoFailed(f"{len(refused)} consents refused: {refused[0]['reasons']}")
            self.progress.advance(task, len(batch))

    async def campaign(self, *meanwhile: Coroutine[Any, Any, None]) -> None:
        """Run the next campaign to all contacts, and `meanwhile` once the campaign has begun."""
        name = self._called(len(self.campaigns) + 1)
        campaign = await self.api.call(
            "POST",
            "campaign",
            "/v1/campaigns",
            {
                "sender_id": self.sender["sender_id"],
                "name": name,
                "purpose": "promotions",
                "text": self.text,
                "audience": {"all": True},
            },
            key=name,
        )
        self.campaigns.append(str(campaign["campaign_id"]))
        await self.api.call("POST", "campaign", f"/v1/campaigns/{self.campaigns[-1]}/schedule", {})
        await together(self._finished(self.campaigns[-1], name), *meanwhile)

    async def _finished(self, identity: str, name: str) -> None:
        """Wait until the campaign is finished; repeated deferrals of a message are no progress."""
        task: TaskID | None = None
        patience = Patience()
        while True:
            told = await self.api.call("GET", "campaign", f"/v1/campaigns/{identity}")
            s = told["statistics"]
            decided = s["audience"] - s["pending"] - s["deferred"]
            if s["audience"] and task is None:
                task = self.progress.add_task(f"{name} decided", total=s["audience"])
            if task is not None:
                self.progress.update(task, completed=decided)
            if told["status"] == "finished":
                return
            if patience.ends((told["status"], s["audience"], decided), asyncio.get_running_loop().time()):
                raise DemoFailed(f"{name} is {told['status']}, and nothing has moved for {STANDSTILL_S:g} s: {s}")
            await asyncio.sleep(POLL_S)

    async def known(self) -> None:
        """Wait until consent-svc has every hand-off of the last campaign, which then explains a STOP."""
        identity = self.campaigns[-1]
        told = await self.api.call("GET", "campaign", f"/v1/campaigns/{identity}")
        left = told["statistics"]["handed_off"]
        patience = Patience()
        while True:
            bundle = await self.api.answer("GET", "consent", f"/v1/proofs/campaigns/{identity}")
            found = bundle.content.count(b'"handed_off_at"')
            if found >= left:
                return
            if patience.ends(found, asyncio.get_running_loop().time()):
                raise DemoFailed(f"consent-svc knows {found} of {left} messages of {identity}")
            await asyncio.sleep(POLL_S)

    async def knows(self, number: str) -> bool:
        """Return whether the outcome of the last campaign's message to a person was never in doubt."""
        last = self.campaigns[-1]
        return any(is_answered(each) for each in await self._messages(number) if each["campaign_id"] == last)

    async def account_of(self, other: Other) -> list[str]:
        """Return the services' account of a person who was cut off from this brand."""
        names = {identity: self._called(place) for place, identity in enumerate(self.campaigns, start=1)}
        timeline = await self.api.call("POST", "consent", "/v1/timeline", {"number": other.number})
        return account(other, await self._messages(other.number), timeline["items"], names)

    async def _messages(self, number: str) -> list[Fact]:
        """Return the brand's messages to a person, newest first."""
        body = {"number": number, "sender_id": self.sender["sender_id"]}
        return list((await self.api.call("POST", "dispatch", "/v1/messages/search", body))["items"])

    async def accounts(self) -> list[Campaign]:
        """Return the API's account of each campaign."""
        found = []
        for number, identity in enumerate(self.campaigns, start=1):
            path = f"/v1/campaigns/{identity}"
            recipients = {
                r["message_id"]: r["status"] async for r in self.api.pages("campaign", f"{path}/recipients?limit=1000")
            }
            told = await self.api.call("GET", "campaign", path)
            found.append(Campaign(self._called(number), self.oadc, told["statistics"], recipients))
        return found

    def _called(self, number: int) -> str:
        return f"{self.name} {number}"

    def _task(self, what: str, total: float) -> TaskID:
        return self.progress.add_task(f"{self.name} {what}", total=total)
