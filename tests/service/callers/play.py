"""The four services with an operator, strangers, people, and a hostile caller who has all scopes of its own senders."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from campaign import service as campaign
from common.settings import ServiceSettings
from consent import service as consent
from dispatch import service as dispatch
from inbound import service as inbound
from tests.operators import signed
from tests.service.callers.judge import MARK, PAGE, Limit, Record, Return, Sent, Stop, letters
from tests.service.rights.four import SECRET, SERVICES, settings_of
from tests.support.builders import SENDER, STOP_CODE, now, number, subject
from tests.support.eventually import answered
from tests.support.eventually import eventually as soon
from tests.support.operators.http import Operator, operator
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running
from tests.support.uploading import patched

BUILDS: dict[str, Any] = {
    "consent": consent.build,
    "campaign": campaign.build,
    "dispatch": dispatch.build,
    "inbound": inbound.build,
}
SHARED_CODE = "36900"
MORE: dict[str, dict[str, Any]] = {
    "consent": {
        "hours": "demonstration",
        "shared_codes": [SHARED_CODE],
        "answers_per_day": 1000,
        "answers_of_organisation_per_day": 1000,
        "double_opt_ins_per_number_day": 100,
        "double_opt_ins_per_number_month": 100,
        "double_opt_ins_of_all_per_number_day": 100,
        "double_opt_ins_of_all_per_number_month": 100,
        "double_opt_ins_of_organisation_per_number_day": 100,
        "double_opt_ins_of_organisation_per_number_month": 100,
    },
}
SCOPES = ALL_SCOPES.replace(" platform:admin", "")
PEOPLE = 4  # the last has consented to nothing
FIRST_PERSON = 3000
DAY_LIMIT, HOUR_LIMIT, TOTAL = 16, 12, 100  # of each number, and of an organisation
LIMITS = {
    "version": "of-the-hostile-caller",
    "default": {"per_number_hour": HOUR_LIMIT, "per_number_day": DAY_LIMIT, "messages_per_day": TOTAL, "places": ["*"]},
    "organisations": {"honest": {"messages_per_day": None}},
}
OTHERS = frozenset(("transactional", "service"))
LIMITED = "limits" in ServiceSettings.model_fields
JUDGED = (
    Limit("per_number_hour", HOUR_LIMIT, timedelta(hours=1), "number", OTHERS),
    Limit("per_number_day", DAY_LIMIT, timedelta(days=1), "number", OTHERS),
    Limit("messages_per_day", TOTAL, timedelta(days=1), "organisation", OTHERS | {"marketing"}),
)

NEUTRAL = ("Bonjour, votre dossier avance", "Rendez-vous demain a 10 h", "Merci de votre visite")
ADVERTS = (
    *("Soldes samedi chez nous", "S o l d e s samedi", "S0LDES samedi", "\u0405oldes samedi", "so\u200bldes samedi"),
    *("p.r.o.m.o samedi", "Tout a -50 % samedi", "Robes a 9,90 € samedi", "Un cadeau vous attend"),
    *("Voyez bazar.example/x", "Voyez https://bazar.example/x", "D\u00c9STOCKAGE samedi", "La braderie samedi"),
)
VALUES = ("soldes", "s0ldes", "p r o m o", "-50 %", "9,90 €", "bazar.example", "destockage")
SPLIT = ("sol", "pro")  # of a value, before `des` and `mo` of the text
SOURCES = (
    *("mo", "preference_page", "double_opt_in", "stop_link", "rectification", "m0", "preference-page", "sms-in"),
    *("placet.page", "double.opt.in", "oui", "start", "shop"),
)
STOPS = ("STOP", "Stop svp !", "ARRÊT")
STRANGERS_NAMES = (
    *(("oadc", "CAFEZINC"), ("oadc", "CAFEZ1NC"), ("oadc", "MAISONLUNE"), ("oadc", "MA1S0NLUNE")),
    *(("brand", "Café Zinc"), ("brand", "\u0421AFE ZINC"), ("brand", "Maison Lune"), ("brand", "M A I S O N  LUNE")),
)
PROTECTED_NAMES = (("oadc", "AMELI"), ("oadc", "C0LI5"), ("brand", "Alerte"), ("brand", "Colis"))
FORM = {"source": "shop", "form_id": "checkout", "form_version": "3"}
LINK = re.compile(re.escape(PAGE) + r"(/p/[A-Za-z0-9_-]{28})")
YES_FORM = re.compile(
    r'name="sender" value="([^"]+)">\s*<input type="hidden" name="purpose" value="([^"]+)">\s*'
    r'<input type="hidden" name="want" value="on">\s*<input type="hidden" name="form" value="([^"]+)">'
)


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what concerns four services in one process: longer than for one."""
    await soon(look, within_s=240)


