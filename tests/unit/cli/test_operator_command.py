"""`placet-operator`: help everywhere, usage, exit codes; what is of the format of callbacks, and what is not."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from placet_operator import report
from placet_operator.checking import Broken, Check, Finding, NotSeen, Outcome, findings
from placet_operator.connector import run as connector
from placet_operator.connector.receiver import Kind, read
from placet_operator.main import app
from placet_operator.placet import kafka, webhook
from placet_operator.texts import EDGES, LONG, numbers
from tests.unit.deploy.deployed import text

MO = {"id": "mo-1", "from": "+33639984000", "to": "36111", "text": "STOP", "sent_at": "2026-01-06T09:30:00+01:00"}
DLR = {"id": "op-1", "reference": "r-1", "status": "delivered", "code": None, "at": None}
PAGE = text("docs/operators/check.md")


def commands(command: Any, path: str = "placet-operator") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def test_every_command_and_every_option_has_a_help() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) == 5
    assert [path for path, command in found.items() if not command.help] == []
    options = [(path, each) for path, command in found.items() for each in command.params if each.name != "help"]
    assert [f"{path} {each.name}" for path, each in options if not each.help] == []


def test_the_page_names_every_command_and_every_check_of_a_connector() -> None:
    assert [
        path for path in dict(commands(typer.main.get_command(app))) if path.count(" ") == 2 and path not in PAGE
    ] == []
    assert [each.name for each in connector.CHECKS if f"`{each.name}`" not in PAGE] == []


@pytest.mark.parametrize(
    "checks", [connector.CHECKS, webhook.CHECKS, kafka.CHECKS], ids=["connector", "webhook", "kafka"]
)
def test_a_check_has_a_name_of_its_own_a_reason_and_a_remedy(checks: Any) -> None:
    assert len({each.name for each in checks}) == len(checks) > 5
    assert [each.name for each in checks if not (each.why.endswith(".") and each.remedy.endswith("."))] == []


def test_an_unknown_check_is_a_mistake_in_usage(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "check",
        "connector",
        "--at",
        "http://127.0.0.1:1",
        "--token",
        "t",
        "--secret",
        "whsec_AAAA",
        "--only",
        "nix",
    ]
    with pytest.raises(SystemExit) as end:
        app(asked)
    assert end.value.code == 2
    assert "no check 'nix'" in " ".join(capsys.readouterr().err.replace("│", " ").split())


async def holds(_: None) -> str:
    return "fine"


async def breaks(_: None) -> str:
    raise Broken("not fine")


async def lacks(_: None) -> str:
    raise NotSeen("no phone")


async def hangs_up(_: None) -> str:
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("looks", "strict", "partial"),
    [((holds,), 0, 0), ((holds, breaks), 1, 1), ((holds, lacks), 1, 0), ((hangs_up,), 1, 1), ((), 1, 1)],
    ids=["all hold", "one is broken", "one is not seen", "one hangs up", "none"],
)
async def test_only_what_holds_passes(looks: Any, strict: int, partial: int) -> None:
    found = await findings([Check(each.__name__, "Because.", "Do.", each) for each in looks], None, 60.0)
    assert (int(not report.passes(found, False)), int(not report.passes(found, True))) == (strict, partial)


async def test_a_later_turn_begins_after_the_earlier_ones() -> None:
    order: list[str] = []

    def noting(name: str) -> Any:
        async def look(_: None) -> str:
            order.append(name)
            return name

        return look

    checks = [
        Check(name, "Because.", "Do.", noting(name), turn) for name, turn in (("last", 2), ("first", 0), ("then", 1))
    ]
    found = await findings(checks, None, 60.0)
    assert order == ["first", "then", "last"]
    assert [each.name for each in found] == ["last", "first", "then"]


@pytest.mark.parametrize("outcome", ["holds", "broken", "not seen"])
def test_a_finding_is_written_for_people_and_for_programs(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding("once", outcome, "2 SMS", "A person must not get the SMS twice.", "Keep the reference.")
    report.write([finding], as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["outcome"], said["seen"], said["remedy"]) == (
        "once",
        outcome,
        "2 SMS",
        "Keep the reference.",
    )
    report.write([finding], as_json=False)
    table = capsys.readouterr().out
    assert "once" in table
    assert f"1 {outcome}" in table
    assert ("Keep the reference." in table) == (outcome == "broken")


@pytest.mark.parametrize(
    ("kind", "said", "wrong"),
    [
        ("messages", {"type": "message.received", "data": MO}, None),
        ("receipts", {"type": "message.receipt", "data": DLR}, None),
        ("messages", {"type": "message.received", "data": {**MO, "from": "0639984000"}}, "`data.from` is no number"),
        ("messages", {"type": "message.received", "data": {**MO, "text": None}}, "`data.text` is missing"),
        ("messages", {"type": "message.received", "data": {**MO, "keyword": "STOP"}}, "does not know"),
        ("receipts", {"type": "message.receipt", "data": {**DLR, "status": "DELIVRD"}}, "`data.status` is none of"),
        ("receipts", {"type": "message.receipt", "data": {**DLR, "code": 7}}, "`data.code` is neither"),
        ("receipts", {"type": "sms.receipt", "data": DLR}, "`type` is neither"),
        ("messages", {"type": "message.received", "data": {**MO, "id": " "}}, "`data.id` is empty"),
        ("messages", [MO], "not an object"),
    ],
)
def test_what_is_not_of_the_format_is_said(kind: Kind, said: Any, wrong: str | None) -> None:
    _, _, told = read(kind, json.dumps(said).encode())
    assert told is None if wrong is None else told is not None and wrong in told


def test_a_body_that_is_no_json_is_said() -> None:
    assert read("messages", b"text=STOP") == ("messages", {}, "the body is not JSON in UTF-8")
    assert read("messages", b"[" * 100_000)[2] == "the body is not JSON in UTF-8"


def test_numbers_are_fictional_and_each_is_given_once() -> None:
    given = list(numbers())
    assert len(set(given)) == len(given) > 1000
    assert all(each.startswith("+3363998") and len(each) == 12 for each in given)


def test_the_edges_are_where_the_names_say() -> None:
    assert len(EDGES["160 septets"]) == 160
    assert len(EDGES["70 units"]) == 70
    assert [len(each) for each in LONG.values()] == [8 * 153, 8 * 67]
