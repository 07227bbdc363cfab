"""The APIs of the four services on databases of one suite, and organisations with things of each kind.

No consumer, no timer and no relay runs, so that only a request changes a row. What Kafka would bring is handed to the
services' own handlers.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx

from campaign import service as campaign
from campaign.audience import consents
from campaign.planning.planner import Planner
from campaign.senders import store as campaign_senders
from campaign.webhooks import store as webhooks
from common.contracts.campaign import TemplateField
from common.contracts.consent import SenderChanged
from common.contracts.inbound import MessageReceived
from common.db.database import Database
from common.kafka import dead_letters
from common.kafka.subscription import Received
from common.law import load
from common.sms.message_id import message_id
from consent import service as consent
from consent.proof import sealing
from consent.proof import store as proofs
from consent.proof.store import HandedOff
from dispatch import service as dispatch
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.sending import store as sending
from dispatch.sending.store import Block
from inbound import codes
from inbound import service as inbound
from inbound import store as journal
from inbound.reviews import queue
from inbound.store import Item, KeptCallback, Origin
from tests.service.firewall.operations import CONTENT, EXPRESSION, GATEWAY, NOTICE, TEXT, Things
from tests.support.builders import (
    SENDER,
    field_keys,
    link_keys,
    now,
    number,
    opted_out,
    sender_changed,
    subject,
    template_changed,
)
from tests.support.operators.http import TOKEN
from tests.support.prices import EXAMPLE
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

SERVICES = ("consent", "campaign", "dispatch", "inbound")
TENANT = ALL_SCOPES.replace(" platform:admin", "")
ARRIVES_WITHIN_S = 0.2  # of a sender registered a moment ago: two seconds in production
PEOPLE_EACH = 40  # for a test; the last is not under review
KNOWN = range(3000, 3000 + 2 * PEOPLE_EACH)  # people of our organisation alone
UNKNOWN = range(4000, 4000 + 2 * PEOPLE_EACH)  # people of nobody
OPERATOR = bearer(organisation="platform", subject="operator")


@dataclass(frozen=True)
class Owner:
    """A sender, the organisation that has it, and the organisation's own person."""

    organisation: str
    sender_id: str
    stop_code: str
    person: int

    @property
    def word(self) -> str:
        """A word in what the owner writes."""
        return "Zoé" if self.sender_id == SENDER else "Ana"

    @property
    def token(self) -> dict[str, str]:
        return bearer(organisation=self.organisation, scope=TENANT, subject="owner")

    @property
    def named(self) -> Things:
        """What the owner begins with."""
        return Things(self.sender_id, number(self.person), subject(self.person), f"key of {self.sender_id}")

    @property
    def changed(self) -> SenderChanged:
        return sender_changed(
            sender_id=self.sender_id,
            organisation_id=self.organisation,
            controller_id=self.sender_id,
            legal_name=f"{self.sender_id} SAS",
            brand=self.sender_id.capitalize(),
            contact=f"contact@{self.sender_id}.example",
            oadc=self.sender_id.replace("-", "").upper()[:11],
            stop_code=self.stop_code,
            stop_page=f"https://placet.example/s/{self.sender_id}",
        )


OURS = Owner("tests", SENDER, "36111", 1000)
NOBODYS = Things("maison-lyre", number(1001), subject(1001), "key of maison-lyre")
BESIDE = Owner("tests", "maison-jour", "36222", 1002)  # of our organisation: all that a limited token is for
BESIDE_TWIN = Owner("tests", "maison-nuit", "36333", 1003)
STRANGER = Owner("strangers", "atelier-ouest", "36444", 1004)
STRANGER_TWIN = Owner("twins", "atelier-grand", "36555", 1005)
OTHERS = (BESIDE, BESIDE_TWIN, STRANGER, STRANGER_TWIN)
OF_OURS = (SENDER, "Maison-lune", "MAISONLUNE", "Zoé")  # words that no stranger is told


@dataclass(frozen=True)
class World:
    surroundings: Surroundings
    clients: Mapping[str, httpx.AsyncClient]
    databases: Mapping[str, Database]
    openapi: Mapping[str, dict[str, Any]]

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        expect: Sequence[int] = (200, 201, 202),
        **more: Any,
    ) -> Any:
        answer = await self.clients[service].request(method, path, json=body, **more)
        assert answer.status_code in expect, (method, path, answer.text)
        return answer.json()


