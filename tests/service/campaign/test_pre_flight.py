"""Before a campaign leaves: who would get it, what it costs, what speaks against it, and who must agree to it."""

from datetime import timedelta
from typing import Any

import pytest

from campaign.audience import consents
from campaign.preflight import api as pre_flight
from campaign.schedule.lifecycle import Status
from campaign.senders import store
from common.contracts.consent import Consent
from tests.service.campaign.campaigns import DAY, TEXT, Campaigns, csv_of, next_monday
from tests.support.builders import SENDER, field_keys, now, number, opted_in, opted_out, sender_changed, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

MONDAY, TUESDAY = (f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in (next_monday(), next_monday() + DAY))
SOMEBODY_ELSE = bearer(subject="somebody else")


async def looked_at(campaigns: Campaigns, campaign_id: str, at: str | None = MONDAY) -> dict[str, Any]:
    return await campaigns.post(f"campaigns/{campaign_id}/pre-flight", json={"at": at})


async def schedule(campaigns: Campaigns, campaign_id: str, expect: int = 200, **body: Any) -> dict[str, Any]:
    return await campaigns.post(f"campaigns/{campaign_id}/schedule", expect, json={"at": MONDAY, **body})


async def test_a_text_needs_no_mention_where_the_operator_adds_it_and_is_as_long_as_with_it(
    campaigns: Campaigns,
) -> None:
    bare = "Maison Lune " + "a" * 141  # 153, and with what is added 167: two SMS
    rules = f"senders/{SENDER}/rules"
    refused = await campaigns.written(422, text=bare)
    assert refused["reasons"][0]["reason"] == "stop_mention_missing"
    refused = await campaigns.put(rules, 422, json={"stop_added": " STOP au 36112"})
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("stop_added", "stop_mention_missing")]
    await campaigns.put(rules, json={"stop_added": " STOP au 36111"})
    assert (await campaigns.get(rules))["stop_added"] == " STOP au 36111"
    await campaigns.imported(csv_of(1))
    await campaigns.told(opted_in(1))
    path = f"campaigns/{(await campaigns.written(text=bare))['campaign_id']}"
    assert (await campaigns.get(path))["length"] == {"encoding": "GSM7", "units": 167, "segments": 2}
    seen = await campaigns.post("texts/preview", json={"sender_id": SENDER, "text": bare})
    assert (seen["text"], seen["length"]["segments"], seen["problem"]) == (f"{bare} STOP au 36111", 2, None)
    first = await campaigns.post(f"{path}/pre-flight")
    assert (first["would_get"], first["lengths"]["segments"]) == (1, {"2": 1})
    assert first["findings"] == []
    await campaigns.put(rules, json={"stop_added": "\nSTOP au 36111"})
    assert (await campaigns.post(f"{path}/pre-flight"))["digest"] != first["digest"]
    await campaigns.post(f"{path}/schedule")
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.expand()
    [request] = await campaigns.requests()
    assert field_keys.unseal(request.text, f"text:{request.message_id}") == bare
    # it is added no more: what has begun and has not been asked for is asked for by nobody
    campaign_id = await campaigns.started(1, text=bare)
    await campaigns.put(rules, json={})
    assert await campaigns.planner.expand()
    assert (await campaigns.statistics(campaign_id))["denied_reasons"] == {"stop_mention_missing": 1}


