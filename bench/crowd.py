"""Make the people, the senders and the texts of `bench.steady`, and store them by the services' own imports.

The people of a sender are its contacts, and differ in what the law lets the sender write to them (KINDS). The numbers
lie among real mobiles (see bench.consent); no message leaves this machine.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import httpx

from bench.campaign import HEADER, NAMES
from bench.campaign import TEXT as PERSONAL_UCS2
from bench.consent import EVIDENCE, SENDER
from bench.whole import PURPOSE, Whole
from bench.whole import TEXT as PLAIN_GSM7

FIRST = 40_000_000  # first number, of eight digits after +336
OTHER_PURPOSE = "news"
CITIES = ("Lyon", "Nantes", "Brest", "")
TEXTS = {  # of campaigns, in turn
    "GSM-7": PLAIN_GSM7,
    "GSM-7, personal": "{first_name|Bonjour}, {if loyalty = or}-30 %{else}-20 %{end} chez Banc ce samedi. {stop}",
    "UCS-2": "Fête d’hiver chez Banc : -20 % sur tout, dès demain… {stop}",
    "UCS-2, personal, two SMS": PERSONAL_UCS2,
    "with a link to stop": "Banc : vos points expirent bientot. {stop} ou {stop_link}",
}
RECENT, LONG_AGO = timedelta(days=90), timedelta(days=5 * 365)  # a consent lasts 36 months
WITHIN_S = 300.0
LOOK_EVERY_S = 0.1


class Kind(StrEnum):
    OPTED_IN = "opted in"
    OPTED_OUT = "opted out"
    NEVER_ASKED = "never asked"
    EXPIRED = "expired"
    OTHER_PURPOSE = "another purpose"
    OTHER_SENDER = "another sender"
    BLOCKED = "blocked by the provider"


KINDS: Mapping[Kind, int] = {  # of a hundred people
    Kind.OPTED_IN: 80,
    Kind.OPTED_OUT: 6,
    Kind.NEVER_ASKED: 5,
    Kind.EXPIRED: 3,
    Kind.OTHER_PURPOSE: 2,
    Kind.OTHER_SENDER: 2,
    Kind.BLOCKED: 2,
}
_BY_PLACE = [kind for kind, share in KINDS.items() for _ in range(share)]
STEP = 37  # without a factor of a hundred: every kind lies between the others


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many senders, each with so many contacts of its own."""

    senders: int
    contacts: int

    def people(self, sender: int) -> range:
        return range(sender * self.contacts, (sender + 1) * self.contacts)

    def opted_in(self) -> list[int]:
        """Return the people who have opted in, those of one sender after another's."""
        each = range(self.senders)
        return [n for place in range(self.contacts) for n in (self.people(s)[place] for s in each) if may(n)]

    def sender_of(self, person: int) -> int:
        return person // self.contacts

    def sender(self, sender: int) -> Mapping[str, object]:
        """Return the registration of a sender, a controller of its own."""
        told = {"sender_id": f"bench-{sender}", "legal_name": f"Banc {sender} SAS", "brand": f"Banc {sender}"}
        purposes = [{"id": name, "wording": "Offres par SMS"} for name in (PURPOSE, OTHER_PURPOSE)]
        return SENDER | told | {"oadc": f"BANC{sender}", "stop_code": stop_code(sender), "purposes": purposes}

    def consents(self, sender: int, now: datetime) -> bytes:
        """Return the file of consents that the sender holds."""
        neighbour = (sender - 1) % self.senders
        lines = ["number,kind,purpose,occurred_at"]
        told = [(n, *said) for n in self.people(sender) for said in _said(kind_of(n))]
        told += [(n, "opt_in", PURPOSE, RECENT) for n in self.people(neighbour) if kind_of(n) is Kind.OTHER_SENDER]
        lines += [f"{number(n)},{kind},{purpose},{(now - ago).isoformat()}" for n, kind, purpose, ago in told]
        return "\n".join([*lines, ""]).encode()

    def file(self, sender: int) -> bytes:
        """Return the file of the sender's contacts."""
        rows = [
            f"{number(n)};{NAMES[n % len(NAMES)]};{CITIES[n % len(CITIES)]};{('or', 'argent')[n % 2]};{n % 500}\n"
            for n in self.people(sender)
        ]
        return "".join([HEADER, *rows]).encode()


