"""The schema of the `standard` callbacks and their reader agree: what fits the schema is read, and as it says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import validator_for

from common.contracts.inbound import ReceiptState
from inbound.providers import Callback, WrongField, standard
from tests.contract.callbacks import PATH, schema, written
from tests.operators import FOLDER

VALIDATOR = validator_for(schema(), validate_formats=True)
PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
IDS = st.text(PRINTABLE, min_size=1, max_size=200)
NUMBERS = st.text(PRINTABLE, min_size=1, max_size=64)
TIMES = st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat(timespec="seconds")) | st.just(
    "2026-01-06T09:30:00Z"
)


def _or_missing(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.none() | st.just(...)


def _bodies(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields).map(
        lambda data: {"type": kind, "data": {name: value for name, value in data.items() if value is not ...}}
    )


MOS = _bodies(
    standard.RECEIVED,
    **{"id": IDS, "from": NUMBERS, "text": st.text(st.characters(codec="utf-8"))},
    to=_or_missing(NUMBERS),
    sent_at=_or_missing(TIMES),
)
RECEIPTS = _bodies(
    standard.RECEIPT,
    id=IDS,
    status=st.sampled_from(list(standard.STATES)),
    reference=_or_missing(IDS),
    code=_or_missing(IDS | st.just("")),
    at=_or_missing(TIMES),
)


def _callback(body: object) -> Callback:
    return Callback("/", {}, json.dumps(body).encode())


def test_the_schema_is_the_one_checked_in() -> None:
    assert PATH.read_text(encoding="utf-8") == written(), "run `make schemas` and commit"


@pytest.mark.parametrize("name", ["mo.json", "receipt.json"])
def test_an_example_fits_the_schema(name: str) -> None:
    assert list(VALIDATOR.iter_errors(json.loads((FOLDER / "standard" / name).read_bytes()))) == []


@given(MOS.filter(VALIDATOR.is_valid))
def test_an_mo_that_fits_the_schema_is_read_as_it_says(body: dict[str, Any]) -> None:
    said = body["data"]
    [read] = standard.parse_messages(_callback(body))
    assert (read.provider_message_id, read.sender, read.text) == (said["id"], said["from"], said["text"])
    assert (read.short_code, read.sent_at is None) == (said.get("to") or "", said.get("sent_at") is None)


@given(RECEIPTS.filter(VALIDATOR.is_valid))
def test_a_receipt_that_fits_the_schema_is_read_as_it_says(body: dict[str, Any]) -> None:
    said = body["data"]
    [read] = standard.parse_receipts(_callback(body))
    state: ReceiptState = said["status"]
    assert (read.provider_message_id, read.state) == (said["id"], state)
    assert (read.reference, read.code) == (said.get("reference"), said.get("code") or None)
    assert (read.at is None) == (said.get("at") is None)


MO = {"id": "in-1", "from": "+33639980001", "to": "36111", "text": "STOP"}
RECEIPT = {"id": "out-1", "status": "delivered"}


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        *((standard.RECEIVED, {n: v for n, v in MO.items() if n != name}, name) for name in ("id", "from", "text")),
        *((standard.RECEIVED, MO | {name: 7}, name) for name in ("id", "from", "text")),
        *((standard.RECEIVED, MO | {name: ""}, name) for name in ("id", "from")),
        (standard.RECEIVED, MO | {"id": "x" * 201}, "id"),
        (standard.RECEIVED, MO | {"from": "x" * 65}, "from"),
        (standard.RECEIVED, MO | {"id": "a\nb"}, "id"),
        (standard.RECEIPT, {"id": "out-1"}, "status"),
        (standard.RECEIPT, RECEIPT | {"status": "arrived"}, "status"),
        (standard.RECEIPT, RECEIPT | {"id": None}, "id"),
        (standard.RECEIPT, RECEIPT | {"code": "x" * 201}, "code"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_by_name(kind: str, data: dict[str, Any], field: str) -> None:
    body = {"type": kind, "data": data}
    assert not VALIDATOR.is_valid(body)
    with pytest.raises(WrongField, match=f"data.{field}"):
        (standard.parse_messages if kind == standard.RECEIVED else standard.parse_receipts)(_callback(body))
