"""What came of a campaign: counts that add up whatever came in what order, who answered with a STOP, and a trace."""

import asyncio
import csv
import io
import logging
import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast, get_args

import msgspec
import pytest

from campaign.results import statistics
from campaign.senders import store
from common.contracts.consent import Cause, Consent, Suppression
from common.contracts.dispatch import MessageChanged, Status
from common.contracts.inbound import ReceiptState
from tests.service.campaign.campaigns import Campaigns, balanced, changed
from tests.service.campaign.test_links import HOST, OTHER, TARGET, TEXT, followed
from tests.support.builders import SENDER, field_keys, now, number, opted_out, sender_changed, shown, subject
from tests.support.eventually import eventually
from tests.support.running import ORGANISATION, bearer

pytestmark = pytest.mark.brokerless

OUTCOMES = ("accepted", "rejected", "unknown")


def reports(campaign_id: str, dice: random.Random, person: int) -> list[MessageChanged]:
    """One message's life as dispatch might tell it, each change with its version."""
    found = []
    for version in range(1, dice.randint(1, 5) + 1):
        status = dice.choice(get_args(Status))
        told = status in OUTCOMES
        segments = dice.randint(1, 3) if status in ("accepted", "unknown") else None
        found.append(
            changed(
                campaign_id,
                subject(person),
                version,
                status,
                reasons=("quiet_hours",)
                if status == "deferred"
                else ("no_consent", "erased")[: dice.randint(1, 2)]
                if status == "denied"
                else (),
                receipt=dice.choice((None, *get_args(ReceiptState))) if told else None,
                handed_off_at=now() - timedelta(hours=dice.randint(0, 2)) if told else None,
                segments=segments,
                cost=None if segments is None else dice.choice((None, segments * 410)),
            )
        )
    return found


