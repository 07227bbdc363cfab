"""Segments: what is selected in SQL is what the expression means; versions stay; one door for pre-flight and start."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest
from sqlalchemy import text

from campaign.audience import segment_language as segment
from campaign.audience import segments
from campaign.audience.attribute import Kind, is_date
from campaign.audience.reach import Standing, state
from campaign.senders import store
from common.contracts.consent import Consent, Suppression
from common.contracts.inbound import ReceiptState
from tests.service.campaign.campaigns import Campaigns, changed, csv_of
from tests.support.builders import SENDER, number, opted_in, opted_out, sender_changed, shown, subject
from tests.support.running import bearer
from tests.unit.consent.evidences import NOON, NOW

pytestmark = pytest.mark.brokerless

# --- what an expression means ----------------------------------------------------------------------------------------

KINDS = {"city": Kind.TEXT, "points": Kind.NUMBER, "born": Kind.DATE, "vip": Kind.BOOLEAN}
TODAY = date(2027, 2, 28)
CAMPAIGNS = {  # by id: sender, whether it began, how many days ago it ended
    "cmp-old": (SENDER, True, 40),
    "cmp-now": (SENDER, True, None),
    "cmp-draft": (SENDER, False, None),
    "cmp-other": ("other", True, 1),
}


@dataclass(frozen=True)
class Person:
    subject_id: str
    attributes: dict[str, str]
    territory: str | None
    standing: Standing | None
    # by campaign: status, receipt, and how many days ago it left
    messages: dict[str, tuple[str, str | None, int | None]] = field(default_factory=dict)
    clicks: dict[str, int | None] = field(default_factory=dict)  # by campaign: how many days ago the last was


def meets(said: Any, person: Person) -> bool:
    """The language in a page of Python, written from its description and not from the SQL."""
    if "all" in said:
        return all(meets(each, person) for each in said["all"])
    if "any" in said:
        return any(meets(each, person) for each in said["any"])
    if "not" in said:
        return not meets(said["not"], person)
    if "territory" in said:
        among = said["territory"]
        return person.territory in (among if isinstance(among, list) else [among])
    if "consent" in said:
        among = said["is"] if isinstance(said["is"], list) else [said["is"]]
        return state(person.standing, SENDER, said["consent"], NOW) in among
    if "received" in said:
        return any(_counts(campaign_id, said["received"], *told) for campaign_id, told in person.messages.items())
    if "clicked" in said:
        return any(
            ago is not None
            and (campaign_id == said["clicked"]["campaign"] if "campaign" in said["clicked"] else
                 CAMPAIGNS[campaign_id][0] == SENDER and ago < said["clicked"]["days"])
            for campaign_id, ago in person.clicks.items()
        )  # fmt: skip
    held = person.attributes.get(said["attribute"], "")
    return all(_compares(word, said[word], held, KINDS[said["attribute"]]) for word in said if word != "attribute")


def _counts(campaign_id: str, asked: dict[str, Any], status: str, receipt: str | None, left: int | None) -> bool:
    if status not in ("accepted", "unknown") or receipt in ("failed", "expired", "opted_out"):
        return False
    if "campaign" in asked:
        return bool(campaign_id == asked["campaign"])
    sender_id, began, ended = CAMPAIGNS[campaign_id]
    lately = (ended is None or ended < asked["days"]) and (left is None or left < asked["days"])
    return sender_id == SENDER and began and lately


def _compares(word: str, wanted: Any, held: str, kind: Kind) -> bool:
    if word == "exists":
        return (held != "") is wanted
    if word == "in":
        return any(_compares("is", each, held, kind) for each in wanted)
    if word == "starts_with":
        return held.startswith(wanted)
    match kind:
        case Kind.NUMBER:
            if not held.removeprefix("-").replace(".", "", 1).isdigit():
                return False
            mine, theirs = Decimal(held), Decimal(str(wanted))
            return {"is": mine == theirs, "lt": mine < theirs, "lte": mine <= theirs, "gt": mine > theirs,
                    "gte": mine >= theirs}[word]  # fmt: skip
        case Kind.DATE:
            if not is_date(held):
                return False
            day = date.fromisoformat(held)
            if word == "anniversary_in":
                then = TODAY + timedelta(days=wanted)
                born = (day.month, day.day)
                leap = born == (2, 29) and (then.month, then.day) == (2, 28) and (then + timedelta(days=1)).month == 3
                return born == (then.month, then.day) or leap
            other = TODAY + timedelta(days=wanted["days"]) if isinstance(wanted, dict) else date.fromisoformat(wanted)
            return {"is": day == other, "lt": day < other, "lte": day <= other, "gt": day > other,
                    "gte": day >= other}[word]  # fmt: skip
        case Kind.BOOLEAN:
            return held == ("true" if wanted else "false")
        case _:
            return bool(held == wanted)


TEXTS = ["", "Lyon", "lyon", "Ly", "L'Île", "%", "\\", "true", "12"]
NUMBERS = ["0", "12", "12.50", "-3", "0012.5", "1e3", "NaN", "douze", "999999999999999.999999", ""]
DAYS = ["2027-02-28", "2028-02-29", "2000-02-29", "1990-12-31", "28/02/2027", "demain", ""]


def people(dice: random.Random, many: int) -> list[Person]:
    def person(n: int) -> Person:
        held = {"city": dice.choice(TEXTS), "points": dice.choice(NUMBERS), "born": dice.choice(DAYS)}
        held["vip"] = dice.choice(["true", "false", "oui", ""])
        return Person(
            subject(n) if n % 3 else f"u1-{subject(n).partition('-')[2]}",  # hashed with the key before this one
            {name: value for name, value in held.items() if dice.random() < 0.8},
            dice.choice([None, "FR", "GP"]),
            dice.choice([None, standing(dice)]),
            {
                each: (
                    dice.choice(["pending", "accepted", "unknown", "denied"]),
                    dice.choice([None, *get_args(ReceiptState)]),
                    dice.choice([None, 1, 41]),
                )
                for each in CAMPAIGNS
                if dice.random() < 0.4
            },
            {each: dice.choice([None, 6, 7]) for each in CAMPAIGNS if dice.random() < 0.3},
        )

    return [person(n) for n in range(many)]


def standing(dice: random.Random) -> Standing:
    instants = [NOON - timedelta(days=1), NOON, NOW, NOW + timedelta(microseconds=1)]
    consents = {
        (sender, purpose): Consent(
            sender_id=sender,
            purpose=purpose,
            state=dice.choice(["unknown", "pending", "opted_in", "opted_in", "opted_out", "expired"]),
            basis="opt_in",
            occurred_at=dice.choice(instants),
            evidence_id="e",
            expires_at=dice.choice([None, *instants]),
        )
        for sender in (SENDER, "other")
        for purpose in ("promotions", "loyalty")
        if dice.random() < 0.6
    }
    suppressions = [
        Suppression(sender_id=dice.choice([None, SENDER, "other"]), since=dice.choice(instants))
        for _ in range(dice.choice([0, 0, 1, 2]))
    ]
    return Standing(consents=tuple(consents.values()), suppressions=tuple(suppressions), unreadable=dice.random() < 0.1)


def expression(dice: random.Random, depth: int = 3) -> dict[str, Any]:
    if depth and dice.random() < 0.6:
        word = dice.choice(["all", "any", "not"])
        if word == "not":
            return {"not": expression(dice, depth - 1)}
        return {word: [expression(dice, depth - 1) for _ in range(dice.randint(1, 3))]}
    match dice.choice(["text", "number", "date", "boolean", "territory", "consent", "received", "clicked"]):
        case "text":
            return {"attribute": "city", **_some(dice, ["is", "exists", "starts_with"], lambda: dice.choice(TEXTS[1:]))}
        case "number":
            numbers = [0, 12, 12.5, -3, 1000, 999999999999999]
            words = ["is", "exists", "lt", "lte", "gt", "gte"]
            return {"attribute": "points", **_some(dice, words, lambda: dice.choice(numbers))}
        case "date":
            if dice.random() < 0.3:
                return {"attribute": "born", "anniversary_in": dice.choice([0, 1, 366])}
            days = ["2027-02-28", "2000-02-29", {"days": 0}, {"days": -1}, {"days": 366}]
            words = ["is", "exists", "lt", "lte", "gt", "gte"]
            return {"attribute": "born", **_some(dice, words, lambda: dice.choice(days))}
        case "boolean":
            return {"attribute": "vip", dice.choice(["is", "exists"]): dice.random() < 0.5}
        case "territory":
            return {"territory": dice.choice(["FR", ["GP", "MQ"], ["FR", "GP"]])}
        case "consent":
            among = dice.sample(["unknown", "pending", "opted_in", "opted_out", "expired"], dice.randint(1, 3))
            return {"consent": dice.choice(["promotions", "loyalty"]), "is": dice.choice([among, among[0]])}
        case "clicked":
            return {"clicked": dice.choice([{"campaign": each} for each in CAMPAIGNS] + [{"days": 6}, {"days": 7}])}
        case _:
            asked = [{"campaign": each} for each in CAMPAIGNS] + [{"days": days} for days in (1, 39, 40, 41)]
            return {"received": dice.choice(asked)}


def _some(dice: random.Random, words: list[str], value: Any) -> dict[str, Any]:
    def of(word: str) -> Any:
        return dice.random() < 0.5 if word == "exists" else value()

    if dice.random() < 0.3:
        return {"in": [value() for _ in range(dice.randint(1, 3))]}
    return {word: of(word) for word in dice.sample(words, dice.randint(1, 2))}


async def test_what_is_selected_is_what_the_expression_means(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WITHIN_S", 60.0)  # whatever else this machine is doing
    dice = random.Random(26_11_2026)
    everybody = people(dice, 300)
    async with campaigns.database.begin() as tx:
        await _written(tx, everybody)
    for _ in range(400):
        said = expression(dice)
        condition = segment.compiled(segment.parse(said, KINDS), SENDER, NOW, TODAY)
        async with campaigns.database.begin() as tx:
            rows = await tx.scalars(
                text(f"SELECT c.subject_id FROM {segment.FROM} WHERE c.sender_id = :me AND {condition.sql}"),
                {"me": SENDER, **condition.values},
            )
            counted = await segments.count(tx, SENDER, condition)
        expected = {person.subject_id for person in everybody if meets(said, person)}
        assert set(rows) == expected, said
        assert (counted.selected, counted.contacts, counted.exact) == (len(expected), 300, True), said


async def _written(tx: Any, everybody: list[Person]) -> None:
    for campaign_id, (sender_id, began, ended) in CAMPAIGNS.items():
        await tx.execute(
            text(
                "INSERT INTO campaign (campaign_id, sender_id, name, purpose, text, selection, created_by, created_at,"
                " fingerprint, status, started_at, ended_at) VALUES (:id, :sender, '', '', '', '{}', '', :now, '', '',"
                " :began, :ended)"
            ),
            {
                "id": campaign_id,
                "sender": sender_id,
                "now": NOW,
                "began": NOW if began else None,
                "ended": None if ended is None else NOW - timedelta(days=ended),
            },
        )
    for person in everybody:
        await tx.execute(  # somebody else's contact, of whom nothing is counted
            text(
                "INSERT INTO contact (sender_id, subject_id, number, attributes, territory, created_at, updated_at)"
                " VALUES ('other', :id, '', '{\"city\": \"Lyon\"}', 'FR', :now, :now)"
            ),
            {"id": person.subject_id, "now": NOW},
        )
        await tx.execute(
            text(
                "INSERT INTO contact (sender_id, subject_id, number, attributes, territory, created_at, updated_at)"
                " VALUES (:sender, :id, '', CAST(:held AS jsonb), :territory, :now, :now)"
            ),
            {
                "sender": SENDER,
                "id": person.subject_id,
                "held": msgspec.json.encode(person.attributes).decode(),
                "territory": person.territory,
                "now": NOW,
            },
        )
        if person.standing is not None:
            await tx.execute(
                text("INSERT INTO standing VALUES (:id, 1, CAST(:told AS jsonb))"),
                {"id": person.subject_id, "told": msgspec.json.encode(person.standing).decode()},
            )
        for campaign_id, (status, receipt, left) in person.messages.items():
            await tx.execute(
                text(
                    "INSERT INTO recipient (campaign_id, subject_id, status, reasons, receipt, version, handed_off_at)"
                    " VALUES (:campaign, :id, :status, '{}', :receipt, 1, :left)"
                ),
                {
                    "campaign": campaign_id,
                    "id": person.subject_id,
                    "status": status,
                    "receipt": receipt,
                    "left": None if left is None else NOW - timedelta(days=left),
                },
            )
        for campaign_id, ago in person.clicks.items():
            await tx.execute(
                text(
                    "INSERT INTO link (campaign_id, subject_id, place, token, clicks, last_clicked_at)"
                    " VALUES (:campaign, :id, 1, :token, :clicks, :at)"
                ),
                {
                    "campaign": campaign_id,
                    "id": person.subject_id,
                    "token": f"{campaign_id} {person.subject_id}",
                    "clicks": 0 if ago is None else 1,
                    "at": None if ago is None else NOW - timedelta(days=ago),
                },
            )


# --- over HTTP -------------------------------------------------------------------------------------------------------

NIMES = {"attribute": "city", "is": "Nîmes"}


async def saved(campaigns: Campaigns, said: Any, expect: int = 201, key: str | None = None) -> dict[str, Any]:
    body = {"sender_id": SENDER, "name": "Un segment", "expression": said}
    return await campaigns.post("segments", expect, json=body, headers={"Idempotency-Key": key} if key else None)


def chosen(found: dict[str, Any]) -> dict[str, Any]:
    return {"segment": {"segment_id": found["segment_id"], "version": found["version"]}}


async def audience(campaigns: Campaigns, campaign_id: str) -> set[str]:
    found = await campaigns.get(f"campaigns/{campaign_id}/recipients")
    return {each["subject_id"] for each in found["items"]}


async def test_a_campaign_stays_with_the_version_it_names_and_pre_flight_and_start_select_alike(
    campaigns: Campaigns,
) -> None:
    await campaigns.imported(csv_of(*range(6), start="number;first_name;city\n"))
    await campaigns.told(*(opted_in(n) for n in range(6)))
    first = await saved(campaigns, {"all": [NIMES, {"consent": "promotions", "is": "opted_in"}]})
    campaign_id = (await campaigns.written(audience=chosen(first)))["campaign_id"]
    path = f"segments/{first['segment_id']}"
    second = await campaigns.post(f"{path}/versions", 201, json={"expression": {"not": NIMES}, "after": 1})
    assert (first["version"], second["version"], second["latest"]) == (1, 2, 2)
    late = await campaigns.post(f"{path}/versions", 409, json={"expression": NIMES, "after": 1})
    assert late["reasons"][0]["reason"] == "not_the_latest"
    assert [each["expression"] for each in (await campaigns.get(f"{path}/versions"))["items"]] == [
        {"not": NIMES},
        first["expression"],
    ]
    await campaigns.told(opted_out(0))
    looked_at = await campaigns.post(f"campaigns/{campaign_id}/pre-flight")
    assert (looked_at["audience"], looked_at["would_get"]) == (2, 2)
    # the attribute is said to be something else by now: the version is not
    await campaigns.put(f"senders/{SENDER}/attributes/city", json={"kind": "number"})
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    assert await audience(campaigns, campaign_id) == {shown(2), shown(4)}


async def test_who_got_a_campaign_and_who_got_anything_of_late(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WITHIN_S", 60.0)  # whatever else this machine is doing
    first = await campaigns.started(*range(4))
    await campaigns.report(
        changed(first, subject(0), 1, "accepted", receipt="delivered"),
        changed(first, subject(1), 1, "accepted", receipt="failed"),
        changed(first, subject(2), 1, "denied", reasons=("no_consent",)),
        changed(first, subject(3), 1, "unknown"),
    )
    for asked in ({"campaign": first}, {"days": 7}):
        body = {"sender_id": SENDER, "expression": {"received": asked}}
        assert await campaigns.post("segments/count", json=body) == {
            "selected": 2, "contacts": 4, "exact": True, "margin": 0,
        }  # fmt: skip
    found = await saved(campaigns, {"not": {"received": {"campaign": first}}})
    second = (await campaigns.written(audience=chosen(found)))["campaign_id"]
    await campaigns.post(f"campaigns/{second}/schedule")
    assert await campaigns.planner.start_due()
    assert await audience(campaigns, second) == {shown(1), shown(2)}


async def test_a_segment_that_selects_nobody_is_told_of_and_starts_nothing(campaigns: Campaigns) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="other"))
    others = {"sender_id": "other", "contacts": [{"number": number(3), "attributes": {"city": "Brest"}}]}
    await campaigns.post("contacts", json=others)  # whom it would select, were they this sender's
    await campaigns.imported(csv_of(1, 2))
    nobody = await saved(campaigns, {"attribute": "city", "is": "Brest"})
    campaign_id = (await campaigns.written(audience=chosen(nobody)))["campaign_id"]
    refused = await campaigns.post(f"campaigns/{campaign_id}/schedule", 409)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("audience", "nobody_selected")]
    looked_at = await campaigns.post(f"campaigns/{campaign_id}/pre-flight")
    assert "nobody" in [each["id"] for each in looked_at["findings"]]
    somebody = await saved(campaigns, NIMES)
    campaign_id = (await campaigns.written(audience=chosen(somebody)))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    await campaigns.imported(f"number;city\n{number(2)};Lyon\n")  # who was in it moves away
    assert await campaigns.planner.start_due()
    found = await campaigns.get(f"campaigns/{campaign_id}")
    assert (found["status"], found["sent_back"], found["starts_at"]) == ("draft", "nobody_selected", None)
    assert await campaigns.controls() == []
    await campaigns.imported(f"number;city\n{number(2)};Nîmes\n")
    assert (await campaigns.post(f"campaigns/{campaign_id}/schedule"))["sent_back"] is None


async def test_what_cannot_be_said_is_a_problem_with_its_place(campaigns: Campaigns) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="other"))
    others = (await campaigns.written(sender_id="other"))["campaign_id"]
    await campaigns.imported(csv_of(1))
    deep: dict[str, Any] = NIMES
    for _ in range(20):
        deep = {"not": deep}
    for said, field_at, reason in (
        ({"all": [NIMES, {"attribute": "size", "is": "M"}]}, "/expression/all/1/attribute", "unknown_attribute"),
        ({"any": [{"received": {"campaign": "cmp-none"}}]}, "/expression/any/0/received/campaign", "unknown_campaign"),
        ({"received": {"campaign": others}}, "/expression/received/campaign", "unknown_campaign"),
        (deep, "/expression" + "/not" * 8, "too_deep"),
    ):
        refused = await saved(campaigns, said, 422)
        assert refused["type"] == "/problems/segment-not-valid"
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [(field_at, reason)]
        body = {"sender_id": SENDER, "expression": said}
        assert (await campaigns.post("segments/count", 422, json=body))["reasons"] == refused["reasons"]
    bottomless = "".join([f'{{"sender_id": "{SENDER}", "expression": ', '{"not":' * 20_000, "{}", "}" * 20_001])
    answered = await campaigns.client.post(
        "/v1/segments/count", content=bottomless, headers={"Content-Type": "application/json"}
    )
    assert answered.status_code in (400, 422)
    assert (await campaigns.get("segments"))["items"] == []


async def test_segments_are_listed_newest_first_page_by_page(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    made = [await saved(campaigns, NIMES) for _ in range(5)]
    found: list[dict[str, Any]] = []
    path = "segments?limit=2"
    while path:
        page = await campaigns.get(path)
        found += page["items"]
        path = f"segments?limit=2&cursor={page['next']}" if page["next"] else ""
    assert found == made[::-1]


async def test_a_segment_is_its_senders_and_saved_once_for_a_key(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    found = await saved(campaigns, NIMES, key="nimes")
    assert await saved(campaigns, NIMES, 201, "nimes") == found
    reused = await saved(campaigns, {"not": NIMES}, 422, "nimes")
    assert reused["type"] == "/problems/idempotency-key-reused"
    assert (
        (await campaigns.get("segments"))["items"]
        == [found]
        == [await campaigns.get(f"segments/{found['segment_id']}")]
    )
    other = bearer(senders=["somebody-else"])
    for path in ("", "/versions"):
        answered = await campaigns.client.get(f"/v1/segments/{found['segment_id']}{path}", headers=other)
        assert answered.status_code == 404
    assert (await campaigns.client.get("/v1/segments", headers=other)).json()["items"] == []
    await campaigns.post("segments/count", 403, json={"sender_id": SENDER, "expression": NIMES}, headers=other)
    unknown = {"segment": {"segment_id": found["segment_id"], "version": 2}}
    refused = await campaigns.written(422, audience=unknown)
    assert refused["reasons"][0]["reason"] == "unknown_segment"


async def test_of_authors_who_change_a_segment_at_once_one_does_and_the_others_are_told(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    path = f"/v1/segments/{(await saved(campaigns, NIMES))['segment_id']}/versions"
    change = {"expression": {"not": NIMES}, "after": 1}
    answers = await asyncio.gather(*(campaigns.client.post(path, json=change) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


@pytest.mark.parametrize(("within_s", "exact"), [(1e-9, False), (60.0, True)])
async def test_what_cannot_be_counted_in_time_is_estimated_and_said_to_be(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch, within_s: float, exact: bool
) -> None:
    await campaigns.imported(csv_of(*range(3000)))
    monkeypatch.setattr(segments, "WITHIN_S", within_s)
    monkeypatch.setattr(segments, "SLICES", 16)  # of a sixteenth there are enough
    found = await campaigns.post("segments/count", json={"sender_id": SENDER, "expression": NIMES})
    assert found["exact"] is exact
    assert abs(found["selected"] - 1500) <= (0 if exact else 4 * found["margin"])
    assert (found["margin"] == 0) is exact


async def test_counting_ends_when_its_time_is_up(campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch) -> None:
    await campaigns.imported(csv_of(*range(100)))
    monkeypatch.setattr(segments, "perf_counter", itertools.count(0, 0.1).__next__)  # so long each question takes
    monkeypatch.setattr(segments, "WITHIN_S", 0.35)
    found = await campaigns.post("segments/count", json={"sender_id": SENDER, "expression": NIMES})
    assert found["exact"] is False