def _said(kind: Kind) -> Sequence[tuple[str, str, timedelta]]:
    """Return the lines of a person of this kind: the kind of the line, the purpose, the age.

    consent-svc erases a person whose last consent has ended, so a person with an ended consent has another one.
    """
    match kind:
        case Kind.OPTED_IN | Kind.BLOCKED:
            return (("opt_in", PURPOSE, RECENT),)
        case Kind.OPTED_OUT:
            return (("opt_out", PURPOSE, RECENT),)
        case Kind.EXPIRED:
            return (("opt_in", PURPOSE, LONG_AGO), ("opt_in", OTHER_PURPOSE, RECENT))
        case Kind.OTHER_PURPOSE:
            return (("opt_in", OTHER_PURPOSE, RECENT),)
        case Kind.NEVER_ASKED | Kind.OTHER_SENDER:
            return ()


def kind_of(person: int) -> Kind:
    return _BY_PLACE[person * STEP % len(_BY_PLACE)]


def may(person: int) -> bool:
    """Return whether the person's own sender may write to the person."""
    return kind_of(person) is Kind.OPTED_IN


def number(person: int) -> str:
    return f"+336{FIRST + person:08d}"


def stop_code(sender: int) -> str:
    return str(36_111 + sender)


async def store(whole: Whole, crowd: Crowd, now: datetime, subjects: Sequence[str], gateway: str) -> None:
    """Register the senders, import consents and contacts, and return once all services know them.

    `subjects`: the ids of all people. `gateway`: the one whose provider blocks people.
    """
    at_consent = whole.ground.environment.urls["consent"]
    for sender in range(crowd.senders):
        (await whole.client.post(f"{at_consent}/v1/senders", json=crowd.sender(sender))).raise_for_status()
    for sender in range(crowd.senders):
        await _consents(whole.client, at_consent, crowd, sender, now)
    campaign, dispatch = whole.databases["campaign"], whole.databases["dispatch"]
    async with asyncio.timeout(WITHIN_S):
        while await campaign.fetchval("SELECT count(*) FROM sender") <= crowd.senders:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
    for sender in range(crowd.senders):
        asked = {"sender_id": str(crowd.sender(sender)["sender_id"])}
        headers = {"Content-Type": "text/csv"}
        answer = await whole.client.post("/v1/imports", params=asked, content=crowd.file(sender), headers=headers)
        found = answer.raise_for_status().json()
        if found["created"] != crowd.contacts:
            raise RuntimeError(f"not every contact was recorded: {found}")
    blocked = [who for n, who in enumerate(subjects) if kind_of(n) is Kind.BLOCKED]
    await dispatch.execute(
        "INSERT INTO provider_block (gateway, subject_id, since) SELECT $1, who, $3 FROM unnest($2::text[]) AS who",
        *(gateway, blocked, now),
    )
    known = sum(kind_of(n) is not Kind.NEVER_ASKED for n in range(crowd.senders * crowd.contacts))
    async with asyncio.timeout(WITHIN_S):
        for database, table in ((campaign, "standing"), (dispatch, "subject")):
            while await database.fetchval(f"SELECT count(*) FROM {table}") < known:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
    for database in whole.databases.values():
        await database.execute("VACUUM ANALYZE")


async def _consents(client: httpx.AsyncClient, url: str, crowd: Crowd, sender: int, now: datetime) -> None:
    """Import the consents of a sender."""
    body = crowd.consents(sender, now)
    sender_id = crowd.sender(sender)["sender_id"]
    terms = {"kind": "consents", "sender_id": sender_id, "format": "csv", "evidence": EVIDENCE}
    opened = (await client.post(f"{url}/v1/imports", json=terms)).raise_for_status().json()
    at = f"{url}/v1/imports/{opened['import_id']}"
    octets = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0", "Upload-Length": str(len(body))}
    (await client.patch(at, content=body, headers=octets)).raise_for_status()
    async with asyncio.timeout(WITHIN_S):
        while (found := (await client.get(at)).raise_for_status().json())["status"] != "done":  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
    if found["refused"]:
        raise RuntimeError(f"not every consent was recorded: {found}")
