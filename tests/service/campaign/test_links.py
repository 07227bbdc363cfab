"""Tracked links: each person's own, leading where the campaign leads and nowhere else, and clicked by people."""

import asyncio
import base64
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from campaign.audience import store as audience
from campaign.links import links
from campaign.message.short_link import token
from campaign.privacy import erasure as eraser
from campaign.privacy import store as privacy
from campaign.privacy.copy import copier
from campaign.privacy.rectifier import Rectifier
from campaign.service import Settings, build
from common.contracts import CLICKS
from common.contracts.rights import RectificationRequested
from common.kafka.subscription import Received
from common.keyring import LinkKeys
from common.law import load
from common.privacy.erasing import Whom
from common.settings import KeyRingSettings
from stack.processes import free_port
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, field_keys, link_keys, now, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import KEY_RING, Surroundings, running
from tests.unit.campaign.test_visitors import OPENED, PHONE

pytestmark = pytest.mark.brokerless

HOST = "m.maison-lune.example"
TARGET = "https://maison-lune.example/soldes?de=sms"
OTHER = "https://maison-lune.example/vieux-lyon"
TEXT = f"Maison Lune : {{if city = Lyon}}{{link {OTHER}}}{{else}}{{link {TARGET}}}{{end}} {{stop}}"
WHOM = Whom(subject(1), None)
SHORT = re.compile(rf"https://{re.escape(HOST)}(/l/[0-9A-Za-z]{{12}}) ")


@pytest.fixture
async def linked(campaigns: Campaigns) -> Campaigns:
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": HOST})
    return campaigns


async def expanded(campaigns: Campaigns, *people: int) -> tuple[str, dict[str, str]]:
    """A campaign that has asked for these people, and the path of each one's link."""
    campaign_id = await campaigns.started(*people, text=TEXT)
    assert await campaigns.planner.expand()
    paths = {}
    for asked in await campaigns.requests():
        found = SHORT.search(field_keys.unseal(asked.text, f"text:{asked.message_id}"))
        assert found is not None
        paths[asked.subject_id] = found[1]
    return campaign_id, paths