async def test_it_tells_who_would_get_it_and_why_the_others_would_not(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pre_flight, "PAGE", 3)  # so that there are several
    await campaigns.imported(csv_of(*range(8)))
    await campaigns.told(*(opted_in(n) for n in range(6)))
    await campaigns.told(opted_out(1), opted_in(1), opted_in(2, 2, held_since=now()), opted_in(4, 2, erased=True))
    async with campaigns.database.begin() as tx:
        await consents.mark_unreadable(tx, subject(5), 0, 0)
        await consents.mark_unreadable(tx, subject(7), 0, 0)
    campaign_id = (await campaigns.written(text=f"{TEXT} {{if first_name = Zoé 3}}\u2019{{end}}"))["campaign_id"]
    found = await looked_at(campaigns, campaign_id)
    assert (found["audience"], found["would_get"], found["would_not"], found["under_review"]) == (8, 3, 5, 1)
    assert found["reasons"] == {
        "no_consent": 2,
        "consent_unreadable": 1,
        "opted_out": 1,
        "suppressed": 1,
        "erased": 1,
    }
    lengths = found["lengths"]
    assert (lengths["segments"], lengths["median"], lengths["ucs2"], lengths["ucs2_by_contact"]) == ({"1": 3}, 1, 1, 1)
    assert found["cost"] == {
        "prices": "example-1",
        "currency": "EUR",
        "total": "0.1230",
        "unpriced": 0,
        "unpriced_territories": [],
    }
    assert [(t["territory"], t["people"], t["opens_at"]) for t in found["territories"]] == [("FR", 3, MONDAY)]
    assert found["finishes_at"] == MONDAY.replace("09:00", "09:05")  # three at one in a hundred seconds
    assert (found["findings"], found["consents_as_of"], found["languages"]) == ([], None, {"fr": 3})
    await campaigns.told(opted_in(5, 3), opted_in(7, 1))  # what can be read again is
    assert (await looked_at(campaigns, campaign_id))["would_get"] == 5
    await campaigns.post(f"campaigns/{campaign_id}/pre-flight", 404, headers=bearer(senders=["other"]))
    await campaigns.post("campaigns/cmp-none/pre-flight", 404)


async def test_a_state_that_forgets_a_stop_opens_nobody_until_one_accounts_for_it(campaigns: Campaigns) -> None:
    """consent-svc's database lost a commit: versions go on, and the STOP is not in them."""
    await campaigns.imported(csv_of(*range(3)))
    campaign_id = (await campaigns.written())["campaign_id"]
    await campaigns.told(*(opted_in(n) for n in range(3)), opted_out(0), opted_out(1), opted_in(1, 3))
    await campaigns.told(opted_in(0, 3))
    found = await looked_at(campaigns, campaign_id)
    assert (found["would_get"], found["reasons"]) == (
        1,
        {"opted_out": 2, "suppressed": 2},
    )
    await campaigns.told(opted_in(0, 4))  # nor does the next one that forgets
    assert (await looked_at(campaigns, campaign_id))["would_get"] == 1
    again = opted_out(0, 5)
    later = now() + timedelta(seconds=1)
    await campaigns.told(again, opted_in(1, 4, occurred_at=later, suppressions=again.suppressions))
    found = await looked_at(campaigns, campaign_id)
    assert (found["would_get"], found["reasons"]) == (2, {"opted_out": 1, "suppressed": 1})


async def test_a_person_known_to_others_alone_is_counted_and_tested_as_one_that_nobody_knows(
    campaigns: Campaigns,
) -> None:
    """With another sender's consent, erased, or unreadable here."""
    yes = Consent(
        sender_id="globex", purpose="promotions", state="opted_in", basis="opt_in", occurred_at=now(), evidence_id="e"
    )
    fields: dict[str, Any] = {"text": "Maison Lune : -20%. {stop}"}
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    told = []
    for person in (1, 2, 3, 4):
        await campaigns.told(opted_in(1, consents=(yes,), held_since=now()), opted_in(2, consents=(), erased=True))
        async with campaigns.database.begin() as tx:
            await consents.mark_unreadable(tx, subject(3), 0, 0)
        await campaigns.imported(csv_of(person))
        found = await looked_at(campaigns, campaign_id)
        body = {"numbers": [number(person)]}
        [tried] = (await campaigns.post(f"campaigns/{campaign_id}/test-sends", 202, json=body))["items"]
        told.append((found["would_get"], found["under_review"], found["reasons"], tried["against"]))
        whom = {"sender_id": SENDER, "contacts": [{"number": number(person)}]}
        await campaigns.post("contacts/delete", json=whom)
    assert told == [(0, 0, {"no_consent": 1}, ["no_consent"])] * 4


async def test_a_number_that_nobody_can_unseal_is_counted_as_the_gate_will_deny_it(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(3)))
    await campaigns.told(*(opted_in(n) for n in range(3)))
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE contact SET number = 'spoiled' WHERE subject_id = $1", subject(1))
    found = await looked_at(campaigns, (await campaigns.written())["campaign_id"])
    assert (found["audience"], found["would_get"], found["reasons"]) == (3, 2, {"request_unreadable": 1})


