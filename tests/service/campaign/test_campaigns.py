"""Campaigns from draft to end: the frozen audience, one request each, the controls, and the accounts at every step."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text

from campaign.campaigns import recipients
from campaign.campaigns import store as campaigns_store
from campaign.planning import control, progress
from campaign.planning import store as planning
from campaign.planning.planner import FIRST_REQUESTS, Planner
from campaign.schedule.lifecycle import FURTHEST, Action, Status, message_of
from campaign.senders import store as senders
from common.contracts.dispatch import HoldChanged, MessagesChanged, OptOutEnforced
from common.db.database import Database
from common.kafka.subscription import Received
from common.law import load
from tests.service.campaign.campaigns import Campaigns, balanced, changed, csv_of
from tests.support.builders import (
    SENDER,
    STOP_CODE,
    edge_ids,
    field_keys,
    link_keys,
    now,
    number,
    sender_changed,
    shown,
    subject,
    subject_keys,
)
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'contact'"
WAITING = (  # a transaction that waits for another
    "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE datname = current_database() AND NOT granted AND locktype = 'transactionid'"
)
KNOWN = "SELECT n_distinct FROM pg_stats WHERE tablename = 'recipient' AND attname = 'campaign_id'"


async def test_a_draft_tells_what_it_costs(campaigns: Campaigns) -> None:
    draft = await campaigns.written(text="L’été chez Maison Lune. {stop}", audience={"where": {"city": "Lyon"}})
    assert draft["status"] == "draft"
    assert draft["length"] == {"encoding": "UCS2", "units": 37, "segments": 1}
    quote = {"character": "’", "name": "RIGHT SINGLE QUOTATION MARK", "at": 2, "instead": "'", "folding": "typographic"}
    assert draft["costly"] == [quote]
    assert (draft["language"], draft["translations"], draft["folding"]) == ("fr", {}, "none")
    assert draft["audience"] == {"where": {"city": ["Lyon"]}}
    assert draft["starts_at"] is draft["send_before"] is draft["opens_at"] is None
    assert balanced(draft["statistics"])["audience"] == 0
    assert await campaigns.get(f"campaigns/{draft['campaign_id']}") == draft


@each_of(
    ("fields", "status", "field", "reason"),
    [
        ({"sender_id": "nobody"}, 404, "sender_id", "unknown_sender"),
        ({"purpose": "weather"}, 422, "purpose", "unknown_purpose"),
        ({"text": "Bonjour"}, 422, "text", "stop_mention_missing"),
        ({"text": "Bonjour STOP au 36112"}, 422, "text", "stop_mention_missing"),
        ({"text": "Bonjour {first name} {stop}"}, 422, "text", "field_name"),
        ({"text": ""}, 422, "text", "empty"),
        ({"text": "a" * 1600 + " {stop}"}, 422, "text", "too_long"),
        ({"text": "{if vip}Or {stop}"}, 422, "text", "condition"),
        ({"text": "{if vip}Or {stop}{end}"}, 422, "text", "stop_mention_missing"),
        ({"translations": {"en": "Hello"}}, 422, "translations.en", "stop_mention_missing"),
        ({"translations": {"fr": "Bonjour {stop}"}}, 422, "translations.fr", "same_language"),
        ({"translations": {"English": "Hello {stop}"}}, 422, "translations.English.[key]", "string_pattern_mismatch"),
        ({"folding": "all"}, 422, "folding", "enum"),
        ({"send_before": "2020-01-01T00:00:00Z"}, 422, "send_before", "in_the_past"),
        ({"send_before": "2030-01-01T00:00:00"}, 422, "send_before", "timezone_aware"),
        ({"audience": {"where": {}}}, 422, "audience.where", "too_short"),
        ({"audience": {"all": False}}, 422, "audience.all", "literal_error"),
        ({"audience": {}}, 422, "audience", "value_error"),
        ({"audience": {"all": True, "where": {"city": "Lyon"}}}, 422, "audience", "value_error"),
        ({"audience": {"where": {"Ville": "Lyon"}}}, 422, "audience.where.Ville.[key]", "string_pattern_mismatch"),
        ({"colour": "red"}, 422, "colour", "extra_forbidden"),
    ],
)
async def test_a_campaign_that_cannot_be_is_refused_with_the_field(
    campaigns: Campaigns, fields: dict[str, Any], status: int, field: str, reason: str
) -> None:
    refused = await campaigns.written(status, **fields)
    assert (field, reason) in [(r["field"], r["reason"]) for r in refused["reasons"]]


@pytest.mark.parametrize("far", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", None])
async def test_what_is_planned_for_more_than_two_years_ahead_is_refused(campaigns: Campaigns, far: str | None) -> None:
    far = far or (now() + FURTHEST + timedelta(hours=1)).isoformat()
    within = (now() + FURTHEST - timedelta(days=30)).isoformat()
    campaign_id = (await campaigns.written(send_before=within))["campaign_id"]
    path, at = f"campaigns/{campaign_id}", {"at": far}
    for field, refused in (
        ("send_before", await campaigns.written(422, send_before=far)),
        ("send_before", await campaigns.put(path, 422, json={"send_before": far})),
        ("at", await campaigns.post(f"{path}/pre-flight", 422, json=at)),
        ("at", await campaigns.post(f"{path}/schedule", 422, json=at)),
    ):
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [(field, "too_far")]
    assert await campaigns.status(campaign_id) == "draft"


@pytest.mark.parametrize(
    "far", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "0050-06-01T00:00:00Z"]
)
async def test_an_instant_that_no_calendar_reckons_with_is_refused_wherever_it_is_said(
    campaigns: Campaigns, far: str
) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"cap": {"messages": 1, "days": 30}})
    path, at = f"campaigns/{(await campaigns.written())['campaign_id']}", {"at": far}
    stale = {"If-Match": '"0000"'}
    somebody = bearer(subject="somebody else")
    recurring = {"cron": "0 10 * * MON", "until": far}
    for field, refused in (
        ("at", await campaigns.post(f"{path}/pre-flight", 422, json=at)),
        ("at", await campaigns.post(f"{path}/approvals", 422, json=at | {"digest": "0" * 64}, headers=somebody)),
        ("at", await campaigns.post(f"{path}/schedule", 422, json=at)),
        ("send_before", await campaigns.written(422, send_before=far)),
        ("send_before", await campaigns.put(path, 422, json={"send_before": far})),
        ("send_before", await campaigns.put(path, 422, json={"send_before": far}, headers=stale)),
        ("recurring.until", await campaigns.written(422, recurring=recurring)),
    ):
        [found] = refused["reasons"]
        assert found["field"] == field
        assert found["reason"] in ("too_far", "in_the_past", "never_comes")


async def test_the_same_key_writes_one_campaign(campaigns: Campaigns) -> None:
    key = {"Idempotency-Key": "saturday"}
    first = await campaigns.written(headers=key)
    assert await campaigns.written(201, headers=key) == first
    assert (await campaigns.written(422, headers=key, name="Dimanche"))["type"] == "/problems/idempotency-key-reused"
    other = await campaigns.written(headers=key | bearer(subject="somebody else"))
    assert other["campaign_id"] != first["campaign_id"]


async def test_a_campaign_asks_once_for_each_contact_with_its_own_text(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(25))
    assert await campaigns.status(campaign_id) == "running"
    assert (await campaigns.statistics(campaign_id))["pending"] == 25
    assert [c.control for c in await campaigns.controls()] == ["running"]
    assert await campaigns.requests() == []
    chunks = 0
    while await campaigns.planner.expand():
        chunks += 1
    assert chunks == 3
    requests = await campaigns.requests()
    shown = await campaigns.get(f"campaigns/{campaign_id}")
    starts_at = datetime.fromisoformat(shown["starts_at"])
    assert sorted(r.subject_id for r in requests) == sorted(subject(n) for n in range(25))
    for request in requests:
        assert request.message_id == message_of(campaign_id, starts_at, subject_keys.inner(request.subject_id))
        assert (request.campaign_id, request.sender_id, request.purpose) == (campaign_id, SENDER, "promotions")
        assert request.category == "marketing"
        assert request.send_before == starts_at + timedelta(days=3)
        assert abs(request.requested_at - now()) < timedelta(minutes=1)
    seven = next(r for r in requests if r.subject_id == subject(7))
    assert field_keys.unseal(seven.number, f"number:{subject(7)}") == number(7)
    written = field_keys.unseal(seven.text, f"text:{seven.message_id}")
    assert written == f"Zoé 7, -20% chez Maison Lune. STOP au {STOP_CODE}"
    assert not await campaigns.planner.expand()


async def test_each_contact_is_written_to_in_its_language_and_as_it_is(campaigns: Campaigns) -> None:
    await campaigns.imported(
        "number;first_name;language;loyalty;postcode\n"
        f"{number(1)};Loïc;fr;or;67000\n{number(2)};Zoë;EN;;75011\n{number(3)};;en;or;\n{number(4)};Ana;pt;;\n"
    )
    fields: dict[str, Any] = {
        "text": "{first_name|Bonjour}, {if loyalty = or}-30 %{else}-20 %{end} à l’hôtel. {stop}",
        "translations": {"en": "{first_name}, our offers: {if loyalty = or}30%{else}20%{end} off. {stop}"},
        "folding": "accents",
    }
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    await campaigns.planner.expand()
    requests = await campaigns.requests()
    regions = {r.subject_id: r.region for r in requests}
    assert regions == {subject(1): "FR-6AE", subject(2): None, subject(4): None}, "Alsace has holidays of its own"
    written = {r.subject_id: field_keys.unseal(r.text, f"text:{r.message_id}") for r in requests}
    assert written == {
        subject(1): f"Loïc, -30 % à l'hotel. STOP au {STOP_CODE}",
        subject(2): f"Zoë, our offers: 20% off. STOP au {STOP_CODE}",
        subject(4): f"Ana, -20 % à l'hotel. STOP au {STOP_CODE}",
    }
    found = await campaigns.statistics(campaign_id)
    assert (found["audience"], found["denied"]) == (4, 1)
    assert found["denied_reasons"] == {"missing:first_name": 1}


async def test_a_preview_says_what_a_text_becomes_and_what_folding_would_change(campaigns: Campaigns) -> None:
    body = {
        "sender_id": SENDER,
        "text": "{if vip}Très{else}Peu{end} d’offres, {first_name}. {stop}",
        "attributes": {"first_name": "Noël", "vip": "1"},
    }
    found = await campaigns.post("texts/preview", json=body)
    assert found["text"] == f"Très d’offres, Noël. STOP au {STOP_CODE}"
    assert (found["fields"], found["missing"], found["problem"]) == (["vip", "first_name"], None, None)
    assert found["length"] == {"encoding": "UCS2", "units": 34, "segments": 1}
    assert [(c["character"], c["at"], c["instead"]) for c in found["costly"]] == [("’", 29, "'")]
    told = {f["folding"]: (f["length"]["encoding"], f["changes"], f["changed_attributes"]) for f in found["foldings"]}
    quote = [{"at": 29, "before": "’", "after": "'"}]
    assert told == {
        "typographic": ("UCS2", quote, {}),
        "accents": ("UCS2", quote, {}),
        "names": ("GSM7", quote, {"first_name": "Noel"}),
    }
    assert (await campaigns.post("texts/preview", json=body | {"attributes": {}}))["missing"] == "first_name"
    shortest = await campaigns.post("texts/preview", json=body | {"attributes": None})
    assert shortest["text"] == f"Peu d’offres, x. STOP au {STOP_CODE}"
    await campaigns.post("texts/preview", 422, json=body | {"text": "{if vip}"})
    await campaigns.post("texts/preview", 403, json=body, headers=bearer(senders=["other"]))


async def test_an_audience_is_whom_the_filter_names_and_can_be_written_to(campaigns: Campaigns) -> None:
    body = "number;first_name;city;loyalty\n" + "".join(
        f"{number(n)};{name};{city};{loyalty}\n"
        for n, (name, city, loyalty) in enumerate(
            [
                ("Zoé", "Lyon", "or"),
                ("Aimé", "Nîmes", "or"),
                ("", "Lyon", "or"),
                ("Inès", "Lyon", "bronze"),
                ("Noé", "Sète", "argent"),
                ("Léa", "", "or"),
                ("Max", "Lyon", ""),
            ]
        )
    )
    await campaigns.imported(body)
    where = {"city": ["Lyon", "Nîmes"], "loyalty": "or"}
    fields: dict[str, Any] = {"audience": {"where": where}, "text": "{first_name}, {prize} {stop}"}
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    refused = await campaigns.post(f"campaigns/{campaign_id}/schedule", 409)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("text", "unknown_attribute:prize")]
    assert await campaigns.status(campaign_id) == "draft"
    await campaigns.put(f"senders/{SENDER}/attributes/prize", json={"kind": "text"})  # a file will bring it
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    empty = await campaigns.get(f"campaigns/{campaign_id}")
    assert empty["statistics"]["audience"] == 0
    assert empty["statistics"]["excluded"] == {"missing:prize": 2, "missing:first_name": 1}
    fields["text"] = "{first_name} {stop}"
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    found = await campaigns.statistics(campaign_id)
    assert (found["audience"], found["excluded"]) == (2, {"missing:first_name": 1})
    listed = await campaigns.get(f"campaigns/{campaign_id}/recipients")
    assert sorted(r["subject_id"] for r in listed["items"]) == sorted([shown(0), shown(1)])


async def test_an_audience_is_frozen_when_the_campaign_starts(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1, 2)
    await campaigns.imported(csv_of(3))
    while await campaigns.planner.expand():
        pass
    assert sorted(r.subject_id for r in await campaigns.requests()) == sorted([subject(1), subject(2)])
    assert (await campaigns.statistics(campaign_id))["audience"] == 2


async def test_who_can_no_longer_be_written_to_is_denied_with_the_reason(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(4), text="{first_name}, -20% chez Maison Lune. {stop}")
    async with campaigns.database.begin() as tx:
        await tx.execute(text("DELETE FROM contact WHERE subject_id = :id"), {"id": subject(0)})
        await tx.execute(
            text("UPDATE contact SET attributes = attributes || CAST(:new AS jsonb) WHERE subject_id = :id"),
            [
                {"id": subject(1), "new": '{"first_name": " "}'},
                {"id": subject(2), "new": f'{{"first_name": "{"x" * 1600}"}}'},
            ],
        )
    while await campaigns.planner.expand():
        pass
    found = await campaigns.statistics(campaign_id)
    assert (found["pending"], found["denied"]) == (1, 3)
    assert found["denied_reasons"] == {"contact_gone": 1, "missing:first_name": 1, "too_long": 1}
    assert [r.subject_id for r in await campaigns.requests()] == [subject(3)]


async def test_the_accounts_follow_dispatch_whatever_comes_twice_or_late(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(8))
    while await campaigns.planner.expand():
        pass
    s = [subject(n) for n in range(8)]
    await campaigns.report(
        changed(campaign_id, s[0], 1, "denied", reasons=("no_consent",)),
        changed(campaign_id, s[1], 1, "denied", reasons=("opted_out", "suppressed")),
        changed(campaign_id, s[2], 1, "deferred", reasons=("quiet_hours",)),
        changed(campaign_id, s[3], 1, "sending"),
        changed(campaign_id, s[4], 2, "accepted"),
        changed(campaign_id, s[4], 1, "deferred", reasons=("quiet_hours",)),  # older, in the same batch
        changed(campaign_id, s[5], 1, "unknown"),
        changed("somebody else's", s[5], 1, "denied"),
        changed(campaign_id, "s1-stranger", 1, "denied"),
    )
    found = await campaigns.statistics(campaign_id)
    counts = {name: found[name] for name in ("pending", "denied", "deferred", "accepted", "unknown", "expired")}
    assert counts == {"pending": 3, "denied": 2, "deferred": 1, "accepted": 1, "unknown": 1, "expired": 0}
    assert found["denied_reasons"] == {"no_consent": 1, "opted_out": 1, "suppressed": 1}
    counted = REGISTRY.get_sample_value("sms_campaign_recipients_total", {"status": "accepted"})
    await campaigns.report(
        changed(campaign_id, s[4], 1, "deferred"),
        changed(campaign_id, s[4], 2, "accepted"),
        changed(campaign_id, s[6], 1, "sending"),  # what is new in a batch takes nothing old with it
    )
    assert await campaigns.statistics(campaign_id) == found
    assert REGISTRY.get_sample_value("sms_campaign_recipients_total", {"status": "accepted"}) == counted
    await campaigns.report(
        changed(campaign_id, s[1], 2, "accepted"),
        changed(campaign_id, s[2], 2, "expired", reasons=("send_before_passed",)),
        changed(campaign_id, s[3], 2, "rejected"),
        changed(campaign_id, s[4], 3, "accepted", receipt="delivered"),
        changed(campaign_id, s[5], 2, "accepted", receipt="failed"),
        changed(campaign_id, s[6], 2, "accepted", receipt="sent"),
    )
    found = await campaigns.statistics(campaign_id)
    assert (found["handed_off"], found["accepted"], found["rejected"], found["expired"]) == (5, 4, 1, 1)
    assert (found["delivered"], found["undelivered"]) == (1, 1)
    assert found["denied_reasons"] == {"no_consent": 1}
    assert await campaigns.status(campaign_id) == "running"
    await campaigns.report(changed(campaign_id, s[7], 1, "denied", reasons=("no_consent",)))
    assert await campaigns.status(campaign_id) == "finished"
    await campaigns.report(changed(campaign_id, s[5], 3, "accepted", receipt="delivered"))
    assert (await campaigns.statistics(campaign_id))["delivered"] == 2


async def test_records_of_several_messages_and_campaigns_count_for_each(campaigns: Campaigns) -> None:
    """The newest change of a message counts, wherever in the records."""
    first = await campaigns.started(*range(3))
    second = await campaigns.started(*range(3), name="Dimanche")
    while await campaigns.planner.expand():
        pass
    s = [subject(n) for n in range(3)]
    records = [
        MessagesChanged(
            changes=(
                changed(first, s[0], 1, "sending"),
                changed(second, s[0], 3, "accepted"),
                changed(None, s[1], 1, "accepted", category="transactional"),
                changed(first, s[0], 2, "accepted"),
            )
        ),
        MessagesChanged(
            changes=(
                changed(second, s[0], 2, "deferred"),
                changed(first, s[1], 1, "denied", reasons=("no_consent",)),
                changed(second, s[1], 1, "unknown"),
            )
        ),
    ]
    await campaigns.report(*records)
    found = [await campaigns.statistics(which) for which in (first, second)]
    assert [(one["pending"], one["accepted"], one["denied"], one["unknown"]) for one in found] == [
        (1, 1, 1, 0),
        (1, 1, 0, 1),
    ]


async def test_reports_of_two_partitions_do_not_wait_for_each_other(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(4))
    while await campaigns.planner.expand():
        pass

    def reported(partition: int, accepted: int, denied: int) -> list[Received]:
        event = MessagesChanged(
            changes=(
                changed(campaign_id, subject(accepted), 1, "accepted"),
                changed(campaign_id, subject(denied), 1, "denied", reasons=("no_consent",)),
            )
        )
        return [Received(event, event.key, partition, 0, now(), None)]

    async with campaigns.database.begin() as first:
        await progress.apply(first, reported(0, 0, 1))
        async with campaigns.database.begin() as second:
            await planning.wait_for_locks_within(second, 10)
            await progress.apply(second, reported(1, 2, 3))
    found = await campaigns.statistics(campaign_id)
    assert (found["audience"], found["pending"], found["accepted"], found["denied"]) == (4, 0, 2, 2)
    assert found["denied_reasons"] == {"no_consent": 2}


async def test_a_report_on_a_recipient_whom_the_planner_changes_meanwhile_counts_from_that_change(
    campaigns: Campaigns,
) -> None:
    campaign_id = await campaigns.started(*range(3))
    reports = [changed(campaign_id, subject(n), 1, "accepted") for n in range(2)]
    async with campaigns.surroundings.sql("campaign") as watching:

        async def waits() -> bool:
            return bool(await watching.fetchval(WAITING))

        async with campaigns.database.begin() as planner:
            await recipients.deny(planner, campaign_id, {subject(1): "campaign_cancelled"})
            reporting = asyncio.create_task(campaigns.report(*reports))
            await eventually(waits)
    await reporting
    found = await campaigns.statistics(campaign_id)
    assert (found["audience"], found["pending"], found["accepted"], found["denied"]) == (3, 1, 2, 0)
    assert not any(found["denied_reasons"].values())


async def test_only_messages_of_campaigns_count(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1)
    enforced = OptOutEnforced(
        subject_id=subject(1), consent_version=2, source="mo", reference=None, received_at=now(), enforced_at=now()
    )
    before = await campaigns.statistics(campaign_id)
    await campaigns.report(enforced, changed(None, subject(1), 5, "denied"))
    assert await campaigns.statistics(campaign_id) == before


async def test_an_unbalanced_account_cannot_be_written(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1, 2)
    with pytest.raises(Exception, match="campaign_accounts_sum_ck"):
        async with campaigns.database.begin() as tx:
            await tx.execute(
                text("UPDATE campaign_accounts SET denied = denied + 1 WHERE campaign_id = :id"), {"id": campaign_id}
            )


async def test_recipients_can_be_listed_by_status_and_page(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(6))
    while await campaigns.planner.expand():
        pass
    await campaigns.report(*(changed(campaign_id, subject(n), 1, "denied", reasons=("no_consent",)) for n in range(3)))
    path = f"campaigns/{campaign_id}/recipients?status=denied&limit=2"
    first = await campaigns.get(path)
    rest = await campaigns.get(f"{path}&cursor={first['next']}")
    found = first["items"] + rest["items"]
    assert sorted(r["subject_id"] for r in found) == sorted(shown(n) for n in range(3))
    assert all(r["reasons"] == ["no_consent"] for r in found)
    assert rest["next"] is None
    requested = {r.message_id for r in await campaigns.requests()}
    assert {r["message_id"] for r in found} < requested
    assert (await campaigns.client.get(f"/v1/{path}x")).status_code == 422


async def test_a_pause_stops_the_asking_and_a_resume_goes_on_where_it_was(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(25))
    assert await campaigns.planner.expand()
    paused = await campaigns.post(f"campaigns/{campaign_id}/pause")
    assert paused["status"] == "paused"
    assert not await campaigns.planner.expand()
    assert len(await campaigns.requests()) == 10
    assert (await campaigns.post(f"campaigns/{campaign_id}/pause"))["status"] == "paused"
    await campaigns.post(f"campaigns/{campaign_id}/resume")
    while await campaigns.planner.expand():
        pass
    requests = await campaigns.requests()
    assert len(requests) == len({r.subject_id for r in requests}) == 25
    controls = await campaigns.controls()
    assert [c.control for c in controls] == ["running", "paused", "running"]
    assert controls[0].version < controls[1].version < controls[2].version


async def test_a_control_that_a_restored_database_has_forgotten_lends_its_version_to_no_other(
    campaigns: Campaigns,
) -> None:
    """The gate has seen it, and would take the pause for it."""
    campaign_id = await campaigns.started(1)
    async with campaigns.database.begin() as tx:
        lost = await campaigns_store.set_status(tx, campaign_id, Status.RUNNING, controlled=True, now=now())
        await tx.execute(text("UPDATE campaign SET control_version = 0"))
        later = now() + timedelta(seconds=30)
        assert await campaigns_store.set_status(tx, campaign_id, Status.PAUSED, controlled=True, now=later) > lost
        kept = await campaigns_store.set_status(tx, campaign_id, Status.PAUSED, controlled=False, now=later)
        assert await campaigns_store.set_status(tx, campaign_id, Status.RUNNING, controlled=True, now=later) == kept + 1


async def test_a_campaign_that_waits_for_somebody_is_paused_and_says_why(campaigns: Campaigns) -> None:
    """An account without money; but not where another gateway takes over, nor on old news."""
    campaign_id = await campaigns.started(1, 2, 3)
    await campaigns.planner.expand()
    soon, before = now() + timedelta(minutes=5), now() - timedelta(seconds=1)

    async def report(n: int, version: int, until: datetime, reason: str = "gateway_needs_somebody") -> dict[str, Any]:
        await campaigns.report(changed(campaign_id, subject(n), version, "deferred", reasons=(reason,), until=until))
        return await campaigns.get(f"campaigns/{campaign_id}")

    assert (await report(1, 1, before))["status"] == "running"
    assert (await report(1, 2, soon, "gateway_throttled"))["status"] == "running"
    needs: dict[str, Any] = {"reasons": ("gateway_needs_somebody",), "until": soon}
    await campaigns.report(changed(campaign_id, subject(3), 1, "sending", **needs))
    assert await campaigns.status(campaign_id) == "running", "it waits for nobody"
    found = await report(1, 3, soon)
    assert (found["status"], found["paused_because"]) == ("paused", ["gateway_needs_somebody"])
    found = await report(2, 1, soon)
    assert (found["status"], found["paused_because"]) == ("paused", ["gateway_needs_somebody"])
    found = await campaigns.post(f"campaigns/{campaign_id}/resume")
    assert (found["status"], found["paused_because"]) == ("running", [])
    assert (await campaigns.post(f"campaigns/{campaign_id}/pause"))["paused_because"] == []
    assert [event.control for event in await campaigns.controls()] == ["running", "paused", "running", "paused"]


async def test_a_campaign_that_ends_while_it_is_paused_says_no_more_why_it_was(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1)
    await campaigns.planner.expand()
    needs: dict[str, Any] = {"reasons": ("gateway_needs_somebody",), "until": now() + timedelta(minutes=5)}
    await campaigns.report(changed(campaign_id, subject(1), 1, "deferred", **needs))
    assert (await campaigns.get(f"campaigns/{campaign_id}"))["paused_because"] == ["gateway_needs_somebody"]
    await campaigns.report(changed(campaign_id, subject(1), 2, "accepted"))
    found = await campaigns.get(f"campaigns/{campaign_id}")
    assert (found["status"], found["paused_because"]) == ("finished", [])


async def test_a_campaign_that_is_running_says_that_sending_waits_and_since_when(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1)
    draft = (await campaigns.written())["campaign_id"]
    began = now() - timedelta(minutes=1)
    held = HoldChanged(
        category="marketing", version=3, since=began, consents_as_of=began - timedelta(seconds=2), ended_at=None
    )

    async def waits(campaign_id: str) -> Any:
        return (await campaigns.get(f"campaigns/{campaign_id}"))["sending_waits"]

    assert await waits(campaign_id) is None
    await campaigns.held(held, msgspec.structs.replace(held, version=2, ended_at=now()))
    found = await waits(campaign_id)
    assert {name: datetime.fromisoformat(at) for name, at in found.items()} == {
        "since": began,
        "consents_as_of": began - timedelta(seconds=2),
    }
    assert await waits(draft) is None
    await campaigns.held(msgspec.structs.replace(held, version=4, ended_at=now()), held)
    assert await waits(campaign_id) is None


async def test_a_cancellation_denies_here_whom_nobody_asked_for_and_leaves_the_others_to_the_gate(
    campaigns: Campaigns,
) -> None:
    campaign_id = await campaigns.started(*range(25))
    assert await campaigns.planner.expand()
    await campaigns.cancelled(campaign_id)
    found = await campaigns.statistics(campaign_id)
    assert (found["pending"], found["denied"]) == (10, 15)
    assert found["denied_reasons"] == {"campaign_cancelled": 15}
    assert not await campaigns.planner.expand()
    assert (await campaigns.controls())[-1].control == "cancelled"
    again = await campaigns.cancelled(campaign_id)
    assert (again["status"], len(await campaigns.controls())) == ("cancelled", 2)
    requests = await campaigns.requests()
    await campaigns.report(
        *(changed(campaign_id, r.subject_id, 1, "denied", reasons=("campaign_cancelled",)) for r in requests)
    )
    assert (await campaigns.statistics(campaign_id))["denied_reasons"] == {"campaign_cancelled": 25}
    assert await campaigns.status(campaign_id) == "cancelled"


@pytest.mark.parametrize("timing", [{}, {"spread_minutes": 120}])
async def test_the_gate_is_told_of_a_cancellation_before_anybody_is_denied_for_it_whoever_dies_meanwhile(
    campaigns: Campaigns, timing: dict[str, Any]
) -> None:
    campaign_id = await campaigns.started(*range(35), timing=timing)
    assert await campaigns.planner.expand()
    asked_for = len(await campaigns.requests())
    cancelled = await campaigns.post(f"campaigns/{campaign_id}/cancel")
    assert (await campaigns.controls())[-1].control == cancelled["status"] == "cancelled"
    assert (balanced(cancelled["statistics"])["pending"], cancelled["statistics"]["denied"]) == (35, 0)
    left, died, point, chunks, denied = [math.inf], 0, 1, 0, 0

    def die(*_: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise ConnectionError("killed, and does nothing more")

    engine = campaigns.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", die)
    event.listen(engine, "commit", die)
    more = True
    while more:
        left[0] = point
        try:
            more, point, chunks = await campaigns.planner.deny_unrequested(), 1, chunks + 1
        except ConnectionError:
            died, point = died + 1, point + 1
        left[0] = math.inf
        found = await campaigns.statistics(campaign_id)
        assert found["denied"] == denied if point > 1 else found["denied"] - denied <= 10, "a chunk of ten, or nothing"
        denied = found["denied"]
        assert found["denied_reasons"].get("campaign_cancelled", 0) == denied
        counted = (await campaigns.get(f"campaigns/{campaign_id}/statistics"))["total"]
        assert (counted["pending"], counted["denied"]) == (found["pending"], denied)
    assert died > chunks > 3
    assert (found["pending"], denied) == (asked_for, 35 - asked_for)
    asked = {edge_ids.of(SENDER).shown(r.subject_id) for r in await campaigns.requests()}
    items = (await campaigns.get(f"campaigns/{campaign_id}/recipients?status=denied"))["items"]
    assert {item["subject_id"] for item in items}.isdisjoint(asked)
    assert {tuple(item["reasons"]) for item in items} == {("campaign_cancelled",)}


@pytest.mark.parametrize("then", ["cancel", "pause", "edit"])
async def test_nobody_waits_for_an_audience_to_be_frozen_to_cancel_pause_or_edit_its_campaign(
    campaigns: Campaigns, then: str
) -> None:
    await campaigns.imported(csv_of(*range(5)))
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    await campaigns.post(f"{path}/schedule")
    locked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with campaigns.surroundings.sql("campaign") as sql, campaigns.surroundings.sql("campaign") as look:

        async def freezes() -> bool:
            return bool(await look.fetchval(f"SELECT EXISTS ({locked})"))

        async with sql.transaction():
            await sql.execute("LOCK TABLE recipient IN SHARE MODE")
            starting = asyncio.ensure_future(campaigns.planner.start_due())
            await eventually(freezes)
            async with asyncio.timeout(30):
                if then != "edit":
                    await campaigns.post(f"{path}/{then}")
                else:
                    await campaigns.put(path, json={"audience": {"where": {"city": "Lyon"}}})
                    await campaigns.post(f"{path}/schedule")
        assert await starting
        assert await sql.fetchval("SELECT count(*) FROM recipient") == 0
    assert await campaigns.planner.start_due() is (then == "edit")
    found = await campaigns.get(path)
    became = (found["status"], found["statistics"]["audience"])
    assert became == {"cancel": ("cancelled", 0), "pause": ("paused", 0), "edit": ("running", 2)}[then]
    assert [c.control for c in await campaigns.controls()] == [found["status"]]


async def test_whom_a_cancelled_campaign_never_asked_for_are_written_to_by_the_next(campaigns: Campaigns) -> None:
    """Nobody counts as having got it: the next begins once they are denied."""
    await campaigns.post(f"campaigns/{await campaigns.started(1, 2, 3)}/cancel")
    following = (await campaigns.written(rest_days=7))["campaign_id"]
    await campaigns.post(f"campaigns/{following}/schedule")
    assert not await campaigns.planner.start_due()
    while await campaigns.planner.deny_unrequested():
        pass
    assert await campaigns.planner.start_due()
    assert (await campaigns.statistics(following))["audience"] == 3


async def test_what_is_not_possible_is_a_conflict_and_changes_nothing(campaigns: Campaigns) -> None:
    draft = (await campaigns.written())["campaign_id"]
    for action in ("pause", "resume"):
        refused = await campaigns.post(f"campaigns/{draft}/{action}", 409)
        assert refused["reasons"] == [{"field": "status", "reason": "draft", "detail": None}]
    await campaigns.post(f"campaigns/{draft}/cancel")
    await campaigns.post(f"campaigns/{draft}/schedule", 409)
    await campaigns.post("campaigns/cmp-nothing/schedule", 404)
    assert await campaigns.status(draft) == "cancelled"


async def test_a_campaign_starts_when_it_is_due_and_may_be_scheduled_anew_before(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    campaign_id = (await campaigns.written())["campaign_id"]
    tomorrow = now() + timedelta(days=1)
    first = await campaigns.post(f"campaigns/{campaign_id}/schedule", json={"at": tomorrow.isoformat()})
    assert (first["status"], datetime.fromisoformat(first["starts_at"])) == ("scheduled", tomorrow)
    assert datetime.fromisoformat(first["send_before"]) == tomorrow + timedelta(days=3)
    assert datetime.fromisoformat(first["opens_at"]) >= tomorrow
    assert not await campaigns.planner.start_due()
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    assert not await campaigns.planner.start_due()
    await campaigns.post(f"campaigns/{campaign_id}/schedule", 409)


async def test_a_start_that_no_message_could_follow_is_refused(campaigns: Campaigns) -> None:
    next_year = now().year + 1
    sunday = next(
        day for n in range(7) if (day := datetime(next_year, 7, 1, 10, tzinfo=UTC) + timedelta(days=n)).weekday() == 6
    )
    campaign_id = (await campaigns.written(send_before=(sunday + timedelta(hours=6)).isoformat()))["campaign_id"]
    refused = await campaigns.post(f"campaigns/{campaign_id}/schedule", 422, json={"at": sunday.isoformat()})
    assert refused["reasons"][0]["reason"] == "before_the_window_opens"
    past = await campaigns.post(f"campaigns/{campaign_id}/schedule", 422, json={"at": "2020-01-01T10:00:00Z"})
    assert past["reasons"][0]["reason"] == "in_the_past"
    saturday = sunday - timedelta(days=1)
    allowed = await campaigns.post(f"campaigns/{campaign_id}/schedule", json={"at": saturday.isoformat()})
    assert datetime.fromisoformat(allowed["opens_at"]) == saturday


async def test_a_sender_whose_code_changed_has_the_text_checked_again(campaigns: Campaigns) -> None:
    campaign_id = (await campaigns.written(text=f"-20% chez Maison Lune. STOP au {STOP_CODE}"))["campaign_id"]
    async with campaigns.database.begin() as tx:
        await senders.put_sender(tx, sender_changed(version=2, stop_code="36222"))
        await senders.put_sender(tx, sender_changed(version=1))  # older: nothing
    refused = await campaigns.post(f"campaigns/{campaign_id}/schedule", 422)
    assert refused["reasons"][0]["reason"] == "stop_mention_missing"


@pytest.mark.parametrize("audience", [{"all": True}, {"where": {"city": "Nîmes"}}])
async def test_a_campaign_nobody_is_in_finishes_at_once(campaigns: Campaigns, audience: dict[str, Any]) -> None:
    campaign_id = (await campaigns.written(audience=audience))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.expand()
    assert await campaigns.planner.finish_done()
    assert await campaigns.status(campaign_id) == "finished"


async def test_asking_waits_while_the_outbox_is_long(campaigns: Campaigns) -> None:
    await campaigns.started(*range(25))
    assert await campaigns.planner.expand()
    async with campaigns.surroundings.sql("campaign") as sql:
        campaigns.planner._backlog = await sql.fetchval("SELECT max(id) - min(id) + 1 FROM outbox")
    assert await campaigns.planner.expand()
    assert not await campaigns.planner.expand()
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DELETE FROM outbox")
    assert await campaigns.planner.expand()


async def test_asking_reads_each_contact_about_once_though_the_audience_is_new(campaigns: Campaigns) -> None:
    """Of a table that has just grown Postgres knows nothing, and a page that is no page to it reads all contacts."""
    many = 2 * recipients.MANY
    database = Database(campaigns.database.dsn, pool_size=2)  # what they have read is told once they say so
    planner = Planner(database, field_keys, link_keys, load("france"), partitions=3, chunk=200, backlog=1000, page=50)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("ALTER TABLE recipient SET (autovacuum_enabled = false)")
        await campaigns.started(*range(many))
        known = await sql.fetchval(KNOWN)
        before = await sql.fetchval(READ)
        while await planner.expand():
            pass
        async with database.begin() as one, database.begin() as other:
            for tx in (one, other):
                await tx.execute(text("SELECT pg_stat_force_next_flush()"))
        read = await sql.fetchval(READ) - before
    await database.close()
    assert len(await campaigns.requests()) == many
    assert many <= read <= 2 * many, read
    assert known == 1


async def test_the_first_requests_of_a_large_campaign_wait_for_few_others(campaigns: Campaigns) -> None:
    first = 2 * FIRST_REQUESTS
    many = first + 150
    planner = Planner(
        campaigns.database, field_keys, link_keys, load("france"), partitions=2, chunk=16_000, backlog=1000
    )
    await campaigns.started(*range(many))
    asked = []
    while await planner.expand():
        asked.append(len(await campaigns.requests()))
    assert asked[:2] == [first, many]
    assert asked[-1] == many


async def test_a_crash_between_the_requests_and_the_commit_repeats_and_loses_nothing(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(25))
    assert await campaigns.planner.expand()
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("CREATE FUNCTION crash() RETURNS trigger AS $$ BEGIN RAISE 'crash'; END $$ LANGUAGE plpgsql")
        await sql.execute("CREATE TRIGGER crash BEFORE UPDATE OF cursor ON campaign EXECUTE FUNCTION crash()")
        before = await campaigns.requests()
        assert await campaigns.planner.expand(), "another campaign may be asked for"
        assert await campaigns.requests() == before
        await sql.execute("DROP TRIGGER crash ON campaign")
    while await campaigns.planner.expand():
        pass
    assert sorted(r.subject_id for r in await campaigns.requests()) == sorted(subject(n) for n in range(25))
    assert (await campaigns.statistics(campaign_id))["pending"] == 25


@pytest.mark.parametrize("page", [1, 2, 3])
async def test_a_page_that_cannot_be_stored_takes_its_chunk_with_it(campaigns: Campaigns, page: int) -> None:
    """The next, if there is one, has been read by then and is being written."""
    campaign_id = await campaigns.started(*range(25))
    async with campaigns.surroundings.sql("campaign") as sql:
        before = await sql.fetchval("SELECT count(*) FROM outbox")
        await sql.execute("CREATE SEQUENCE stored")
        await sql.execute(
            "CREATE FUNCTION full_up() RETURNS trigger AS"
            f" $$ BEGIN IF nextval('stored') = {page} THEN RAISE 'full up'; END IF; RETURN NULL; END $$"
            " LANGUAGE plpgsql"
        )
        await sql.execute(
            "CREATE TRIGGER full_up BEFORE INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION full_up()"
        )
        assert await campaigns.planner.expand(), "another campaign may be asked for"
        assert await sql.fetchval("SELECT count(*) FROM outbox") == before
        await sql.execute("DROP TRIGGER full_up ON outbox")
    while await campaigns.planner.expand():
        pass
    assert sorted(r.subject_id for r in await campaigns.requests()) == sorted(subject(n) for n in range(25))
    assert (await campaigns.statistics(campaign_id))["pending"] == 25


@pytest.mark.parametrize("table", ["contact", "outbox"])
async def test_asking_waits_for_no_table_for_long(campaigns: Campaigns, table: str) -> None:
    """It reads by one connection and writes by another: a migration that waits for the one and is waited for by the
    other would wait for ever, and Postgres would see no deadlock."""
    campaign_id = await campaigns.started(*range(25))
    async with campaigns.surroundings.sql("campaign") as sql, sql.transaction():
        await sql.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        asking = asyncio.ensure_future(campaigns.planner.expand())
        done, _ = await asyncio.wait({asking}, timeout=30)
        assert done
    assert not await campaigns.requests()
    while await campaigns.planner.expand():
        pass
    assert sorted(r.subject_id for r in await campaigns.requests()) == sorted(subject(n) for n in range(25))
    assert (await campaigns.statistics(campaign_id))["pending"] == 25


async def test_a_page_that_cannot_be_read_takes_its_chunk_with_it(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(*range(25))
    async with campaigns.surroundings.sql("campaign") as sql:
        spoiled = sorted(subject(n) for n in range(25))[5]
        await sql.execute("UPDATE contact SET attributes = '[]' WHERE subject_id = $1", spoiled)
        assert await campaigns.planner.expand(), "another campaign may be asked for"
        assert not await campaigns.requests()
        await sql.execute("UPDATE contact SET attributes = '{}' WHERE subject_id = $1", spoiled)
    while await campaigns.planner.expand():
        pass
    assert sorted(r.subject_id for r in await campaigns.requests()) == sorted(subject(n) for n in range(25))
    assert (await campaigns.statistics(campaign_id))["pending"] == 25


async def test_planners_and_reports_at_once_agree(campaigns: Campaigns) -> None:
    """Planners, reports out of order, pauses and resumes: everyone once, and the accounts exact throughout."""
    campaign_id = await campaigns.started(*range(200))
    statuses = ("deferred", "accepted", "denied", "unknown", "rejected", "expired")

    async def expand() -> None:
        while (await campaigns.statistics(campaign_id))["audience"] > len(await campaigns.requests()):
            await campaigns.planner.expand()

    async def report(part: int) -> None:
        for version in (1, 3, 2, 4):
            batch = [
                changed(campaign_id, subject(n), version, statuses[(n + version) % 6], reasons=("r",))
                for n in range(part, 200, 4)
            ]
            await campaigns.report(*batch)

    async def interrupt() -> None:
        for action in ("pause", "resume") * 5:
            balanced((await campaigns.post(f"campaigns/{campaign_id}/{action}"))["statistics"])

    await asyncio.gather(expand(), expand(), interrupt(), *(report(part) for part in range(4)))
    requests = await campaigns.requests()
    assert len(requests) == len({r.subject_id for r in requests}) == 200
    found = await campaigns.statistics(campaign_id)
    expected = [statuses[(n + 4) % 6] for n in range(200)]
    assert {s: found[s] for s in statuses} == {s: expected.count(s) for s in statuses}


async def test_campaigns_are_listed_newest_first_within_what_the_token_covers(campaigns: Campaigns) -> None:
    ids = [(await campaigns.written(name=f"n{n}"))["campaign_id"] for n in range(3)]
    first = await campaigns.get("campaigns?limit=2")
    assert [c["campaign_id"] for c in first["items"]] == [ids[2], ids[1]]
    rest = await campaigns.get(f"campaigns?limit=2&cursor={first['next']}")
    assert [c["campaign_id"] for c in rest["items"]] == [ids[0]]
    other = bearer(senders=["somebody-else"])
    assert (await campaigns.client.get("/v1/campaigns", headers=other)).json()["items"] == []
    for method, path in (
        ("GET", f"/v1/campaigns/{ids[0]}"),
        ("GET", f"/v1/campaigns/{ids[0]}/recipients"),
        *(("POST", f"/v1/campaigns/{ids[0]}/{action}") for action in ("schedule", "pause", "resume", "cancel")),
    ):
        assert (await campaigns.client.request(method, path, headers=other)).status_code == 404
        assert (await campaigns.client.request(method, path, headers=bearer(scope="x"))).status_code == 403


async def test_the_door_to_the_status_writes_nothing_when_the_step_is_not_possible(campaigns: Campaigns) -> None:
    campaign_id = (await campaigns.written())["campaign_id"]
    async with campaigns.database.begin() as tx:
        row = await campaigns_store.read_campaign(tx, campaign_id, lock=True)
        assert row is not None
        with pytest.raises(ValueError, match="cannot pause"):
            await control.take(tx, row, Action.PAUSE, now())
    assert await campaigns.controls() == []


@each_of(
    "field",
    [
        {"sender_id": "a\0"},
        {"name": "a\0"},
        {"purpose": "a\0"},
        {"text": "a\0 {stop}"},
        {"audience": {"where": {"ville": "a\0"}}},
        {"audience": {"where": {"ville": ["a", "a\0"]}}},
    ],
)
async def test_what_postgres_cannot_keep_is_the_callers_to_mend(campaigns: Campaigns, field: dict[str, Any]) -> None:
    await campaigns.written(422, **field)


@each_of(
    "target",
    [
        "GET campaigns/a%00",
        "GET campaigns/a%00/recipients",
        *(f"POST campaigns/a%00/{action}" for action in ("schedule", "pause", "resume", "cancel")),
        "GET imports/a%00",
        "GET imports/a%00/refusals",
        "POST imports?sender_id=a%00",
    ],
)
async def test_nor_may_a_path_or_a_query_say_it(campaigns: Campaigns, target: str) -> None:
    """Nothing is called by such a path; what a query says is the caller's to mend."""
    method, _, path = target.partition(" ")
    answer = await campaigns.client.request(method, f"/v1/{path}")
    assert answer.status_code == (404 if "\0" in answer.request.url.path else 422)