@asynccontextmanager
async def opened(surroundings: Surroundings) -> AsyncIterator[World]:
    """The four APIs, and each owner's sender. Nobody has anything else yet."""
    more: dict[str, dict[str, Any]] = {
        "consent": {"page_url": "https://placet.example"},
        "campaign": {"import_max_bytes": 1_000_000, "prices": EXAMPLE},
        "dispatch": {"gateway_url": "http://127.0.0.1:1", "gateway_token": TOKEN},
        "inbound": {},
    }
    modules: dict[str, Any] = {"consent": consent, "campaign": campaign, "dispatch": dispatch, "inbound": inbound}
    async with AsyncExitStack() as stack:
        clients, databases, described = {}, {}, {}
        for name in SERVICES:
            settings = modules[name].Settings(**await surroundings.settings(name, roles="api", **more[name]))
            service = replace(modules[name].build(settings), senders_arrive_within_s=ARRIVES_WITHIN_S)
            clients[name] = await stack.enter_async_context(running(service, {}))
            described[name] = (await clients[name].get("/openapi.json")).json()
            databases[name] = Database(settings.database_url, pool_size=2, name="world")
            stack.push_async_callback(databases[name].close)
        yield World(surroundings, clients, databases, described)


async def register(world: World, owner: Owner) -> None:
    event = owner.changed
    body = {
        "sender_id": event.sender_id,
        **{name: getattr(event, name) for name in ("legal_name", "brand", "contact", "country", "oadc", "stop_code")},
        "purposes": [{"id": purpose.id, "wording": purpose.wording} for purpose in event.purposes],
    }
    await world.call("consent", "POST", "/v1/senders", body, headers=owner.token)
    async with world.databases["campaign"].begin() as tx:
        await campaign_senders.put_sender(tx, event)
    async with world.databases["dispatch"].begin() as tx:
        await projection.put_sender(tx, event)
    async with world.databases["inbound"].begin() as tx:
        await codes.apply(tx, [Received(event, event.key, 0, 0, now(), None)])


async def furnish(world: World, owner: Owner, people: Sequence[int] = ()) -> Things:
    """Give the owner a thing of each kind, about its own person and `people`, who have stopped."""
    begun = await _consent(world, owner, people)
    begun = await _campaign(world, owner, begun, people)
    begun = await _dispatch(world, owner, begun)
    begun = await _inbound(world, owner, begun)
    async with world.databases["consent"].begin() as tx:
        left = HandedOff(
            message_id=begun.message_id,
            subject_id=begun.subject_id,
            sender_id=owner.sender_id,
            purpose="promotions",
            campaign_id=begun.campaign_id,
            handed_off_at=now(),
            status="accepted",
            version=1,
        )
        await proofs.add_handed_off(tx, [left])
    async with world.surroundings.sql("consent") as sql:
        await sql.execute(
            "INSERT INTO retroactive_message (message_id, subject_id, sender_id, purpose, campaign_id, handed_off_at,"
            " evidence_id, stopped_at, known_at, in_doubt, found_at)"
            " VALUES ($1, $2, $3, 'promotions', $4, now(), $5, now(), now(), false, now())",
            begun.message_id,
            begun.subject_id,
            owner.sender_id,
            begun.campaign_id,
            begun.evidence_id,
        )
    return begun


def keyed(name: str, things: Things) -> dict[str, str]:
    """Return the header of the request that an owner makes under its key."""
    return {"Idempotency-Key": f"{name} {things.key}"}


