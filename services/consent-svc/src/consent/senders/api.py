"""HTTP routes of the sender registry: register, change and read senders and their versions."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Purpose, Replies
from common.privacy.stop_link import stop_page
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Reason
from consent.answers import own_words
from consent.answers.own_words import Author
from consent.senders import oadc, store
from consent.senders import registry as senders
from consent.senders.bodies import (
    ChangedSender,
    NewSender,
    PurposeBody,
    ReachBody,
    RepliesBody,
    SenderBody,
    SenderContent,
    SenderVersion,
)
from consent.senders.store import Reach, Sender

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
ReadsSenders = Annotated[Caller, Depends(require("sender:read"))]
WritesSenders = Annotated[Caller, Depends(require("sender:write"))]


class SenderTaken(Conflict):
    slug, title = "sender-taken", "This sender_id is registered with other content"


def router(refused_oadcs: Collection[str], stateable: Collection[str], page_url: str | None) -> APIRouter:
    """Return the routes.

    `refused_oadcs`: names that AF2M forbids or reserves to an owner. `stateable`: the places for which the law's data
    takes a statement that the sender's code is reachable. `page_url`: where stop links lead, if anywhere.
    """
    routes = APIRouter(prefix="/v1/senders")

    @routes.post("", status_code=201)
    async def register_sender(body: NewSender, response: Response, caller: WritesSenders, held: Held) -> SenderBody:
        """Register a sender: 201 with version 1, 200 if the same content is registered, 409 if other content is.

        A token limited to some senders may not name a `stop_code` that a sender outside the token uses or used."""
        caller.may_use(body.sender_id)
        _check_oadc(body.oadc, refused_oadcs)
        _check_controller(caller, body.controller)
        _check_replies(body)
        _check_places(body.reachable_in, stateable)
        now = datetime.now(UTC)
        wanted = _sender(
            body.sender_id,
            body,
            body.controller or body.sender_id,
            senders.stated((), body.reachable_in, caller.subject, now),
            page_url,
        )
        async with held.database.begin() as tx:
            sender, created = await senders.register(tx, wanted, now)
            if created:
                await _check_code(tx, caller, sender.stop_code)
        if not created:
            if not senders.same_content(sender, wanted):
                raise SenderTaken("change it with PUT", reasons=[Reason("sender_id", "taken")])
            response.status_code = 200
        return _body(sender)

    @routes.put("/{sender_id}")
    async def change_sender(sender_id: Storable, body: ChangedSender, caller: WritesSenders, held: Held) -> SenderBody:
        """Store a new version if the content differs; otherwise return the present version.

        `controller` cannot change. The rule for a new sender's `stop_code` applies to a new code."""
        caller.may_use(sender_id)
        if body.sender_id not in (None, sender_id):
            raise Invalid("the body names another sender", reasons=[Reason("sender_id", "not_the_path")])
        _check_replies(body)
        _check_places(body.reachable_in, stateable)
        async with held.database.begin() as tx:
            registered = await store.lock_sender(tx, sender_id)
            if registered is None:
                raise no_sender()
            if body.oadc != registered.oadc:
                _check_oadc(body.oadc, refused_oadcs)
            if body.controller not in (None, registered.controller):
                raise Invalid(
                    "another legal entity is another sender, with consents of its own",
                    reasons=[Reason("controller", "not_changeable")],
                )
            now = datetime.now(UTC)
            reach = senders.stated(registered.reachable_in, body.reachable_in, caller.subject, now)
            wanted = _sender(sender_id, body, registered.controller, reach, page_url)
            sender = await senders.change(tx, registered, wanted, now)
            if sender.stop_code != registered.stop_code:
                await _check_code(tx, caller, sender.stop_code)
        return _body(sender)

    @routes.get("/{sender_id}")
    async def get_sender(sender_id: Storable, caller: ReadsSenders, held: Held) -> SenderBody:
        caller.may_use(sender_id)
        async with held.database.begin() as tx:
            sender = await store.find_sender(tx, sender_id)
        if sender is None:
            raise no_sender()
        return _body(sender)

    @routes.get("/{sender_id}/versions")
    async def list_versions(
        sender_id: Storable,
        caller: ReadsSenders,
        held: Held,
        cursor: Cursor = None,
        limit: Limit = LIMIT,
    ) -> Page[SenderVersion]:
        """List all versions of the sender from version 1 on: a consent refers to the version in force at its time."""
        caller.may_use(sender_id)
        async with held.database.begin() as tx:
            if await store.find_sender(tx, sender_id) is None:
                raise no_sender()
            found = await store.sender_versions(tx, sender_id, position(cursor, int) or 0, limit)
        return Page[SenderVersion](
            items=[SenderVersion(**dict(_body(sender)), in_force_from=at) for sender, at in found],
            next=next_of(found, limit, lambda each: each[0].version),
        )

    return routes