async def test_a_rule_that_forbids_is_named_once_however_many_clocks_a_place_has(campaigns: Campaigns) -> None:
    """Polynesia has three, and it is night on all of them."""
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, reachable_in=("PF",)))
    await campaigns.imported(f"number;postcode\n{number(1)};98714\n")
    await campaigns.told(opted_in(1))
    [place] = (await looked_at(campaigns, (await campaigns.written())["campaign_id"]))["territories"]
    rules = [(why["aspect"], why["rule"]) for why in place["closed_by"]]
    assert len(rules) == len(set(rules)) > 0


async def test_errors_stop_scheduling_and_warnings_are_acknowledged_by_id(campaigns: Campaigns) -> None:
    await campaigns.imported(f"{csv_of(1)}")
    fields: dict[str, Any] = {"text": "Maison Lune bit.ly/a : {gift|vin} {stop} {if vip}STOP 36222{end}"}
    for name in ("gift", "vip"):
        await campaigns.put(f"senders/{SENDER}/attributes/{name}", json={"kind": "text"})
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    refused = await schedule(campaigns, campaign_id, 409)
    assert refused["type"] == "/problems/campaign-not-ready"
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [
        ("acknowledge", "public_shortener:bit.ly"),
        ("acknowledge", "sector_alcohol"),
        ("text", "foreign_stop_code:36222"),
    ]
    fields["text"] = "Maison Lune bit.ly/a : {gift|vin} {stop}"
    edited = await campaigns.put(f"campaigns/{campaign_id}", json=fields)
    assert (edited["text"], edited["status"]) == (fields["text"], "draft")
    # the last pre-flight looked at another text; this one finds what the audience shows
    found = await looked_at(campaigns, campaign_id)
    told = {f["id"]: f["severity"] for f in found["findings"]}
    assert told == {
        "public_shortener:bit.ly": "warning",
        "sector_alcohol": "warning",
        "nobody": "error",
        "field_nobody_has:gift": "warning",
    }
    assert all(f["source"] and f["says"] for f in found["findings"])
    refused = await schedule(campaigns, campaign_id, 409, acknowledge=list(told))
    assert [r["reason"] for r in refused["reasons"]] == ["nobody"]
    await campaigns.told(opted_in(1))
    await looked_at(campaigns, campaign_id)
    known = ["public_shortener:bit.ly", "sector_alcohol"]
    refused = await schedule(campaigns, campaign_id, 409, acknowledge=known)
    assert [r["reason"] for r in refused["reasons"]] == ["field_nobody_has:gift"]
    assert (await schedule(campaigns, campaign_id, acknowledge=[*known, "field_nobody_has:gift"]))[
        "status"
    ] == "scheduled"


async def test_an_approval_is_of_exactly_this_by_somebody_else(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", 403, json={"approval": True}, headers=bearer(scope="campaign:write"))
    assert await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True}) == {
        "approval": True,
        "cap": None,
        "link_host": None,
        "stop_added": None,
    }
    await campaigns.imported(csv_of(1))
    await campaigns.told(opted_in(1))
    campaign_id = (await campaigns.written())["campaign_id"]
    path = f"campaigns/{campaign_id}/approvals"
    digest = (await looked_at(campaigns, campaign_id))["digest"]
    refused = await schedule(campaigns, campaign_id, 409)
    assert [r["reason"] for r in refused["reasons"]] == ["approval_missing"]
    agreed = {"at": MONDAY, "digest": digest}
    await campaigns.post(path, 403, json=agreed)  # its author
    await campaigns.post(path, 403, json=agreed, headers=bearer(subject="else", scope="campaign:write"))
    await campaigns.post(path, 409, json=agreed | {"at": TUESDAY}, headers=SOMEBODY_ELSE)
    await campaigns.post(path, 201, json=agreed, headers=SOMEBODY_ELSE)
    assert (await looked_at(campaigns, campaign_id))["approval"] == {"needed": True, "by": ["somebody else"]}
    await schedule(campaigns, campaign_id, 409, at=TUESDAY)
    assert (await schedule(campaigns, campaign_id))["status"] == "scheduled"
    # an edit takes it off the schedule, and what was agreed to is no more
    edited = await campaigns.put(
        f"campaigns/{campaign_id}", json={"text": f"{TEXT} Oui."}, headers=bearer(subject="else")
    )
    assert (edited["status"], edited["starts_at"]) == ("draft", None)
    await schedule(campaigns, campaign_id, 409)
    await campaigns.put(f"campaigns/{campaign_id}", json={}, headers=SOMEBODY_ELSE)  # as it was, by who approved it
    await schedule(campaigns, campaign_id, 409)
    agreed["digest"] = (await looked_at(campaigns, campaign_id))["digest"]
    assert agreed["digest"] == digest
    await campaigns.post(path, 403, json=agreed, headers=SOMEBODY_ELSE)
    await campaigns.post(path, 201, json=agreed, headers=bearer(subject="a third"))
    await schedule(campaigns, campaign_id)
    given = (await campaigns.get(path))["items"]
    assert [(a["approved_by"], a["digest"] == digest) for a in given] == [("somebody else", True), ("a third", True)]