@dataclass
class World:
    """All that the examples share. `examples`: each has an organisation, senders and people of its own."""

    surroundings: Surroundings
    clients: dict[str, httpx.AsyncClient]
    operator: Operator
    databases: dict[str, asyncpg.Connection]
    senders: dict[str, str] = field(default_factory=lambda: {"CAFEZINC": "zinc", "MAISONLUNE": SENDER})  # by OADC
    examples: Iterator[int] = field(default_factory=count)

    async def call(
        self, headers: Mapping[str, str], method: str, service: str, path: str, body: Any = None, **more: Any
    ) -> httpx.Response:
        """Return the answer, which is never a failure of the service.

        A request that is sent again may have been kept the first time: what is made of its answer allows for both.
        """
        client = self.clients[service]
        answer = await answered(lambda: client.request(method, path, json=body, headers=headers, **more))
        assert answer.status_code < 500, f"{method} {path}: {answer.text}"
        return answer

    async def value(self, service: str, query: str, *values: object) -> Any:
        return await self.databases[service].fetchval(query, *values)


HONEST = bearer(organisation="honest", subject="zoe", scope=SCOPES)
ZINC = {
    "sender_id": "zinc",
    "legal_name": "Zinc SARL",
    "brand": "Café Zinc",
    "contact": "bonjour@cafe-zinc.example",
    "country": "FR",
    "oadc": "CAFEZINC",
    "stop_code": SHARED_CODE,
    "purposes": [{"id": "promotions", "wording": "Nos nouvelles"}],
}
LUNE = {**ZINC, "sender_id": SENDER, "legal_name": "Maison Lune SAS", "brand": "Maison Lune", "oadc": "MAISONLUNE"}
LUNE |= {"stop_code": STOP_CODE, "contact": "contact@maison-lune.example"}


@asynccontextmanager
async def opened(surroundings: Surroundings, folder: Path) -> AsyncIterator[World]:
    """The services, and two strangers in an organisation of theirs: Zinc on the shared code, Lune on a code alone."""
    limits = folder / "limits.json"
    limits.write_text(json.dumps(LIMITS))
    every = {"limits": limits} if LIMITED else {}
    async with operator() as op, AsyncExitStack() as stack:
        clients: dict[str, httpx.AsyncClient] = {}
        for service in SERVICES:
            settings = await settings_of(surroundings, service, op.url, **every, **MORE.get(service, {}))
            clients[service] = await stack.enter_async_context(running(BUILDS[service](settings)))
        databases = {s: await stack.enter_async_context(surroundings.sql(s)) for s in SERVICES}
        world = World(surroundings, clients, op, databases)
        for stranger in (ZINC, LUNE):
            answer = await world.call(HONEST, "POST", "consent", "/v1/senders", stranger)
            assert answer.is_success, answer.text
        await asyncio.gather(*(eventually(_ready(client)) for client in clients.values()))
        yield world


def _ready(client: httpx.AsyncClient) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        answer = await client.get("/readyz")
        assert answer.status_code == 200, answer.text
        return True

    return look


