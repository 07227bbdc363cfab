"""HTTP route for a filled-in form: the person confirms by SMS (double opt-in).

The response never says whether an SMS left (ADR-0026).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from common.service import Resources
from common.web.idempotency import Key
from common.web.problems import Conflict, Invalid, NotFound, Reason
from consent.answers.answers import Answers
from consent.bodies import EXAMPLE_NUMBER, ConsentBody
from consent.calls import Held, WritesConsent, opened, statement_of
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in import rules as asking
from consent.double_opt_in.requests import Terms
from consent.ledger.chain import evidence_id
from consent.senders import store as senders_store


class DoubleOptInBody(ConsentBody):
    """A form filled in just now. The number may belong to another person, so an SMS asks the person at the number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": "promotions",
                    "number": EXAMPLE_NUMBER,
                    "occurred_at": "2026-03-02T14:05:00+01:00",
                    "evidence": {"source": "site", "form_id": "newsletter", "form_version": "3"},
                }
            ]
        }
    )

    basis: Literal["opt_in"] = "opt_in"
    link: bool = Field(False, description="Add a link to a page with the question and a button for yes.")


class DoubleOptInAnswer(BaseModel):
    """The same answer whatever the person has said before, and whether or not an SMS leaves. `evidence_id`: of the
    request, which the opt-in will name; `answer_before`: a later answer does not count."""

    subject_id: str
    evidence_id: str
    answer_before: datetime


class NoPage(Conflict):
    slug, title = "no-page", "The URL of the public pages is not configured"


def router(terms: Terms, answers_per_day: int, url: Callable[[Resources[Any], str, datetime], str] | None) -> APIRouter:
    """Return the routes. `answers_per_day` caps all SMS to a number. `url` builds a link; `None`: no page."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/double-opt-ins", status_code=202)
    async def ask(
        body: DoubleOptInBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
    ) -> DoubleOptInAnswer:
        """Ask the person by SMS to confirm the form.

        The request allows no marketing. The answer does: an OUI by SMS from the number before `answer_before`, or the
        link in the SMS, if there is a link. 429 with Retry-After: too many questions by the sender's controller, to
        this number or in all, or by this caller."""
        if body.link and url is None:
            raise NoPage("set PLACET_PAGE_URL", reasons=[Reason("link", "no_page")])

        def link(link_id: str, expires_at: datetime) -> str:
            assert url is not None, "asked for where there is one"
            return url(held, link_id, expires_at)

        async with held.database.begin() as tx:
            call = await opened(tx, request, caller, held, key, {body.sender_id})
            statement = statement_of(call, body)  # the consent that a yes would give
            if asking.too_old(statement.evidence.occurred_at, call.now):
                raise Invalid(
                    "not asked: a question follows its form at once",
                    reasons=[Reason("occurred_at", "form_too_old", "filled in more than a day ago")],
                )
            wanted = replace(
                statement.evidence,
                evidence_id=evidence_id("double opt-in", statement.evidence.evidence_id),
                kind="request",
                basis=None,
            )
            sender = await senders_store.find_sender(tx, body.sender_id)
            if sender is None:
                raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
            answers = Answers(held.field_keys, answers_per_day, held.settings.fictional_numbers)
            question = await double_opt_ins.ask(
                tx,
                answers,
                replace(statement, evidence=wanted),
                sender,
                terms,
                caller.subject,
                call.now,
                link if url else None,
                with_link=body.link,
            )
        return DoubleOptInAnswer(
            subject_id=question.subject_id, evidence_id=question.evidence_id, answer_before=question.expires_at
        )

    return routes