async def _consent(world: World, owner: Owner, people: Sequence[int]) -> Things:
    t, token = owner.named, owner.token

    async def post(name: str, body: Any, *, headers: Mapping[str, str] = token) -> Any:
        path = name.replace("{sender_id}", t.sender_id)
        return await world.call("consent", "POST", path, body, headers={**headers, **keyed(f"POST {name}", t)})

    def said(n: int) -> dict[str, Any]:
        evidence = {"source": "shop", "text_shown": f"{owner.word}, oui ?", "actor": owner.word}
        at = "2026-03-02T14:05:00+01:00"
        body = {"sender_id": t.sender_id, "purpose": "promotions", "number": number(n), "occurred_at": at}
        return {**body, "evidence": evidence}

    evidence_id = (await post("/v1/consents", said(owner.person)))["evidence_id"]
    rule = await post(
        "/v1/senders/{sender_id}/reopening-rules", {"purpose": "loyalty", "reason": f"{owner.word}'s forms"}
    )
    stopped = {"source": "desk", "actor": owner.word}
    await post("/v1/opt-outs", {"sender_id": t.sender_id, "number": t.number, "evidence": stopped})
    if people:
        await post("/v1/consents/batch", {"items": [said(n) for n in people]})
        listed = {"sender_id": t.sender_id, "provider": "ovh", "list": "number\n" + "\n".join(map(number, people))}
        await post("/v1/reconciliations", listed)
    terms = {"kind": "consents", "sender_id": t.sender_id, "format": "csv", "purpose": "promotions"}
    evidence = {"source": "old-crm", "form_id": "newsletter", "form_version": "3"}
    imported = await post("/v1/imports", {**terms, "evidence": evidence})
    await post("/v1/preference-links", {"sender_id": t.sender_id, "number": t.number, "send": True})
    rectified = {"kind": "contact", "sender_id": t.sender_id, "fields": {"city": "Metz"}}
    asked = {"source": "desk", "actor": owner.word, "statement": owner.word}
    whom = {"number": t.number, "controller": t.sender_id}
    rectification = await post("/v1/rectifications", {**whom, "asked": asked, "correct": rectified})
    copy = await post("/v1/copies", whom)
    gone = {**whom, "number": number(owner.person + 50), "evidence": {"source": "desk", "actor": owner.word}}
    erasure = await post("/v1/erasures", gone)
    async with world.databases["consent"].begin() as tx:
        await dead_letters.note(
            tx, group="g", topic="t", partition=0, offset=owner.person, event_type=None, value=b"{}", reason=owner.word
        )
    async with world.surroundings.sql("consent") as sql:
        reviewed = [subject(n) for place, n in enumerate(people, start=1) if place % PEOPLE_EACH]
        await sql.execute("UPDATE subject SET held_since = now() WHERE subject_id = ANY($1::text[])", reviewed)
        last = await sql.fetchval("SELECT max(ordinal) FROM evidence")
    async with world.databases["consent"].begin() as tx:
        assert await sealing.put_seal(tx, last, now())
    return replace(
        t,
        evidence_id=evidence_id,
        rule_id=rule["rule_id"],
        consents_import_id=imported["import_id"],
        rectification_id=rectification["rectification_id"],
        copy_id=copy["copy_id"],
        erasure_id=erasure["erasure_id"],
        letter_id="1",
    )


async def _campaign(world: World, owner: Owner, t: Things, people: Sequence[int]) -> Things:
    token, database = owner.token, world.databases["campaign"]

    async def post(
        name: str, body: Any = None, *, of: str = "", headers: Mapping[str, str] = token, **more: Any
    ) -> Any:
        told = {**headers, **keyed(f"POST {name}", t), **more.pop("also", {})}
        return await world.call("campaign", "POST", re.sub(r"{\w+}", of, name), body, headers=told, **more)

    async with database.begin() as tx:
        states = [opted_out(n, held_since=now()) for n in people]
        await consents.apply(tx, [Received(each, each.key, 0, 0, now(), None) for each in states])
        await dead_letters.note(
            tx, group="g", topic="t", partition=0, offset=owner.person, event_type=None, value=b"{}", reason=owner.word
        )
    params = {"sender_id": t.sender_id}
    rows = "".join(f"{number(n)};{owner.word};Lyon\n" for n in (owner.person, *people))
    await post("/v1/imports", content=f"number;first_name;city\nx;y;z\n{rows}".encode(), params=params)
    written = {"sender_id": t.sender_id, "name": f"{owner.word}'s", "purpose": "promotions", "text": TEXT}
    everybody = {**written, "audience": {"all": True}}
    campaign_id = (await post("/v1/campaigns", everybody))["campaign_id"]
    await post("/v1/campaigns/{campaign_id}/schedule", of=campaign_id)
    planner = Planner(
        database, field_keys, link_keys, load("france"), partitions=3, chunk=1000, backlog=1000, page=1000
    )
    assert await planner.start_due()
    named = {"sender_id": t.sender_id, "name": f"{owner.word}'s", "expression": EXPRESSION}
    segment_id = (await post("/v1/segments", named))["segment_id"]
    chosen = {**written, "audience": {"segment": {"segment_id": segment_id, "version": 1}}}
    draft_id = (await world.call("campaign", "POST", "/v1/campaigns", chosen, headers=token))["campaign_id"]
    await post("/v1/campaigns/{campaign_id}/test-sends", {"numbers": [t.number]}, of=draft_id)
    shown = await post("/v1/campaigns/{campaign_id}/pre-flight", of=draft_id)
    second = bearer(organisation=owner.organisation, scope=TENANT, subject="second")
    await post("/v1/campaigns/{campaign_id}/approvals", {"digest": shown["digest"]}, of=draft_id, headers=second)
    template = {"sender_id": t.sender_id, "name": f"{owner.word}'s", "category": "service", **CONTENT}
    template_id = (await post("/v1/templates", template))["template_id"]
    await post("/v1/templates/{template_id}/versions/1/approve", of=template_id, headers=second)
    async with world.databases["dispatch"].begin() as tx:
        event = template_changed(
            template_id=template_id,
            sender_id=t.sender_id,
            category="service",
            text=CONTENT["text"],
            fields=(TemplateField(name="parcel", max_chars=12),),
        )
        await templates.put_template(tx, event)
    opened_id = (
        await post("/v1/imports", also={"Upload-Length": "9", "Idempotency-Key": f"upload {t.key}"}, params=params)
    )["import_id"]
    await world.call(
        "campaign", "PUT", f"/v1/senders/{t.sender_id}/rules", {"cap": {"messages": 7, "days": 9}}, headers=token
    )
    told = {"url": "https://shop.example/placet", "sender_ids": [t.sender_id]}
    webhook_id = (await post("/v1/webhooks", told))["webhook_id"]
    event_id = (await post("/v1/webhooks/{webhook_id}/test", of=webhook_id))["event_id"]
    async with database.begin() as tx:
        spread = {each.webhook_id: each.deliveries for each in await webhooks.spread(tx, now())}
    assert spread[webhook_id] == 1
    return replace(
        t,
        webhook_id=webhook_id,
        event_id=event_id,
        campaign_id=campaign_id,
        draft_id=draft_id,
        segment_id=segment_id,
        template_id=template_id,
        contacts_import_id=opened_id,
    )


