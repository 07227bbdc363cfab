"""The command `placet` against the services over HTTP, as a person at a shell uses it."""

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import pytest

from placet_cli.main import main
from placet_client import AsyncPlacet
from placet_client import upload as uploading
from placet_client.flow import Send, Step
from placet_client.session import SyncSession
from tests.operators import signed
from tests.service.clients.running import served
from tests.service.rights.four import SECRET, knows_senders
from tests.support.builders import now
from tests.support.eventually import WITHIN_S, eventually
from tests.support.running import Surroundings, token

pytestmark = pytest.mark.any_broker

SENDER = {
    "sender_id": "maison-lune",
    "legal_name": "Maison Lune SAS",
    "brand": "Maison Lune",
    "contact": "contact@maison-lune.example",
    "country": "FR",
    "oadc": "MAISONLUNE",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres"}],
}
NUMBER = "06 39 98 01 02"


def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Run `placet`; return its exit code, and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["placet", *arguments], io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        raise AssertionError("a command exits")
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv, sys.stdin = before


async def placet(*arguments: str, stdin: str = "", exits: int = 0) -> str:
    code, out, err = await asyncio.to_thread(run, *arguments, stdin=stdin)
    assert code == exits, err + out
    assert NUMBER not in err + out
    return out if exits == 0 else err + out


