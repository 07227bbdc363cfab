"""Identity of a topic's log: the cluster's id and the topic's id.

A topic made anew keeps its name and gets another id. Metadata carries both ids from version 10 on. A broker without
topic ids answers zero.
"""

from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)


class Identity(NamedTuple):
    """`topic_id` is None for a broker without topic ids."""

    topic_id: str | None
    cluster_id: str | None


UNKNOWN = Identity(None, None)


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _Metadata(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _AskMetadata(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Metadata
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _AskWhich(Request[_AskMetadata]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_AskMetadata]) -> _AskMetadata:
        return request_struct_class([(UUID(int=0), self._topic, {})], False, False, False, {})


async def identity_of(client: AIOKafkaClient, topic: str) -> Identity:
    """Ask a broker for a topic's identity. Raises KafkaError."""
    node = client.get_random_node()
    try:
        answer: Any = await client.send(node, _AskWhich(topic))
    except NotImplementedError:  # the version is unknown to the broker
        return Identity(None, (await client.send(node, MetadataRequest([topic], False))).cluster_id)
    [(error_code, _, topic_id, *_)] = answer.topics
    if error_code:
        raise for_code(error_code)(f"asking for {topic}")
    return Identity(str(topic_id) if topic_id.int else None, answer.cluster_id)