def summed(parts: list[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for part in parts:
        found.update({name: n for name, n in part.items() if isinstance(n, int)})
    return found


async def statistics_of(campaigns: Campaigns, campaign_id: str) -> dict[str, Any]:
    """Once every sum in it holds."""
    told = await campaigns.get(f"campaigns/{campaign_id}/statistics")
    total = Counter({name: n for name, n in told["total"].items() if isinstance(n, int) and n})
    for breakdown in ("variants", "territories", "hours"):
        for part in told[breakdown]:
            balanced(part)
        assert +summed(told[breakdown]) == total, breakdown
        costs = [part["cost"] for part in told[breakdown]]
        assert sum(Decimal(cost or 0) for cost in costs) == Decimal(told["total"]["cost"] or 0), breakdown
    return told


@pytest.mark.parametrize("seed", range(4))
async def test_sums_add_up_under_any_order_duplication_and_reordering(campaigns: Campaigns, seed: int) -> None:
    dice = random.Random(seed)
    people = range(1, 9)
    campaign_id = await campaigns.started(*people)
    lives = {person: reports(campaign_id, dice, person) for person in people}
    told = [event for life in lives.values() for event in life]
    told += dice.choices(told, k=8)
    dice.shuffle(told)
    while told:
        batch, told = told[: (size := dice.randint(1, 5))], told[size:]
        await campaigns.report(*batch)
        live = await campaigns.statistics(campaign_id)
        found = await statistics_of(campaigns, campaign_id)
        shared = found["total"].keys() & live.keys()
        assert {name: found["total"][name] for name in shared} == {name: live[name] for name in shared}
        denied = {r["reason"]: r["recipients"] for r in found["reasons"] if r["status"] == "denied"}
        assert denied == live["denied_reasons"]
    last: Counter[str] = Counter(
        "pending" if life[-1].status == "sending" else life[-1].status for life in lives.values()
    )
    assert {name: n for name, n in live.items() if n and name in last} == dict(last)
    hours = {h["hour"]: h["audience"] for h in found["hours"] if h["hour"]}
    assert sum(hours.values()) == sum(last[name] for name in OUTCOMES)
    charged = [life[-1] for life in lives.values() if life[-1].segments is not None]
    total = found["total"]
    assert (total["segments"], total["unpriced"]) == (
        sum(each.segments or 0 for each in charged),
        sum(each.cost is None for each in charged),
    )
    known = [each.cost for each in charged if each.cost is not None]
    assert total["cost"] == (f"{sum(known) / 10_000:.4f}" if known or not charged else None)


async def test_an_opt_out_answers_the_last_message_that_reached_the_person_within_a_week(campaigns: Campaigns) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="atelier-lune"))
    first = await campaigns.started(*range(1, 9))
    second = await campaigns.started(*range(1, 9))
    other = await campaigns.started(*range(1, 9), purpose="loyalty")
    at = now()

    def left(campaign_id: str, person: int, ago: timedelta, status: str = "accepted") -> MessageChanged:
        return changed(campaign_id, subject(person), 1, status, handed_off_at=at - ago)

    def stop(person: int, **more: Any) -> Any:
        return opted_out(person, occurred_at=at, **more)

    day, week = timedelta(days=1), timedelta(days=7)
    # the STOP of 1 is heard of before the message it answers, that of the others after
    await campaigns.told(stop(1))
    await campaigns.report(
        *(left(first, person, day) for person in (1, 2, 3)),
        left(second, 2, day / 2),  # a later one
        left(second, 3, day / 2, "rejected"),  # a later one that did not arrive
        left(other, 3, day / 3),  # for a purpose that the STOP does not shut
        left(first, 4, week),  # too long ago
        left(first, 5, -day),  # the STOP came before
        left(first, 6, day, "unknown"),
        left(first, 7, day),
        left(first, 8, day),
    )
    states = [stop(person) for person in range(2, 7)]
    listed = stop(7)
    no_answer = listed.causes[0].__class__(kind="opt_out", source="provider_list", evidence_id="e-out", received_at=at)
    states.append(type(listed)(**{**_fields(listed), "causes": (no_answer,)}))
    wide = stop(8, suppressions=(Suppression(sender_id=None, since=at),))
    await campaigns.told(*states, wide, *states)
    await campaigns.told(wide)  # again, in a batch of its own
    counts = {
        name: (await statistics_of(campaigns, campaign_id))["total"]["opted_out"]
        for name, campaign_id in (("first", first), ("second", second), ("other", other))
    }
    assert counts == {"first": 4, "second": 1, "other": 0}  # 1, 3, 6 and 8; 2
    trace = await campaigns.post(f"campaigns/{first}/trace", json={"number": number(3)})
    assert trace["opted_out_at"] is not None
    trace = await campaigns.post(f"campaigns/{second}/trace", json={"number": number(3)})
    assert (trace["status"], trace["opted_out_at"]) == ("rejected", None)


