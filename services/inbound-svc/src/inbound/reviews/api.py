"""The review queue over HTTP: a person decides the meaning of a text no rule is sure of.

While an MO is in the queue, consent-svc holds marketing to its number. The decision is published as the MO's next
revision, with the effect of a text of that meaning.

A decision that is no STOP takes effect after `review_undo_s`, and can be undone until then. Texts of the same words
have the same `like`: a single call decides these texts, and each text keeps a decision of its own.

A STOP enters the queue where its operator's clock puts an earlier-received START behind it: the STOP may be old, or the
clock may have jumped. `stop` closes what the START has opened, `none` lets the START stand.

A text concerns a person, not one sender: the routes need a token for every sender.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import Concern, Intent
from common.db import everywhere
from common.db.database import Database
from common.db.shards import Shard
from common.kafka import outbox
from common.keyring import FieldKeys, Unreadable
from common.privacy import sent_before
from common.service import Resources, resources
from common.telemetry import counter
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, cursor_of, positions
from common.web.problems import AlreadyDecided, Conflict, Invalid, NotFound, Reason
from inbound.reviews import queue, rules
from inbound.reviews.effect import revised
from inbound.reviews.queue import Decided, Review

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/reviews", tags=["reviews"])

DECIDED_AT_ONCE = 200
PROPOSED_FROM = 5000  # the newest decisions
NEVER = datetime.min.replace(tzinfo=UTC)
PEOPLE_OF_A_LINE = 2  # a text of one person's may name them

DECIDED = counter("sms_inbound_reviews_decided_total", "Reviews decided, by intent.", ["intent"])
UNDONE = counter("sms_inbound_reviews_undone_total", "Decisions undone before they took effect.", ["intent"])

Held = Annotated[Resources[Any], Depends(resources)]


class OnlyAStop(Invalid):
    """The text is a STOP behind a START, or a STOP to a code that no sender has.

    Decide `stop` or `none`.
    """

    slug, title = "only-a-stop", "The text is a STOP: decide whether it counts"


class InEffect(Conflict):
    """The decision is in effect, or is a STOP, which takes effect at once.

    A STOP is taken back by the person alone. For another decision, record what the person wants: an opt-out, or a
    consent with its proof.
    """

    slug, title = "decision-in-effect", "The decision is in effect"


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


class DecisionsBody(DecisionBody):
    """A meaning for several texts of the same words."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"mo_ids": ["0b5f7e9a-6a42-4c8e-9a3e-52d1c2b4a601"], "intent": "none"}]},
    )

    mo_ids: list[Annotated[Storable, Field(min_length=1, max_length=100)]] = Field(
        min_length=1,
        max_length=DECIDED_AT_ONCE,
        examples=[["0b5f7e9a-6a42-4c8e-9a3e-52d1c2b4a601"]],
        description="The texts, by MO, each once.",
    )

    @field_validator("mo_ids")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("name each text once")
        return value


class Result(BaseModel):
    """The result for a text."""

    mo_id: str
    result: Literal["decided", "unchanged", "refused"] = Field(
        description="`unchanged`: the same person decided the same before."
    )
    reason: str | None = Field(
        description="`unknown_review`, `already_decided` by another person or otherwise, or `only_a_stop`; null without"
        " a refusal."
    )


class DecisionsAnswer(BaseModel):
    """The results of a call that decides several texts."""

    items: list[Result] = Field(description="A result for each text, in request order.")


class Proposal(BaseModel):
    """A line that a developer may take into the keyword lists, or leave."""

    line: str = Field(
        examples=["ne stoppez pas"],
        description="The words of the texts, folded as the reader folds them, without numbers.",
    )
    intents: dict[Intent, int] = Field(description="The decisions on these texts, by meaning.")
    people: int = Field(description="The people who wrote these words, two at least.")
    rules: list[str] = Field(examples=[["fr-3:negated"]], description="The rules that put the texts in review.")


