"""HTTP routes of the reopening rules: by which a sender lets an asserted opt-in take back a person's STOP (ADR-0064).

Without a rule only the person takes the STOP back. A rule counts for opt-ins recorded while the rule is in force, and
each of these names the rule in the ledger.
"""

from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection

from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import NumberFree, Short, Storable, storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Forbidden, Invalid, NotFound, Reason
from consent.bodies import Body
from consent.senders import store
from consent.senders.api import no_sender
from consent.senders.copying import changing, copy_behind, end_ahead
from consent.senders.store import ReopeningRule, Sender

router = APIRouter(prefix="/v1/senders/{sender_id}/reopening-rules")

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
ReadsSenders = Annotated[Caller, Depends(require("sender:read"))]
Reopens = Annotated[Caller, Depends(require("sender:reopen"))]
Ends = Annotated[Caller, Depends(require("sender:reopen", limited=False))]  # no limit delays what makes a STOP final
Why = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000), AfterValidator(storable), NumberFree
]


class RuleBody(Body):
    """The purpose, and the controller's reason: a person who reads an audit has nothing else to judge the rule by."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"purpose": "promotions", "reason": "Signed forms in the shops, kept for three years"}]
        }
    )

    purpose: Short
    reason: Why = Field(description="The controller's reason, for a reader of an audit: 1 to 1,000 characters.")


class EndBody(Body):
    """The end of a reopening rule."""

    reason: Why = Field(description="The controller's reason, for a reader of an audit: 1 to 1,000 characters.")


class Decided(BaseModel):
    """The author of a decision (`sub` of the token), its time and its reason."""

    by: str = Field(description="The person who decided, by `sub` of the token.")
    at: datetime = Field(description="The time of the decision.")
    reason: str = Field(description="The controller's reason.")


class RuleView(BaseModel):
    """A reopening rule. `ended` is null while the rule is in force."""

    rule_id: str
    sender_id: str
    purpose: str
    begun: Decided
    ended: Decided | None


@router.post(
    "",
    operation_id="reopening_rules.create",
    status_code=201,
    responses={200: {"model": RuleView, "description": "A rule was in force before."}},
)
async def begin_rule(sender_id: Storable, body: RuleBody, response: Response, caller: Reopens, held: Held) -> RuleView:
    """Let an asserted opt-in reopen this purpose after a STOP to the sender.

    201: the rule begins. 200: a rule was in force before. The opt-in has to be newer than the STOP, and recorded while
    the rule is in force. A STOP to every sender stays. The token has to cover the sender and its controller.
    """
    await caller.may_use(sender_id)
    now = datetime.now(UTC)
    async with changing(held.shards, ()) as tx:
        sender = await _locked(tx, caller, sender_id)
        if body.purpose not in {purpose.id for purpose in sender.purposes}:
            raise Invalid(
                "the sender has no such purpose: add it to the sender first",
                reasons=[Reason("purpose", "unknown_purpose")],
            )
        rule = await store.rule_in_force(tx, sender_id, body.purpose)
        if rule is None:
            rule_id = f"reopening-{uuid4().hex}"
            rule = await store.begin_rule(tx, rule_id, sender_id, body.purpose, caller.subject, body.reason, now)
        else:
            response.status_code = 200
    await copy_behind(held.shards, sender_id)  # a loosening is decided first
    return _view(rule)


@router.post("/{rule_id}/end", operation_id="reopening_rules.end")
async def end_rule(sender_id: Storable, rule_id: Storable, body: EndBody, caller: Ends, held: Held) -> RuleView:
    """End a rule: from now on only the person takes a STOP back. An ended rule stays as it is.

    A consent that an opt-in has reopened under the rule stays open, and still names the rule.
    """
    await caller.may_use(sender_id)
    async with changing(held.shards, ()) as tx:
        await _locked(tx, caller, sender_id)
        rule = await store.end_rule(tx, sender_id, rule_id, caller.subject, body.reason, datetime.now(UTC))
        if rule is None:
            raise NotFound("no such rule", reasons=[Reason("rule_id", "unknown_rule")])
        await end_ahead(held.shards, rule)
    return _view(rule)


@router.get("", operation_id="reopening_rules.list")
async def list_rules(
    sender_id: Storable, caller: ReadsSenders, held: Held, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[RuleView]:
    """List every rule of the sender, oldest first: who decided what, when and why."""
    await caller.may_use(sender_id)
    async with held.shards.first.database.begin() as tx:
        found = await store.reopening_rules(tx, sender_id, position(cursor, int) or 0, limit)
    return Page[RuleView](items=[_view(rule) for rule in found], next=next_of(found, limit, lambda rule: rule.position))


async def _locked(tx: AsyncConnection, caller: Caller, sender_id: str) -> Sender:
    """Lock and return the caller's sender. Raises Forbidden."""
    sender = await store.lock_sender(tx, sender_id)
    if sender is None:
        raise no_sender()
    if not caller.names([sender.controller]):
        raise Forbidden(
            "the token does not cover the controller, whose decision this is",
            reasons=[Reason("sender_id", "controller_not_granted")],
        )
    return sender


def _view(rule: ReopeningRule) -> RuleView:
    ended = None
    if rule.ended_by is not None and rule.ended_at is not None and rule.end_reason is not None:
        ended = Decided(by=rule.ended_by, at=rule.ended_at, reason=rule.end_reason)
    return RuleView(
        rule_id=rule.rule_id,
        sender_id=rule.sender_id,
        purpose=rule.purpose,
        begun=Decided(by=rule.begun_by, at=rule.begun_at, reason=rule.reason),
        ended=ended,
    )