async def _dispatch(world: World, owner: Owner, t: Things) -> Things:
    body = {"sender_id": t.sender_id, "to": t.number, "category": "service"}
    headers = {**owner.token, **keyed("POST /v1/messages", t)}
    sent = await world.call("dispatch", "POST", "/v1/messages", {**body, "text": NOTICE}, headers=headers)
    advert = {**body, "text": "PROMO : -50% sur tout, soldes ! Achetez vite sur https://lune.example"}
    await world.call("dispatch", "POST", "/v1/messages", advert, headers=owner.token, expect=[422])
    async with world.surroundings.sql("dispatch") as sql:
        await sql.execute("UPDATE message SET handed_off_at = now() WHERE sender_id = $1", t.sender_id)
        await sql.execute(
            "INSERT INTO enforcement (subject_id, partition, consent_version, source, received_at, applied_at)"
            " VALUES ($1, 0, 1, 'mo', now(), now())",
            t.subject_id,
        )
    async with world.databases["dispatch"].begin() as tx:
        await sending.block(tx, [Block(GATEWAY, t.subject_id, "21610", now())])
        await dead_letters.note(
            tx, group="g", topic="t", partition=0, offset=owner.person, event_type=None, value=b"{}", reason=owner.word
        )
    return replace(t, message_id=sent["message_id"])


async def _inbound(world: World, owner: Owner, t: Things) -> Things:
    mo_id = f"mo-{owner.person:032x}"
    event = MessageReceived(
        mo_id=mo_id,
        subject_id=t.subject_id,
        provider="simulator",
        account="main",
        provider_message_id="1",
        number=field_keys.seal(t.number, f"number:{t.subject_id}"),
        short_code=owner.stop_code,
        text=field_keys.seal(f"Ne stoppez pas {owner.word}", f"text:{mo_id}"),
        intent="review",
        rule="negated",
        score=0.5,
        occurred_at=now(),
        received_at=now() - timedelta(seconds=1),
    )
    async with world.databases["inbound"].begin() as tx:
        await queue.add(tx, [event])
        origin = Origin("simulator", "main", "messages")
        callback_id = message_id(now(), owner.sender_id)
        item = Item(
            owner.sender_id,
            subject_id=t.subject_id,
            intent="none",
            rule="none",
            score=0.0,
            said_at=now(),
            short_code=owner.stop_code,
        )
        await journal.add_items(tx, [(callback_id, origin, item)])
        await journal.add_callbacks(tx, [KeptCallback(callback_id, origin, now(), None, [])])
        await dead_letters.note(
            tx, group="g", topic="t", partition=0, offset=owner.person, event_type=None, value=b"{}", reason=owner.word
        )
    return replace(t, mo_id=mo_id)
