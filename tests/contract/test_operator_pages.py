"""The operator's handbook shows what is on the wire: its examples are made by the code, and read by it."""

import json
import re
from datetime import timedelta

import pytest
from jsonschema_rs import validator_for

from common.kafka.broker import decode as decode_ours
from common.kafka.reading import foreign
from dispatch.gateways.by_smpp import deliveries, pdu
from inbound.providers import Callback, standard
from inbound.service import AccountSettings
from inbound.webhooks import SAID
from tests.contract.callbacks import schema
from tests.contract.schemas import checked_in
from tests.contract.wire import AT, BLOCK, OPERATORS, OURS, PAGES, SECRET, SUBMIT, blocks, callbacks, examples_of, pages
from tests.operators.signing import whsec


def shown() -> dict[str, str]:
    """Return every example of the pages, by name."""
    return {name: text for path in pages() for name, text in examples_of(path.read_text(encoding="utf-8")).items()}


def record_of(text: str) -> tuple[str, list[tuple[str, bytes]], bytes]:
    """Return the key, the headers and the value of a record as a page shows it."""
    label, found = "", dict[str, list[str]]()
    for line in text.splitlines():
        label = line[:9].strip() or label
        found.setdefault(label, []).append(line[9:])
    headers = [line.partition(": ")[::2] for line in found.get("headers", [])]
    return found["key"][0], [(name, said.encode()) for name, said in headers], "\n".join(found["value"]).encode()


def octets_of(text: str) -> bytes:
    return b"".join(bytes.fromhex(line[6:53].replace(":", " ")) for line in text.splitlines())


def test_every_example_stands_on_a_page_once_and_as_the_code_makes_it() -> None:
    names = [found["name"] for path in pages() for found in BLOCK.finditer(path.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(blocks())
    assert shown() == blocks(), "run `make schemas` and commit"


@pytest.mark.parametrize("name", OPERATORS)
def test_a_record_of_an_operator_is_read_as_the_event_it_shows(name: str) -> None:
    topic, event, _ = OPERATORS[name]
    key, headers, value = record_of(shown()[name])
    assert foreign.decode(topic, value, headers) == event
    assert key == event.key


def test_a_submit_is_read_by_its_type_and_fits_its_schema() -> None:
    _, headers, value = record_of(shown()["kafka-submit"])
    assert decode_ours(value, headers) == SUBMIT
    assert list(validator_for(checked_in(SUBMIT.type) or False).iter_errors(json.loads(value))) == []
    assert dict(headers).keys() == OURS["kafka-submit"][1].keys()


@pytest.mark.parametrize("name", callbacks())
def test_a_callback_is_genuine_by_the_secret_of_the_page_and_fits_the_schema(name: str) -> None:
    page = (PAGES / "webhook.md").read_text(encoding="utf-8")
    [told] = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    account = AccountSettings(**told).account_with_secrets()
    assert account.secrets == (whsec(SECRET),)
    head, _, body = shown()[name].rstrip("\n").partition("\n\n")
    first, *lines = head.splitlines()
    headers = dict(line.split(": ") for line in lines)
    callback = Callback(first.split(" ")[1], headers, body.encode())
    assert int(headers["content-length"]) == len(callback.body)
    assert standard.verify(callback, account, AT + timedelta(seconds=2)) is not None
    assert list(validator_for(schema(), validate_formats=True).iter_errors(json.loads(body))) == []
    assert standard.kind_of(callback, "receipts") == ("messages" if name == "webhook-mo" else "receipts")


def test_pdus_are_those_that_a_bind_writes_and_reads() -> None:
    found = {name: octets_of(text) for name, text in shown().items() if name.startswith("smpp-")}
    for octets in found.values():
        assert pdu.body_length(octets[:16]) == len(octets) - 16
    heard = {name: pdu.received(octets[:16], octets[16:]) for name, octets in found.items()}
    mo, dlr = (pdu.delivery(heard[name]) for name in ("smpp-mo", "smpp-dlr"))
    assert not deliveries.is_receipt(mo)
    event = deliveries.message_event(mo, "a-name")
    assert (event.sender, event.recipient, event.text) == ("+33639980001", "36111", "STOP")
    assert deliveries.is_receipt(dlr)
    assert deliveries.receipt_of(dlr) == ("7c01", "delivered", None)
    assert [heard[name].number for name in ("smpp-kept", "smpp-again")] == [heard["smpp-mo"].number] * 2
    assert [heard[name].status for name in ("smpp-kept", "smpp-again")] == [pdu.OK, pdu.TEMPORARY_ERROR]


def test_the_answers_of_the_page_are_those_of_the_callbacks() -> None:
    """A status that the page does not explain would leave an operator without a next step."""
    page = (PAGES / "webhook.md").read_text(encoding="utf-8").split("## Answers\n")[1].split("\n## ")[0]
    told = {int(status) for row in re.findall(r"^\| (\d[\d, ]*) \|", page, re.MULTILINE) for status in row.split(", ")}
    assert told == set(SAID)


def test_every_reason_of_the_page_is_one_that_a_record_is_refused_with() -> None:
    source = (PAGES.parents[1] / "libs/common/src/common/kafka/reading/foreign.py").read_text(encoding="utf-8")
    page = (PAGES / "kafka.md").read_text(encoding="utf-8").split("## What is refused")[1].split("\n## ")[0]
    cells = [row.split(" | ")[1] for row in page.splitlines() if row.startswith("| ")]
    reasons = [reason.removesuffix(" …") for cell in cells for reason in re.findall(r"`([^`]+)`", cell)]
    assert len(reasons) == 6
    assert [each for each in reasons if each not in source] == []