async def followed(campaigns: Campaigns, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """As a phone that opens it, unless told otherwise: without a token of ours."""
    shown = {"Authorization": "", "User-Agent": PHONE, **OPENED, **headers}
    return await campaigns.client.request(method, path, headers=shown)


def visits(who: str) -> float:
    return REGISTRY.get_sample_value("sms_campaign_link_visits_total", {"result": who}) or 0


async def rows(campaigns: Campaigns) -> dict[str, int]:
    async with campaigns.surroundings.sql("campaign") as sql:
        return {row["subject_id"]: row["clicks"] for row in await sql.fetch("SELECT subject_id, clicks FROM link")}


async def test_each_person_gets_a_link_of_their_own_and_only_people_click(linked: Campaigns) -> None:
    campaign_id, paths = await expanded(linked, 1, 2)
    assert len(set(paths.values())) == 2
    assert not any(who.partition("-")[2][:8] in path for who, path in paths.items())
    mine, other = paths[subject(1)], paths[subject(2)]
    before = {who: visits(who) for who in ("person", "machine", "gone")}
    for machine in (
        await followed(linked, mine, "HEAD"),
        await followed(linked, mine, **{"User-Agent": "WhatsApp/2.23"}),
        await followed(linked, mine, **{"Sec-Purpose": "prefetch"}),
    ):
        assert (machine.status_code, machine.headers["location"]) == (302, OTHER)
    assert await rows(linked) == {subject(1): 0, subject(2): 0}
    assert await linked.outbox(CLICKS) == []
    for _ in range(2):
        led = await followed(linked, mine)
        assert (led.status_code, led.headers["location"], led.content) == (302, OTHER, b"")
        assert (led.headers["cache-control"], led.headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "set-cookie" not in led.headers
    assert (await followed(linked, other)).headers["location"] == TARGET
    assert await rows(linked) == {subject(1): 2, subject(2): 1}
    told = {click.subject_id: click for click in await linked.outbox(CLICKS)}
    assert len(await linked.outbox(CLICKS)) == 2  # one a day and link
    message = next(m for m in await linked.requests() if m.subject_id == subject(1))
    click = told[subject(1)]
    assert (click.campaign_id, click.sender_id, click.message_id) == (campaign_id, SENDER, message.message_id)
    assert [told[subject(n)].link for n in (1, 2)] == [1, 2], "as the text names them"
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE link SET last_clicked_at = date_trunc('day', now(), 'UTC') - interval '1 second'")
    await followed(linked, mine)
    assert len(await linked.outbox(CLICKS)) == 3
    assert (await followed(linked, mine, "POST")).status_code == 405
    assert {who: visits(who) - many for who, many in before.items()} == {"person": 4, "machine": 3, "gone": 0}


async def test_a_link_leads_on_however_far_ahead_the_end_of_an_older_campaign_was_set(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1)
    for before in ("send_before = '9999-12-31T23:59:59Z'", "send_before = NULL, starts_at = '9999-12-31T23:59:59Z'"):
        async with linked.surroundings.sql("campaign") as sql:
            await sql.execute(f"UPDATE campaign SET {before}")
        assert (await followed(linked, paths[subject(1)])).status_code == 302


async def test_who_follows_a_link_is_a_contact_of_its_sender_for_as_long_again(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1, 2)
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute(  # and of another sender, who has not heard of them
            "INSERT INTO contact (sender_id, subject_id, number, attributes, created_at, updated_at)"
            " SELECT 'other', subject_id, number, attributes, created_at, updated_at FROM contact"
        )
        await sql.execute("UPDATE contact SET updated_at = now() - interval '1090 days'")
        await followed(linked, paths[subject(1)], "HEAD")
        assert await sql.fetchval("SELECT max(updated_at) < now() - interval '1 day' FROM contact")
        await followed(linked, paths[subject(1)])
        younger = await sql.fetch("SELECT subject_id FROM contact WHERE updated_at > now() - interval '1 minute'")
    assert [row["subject_id"] for row in younger] == [subject(1)]


async def test_what_leads_nowhere_answers_the_same_page_whatever_the_reason(linked: Campaigns) -> None:
    campaign_id, paths = await expanded(linked, 1, 2)
    forged = token(link_keys, campaign_id, subject(9), TARGET)  # of nobody who was written to
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE link SET token = $1 WHERE subject_id = $2", "AAAAAAAAAAAA", subject(2))
    gone = [
        await followed(linked, path)
        for path in (
            "/l/",
            "/l/short",
            f"/l/{'0' * 12}",
            f"/l/{forged}",
            "/l/AAAAAAAAAAAA",  # in the table, and no key of ours made it
            f"{paths[subject(1)]}/",
            f"{paths[subject(1)]}//evil.example",
            "/l/https://evil.example",
            "/l/%0dLocation:%20https://evil.example",
        )
    ]
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE campaign SET starts_at = starts_at - interval '34 days'")
    gone.append(await followed(linked, paths[subject(1)]))
    assert {(page.status_code, page.content) for page in gone} == {(404, gone[0].content)}
    assert "n'est plus valable" in gone[0].text
    assert not any("location" in page.headers or "set-cookie" in page.headers for page in gone)
    assert {(page.headers["cache-control"], page.headers["x-robots-tag"]) for page in gone} == {
        ("no-store", "noindex, nofollow")
    }
    assert await rows(linked) == {subject(1): 0, subject(2): 0}
    assert await linked.outbox(CLICKS) == []


async def test_links_and_clicks_are_told_in_a_copy_and_forgotten_with_the_person(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1, 2)
    await followed(linked, paths[subject(1)])
    async with linked.database.begin() as tx:
        held = await copier(field_keys).gather(tx, subject(1), SENDER)
    assert [(item["target"], item["clicks"]) for item in held if item["kind"] == "link"] == [(OTHER, 1)]
    async with linked.database.begin() as tx:
        other = Whom(subject(3), None)
        done = await eraser.erase(tx, {WHOM: now(), other: now()})
    assert done == {
        WHOM: {"contacts": 1, "links": 1, "conversions": 0},
        other: {"contacts": 0, "links": 0, "conversions": 0},
    }
    assert await rows(linked) == {subject(2): 0}
    assert (await followed(linked, paths[subject(1)])).status_code == 404
    # who is being erased while they are asked for gets no row either
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute(
            "INSERT INTO erasing (erasure_id, subject_id, requested_at) VALUES ('e1', $1, now())", subject(1)
        )
    async with linked.database.begin() as tx:
        tokens = links.Tokens(link_keys, (await linked.requests())[0].campaign_id, subject(1), SENDER, now())
        tokens(TARGET)
        await links.keep(tx, [tokens])
    assert await rows(linked) == {subject(2): 0}
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE erasing SET erased_at = now(), lifted_for = ARRAY[$1]", SENDER)
    async with linked.database.begin() as tx:
        await links.keep(tx, [tokens])
    assert await rows(linked) == {subject(1): 0, subject(2): 0}, "who has come back has links again"


async def test_a_copy_has_a_persons_links_in_the_order_they_were_sent(linked: Campaigns) -> None:
    both = f"Maison Lune {{link {OTHER}}} {{link {TARGET}}} {{stop}}"
    sent = [await linked.started(1, text=both) for _ in range(2)]
    while await linked.planner.expand():
        pass
    async with linked.database.begin() as tx:
        told = [(row.campaign_id, row.target) for row in await links.of_person(tx, subject(1), SENDER)]
    assert told == [(campaign_id, target) for campaign_id in sent for target in (OTHER, TARGET)]


async def test_the_first_click_stays_the_first_and_of_many_at_once_one_is_told(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1, 2, 3)  # 3 has a link to the same as 1
    found = await asyncio.gather(*(followed(linked, paths[subject(1)]) for _ in range(8)))
    assert {led.status_code for led in found} == {302}
    assert await rows(linked) == {subject(1): 8, subject(2): 0, subject(3): 0}
    assert len(await linked.outbox(CLICKS)) == 1
    async with linked.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE link SET first_clicked_at = '2026-01-02' WHERE clicks > 0")
        await followed(linked, paths[subject(1)])
        assert await sql.fetchval("SELECT first_clicked_at::date::text FROM link WHERE clicks = 9") == "2026-01-02"


async def test_a_message_that_is_written_again_with_a_new_key_has_a_link_that_leads_where_it_did(
    linked: Campaigns,
) -> None:
    campaign_id, paths = await expanded(linked, 1)
    old = KEY_RING["current"]
    keys = {"n1": base64.b64encode(b"n" * 32).decode(), old: base64.b64encode(b"t" * 32).decode()}
    rotated = LinkKeys(KeyRingSettings.model_validate({"current": "n1", "keys": keys}), subject_keys)
    tokens = links.Tokens(rotated, campaign_id, subject(1), SENDER, now())
    written = tokens(TARGET if await _leads(linked, paths[subject(1)]) == TARGET else OTHER)
    async with linked.database.begin() as tx:
        await links.keep(tx, [tokens])
        found = await links.find(tx, written, rotated, 30)
    assert found is not None
    assert (found.campaign_id, found.subject_id) == (campaign_id, subject(1))


async def test_who_clicks_while_they_are_erased_waits_for_that_and_is_led_nowhere(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1)
    async with linked.surroundings.sql("campaign") as sql, linked.database.begin() as tx:

        async def waits() -> bool:
            return bool(await sql.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))

        assert await audience.delete_contacts(tx, {WHOM: now()}) == {WHOM: 1}
        clicking = asyncio.create_task(followed(linked, paths[subject(1)]))
        await eventually(waits)
        assert await links.forget(tx, {WHOM: now()}) == {WHOM: 1}
    assert (await clicking).status_code == 404
    assert await linked.outbox(CLICKS) == []


async def test_who_clicks_while_they_are_corrected_is_led_on(linked: Campaigns) -> None:
    campaign_id, paths = await expanded(linked, 1)
    tokens = links.Tokens(link_keys, campaign_id, subject(1), SENDER, now())
    target = await _leads(linked, paths[subject(1)])
    tokens(target)
    async with linked.surroundings.sql("campaign") as sql, linked.database.begin() as tx:

        async def waits() -> bool:
            return bool(await sql.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))

        assert await privacy.lock_contacts(tx, subject(1), SENDER, None) == [SENDER]
        clicking = asyncio.create_task(followed(linked, paths[subject(1)]))
        await eventually(waits)
        await links.keep(tx, [tokens])
    assert (await clicking).headers["location"] == target
    assert await rows(linked) == {subject(1): 1}


