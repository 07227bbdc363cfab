"""Serve the call by which an internal service makes a link to a person's preference page."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import FieldKeys, LinkKeys
from common.limits import PARIS
from common.service import Resources
from common.sms.message_id import message_id
from common.sms.msisdn import NumberRefused, parse
from common.web.auth import Caller, require
from common.web.fields import NumberCountry, Short
from common.web.idempotency import Key, Keyed, claim, keyed
from common.web.openapi import refuses
from common.web.problems import Forbidden, Invalid, NotFound, Reason
from consent.answers import answers as texted
from consent.answers import replies
from consent.answers.answers import Answer, Answers
from consent.bodies import EXAMPLE_NUMBER, Body, Number
from consent.calls import NoPage, id_shown, of_person
from consent.ledger import store as ledger_store
from consent.page.link import Link, token
from consent.page.routes import PATH, Held, PageSettings
from consent.rights import store as rights_store
from consent.rights.store import PreferenceLink
from consent.senders import store as senders_store
from consent.senders.store import Sender

WritesConsent = Annotated[Caller, Depends(require("consent:write", looks_up=True))]


class LinkBody(Body):
    """The person and the sender. `sender_id` is required; null shows every sender."""

    sender_id: Short | None = Field(
        description="The sender whose page to show; null shows every sender, for the platform's operator alone."
    )
    number: Number = Field(
        description="A mobile number in any usual notation. A writing that could be two people's is refused as"
        " `ambiguous`."
    )
    country: NumberCountry = None
    days: int | None = Field(
        None, ge=1, le=90, description="The days that the link works. Default: as the platform is set."
    )
    send: bool = Field(
        False, description="Send the link to the person, whose number is on record; the response omits the link."
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sender_id": "acme", "number": EXAMPLE_NUMBER, "send": True}]}
    )


class LinkAnswer(BaseModel):
    """A link. `url` is for this person's phone only, and null where the link was texted. `subject_id`: the person's id
    with the sender's controller; of a link to every sender, the platform's own id.

    The URL is not stored but for a repeat of the request under its Idempotency-Key: after a loss, make another link.
    """

    subject_id: str = Field(
        description="The person's id with the sender's controller; of a link to every sender, the platform's own id."
    )
    url: str | None = Field(description="The address, for this person's phone only; null where the link was texted.")
    expires_at: datetime = Field(description="The link works until this instant.")


def router(answers: Callable[[FieldKeys], Answers]) -> APIRouter:
    """Return the API router. `answers` caps the texts to a number, of every kind."""
    router = APIRouter(prefix="/v1")

    @router.post(
        "/preference-links",
        operation_id="preference_links.create",
        status_code=201,
        response_model=LinkAnswer,
        responses=refuses(NotFound, NoPage),
    )
    async def make_link(
        body: LinkBody, request: Request, caller: WritesConsent, held: Held, key: Key = None
    ) -> Response:
        """Make a short link to a person's preference page, and text the link or return the URL.

        A URL given to a caller stops, and neither opts in nor erases, unless the caller is the platform's operator; use
        `send` for these.
        With an Idempotency-Key, the same request returns the same link and texts once, as long as the link lasts. A
        link is texted to a person on
        the sender's record, at most a few times a day; the answer for another number is the same.
        """
        if body.sender_id is not None:
            await caller.may_use(body.sender_id)
        elif not caller.everywhere:
            raise Forbidden(
                "only the platform's operator may show every sender: name `sender_id`",
                reasons=[Reason("sender_id", "sender_not_granted")],
            )
        if held.settings.page_url is None:
            raise NoPage("set PLACET_PAGE_URL")
        named = [body.sender_id] if body.sender_id is not None else []
        countries = await caller.countries(body.country, named, held.settings.country)
        try:
            number = parse(body.number, countries=countries, fictional=held.settings.fictional_numbers).e164
        except NumberRefused as refused:
            reason = Reason("number", refused.reason, refused.remedy)
            raise Invalid("`number` is not a mobile number that can be texted", reasons=[reason]) from None
        now = datetime.now(UTC)
        subject_id = held.subject_keys.subject_id(number)
        asked = await keyed(request, caller, key, held.subject_keys)
        link = PreferenceLink(
            link_id=_link_id(held, asked),
            subject_id=subject_id,
            number=held.field_keys.seal(number, f"number:{subject_id}"),
            sender_id=body.sender_id,
            expires_at=(now + timedelta(days=body.days or held.settings.link_days)).replace(microsecond=0),
            whole=body.send or caller.everywhere,  # an unsent link rolls back
            given_to=None if body.send else caller.subject,
        )
        async with of_person(held, subject_id).database.begin() as tx:
            claimed = await claim(tx, asked)
            sender = await senders_store.find_sender(tx, body.sender_id) if body.sender_id else None
            if claimed.answer is not None and await rights_store.narrow_link(tx, link, now):
                return claimed.answer.response()
            expires_at = await rights_store.add_link(tx, link, now)
            link = replace(link, expires_at=expires_at)
            url = _url(held.link_keys, held.settings.page_url, link.link_id, expires_at)
            if body.send:
                await _send(tx, answers(held.field_keys), link, sender, url, now)
            who = await id_shown(caller, held, body.sender_id, subject_id)
            shown = LinkAnswer(subject_id=who, url=None if body.send else url, expires_at=expires_at)
            return await claimed.keep(tx, shown, 201)

    return router


def link_in_answer(keys: LinkKeys, page_url: str, seed: str, expires_at: datetime) -> tuple[str, str]:
    """Return the id and the URL of an answer's link, the same for the same seed."""
    link_id = keys.tag(b"answer link " + seed.encode())[:8].hex()
    return link_id, _url(keys, page_url, link_id, expires_at)


def _url(keys: LinkKeys, page_url: str, link_id: str, expires_at: datetime) -> str:
    return f"{page_url.rstrip('/')}{PATH}/{token(Link(link_id, expires_at), keys)}"


async def _send(
    tx: AsyncConnection, answers: Answers, link: PreferenceLink, sender: Sender | None, url: str, now: datetime
) -> None:
    """Text the link to its person, once, if the person is on the sender's record and the cap allows another text.

    The caller learns of neither. Raises Invalid without a sender.
    """
    if sender is None:
        raise Invalid("`sender_id` is required when `send` is true", reasons=[Reason("sender_id", "sender_missing")])
    known = await ledger_store.lock_subjects(tx, {}, known=[link.subject_id])
    if not any(m.sender_id == sender.sender_id for subject in known.values() for m in subject.state.marks):
        texted.ANSWERS.labels("preferences", "unknown_subject").inc()  # or a caller could have any number texted
        return
    identity = replies.Identity(sender.legal_name, sender.brand, sender.contact, sender.stop_code, sender.replies)
    answer = Answer(
        message_id=message_id(link.expires_at, "preference link", link.link_id),
        subject_id=link.subject_id,
        number=link.number,
        sender_id=sender.sender_id,
        kind="preferences",
        text=replies.preferences(identity, url, link.expires_at.astimezone(PARIS)),
        since=now,
    )
    await answers.give(tx, [answer], now)


def _link_id(held: Resources[PageSettings], asked: Keyed | None) -> str:
    """Return a random id, or with a key the same id for the same request."""
    if asked is None:
        return secrets.token_hex(8)
    seed = "\n".join((asked.caller, asked.key, asked.fingerprint))
    return held.link_keys.tag(b"link id " + seed.encode())[:8].hex()
