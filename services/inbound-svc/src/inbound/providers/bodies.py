"""The bodies providers send: JSON, forms, queries, XML; and the forms of time in them. Pure.

None of them trusts what it reads: JSON of any depth, XML without a document type (entities are how a small body grows
to gigabytes, and reads files), forms of any bytes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.etree import ElementTree
from xml.parsers import expat

from inbound.providers.provider import Callback, Unreadable, WrongField

T = TypeVar("T")

UNIX_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)
FIELDS = 200  # of a form; the longest seen has 30, and this is read before anyone is known


def json_of(callback: Callback) -> object:
    """The body as JSON in UTF-8. Raises Unreadable."""
    try:
        return cast(object, json.loads(callback.body.decode()))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise Unreadable("the body is not JSON in UTF-8") from error


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
    """A list of 1 to `most` values."""
    if name not in fields:
        raise WrongField(where + name, "missing")
    items = fields[name]
    if not isinstance(items, list):
        raise WrongField(where + name, "not_a_list")
    if not 1 <= len(items) <= most:
        raise WrongField(where + name, f"not_1_to_{most}")
    return items


def each(items: Sequence[object], path: str, read: Callable[[Mapping[str, object], str], T]) -> Sequence[T]:
    """What `read` makes of each, given its fields and the path before their names. One that is wrong takes none of the
    others with it: they are in the WrongField."""
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
    """The first value of each name of a form body in UTF-8. Raises Unreadable."""
    return _first(callback.body)


def query(callback: Callback) -> Mapping[str, str]:
    """The same of the URL's query."""
    return _first(_query(callback))


def form_or_query(callback: Callback) -> Mapping[str, str]:
    """Where a provider calls by GET or by POST, as it was set up."""
    return query(callback) if callback.method == "GET" else form(callback)


def pairs(raw: bytes) -> list[tuple[str, str]]:
    """Names and values in order, empty ones too. Bytes that are not UTF-8 survive as surrogates: a signature is over
    what was sent. Raises Unreadable."""
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
    """The same where values are in a charset that another field names."""
    found: list[tuple[str, bytes]] = []
    for piece in raw.split(b"&", FIELDS):
        name, _, value = piece.replace(b"+", b" ").partition(b"=")
        found.append((unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(value)))
    return found


def byte_fields(callback: Callback) -> Mapping[str, bytes]:
    """The first value of each name, of a GET's query or of a form."""
    raw = _query(callback) if callback.method == "GET" else callback.body
    return dict(reversed(byte_pairs(raw)))


def xml(callback: Callback) -> tuple[str, Mapping[str, str]]:
    """(name of the root, texts of its children by name, the first of each), without namespaces. Raises Unreadable."""
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise Unreadable("the XML has a document type")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(callback.body, True)  # a first reading, for the document type alone
        root = ElementTree.fromstring(callback.body)  # noqa: S314 (no document type, so no entities)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable("the body is not XML") from error
    return _local(root.tag), {_local(child.tag): child.text or "" for child in reversed(root)}


def zoned(fields: Mapping[str, object], name: str) -> datetime | None:
    """ISO 8601 with an offset. None where there is none that can be read, or no zone: a zone is not guessed, and a STOP
    counts whatever its time looks like."""
    moment = _moment(fields.get(name))
    return None if moment is None or moment.tzinfo is None else _in_utc(moment)


def utc(fields: Mapping[str, object], name: str) -> datetime | None:
    """The same where the provider says that its times are UTC."""
    moment = _moment(fields.get(name))
    return None if moment is None else _in_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def epoch(fields: Mapping[str, object], name: str) -> datetime | None:
    """Unix seconds, written out. None where there are none."""
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
