"""One story per promise (README.md), told over HTTP only, on the local stack. Each has its own people."""

import asyncio
import hashlib
import hmac
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from common.law import at_hand_off, load, next_permitted
from stack.running import Stack, running_stack
from tests.support.eventually import eventually
from tests.support.infrastructure import KAFKA

TEXT = "Maison Lune : {first_name|bonjour}, -20 % ce samedi. {stop}"
FORM = {"source": "form", "form_id": "checkout", "form_version": "3", "text_shown": "Oui, je veux les offres par SMS"}


LATE = {"knowledge_behind", "consent_stale"}  # what a message waits for on a busy machine, besides the law

NUMBER = re.compile(
    r"(?<![0-9a-f])(?:\+?33|0033|0)?63998[0-9]{4}(?![0-9a-f])"
)  # one of ours, not within a hash or a float


def number(n: int) -> str:
    return f"06 39 98 {n // 100:02d} {n % 100:02d}"


def e164(n: int) -> str:
    return f"+3363998{n:04d}"


@dataclass
class Placet:
    """The stack as its users see it."""

    stack: Stack
    http: httpx.AsyncClient

    async def call(self, method: str, service: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = await self.http.request(method, self.stack.urls[service] + path, json=body, **more)
        assert answer.status_code < 400, answer.text
        return answer.json()

    async def new_sender(self, code: str, brand: str = "Maison Lune", oadc: str = "MAISONLUNE") -> str:
        """A sender of its own for each story, with a STOP code of its own."""
        sender_id = "s" + uuid4().hex[:8]
        await self.call(
            "POST",
            "consent",
            "/v1/senders",
            {
                "sender_id": sender_id,
                "legal_name": "Maison Lune SAS",
                "brand": brand,
                "contact": "contact@maison-lune.example",
                "country": "FR",
                "oadc": oadc,
                "stop_code": code,
                "controller": "maison-lune",
                "stop_scope": "sender",
                "purposes": [] if code.startswith("38") else [{"id": "promotions", "wording": "Nos offres"}],
            },
        )
        return sender_id

    async def consent(self, sender: str, n: int, at: datetime) -> Any:
        return await self.call(
            "POST",
            "consent",
            "/v1/consents",
            {
                "sender_id": sender,
                "purpose": "promotions",
                "number": number(n),
                "basis": "opt_in",
                "occurred_at": at.isoformat(),
                "evidence": FORM,
            },
        )

    async def contacts(self, sender: str, people: range) -> Any:
        lines = "number,first_name\n" + "".join(f"{number(n)},Zoé\n" for n in people)
        answer = await self.http.post(
            f"{self.stack.urls['campaign']}/v1/imports?sender_id={sender}",
            content=lines.encode(),
            headers={"Content-Type": "text/csv"},
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def campaign(self, sender: str) -> str:
        created = await self.call(
            "POST",
            "campaign",
            "/v1/campaigns",
            {
                "sender_id": sender,
                "name": "Samedi",
                "purpose": "promotions",
                "text": TEXT,
                "audience": {"all": True},
            },
        )
        await self.call("POST", "campaign", f"/v1/campaigns/{created['campaign_id']}/schedule", {})
        return str(created["campaign_id"])

    async def told(self, campaign: str) -> Any:
        """The campaign, its numbers checked: they add up at every instant."""
        found = await self.call("GET", "campaign", f"/v1/campaigns/{campaign}")
        s = found["statistics"]
        assert s["audience"] == s["pending"] + s["denied"] + s["deferred"] + s["handed_off"] + s["expired"], s
        assert s["handed_off"] == s["accepted"] + s["rejected"] + s["unknown"], s
        return found

    def finished(self, campaign: str) -> Callable[[], Awaitable[Any]]:
        async def look() -> Any:
            found = await self.told(campaign)
            assert found["status"] == "finished", found
            return found["statistics"]

        return look

    async def recipients(self, campaign: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.call("GET", "campaign", f"/v1/campaigns/{campaign}/recipients"))[
            "items"
        ]
        return items

    async def sent_to(self, n: int, *, answers: bool = False) -> list[dict[str, Any]]:
        """What the operator received for this person, from its own log: `answers` to what they wrote, or all else."""
        answer = await self.http.get(f"{self.stack.urls['simulator']}/log?kind=submit")
        lines = [json.loads(line) for line in answer.text.splitlines()]
        return [line for line in lines if line["to"] == e164(n) and (line["category"] == "service") is answers]

    async def reply(self, n: int, text: str, code: str, slow: timedelta = timedelta(0)) -> str:
        """The person answers: the operator's callback, signed, and acknowledged when this returns. `slow`: how far
        behind the operator's clock is."""
        reply_id = f"mo-{uuid4().hex}"
        sent_at = (datetime.now(UTC) - slow).isoformat()
        body = json.dumps({"id": reply_id, "from": e164(n), "to": code, "text": text, "sent_at": sent_at}).encode()
        answer = await self.http.post(
            f"{self.stack.urls['inbound']}/v1/callbacks/simulator/main/messages",
            content=body,
            headers=signed(body, self.stack.environment.simulator_secret),
        )
        assert answer.status_code == 200, answer.text
        return reply_id

    async def enforced(self, reply_id: str) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            page = await self.call("GET", "dispatch", "/v1/enforcements?limit=1000")
            found = [e for e in page["items"] if (e["reference"] or "").endswith(reply_id) and e["enforced_at"]]
            assert found
            return dict(found[0])

        return await eventually(look)


def signed(body: bytes, secret: str, at: int | None = None) -> dict[str, str]:
    stamp = str(int(time.time()) if at is None else at)
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"Placet-Timestamp": stamp, "Placet-Signature": f"v1={mac}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
async def placet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Placet]:
    folder = tmp_path_factory.mktemp("stack")
    async with running_stack(folder, kafka=KAFKA, durable=False) as stack:
        headers = {"Authorization": f"Bearer {stack.token}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as http:
            yield Placet(stack, http)


async def test_1_stop_is_final(placet: Placet) -> None:
    sender = await placet.new_sender("36201")
    await placet.contacts(sender, range(100, 103))
    for n in range(100, 103):
        await placet.consent(sender, n, datetime.now(UTC) - timedelta(days=1))
    first = await placet.campaign(sender)
    assert (await eventually(placet.finished(first)))["accepted"] == 3
    enforcement = await placet.enforced(await placet.reply(101, "Stop svp !", "36201"))
    assert enforcement["received_at"] < enforcement["enforced_at"]
    second = await placet.campaign(sender)
    numbers = await eventually(placet.finished(second))
    assert (numbers["accepted"], numbers["denied"]) == (2, 1)
    assert [len(await placet.sent_to(n)) for n in range(100, 103)] == [2, 1, 2]
    otp = await placet.call(
        "POST",
        "dispatch",
        "/v1/messages",
        {
            "sender_id": await placet.new_sender("38201"),
            "to": number(101),
            "text": "Votre code : 4821",
            "category": "transactional",
        },
    )

    async def gone() -> bool:
        return bool((await placet.call("GET", "dispatch", f"/v1/messages/{otp['message_id']}"))["status"] == "accepted")

    await eventually(gone)

    async def confirmed() -> bool:
        said = (
            "Maison Lune : votre STOP est pris en compte, vous ne recevrez plus nos SMS commerciaux. Vos choix : http"
        )
        return [m["text"].startswith(said) for m in await placet.sent_to(101, answers=True)] == [True]

    await eventually(confirmed)


@pytest.mark.any_broker
async def test_1_a_stop_closes_an_opt_in_it_came_after_though_its_operators_clock_is_slow(placet: Placet) -> None:
    sender = await placet.new_sender("36202")
    await placet.contacts(sender, range(103, 105))
    for n in range(103, 105):
        await placet.consent(sender, n, datetime.now(UTC))
    assert (await eventually(placet.finished(await placet.campaign(sender))))["accepted"] == 2
    await placet.enforced(await placet.reply(103, "STOP", "36202", slow=timedelta(hours=1)))
    numbers = await eventually(placet.finished(await placet.campaign(sender)))
    assert (numbers["accepted"], numbers["denied"]) == (1, 1)
    assert [len(await placet.sent_to(n)) for n in range(103, 105)] == [1, 2]


@pytest.mark.any_broker
async def test_1_what_may_be_a_stop_holds_marketing_until_a_person_has_read_it(placet: Placet) -> None:
    sender = await placet.new_sender("36211")
    people = range(120, 123)
    await placet.contacts(sender, people)
    for n in people:
        await placet.consent(sender, n, datetime.now(UTC) - timedelta(days=1))
    for n in (120, 121):
        await placet.reply(n, "Ne stoppez pas", "36211")

    async def held() -> bool:
        found = [await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)}) for n in (120, 121)]
        return all(subject["held_since"] for subject in found)

    await eventually(held)
    await placet.enforced(await placet.reply(123, "STOP", "36211"))  # by now dispatch has heard of the hold as well
    campaign = await placet.campaign(sender)

    async def waiting() -> bool:
        numbers = (await placet.told(campaign))["statistics"]
        assert (numbers["accepted"], numbers["deferred"]) == (1, 2), numbers
        return True

    await eventually(waiting)
    queue = {r["subject_id"]: r for r in (await placet.call("GET", "inbound", "/v1/reviews"))["items"]}
    for n, intent in ((120, "none"), (121, "stop")):
        subject = await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)})
        review = queue[subject["subject_id"]]
        assert review["text"] == "Ne stoppez pas"
        await placet.call("POST", "inbound", f"/v1/reviews/{review['mo_id']}/decision", {"intent": intent})
    numbers = await eventually(placet.finished(campaign))
    assert (numbers["accepted"], numbers["denied"]) == (2, 1)
    assert numbers["denied_reasons"] == {"opted_out": 1, "suppressed": 1}
    assert [len(await placet.sent_to(n)) for n in people] == [1, 0, 1]