async def told(*arguments: str, stdin: str = "") -> Any:
    return [json.loads(line) for line in (await placet(*arguments, "--json", stdin=stdin)).splitlines()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    monkeypatch.setenv("PLACET_PROFILE", str(tmp_path / "profile.json"))
    for name in [name for name in os.environ if name.startswith("PLACET_") and name.endswith(("_URL", "TOKEN"))]:
        monkeypatch.delenv(name)

    def env_file(environment: dict[str, str]) -> Path:
        written = tmp_path / "stack.env"
        written.write_text("".join(f"{name.removeprefix('PLACET_')}={value}\n" for name, value in environment.items()))
        return written

    return env_file


async def test_a_person_goes_from_the_login_to_a_finished_campaign_and_its_proof(
    surroundings: Surroundings, shell: Callable[[dict[str, str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "LOOK_EVERY_S", 0.02)
    assert "placet login" in await placet("campaigns", "list", exits=4)
    async with served(surroundings) as environment:
        await placet("login", "--env-file", str(shell(environment)))
        doctor = await told("doctor")
        assert [(each["of"], each["check"]) for each in doctor if each["good"] is False] == []
        assert {each["of"] for each in doctor if each["check"] == "token" and each["good"]} >= {
            "consent-svc",
            "inbound-svc",
        }

        sender = tmp_path / "sender.json"
        sender.write_text(json.dumps(SENDER))
        assert "36111" in await placet("senders", "create", str(sender))
        other = tmp_path / "other.json"
        other.write_text(json.dumps(SENDER | {"brand": "Autre Lune"}))
        assert "409" in await placet("senders", "create", str(other), exits=1)
        assert "404" in await placet("senders", "show", "nobody", exits=5)
        for service in ("dispatch", "campaign"):
            await eventually(knows_senders(surroundings, service, 1))

        by = ("--sender", "maison-lune", "--purpose", "promotions")
        form = ("--source", "shop", "--form-id", "checkout", "--form-version", "7")
        [given] = await told("consents", "give", *by, *form, stdin=NUMBER)
        assert (given["state"], given["effective"]) == ("opted_in", True)
        checked = await told("consents", "check", *by, stdin=f"{NUMBER}\n06 39 98 01 03\n")
        assert [each["allowed"] for each in checked] == [True, False]
        [person] = await told("subject", stdin=NUMBER)
        assert [line["kind"] for line in person["history"]] == ["opt_in"]
        assert "opted_in" in await placet("subject", stdin=NUMBER)

        file = tmp_path / "contacts.csv"
        file.write_text(f"number;first_name\n{NUMBER};Zoé\n06 39 98 01 03;Léo\n", encoding="utf-8")
        await _cut_then_resumed(file, monkeypatch)

        segment = {
            "sender_id": "maison-lune",
            "name": "Tous",
            "expression": {"attribute": "first_name", "exists": True},
        }
        written = tmp_path / "campaign.json"
        segment_id = await _segment(environment, segment)
        written.write_text(
            json.dumps(
                {
                    "sender_id": "maison-lune",
                    "name": "Samedi",
                    "purpose": "promotions",
                    "text": "{first_name|Bonjour}, -20 % chez Maison Lune samedi. {stop}",
                    "audience": {"segment": {"segment_id": segment_id, "version": 1}},
                }
            )
        )
        [campaign] = await told("campaigns", "create", str(written))
        campaign_id = campaign["campaign_id"]
        await eventually(lambda: _reaches_one(campaign_id))
        assert "would get" in await placet("campaigns", "preflight", campaign_id)
        await placet("campaigns", "schedule", campaign_id)
        looks = await told("campaigns", "watch", campaign_id, "--every", "0.1")
        assert (looks[-1]["status"], looks[-1]["statistics"]["handed_off"]) == ("finished", 1)
        assert [each["campaign_id"] for each in await told("campaigns", "list")] == [campaign_id]
        assert await told("dead-letters", "list") == []
        assert [each["sender_id"] for each in await told("senders", "list")] == ["maison-lune"]
        moments = await told("timeline", stdin=NUMBER)
        assert {each["kind"] for each in moments} >= {"opt_in", "contact_created", "audience", "message"}
        assert [each["at"] for each in moments] == sorted((each["at"] for each in moments), reverse=True)
        await _listed(campaign_id)
        await placet("campaigns", "archive", campaign_id)
        assert await told("campaigns", "list") == []
        assert [each["campaign_id"] for each in await told("campaigns", "list", "--archived")] == [campaign_id]
        await placet("campaigns", "unarchive", campaign_id)
        await told("consents", "stop", "--sender", "maison-lune", "--source", "desk", stdin=NUMBER)
        [out] = await told("consents", "opt-outs", "--sender", "maison-lune")
        assert (out["source"], out["in_force"]) == ("desk", True)
        assert await told("consents", "opt-outs", "--sender", "maison-lune", "--until", "2026-01-01") == []

        proof, keys = str(tmp_path / "proof.jsonl"), str(tmp_path / "jwks.json")
        await placet("proofs", "person", "--to", proof, stdin=NUMBER)
        await placet("proofs", "keys", "--to", keys)
        assert "409" in await placet("campaigns", "schedule", campaign_id, exits=1)
    assert "HOLDS" in await placet("proofs", "verify", proof, "--jwks", keys), "offline"
    _changed(proof)
    assert "DOES NOT HOLD" in await placet("proofs", "verify", proof, "--jwks", keys, exits=6)


async def test_a_reviewer_reads_what_was_sent_before_a_text_and_decides_a_group(
    surroundings: Surroundings, shell: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    async with served(surroundings) as environment:
        await placet("login", "--env-file", str(shell(environment)))
        sender = tmp_path / "sender.json"
        sender.write_text(json.dumps(SENDER))
        await placet("senders", "create", str(sender))
        for service in ("dispatch", "inbound"):
            await eventually(knows_senders(surroundings, service, 1))
        await _notified(environment, "Votre colis arrive demain.")
        await _texted(environment, NUMBER, "Ne stoppez pas")
        await _texted(environment, "06 39 98 01 03", "NE STOPPEZ PAS !")

        listed = {each["text"]: each for each in await told("reviews", "list")}
        assert sorted(listed) == ["NE STOPPEZ PAS !", "Ne stoppez pas"]
        [like] = {each["like"] for each in listed.values()}
        one, other = (listed[text]["mo_id"] for text in ("Ne stoppez pas", "NE STOPPEZ PAS !"))
        table = await placet("reviews", "list")
        assert listed["Ne stoppez pas"]["rule"] in table

        before = {each["text"]: each["before"] for each in await told("reviews", "open", like)}
        assert [each["text"] for each in before["Ne stoppez pas"]] == ["Votre colis arrive demain."]
        assert before["NE STOPPEZ PAS !"] == []
        read = (await placet("reviews", "open", one)).splitlines()
        assert read[0].endswith("maison-lune > Votre colis arrive demain.")
        assert read[1].endswith(f"{one} < Ne stoppez pas")
        assert read[2].startswith(f"doubt, suggestion stop, by rule {listed['Ne stoppez pas']['rule']}; read it by ")
        assert other not in "".join(read)

        decided = await told("reviews", "decide", "none", one, other)
        assert [(each["mo_id"], each["result"]) for each in decided] == [(one, "decided"), (other, "decided")]
        assert "no open review" in await placet("reviews", "open", like, exits=1)
        assert "none, decided by tester; to be undone until" in await placet(
            "reviews", "open", one, "--state", "decided"
        )
        await placet("reviews", "undo", one)
        assert [each["mo_id"] for each in await told("reviews", "list")] == [one]
        await placet("reviews", "decide", "stop", one)
        assert "stop, decided by tester; in effect" in await placet("reviews", "open", one, "--state", "decided")
        assert "409" in await placet("reviews", "undo", one, exits=1)


async def _notified(environment: dict[str, str], text: str) -> None:
    """Have the person at NUMBER sent a notice."""
    async with AsyncPlacet(token(), dispatch_url=environment["PLACET_DISPATCH_URL"]) as client:
        sent = await client.messages.create(sender_id="maison-lune", to=NUMBER, category="service", text=text)

        async def accepted() -> bool:
            return (await client.messages.get(sent.message_id)).status == "accepted"

        await eventually(accepted)


async def _texted(environment: dict[str, str], number: str, text: str) -> None:
    """Text to the sender's code, as the person's own phone."""
    at = now()
    mo = {"id": f"mo-{number[-2:]}", "from": number, "to": SENDER["stop_code"], "text": text, "sent_at": at.isoformat()}
    raw = json.dumps(mo).encode()
    url = f"{environment['PLACET_INBOUND_URL']}/v1/callbacks/simulator/main/messages"
    async with httpx.AsyncClient(timeout=WITHIN_S) as http:
        answer = await http.post(url, content=raw, headers=signed(raw, SECRET, at))
    assert answer.status_code == 200, answer.text


async def _listed(campaign_id: str) -> None:
    """The lists, narrowed by their filters, and cut by --limit."""
    of = ("--sender", "maison-lune")
    people = await told("contacts", "list", *of)
    assert sorted(each["attributes"]["first_name"] for each in people) == ["Léo", "Zoé"]
    [one] = await told("contacts", "list", *of, "--limit", "1")
    assert one in people
    [imported] = await told("imports", "list", "--of", "contacts", *of)
    assert (imported["status"], imported["created"]) == ("done", 2)
    assert await told("imports", "list") == []
    assert "done" in await placet("imports", "list", "--of", "contacts")
    [sent] = await told("messages", "list", *of, "--campaign", campaign_id, "--status", "accepted")
    assert (sent["category"], sent["campaign_id"]) == ("marketing", campaign_id)
    assert await told("messages", "list", *of, "--status", "rejected") == []
    assert await told("messages", "list", *of, "--since", "2026-01-01", "--until", "2026-02-01") == []
    assert "accepted" in await placet("messages", "list", *of)
    [shown] = await told("messages", "show", sent["message_id"])
    assert shown["status"] == "accepted"
    assert await told("replies", "list", *of) == []
    assert "404" in await placet("replies", "list", "--sender", "nobody", exits=5)


def _changed(proof: str) -> None:
    Path(proof).write_bytes(Path(proof).read_bytes().replace(b'"checkout"', b'"cashdesk"'))


async def _cut_then_resumed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill an import half-way, and run the same command again."""
    do, patches = SyncSession._do, iter(range(2))

    def killed_at_the_second_part(session: SyncSession, step: Step) -> Any:
        if isinstance(step, Send) and step.request.method == "PATCH" and next(patches) == 1:
            raise KeyboardInterrupt
        return do(session, step)

    [tried] = await told("imports", "contacts", "--sender", "maison-lune", "--dry-run", str(file))
    assert (tried["file_refused"], tried["lines"], tried["refused"]) == (None, 2, 0)
    assert tried["columns"][0]["taken_for"] == "number"
    with monkeypatch.context() as cut:
        cut.setattr(uploading, "PART_BYTES", 16)
        cut.setattr(SyncSession, "_do", killed_at_the_second_part)
        await placet("imports", "contacts", "--sender", "maison-lune", str(file), exits=130)
    code, out, err = await asyncio.to_thread(run, "imports", "contacts", "--sender", "maison-lune", str(file), "--json")
    assert code == 0, err
    assert "went on from byte 16 of" in err
    assert (json.loads(out)["status"], json.loads(out)["created"]) == ("done", 2)
    [again] = await told("imports", "contacts", "--sender", "maison-lune", str(file))
    assert again["import_id"] == json.loads(out)["import_id"], "the same file is one import"


async def _segment(environment: dict[str, str], body: dict[str, Any]) -> str:
    async with AsyncPlacet(token(), campaign_url=environment["PLACET_CAMPAIGN_URL"]) as client:
        return (await client.segments.create(**body)).segment_id


async def _reaches_one(campaign_id: str) -> bool:
    [found] = await told("campaigns", "preflight", campaign_id)
    return bool(found["would_get"] == 1)
