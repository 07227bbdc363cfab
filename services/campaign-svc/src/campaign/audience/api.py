"""HTTP: count, save, version and list segments; search contacts by an expression."""

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import segments
from campaign.audience.contacts import Contact, Writer, shown
from campaign.audience.segment_language import Expression, SegmentRefused
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.caller import of_caller
from campaign.senders.store import Sender
from common.service import Resources
from common.web.auth import Caller, require
from common.web.fields import Label, Storable
from common.web.idempotency import Key, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, Cursor, Limit, OfSender, Page, cursor_of, next_of, position, subject_of
from common.web.problems import Conflict, Invalid, NotFound, Reason

router = APIRouter(prefix="/v1", tags=["segments"])
of_contacts = APIRouter(prefix="/v1", tags=["contacts"])

Held = Annotated[Resources[Any], Depends(of_caller)]
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
    """A condition of the segment has another form than the language of segments, or compares other kinds of values.

    Mend the condition at the path that `reasons` names.
    """

    slug, title = "segment-not-valid", "The segment has an invalid condition"


class SegmentAsked(BaseModel):
    """An expression to try on the contacts of a sender."""

    model_config = ConfigDict(extra="forbid")

    sender_id: SenderId
    expression: Said


class NewSegment(SegmentAsked):
    """A segment with its first version."""

    name: Label = Field(
        min_length=1, max_length=120, description="The name of the segment, for the people who work with it."
    )


class NewSegmentVersion(BaseModel):
    """Another expression for a segment: the next version."""

    model_config = ConfigDict(extra="forbid")

    expression: Said
    after: int = Field(ge=1, description="The latest version known to the caller; 409 if a later version exists.")


class ContactSearch(SegmentAsked):
    """A search for the contacts of a sender whose attributes an expression of the segments' language matches."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"sender_id": "maison-lune", "expression": {"attribute": "points", "gte": 100}, "limit": 100}]
        },
    )

    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before.")
    limit: int = Field(LIMIT, ge=1, le=1000, description="Items of a page at most.")


class Counted(BaseModel):
    """The size of a segment now. A campaign's audience is fixed when the campaign starts."""

    selected: int = Field(description="The contacts that the expression selects; an estimate unless `exact`.")
    contacts: int = Field(description="The sender's contacts.")
    exact: bool = Field(
        description="False: estimated from a sample, because the sender has too many contacts to read in time."
    )
    margin: int = Field(description="The estimate's margin of error at 95 % confidence.")


class SegmentVersion(BaseModel):
    """A version of a segment. Versions never change; a campaign names `segment_id` and `version`."""

    segment_id: str
    sender_id: str
    name: str = Field(description="The name of the segment, for the people who work with it.")
    version: int = Field(description="The number of this version, from 1.")
    latest: int = Field(description="The number of the latest version of the segment.")
    expression: dict[str, object] = Field(description="The conditions, as written.")
    created_by: str
    created_at: datetime


@router.post("/segments/count", operation_id="segments.count", responses=refuses(NotFound, SegmentNotValid))
async def count_segment(body: SegmentAsked, held: Held, caller: Reader) -> Counted:
    """Count the contacts an expression selects, without saving it.

    The answer takes about a second; the count of a large audience is estimated (`exact` is false), within `margin`.
    """
    sender = await registry.known(held.database, caller, body.sender_id)
    async with held.database.begin() as tx:
        expression = await _read(tx, body.sender_id, sender, body.expression)
        condition = segments.compiled(expression, body.sender_id, sender, datetime.now(UTC), held.settings.policy)
        found = await segments.count(tx, body.sender_id, condition)
    return Counted(selected=found.selected, contacts=found.contacts, exact=found.exact, margin=found.margin)