@pytest.mark.any_broker
async def test_1_a_stop_that_names_a_brand_on_a_shared_code_is_for_that_brand(placet: Placet) -> None:
    """Two brands behind one code: `STOP LUNE BLEUE` leaves the other, `STOP TOUT` leaves nobody."""
    lune = await placet.new_sender("36212", brand="Lune Bleue", oadc="LUNEBLEUE")
    other = await placet.new_sender("36212")
    elsewhere = await placet.new_sender("36213")
    for sender in (lune, other, elsewhere):
        await placet.consent(sender, 130, datetime.now(UTC) - timedelta(days=1))
        await placet.consent(sender, 131, datetime.now(UTC) - timedelta(days=1))

    async def states(n: int) -> dict[str, str]:
        subject = await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)})
        return {consent["sender_id"]: consent["state"] for consent in subject["consents"]}

    await placet.enforced(await placet.reply(130, "STOP pub de Lune Bleue svp", "36212"))
    assert await states(130) == {lune: "opted_out", other: "opted_in", elsewhere: "opted_in"}
    await placet.enforced(await placet.reply(131, "Stop tout", "36212"))
    assert set((await states(131)).values()) == {"opted_out"}


@pytest.mark.any_broker
async def test_2_whoever_types_a_number_only_its_own_phone_says_yes(placet: Placet) -> None:
    """Double opt-in: form, question by SMS, OUI, and only then marketing."""
    sender = await placet.new_sender("36215")
    asked, silent = 210, 211
    await placet.contacts(sender, range(asked, silent + 1))
    for n in (asked, silent):
        form = {"sender_id": sender, "purpose": "promotions", "number": number(n), "evidence": FORM}
        await placet.call(
            "POST", "consent", "/v1/double-opt-ins", form | {"occurred_at": datetime.now(UTC).isoformat()}
        )

    async def questions() -> list[str]:
        found = [m["text"] for n in (asked, silent) for m in await placet.sent_to(n, answers=True)]
        assert len(found) == 2
        return found

    assert set(await eventually(questions)) == {
        'Maison Lune : pour recevoir par SMS "Nos offres", répondez OUI. Sinon, ne faites rien. STOP au 36215.'
    }
    await placet.reply(asked, "Oui", "36215")

    async def confirmed() -> bool:
        subject = await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(asked)})
        assert [consent["state"] for consent in subject["consents"]] == ["opted_in"]
        request, answer = subject["history"]
        assert (answer["answers"], answer["text_shown"]) == (request["evidence_id"], FORM["text_shown"])
        return True

    await eventually(confirmed)
    numbers = await eventually(placet.finished(await placet.campaign(sender)))
    assert (numbers["accepted"], numbers["denied_reasons"]) == (1, {"consent_pending": 1})
    assert [len(await placet.sent_to(n)) for n in (asked, silent)] == [1, 0]


