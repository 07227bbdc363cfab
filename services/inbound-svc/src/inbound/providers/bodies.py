"""Parsers of callback bodies, and of the times in them. Pure.

JSON may have any depth, forms any bytes; XML with a document type is refused, because entities make a small body grow
to gigabytes, and read files.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.etree import ElementTree
from xml.parsers import expat

import msgspec

from inbound.providers.provider import ID_CHARS, NUMBER_CHARS, Callback, Unreadable, WrongField

T = TypeVar("T")

UNIX_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)
# as `required` takes them, once `are_names` is true of them
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARS)]
Number = Annotated[str, msgspec.Meta(min_length=1, max_length=NUMBER_CHARS)]
FIELDS = 200  # the longest form seen has 30; read before authentication


def json_of(callback: Callback) -> object:
    """Return the body as JSON in UTF-8. Raises Unreadable.

    msgspec reads in a sixth of the time. Python's parser takes what msgspec refuses, as half a surrogate pair.
    """
    try:
        return cast(object, msgspec.json.decode(callback.body))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return cast(object, json.loads(callback.body.decode()))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError
        raise Unreadable("the body is not JSON in UTF-8") from error


def are_names(together: str) -> bool:
    """Return whether none of the texts put together holds a space, and so is blank, or a character not printable."""
    return " " not in together and together.isprintable()


def json_object(callback: Callback) -> Mapping[str, object]:
    return an_object(json_of(callback), "body")


def an_object(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise WrongField(path, "not_an_object")
    return value


def object_at(fields: Mapping[str, object], name: str, *, where: str = "") -> Mapping[str, object]:
    if name not in fields:
        raise WrongField(where + name, "missing")
    return an_object(fields[name], where + name)


def list_at(fields: Mapping[str, object], name: str, *, where: str = "", most: int) -> Sequence[object]:
    """Return a list of 1 to `most` values."""
    if name not in fields:
        raise WrongField(where + name, "missing")
    items = fields[name]
    if not isinstance(items, list):
        raise WrongField(where + name, "not_a_list")
    if not 1 <= len(items) <= most:
        raise WrongField(where + name, f"not_1_to_{most}")
    return items


def each(items: Sequence[object], path: str, read: Callable[[Mapping[str, object], str], T]) -> Sequence[T]:
    """Return the result of `read` for each item.

    A wrong item does not lose the others: the WrongField carries the readable items.
    """
    found: list[T] = []
    wrong: WrongField | None = None
    for place, item in enumerate(items):
        where = f"{path}.{place}"
        try:
            found.append(read(an_object(item, where), f"{where}."))
        except WrongField as error:
            wrong = wrong or error
    if wrong:
        raise WrongField(wrong.field, wrong.reason, found)
    return found


def form(callback: Callback) -> Mapping[str, str]:
    """Return the first value of each name of a form. Raises Unreadable."""
    return _first(callback.body)


def query(callback: Callback) -> Mapping[str, str]:
    """Return the first value of each name of the query. Raises Unreadable."""
    return _first(_query(callback))


def form_or_query(callback: Callback) -> Mapping[str, str]:
    """Return the query of a GET, or the form of a POST."""
    return query(callback) if callback.method == "GET" else form(callback)


def pairs(raw: bytes) -> list[tuple[str, str]]:
    """Return names and values in order, including empty values. Raises Unreadable.

    Bytes which are not UTF-8 survive as surrogates: a signature covers the bytes sent.
    """
    try:
        return parse_qsl(
            raw.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=FIELDS,
        )
    except ValueError as error:
        raise Unreadable("the form has too many fields") from error


def byte_pairs(raw: bytes) -> list[tuple[str, bytes]]:
    """Return names and raw values, where another field names the charset."""
    found: list[tuple[str, bytes]] = []
    for piece in raw.split(b"&", FIELDS):
        name, _, value = piece.replace(b"+", b" ").partition(b"=")
        found.append((unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(value)))
    return found


def byte_fields(callback: Callback) -> Mapping[str, bytes]:
    """Return the first raw value of each name."""
    raw = _query(callback) if callback.method == "GET" else callback.body
    return dict(reversed(byte_pairs(raw)))


def xml(callback: Callback) -> tuple[str, Mapping[str, str]]:
    """Return the root's name, and its children's texts by name, without namespaces.

    The first child of each name counts. Raises Unreadable.
    """
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise Unreadable("the XML has a document type")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(callback.body, True)  # for the document type alone
        root = ElementTree.fromstring(callback.body)  # noqa: S314 (no document type, so no entities)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable("the body is not XML") from error
    return _local(root.tag), {_local(child.tag): child.text or "" for child in reversed(root)}


def zoned(fields: Mapping[str, object], name: str) -> datetime | None:
    """Return an ISO 8601 time with an offset, or None.

    A zone is never guessed, and a STOP counts whatever its time.
    """
    moment = _moment(fields.get(name))
    return None if moment is None or moment.tzinfo is None else _in_utc(moment)


def utc(fields: Mapping[str, object], name: str) -> datetime | None:
    """Return an ISO 8601 time, without a zone as UTC, where the provider documents UTC."""
    moment = _moment(fields.get(name))
    return None if moment is None else _in_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def epoch(fields: Mapping[str, object], name: str) -> datetime | None:
    """Return a time from Unix seconds, or None."""
    value = fields.get(name)
    if not isinstance(value, str) or not UNIX_SECONDS.fullmatch(value):
        return None
    return datetime.fromtimestamp(int(value), UTC)


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _in_utc(moment: datetime) -> datetime | None:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def _query(callback: Callback) -> bytes:
    return callback.target.partition("?")[2].encode("latin-1", "replace")


def _first(raw: bytes) -> Mapping[str, str]:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("the form is not in UTF-8") from error
    return dict(reversed(pairs(raw)))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
