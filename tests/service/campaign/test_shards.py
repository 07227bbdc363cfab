"""campaign-svc in two shards: each with some organisations, a database and a relay of its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from msgspec.structs import replace

from campaign.audience.reach import Standing
from campaign.audience.store import put_standings, standings_of
from campaign.feed import store as feeds
from campaign.feed.event import Told, Type
from campaign.schema import metadata
from campaign.senders.division import TABLES
from campaign.senders.store import put_sender
from campaign.service import Settings, build
from common import division
from common.contracts import (
    CAMPAIGN_REQUESTS,
    COPIES,
    COPY_PARTS,
    DISPATCH_MESSAGES,
    ERASURE_ACKS,
    ERASURES,
    RECTIFICATION_ACKS,
    RECTIFICATIONS,
    SENDERS,
    STATES,
    Event,
)
from common.contracts.campaign import MessageRequested
from common.contracts.consent import ConsentStateChanged, SenderChanged, Suppression
from common.contracts.dispatch import MessagesChanged, OptOutEnforced
from common.contracts.rights import CopyGathered, CopyRequested, RectificationAcknowledged, RectificationRequested
from common.db.database import Database
from common.db.shards import OtherShard
from common.kafka.broker import partition_of
from common.settings.shards import SLOTS
from tests.service.campaign.campaigns import WRITTEN, changed, csv_of
from tests.support.builders import (
    SENDER,
    erasure_requested,
    field_keys,
    now,
    number,
    opted_in,
    opted_out,
    sender_changed,
    subject,
)
from tests.support.erasures import acknowledgements
from tests.support.eventually import eventually
from tests.support.holdings import spellings
from tests.support.publish import publish
from tests.support.reading import reading, requests_in
from tests.support.receiver import receiving
from tests.support.running import Surroundings, bearer, running
from tests.support.shards import InShards, urls_of
from tests.unit.campaign.test_visitors import OPENED, PHONE

pytestmark = pytest.mark.any_broker

HELD = {"a": "0-511", "b": "512-1023"}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/campaign"
HOST, TARGET = "m.maison-lune.example", "https://maison-lune.example/soldes"
TEXT = f"Maison Lune : {{link {TARGET}}} {{stop}}"
SHORT = re.compile(rf"https://{re.escape(HOST)}(/l/[0-9A-Za-z]{{12}}) ")
OTHER = {"a": "b", "b": "a"}


def organisation(shard: str) -> str:
    """The first organisation whose slot the shard holds."""
    own = range(512) if shard == "a" else range(512, SLOTS)
    return next(name for n in range(99) if partition_of(name := f"org-{n}", SLOTS) in own)


ORGANISATIONS = {shard: organisation(shard) for shard in HELD}
SENDERS_OF = {"a": SENDER, "b": "autre-marque"}
BEARERS = {shard: bearer(organisation=ORGANISATIONS[shard]) for shard in HELD}


def senders() -> list[Event]:
    return [
        sender_changed(sender_id=sender, organisation_id=ORGANISATIONS[shard], controller_id=sender)
        for shard, sender in SENDERS_OF.items()
    ]


def with_both(n: int, version: int = 1) -> ConsentStateChanged:
    """A person who has consented to the senders of both organisations."""
    state = opted_in(n, version)
    return replace(state, consents=tuple(replace(state.consents[0], sender_id=one) for one in SENDERS_OF.values()))


@dataclass
class Divided(InShards):
    """Two running shards. `clients`: of each, with the token of the organisation of the other: any process answers."""

    async def each(self, query: str) -> dict[str, list[Any]]:
        """The first column of what each database has."""
        return {name: [row[0] for row in await self.sql(name, query)] for name in self.urls}

    async def held(self, shard: str, n: int) -> list[str]:
        return await self.holds(shard, spellings(number(n)))

    async def call(self, of: str, method: str, path: str, **request: Any) -> Any:
        """A call of the organisation of a shard to a process of the other."""
        answer = await self.clients[OTHER[of]].request(method, f"/v1/{path}", headers=BEARERS[of], **request)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def started(self, of: str, *people: int) -> str:
        """The id of a scheduled campaign of a shard's organisation to these people."""
        sender = SENDERS_OF[of]
        await self.call(of, "PUT", f"senders/{sender}/rules", json={"link_host": HOST})
        await self.call(of, "POST", "imports", params={"sender_id": sender}, content=csv_of(*people).encode())
        written = await self.call(of, "POST", "campaigns", json={**WRITTEN, "sender_id": sender, "text": TEXT})
        await self.call(of, "POST", f"campaigns/{written['campaign_id']}/schedule")
        return str(written["campaign_id"])