@pytest.mark.any_broker
async def test_2_default_deny(placet: Placet) -> None:
    sender, other = await placet.new_sender("36202"), await placet.new_sender("36203")
    await placet.contacts(sender, range(200, 203))
    await placet.consent(other, 201, datetime.now(UTC) - timedelta(days=1))
    await placet.consent(sender, 202, datetime.now(UTC) - timedelta(days=1))
    campaign = await placet.campaign(sender)
    numbers = await eventually(placet.finished(campaign))
    assert (numbers["accepted"], numbers["denied"]) == (1, 2)
    assert numbers["denied_reasons"] == {"no_consent": 2}, "of a stranger's sender nothing is told"
    assert [len(await placet.sent_to(n)) for n in range(200, 203)] == [0, 0, 1]


@pytest.mark.any_broker
async def test_3_only_tightening(placet: Placet) -> None:
    sender = await placet.new_sender("36204")
    await placet.contacts(sender, range(300, 301))
    await placet.consent(sender, 300, datetime.now(UTC) - timedelta(days=30))
    await placet.enforced(await placet.reply(300, "ARRÊT", "36204"))
    late = await placet.consent(sender, 300, datetime.now(UTC) - timedelta(days=2))
    assert late["state"] == "opted_out"
    assert late["changed"] is False
    batch = await placet.call(
        "POST",
        "consent",
        "/v1/consents/batch",
        {
            "items": [
                {
                    "sender_id": sender,
                    "purpose": "promotions",
                    "number": number(300),
                    "occurred_at": (datetime.now(UTC) - timedelta(days=d)).isoformat(),
                    "evidence": FORM,
                }
                for d in (1, 3, 5)
            ]
        },
    )
    assert {r["state"] for r in batch["results"]} == {"opted_out"}
    numbers = await eventually(placet.finished(await placet.campaign(sender)))
    assert numbers["denied"] == 1
    assert await placet.sent_to(300) == []
    newer = await placet.consent(sender, 300, datetime.now(UTC))
    assert (newer["state"], newer["effective"]) == ("opted_out", False), "a caller's word takes back no STOP"
    assert "start" in newer["reopens_with"]
    await placet.reply(300, "START", "36204")

    async def back() -> bool:
        subject = await placet.call("POST", "consent", "/v1/subjects/lookup", {"number": number(300)})
        return bool(subject["consents"][0]["state"] == "opted_in")

    assert await eventually(back)
    numbers = await eventually(placet.finished(await placet.campaign(sender)))
    assert numbers["accepted"] == 1