class Play:
    """One example: the caller Mallory, an honest second person in the same organisation, three people, the record."""

    def __init__(self, world: World) -> None:
        self.world = world
        at = next(world.examples)
        self.name = "ABCDEFGHKMN"[at // 11 % 11] + "ABCDEFGHKMN"[at % 11]
        self.organisation = f"mallory-{self.name}"
        self.people = [number(FIRST_PERSON + PEOPLE * at + place) for place in range(PEOPLE)]
        self.subjects = {number(n): subject(n) for n in (FIRST_PERSON + PEOPLE * at + place for place in range(PEOPLE))}
        main, codes, shared = (f"mal-{kind}-{self.name.lower()}" for kind in ("main", "codes", "shared"))
        self.main, self.codes, self.shared = main, codes, shared
        self.new = f"mal-new-{self.name.lower()}"
        names = {main: ("MAL", "Mal"), codes: ("MALCODE", "Mal Code"), shared: ("MALPART", "Mal Part")}
        names[self.new] = ("MALNEUF", "Mal Neuf")
        self.bodies = {
            sender_id: {
                **ZINC,
                "sender_id": sender_id,
                "legal_name": f"Mal {self.name} SAS",
                "brand": f"{brand} {self.name}",
                "oadc": oadc + self.name,
                "contact": "bonjour@mal.example",
                "controller": self.organisation.lower(),
                "stop_code": code,
                "purposes": [] if sender_id == codes else ZINC["purposes"],
            }
            for (sender_id, (oadc, brand)), code in zip(
                names.items(), (f"{36200 + at}", f"{38200 + at}", SHARED_CODE, f"{36500 + at}"), strict=True
            )
        }
        self.codes_ever = {sender_id: {str(body["stop_code"])} for sender_id, body in self.bodies.items()}
        self.owned = {str(body["oadc"]): sender_id for sender_id, body in self.bodies.items()}
        self.owned |= {f"{oadc}X{self.name}": sender_id for sender_id, (oadc, _) in names.items()}
        world.senders |= self.owned  # on the shared code, an answer may come from the Mallory of another example
        self.record = Record(
            world.senders,
            {*self.bodies},
            {"zinc": letters("Café Zinc"), SENDER: letters("Maison Lune")},
            ("ameli", "colis", "alerte"),
            limits=JUDGED if LIMITED else (),
        )
        # a token for three senders is for no controller: the controller's decisions are not Mallory's
        own = {"organisation": self.organisation, "senders": [*self.bodies], "scope": SCOPES}
        self.mallory, self.spelt = bearer(subject="mallory", **own), bearer(subject=" M\uff21LLORY", **own)
        self.second = bearer(subject="alice", **own)
        self.whole = bearer(subject="mallory", **{**own, "senders": "*"})
        self.said, self.begins_at = count(1), len(world.operator.messages)
        self.zinc_stopped: set[str] = set()  # perhaps
        self.calm: list[datetime] = []  # instants at which nothing was on its way

    async def call(self, method: str, service: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.world.call(self.mallory, method, service, path, body, **more)

    async def begin(self) -> None:
        """Register the senders, and record consents from before: to Mallory's and to Zinc, of everybody."""
        setup = bearer(organisation=self.organisation, subject="setup", scope=SCOPES)
        for sender_id in (self.main, self.codes, self.shared):
            answer = await self.world.call(setup, "POST", "consent", "/v1/senders", self.bodies[sender_id])
            assert answer.is_success, answer.text
        before = now() - timedelta(hours=1)
        for headers, sender_ids in ((self.mallory, (self.main, self.shared)), (HONEST, ("zinc",))):
            items = [self.opt_in(n, s, before) for n in self.people[:-1] for s in sender_ids]
            answer = await self.world.call(headers, "POST", "consent", "/v1/consents/batch", {"items": items})
            assert {result["state"] for result in answer.json()["results"]} == {"opted_in"}, answer.text
        file = "number;first_name\n" + "".join(f"{n};Jo\n" for n in self.people)
        answer = await self.call("POST", "campaign", f"/v1/imports?sender_id={self.main}", content=file.encode())
        assert answer.status_code == 201, answer.text

    # --- what Mallory writes ----------------------------------------------------------------------------------------

    def text(self, words: str, code: str | None = None) -> str:
        return f"{words} {MARK}{next(self.said)}" + (f". STOP au {code}" if code else "")

    def opt_in(self, person: str, sender_id: str, at: datetime, **more: Any) -> dict[str, Any]:
        body = {"sender_id": sender_id, "purpose": "promotions", "number": person, "occurred_at": at.isoformat()}
        return {**body, "evidence": FORM, **more}

    def marketing(self, person: str, sender_id: str, words: str) -> dict[str, Any]:
        text = self.text(words, str(self.bodies[sender_id]["stop_code"]))
        return {"sender_id": sender_id, "to": person, "category": "marketing", "purpose": "promotions", "text": text}

    def of_lane(self, lane: str, person: str, words: str, **more: Any) -> dict[str, Any]:
        """The message of another lane: of the sender whose code carries it."""
        sender_id = self.codes if lane == "transactional" else self.main
        return {"sender_id": sender_id, "to": person, "category": lane, "text": self.text(words), **more}

    async def send(
        self,
        messages: Sequence[dict[str, Any]],
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Send the batch, note the overrides, and return the accepted messages."""
        more = {"Idempotency-Key": key} if key else {}
        said = {**(headers or self.mallory), **more}
        answer = await self.world.call(said, "POST", "dispatch", "/v1/messages", {"messages": messages})
        if answer.status_code != 202:
            return []
        accepted = []
        for message, result in zip(messages, answer.json()["results"], strict=True):
            if result["message_id"] is not None:
                accepted.append(message)
                if "override_reason" in message:
                    self.record.overridden.add(result["message_id"])
        return accepted

    async def writes_in(self, lane: str, person: str) -> None:
        """Every advert as a free text, alone and behind a harmless one."""
        words = [*ADVERTS, f"{NEUTRAL[0]}. {ADVERTS[0]}", NEUTRAL[1]]
        await self.send([self.of_lane(lane, person, each) for each in words])

    async def overrides(self, lane: str, person: str, words: str) -> None:
        """Under a key: of a request that is sent again, each message that leaves is noted."""
        await self.send([self.of_lane(lane, person, words, override_reason="litige, sans achat")], uuid4().hex)

    async def repeats(self, lane: str, person: str, words: str) -> None:
        """The same key twice, with other content; alone and in a batch."""
        key = uuid4().hex
        await self.send([self.of_lane(lane, person, NEUTRAL[0])], key)
        await self.send([self.of_lane(lane, person, words)], key)
        await self.send([self.marketing(person, self.main, words)], key)

    async def floods(self, person: str) -> None:
        """More messages than any limit allows, at once: in two lanes to one person, and of the whole organisation."""
        lanes = [
            [self.of_lane(lane, person, NEUTRAL[0]) for _ in range(DAY_LIMIT)] for lane in ("service", "transactional")
        ]
        await asyncio.gather(*(self.send(messages) for messages in lanes))
        many = [self.marketing(each, self.main, NEUTRAL[1]) for each in self.people for _ in range(TOTAL // 2)]
        await asyncio.gather(self.send(many[::2]), self.send(many[1::2]))

    async def advertises(self, how: str, person: str, sender_id: str, words: str) -> None:
        """An advert in its own lane, to this person."""
        if how == "campaign":
            await self.campaigns(words, "schedule", ())
        elif how == "test send":
            await self.campaigns(words, "test", (person,))
        else:
            await self.send([self.marketing(person, each, words) for each in (sender_id, self.main, self.shared)])

    async def campaigns(self, words: str, then: str, people: Sequence[str]) -> None:
        """A campaign to every contact, written and scheduled with all warnings acknowledged; or its test sends."""
        body = {"sender_id": self.main, "name": "Samedi", "purpose": "promotions", "audience": {"all": True}}
        body |= {"text": self.text(words) + ". {stop}"}
        answer = await self.call("POST", "campaign", "/v1/campaigns", body)
        if answer.status_code != 201:
            return
        path = f"/v1/campaigns/{answer.json()['campaign_id']}"
        if then == "test":
            await self.call("POST", "campaign", f"{path}/test-sends", {"numbers": list(people)})
            return
        looked = (await self.call("POST", "campaign", f"{path}/pre-flight")).json()
        for headers in (self.mallory, self.second) if then == "approve" else ():
            approval = {"digest": looked["digest"], "at": None}
            await self.world.call(headers, "POST", "campaign", f"{path}/approvals", approval)
        answer = await self.call("POST", "campaign", f"{path}/schedule", {})
        if answer.status_code == 409:
            asked = [r["reason"] for r in answer.json()["reasons"] if r["field"] == "acknowledge"]
            await self.call("POST", "campaign", f"{path}/schedule", {"acknowledge": asked})
        if then in ("cancel", "pause"):
            await self.call("POST", "campaign", f"{path}/{then}")
        if then == "pause":
            await self.call("POST", "campaign", f"{path}/resume")

    # --- templates --------------------------------------------------------------------------------------------------

    async def writes_template(self, lane: str, kind: str, person: str) -> None:
        """A template approved by whoever will, and then messages with every value.

        Mallory acknowledges all findings. The second person is honest: no finding, and no field for links or prices.
        """
        templates: dict[str, tuple[str, list[dict[str, Any]]]] = {
            "advert": (f"Bonjour, soldes samedi chez nous, {MARK}0", []),
            "field": (f"Bonjour, votre dossier {{a}} avance bien, {MARK}0", [{"name": "a", "max_chars": 20}]),
            "split": (f"Bonjour, voici nos {{a}}des et {{b}}mo, {MARK}0", [{"name": "a"}, {"name": "b"}]),
            "link": (f"Bonjour, votre dossier est sur {{a}}, {MARK}0", [{"name": "a", "links": True, "prices": True}]),
        }
        text, named = templates[kind]
        fields = [{"max_chars": 12, **each} for each in named]
        sender_id = self.codes if lane == "transactional" else self.main
        body = {"sender_id": sender_id, "name": kind, "category": lane, "text": text, "fields": fields}
        written = await self.call("POST", "campaign", "/v1/templates", body)
        if written.status_code != 201:
            return
        found = written.json()
        template_id, version = found["template_id"], found["versions"][0]
        path = f"/v1/templates/{template_id}/versions/1/approve"
        every = {"acknowledge": [finding["id"] for finding in version["findings"]]}
        answers = [
            await self.world.call(headers, "POST", "campaign", path, every) for headers in (self.mallory, self.spelt)
        ]
        if kind in ("field", "split"):
            answers.append(await self.world.call(self.second, "POST", "campaign", path, {}))
        if all(answer.status_code != 200 for answer in answers):
            return
        names = [each["name"] for each in fields]
        words = ("4821", *SPLIT) if kind == "split" else ("4821", *VALUES, *(f"48 {value}" for value in VALUES))
        values = [dict.fromkeys(names, value) for value in words]
        said = {"sender_id": sender_id, "to": person, "category": lane, "template_id": template_id}

        async def known() -> bool:
            return bool(
                await self.world.value("dispatch", "SELECT count(*) FROM template WHERE template_id = $1", template_id)
            )

        await eventually(known)
        await self.send([{**said, "values": each} for each in (values if names else [{}])])

    # --- its senders ------------------------------------------------------------------------------------------------

    async def changes(self, sender_id: str, **more: Any) -> bool:
        """Change the sender; return whether the registry took the change."""
        body = {**self.bodies[sender_id], **more}
        answer = await self.call("PUT", "consent", f"/v1/senders/{sender_id}", body)
        if answer.status_code == 200:
            self.bodies[sender_id] = body
            self.codes_ever[sender_id].add(str(body["stop_code"]))
        return answer.status_code == 200

    async def renames(self, sender_id: str, names: Sequence[tuple[str, str]], person: str) -> None:
        """Take each name in turn, also for a new sender; where one is had, write to the person under it."""
        kept = {name: value for name, value in self.bodies[sender_id].items() if name != "sender_id"}
        for field_, name in names:
            new = {**self.bodies[self.new], "controller": None, field_: name}
            if (await self.call("POST", "consent", "/v1/senders", new)).is_success:
                await self.appears(self.new, person)
            if await self.changes(sender_id, **{field_: name}):
                await self.appears(sender_id, person)
                await self.changes(sender_id, **kept)

    async def own_name(self, sender_id: str, person: str) -> None:
        """Another name of Mallory's own."""
        oadc = next(
            each for each, owner in self.owned.items() if owner == sender_id and each != self.bodies[sender_id]["oadc"]
        )
        assert await self.changes(sender_id, oadc=oadc)
        await self.appears(sender_id, person)

    async def appears(self, sender_id: str, person: str) -> None:
        """A message under the sender's names as they are: a text of Mallory's, and one in Placet's words."""
        version = await self.world.value("consent", "SELECT version FROM sender WHERE sender_id = $1", sender_id)

        async def known() -> bool:
            query = "SELECT version FROM sender WHERE sender_id = $1"
            return bool((await self.world.value("dispatch", query, sender_id) or 0) >= version)

        await eventually(known)
        await self.send([{**self.of_lane("service", person, NEUTRAL[2]), "sender_id": sender_id}])
        link = {"sender_id": sender_id, "number": person, "send": True}
        await self.call("POST", "consent", "/v1/preference-links", link)
        await self.asks(person, sender_id)
        await self.quiet()

    async def rewords(self, field_: str, person: str) -> None:
        """Adverts as the sender's own words for answers, or as a purpose's wording; and what makes them leave."""
        body = self.bodies[self.main]
        brand, code, purposes = str(body["brand"]), str(body["stop_code"]), list(body["purposes"])
        for words in ADVERTS:
            if field_ == "purpose":
                taken = await self.changes(
                    self.main, purposes=[{"id": "promotions", "wording": f"Nos nouvelles. {words}"}]
                )
            else:
                own = {
                    "stop": f"{brand} : c'est note. {words} {MARK}0",
                    "start": f"{brand} : bon retour. {words} {MARK}0. STOP au {code}",
                    "contact": f"Service edite par {body['legal_name']}. {words} {MARK}0",
                    "double_opt_in": f"{{brand}} : {{purpose}} ? OUI. {words} {MARK}0. STOP au {{stop_code}}",
                }[field_]
                taken = await self.changes(self.main, replies={field_: own})
            if taken:
                break
        else:
            return
        if field_ in ("purpose", "double_opt_in"):
            for each in self.people:
                await self.asks(each, self.main)
        elif field_ == "contact":
            await self.texts(person, "CONTACT", code)
        else:
            await self.stops(person, "STOP", code)
            if field_ == "start":
                await self.starts(person, code)
        await self.quiet()
        await self.changes(self.main, replies={}, purposes=purposes)

    # --- a word against a STOP --------------------------------------------------------------------------------------

    async def presses(self, way: str, person: str, sender_id: str) -> None:
        """Say that this person wants to be written to again."""
        at = now()
        if way == "asserted":
            await self.call("POST", "consent", "/v1/consents", self.opt_in(person, sender_id, at))
            await self.call(
                "POST", "consent", "/v1/consents", self.opt_in(person, sender_id, at - timedelta(minutes=9))
            )
        elif way == "another basis":
            sold = {"basis": "soft_opt_in", "evidence": {**FORM, "sale_reference": "F-12"}}
            for more in (sold, {"basis": "non_commercial"}):
                await self.call("POST", "consent", "/v1/consents", self.opt_in(person, sender_id, at, **more))
        elif way == "a source like ours":
            sources = ({"evidence": {**FORM, "source": source}} for source in SOURCES)
            items = [self.opt_in(person, sender_id, at, **source) for source in sources]
            await self.call("POST", "consent", "/v1/consents/batch", {"items": items})
        elif way == "imported":
            await self.imports(person, sender_id)
        elif way == "a question":
            await self.asks(person, sender_id)
        elif way == "a reopening rule":
            rule = {"purpose": "promotions", "reason": "des formulaires signes"}
            await self.call("POST", "consent", f"/v1/senders/{sender_id}/reopening-rules", rule)
            await self.call("POST", "consent", "/v1/consents", self.opt_in(person, sender_id, at))
        elif way == "a link":
            link = {"sender_id": sender_id, "number": person}
            answer = await self.call("POST", "consent", "/v1/preference-links", link)
            if answer.status_code == 201:
                await self.opts_in_on(answer.json()["url"].removeprefix(PAGE), sender_id)
        elif way == "an erasure":
            asked = {"number": person, "evidence": {"source": "call-centre", "actor": "mallory"}}
            await self.call("POST", "consent", "/v1/erasures", asked)
            await self.call("POST", "consent", "/v1/consents", self.opt_in(person, sender_id, now()))
        elif way == "a rectification":
            await self.rectifies(person)
            await self.call("POST", "consent", "/v1/consents", self.opt_in(person, sender_id, now()))

    async def imports(self, person: str, sender_id: str) -> None:
        terms = {"kind": "consents", "sender_id": sender_id, "format": "csv", "purpose": "promotions"}
        for source in ("mo", "old-crm"):
            body = {**terms, "evidence": {**FORM, "source": source}}
            answer = await self.call("POST", "consent", "/v1/imports", body)
            if answer.status_code >= 400:
                continue
            path = f"/v1/imports/{answer.json()['import_id']}"
            file = f"number;occurred_at\n{person};{now().isoformat()}\n".encode()
            await patched(self.world.clients["consent"], path, file, 0, len(file), self.mallory)

            async def done(path: str = path) -> bool:
                return bool((await self.call("GET", "consent", path)).json()["status"] == "done")

            await eventually(done)

    async def asks(self, person: str, sender_id: str) -> None:
        await self.call("POST", "consent", "/v1/double-opt-ins", self.opt_in(person, sender_id, now()))

    async def rectifies(self, person: str) -> None:
        """The STOP was somebody else's, says Mallory; and so is the number."""
        found = (await self.call("POST", "consent", "/v1/subjects/lookup", {"number": person})).json()
        asked = {"source": "call-centre", "actor": "mallory"}
        lines = [line["evidence_id"] for line in found["history"] if line["kind"] == "opt_out"]
        corrections: list[dict[str, Any]] = [
            *({"kind": "evidence", "evidence_id": line, "wrong": ["person"]} for line in lines[-2:]),
            {"kind": "number", "sender_id": self.main},
        ]
        for correct in corrections:
            body = {"number": person, "asked": asked, "correct": correct}
            await self.call("POST", "consent", "/v1/rectifications", body)

    async def opts_in_on(self, path: str, sender_id: str | None) -> None:
        """Press yes on this page: by each form that the page has, else by a form made up."""
        page = await self.world.call({}, "GET", "consent", f"{path}?lang=fr")
        browser = page.headers.get("set-cookie", "").partition(";")[0]
        cookie = {"Cookie": browser} if browser else {}
        shown = YES_FORM.findall(page.text) or [(sender_id or "", "promotions", "A" * 16)]
        for sender, purpose, form in shown:
            sent = {"sender": sender, "purpose": purpose, "want": "on", "form": form, "lang": "fr"}
            await self.world.call(cookie, "POST", "consent", f"{path}/purposes", data=sent)

    async def as_a_stranger(self, person: str, words: str) -> None:
        """Act for Zinc and Lune with a token of Mallory's whole organisation."""
        texts = [{**self.of_lane("service", person, NEUTRAL[0]), "sender_id": sender} for sender in ("zinc", SENDER)]
        texts += [{**self.marketing(person, self.shared, words), "sender_id": "zinc"}]
        await self.send(texts, headers=self.whole)
        whole = self.whole
        taken = {**ZINC, "brand": f"Mal {self.name}", "oadc": f"MAL{self.name}"}
        await self.world.call(whole, "PUT", "consent", "/v1/senders/zinc", taken)
        await self.world.call(whole, "POST", "consent", "/v1/consents", self.opt_in(person, "zinc", now()))
        for sender_id in ("zinc", None):
            body = {"sender_id": sender_id, "number": person, "evidence": {"source": "call-centre"}}
            await self.world.call(whole, "POST", "consent", "/v1/opt-outs", body)
            link = {"sender_id": sender_id, "number": person, "send": sender_id is not None}
            await self.world.call(whole, "POST", "consent", "/v1/preference-links", link)
        campaign = {"sender_id": "zinc", "name": "Samedi", "purpose": "promotions", "audience": {"all": True}}
        text = {"text": self.text(words) + ". {stop}"}
        await self.world.call(whole, "POST", "campaign", "/v1/campaigns", {**campaign, **text})

    # --- people, and Zinc -------------------------------------------------------------------------------------------

    @property
    def log(self) -> list[Sent]:
        """The operator's log of this example."""
        told = self.world.operator.messages[self.begins_at :]
        return [
            Sent(m["at"], m["to"], m["from"], m["short_code"], m["category"], m["text"], m["reference"])
            for m in told
            if m["to"] in self.subjects
        ]

    def of(self, person: str) -> list[Sent]:
        return [sent for sent in self.log if sent.to == person]

    def stopped_people(self) -> list[str]:
        """Those who had stopped a sender of Mallory's, and everybody else behind them."""
        at = now()
        return sorted(self.people, key=lambda n: not any(self.record.stopped(n, s, at) for s in self.record.ours))

    async def texts(self, person: str, text: str, code: str) -> str:
        """Text as the person's own phone; return the id of the text, which the operator was told is taken."""
        mo = f"mo-{uuid4().hex}"
        said = {"id": mo, "from": person, "to": code, "text": text, "sent_at": now().isoformat()}
        raw = json.dumps(said).encode()
        client = self.world.clients["inbound"]
        path = "/v1/callbacks/simulator/main/messages"
        answer = await answered(lambda: client.post(path, content=raw, headers=signed(raw, SECRET, now())))
        assert answer.status_code == 200, answer.text
        return mo

    async def stops(self, person: str, text: str, code: str) -> None:
        """STOP by text to this code, or to everybody; return once the STOP is enforced."""
        everybody = "TOUT" in text
        owners = {s for s, codes in self.codes_ever.items() if code in codes} | (
            {"zinc"} if code == SHARED_CODE else set()
        )
        if "zinc" in owners and not everybody:
            await self.quiet()
            owners = self._meant(person, owners)
        at = now()
        mo = await self.texts(person, text, code)

        async def enforced() -> bool:
            query = "SELECT count(*) FROM enforcement WHERE reference LIKE '%' || $1 AND enforced_at IS NOT NULL"
            return bool(await self.world.value("dispatch", query, mo))

        await eventually(enforced)
        if everybody or "zinc" in owners:
            self.zinc_stopped.add(person)
        self.record.stops[person].append(Stop(at, now(), None if everybody else self._wide(owners)))

    def _meant(self, person: str, owners: set[str]) -> set[str]:
        """The senders of the shared code whom a STOP certainly means: those of the controller that wrote last there.

        A service message of Mallory's is in doubt, and so are two messages that were on their way at once: the STOP may
        be for either. Both are then left out of the record.
        """
        had = [sent for sent in self.of(person) if sent.code == SHARED_CODE]
        if not had:
            return owners
        last = had[-1]
        others = [s for s in had if self._is_zincs(s) != self._is_zincs(last)]
        at_once = any(not any(s.at < calm <= last.at for calm in self.calm) for s in others)
        if at_once or (last.is_callers and last.category != "marketing"):
            self.zinc_stopped.add(person)
            return set()
        return owners & ({"zinc"} if self._is_zincs(last) else self.record.ours)

    def _is_zincs(self, sent: Sent) -> bool:
        return self.record.senders.get(sent.oadc) == "zinc"

    def _wide(self, senders: set[str]) -> frozenset[str]:
        """These senders, and the others of the controller where a STOP reaches them. The new one has no sister."""
        sisters = {self.main, self.codes, self.shared}
        wide = any(self.bodies[s].get("stop_scope", "controller") == "controller" for s in senders & sisters)
        return frozenset(senders | sisters if wide else senders)

    async def starts(self, person: str, code: str) -> None:
        back = {s for s, body in self.bodies.items() if body["stop_code"] == code}
        back |= {"zinc"} if code == SHARED_CODE else set()
        self.record.returns[person].append(Return(now(), frozenset(back)))
        await self.texts(person, "START", code)

    async def says_yes(self, person: str) -> None:
        """OUI to the last question, if one came since the person's last STOP; to the code of a sender, else."""
        since = max((stop.since for stop in self.record.stops[person]), default=now() - timedelta(days=1))
        asked = [s for s in self.of(person) if s.category == "service" and "OUI" in s.text and s.at > since]
        if asked:
            sender = self.record.senders.get(asked[-1].oadc, "")
            self.record.returns[person].append(Return(now(), frozenset({sender})))
        await self.texts(person, "OUI", asked[-1].code if asked else str(self.bodies[self.main]["stop_code"]))

    async def uses_page(self, person: str, press: str) -> None:
        """The page behind the last link that this person was texted: a stop, or a yes to all that the page offers."""
        links = [(s, found[1]) for s in self.of(person) if (found := LINK.search(s.text))]
        if not links:
            return
        sent, path = links[-1]
        if press == "yes":
            self.record.returns[person].append(Return(now(), frozenset({*self.record.ours, "zinc"})))
            await self.opts_in_on(path, None)
            return
        at = now()
        answer = await self.world.call({}, "POST", "consent", f"{path}/stop", data={"lang": "fr"})
        self.zinc_stopped.add(person)
        if answer.status_code != 303:
            return

        async def applied() -> bool:
            who = self.subjects[person]
            version = await self.world.value("consent", "SELECT version FROM subject WHERE subject_id = $1", who)
            query = (
                "SELECT version >= $2 AND NOT EXISTS (SELECT FROM enforcement WHERE subject_id = $1 AND enforced_at IS"
                " NULL) FROM subject WHERE subject_id = $1"
            )
            return bool(await self.world.value("dispatch", query, who, version))

        await eventually(applied)
        sender = self.record.senders.get(sent.oadc, "")
        self.record.stops[person].append(Stop(at, now(), self._wide({sender})))

    async def zinc_writes(self) -> None:
        said = {"sender_id": "zinc", "category": "marketing", "purpose": "promotions"}
        text = {"text": f"Zinc : soldes {next(self.said)}. STOP au {SHARED_CODE}"}
        messages = [{**said, **text, "to": person} for person in self.people]
        await self.world.call(HONEST, "POST", "dispatch", "/v1/messages", {"messages": messages})

    # --- the world --------------------------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Wait until nothing is on its way: no event, no answer, no message and no campaign."""
        await eventually(self._quiet)
        self.calm.append(now())

    async def _quiet(self) -> bool:
        value = self.world.value
        for service in SERVICES:
            assert await value(service, "SELECT count(*) FROM outbox") == 0, f"{service} has events to publish"
        answers = [row[0] for row in await self.world.databases["consent"].fetch("SELECT message_id FROM answer")]
        missing = "SELECT count(*) FROM unnest($1::uuid[]) AS a WHERE a NOT IN (SELECT message_id FROM message)"
        assert await value("dispatch", missing, answers) == 0, "an answer is on its way"
        open_ = (
            "SELECT count(*) FROM message WHERE status IN ('pending', 'sending')"
            " OR (status = 'deferred' AND due_at < now() + interval '5 s')"
        )
        assert await value("dispatch", open_) == 0, "a message waits"
        left = (
            "SELECT coalesce(array_agg(message_id::text), '{}') FROM message"
            " WHERE category = 'marketing' AND status IN ('accepted', 'rejected', 'unknown')"
        )
        unknown = "SELECT count(*) FROM unnest($1::text[]) AS m WHERE m NOT IN (SELECT message_id FROM handed_off)"
        assert await value("consent", unknown, await value("dispatch", left)) == 0, "consent knows not what left"
        later = "SELECT coalesce(array_agg(DISTINCT campaign_id), '{}') FROM message WHERE status = 'deferred'"
        going = "SELECT count(*) FROM campaign WHERE status IN ('scheduled', 'running') AND campaign_id <> ALL($1)"
        assert await value("campaign", going, await value("dispatch", later)) == 0, "a campaign goes on"
        return True

    async def ended(self) -> None:
        """Let everything end, and complete the record from the audits."""
        await self.quiet()
        cursor: str | None = ""
        self.record.audited = set()
        while cursor is not None:
            page = (await self.call("GET", "dispatch", f"/v1/text-audits?limit=1000&cursor={cursor}")).json()
            self.record.audited |= {a["message_id"] for a in page["items"] if a["result"] == "overridden"}
            cursor = page["next"]
        for person in self.people[:-1]:
            if person in self.zinc_stopped:
                continue
            answer = await self.world.call(HONEST, "POST", "consent", "/v1/subjects/lookup", {"number": person})
            states = {c["state"] for c in answer.json()["consents"] if c["sender_id"] == "zinc"}
            assert states == {"opted_in"}, f"a stranger's consent is gone: {answer.text}"