async def settings(surroundings: Surroundings, of: dict[str, str], shard: str, **more: Any) -> Settings:
    shards = {name: {"slots": HELD[name], "database_url": of[name]} for name in HELD}
    usual = {"hours": "demonstration", "webhooks_private": True, "shards": shards, "shard": shard}
    told = await surroundings.settings("campaign", **{**usual, **more})
    return Settings(**told | {"database_url": of[shard]})


@asynccontextmanager
async def divided(surroundings: Surroundings, of: dict[str, str] | None = None, **more: Any) -> AsyncIterator[Divided]:
    of = of or await urls_of(surroundings, "campaign", HELD)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(running(build(await settings(surroundings, of, name, **more))))
            for name in HELD
        }
        both = Divided(surroundings, of, clients)
        await publish(surroundings, SENDERS, senders())

        async def known() -> bool:
            return await both.each("SELECT count(*) FROM sender") == {"a": [2], "b": [2]}

        await eventually(known)
        yield both


async def asked(read: Callable[[], Awaitable[Sequence[Event]]], many: int) -> list[MessageRequested]:
    """The requests on the topic, once there are so many."""

    async def all_are_there() -> list[MessageRequested] | None:
        found = [each for each in requests_in(await read()) if isinstance(each, MessageRequested)]
        assert len(found) <= many
        return found if len(found) == many else None

    found = await eventually(all_are_there)
    assert found is not None
    return found


async def answered(surroundings: Surroundings, requests: Sequence[MessageRequested]) -> None:
    """As dispatch-svc reports that each message has left, in records of both organisations."""
    changes = tuple(
        replace(
            changed(each.campaign_id, each.subject_id, 2, "accepted", handed_off_at=now()), sender_id=each.sender_id
        )
        for each in requests
    )
    await publish(surroundings, DISPATCH_MESSAGES, [MessagesChanged(changes=changes)])


async def test_each_campaign_is_asked_for_and_counted_in_the_shard_of_its_organisation(
    surroundings: Surroundings,
) -> None:
    """Whichever process was called: a person who is in both campaigns is a contact in each database."""
    async with divided(surroundings) as both, reading(surroundings, CAMPAIGN_REQUESTS) as read:
        ids = {"a": await both.started("a", 1, 2), "b": await both.started("b", 1, 2, 3)}
        requests = await asked(read, 5)
        assert {each.campaign_id: each.sender_id for each in requests} == {ids[of]: SENDERS_OF[of] for of in HELD}
        await answered(surroundings, requests)
        for of, many in (("a", 2), ("b", 3)):

            async def finished(of: str = of) -> Any:
                found = await both.call(of, "GET", f"campaigns/{ids[of]}")
                return found if found["status"] == "finished" else None

            counted = (await eventually(finished))["statistics"]
            assert (counted["audience"], counted["accepted"]) == (many, many)
            there = await both.clients[of].get(f"/v1/campaigns/{ids[of]}", headers=BEARERS[OTHER[of]])
            assert there.status_code == 404, "nobody sees the campaign of another organisation"
        assert await both.each("SELECT campaign_id FROM campaign") == {of: [ids[of]] for of in HELD}
        assert await both.each("SELECT DISTINCT sender_id FROM contact") == {of: [SENDERS_OF[of]] for of in HELD}
        assert await both.each("SELECT count(*) FROM recipient WHERE status = 'accepted'") == {"a": [2], "b": [3]}