async def test_4_exact_accounting_while_it_runs_and_is_paused_and_cancelled(placet: Placet) -> None:
    sender = await placet.new_sender("36205")
    people = range(4000, 6000)
    assert (await placet.contacts(sender, people))["created"] == len(people)
    items = [
        {
            "sender_id": sender,
            "purpose": "promotions",
            "number": number(n),
            "occurred_at": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
            "evidence": FORM,
        }
        for n in people
    ]
    for at in range(0, len(items), 1000):
        await placet.call("POST", "consent", "/v1/consents/batch", {"items": items[at : at + 1000]})
    await placet.call("POST", "simulator", "/control/behaviour", {"latency_s": 0.2, "reject_rate": 0.05})
    campaign = await placet.campaign(sender)

    async def begun() -> bool:
        return bool((await placet.told(campaign))["statistics"]["handed_off"])

    await eventually(begun)
    await placet.call("POST", "campaign", f"/v1/campaigns/{campaign}/pause")
    paused = (await placet.told(campaign))["statistics"]
    assert paused["audience"] == len(people)
    await placet.call("POST", "campaign", f"/v1/campaigns/{campaign}/resume")
    await placet.told(campaign)
    await placet.call("POST", "campaign", f"/v1/campaigns/{campaign}/cancel")

    async def settled() -> Any:
        s = (await placet.told(campaign))["statistics"]
        assert s["pending"] == s["deferred"] == 0, s
        return s

    numbers = await eventually(settled)
    recipients = {r["message_id"]: r["status"] async for r in _all_recipients(placet, campaign)}
    answer = await placet.http.get(f"{placet.stack.urls['simulator']}/log?kind=submit")
    taken = [json.loads(line) for line in answer.text.splitlines()]
    ours = [t for t in taken if t["reference"] in recipients]
    assert len(ours) == len({t["to"] for t in ours}) == numbers["accepted"] + numbers["rejected"]
    assert all(recipients[t["reference"]] == t["status"] for t in ours)
    await placet.call("POST", "simulator", "/control/behaviour", {"latency_s": 0, "reject_rate": 0})