class Proposals(BaseModel):
    """The lines proposed, the most people first."""

    items: list[Proposal] = Field(description="The lines, from the newest 5,000 decisions in effect.")


class Decision(BaseModel):
    """A reviewer's decision on a text."""

    intent: Intent = Field(description="The meaning that the reviewer gave the text.")
    note: str | None = Field(description="Null without a note, and after the encryption key's deletion.")
    decided_by: str = Field(description="The reviewer, by `sub` of the token.")
    decided_at: datetime = Field(description="The time of the decision.")
    takes_effect_at: datetime = Field(
        description="From this instant the decision counts, and can no longer be undone; a STOP counts at once."
    )
    in_effect: bool = Field(description="True: the decision is published, and stands.")


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
    suggestion: Intent | None = Field(
        description="The likely meaning, by the concern; null where no rule has one. The reviewer decides."
    )
    like: str | None = Field(
        examples=["3f2a9c0d4b6e8f1071a5c2d3e4f60718"],
        description="The same for all texts of the same words and concern, numbers aside, so that one call decides"
        " them; null without a word.",
    )
    due_at: datetime = Field(
        description="When a person has read the text at the latest: a day for what may be a STOP, and within the month"
        " of the law (RGPD art. 12) for a right."
    )
    score: float = Field(description="How sure the rule is, from 0 to 1.")
    sent_before: str = Field(
        examples=["v1.xZ0"],
        description="For an hour: the ticket by which `POST /v1/messages/before-reviews` of dispatch-svc returns the"
        " messages that the person was sent before the text.",
    )
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
    places = positions(cursor, len(held.shards.each))
    is_decided, is_part = state == "decided", held.shards.divided

    async def read(tx: AsyncConnection, after: int, most: int) -> list[Review]:
        return await queue.page(tx, decided=is_decided, after=after, limit=most, concern=concern, is_part=is_part)

    found, behind = await everywhere.merged(
        held.shards, places, limit, read, attrgetter("place"), attrgetter("event.received_at")
    )
    log.info("texts were shown", extra={"by": caller.subject, "mo_ids": [review.event.mo_id for review in found]})
    items = [_item(review, held) for review in found]
    return Page[ReviewItem](items=items, next=None if behind is None else cursor_of(behind))


@router.post("/{mo_id}/decision", operation_id="reviews.decide", responses=refuses(AlreadyDecided, OnlyAStop))
async def decide_review(
    mo_id: str,
    body: DecisionBody,
    held: Held,
    caller: Annotated[Caller, Depends(require("review:write", limited=False, platform=True))],
) -> ReviewItem:
    """Decide a review once. 409 for a second decision, except a repetition by the same person.

    A STOP takes effect at once. Any other decision takes effect at `takes_effect_at`, and can be undone until then;
    marketing to the person waits as long.
    """
    async with (await _database_of(held, mo_id)).begin() as tx:
        review = (await queue.lock(tx, [mo_id])).get(mo_id)
        if review is None:
            raise _no_review()
        match _refusal(review, caller, body):
            case "only_a_stop":
                raise OnlyAStop("decide stop or none", reasons=[Reason("intent", "only_a_stop")])
            case "already_decided":
                raise AlreadyDecided("the first decision stands", reasons=[Reason("mo_id", "already_decided")])
        decided = await _decide(tx, held, caller, review, body)
    _tell(review, decided)
    return _item(decided, held)


