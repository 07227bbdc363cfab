"""Put a marker into each field of each operation, and look for the marker in whatever holds data.

The operations and their bodies are those of the firewall's table; the fields left out there are those of the OpenAPI
documents.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.running import Surroundings

DOCUMENTS = Path(__file__).parents[3] / "docs" / "openapi"
NAME = "*"  # the place of a name of the caller's own, in an object whose names are free
Place = tuple[str | int, ...]


def openapi(service: str) -> dict[str, Any]:
    """Return the document of a service."""
    document: dict[str, Any] = json.loads((DOCUMENTS / f"{service}.json").read_text(encoding="utf-8"))
    return document


def marked(document: dict[str, Any], name: str, body: Any, marker: str) -> Iterator[tuple[Place, Any]]:
    """Yield the body with the marker in a single field, for each field of the operation that takes text.

    A text that the body has is replaced once, and once the marker stands behind.
    """
    method, path = name.split()
    schema = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    for place in sorted(set(_places(document, schema, body, 6)), key=str):
        for text in (marker, f"{before} {marker}") if (before := _at(body, place)) else (marker,):
            changed = copy.deepcopy(body)
            _put(changed, place, text)
            yield place, changed


def _at(body: Any, place: Place) -> str | None:
    """Return the text at this place, if the body has one."""
    for step in place:
        held = body if isinstance(body, dict) else dict(enumerate(body)) if isinstance(body, list) else {}
        body = held.get(step)
    return body if isinstance(body, str) else None


def _places(document: dict[str, Any], schema: dict[str, Any], value: Any, depth: int) -> Iterator[Place]:
    """Yield the places of texts: those that the value has, and those that the schema allows beside."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if depth == 0:
        return
    for kind in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(kind, ()):
            yield from _places(document, each, value, depth)
    match schema.get("type"):
        case "string" if "enum" not in schema and "const" not in schema:
            yield ()
        case "array":
            of = value[0] if isinstance(value, list) and value else None
            yield from ((0, *rest) for rest in _places(document, schema.get("items", {}), of, depth - 1))
        case "object":
            held = value if isinstance(value, dict) else {}
            for field, of in schema.get("properties", {}).items():
                yield from ((field, *rest) for rest in _places(document, of, held.get(field), depth - 1))
            if "properties" not in schema:
                yield (NAME,)
                yield from ((field,) for field, each in held.items() if isinstance(each, str))


def _put(body: Any, place: Place, marker: str) -> None:
    *way, last = place
    for step, following in zip(way, place[1:], strict=True):
        empty: Any = [None] if isinstance(following, int) else {}
        if isinstance(step, int):
            body[step] = body[step] if body[step] is not None else empty
        elif body.get(step) is None:
            body[step] = empty
        body = body[step]
    if last == NAME:
        last = marker
    body[last] = marker


async def records(surroundings: Surroundings) -> dict[str, list[bytes]]:
    """Return all that the brokers hold: by topic, the keys, headers and values of each record, as they are."""
    admin = AIOKafkaAdminClient(bootstrap_servers=surroundings.broker.bootstrap)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(f"{surroundings.unique}.")]
        described = await admin.describe_topics(names)
    finally:
        await admin.close()
    parts = [TopicPartition(one["topic"], part["partition"]) for one in described for part in one["partitions"]]
    found: dict[str, list[bytes]] = {name.removeprefix(f"{surroundings.unique}."): [] for name in names}
    consumer = AIOKafkaConsumer(bootstrap_servers=surroundings.broker.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(parts)
        begins = await consumer.beginning_offsets(parts)
        left = {part for part in parts if begins[part] < ends[part]}
        consumer.assign(sorted(left))
        await consumer.seek_to_beginning(*left)
        while left:
            for part, batch in (await consumer.getmany(timeout_ms=200)).items():
                found[part.topic.removeprefix(f"{surroundings.unique}.")] += map(_whole, batch)
            left = {part for part in left if await consumer.position(part) < ends[part]}
    finally:
        await consumer.stop()
    return found


def _whole(record: Any) -> bytes:
    told = [name.encode() + b"=" + value for name, value in record.headers]
    return b"\n".join((record.key or b"", *told, record.value or b""))


def topics_with(held: dict[str, list[bytes]], needles: Sequence[str]) -> list[str]:
    """Return the topics of which a record has one of the needles in clear."""
    return sorted(
        topic for topic, all_of in held.items() if any(needle.encode() in one for one in all_of for needle in needles)
    )