@of_contacts.post("/contacts/search", operation_id="contacts.search", responses=refuses(NotFound, SegmentNotValid))
async def search_contacts(body: ContactSearch, held: Held, caller: Writer) -> Page[Contact]:
    """List the contacts that an expression selects, in the language of segments.

    A page looks at a part of the contacts: a page may have few items, or none, and still a `next`. The scope
    `campaign:read` is needed too: an expression may ask for consents, messages and clicks.
    """
    caller.may("campaign:read")
    sender = await registry.known(held.database, caller, body.sender_id)
    ids = held.edge_ids.of(await caller.controller_of(body.sender_id))
    who = position(body.cursor, str)
    after = subject_of(who, ids) if who is not None else ""
    async with held.database.begin() as tx:
        expression = await _read(tx, body.sender_id, sender, body.expression)
        condition = segments.compiled(expression, body.sender_id, sender, datetime.now(UTC), held.settings.policy)
        found, last = await segments.matching(tx, body.sender_id, condition, after, body.limit)
    items = sorted((shown(each, ids) for each in found), key=attrgetter("subject_id"))  # as `contacts.list`
    return Page[Contact](items=items, next=None if last is None else cursor_of(ids.shown(last)))


@router.post(
    "/segments",
    operation_id="segments.create",
    status_code=201,
    response_model=SegmentVersion,
    responses=tells(201, "Location") | refuses(NotFound, SegmentNotValid),
)
async def save_segment(
    body: NewSegment,
    request: Request,
    held: Held,
    caller: Author,
    key: Key = None,
) -> Response:
    """Save a segment with its first version.

    A repeat of the request with the same `Idempotency-Key` gets the first answer: the first version.
    """
    sender = await registry.known(held.database, caller, body.sender_id)
    segment_id = derived_id("seg", caller, key)
    fingerprint = await fingerprint_of(request, held.subject_keys)
    async with held.database.begin() as tx:
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        expression = await _read(tx, body.sender_id, sender, body.expression)
        await segments.insert(
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
        return await claimed.keep(tx, _shown(found), 201, {"Location": f"/v1/segments/{segment_id}"})


@router.post(
    "/segments/{segment_id}/versions",
    operation_id="segments.create_version",
    status_code=201,
    responses=refuses(Conflict, SegmentNotValid),
)
async def say_segment_anew(segment_id: Storable, body: NewSegmentVersion, held: Held, caller: Author) -> SegmentVersion:
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


@router.get("/segments", operation_id="segments.list")
async def list_segments(
    held: Held, caller: Reader, sender_id: OfSender = None, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[SegmentVersion]:
    """List the segments of the senders your token covers, newest first, each in its latest version."""
    covered = await caller.covered(sender_id)
    async with held.database.begin() as tx:
        page = await segments.before(tx, position(cursor, int), covered, limit)
    return Page[SegmentVersion](
        items=[_shown(each) for each in page], next=next_of(page, limit, attrgetter("position"))
    )


@router.get("/segments/{segment_id}", operation_id="segments.get")
async def get_segment(segment_id: Storable, held: Held, caller: Reader) -> SegmentVersion:
    """Return a segment's latest version."""
    async with held.database.begin() as tx:
        return _shown(await _found(tx, caller, segment_id))


@router.get("/segments/{segment_id}/versions", operation_id="segments.list_versions")
async def list_versions(
    segment_id: Storable, held: Held, caller: Reader, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[SegmentVersion]:
    """List the versions of the segment, newest first."""
    async with held.database.begin() as tx:
        await _found(tx, caller, segment_id)
        found = await segments.versions_of(tx, segment_id, position(cursor, int), limit)
    items = [_shown(each) for each in found]
    return Page[SegmentVersion](items=items, next=next_of(found, limit, attrgetter("version")))


async def _read(tx: AsyncConnection, sender_id: str, sender: Sender, source: Mapping[str, object]) -> Expression:
    try:
        return await segments.read(tx, sender_id, sender.purposes, source)
    except SegmentRefused as refused:
        reason = Reason(f"/expression{refused.pointer}", refused.reason, str(refused))
        raise SegmentNotValid(str(refused), reasons=[reason]) from refused


async def _found(tx: AsyncConnection, caller: Caller, segment_id: str) -> segments.SegmentVersion:
    missing = NotFound("no such segment", reasons=[Reason("segment_id", "unknown_segment")])
    return await caller.theirs(tx, await segments.find(tx, segment_id), missing)


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