@router.post("/decisions", operation_id="reviews.decide_many")
async def decide_reviews(
    body: DecisionsBody,
    held: Held,
    caller: Annotated[Caller, Depends(require("review:write", limited=False, platform=True))],
) -> DecisionsAnswer:
    """Decide up to 200 reviews alike: texts of one `like`. Each gets a decision of its own, or is refused alone."""
    results = dict[str, Result]()
    of_shard = await _by_shard(held, body.mo_ids)
    for shard, mo_ids in of_shard:
        told = []
        async with shard.database.begin() as tx:
            locked = await queue.lock(tx, mo_ids)
            for mo_id in mo_ids:
                before = locked.get(mo_id)
                reason = "unknown_review" if before is None else _refusal(before, caller, body)
                if before is None or reason is not None:
                    results[mo_id] = Result(mo_id=mo_id, result="refused", reason=reason)
                    continue
                result: Literal["unchanged", "decided"] = "decided" if before.decided is None else "unchanged"
                results[mo_id] = Result(mo_id=mo_id, result=result, reason=None)
                told.append((before, await _decide(tx, held, caller, before, body)))
        for before, decided in told:
            _tell(before, decided)
    return DecisionsAnswer(items=[results[mo_id] for mo_id in body.mo_ids])


@router.post("/{mo_id}/undo", operation_id="reviews.undo", responses=refuses(InEffect, NotFound))
async def undo_decision(
    mo_id: str, held: Held, caller: Annotated[Caller, Depends(require("review:write", platform=True))]
) -> ReviewItem:
    """Take a decision back that is not in effect: the text is open again. An open review stays open."""
    async with (await _database_of(held, mo_id)).begin() as tx:
        review = (await queue.lock(tx, [mo_id])).get(mo_id)
        if review is None:
            raise _no_review()
        if review.decided is not None and review.decided.told:
            raise InEffect("record what the person wants instead", reasons=[Reason("mo_id", "in_effect")])
        await queue.undo(tx, mo_id)
    if review.decided is not None:
        UNDONE.labels(review.decided.intent).inc()
        extra = {"mo_id": mo_id, "intent": review.decided.intent, "decided_by": review.decided.by}
        log.info("a decision is undone", extra={**extra, "by": caller.subject})
    return _item(Review(review.place, review.event, None), held)


@router.get("/proposals", operation_id="reviews.propose_lines")
async def propose_lines(
    held: Held, caller: Annotated[Caller, Depends(require("review:read", platform=True))]
) -> Proposals:
    """Return the words of decided texts as lines that a developer may take into the keyword lists, or leave.

    A line stands for the texts of two people or more, without numbers. No list takes a line over by itself: a
    developer edits the list, with its tests, and another reviews the edit.
    """
    of_each = await everywhere.of_each(held.shards, lambda tx: queue.newest_told(tx, PROPOSED_FROM))
    newest = sorted(chain.from_iterable(of_each), key=lambda each: each.decided.at if each.decided else NEVER)
    found = newest[::-1][:PROPOSED_FROM]
    texts = ((_opened(held.field_keys, each.event.text, f"text:{each.event.mo_id}"), each) for each in found)
    said = [
        rules.Said(rules.alike(text), each.decided.intent, each.event.rule, each.event.subject_id)
        for text, each in texts
        if text is not None and each.decided is not None
    ]
    log.info("lines were proposed", extra={"by": caller.subject, "reviews": len(said)})
    lines = rules.proposed(said, PEOPLE_OF_A_LINE)
    return Proposals(
        items=[
            Proposal(line=each.line, intents=dict(each.intents), people=each.people, rules=list(each.rules))
            for each in lines
        ]
    )


async def _database_of(held: Resources[Any], mo_id: str) -> Database:
    """Return the database with the review, or of the own shard where no shard has the review."""
    [(shard, _)] = await _by_shard(held, [mo_id])
    return shard.database


async def _by_shard(held: Resources[Any], mo_ids: Sequence[str]) -> list[tuple[Shard, list[str]]]:
    """Return the MOs in the shards with their reviews, and in the own shard where no shard has a review.

    A shard that does not answer stops only a call for a review that no other shard has.
    """
    if not held.shards.divided:
        return [(held.shards.own, [*mo_ids])]
    answers = await asyncio.gather(*(_present(shard, mo_ids) for shard in held.shards.each), return_exceptions=True)
    home: dict[str, Shard] = {}
    for shard, answer in zip(held.shards.each, answers, strict=True):
        if not isinstance(answer, BaseException):
            home |= dict.fromkeys(answer, shard)
    if len(home) < len(mo_ids) and (errors := [each for each in answers if isinstance(each, BaseException)]):
        raise errors[0]
    of = [(home.get(mo_id, held.shards.own), mo_id) for mo_id in mo_ids]
    found = [(shard, [mo_id for place, mo_id in of if place is shard]) for shard in held.shards.each]
    return [(shard, some) for shard, some in found if some]


