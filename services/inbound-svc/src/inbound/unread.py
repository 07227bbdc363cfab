"""The people whom a record that cannot be read may be from. Pure; never raises.

A wrong number here holds a stranger's marketing until a reviewer has looked; a missed number lets marketing reach
somebody who said STOP. So each reading of a number counts.
"""

import base64
import binascii
import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from common.sms import msisdn
from common.sms.msisdn import HOME, NumberProblem, NumberRefused

SENDER, RECIPIENT = "sender", "recipient"  # as in `MessageDelivered`
MOST_PEOPLE = 500  # of a record; more is no mistake of an operator's, and would fill the memory
MOST_CANDIDATES = 20 * MOST_PEOPLE  # digits looked at in a record without the field `sender`
_NUMBER = re.compile(r"(?<!\d)\+?\d{9,15}(?!\d)", re.ASCII)
_CODE = re.compile(r"\+?\d{3,15}", re.ASCII)
_FEWEST_DIGITS = 8  # of a number with its country code; a code has fewer


class Person(NamedTuple):
    """A number (E.164), and the code that the person wrote to, "" where unknown."""

    number: str
    short_code: str


def people_in(key: str | None, value: bytes | None, country: str = HOME) -> list[Person]:
    """Return the people of an unreadable MO: its senders where a field names them, else each mobile number in it.

    A key that is a number counts as well, first. At most MOST_PEOPLE. `country`: of the numbers without a code.
    """
    found = dict.fromkeys(_mobiles(key, country), "") if key is not None and _NUMBER.fullmatch(key) else {}
    objects = list(_objects(_parsed(value or b"")))
    senders = {number: _code(each) for each in objects for number in _readings(each.get(SENDER), country)}
    if not senders:
        texts = [value or b"", *(_unpacked(each.get("data_base64")) for each in objects)]
        senders = {number: "" for text in texts for number in _mobiles(_text(text), country)}
    found |= senders
    return [Person(number, short_code) for number, short_code in islice(found.items(), MOST_PEOPLE)]


def _code(mo: dict[str, object]) -> str:
    code = mo.get(RECIPIENT)
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _objects(parsed: object) -> Iterator[dict[str, object]]:
    """Yield each JSON object, also those that a CloudEvent holds as text or in base64."""
    waiting = deque([parsed])
    while waiting:
        match waiting.popleft():
            case dict() as each:
                yield each
                waiting += [inner for inner in each.values() if isinstance(inner, dict | list)]
                if isinstance(text := each.get("data"), str):
                    waiting.append(_parsed(text.encode(errors="replace")))
                waiting.append(_parsed(_unpacked(each.get("data_base64"))))
            case list() as items:
                waiting += items


def _parsed(value: bytes) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _unpacked(packed: object) -> bytes:
    try:
        return base64.b64decode(packed) if isinstance(packed, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _readings(sender: object, country: str) -> tuple[str, ...]:
    """Return the possible numbers of a field, none where it holds no number."""
    if isinstance(sender, bool) or not isinstance(sender, int | str):
        return ()
    raw = str(sender) if isinstance(sender, str) or abs(sender) < 10**msisdn.E164_MAX_DIGITS else ""
    if sum(char.isdigit() for char in raw) < _FEWEST_DIGITS:
        return ()
    try:
        return msisdn.readings(raw, countries=(country,), fictional=True)
    except NumberRefused:
        return ()


def _text(value: bytes) -> str:
    """Return the text in whatever encoding: digits are the same in all, but for NULs in UTF-16 and UTF-32."""
    return value.replace(b"\0", b"").decode("latin-1")


def _mobiles(text: str, country: str) -> Iterator[str]:
    """Yield the mobile numbers in a text, read as `country`'s and as international where no sign says which."""
    for found in islice(_NUMBER.finditer(text), MOST_CANDIDATES):
        for raw in dict.fromkeys((found[0], f"+{found[0].lstrip('+')}")):
            with suppress(NumberRefused):
                yield from _mobile_readings(raw, country)


def _mobile_readings(raw: str, country: str) -> Iterator[str]:
    """Yield the mobile, or each of an ambiguous writing."""
    try:
        yield msisdn.parse(raw, countries=(country,), fictional=True).e164
    except NumberRefused as refused:
        if refused.reason is not NumberProblem.AMBIGUOUS:
            raise
        yield from msisdn.readings(raw, countries=(country,), fictional=True)