async def test_a_consent_is_kept_where_its_sender_is_and_one_of_an_unknown_sender_everywhere(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings) as both:
        unknown = opted_in(4)
        unknown = replace(unknown, consents=(replace(unknown.consents[0], sender_id="not-told-yet"),))
        stopped = replace(opted_in(5), suppressions=(Suppression(sender_id=None, since=now()),))
        await publish(surroundings, STATES, [opted_in(1), with_both(2), unknown, stopped, opted_out(6)])
        lines = "SELECT subject_id || ' ' || (e ->> 'sender_id') FROM standing AS s,"
        lines += " jsonb_array_elements(s.told -> 'consents') AS e ORDER BY 1"

        async def applied() -> bool:
            return await both.each(lines) == {
                "a": sorted(
                    [*(f"{subject(n)} {SENDERS_OF['a']}" for n in (1, 2, 5, 6)), f"{subject(4)} not-told-yet"],
                ),
                "b": sorted([f"{subject(2)} {SENDERS_OF['b']}", f"{subject(4)} not-told-yet"]),
            }

        await eventually(applied)
        people = await both.each("SELECT subject_id FROM standing")
        assert sorted(people["a"]) == sorted(subject(n) for n in (1, 2, 4, 5, 6))
        assert sorted(people["b"]) == sorted(subject(n) for n in (2, 4, 5, 6)), "a suppression is of every sender"


async def test_a_stop_of_a_sender_that_turns_out_to_be_of_another_shard_is_not_missed(
    surroundings: Surroundings,
) -> None:
    """The STOP came before the registry told of its sender: later states lack it there, and forget nothing."""
    async with divided(surroundings) as both:
        stop = opted_out(1, 1)
        stop = replace(
            stop,
            consents=(replace(stop.consents[0], sender_id="told-later"),),
            suppressions=(Suppression(sender_id="told-later", since=now()),),
        )
        await publish(surroundings, STATES, [stop])
        stops = "SELECT told -> 'suppressions' -> 0 ->> 'sender_id' FROM standing"

        async def kept() -> bool:
            return await both.each(stops) == {of: ["told-later"] for of in HELD}

        await eventually(kept)
        of_b = sender_changed(sender_id="told-later", organisation_id=ORGANISATIONS["b"], controller_id="told-later")
        await publish(surroundings, SENDERS, [of_b])

        async def known() -> bool:
            return await both.each("SELECT count(*) FROM sender") == {"a": [3], "b": [3]}

        await eventually(known)
        allowed = opted_in(1, 2)
        state = replace(stop, version=2, consents=(*stop.consents, *allowed.consents), causes=allowed.causes)
        await publish(surroundings, STATES, [state])

        async def applied() -> bool:
            return await both.each("SELECT version FROM standing") == {"a": [2], "b": [2]}

        await eventually(applied)
        assert await both.each("SELECT (told ->> 'unreadable')::boolean IS TRUE FROM standing") == {
            "a": [False],
            "b": [False],
        }
        lines = "SELECT e ->> 'sender_id' FROM standing AS s, jsonb_array_elements(s.told -> 'consents') AS e"
        assert await both.each(lines) == {"a": [SENDER], "b": ["told-later"]}


async def test_a_feed_and_its_webhook_tell_of_the_own_organisation_alone(surroundings: Surroundings) -> None:
    async with receiving() as receiver, divided(surroundings) as both:
        hook = await both.call("b", "POST", "webhooks", json={"url": receiver.url})
        receiver.secrets.append(hook["secret"])
        assert (await both.call("a", "GET", "events"))["items"] == []
        await publish(surroundings, STATES, [with_both(1), opted_in(2)])

        async def told(of: str, many: int) -> bool:
            items = (await both.call(of, "GET", "events"))["items"]
            assert {each["data"]["sender_id"] for each in items} <= {SENDERS_OF[of]}
            return len(items) == many

        await eventually(lambda: told("a", 2))
        await eventually(lambda: told("b", 1))

        async def delivered() -> bool:
            return len(receiver.accepted) == 1

        await eventually(delivered)
        assert receiver.accepted[0]["data"]["sender_id"] == SENDERS_OF["b"]
        await publish(surroundings, STATES, [opted_out(2)])  # and no watermark, for which the feed would wait
        left = changed("c", subject(2), 2, "accepted", handed_off_at=now())  # behind it in the partition
        left = replace(left, sender_id=SENDERS_OF["b"])
        enforced = OptOutEnforced(
            subject_id=subject(2),
            consent_version=2,
            source="mo",
            reference=None,
            received_at=now(),
            enforced_at=now(),
        )
        await publish(surroundings, DISPATCH_MESSAGES, [enforced, MessagesChanged(changes=(left,))])
        await eventually(lambda: told("a", 4))
        await eventually(lambda: told("b", 2))
        assert await both.each("SELECT organisation_id FROM event_feed") == {of: [ORGANISATIONS[of]] for of in HELD}