async def _present(shard: Shard, mo_ids: Sequence[str]) -> set[str]:
    async with shard.database.begin() as tx:
        return await queue.present(tx, mo_ids)


def _refusal(review: Review, caller: Caller, body: DecisionBody) -> Literal["only_a_stop", "already_decided"] | None:
    """Return why the caller may not decide so."""
    if (review.event.behind_start or review.event.no_sender) and body.intent not in ("stop", "none"):
        return "only_a_stop"
    if review.decided is not None and (review.decided.intent, review.decided.by) != (body.intent, caller.subject):
        return "already_decided"
    return None


async def _decide(
    tx: AsyncConnection, held: Resources[Any], caller: Caller, review: Review, body: DecisionBody
) -> Review:
    """Store a decision, unless the same one is stored, and publish a decision that takes effect at once.

    The caller holds the review's lock, and `_refusal` has no reason.
    """
    if review.decided is not None:
        return review
    mo_id, now = review.event.mo_id, datetime.now(UTC)
    effect = rules.takes_effect_at(body.intent, now, timedelta(seconds=held.settings.review_undo_s))
    note = held.field_keys.seal(body.note, f"note:{mo_id}") if body.note else None
    decided = Decided(body.intent, note, caller.subject, now, effect, told=effect <= now)
    await queue.decide(tx, mo_id, decided)
    if decided.told:
        await outbox.append(tx, INBOUND_MESSAGES, [revised(review.event, decided)])
    return Review(review.place, review.event, decided)


def _tell(before: Review, after: Review) -> None:
    """Count and log a new decision. The caller has committed."""
    if after.decided is None or before.decided is not None:
        return
    DECIDED.labels(after.decided.intent).inc()
    extra = {"mo_id": after.event.mo_id, "intent": after.decided.intent, "by": after.decided.by}
    log.info("a review is decided", extra=extra)


def _no_review() -> NotFound:
    return NotFound("no such review", reasons=[Reason("mo_id", "unknown_review")])


def _item(review: Review, held: Resources[Any]) -> ReviewItem:
    event, decided, keys = review.event, review.decided, held.field_keys
    text = _opened(keys, event.text, f"text:{event.mo_id}")
    words = rules.alike(text) if text else ""
    return ReviewItem(
        mo_id=event.mo_id,
        subject_id=event.subject_id,
        provider=event.provider,
        account=event.account,
        provider_message_id=event.provider_message_id,
        short_code=event.short_code,
        text=text,
        concern=event.concern,
        rule=event.rule,
        suggestion=rules.suggested(event),
        like=held.subject_keys.of_text(f"review:{event.concern}:{words}") if words else None,
        due_at=rules.due_at(event.concern, event.received_at),
        score=event.score,
        sent_before=sent_before.ticket(keys, rules.before(event, datetime.now(UTC))),
        occurred_at=event.occurred_at,
        received_at=event.received_at,
        behind_start=event.behind_start,
        no_sender=event.no_sender,
        decision=Decision(
            intent=decided.intent,
            note=_opened(keys, decided.note, f"note:{event.mo_id}") if decided.note else None,
            decided_by=decided.by,
            decided_at=decided.at,
            takes_effect_at=decided.takes_effect_at,
            in_effect=decided.told,
        )
        if decided
        else None,
    )


def _opened(keys: FieldKeys, sealed: str, context: str) -> str | None:
    try:
        return keys.unseal(sealed, context)
    except Unreadable:
        return None  # without a decision, marketing to the person stays on hold for ever