async def _all_recipients(placet: Placet, campaign: str) -> AsyncIterator[dict[str, Any]]:
    cursor: str | None = ""
    while cursor is not None:
        page = await placet.call("GET", "campaign", f"/v1/campaigns/{campaign}/recipients?limit=1000&cursor={cursor}")
        for item in page["items"]:
            yield item
        cursor = page["next"]


@pytest.mark.any_broker
async def test_5_every_decision_explains_itself(placet: Placet) -> None:
    sender = await placet.new_sender("36206")
    await placet.contacts(sender, range(500, 502))
    known = await placet.consent(sender, 500, datetime.now(UTC) - timedelta(days=1))
    campaign = await placet.campaign(sender)
    await eventually(placet.finished(campaign))
    decisions = {
        r["status"]: await placet.call("GET", "dispatch", f"/v1/messages/{r['message_id']}")
        for r in await placet.recipients(campaign)
    }
    assert decisions["denied"]["reasons"] == ["no_consent"]
    assert decisions["denied"]["consent_version"] is None
    accepted = decisions["accepted"]
    assert accepted["subject_id"] == known["subject_id"]
    assert accepted["consent_version"] == known["version"], "told to the platform's operator alone"
    assert accepted["policy_version"] == "demonstration-3"
    assert accepted["requested_at"] < accepted["as_of"] or accepted["as_of"] < accepted["decided_at"]


@pytest.mark.any_broker
async def test_5_a_regulator_checks_a_campaign_with_one_file_and_the_published_keys(
    placet: Placet, tmp_path: Path
) -> None:
    """One had said yes and gets it; who stopped after the first campaign is in its proof and not in the second's."""
    sender = await placet.new_sender("36214")
    await placet.contacts(sender, range(510, 512))
    for n in range(510, 512):
        await placet.consent(sender, n, datetime.now(UTC) - timedelta(days=1))
    first = await placet.campaign(sender)
    await eventually(placet.finished(first))
    await placet.enforced(await placet.reply(511, "STOP", "36214"))
    second = await placet.campaign(sender)
    await eventually(placet.finished(second))
    (tmp_path / "jwks.json").write_text(json.dumps(await placet.call("GET", "consent", "/.well-known/jwks.json")))

    async def proven(campaign: str, messages: int) -> str:
        answer = await placet.http.get(f"{placet.stack.urls['consent']}/v1/proofs/campaigns/{campaign}")
        assert answer.status_code == 200, answer.text
        (tmp_path / "proof.jsonl").write_bytes(answer.content)
        command = ("-m", "consent", "verify-bundle", "proof.jsonl", "--jwks", "jwks.json")
        ran = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=tmp_path, env={}, stdout=asyncio.subprocess.PIPE
        )
        told = (await ran.communicate())[0].decode()
        assert ran.returncode == 0, told
        assert f"campaign {campaign}: {messages} messages\n" in told
        assert f"{messages:>8} stood on a consent on record\n" in told
        return told

    assert "HOLDS" in await eventually(lambda: proven(first, 2))
    assert "HOLDS" in await eventually(lambda: proven(second, 1))
    answer = await placet.http.post(f"{placet.stack.urls['consent']}/v1/proofs", json={"number": number(511)})
    assert [json.loads(line)["line"] for line in answer.text.splitlines()] == [
        *("bundle", "keys", "sender", "subject", "entry", "entry", "end")
    ]