async def test_a_caller_has_the_senders_that_the_shard_of_the_data_knows(surroundings: Surroundings) -> None:
    """The registry of the process's own shard lags: a cursor that went on without a sender's event would lose it."""
    new = sender_changed(sender_id="new", organisation_id=ORGANISATIONS["a"], controller_id=SENDER)
    told = Told(
        type=Type.STARTED, sender_id="new", about="new", occasion=("new",), at=now(), data={"campaign_id": "new"}
    )
    async with divided(surroundings) as both:
        page = await both.call("a", "GET", "events")
        database = Database(both.urls["a"])
        async with database.begin() as tx:
            await put_sender(tx, new)
            await feeds.add(tx, {ORGANISATIONS["a"]: [(told, None)]})
        await database.close()
        page = await both.call("a", "GET", "events", params={"cursor": page["next"]})
        assert [each["data"]["sender_id"] for each in page["items"]] == ["new"]
        for_some = bearer(organisation=ORGANISATIONS["a"], senders=[SENDER, "new"])
        hook = {"url": "http://127.0.0.1:1/"}
        answer = await both.clients["b"].post("/v1/webhooks", json=hook, headers=for_some)
        assert sorted(answer.json()["sender_ids"]) == sorted([SENDER, "new"])
        await both.call("a", "PUT", "senders/new/rules", json={"link_host": HOST})
        await publish(surroundings, SENDERS, [new])

        async def known() -> bool:
            return await both.each("SELECT count(*) FROM sender") == {"a": [3], "b": [3]}

        await eventually(known)
        page = await both.call("a", "GET", "events", params={"cursor": page["next"]})
        assert page["items"] == [], "the event has come"


async def opened(client: httpx.AsyncClient, path: str) -> httpx.Response:
    return await client.get(path, headers={"Authorization": "", "User-Agent": PHONE, **OPENED})


async def test_a_short_link_of_either_shard_leads_on_at_any_process(surroundings: Surroundings) -> None:
    async with divided(surroundings) as both, reading(surroundings, CAMPAIGN_REQUESTS) as read:
        await both.started("a", 1)
        await both.started("b", 1)
        links = {}
        for each in await asked(read, 2):
            found = SHORT.search(field_keys.unseal(each.text, f"text:{each.message_id}"))
            assert found is not None
            links["a" if each.sender_id == SENDERS_OF["a"] else "b"] = found[1]
        for path in links.values():
            for client in both.clients.values():
                led = await opened(client, path)
                assert (led.status_code, led.headers["location"]) == (302, TARGET)
        assert await both.each("SELECT clicks FROM link") == {"a": [2], "b": [2]}
        for client in both.clients.values():
            assert (await opened(client, "/l/AAAAAAAAAAAA")).status_code == 404
    alone = await settings(surroundings, both.urls | {"b": NOWHERE}, "a", roles="api")
    async with running(build(alone)) as client:
        assert (await opened(client, links["a"])).status_code == 302
        for path in (links["b"], "/l/AAAAAAAAAAAA"):
            assert (await opened(client, path)).status_code == 503, "the link may be there"
        answer = await client.get("/v1/campaigns", headers=BEARERS["b"])
        assert answer.status_code == 503
        assert (await client.get("/v1/campaigns", headers=BEARERS["a"])).status_code == 200
    await both.sql("b", "UPDATE shard SET partitions = ARRAY(SELECT generate_series(600, 1023)::smallint)")
    async with frozen() as (url, connected):
        three = {"a": ("0-511", both.urls["a"]), "frozen": ("512-599", url), "b": ("600-1023", both.urls["b"])}
        shards = {name: {"slots": slots, "database_url": of} for name, (slots, of) in three.items()}
        async with running(build(await settings(surroundings, both.urls, "a", roles="api", shards=shards))) as client:
            assert (await opened(client, links["b"])).status_code == 302
            assert connected, "the link has waited for nobody else's database"
            over = "UPDATE campaign SET starts_at = starts_at - interval '1 year', send_before = now()"
            await both.sql("a", over + " - interval '1 year'")
            assert (await opened(client, links["a"])).status_code == 404, "the link is over, wherever others are"
            assert (await opened(client, "/l/AAAAAAAAAAAA")).status_code == 503


