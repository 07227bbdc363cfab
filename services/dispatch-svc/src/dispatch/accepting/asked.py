"""The messages of a request on their way, and the shards that hold their people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from common.db.database import Database
from common.service import Resources
from common.sms.msisdn import Msisdn
from common.texts.findings import Finding
from common.web.problems import Problem
from dispatch.accepting.bodies import Send
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
    """Return the parts of a request, that of its first person first: one, where the service has one database."""
    parts: dict[Database, Part] = {}
    for each in sorted(asked, key=lambda one: one.ready is None):
        first = next(iter(parts), held.shards.first.database)
        database = held.database_of(each.ready.subject_id) if each.ready else first
        parts.setdefault(database, Part(database, [])).asked.append(each)
    return list(parts.values())
