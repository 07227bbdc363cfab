"""HTTP: count, save, version and list segments."""

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import segments
from campaign.audience.segment_language import Expression, SegmentRefused
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.store import Sender
from common.service import Resources, resources
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.idempotency import Key, derived_id, fingerprint_of, same
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Invalid, NotFound, Reason

router = APIRouter(prefix="/v1", tags=["segments"])

Held = Annotated[Resources[Any], Depends(resources)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
SenderId = Annotated[Storable, Field(min_length=1, max_length=40)]
Said = Annotated[
    dict[str, object],
    Field(
        description="`all`, `any` and `not` of conditions. A condition is on an `attribute` (is, in, exists, lt,"
        " lte, gt, gte, starts_with, anniversary_in), a `territory`, a `consent` of the sender, messages `received`,"
        ' or links `clicked`. A date may be relative to today: `{"days": -30}`.',
        examples=[
            {
                "all": [
                    {"attribute": "points", "gte": 100},
                    {"attribute": "last_order", "lt": {"days": -90}},
                    {"consent": "promotions", "is": "opted_in"},
                    {"not": {"received": {"days": 7}}},
                ]
            }
        ],
    ),
]


class SegmentNotValid(Invalid):
    slug, title = "segment-not-valid", "The segment has an invalid condition"


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sender_id: SenderId
    expression: Said


class NewSegment(Asked):
    name: Storable = Field(min_length=1, max_length=120)


class NewVersion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expression: Said
    after: int = Field(ge=1, description="The latest version known to the caller; 409 if a later version exists.")


class Counted(BaseModel):
    """The size of a segment now. A campaign's audience is fixed when the campaign starts."""

    selected: int
    contacts: int = Field(description="The sender's contacts.")
    exact: bool = Field(
        description="False: estimated from a sample, because the sender has too many contacts to read in time."
    )
    margin: int = Field(description="The estimate's margin of error at 95 % confidence.")


class SegmentVersion(BaseModel):
    """A version of a segment. Versions never change; a campaign names `segment_id` and `version`."""

    segment_id: str
    sender_id: str
    name: str
    version: int
    latest: int
    expression: dict[str, object]
    created_by: str
    created_at: datetime


class Versions(BaseModel):
    items: list[SegmentVersion] = Field(description="Newest first, at most a thousand.")


@router.post("/segments/count")
async def count_segment(body: Asked, held: Held, caller: Reader) -> Counted:
    """Count the contacts an expression selects, without saving it.

    The answer takes about a second; the count of a large audience is estimated (`exact` is false), within `margin`.
    """
    caller.may_use(body.sender_id)
    sender = await registry.known(held.database, body.sender_id)
    async with held.database.begin() as tx:
        expression = await _read(tx, body.sender_id, sender, body.expression)
        condition = segments.compiled(expression, body.sender_id, sender, datetime.now(UTC), held.settings.policy)
        found = await segments.count(tx, body.sender_id, condition)
    return Counted(selected=found.selected, contacts=found.contacts, exact=found.exact, margin=found.margin)


@router.post("/segments", status_code=201)
async def save_segment(
    body: NewSegment,
    request: Request,
    response: Response,
    held: Held,
    caller: Author,
    key: Key = None,
) -> SegmentVersion:
    """Save a segment with its first version.

    The same request with the same `Idempotency-Key` answers 200 with the latest version; another request answers 422.
    """
    caller.may_use(body.sender_id)
    sender = await registry.known(held.database, body.sender_id)
    segment_id = derived_id("seg", caller, key)
    fingerprint = await fingerprint_of(request, held.subject_keys)
    async with held.database.begin() as tx:
        expression = await _read(tx, body.sender_id, sender, body.expression)
        new = await segments.insert(
            tx,
            segment_id,
            body.sender_id,
            body.name,
            body.expression,
            expression,
            created_by=caller.subject,
            created_at=datetime.now(UTC),
            fingerprint=fingerprint,
        )
        found = await _found(tx, caller, segment_id)
    same(found.fingerprint, fingerprint)
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/segments/{segment_id}"
    return _shown(found)


@router.post("/segments/{segment_id}/versions", status_code=201)
async def say_segment_anew(segment_id: Storable, body: NewVersion, held: Held, caller: Author) -> SegmentVersion:
    """Add a version; 409 unless `after` is the latest. Campaigns keep the version they name."""
    async with held.database.begin() as tx:
        latest = await segments.lock(tx, segment_id)
        found = await _found(tx, caller, segment_id)
        if body.after != latest:
            raise Conflict("there is a later version", reasons=[Reason("after", "not_the_latest")])
        sender = await senders.find_sender(tx, found.sender_id)
        assert sender is not None
        expression = await _read(tx, found.sender_id, sender, body.expression)
        await segments.add_version(tx, segment_id, body.expression, expression, caller.subject, datetime.now(UTC))
        return _shown(await _found(tx, caller, segment_id))


@router.get("/segments")
async def list_segments(
    held: Held, caller: Reader, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[SegmentVersion]:
    """List the token's segments, newest first, each in its latest version."""
    covered = None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:
        page = await segments.before(tx, position(cursor, int), covered, limit)
    return Page[SegmentVersion](
        items=[_shown(each) for each in page], next=next_of(page, limit, attrgetter("position"))
    )


@router.get("/segments/{segment_id}")
async def get_segment(segment_id: Storable, held: Held, caller: Reader) -> SegmentVersion:
    """Return a segment's latest version."""
    async with held.database.begin() as tx:
        return _shown(await _found(tx, caller, segment_id))


@router.get("/segments/{segment_id}/versions")
async def list_versions(segment_id: Storable, held: Held, caller: Reader) -> Versions:
    async with held.database.begin() as tx:
        await _found(tx, caller, segment_id)
        return Versions(items=[_shown(each) for each in await segments.versions_of(tx, segment_id)])


async def _read(tx: AsyncConnection, sender_id: str, sender: Sender, source: Mapping[str, object]) -> Expression:
    try:
        return await segments.read(tx, sender_id, sender.purposes, source)
    except SegmentRefused as refused:
        reason = Reason(f"/expression{refused.pointer}", refused.reason, str(refused))
        raise SegmentNotValid(str(refused), reasons=[reason]) from refused


async def _found(tx: AsyncConnection, caller: Caller, segment_id: str) -> segments.SegmentVersion:
    found = await segments.find(tx, segment_id)
    if found is None:
        raise NotFound("no such segment", reasons=[Reason("segment_id", "unknown_segment")])
    caller.may_use(found.sender_id)
    return found


def _shown(found: segments.SegmentVersion) -> SegmentVersion:
    return SegmentVersion(
        segment_id=found.segment_id,
        sender_id=found.sender_id,
        name=found.name,
        version=found.version,
        latest=found.latest,
        expression=found.source,
        created_by=found.created_by,
        created_at=found.created_at,
    )