@asynccontextmanager
async def frozen() -> AsyncIterator[tuple[str, set[asyncio.StreamWriter]]]:
    """A database that takes connections, and never answers: its url, and the connections that have not been ended."""
    connected: set[asyncio.StreamWriter] = set()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)
        while await reader.read(1_000):
            continue
        connected.remove(writer)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield f"postgresql://nobody:nothing@127.0.0.1:{server.sockets[0].getsockname()[1]}/campaign", connected
    finally:
        server.close()


async def test_each_shard_erases_copies_and_corrects_its_part_and_says_of_how_many(surroundings: Surroundings) -> None:
    async with (
        divided(surroundings) as both,
        reading(surroundings, ERASURE_ACKS) as erased,
        reading(surroundings, COPY_PARTS) as copied,
        reading(surroundings, RECTIFICATION_ACKS) as corrected,
    ):
        for of in HELD:
            await both.call(of, "POST", "imports", params={"sender_id": SENDERS_OF[of]}, content=csv_of(1, 2).encode())
        about: dict[str, Any] = {"subject_id": subject(1), "controller_id": SENDERS_OF["a"], "requested_at": now()}
        await publish(surroundings, COPIES, [CopyRequested(copy_id="copy", **about)])
        fields = field_keys.seal('{"city": "Paris"}', "rectification:right")
        right = RectificationRequested(rectification_id="right", sender_id=None, fields=fields, **about)
        await publish(surroundings, RECTIFICATIONS, [right])

        async def copies() -> bool:
            found = [each for each in await copied() if isinstance(each, CopyGathered)]
            opened_by = {
                each.shard: field_keys.unseal(each.items, f"copy:copy:campaign:0{each.shard}") for each in found
            }
            assert all((each.service, each.shards, each.of) == ("campaign", 2, 1) for each in found)
            return {shard: '"kind":"contact"' in items for shard, items in opened_by.items()} == {"a": True, "b": False}

        async def rectified() -> bool:
            found = [each for each in await corrected() if isinstance(each, RectificationAcknowledged)]
            return {each.shard: (each.shards, each.rectified["contacts"]) for each in found} == {
                "a": (2, 1),
                "b": (2, 0),
            }

        await eventually(copies)
        await eventually(rectified)
        request = erasure_requested(1)
        await publish(surroundings, ERASURES, [request])

        async def acknowledged() -> bool:
            found = [each for each in acknowledgements(await erased()) if each.erasure_id == request.erasure_id]
            return {each.shard: (each.shards, each.erased["contacts"]) for each in found} == {"a": (2, 1), "b": (2, 1)}

        await eventually(acknowledged)
        for shard in HELD:
            assert await both.held(shard, 1) == []
            assert await both.held(shard, 2) == ["contact.number"]
            again = await both.call(
                shard, "POST", "imports", params={"sender_id": SENDERS_OF[shard]}, content=csv_of(1).encode()
            )
            assert again["refused"] == 1, "an erasure stands in the database of each organisation"