async def test_an_opt_out_is_held_against_no_campaign_but_the_one_it_answers(campaigns: Campaigns) -> None:
    other = "atelier-lune"
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id=other))
    people = range(1, 13)
    first, second = await campaigns.started(*people), await campaigns.started(*people)
    loyalty = await campaigns.started(*people, purpose="loyalty")
    contacts = {
        "sender_id": other,
        "contacts": [{"number": number(n), "attributes": {"first_name": "Zoé"}} for n in people],
    }
    await campaigns.post("contacts", json=contacts)
    others = await campaigns.started(*people, sender_id=other)
    ended = await campaigns.started(*people)
    at, hour = now(), timedelta(hours=1)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE campaign SET started_at = $1", at - timedelta(days=3))
        await sql.execute("UPDATE campaign SET status = 'finished', ended_at = $2 WHERE campaign_id = $1", ended, at)

    def left(campaign_id: str, person: int, ago: timedelta) -> MessageChanged:
        return changed(campaign_id, subject(person), 1, "accepted", handed_off_at=at - ago)

    def shut(evidence: str, ago: timedelta, purpose: str = "promotions", sender_id: str = SENDER) -> Consent:
        return Consent(
            sender_id=sender_id,
            purpose=purpose,
            state="opted_out",
            basis=None,
            occurred_at=at - ago,
            evidence_id=evidence,
        )

    def kept(evidence: str, ago: timedelta) -> Consent:
        return msgspec.structs.replace(shut(evidence, ago), state="opted_in", basis="opt_in")

    def told(person: int, version: int, said: tuple[str, str, str], *consents: Consent) -> Any:
        kind, source, evidence = said
        cause: Any = Cause(kind=cast(Any, kind), source=source, evidence_id=evidence, received_at=at)
        return opted_out(person, version, consents=consents, causes=(cause,))

    stop = ("opt_out", "mo", "e1")
    await campaigns.report(
        *(left(first, person, 9 * hour) for person in people),
        left(second, 4, -hour),  # behind the STOP
        left(second, 5, 9 * hour),  # at the same instant
        left(others, 6, 2 * hour),  # of a sender that the STOP does not shut
        left(loyalty, 7, 2 * hour),  # of a purpose that another STOP has shut
        left(ended, 8, 2 * hour),  # a later one, of a campaign that has ended since
    )
    await campaigns.told(
        told(1, 2, ("opt_out", "receipt", "e1"), shut("e1", hour)),
        told(2, 2, ("opt_out", "rectification", "e1"), shut("e1", hour)),
        told(3, 2, stop, shut("e1", 2 * hour)),
        told(3, 3, ("opt_out", "mo", "e2"), shut("e2", hour)),
        *(told(person, 2, stop, shut("e1", hour)) for person in (4, 5, 6, 8)),
        told(7, 2, ("opt_out", "mo", "e0"), shut("e0", hour, "loyalty")),
        told(7, 3, stop, shut("e0", hour, "loyalty"), shut("e1", hour)),
        # a STOP to loyalty, told with what a provider's list had shut before
        told(9, 2, stop, shut("e1", hour, "loyalty"), shut("listed", hour)),
        told(10, 2, stop, shut("e1", hour, sender_id=other)),
        # what is no opt-out, of whatever evidence
        told(11, 2, ("opt_in", "form", "e1"), shut("e1", hour)),
        # a page of preferences that shuts one purpose and keeps the other
        told(12, 2, ("opt_out", "preference_page", "e1"), shut("e1", hour, "loyalty"), kept("e1", hour)),
    )
    counts = {
        name: (await statistics_of(campaigns, campaign_id))["total"]["opted_out"]
        for name, campaign_id in (
            ("first", first), ("second", second), ("loyalty", loyalty), ("others", others), ("ended", ended)
        )
    }  # fmt: skip
    traced = {
        person: (await campaigns.post(f"campaigns/{first}/trace", json={"number": number(person)}))["opted_out_at"]
        for person in people
    }
    answered = {person for person, since in traced.items() if since is not None}
    assert answered - {5} == {3, 4, 6, 7}
    assert counts["first"] + counts["second"] == 5, "of two at the same instant one is answered"
    assert [counts[name] for name in ("loyalty", "others", "ended")] == [1, 0, 1]
    assert datetime.fromisoformat(traced[3]) == at - 2 * hour, "the first of several"


@pytest.mark.parametrize(("organisation", "counted"), [(ORGANISATION, 0), ("others", 1)])
async def test_an_opt_out_from_every_sender_answers_the_last_message_of_each_organisation(
    campaigns: Campaigns, organisation: str, counted: int
) -> None:
    """A later message of another organisation takes no opt-out away, whether or not they share a database."""
    other = "atelier-lune"
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id=other))
    first = await campaigns.started(1)
    contact = {"number": number(1), "attributes": {"first_name": "Zoé"}}
    await campaigns.post("contacts", json={"sender_id": other, "contacts": [contact]})
    later = await campaigns.started(1, sender_id=other)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE campaign SET started_at = $1", now() - timedelta(days=3))
        await sql.execute("UPDATE sender SET organisation_id = $1 WHERE sender_id = $2", organisation, other)
    await campaigns.report(
        changed(first, subject(1), 1, "accepted", handed_off_at=now() - timedelta(hours=3)),
        changed(later, subject(1), 1, "accepted", handed_off_at=now() - timedelta(hours=2)),
    )
    stop = opted_out(1)
    of_both = (*stop.consents, msgspec.structs.replace(stop.consents[0], sender_id=other))
    await campaigns.told(msgspec.structs.replace(stop, consents=of_both))
    assert (await statistics_of(campaigns, first))["total"]["opted_out"] == counted


