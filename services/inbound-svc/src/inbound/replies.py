"""List over HTTP the texts that people wrote to a controller's codes, with their meaning, and without the texts.

A text belongs to a controller that has every sender of its code, from when it had the code on (ADR-0070): a text to a
shared code is in no list.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import Intent
from common.db import everywhere
from common.db.database import Direction, plan_now
from common.service import Resources, resources
from common.sms.message_id import EPOCH, ONE_MS, message_id
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, Page, Sort, next_of, position
from common.web.problems import Forbidden, Reason
from common.web.span import Since, Until, span
from inbound import codes
from inbound.store import to_a_code_of

router = APIRouter(prefix="/v1/replies", tags=["replies"])

Held = Annotated[Resources[Any], Depends(resources)]


class Reply(BaseModel):
    """A text from a person. `subject_id`: the person's id with the controller of the code."""

    mo_id: str
    subject_id: str
    short_code: str
    state: Literal["held", "read"] = Field(
        description="`held`: the text waits for a reviewer, and marketing to the person waits too."
    )
    intent: Intent = Field(description="The meaning by our rules, or by the reviewer.")
    occurred_at: datetime = Field(description="The operator's time.")
    received_at: datetime
    decided_at: datetime | None = Field(description="The time of the reviewer's decision.")


class Place(NamedTuple):
    """The place of a text in the list: callback ids are in the order of arrival."""

    callback_id: UUID
    name: str


class _Text(NamedTuple):
    callback_id: UUID
    name: str
    provider: str
    account: str
    subject_id: str
    short_code: str
    intent: Intent
    occurred_at: datetime
    received_at: datetime

    @property
    def mo_id(self) -> str:
        return str(message_id(EPOCH, "mo", self.provider, self.account, self.name))


def _place(each: _Text) -> Place:
    return Place(each.callback_id, each.name)


class _Review(NamedTuple):
    mo_id: str
    intent: Intent | None
    decided_at: datetime | None


@router.get("", operation_id="replies.list")
async def list_replies(
    sender_id: Annotated[Storable, Query(min_length=1, max_length=200)],
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read"))],
    since: Since = None,
    until: Until = None,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Reply]:
    """List the texts that people wrote to the codes of the sender's controller in a time, by arrival.

    Senders of a controller share its codes: the token has to cover each of them. The ledger has what a text changed.
    """
    begin, end = span(since, until, datetime.now(UTC))
    after = position(cursor, Place)
    await caller.may_use(sender_id)
    controller = await caller.controller_of(sender_id)
    async with held.database.begin() as tx:
        if not caller.names(await codes.senders_of(tx, controller)):
            raise Forbidden(
                "the token does not cover every sender of the controller, whose texts these are",
                reasons=[Reason("sender_id", "sender_not_granted")],
            )

    async def read(tx: AsyncConnection) -> tuple[list[_Text], Mapping[str, _Review]]:
        texts = await _texts(tx, controller, begin, end, after, limit, SORTED[sort])
        return texts, await _reviews(tx, [each.mo_id for each in texts])

    of_each = await everywhere.of_each(held.shards, read)
    found = list(islice(merge(*(texts for texts, _ in of_each), key=_place, reverse=sort == "newest"), limit))
    reviews = ChainMap(*(dict(found_there) for _, found_there in of_each))
    ids = held.edge_ids.of(controller)
    items = [_reply(each, reviews, ids.shown(each.subject_id)) for each in found]
    return Page[Reply](items=items, next=next_of(found, limit, _place))


async def _texts(
    tx: AsyncConnection,
    controller: str,
    since: datetime,
    until: datetime,
    after: Place | None,
    limit: int,
    direction: Direction,
) -> list[_Text]:
    """Return the texts to a controller's codes, by arrival. Reads the first texts of each code by their index."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT r.* FROM sender_code AS k CROSS JOIN LATERAL (SELECT i.callback_id, i.provider_message_id,"
            " i.provider, i.account, i.subject_id, i.short_code, i.intent, i.said_at, c.received_at"
            " FROM callback_item AS i JOIN callback AS c ON c.id = i.callback_id"
            " CROSS JOIN (SELECT CAST(:controller AS text) AS controller_id) AS a"
            " WHERE i.short_code = k.code AND i.callback_id >= CAST(:first AS uuid) AND i.callback_id < :last"
            " AND i.rule NOT LIKE '%\\:part'"
            " AND (CAST(:id AS uuid) IS NULL"
            f" OR (i.callback_id, i.provider_message_id) {direction.beyond} (:id, CAST(:name AS text)))"
            f" AND {to_a_code_of('i.short_code', 'c.received_at')}"
            f" ORDER BY i.callback_id {direction.order}, i.provider_message_id {direction.order} LIMIT :limit) AS r"
            " WHERE k.controller = :controller"
            f" ORDER BY r.callback_id {direction.order}, r.provider_message_id {direction.order} LIMIT :limit"
        ),
        {
            "controller": controller,
            "first": _least(since),
            "last": _least(until),
            "id": after.callback_id if after else None,
            "name": after.name if after else "",
            "limit": limit,
        },
    )
    return [_Text(*row) for row in rows]


def _least(at: datetime) -> UUID:
    """Return the least id of a callback that arrived at this millisecond."""
    return UUID(int=max((at - EPOCH) // ONE_MS, 0) << 80)


async def _reviews(tx: AsyncConnection, mo_ids: Sequence[str]) -> Mapping[str, _Review]:
    rows = await tx.execute(
        text("SELECT mo_id, intent, decided_at FROM review WHERE mo_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(mo_ids)},
    )
    return {row.mo_id: _Review(*row) for row in rows}


def _reply(told: _Text, reviews: Mapping[str, _Review], who: str) -> Reply:
    review = reviews.get(told.mo_id)
    decided = review is not None and review.decided_at is not None
    return Reply(
        mo_id=told.mo_id,
        subject_id=who,
        short_code=told.short_code,
        state="held" if review is not None and not decided else "read",
        intent=review.intent if review is not None and review.intent is not None else told.intent,
        occurred_at=told.occurred_at,
        received_at=told.received_at,
        decided_at=review.decided_at if review is not None else None,
    )
