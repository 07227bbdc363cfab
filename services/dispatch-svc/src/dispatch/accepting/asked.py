"""The messages of a request on their way, and the shards that hold their people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from common.db.database import Database
from common.db.shards import Shard
from common.kafka import broker as kafka
from common.limits import Quota
from common.service import Resources
from common.sms.msisdn import Msisdn
from common.texts.findings import Finding
from common.web.idempotency import Answer, Keyed, answer_of
from common.web.problems import Problem
from dispatch.accepting.bodies import BatchResults, Refusal, Result, Send, Sent
from dispatch.accepting.rules import Written
from dispatch.messages.row import FREE_TEXT
from dispatch.projection import store as projection
from dispatch.projection.templates import TemplateVersion, Wanted


@dataclass(frozen=True, slots=True)
class Ready:
    """A well-formed message of a caller with the scopes. `found`: the findings in a free text outside marketing."""

    body: Send
    msisdn: Msisdn
    subject_id: str
    region: str | None
    found: Sequence[Finding]


@dataclass(slots=True)
class Known:
    """The caller's senders and their templates known here, among those that a request names."""

    senders: Mapping[str, projection.Sender]
    templates: Mapping[Wanted, TemplateVersion]


@dataclass(slots=True)
class Asked:
    """A message of a request on its way: refused, or with its text."""

    identity: UUID
    ready: Ready | None = None
    written: Written | None = None
    template: str = FREE_TEXT
    problem: Problem | None = None
    audited: tuple[str, ...] = field(default=())
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """The messages of a request whose people one database holds."""

    database: Database
    asked: list[Asked]


def by_shard(held: Resources[Any], asked: Sequence[Asked]) -> list[Part]:
    """Return the parts of a request, each with the messages to the people of a shard."""
    parts: dict[Database, Part] = {}
    for each in asked:
        if each.ready is not None:
            database = held.database_of(each.ready.subject_id)
            parts.setdefault(database, Part(database, [])).asked.append(each)
    return list(parts.values())


def key_shard(held: Resources[Any], under: Keyed) -> Shard:
    """Return the shard that keeps a caller's Idempotency-Key: the same for each request under the key."""
    return held.shards.of(kafka.partition_of(f"{under.caller}\x1f{under.key}", held.settings.partitions))


class Accepted(NamedTuple):
    """The first answer of a repeat; or the answer now, where any message is accepted, and the quotas of days."""

    repeated: Answer | None
    answer: Answer | None
    days: Sequence[Quota]


def answer_to(asked: Sequence[Asked], *, several: bool) -> Answer | None:
    """Return the answer, unless every message is refused."""
    if not any(each.status for each in asked):
        return None
    if several:
        return answer_of(BatchResults(results=[result_of(each) for each in asked]), 202)
    [only] = asked
    assert only.status is not None
    sent = Sent(message_id=only.identity, status=only.status)
    return answer_of(sent, 202, {"Location": f"/v1/messages/{only.identity}"})


def result_of(asked: Asked) -> Result:
    if asked.status is not None:
        return Result(message_id=asked.identity, status=asked.status)
    assert asked.problem is not None
    return Result(refused=Refusal.of(asked.problem))