async def test_a_campaign_whose_sender_has_changed_since_it_was_approved_does_not_start(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    await campaigns.imported(csv_of(1))
    campaign_id = (await campaigns.written())["campaign_id"]
    digest = (await looked_at(campaigns, campaign_id, None))["digest"]
    await campaigns.told(opted_in(1))
    await looked_at(campaigns, campaign_id, None)
    await campaigns.post(f"campaigns/{campaign_id}/approvals", 201, json={"digest": digest}, headers=SOMEBODY_ELSE)
    await schedule(campaigns, campaign_id, at=None)
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, oadc="LUNE"))
    assert await campaigns.planner.start_due()
    assert await campaigns.status(campaign_id) == Status.DRAFT
    assert not await campaigns.planner.start_due()
    await schedule(campaigns, campaign_id, 409, at=None)
    await campaigns.put(f"campaigns/{campaign_id}", json={"sender_id": "other"}, expect=422)


async def sent_back(campaigns: Campaigns, campaign_id: str) -> str | None:
    """Why it is a draft again, once the planner has looked."""
    assert await campaigns.planner.start_due()
    found = await campaigns.get(f"campaigns/{campaign_id}")
    assert found["status"] == ("draft" if found["sent_back"] else "running")
    reason: str | None = found["sent_back"]
    return reason


async def energy(campaigns: Campaigns, **fields: Any) -> str:
    """The id of a campaign that a finding demands an approval of: approved, and scheduled to start at once."""
    await campaigns.imported(csv_of(1))
    campaign_id: str = (await campaigns.written(sectors=["energy"], **fields))["campaign_id"]
    digest = (await looked_at(campaigns, campaign_id, None))["digest"]
    await campaigns.told(opted_in(1))
    await looked_at(campaigns, campaign_id, None)
    body = {"acknowledge": ["sector_energy"]}
    refused = await campaigns.post(f"campaigns/{campaign_id}/schedule", 409, json=body)
    assert [r["reason"] for r in refused["reasons"]] == ["approval_missing"]
    await campaigns.post(f"campaigns/{campaign_id}/approvals", 201, json={"digest": digest}, headers=SOMEBODY_ELSE)
    await campaigns.post(f"campaigns/{campaign_id}/schedule", json=body)
    return campaign_id


async def test_what_a_finding_wants_approved_starts_as_it_was_approved_and_not_otherwise(campaigns: Campaigns) -> None:
    assert await sent_back(campaigns, await energy(campaigns)) is None
    campaign_id = await energy(campaigns)
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, oadc="LUNE"))
    assert await sent_back(campaigns, campaign_id) == "not_what_was_approved"
    campaign_id = await energy(campaigns)
    await campaigns.put(f"senders/{SENDER}/rules", json={"stop_added": " STOP au 36111"})
    assert await sent_back(campaigns, campaign_id) == "not_what_was_approved"
    # unless somebody has approved what it has become
    campaign_id = await energy(campaigns)
    await campaigns.put(f"senders/{SENDER}/rules", json={})
    digest = (await looked_at(campaigns, campaign_id, None))["digest"]
    await campaigns.post(f"campaigns/{campaign_id}/approvals", 201, json={"digest": digest}, headers=SOMEBODY_ELSE)
    assert await sent_back(campaigns, campaign_id) is None