async def test_a_database_is_divided_and_both_parts_go_on(surroundings: Surroundings) -> None:
    """What one service has begun two finish: nobody is asked for twice, and nothing of another organisation stays."""
    whole = await surroundings.settings("campaign", hours="demonstration", webhooks_private=True)
    only = Divided(surroundings, {"a": whole["database_url"]}, {})
    async with reading(surroundings, CAMPAIGN_REQUESTS) as read:
        async with running(build(Settings(**whole))) as client:
            only.clients |= dict.fromkeys(HELD, client)
            await publish(surroundings, SENDERS, senders())
            await publish(surroundings, STATES, [opted_in(1), with_both(2)])

            async def known() -> bool:
                counted = "SELECT (SELECT count(*) FROM sender) + (SELECT count(*) FROM standing)"
                return await only.each(counted) == {"a": [4]}

            await eventually(known)
            for of in HELD:
                await only.call(of, "GET", "events")
                await only.call(of, "POST", "webhooks", json={"url": "http://127.0.0.1:1/"})
            ids = {"a": await only.started("a", 1, 2), "b": await only.started("b", 2, 3)}
            requests = await asked(read, 4)

            async def published() -> bool:
                return await only.each("SELECT count(*) FROM outbox") == {"a": [0]}

            await eventually(published)
        pending = "INSERT INTO erasing (erasure_id, subject_id, requested_at, after_xid) VALUES ($1, $1, now(), $2)"
        await only.sql("a", pending, "pending", 1 << 60)  # as the transaction ids of another server may be
        of_both = {
            "a": whole["database_url"],
            "b": await surroundings.postgres.copy(whole["database_url"], f"b_{surroundings.unique}"),
        }
        halves = {"a": range(512), "b": range(512, SLOTS)}
        for name, url in of_both.items():
            database = Database(url, name="campaign-divide")
            await division.divide(database, TABLES, halves[name], SLOTS)
            assert await division.divide(database, TABLES, halves[name], SLOTS) == 0, "an interrupted run is run again"
            await database.close()
        parts = Divided(surroundings, of_both, {})
        for table in ("contact", "campaign", "sender_rule"):
            found = await parts.each(f"SELECT DISTINCT sender_id FROM {table}")
            assert found == {of: [SENDERS_OF[of]] for of in HELD}, table
        for table in ("recipient", "campaign_accounts", "link"):
            assert await parts.each(f"SELECT DISTINCT campaign_id FROM {table}") == {of: [ids[of]] for of in HELD}
        for table in ("webhook", "event_feed"):
            found = await parts.each(f"SELECT organisation_id FROM {table}")
            assert found == {of: [ORGANISATIONS[of]] for of in HELD}, table
        states = "SELECT subject_id || ' ' || (told #>> '{consents,0,sender_id}') FROM standing ORDER BY 1"
        assert await parts.each(states) == {
            "a": sorted(f"{subject(n)} {SENDERS_OF['a']}" for n in (1, 2)),
            "b": [f"{subject(2)} {SENDERS_OF['b']}"],
        }
        async with divided(surroundings, of_both) as both:
            await answered(surroundings, requests)

            async def finished() -> bool:
                statuses = [(await both.call(of, "GET", f"campaigns/{ids[of]}"))["status"] for of in HELD]
                return statuses == ["finished", "finished"]

            await eventually(finished)
            assert len(await asked(read, 4)) == 4

            async def erased() -> bool:
                return await both.each("SELECT erased_at IS NOT NULL FROM erasing") == {"a": [True], "b": [True]}

            await eventually(erased)