async def test_who_follows_a_link_while_the_database_is_away_is_asked_to_come_again(surroundings: Surroundings) -> None:
    nowhere = f"postgresql://nobody:nothing@127.0.0.1:{free_port()}/nothing"
    settings = await surroundings.settings("campaign", roles="api", database_url=nowhere)
    async with running(build(Settings(**settings))) as client:
        answer = await client.get("/l/0123456789ab", headers={"User-Agent": PHONE, **OPENED})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/plain; charset=utf-8")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_message_that_is_put_right_keeps_its_link_and_gets_those_it_had_not(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1)
    fields = field_keys.seal('{"city": "Lyon"}', "rectification:r1")
    asked = RectificationRequested(
        rectification_id="r1",
        subject_id=subject(1),
        controller_id=SENDER,
        sender_id=None,
        fields=fields,
        requested_at=now(),
    )
    for city, leads in (("Lyon", OTHER), ("Nîmes", TARGET)):
        fields = field_keys.seal(f'{{"city": "{city}"}}', "rectification:r1")
        batch = [Received(asked.__class__(**{**_fields(asked), "fields": fields}), subject(1), 0, 0, now(), None)]
        async with linked.database.begin() as tx:
            await Rectifier(field_keys, link_keys, load("france")).apply(tx, batch)
        said = (await linked.requests())[-1]
        found = SHORT.search(field_keys.unseal(said.text, f"text:{said.message_id}"))
        assert found is not None
        assert (found[1] == paths[subject(1)]) is (city == "Lyon")
        assert (await followed(linked, found[1])).headers["location"] == leads


