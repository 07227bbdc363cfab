"""HTTP route for a filled-in form: the person confirms by SMS (double opt-in).

The response never says whether an SMS left (ADR-0026).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from common.keyring import FieldKeys
from common.service import Resources
from common.sms.msisdn import parse
from common.web.auth import rates
from common.web.idempotency import Key
from common.web.openapi import refuses
from common.web.problems import Invalid, NotAllowedByLimits, NotFound, Reason, TooMany
from consent.answers.answers import Answers
from consent.bodies import EXAMPLE_NUMBER, ConsentBody
from consent.calls import Held, NoPage, WritesConsent, check_here, of_body, opened, purposes_of, statement_of
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

    basis: Literal["opt_in"] = Field("opt_in", description="A double opt-in is an `opt_in`.")
    link: bool = Field(False, description="Add a link to a page with the question and a button for yes.")


class DoubleOptInAnswer(BaseModel):
    """The same answer whatever the person has said before, and whether or not an SMS leaves.

    `subject_id`: the person's id with the sender's controller.
    """

    subject_id: str
    evidence_id: str = Field(description="The id of the request's line in the ledger, which the opt-in will name.")
    answer_before: datetime = Field(description="The end of the question: a later answer does not count.")


def router(
    terms: Terms,
    answers: Callable[[FieldKeys], Answers],
    url: Callable[[Resources[Any], str, datetime], str] | None,
) -> APIRouter:
    """Return the routes. `url` builds a link; `None`: no page."""
    routes = APIRouter(prefix="/v1")

    @routes.post(
        "/double-opt-ins",
        operation_id="double_opt_ins.create",
        status_code=202,
        response_model=DoubleOptInAnswer,
        responses=refuses(NotAllowedByLimits, NotFound, NoPage, TooMany),
    )
    async def ask(
        body: DoubleOptInBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
    ) -> Response:
        """Ask the person by SMS to confirm the form.

        The request allows no marketing. The answer does: an OUI by SMS from the number before `answer_before`, or the
        link in the SMS, if there is a link. 429 with Retry-After: too many questions by the sender's controller, to
        this number or in all, or by this caller. 403 `not-allowed-by-limits`: the organisation may not write to the
        number's place."""
        if body.link and url is None:
            raise NoPage("set PLACET_PAGE_URL", reasons=[Reason("link", "no_page")])

        def link(link_id: str, expires_at: datetime) -> str:
            assert url is not None, "asked for where there is one"
            return url(held, link_id, expires_at)

        here = await of_body(held, caller, body)
        async with here.database.begin() as tx:
            call, claimed = await opened(tx, request, caller, here, key, {body.sender_id})
            purposes_of(call, body.sender_id)
            if claimed.answer is not None:
                return claimed.answer.response()
            statement = statement_of(call, body)  # the consent that a yes would give
            check_here(here, [statement.subject_id])
            countries, fictional = call.countries(body), held.settings.fictional_numbers
            territory = parse(body.number, countries=countries, fictional=fictional).territory
            if not caller.granted.organisation.allow(territory):
                rates.REFUSED.labels("places").inc()
                raise NotAllowedByLimits(
                    f"the limits do not allow messages to {territory}: ask the platform's operator to allow them",
                    reasons=[Reason("number", "place_not_allowed", territory)],
                )
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
            question = await double_opt_ins.ask(
                tx,
                answers(held.field_keys),
                replace(statement, evidence=wanted),
                sender,
                terms,
                caller.account,
                call.now,
                link if url else None,
                with_link=body.link,
                of_all=None if here.database is held.shards.first.database else held.shards.first.database,
            )
            shown = DoubleOptInAnswer(
                subject_id=call.id_shown(statement),
                evidence_id=question.evidence_id,
                answer_before=question.expires_at,
            )
            return await claimed.keep(tx, shown, 202)

    return routes