async def test_every_page_of_the_states_is_divided(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(division, "AT_ONCE", 2)
    url = (await urls_of(surroundings, "campaign", HELD))["a"]
    database = Database(url, name="campaign-divide")
    of_b = {n: replace(with_both(n), consents=with_both(n).consents[1:]) for n in (3, 4, 5)}
    states = {n: Standing(consents=state.consents) for n, state in {1: opted_in(1), 2: with_both(2), **of_b}.items()}
    states[5] = Standing(consents=of_b[5].consents, erased=True)
    async with database.begin() as tx:
        for sender in senders():
            assert isinstance(sender, SenderChanged)
            await put_sender(tx, sender)
        await put_standings(tx, {subject(n): (1, state) for n, state in states.items()})
        await division.claim(tx, range(SLOTS), [], SLOTS)
    assert await division.divide(database, TABLES, range(512), SLOTS) == 4, "two are stripped, and two gone"
    assert await division.divide(database, TABLES, range(512), SLOTS) == 0
    async with database.begin() as tx:
        left = await standings_of(tx, map(subject, states))
    await database.close()
    assert {subject_id: [each.sender_id for each in state.consents] for subject_id, state in left.items()} == {
        subject(1): [SENDER],
        subject(2): [SENDER],
        subject(5): [],
    }


async def test_a_database_starts_with_the_slots_that_it_holds_and_with_no_others(surroundings: Surroundings) -> None:
    of = await urls_of(surroundings, "campaign", HELD)
    for name in HELD:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass
    swapped = {"a": of["b"], "b": of["a"]}
    with pytest.raises(OtherShard, match="holds the slots 512-1023 of 1024, and the settings say 0-511"):
        async with running(build(await settings(surroundings, swapped, "a", roles="api"))):
            pass
    whole = await surroundings.settings("campaign", roles="api")
    with pytest.raises(OtherShard, match="holds the slots 0-511 of 1024, and the settings say 0-1023"):
        async with running(build(Settings(**whole | {"database_url": of["a"]}))):
            pass


async def test_the_audit_log_of_an_organisation_is_whole_whichever_process_is_asked(surroundings: Surroundings) -> None:
    async with divided(surroundings) as both:
        for client in both.clients.values():
            for of, times in (("a", 2), ("b", 1)):
                for _ in range(times):
                    assert (await client.get("/v1/campaigns/none", headers=BEARERS[of])).status_code == 404

        async def written() -> bool:
            lines = await both.each("SELECT organisation FROM audit_line")
            return lines == {"a": [ORGANISATIONS["a"]] * 4, "b": [ORGANISATIONS["b"]] * 2}

        await eventually(written)
        reads = bearer(organisation=ORGANISATIONS["a"], scope="audit:read")
        pages: list[Any] = []
        for name in HELD:  # each page from another process
            told: dict[str, Any] = {"limit": 2} | ({"cursor": pages[-1]["next"]} if pages else {})
            pages.append((await both.clients[name].get("/v1/audit", params=told, headers=reads)).json())
        assert [len(page["items"]) for page in pages] == [2, 2]
        assert len({line["trace_id"] for page in pages for line in page["items"]}) == 4
        operator = bearer(organisation=ORGANISATIONS["a"], scope="audit:read platform:admin")
        first = (await both.clients["b"].get("/v1/audit", params={"limit": 1}, headers=operator)).json()
        [line], told = first["items"], {"limit": 1, "cursor": first["next"]}
        assert line["organisation"] == ORGANISATIONS["b"]
        assert (await both.clients["b"].get("/v1/audit", params=told, headers=operator)).json()["items"]
        refused = await both.clients["a"].get("/v1/audit", params=told, headers=operator)
        assert (refused.status_code, "of shard b" in refused.text) == (422, True)


async def test_a_worker_that_knows_another_count_of_shards_does_not_start(surroundings: Surroundings) -> None:
    """Its answers would be of two shards, those of the others of three: erasures would wait for ever."""
    of = await urls_of(surroundings, "campaign", HELD)
    for name in HELD:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass
    connection = await asyncpg.connect(of["b"])
    await connection.execute("UPDATE shard SET partitions = '{}'::smallint[] || 600::smallint, division = 'done'")
    await connection.close()
    with pytest.raises(OtherShard, match="holds the slots 600-600 of 1024, and the settings say 512-1023"):
        async with running(build(await settings(surroundings, of, "a", roles="worker"))):
            pass


def test_each_table_of_an_organisation_is_divided() -> None:
    owned = {
        table.name
        for table in metadata.tables.values()
        if {"sender_id", "campaign_id", "organisation_id", "subject_id", "webhook_id", "import_id"}
        & set(table.c.keys())
    }
    assert owned - set(TABLES.by_place) - set(TABLES.walked) == {"sender", "erasing", "audit_line"}  # in each part