async def test_links_need_a_host_of_the_senders_own_and_what_was_approved_is_where_they_lead(
    campaigns: Campaigns,
) -> None:
    refused = await campaigns.written(422, text=TEXT)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("text", "link_host_missing")]
    rules = f"senders/{SENDER}/rules"
    for host, why in (("M.example", "no_host"), ("m.example/x", "no_host"), ("bit.ly", "public_shortener")):
        refused = await campaigns.put(rules, 422, json={"link_host": host})
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("link_host", why)]
    await campaigns.put(rules, json={"link_host": HOST})
    assert (await campaigns.get(rules))["link_host"] == HOST
    written = await campaigns.written(text=f"Maison Lune {{link {TARGET}}} {{stop}}")
    short = f"Maison Lune https://{HOST}/l/xxxxxxxxxxxx STOP au 36111"
    assert written["length"]["units"] == len(short)
    preview = {"sender_id": SENDER, "text": written["text"]}
    assert (await campaigns.post("texts/preview", json=preview))["text"] == short
    seen = await campaigns.post(f"campaigns/{written['campaign_id']}/pre-flight")
    path = f"campaigns/{written['campaign_id']}"
    for change in ({"text": f"Maison Lune {{link {OTHER}}} {{stop}}"}, {"text": written["text"]}):
        await campaigns.put(path, json=change)
        again = await campaigns.post(f"{path}/pre-flight")
        assert (again["digest"] == seen["digest"]) is (change["text"] == written["text"])
    await campaigns.put(rules, json={"link_host": "s.maison-lune.example"})
    assert (await campaigns.post(f"{path}/pre-flight"))["digest"] != seen["digest"]
    # a host that is taken away after the start: nobody gets a text whose link leads nowhere
    campaign_id = await campaigns.started(1, text=TEXT)
    await campaigns.put(rules, json={})
    assert await campaigns.planner.expand()
    assert (await campaigns.statistics(campaign_id))["denied_reasons"] == {"link_host_missing": 1}


async def test_a_link_leads_on_for_thirty_days_after_its_message_may_last_leave(linked: Campaigns) -> None:
    _, paths = await expanded(linked, 1)
    async with linked.database.begin() as tx:
        found = await links.find(tx, paths[subject(1)].removeprefix("/l/"), link_keys, 30)
        assert found is not None
        left = found.expires_at - now()
    assert timedelta(days=32, hours=23) < left <= timedelta(days=33)  # three in which it may leave, and thirty


async def _leads(campaigns: Campaigns, path: str) -> str:
    return (await followed(campaigns, path, "HEAD")).headers["location"]


def _fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}