@pytest.mark.any_broker
async def test_8_nobody_uninvited(placet: Placet) -> None:
    for service, method, path in (
        ("consent", "POST", "/v1/subjects/lookup"),
        ("consent", "POST", "/v1/consents"),
        ("consent", "POST", "/v1/opt-outs"),
        ("consent", "POST", "/v1/senders"),
        ("campaign", "POST", "/v1/imports?sender_id=x"),
        ("campaign", "POST", "/v1/campaigns"),
        ("campaign", "GET", "/v1/campaigns"),
        ("dispatch", "POST", "/v1/messages"),
        ("dispatch", "GET", "/v1/enforcements"),
    ):
        answer = await placet.http.request(
            method, placet.stack.urls[service] + path, json={}, headers={"Authorization": ""}
        )
        assert answer.status_code == 401, (service, path, answer.status_code)
    body = json.dumps({"id": "mo-forged", "from": e164(600), "to": "36111", "text": "STOP"}).encode()
    callback = f"{placet.stack.urls['inbound']}/v1/callbacks/simulator/main/messages"
    secret = placet.stack.environment.simulator_secret
    for headers in ({}, signed(body, "wrong"), signed(body, secret, at=int(time.time()) - 900)):
        assert (await placet.http.post(callback, content=body, headers=headers)).status_code == 401


async def test_9_no_number_is_in_any_log_or_metric(placet: Placet) -> None:
    """Runs last: what all the stories above have left behind."""
    for log in sorted((placet.stack.folder / "logs").glob("*.log")):
        if log.name in ("simulator.log", "broker.log"):
            continue
        content = log.read_text(encoding="utf-8", errors="replace")
        assert not NUMBER.search(content.replace(" ", "")), log.name
    for service in ("consent", "campaign", "dispatch", "inbound"):
        metrics = (await placet.http.get(placet.stack.urls[service] + "/metrics")).text
        assert not NUMBER.search(metrics)
        assert "sms_" in metrics


@pytest.mark.any_broker  # a stack of its own, for its hours
async def test_6_the_law_is_data(tmp_path: Path) -> None:
    """With the real hours in force a marketing message goes only inside them; a code goes at any hour."""
    async with (
        running_stack(tmp_path, kafka=KAFKA, durable=False, hours="france") as stack,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {stack.token}"}, timeout=30) as http,
    ):
        placet = Placet(stack, http)
        sender = await placet.new_sender("36207")
        await placet.consent(sender, 700, datetime.now(UTC) - timedelta(days=1))
        send = {"to": number(700), "category": "marketing", "purpose": "promotions", "sender_id": sender}
        codes = await placet.new_sender("38207")
        until = (datetime.now(UTC) + timedelta(days=9)).isoformat()
        offer = await placet.call(
            "POST", "dispatch", "/v1/messages", {**send, "text": "-20 %. STOP au 36207", "send_before": until}
        )
        otp = {"to": number(700), "category": "transactional", "text": "Code 4821", "sender_id": codes}
        code = await placet.call("POST", "dispatch", "/v1/messages", otp)

        async def decided() -> tuple[Any, Any]:
            found = await asyncio.gather(
                *(placet.call("GET", "dispatch", f"/v1/messages/{m['message_id']}") for m in (offer, code))
            )
            assert found[1]["status"] == "accepted", found
            assert found[0]["decided_at"] is not None
            assert not found[0]["reasons"] or set(found[0]["reasons"]) - LATE, found
            return found[0], found[1]

        marketing, _ = await eventually(decided)
        assert marketing["policy_version"] == "france-3"
        at = datetime.fromisoformat(marketing["decided_at"])
        opens = next_permitted(at, "FR", at_hand_off(load("france-3")))
        if opens == at:
            assert marketing["status"] in ("sending", "accepted")
        else:
            assert set(marketing["reasons"]) - LATE <= {"quiet_hours", "closed_weekday", "public_holiday"}
            assert datetime.fromisoformat(marketing["due_at"]) == opens
            assert await placet.sent_to(700) != []
            assert [m["category"] for m in await placet.sent_to(700)] == ["transactional"]
