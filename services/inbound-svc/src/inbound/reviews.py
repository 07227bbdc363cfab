"""The review queue over HTTP: a person decides the meaning of a text no rule is sure of.

While an MO is in the queue, consent-svc holds marketing to its number. The decision is published as the MO's next
revision, with the effect of a text of that meaning.

A STOP enters the queue where its operator's clock puts an earlier-received START behind it: the STOP may be old, or the
clock may have jumped. `stop` closes what the START has opened, `none` lets the START stand.

A text concerns a person, not one sender: the routes need a token for every sender.
"""

import logging
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import Concern, Intent, MessageReceived
from common.kafka import outbox
from common.keyring import FieldKeys, Unreadable
from common.service import Resources, resources
from common.telemetry import counter
from common.web.auth import Caller, require
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import AlreadyDecided, Invalid, NotFound, Reason
from inbound import queue
from inbound.queue import Decided, Review

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/reviews", tags=["reviews"])

RULE = "person"  # in place of a rule's name

DECIDED = counter("sms_inbound_reviews_decided_total", "Reviews decided, by intent.", ["intent"])

Held = Annotated[Resources[Any], Depends(resources)]


class OnlyAStop(Invalid):
    """The text is a STOP behind a START, or a STOP to a code that no sender has.

    Decide `stop` or `none`.
    """

    slug, title = "only-a-stop", "The text is a STOP: decide whether it counts"


class DecisionBody(BaseModel):
    """The meaning of the text. `none`: no request at all.

    For an erasure, decide `stop`, and request the erasure. For a STOP behind a START, decide `stop` or `none`.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"intent": "stop", "note": "asks to be left alone"}]}
    )

    intent: Literal["stop", "start", "contact", "none"] = Field(
        description="The meaning of the text, as the reviewer reads it."
    )
    note: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        pattern=r"^[^\x00]*$",
        description="A note for later readers of the review, encrypted at rest; without the number or the text.",
    )


class Decision(BaseModel):
    """A reviewer's decision on a text."""

    intent: Intent = Field(description="The meaning that the reviewer gave the text.")
    note: str | None = Field(description="Null without a note, and after the encryption key's deletion.")
    decided_by: str = Field(description="The reviewer, by `sub` of the token.")
    decided_at: datetime = Field(description="The time of the decision.")


class ReviewItem(BaseModel):
    """A text in review. `subject_id`: the platform's own id of the person, for the platform's operator alone."""

    mo_id: str
    subject_id: str = Field(description="The platform's own id of the person.")
    provider: str
    account: str = Field(
        description="The account with the provider, by its name in the settings of the platform, such as `main`."
    )
    provider_message_id: str = Field(description="The provider's id of the text, for its support.")
    short_code: str
    text: str | None = Field(description="Null after the encryption key's deletion.")
    concern: Concern = Field(
        description="The lane of the queue. `doubt`: the text may ask to stop. `unread`: no list has the script or the"
        " language. `erasure`, `access` (to the person's data), `source` (of the number), `wrong_number`, `return`"
        " (after a STOP): the text asks for this, and a person answers within the time of the law."
    )
    rule: str = Field(description="The rule that put the text in review.")
    score: float = Field(description="How sure the rule is, from 0 to 1.")
    occurred_at: datetime = Field(description="The operator's time of the text.")
    received_at: datetime
    behind_start: bool = Field(
        description="True for a STOP that arrived after a START with a later operator timestamp. Decide `stop` or"
        " `none`."
    )
    no_sender: bool = Field(
        description="True for a STOP to a code that no sender has. `stop` stops every sender; decide `stop` or `none`."
    )
    decision: Decision | None


@router.get("", operation_id="reviews.list")
async def list_reviews(
    held: Held,
    caller: Annotated[Caller, Depends(require("review:read", platform=True))],
    state: Annotated[Literal["open", "decided"], Query(description="Only reviews in this state.")] = "open",
    concern: Annotated[Concern | None, Query(description="Only reviews of this concern: a lane of the queue.")] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[ReviewItem]:
    """List open or decided reviews, oldest first, with texts in clear."""
    after = position(cursor, int) or 0
    async with held.database.begin() as tx:
        found = await queue.page(tx, decided=state == "decided", after=after, limit=limit, concern=concern)
    log.info("texts were shown", extra={"by": caller.subject, "mo_ids": [review.event.mo_id for review in found]})
    items = [_item(review, held.field_keys) for review in found]
    return Page[ReviewItem](items=items, next=next_of(found, limit, attrgetter("place")))


@router.post("/{mo_id}/decision", operation_id="reviews.decide", responses=refuses(AlreadyDecided, OnlyAStop))
async def decide_review(
    mo_id: str,
    body: DecisionBody,
    held: Held,
    caller: Annotated[Caller, Depends(require("review:write", limited=False, platform=True))],
) -> ReviewItem:
    """Decide a review once. 409 for a second decision, except a repetition by the same person."""
    note = held.field_keys.seal(body.note, f"note:{mo_id}") if body.note else None
    decided = Decided(body.intent, note, caller.subject, datetime.now(UTC))
    async with held.database.begin() as tx:
        review = await queue.lock(tx, mo_id)
        if review is None:
            raise NotFound("no such review", reasons=[Reason("mo_id", "unknown_review")])
        if (review.event.behind_start or review.event.no_sender) and decided.intent not in ("stop", "none"):
            raise OnlyAStop("decide stop or none", reasons=[Reason("intent", "only_a_stop")])
        if review.decided is not None:
            if (review.decided.intent, review.decided.by) != (decided.intent, decided.by):
                raise AlreadyDecided("the first decision stands", reasons=[Reason("mo_id", "already_decided")])
            return _item(review, held.field_keys)
        await queue.decide(tx, mo_id, decided)
        await outbox.append(tx, INBOUND_MESSAGES, [revised(review.event, decided)])
    DECIDED.labels(decided.intent).inc()
    log.info("a review is decided", extra={"mo_id": mo_id, "intent": decided.intent, "by": decided.by})
    return _item(Review(review.place, review.event, decided), held.field_keys)


def revised(event: MessageReceived, decided: Decided) -> MessageReceived:
    """Return the MO's next revision, with the decided intent."""
    return msgspec.structs.replace(
        event,
        intent=decided.intent,
        rule=RULE,
        score=1.0,
        revision=event.revision + 1,
        decided_by=decided.by,
        decided_at=decided.at,
    )


def _item(review: Review, keys: FieldKeys) -> ReviewItem:
    event, decided = review.event, review.decided
    return ReviewItem(
        mo_id=event.mo_id,
        subject_id=event.subject_id,
        provider=event.provider,
        account=event.account,
        provider_message_id=event.provider_message_id,
        short_code=event.short_code,
        text=_opened(keys, event.text, f"text:{event.mo_id}"),
        concern=event.concern,
        rule=event.rule,
        score=event.score,
        occurred_at=event.occurred_at,
        received_at=event.received_at,
        behind_start=event.behind_start,
        no_sender=event.no_sender,
        decision=Decision(
            intent=decided.intent,
            note=_opened(keys, decided.note, f"note:{event.mo_id}") if decided.note else None,
            decided_by=decided.by,
            decided_at=decided.at,
        )
        if decided
        else None,
    )


def _opened(keys: FieldKeys, sealed: str, context: str) -> str | None:
    try:
        return keys.unseal(sealed, context)
    except Unreadable:
        return None  # without a decision, marketing to the person stays on hold for ever
