"""HTTP: list audited texts, report costs and messages to people who had stopped."""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.service import Resources, resources
from common.sms.prices import euros
from common.web.auth import Caller, require
from common.web.pagination import LIMIT, Cursor, Limit, Page, cursor_of, position, whole_page
from common.web.span import Since, Until, span
from dispatch.accepting import store
from dispatch.accepting.bodies import Cost, CostReport, TextAudit, ToStopped, ToStoppedReport

router = APIRouter(prefix="/v1", tags=["dispatch"])

Held = Annotated[Resources[Any], Depends(resources)]
Reads = Annotated[Caller, Depends(require("message:read"))]


@router.get("/text-audits", operation_id="text_audits.list")
async def list_text_audits(held: Held, caller: Reads, cursor: Cursor = None, limit: Limit = LIMIT) -> Page[TextAudit]:
    """List texts that were refused, or left by an override, oldest first, of the senders your token covers."""
    after = position(cursor, int) or 0
    covered = await caller.covered()

    async def of_shard(tx: AsyncConnection, behind: int, most: int) -> Sequence[store.Kept]:
        async def read() -> Sequence[store.Kept]:
            return await store.audits_after(tx, behind, covered, most)

        return await whole_page(tx, "text_audit", most, read, attrgetter("id"))

    rows, end = await everywhere.page(held.shards, after, limit, of_shard, attrgetter("id"))
    items = [TextAudit.model_validate({**row._asdict(), "reasons": list(row.reasons)}) for row in rows]
    return Page[TextAudit](items=items, next=None if end is None else cursor_of(end))


@router.get("/reports/to-stopped", operation_id="reports.to_stopped")
async def report_to_stopped(held: Held, caller: Reads, since: Since = None, until: Until = None) -> ToStoppedReport:
    """Count transactional and service messages to people who had stopped, by sender and template.

    Such messages are lawful: a code follows a contract. Many of them from one template may be advertising in disguise.
    """
    begin, end = span(since, until, datetime.now(UTC))
    covered = await caller.covered()
    of_each = await everywhere.of_each(held.shards, lambda tx: store.to_stopped(tx, begin, end, covered))
    found = everywhere.added(of_each, keyed_by=3)
    found.sort(key=lambda each: (-each.to_stopped, -each.messages, each.template))
    return ToStoppedReport(since=begin, until=end, items=[ToStopped(**each._asdict()) for each in found])


@router.get("/reports/costs", operation_id="reports.costs")
async def report_costs(held: Held, caller: Reads, since: Since = None, until: Until = None) -> CostReport:
    """Sum the cost of the messages decided in a time, by sender, lane and version of the price table.

    A later table changes no cost: each message keeps the cost of its sending.
    """
    begin, end = span(since, until, datetime.now(UTC))
    covered = await caller.covered()
    of_each = await everywhere.of_each(held.shards, lambda tx: store.costs(tx, begin, end, covered))
    found = everywhere.added(of_each, keyed_by=3)
    found.sort(key=lambda each: (each.sender_id, each.category, each.prices is None, each.prices))
    items = [
        Cost.model_validate(each._asdict() | {"cost": None if each.cost is None else euros(each.cost)})
        for each in found
    ]
    return CostReport(since=begin, until=end, items=items)
