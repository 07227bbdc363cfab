"""The AsyncAPI 3 document of every topic, made from `common.contracts` and checked in as docs/asyncapi.json.

`python -m tests.contract.asyncapi` (`make schemas`) writes the document. A change that a reader of a topic would notice
(a topic gone, another key, another memory, an event gone) is refused; `make schemas BREAKS="why"` accepts the change.
The schemas of the events are those of docs/schemas.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_args
from uuid import UUID

import msgspec

from common.contracts import EVENTS, TOPICS, Event, Topic, Watermark, operator_submits, operator_topics
from common.kafka.broker import BATCH_BYTES, NUMBER, cloud_event_headers, encode
from common.settings import ServiceSettings
from tests.contract.golden import EXAMPLES, event_type_of
from tests.contract.schemas import FOLDER as SCHEMAS
from tests.contract.schemas import ROOT

PATH = ROOT / "docs" / "asyncapi.json"
OPERATOR = "{operator}"
DEAD_LETTERS = "deadLetters"
BINDING = "0.5.0"
SINCE = datetime(2026, 1, 6, 9, 30, tzinfo=UTC)
KEYS = {
    "subject_id": "The person's id, derived with a key; never a number.",
    "sender_id": "The sender's id.",
    "campaign_id": "The campaign's id.",
    "provider_message_id": "The message's id with the provider.",
    "message_id": "The operator's id of the message; never a number.",
    "reference": "Our id of the message.",
    "sum_id": "The checksum's id.",
    "category": "The category of messages on hold.",
    "template_version": "`<template_id>@<number>`.",
    "notice_id": "The id of the fact.",
}

Document = dict[str, Any]


@cache
def document() -> Document:
    """Return the document that the code describes."""
    topics = [*TOPICS, *operator_topics(OPERATOR), operator_submits(OPERATOR)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Placet: topics",
            "version": "1",
            "description": "Every Kafka topic of Placet. Records are CloudEvents 1.0 in binary mode, as JSON in UTF-8."
            " A topic has `PLACET_TOPIC_PREFIX` before its name where one is set. Numbers and texts are encrypted,"
            " except on an operator's topics. An operator reads docs/operators/kafka.md; nobody else writes or"
            " reads a topic from outside: organisations have the event feed and webhooks.",
            "contact": {"name": "The operator of the platform"},
            "license": {"name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": name, "description": f"{name}-svc"} for name in services()]
            + [{"name": "operator", "description": "An operator that integrates by Kafka."}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka-secure",
                "description": "Apache Kafka 4.1 or later (`PLACET_KAFKA_BOOTSTRAP`).",
                "variables": {"bootstrap": {"default": "kafka.internal:9092", "description": "Host and port."}},
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in security()],
            }
        },
        "channels": {id_of(topic): channel(topic) for topic in topics} | {DEAD_LETTERS: dead_letters()},
        "operations": operations(topics),
        "components": {
            "messages": {name: message(event) for name, event in EVENTS.items()} | {DEAD_LETTERS: dead_letter()},
            "schemas": {"headers": headers(), "headersOfAnOperator": headers_of_an_operator()},
            "securitySchemes": security(),
        },
    }


def services() -> list[str]:
    return sorted({topic.owner for topic in TOPICS})


def id_of(topic: Topic) -> str:
    return topic.name.replace(f"{OPERATOR}.", "")


def security() -> Document:
    sasl = get_args(get_args(ServiceSettings.model_fields["kafka_sasl"].annotation)[0])
    found: Document = {
        name: {"type": "plain" if name == "PLAIN" else name.replace("-", "").lower().replace("scramsha", "scramSha")}
        for name in sasl
    }
    return found | {"certificate": {"type": "X509", "description": "A client certificate."}}


def channel(topic: Topic) -> Document:
    """Return a topic: its events, its key, and the settings that a service checks at its start."""
    events: list[type[Event]] = [*topic.events, *([Watermark] if topic.watermarked else [])]
    said = [f"Keyed by `{topic.keyed_by}`: {KEYS[topic.keyed_by]}"]
    if topic.watermarked:
        said.append("Each partition has a watermark several times a second, and a number in each record.")
    said.append(
        "Compacted: Kafka keeps the newest record of each key."
        if topic.cleanup == "compact"
        else "Records are kept for seven days at most."
    )
    found: Document = {
        "address": topic.name,
        "title": topic.name,
        "description": " ".join(said),
        "messages": {event.type: {"$ref": f"#/components/messages/{event.type}"} for event in events},
        "bindings": {"kafka": _binding(topic, settings("partitions"))},
        "x-key": topic.keyed_by,
        "x-owner": topic.owner,
        "x-dead-letters": topic.dead_letters,
    }
    if OPERATOR in topic.name:
        found["parameters"] = {
            "operator": {"description": "The operator's name: up to 40 small letters, digits and hyphens."}
        }
    return found


def settings(name: str) -> int:
    default: int = ServiceSettings.model_fields[name].default
    return default


def _binding(topic: Topic, partitions: int, config: dict[str, str] | None = None) -> Document:
    told = {
        name: [value] if name == "cleanup.policy" else int(value) for name, value in (config or topic.config).items()
    }
    return {
        "partitions": partitions,
        "replicas": settings("kafka_replication"),
        "topicConfiguration": told,
        "bindingVersion": BINDING,
    }


def dead_letters() -> Document:
    names = [topic.name for topic in TOPICS]
    return {
        "address": "{topic}.dlq",
        "title": "Dead letters",
        "description": "Each topic has one: records that a reader could not read, with key and value as they were. One "
        "partition. `GET /v1/dead-letters` of the reader lists them.",
        "messages": {DEAD_LETTERS: {"$ref": f"#/components/messages/{DEAD_LETTERS}"}},
        "parameters": {
            "topic": {"description": "The topic's name; an operator's topics have dead letters too.", "examples": names}
        },
        "bindings": {"kafka": _binding(TOPICS[0], 1, TOPICS[0].dead_letters_config)},
        "x-owner": "the topic's owner",
    }


def dead_letter() -> Document:
    return {
        "name": "placet.dead_letter.v1",
        "title": "DeadLetter",
        "summary": "A record that could not be read.",
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": {
            "description": "The value as it was; none where it was too large."
            " `ce_type` is `placet.dead_letter.v1;` and the reason.",
        },
    }


def operations(topics: Iterable[Topic]) -> Document:
    """Return who writes and who reads: `<service>.send.<topic>` and `<service>.receive.<topic>`."""
    found: Document = {}
    for topic in topics:
        for action, who in (("send", [topic.owner, *topic.publishers]), ("receive", topic.consumers)):
            for name in who:
                found[f"{name}.{action}.{id_of(topic)}"] = _operation(name, action, id_of(topic))
    for name in services():
        found[f"{name}.send.{DEAD_LETTERS}"] = _operation(name, "send", DEAD_LETTERS)
    return found


def _operation(name: str, action: str, channel_id: str) -> Document:
    who = "The operator" if name == "operator" else f"{name}-svc"
    group = {"bindings": {"kafka": {"groupId": _group(name, channel_id), "bindingVersion": BINDING}}}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel_id}"},
        "title": f"{who} {'writes' if action == 'send' else 'reads'}",
        "summary": f"{who} {'writes' if action == 'send' else 'reads'} {channel_id}.",
        "description": "An operator over SMPP has its topics written by dispatch-svc."
        if (name, action) == ("operator", "send")
        else "At least once: a record may come again, and a newer state may come first from another partition.",
        "tags": [{"name": name}],
        **(group if action == "receive" and name != "operator" else {}),
    }


def _group(name: str, channel_id: str) -> Document:
    return {"type": "string", "pattern": f"^{name}\\.", "description": "Every group of a service begins with its name."}


def message(event: type[Event]) -> Document:
    """Return an event as it is on the wire."""
    foreign = event.type.startswith("operator.") and event.type != "operator.message_submitted.v1"
    return {
        "name": event.type,
        "title": event.__name__,
        "summary": (event.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "headers": {"$ref": f"#/components/schemas/{'headersOfAnOperator' if foreign else 'headers'}"},
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-07",
            "schema": {"$ref": f"{SCHEMAS.name}/{event.type}.json"},
        },
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": BINDING}},
        "examples": list(examples(event)),
    }


def examples(event: type[Event]) -> Iterator[Document]:
    """Yield the golden records of an event, as the code of today writes them."""
    for place, (name, path) in enumerate(EXAMPLES.items(), start=1):
        if event_type_of(path) == event.type:
            payload = json.loads(encode(msgspec.json.decode(path.read_bytes(), type=event)))
            told = cloud_event_headers(event.type, UUID(int=place), event.type.partition(".")[0], SINCE, None)
            yield {
                "name": name.rpartition("/")[2],
                "headers": {header: value.decode() for header, value in told},
                "payload": payload,
            }


def headers() -> Document:
    text: Document = {"type": "string"}
    return {
        "type": "object",
        "description": f"CloudEvents 1.0, Kafka binding, binary mode. A record has {BATCH_BYTES:,} bytes at most.",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"],
        "properties": {
            "ce_specversion": text | {"const": "1.0"},
            "ce_id": text | {"format": "uuid", "description": "The record's id."},
            "ce_source": text | {"description": "The service that wrote the record.", "pattern": "^/placet/[a-z]+$"},
            "ce_type": text | {"description": "The event's type."},
            "ce_time": text | {"format": "date-time", "description": "When the fact was recorded."},
            "content-type": text | {"const": "application/json"},
            "traceparent": text | {"description": "W3C Trace Context."},
            NUMBER: text
            | {
                "pattern": "^[0-9]+$",
                "description": "On watermarked topics: the record's number in its partition, from 1.",
            },
        },
    }


def headers_of_an_operator() -> Document:
    text: Document = {"type": "string"}
    return {
        "type": "object",
        "description": "CloudEvents 1.0, Kafka binding. In structured mode `content-type` is "
        "`application/cloudevents+json`, and the event is in `data`. No header is needed where the value fits the "
        "topic's one event. Of names, case does not matter, nor `-` for `_`.",
        "properties": {
            "ce_type": text | {"description": "The event's type."},
            "content-type": text | {"enum": ["application/json", "application/cloudevents+json"]},
            "traceparent": text | {"description": "W3C Trace Context."},
        },
    }


def written(made: Document) -> str:
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def accepted() -> Document | None:
    """Return the document that is checked in."""
    found: Document | None = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else None
    return found


def breaking(old: Document, new: Document) -> Iterator[str]:
    """Yield what a reader or a writer of `old` would notice."""
    for name, before in old["channels"].items():
        after = new["channels"].get(name)
        if after is None:
            yield f"{name}: is gone"
            continue
        for part in ("address", "x-key", "bindings"):
            if before.get(part) != after.get(part):
                yield f"{name}: {part} was {before.get(part)!r}, is {after.get(part)!r}"
        for event in sorted(before["messages"].keys() ^ after["messages"].keys()):
            yield f"{name}: {event} is {'gone' if event in before['messages'] else 'new'}"


def write(why: str) -> int:
    """Write the document anew; return how many were refused."""
    old, new = accepted(), document()
    broken = list(breaking(old, new)) if old is not None else []
    if broken and not why:
        print('asyncapi: this breaks readers; accept with BREAKS="why"\n  ' + "\n  ".join(broken))  # noqa: T201
        return 1
    if old != new:
        PATH.write_text(written(new), encoding="utf-8")
        print(f"{PATH.relative_to(ROOT)} written")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(write(" ".join(sys.argv[1:])))