def _check_oadc(wanted: str, refused: Collection[str]) -> None:
    """Raise Invalid if operators refuse the name."""
    if oadc.is_refused(wanted, refused):
        raise Invalid(
            "operators refuse this `oadc`: choose the name of the brand",
            reasons=[Reason("oadc", "refused_oadc", "as AF2M lists it")],
        )


def _check_replies(content: SenderContent) -> None:
    """Raise Invalid with every flaw of the sender's own words, and what to write instead."""
    author = Author(content.legal_name, content.brand, content.contact, content.stop_code)
    found = list(own_words.flaws(Replies(**dict(content.replies)), author))
    if found:
        raise Invalid(
            "the sender's words for answers do not pass: mend each field as its reason says, or leave own words out",
            reasons=[Reason(field, flaw.rule, flaw.instead) for field, flaw in found],
        )


def _check_places(wanted: Sequence[str], stateable: Collection[str]) -> None:
    """Raise Invalid for places where no statement makes a STOP code reachable."""
    reasons = [
        Reason(f"reachable_in.{at}", "not_by_statement", "one of " + ", ".join(sorted(stateable)))
        for at, place in enumerate(wanted)
        if place not in stateable
    ]
    if reasons:
        raise Invalid(
            "`reachable_in` takes overseas places of France: elsewhere a text needs {stop_link}", reasons=reasons
        )


def _check_controller(caller: Caller, controller: str | None) -> None:
    """Raise Forbidden if the token does not cover the controller, to which a STOP may reach (ADR-0020)."""
    if controller is not None and caller.senders is not None and controller not in caller.senders:
        raise Forbidden("the token does not cover the controller", reasons=[Reason("controller", "sender_not_granted")])


async def _check_code(tx: AsyncConnection, caller: Caller, stop_code: str) -> None:
    """Raise Forbidden if a sender outside the token uses or used the code, which a STOP without a name reaches.

    The lock makes two callers with the same new code wait.
    """
    await store.lock_stop_code(tx, stop_code)
    owners = (await store.owners_of(tx, [stop_code])).get(stop_code, {})
    if caller.senders is not None and not caller.senders.issuperset(owners):
        raise Forbidden(
            "another sender's code: a token for every sender sets up a shared one",
            reasons=[Reason("stop_code", "sender_not_granted")],
        )


def no_sender() -> NotFound:
    return NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])


def _sender(
    sender_id: str, content: SenderContent, controller: str, reach: tuple[Reach, ...], page_url: str | None
) -> Sender:
    return Sender(
        sender_id=sender_id,
        legal_name=content.legal_name,
        brand=content.brand,
        contact=content.contact,
        country=content.country,
        oadc=content.oadc,
        stop_code=content.stop_code,
        purposes=tuple(Purpose(**dict(p)) for p in content.purposes),
        controller=controller,
        stop_scope=content.stop_scope,
        replies=Replies(**dict(content.replies)),
        double_opt_in_hours=content.double_opt_in_hours,
        renewal_days=content.renewal_days,
        abroad=tuple(sorted({*content.abroad} - {content.country})),
        reachable_in=reach,
        stop_page=stop_page(page_url, sender_id) if page_url else None,
    )


def _body(sender: Sender) -> SenderBody:
    return SenderBody(
        sender_id=sender.sender_id,
        version=sender.version,
        legal_name=sender.legal_name,
        brand=sender.brand,
        contact=sender.contact,
        country=sender.country,
        oadc=sender.oadc,
        stop_code=sender.stop_code,
        stop_code_class=senders.stop_code_class(sender.stop_code),
        purposes=tuple(
            PurposeBody(id=p.id, wording=p.wording, retention_months=p.retention_months) for p in sender.purposes
        ),
        controller=sender.controller,
        stop_scope=sender.stop_scope,
        replies=RepliesBody(
            stop=sender.replies.stop,
            contact=sender.replies.contact,
            double_opt_in=sender.replies.double_opt_in,
            start=sender.replies.start,
        ),
        double_opt_in_hours=sender.double_opt_in_hours,
        renewal_days=sender.renewal_days,
        abroad=sender.abroad,
        reachable_in=tuple(reach.place for reach in sender.reachable_in),
        reach_stated=tuple(
            ReachBody(place=r.place, stated_by=r.stated_by, stated_at=r.stated_at) for r in sender.reachable_in
        ),
        stop_page=sender.stop_page,
    )
