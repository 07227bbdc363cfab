"""The audit log over HTTP: an organisation reads its own lines, the platform's operator all."""

from collections.abc import AsyncIterator
from datetime import datetime
from operator import attrgetter
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from common.audit import store
from common.audit.line import Kept, Kind
from common.audit.store import Asked
from common.audit.writer import AuditWriters
from common.db.database import Database
from common.db.shards import Shard
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Forbidden, Invalid, Reason
from common.web.streaming import Streamed

LINES = "application/jsonl"
PAGE = 1000

router = APIRouter(prefix="/v1", tags=["audit"])


class AuditLine(BaseModel):
    """A call about people: by whom, of which route, and with which verdict. No line is ever changed.

    `subject_id` is the person's id with the sender's controller.
    """

    position: int | None = Field(
        description="The place in the chain of the service, from 1; null but for the platform's operator."
    )
    at: datetime = Field(description="The time of the answer, by the service's clock (UTC).")
    organisation: str = Field(description="The organisation of the token.")
    caller: str = Field(description="The account, by `sub` of the token.")
    scope: str = Field(description="The scopes of which the route needs one.")
    method: str = Field(description="The method of the request.")
    route: str = Field(description="The route, by its template: no value of a request.")
    kind: Kind = Field(
        description="`read`, `export`, `proof` or `decision`; `call`: another operation, which was refused."
    )
    subject_id: str | None = Field(
        description="The person's id with the sender's controller, where the answer shows one person; else null."
    )
    people: int | None = Field(description="How many people the answer shows; null for an export.")
    verdict: str = Field(description="`allowed`, or the reason of the refusal.")
    trace_id: str | None = Field(description="The trace of the request, as in its answer and in the logs.")
    previous: str | None = Field(
        description="The hash of the line before, of any organisation; null but for the platform's operator."
    )
    hash: str | None = Field(
        description="SHA-256 of `previous` and the canonical JSON of the other fields, in hexadecimal; null but for the"
        " platform's operator."
    )


async def _writers(request: Request) -> AuditWriters:
    writers: AuditWriters = request.state.audit
    return writers


Logs = Annotated[AuditWriters, Depends(_writers)]
Reads = Annotated[Caller, Depends(require("audit:read"))]
OfCaller = Annotated[
    Storable | None, Query(alias="caller", max_length=200, description="Only calls of this account, by `sub`.")
]
OfPerson = Annotated[
    Storable | None, Query(max_length=200, description="Only calls about this person, by the id with the controller.")
]
OfKind = Annotated[Kind | None, Query(description="Only calls of this kind.")]
From = Annotated[AwareDatetime | None, Query(description="Only calls since this instant.")]


async def _filters(of: OfCaller = None, subject_id: OfPerson = None, kind: OfKind = None, since: From = None) -> Asked:
    """Return the lines asked for, of every organisation."""
    return Asked(None, of, subject_id, kind, since)


Filters = Annotated[Asked, Depends(_filters)]


def _readable(caller: Caller, asked: Asked) -> Asked:
    """Return the lines asked for, as far as the caller may read. Raises Forbidden."""
    if not caller.for_every_sender:
        raise Forbidden(
            "a line is of an organisation: only a token for every sender may read the audit log",
            reasons=[Reason("senders", "not_for_every_sender")],
        )
    return asked._replace(organisation=None if caller.everywhere else caller.organisation)


@router.get("/audit", operation_id="audit.list")
async def list_audit(
    logs: Logs, caller: Reads, filters: Filters, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[AuditLine]:
    """List the calls about people, the oldest first: who read, exported, decided, and who was refused.

    An organisation sees its own callers. The platform's operator sees all, and can check the chain.
    """
    asked = _readable(caller, filters)
    shard = logs.shard(asked.organisation)
    after = _after(cursor, shard)
    async with shard.database.begin() as tx:
        found = await store.page(tx, asked, after, limit)
    items = [_told(kept, asked) for kept in found]
    place = attrgetter("position")
    return Page[AuditLine](
        items=items, next=next_of(found, limit, lambda kept: (shard.name, place(kept)) if shard.name else place(kept))
    )


def _after(cursor: str | None, shard: Shard) -> int:
    """Return the position behind which a page begins: each shard counts its own. Raises Invalid."""
    if not shard.name:
        return position(cursor, int) or 0
    name, after = position(cursor, tuple[str, int]) or (shard.name, 0)
    if name != shard.name:
        raise Invalid(
            f"the cursor is of the audit log of shard {name}, and this process reads that of shard {shard.name}: ask a"
            " process of each shard for its own",
            reasons=[Reason("cursor", "not_valid")],
        )
    return after


@router.get(
    "/audit.jsonl",
    operation_id="audit.export",
    response_class=Streamed,
    responses={200: {"content": {LINES: {"schema": {"type": "string"}, "example": "{}\n"}}}},
)
async def export_audit(logs: Logs, caller: Reads, filters: Filters) -> Streamed:
    """Export the calls about people as JSON lines, the oldest first, each as `GET /v1/audit` has it."""
    asked = _readable(caller, filters)
    return Streamed(_file(logs.shard(asked.organisation).database, asked), media_type=LINES)


async def _file(database: Database, asked: Asked) -> AsyncIterator[bytes]:
    after = 0
    while True:
        async with database.begin() as tx:
            found = await store.page(tx, asked, after, PAGE)
        for kept in found:
            yield _told(kept, asked).model_dump_json().encode() + b"\n"
        if len(found) < PAGE:
            return
        after = found[-1].position


def _told(kept: Kept, asked: Asked) -> AuditLine:
    """Return the line as the caller may read the line: two organisations could join their lines by the chain."""
    chain = {"position": kept.position, "previous": kept.previous, "hash": kept.hash}
    if asked.organisation is not None:
        chain = dict.fromkeys(chain)
    return AuditLine.model_validate(chain | msgspec.structs.asdict(kept.line))
