"""Whatever comes to whichever provider, it is read, or refused in one of our own words: never an error of the code."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.sms.charsets import named, smpp
from inbound.providers import (
    PROVIDERS,
    Account,
    Callback,
    Kind,
    Message,
    NotGenuine,
    Receipt,
    Undocumented,
    Unreadable,
    WrongField,
    genuine,
)
from tests.operators import FOLDER

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
REFUSALS = (NotGenuine, Unreadable, WrongField, Undocumented)
SECRETS: Mapping[str, str] = {
    "telnyx": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=",
    "standard": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "sweego": "c3dlZWdv" * 8,  # 64 characters of base64
}
KINDS: tuple[Kind, ...] = ("messages", "receipts")
BODIES = {
    path.name: path.read_bytes()
    for path in sorted(FOLDER.glob("*/*"))
    if path.suffix in (".json", ".form", ".query", ".xml") and "signature" not in path.name
}
JSON_KEYS = sorted(
    {
        str(key)
        for raw in BODIES.values()
        if raw.startswith(b"{")
        for level in (json.loads(raw), *(v for v in json.loads(raw).values() if isinstance(v, dict)))
        for key in level
    }
)
HEADER_NAMES = [
    "authorization",
    "content-type",
    "messagebird-signature-jwt",
    "placet-signature",
    "placet-timestamp",
    "telnyx-signature-ed25519",
    "telnyx-timestamp",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-kannel-from",
    "x-kannel-to",
    "x-plivo-signature-v2",
    "x-plivo-signature-v2-nonce",
    "x-plivo-signature-v3",
    "x-plivo-signature-v3-nonce",
    "x-sinch-webhook-signature",
    "x-sinch-webhook-signature-nonce",
    "x-sinch-webhook-signature-timestamp",
    "x-twilio-signature",
]
LATIN = st.text(st.characters(max_codepoint=255), max_size=40)  # what a header can be once it is decoded
HEADER_VALUES = (
    LATIN
    | st.sampled_from(["application/json", "Bearer e30.e30.", "v1,", "1795510800"])
    | st.from_regex(r"\A\d{1,12}\Z")
)
ODD_PATHS = [
    "",
    "*",
    "[",
    ":99999/",
    "//[::1",
    "@",
    "\\",
    "\u00e2\u0084\u0080",
    "/\x00",
    "#",
    "/v1/callbacks/a/[/messages",
]
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20) | st.just("\ud83d")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(JSON_KEYS), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body of a provider, with some bytes changed, left out or put in."""
    raw = bytearray(draw(st.sampled_from(list(BODIES.values()))))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


@st.composite
def changed_json(draw: st.DrawFn) -> bytes:
    """A JSON body of a provider with some values changed, at any depth."""
    value = json.loads(draw(st.sampled_from([raw for raw in BODIES.values() if raw.startswith(b"{")])))
    inside = value
    for _ in range(draw(st.integers(0, 3))):
        deeper = [one for one in inside.values() if isinstance(one, dict) and one]
        if not deeper:
            break
        inside = draw(st.sampled_from(deeper))
    for name in draw(st.lists(st.sampled_from(sorted(inside)), max_size=3)):
        inside[name] = draw(VALUES)
    return json.dumps(value).encode()


RAW = st.binary(max_size=200) | mutated() | changed_json() | VALUES.map(lambda value: json.dumps(value).encode())


@st.composite
def callbacks(draw: st.DrawFn) -> Callback:
    raw = draw(RAW)
    query = draw(st.just(raw.decode("latin-1")) | st.just(quote(raw)) | st.just("webhook=stop"))
    path = draw(st.just("/v1/callbacks/a/b/messages") | st.sampled_from(ODD_PATHS) | LATIN)
    return Callback(
        f"{path}?{query}",
        draw(HEADERS),
        raw,
        method=draw(st.sampled_from(["GET", "POST"])),
        address=draw(st.sampled_from(["127.0.0.1", "::1", "", "testclient"])),
        path_secret=draw(st.none() | st.text(max_size=5)),
    )


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@settings(max_examples=150, deadline=None)
@given(callback=callbacks(), kind=st.sampled_from(KINDS))
def test_anything_is_read_or_refused(name: str, callback: Callback, kind: Kind) -> None:
    provider = PROVIDERS[name]
    items: list[Message | Receipt] = []
    try:
        provider.kind_of(callback, kind)
        items += provider.parse_messages(callback) if kind == "messages" else provider.parse_receipts(callback)
    except REFUSALS:
        return
    for item in items:
        for text in _storable(item):
            text.encode()  # no half of a surrogate pair
        assert all(name.isprintable() for name in _names(item))


def _storable(item: Message | Receipt) -> list[str]:
    return [*_names(item), *([item.text, item.sender] if isinstance(item, Message) else [item.code or ""])]


def _names(item: Message | Receipt) -> list[str]:
    return [item.provider_message_id or "", *([item.short_code] if isinstance(item, Message) else [])]


@pytest.mark.parametrize("name", sorted(name for name, provider in PROVIDERS.items() if provider.signing != "never"))
@settings(max_examples=150, deadline=None)
@given(callback=callbacks())
def test_nothing_made_up_is_genuine(name: str, callback: Callback) -> None:
    account = Account(
        name, "main", (SECRETS.get(name, "a secret of thirty-two characters"),), "https://sms.example.org"
    )

    try:
        genuine(callback, account, NOW)
    except (NotGenuine, Unreadable, WrongField):  # WrongField: Vonage's signature is in the body
        return
    told = PROVIDERS[name]  # the check of a URL has no signature and no field: it may say nothing
    assert ([*told.parse_messages(callback)], [*told.parse_receipts(callback)]) == ([], [])


@settings(max_examples=150, deadline=None)
@given(callback=callbacks())
def test_a_fence_lets_nobody_through_by_chance(callback: Callback) -> None:
    fences = (
        Account("brevo", "main", path_secrets=("a secret of the path",)),
        Account("brevo", "main", basic=("brevo:a password of sixteen",)),
        Account("brevo", "main", addresses=("10.0.0.0/8", "2001:db8::/32")),
        Account("brevo", "main"),
    )
    for account in fences:
        with pytest.raises(NotGenuine):
            genuine(callback, account, NOW)


@given(
    st.binary(max_size=300),
    st.integers(0, 999),
    st.none() | st.text(max_size=12) | st.sampled_from(["gsm", "UTF-16BE"]),
)
def test_any_bytes_become_a_text_that_can_be_kept(raw: bytes, coding: int, charset: str | None) -> None:
    (smpp(raw, coding) or "").encode()
    named(raw, charset).encode()