async def test_what_changes_while_it_is_counted_is_in_none_of_the_counts(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": HOST})
    campaign_id = await campaigns.started(1, text=TEXT)
    assert await campaigns.planner.expand()
    async with campaigns.surroundings.sql("campaign") as sql, sql.transaction():
        await sql.execute("LOCK TABLE campaign_link IN ACCESS EXCLUSIVE MODE")  # of its links it tells last
        telling = asyncio.create_task(statistics_of(campaigns, campaign_id))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'campaign_link'::regclass AND NOT granted)"
        await eventually(lambda: sql.fetchval(waiting))
        await sql.execute("UPDATE link SET clicks = 1")
    told = await telling
    assert told["total"]["clicked"] == sum(link["people"] for link in told["links"]) == 0


async def test_a_persons_trace_and_the_file_tell_the_same_and_no_number(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="campaign.results.statistics")
    monkeypatch.setattr(statistics, "PAGE", 2)
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": HOST})
    campaign_id = await campaigns.started(1, 2, 3, text=TEXT)
    assert await campaigns.planner.expand()
    asked = {request.subject_id: request for request in await campaigns.requests()}
    path = field_keys.unseal(asked[subject(2)].text, f"text:{asked[subject(2)].message_id}").split(HOST)[1].split()[0]
    assert (await followed(campaigns, path)).status_code == 302
    at = now()
    await campaigns.report(
        changed(campaign_id, subject(2), 1, "accepted", handed_off_at=at, receipt="delivered", receipt_at=at),
        changed(campaign_id, subject(3), 1, "denied", reasons=("no_consent", "suppressed")),
    )
    # another campaign to the same people, whose clicks and reasons are its own
    other = await campaigns.started(1, 2, 3, text=TEXT)
    assert await campaigns.planner.expand()
    for asked_too in (await campaigns.requests())[-3:]:
        text = field_keys.unseal(asked_too.text, f"text:{asked_too.message_id}")
        assert (await followed(campaigns, text.split(HOST)[1].split()[0])).status_code == 302
    await campaigns.report(changed(other, subject(1), 1, "denied", reasons=("quiet_hours",)))
    trace = await campaigns.post(f"campaigns/{campaign_id}/trace", json={"number": "06 39 98 00 02"})
    assert (trace["in_audience"], trace["status"], trace["receipt"]) == (True, "accepted", "delivered")
    assert trace["subject_id"] == shown(2)
    assert trace["message_id"] == asked[subject(2)].message_id
    [said] = [vars(record) for record in caplog.records if record.name == "campaign.results.statistics"]
    assert (said["campaign_id"], said["subject_id"], bool(said["by"])) == (campaign_id, subject(2), True)
    assert [(link["target"], link["clicks"]) for link in trace["links"]] == [(TARGET, 1)]
    denied = await campaigns.post(f"campaigns/{campaign_id}/trace", json={"number": number(3)})
    assert (denied["status"], denied["reasons"]) == ("denied", ["no_consent", "suppressed"])
    nobody = await campaigns.post(f"campaigns/{campaign_id}/trace", json={"number": number(9)})
    assert (nobody["in_audience"], nobody["message_id"], nobody["links"]) == (False, None, [])
    refused = await campaigns.post(f"campaigns/{campaign_id}/trace", 422, json={"number": "36111"})
    assert refused["reasons"][0]["field"] == "number"
    told = await statistics_of(campaigns, campaign_id)
    assert told["total"]["clicked"] == 1
    assert [(link["target"], link["people"], link["clicks"]) for link in told["links"]] == [
        (OTHER, 0, 0), (TARGET, 1, 1),
    ]  # fmt: skip
    assert {each["reason"] for each in told["reasons"]} == {"no_consent", "suppressed"}

    answer = await campaigns.client.get(f"/v1/campaigns/{campaign_id}/recipients.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    lines = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    by_subject = {line["subject_id"]: line for line in lines}
    assert len(lines) == 3
    assert sorted(by_subject) == sorted(shown(n) for n in (1, 2, 3))
    assert [line["clicks"] for line in lines if line["subject_id"] != shown(2)] == ["0", "0"]
    assert (by_subject[shown(2)]["message_id"], by_subject[shown(2)]["clicks"]) == (trace["message_id"], "1")
    assert by_subject[shown(3)]["reasons"] == "no_consent suppressed"
    assert not any(number(n)[-8:] in answer.text for n in (1, 2, 3))


async def test_who_followed_two_links_and_stopped_after_the_end_is_one_person_of_its_senders_territory(
    campaigns: Campaigns,
) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="atelier-lune"))
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": HOST})
    campaign_id = await campaigns.started(1, text=f"Maison Lune {{link {TARGET}}} {{link {TARGET}#plus}} {{stop}}")
    other = {"sender_id": "atelier-lune", "contacts": [{"number": number(1)}]}
    await campaigns.post("contacts", json=other)  # a contact of another sender is not counted with it
    assert await campaigns.planner.expand()
    [request] = await campaigns.requests()
    for each in field_keys.unseal(request.text, f"text:{request.message_id}").split(HOST)[1:]:
        assert (await followed(campaigns, each.split()[0])).status_code == 302
    at = now()
    left = at - timedelta(days=4)
    await campaigns.report(changed(campaign_id, subject(1), 1, "accepted", handed_off_at=left))
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE campaign SET started_at = $1, ended_at = $1", left)
        await sql.execute("UPDATE link SET first_clicked_at = $1 WHERE place = 2", left)
    await campaigns.told(opted_out(1, occurred_at=at))
    told = await statistics_of(campaigns, campaign_id)
    assert [told["total"][name] for name in ("audience", "clicked", "opted_out")] == [1, 1, 1]
    assert [(link["people"], link["clicks"]) for link in told["links"]] == [(1, 1), (1, 1)]
    assert [(each["territory"], each["audience"]) for each in told["territories"]] == [("FR", 1)]
    hour = left.replace(minute=0, second=0, microsecond=0)
    assert [datetime.fromisoformat(each["hour"]) for each in told["hours"]] == [hour]
    answer = await campaigns.client.get(f"/v1/campaigns/{campaign_id}/recipients.csv")
    [line] = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert (line["territory"], line["clicks"]) == ("FR", "2")
    assert [datetime.fromisoformat(line[name]) for name in ("first_clicked_at", "opted_out_at")] == [left, at]