async def test_an_approval_that_was_needed_is_asked_for_though_the_rule_is_gone_since(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    await campaigns.imported(csv_of(1))
    campaign_id = (await campaigns.written())["campaign_id"]
    digest = (await looked_at(campaigns, campaign_id, None))["digest"]
    await campaigns.told(opted_in(1))
    await looked_at(campaigns, campaign_id, None)
    await campaigns.post(f"campaigns/{campaign_id}/approvals", 201, json={"digest": digest}, headers=SOMEBODY_ELSE)
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    await campaigns.put(f"senders/{SENDER}/rules", json={})
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, oadc="LUNE"))
    assert await sent_back(campaigns, campaign_id) == "not_what_was_approved"


async def test_an_approval_that_is_needed_only_since_it_was_scheduled_is_asked_for_too(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    campaign_id = (await campaigns.written())["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    assert await sent_back(campaigns, campaign_id) == "approval_missing"


async def test_errors_that_a_change_of_the_sender_brings_send_it_back(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    campaign_id = (await campaigns.written(text="Maison Lune : -20%. STOP au 36111"))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, stop_code="36222"))
    assert await sent_back(campaigns, campaign_id) == "stop_mention_missing, foreign_stop_code:36111"
    await campaigns.put(f"senders/{SENDER}/rules", json={"stop_added": " STOP au 36222"})
    campaign_id = (await campaigns.written(text="Maison Lune : -20%."))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    await campaigns.put(f"senders/{SENDER}/rules", json={})
    assert await sent_back(campaigns, campaign_id) == "stop_mention_missing"
    # what breaks nothing needs nobody
    campaign_id = (await campaigns.written())["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=3, oadc="LUNE"))
    assert await sent_back(campaigns, campaign_id) is None


async def test_what_was_found_for_one_start_does_not_answer_for_another(campaigns: Campaigns) -> None:
    """Three at one in a hundred seconds do not fit between 10:00 and 10:04."""
    await campaigns.imported(csv_of(1, 2, 3))
    await campaigns.told(*(opted_in(n) for n in (1, 2, 3)))
    await campaigns.put(f"senders/{SENDER}/attributes/gift", json={"kind": "text"})  # which nobody has
    fields: dict[str, Any] = {"send_before": TUESDAY.replace(":00:00Z", ":04:00Z"), "text": f"{TEXT} {{gift|Oui}}"}
    campaign_id = (await campaigns.written(**fields))["campaign_id"]
    found = await looked_at(campaigns, campaign_id, TUESDAY)
    assert [f["id"] for f in found["findings"]] == ["too_slow", "field_nobody_has:gift"]
    refused = await schedule(campaigns, campaign_id, 409, at=TUESDAY)
    assert [r["reason"] for r in refused["reasons"]] == ["too_slow", "field_nobody_has:gift"]
    refused = await schedule(campaigns, campaign_id, 409)
    assert [r["reason"] for r in refused["reasons"]] == ["field_nobody_has:gift"]
    await schedule(campaigns, campaign_id, acknowledge=["field_nobody_has:gift"])


@pytest.mark.parametrize("written", ["{fist_name}", "{fist_name|Bonjour}", "{if fist_name = Zoé}Bonjour{end}"])
async def test_a_field_that_no_contact_of_the_sender_has_is_refused_and_one_that_some_miss_is_not(
    campaigns: Campaigns, written: str
) -> None:
    text = f"{{first_name}}, Maison Lune {written} {{stop}}"
    campaign_id = (await campaigns.written(text=text))["campaign_id"]
    await schedule(campaigns, campaign_id)  # nobody is a contact yet
    await campaigns.imported(f"number;first_name\n{number(1)};Zoé\n{number(2)};\n")
    await campaigns.told(opted_in(1))
    refused = await schedule(campaigns, campaign_id, 409)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("text", "unknown_attribute:fist_name")]
    found = await looked_at(campaigns, campaign_id)
    assert ("unknown_attribute:fist_name", "error") in {(f["id"], f["severity"]) for f in found["findings"]}
    assert not any(f["rule"] == "field_nobody_has" for f in found["findings"]), "it is said once"
    await schedule(campaigns, campaign_id, 409, acknowledge=["unknown_attribute:fist_name"])
    await campaigns.imported(f"number;fist_name\n{number(1)};Zoé\n")  # so it is a field of theirs
    await looked_at(campaigns, campaign_id)
    await schedule(campaigns, campaign_id)