@pytest.mark.parametrize("of_others", ["other_controller", "erased", "consent_unreadable", "provider_block"])
async def test_what_others_hold_of_a_recipient_is_told_to_nobody(campaigns: Campaigns, of_others: str) -> None:
    campaign_id = await campaigns.started(1)
    reasons = ("no_consent", of_others)
    await campaigns.report(changed(campaign_id, subject(1), 1, "denied", reasons=reasons))
    path = f"/v1/campaigns/{campaign_id}"
    told = ["no_consent"]
    for headers in (bearer(senders=[SENDER]), bearer()):
        numbers = (await campaigns.client.get(path, headers=headers)).json()["statistics"]
        assert numbers["denied_reasons"] == {"no_consent": 1}
        statistics = (await campaigns.client.get(f"{path}/statistics", headers=headers)).json()
        assert [each["reason"] for each in statistics["reasons"]] == told
        trace = await campaigns.client.post(f"{path}/trace", json={"number": number(1)}, headers=headers)
        assert trace.json()["reasons"] == told
        [one] = (await campaigns.client.get(f"{path}/recipients", headers=headers)).json()["items"]
        assert one["reasons"] == told
        file = await campaigns.client.get(f"{path}/recipients.csv", headers=headers)
        [line] = csv.DictReader(io.StringIO(file.content.decode("utf-8-sig")))
        assert line["reasons"].split() == told


async def test_who_asks_must_be_allowed_to(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1)
    path = f"campaigns/{campaign_id}/trace"
    await campaigns.post(path, 403, json={"number": number(1)}, headers=bearer(scope="campaign:read"))
    await campaigns.post(path, 404, json={"number": number(1)}, headers=bearer(senders=["other"]))
    for what in ("statistics", "recipients.csv"):
        url = f"/v1/campaigns/{campaign_id}/{what}"
        assert (await campaigns.client.get(url, headers=bearer(senders=["other"]))).status_code == 404
        assert (await campaigns.client.get(f"/v1/campaigns/cmp-none/{what}")).status_code == 404
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE campaign SET ended_at = now() - interval '400 days'")
    assert (await campaigns.client.get(f"/v1/campaigns/{campaign_id}/statistics")).status_code == 410


def _fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}
