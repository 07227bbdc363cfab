"""HTTP routes of the sender registry: register, change and read senders and their versions."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from common import law
from common.contracts.consent import Purpose, Replies
from common.law import Policy
from common.privacy.stop_link import stop_page
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.sms.msisdn import PLANS
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Reason
from consent.answers import own_words
from consent.answers.own_words import Author
from consent.senders import registry as senders
from consent.senders import store
from consent.senders.bodies import (
    ChangedSender,
    NewSender,
    PurposeBody,
    ReachBody,
    RepliesBody,
    SenderBody,
    SenderContent,
    SenderFinding,
    SenderVersion,
)
from consent.senders.copying import changing
from consent.senders.names import Blocked, Listed, entity, skeleton
from consent.senders.store import Reach, Sender, Taken

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
ReadsSenders = Annotated[Caller, Depends(require("sender:read"))]
WritesSenders = Annotated[Caller, Depends(require("sender:write"))]


WHY_BLOCKED: Mapping[Listed, str] = {
    "forbidden": "always blocked",
    "authorised": "blocked unless the platform's operator holds a document of the name's owner",
}


class SenderTaken(Conflict):
    """A sender with this `sender_id` is registered, with other content or by another organisation.

    Change a sender of your own with PUT; choose another `sender_id` for a new one.
    """

    slug, title = "sender-taken", "This sender_id is registered with other content"


class NameTaken(Conflict):
    """The OADC, the brand, the code or the controller belongs to another legal entity on this platform.

    Choose another name. An owner whose name was taken tells the platform's operator.
    """

    slug, title = "name-taken", "The name belongs to another controller"


class TooManyTaken(Conflict):
    """The organisation has as many short codes, or names, as it may have; former ones count.

    Use a code or a name that the organisation has, or ask the platform's operator for more.
    """

    slug, title = "too-many-taken", "The organisation has as many codes or names as it may"


def router(
    blocked: Blocked, shared_codes: Collection[str], policy: Policy, page_url: str | None, most: Taken
) -> APIRouter:
    """Return the routes.

    `shared_codes`: the STOP codes that every organisation may use. `policy`: the law's data, which says where a code
    may be stated reachable, and which countries are covered. `page_url`: where stop links lead, if anywhere. `most`:
    the codes and names that an organisation may take.
    """
    stateable = law.stateable(policy)

    def _body(sender: Sender) -> SenderBody:
        return _shown(sender, policy)

    routes = APIRouter(prefix="/v1/senders")

    @routes.post(
        "",
        operation_id="senders.create",
        status_code=201,
        responses={
            200: {"model": SenderBody, "description": "The same content was registered before."},
            **refuses(NameTaken, SenderTaken, TooManyTaken),
        },
    )
    async def register_sender(body: NewSender, response: Response, caller: WritesSenders, held: Held) -> SenderBody:
        """Register a sender, in version 1.

        201: registered. 200: the same content was registered before. 409: other content is.

        A token limited to some senders may not name a `stop_code` that a sender outside the token uses or used."""
        caller.may_name(body.sender_id)
        _check_controller(caller, body.controller)
        _check_authorisation(caller, body, None)
        _check_replies(body)
        _check_places(body.reachable_in, stateable)
        now = datetime.now(UTC)
        reach = senders.stated((), body.reachable_in, caller.subject, now)
        wanted = _sender(body.sender_id, caller.organisation, body, body.controller or body.sender_id, reach, page_url)
        async with changing(held.shards, [body.sender_id]) as tx:
            if (sender := await store.find_sender(tx, body.sender_id)) is None:
                _check_names(blocked, wanted, None, caller.platform and body.authorisation is not None)
                if not await store.own_controller(tx, wanted.controller, caller.organisation, wanted.legal_name, now):
                    raise NameTaken("choose another `controller`", reasons=[Reason("controller", "taken")])
                before = await store.taken_by(tx, caller.organisation, shared_codes)
                sender, created = await senders.register(tx, wanted, now)
                if created:
                    await _own_names(tx, sender, None, caller.platform and body.authorisation is not None, now)
                    await _check_taken(tx, caller, sender, shared_codes, before, most)
                    await _check_code(tx, caller, sender, shared_codes)
                    return _body(sender)
        if not senders.same_content(sender, wanted):
            raise SenderTaken(
                "another sender has this `sender_id`: change your own with PUT", reasons=[Reason("sender_id", "taken")]
            )
        response.status_code = 200
        return _body(sender)

    @routes.put("/{sender_id}", operation_id="senders.update", responses=refuses(NameTaken, TooManyTaken))
    async def change_sender(sender_id: Storable, body: ChangedSender, caller: WritesSenders, held: Held) -> SenderBody:
        """Store a new version if the content differs; otherwise return the present version.

        `controller` cannot change. The rules for a new sender's `stop_code` and names apply to new ones."""
        await caller.may_use(sender_id)
        if body.sender_id not in (None, sender_id):
            raise Invalid("the body names another sender", reasons=[Reason("sender_id", "not_the_path")])
        _check_replies(body)
        _check_places(body.reachable_in, stateable)
        async with changing(held.shards, [sender_id]) as tx:
            registered = await store.lock_sender(tx, sender_id)
            if registered is None:
                raise no_sender()
            if body.controller not in (None, registered.controller):
                raise Invalid(
                    "another legal entity is another sender, with consents of its own",
                    reasons=[Reason("controller", "not_changeable")],
                )
            _check_authorisation(caller, body, registered.authorisation)
            now = datetime.now(UTC)
            reach = senders.stated(registered.reachable_in, body.reachable_in, caller.subject, now)
            wanted = _sender(sender_id, registered.organisation_id, body, registered.controller, reach, page_url)
            wanted = replace(wanted, authorisation=body.authorisation or registered.authorisation)
            _check_names(blocked, wanted, registered, caller.platform and body.authorisation is not None)
            before = await store.taken_by(tx, registered.organisation_id, shared_codes)
            sender = await senders.change(tx, registered, wanted, now)
            await _own_names(tx, sender, registered, caller.platform and body.authorisation is not None, now)
            await _check_taken(tx, caller, sender, shared_codes, before, most)
            if sender.stop_code != registered.stop_code:
                await _check_code(tx, caller, sender, shared_codes)
        return _body(sender)

    @routes.get("", operation_id="senders.list")
    async def list_senders(
        caller: ReadsSenders, held: Held, cursor: Cursor = None, limit: Limit = LIMIT
    ) -> Page[SenderBody]:
        """List the senders that your token covers, by id."""
        covered = await caller.covered()
        async with held.shards.first.database.begin() as tx:
            found = await store.senders_after(tx, covered, position(cursor, str) or "", limit)
        return Page[SenderBody](
            items=[_body(sender) for sender in found], next=next_of(found, limit, lambda each: each.sender_id)
        )

    @routes.get("/{sender_id}", operation_id="senders.get")
    async def get_sender(sender_id: Storable, caller: ReadsSenders, held: Held) -> SenderBody:
        """Return the sender in its present version."""
        await caller.may_use(sender_id)
        async with held.shards.first.database.begin() as tx:
            sender = await store.find_sender(tx, sender_id)
        if sender is None:
            raise no_sender()
        return _body(sender)

    @routes.get("/{sender_id}/versions", operation_id="senders.list_versions")
    async def list_versions(
        sender_id: Storable,
        caller: ReadsSenders,
        held: Held,
        cursor: Cursor = None,
        limit: Limit = LIMIT,
    ) -> Page[SenderVersion]:
        """List all versions of the sender from version 1 on: a consent refers to the version in force at its time."""
        await caller.may_use(sender_id)
        async with held.shards.first.database.begin() as tx:
            if await store.find_sender(tx, sender_id) is None:
                raise no_sender()
            found = await store.sender_versions(tx, sender_id, position(cursor, int) or 0, limit)
        return Page[SenderVersion](
            items=[SenderVersion(**dict(_body(sender)), in_force_from=at) for sender, at in found],
            next=next_of(found, limit, lambda each: each[0].version),
        )

    return routes


def _check_names(blocked: Blocked, wanted: Sender, registered: Sender | None, authorised: bool) -> None:
    """Raise Invalid if operators block a new name. `authorised`: this call brings the owner's document.

    A document for one name opens no other, so the one on record does not count for a new name.
    """
    reasons = [
        Reason(field, "refused_name", WHY_BLOCKED[listed])
        for field in senders.NAMES
        if registered is None or skeleton(getattr(registered, field)) != skeleton(getattr(wanted, field))
        if (listed := blocked.refuses(getattr(wanted, field), authorised))
    ]
    listed = blocked.refuses_entity(wanted.legal_name, authorised)
    if listed is not None and not _keeps_legal_name(registered, wanted):
        reasons.append(Reason("legal_name", "refused_name", WHY_BLOCKED[listed]))
    if reasons:
        raise Invalid("operators block this name: choose the name of the brand", reasons=reasons)


def _keeps_legal_name(registered: Sender | None, wanted: Sender) -> bool:
    return registered is not None and entity(registered.legal_name) == entity(wanted.legal_name)


async def _own_names(
    tx: AsyncConnection, sender: Sender, registered: Sender | None, authorised: bool, now: datetime
) -> None:
    """Raise NameTaken if another controller has a name that looks like the sender's, or another organisation a new
    legal name.

    `authorised`: the platform's operator has seen that the caller is a legal entity of this name; several may be.
    """
    taken = await senders.own_names(tx, sender, now)
    if authorised or _keeps_legal_name(registered, sender):
        taken = [field for field in taken if field != "legal_name"]
    if taken:
        raise NameTaken(
            "another has this name or one that looks like it: choose another, or send the platform's operator a"
            " document that shows your legal name",
            reasons=[Reason(field, "taken") for field in taken],
        )


async def _check_taken(
    tx: AsyncConnection, caller: Caller, sender: Sender, shared_codes: Collection[str], before: Taken, most: Taken
) -> None:
    """Raise TooManyTaken if this call takes a code or a name beyond `most`. The platform's operator may go beyond.

    Without a cap, one organisation could claim every free code and name.
    """
    if caller.platform:
        return
    taken = await store.taken_by(tx, sender.organisation_id, shared_codes)
    reasons = []
    if taken.codes > max(before.codes, most.codes):
        reasons.append(Reason("stop_code", "too_many", f"at most {most.codes}"))
    if taken.names > max(before.names, most.names):
        reasons += [Reason(field, "too_many", f"at most {most.names}") for field in senders.NAMES]
    if reasons:
        raise TooManyTaken(
            "use a code and names that the organisation has, former ones too, or ask the platform's operator for more",
            reasons=reasons,
        )


def _check_authorisation(caller: Caller, body: SenderContent, registered: str | None) -> None:
    """Raise Forbidden if the caller brings a document that only the platform can have seen."""
    if body.authorisation not in (None, registered) and not caller.platform:
        raise Forbidden(
            "send the owner's document to the platform's operator, who sets `authorisation`",
            reasons=[Reason("authorisation", "platform_only")],
        )


def _check_replies(content: SenderContent) -> None:
    """Raise Invalid with every flaw of the sender's own words, and what to write instead."""
    author = Author(content.legal_name, content.brand, content.contact, content.stop_code)
    wordings = [purpose.wording for purpose in content.purposes]
    found = list(own_words.flaws(Replies(**dict(content.replies)), author, wordings))
    if found:
        raise Invalid(
            "the sender's words do not pass: mend each field as its reason says, or leave own words out",
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
    if controller is not None and not caller.names([controller]):
        raise Forbidden("the token does not cover the controller", reasons=[Reason("controller", "sender_not_granted")])


async def _check_code(tx: AsyncConnection, caller: Caller, sender: Sender, shared_codes: Collection[str]) -> None:
    """Raise NameTaken or Forbidden if a sender outside the organisation or the token uses or used the code.

    A STOP without a name reaches every sender of the code. The lock makes two callers with the same new code wait.
    """
    if sender.stop_code in shared_codes:
        return
    await store.lock_stop_code(tx, sender.stop_code)
    owners = (await store.owners_of(tx, [sender.stop_code])).get(sender.stop_code, {})
    if any(owner.organisation_id != sender.organisation_id for owner in owners.values()):
        raise NameTaken(
            "another organisation has this code: ask the platform's operator for a code of your own, or a shared one",
            reasons=[Reason("stop_code", "taken")],
        )
    if not caller.names(owners):
        raise Forbidden(
            "another sender's code: a token for every sender sets up a shared one",
            reasons=[Reason("stop_code", "sender_not_granted")],
        )


def no_sender() -> NotFound:
    return NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])


def _sender(
    sender_id: str,
    organisation_id: str,
    content: SenderContent,
    controller: str,
    reach: tuple[Reach, ...],
    page_url: str | None,
) -> Sender:
    return Sender(
        sender_id=sender_id,
        organisation_id=organisation_id,
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
        authorisation=content.authorisation,
        reachable_in=reach,
        stop_page=stop_page(page_url, sender_id) if page_url else None,
    )


def _shown(sender: Sender, policy: Policy) -> SenderBody:
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
        authorisation=sender.authorisation,
        reachable_in=tuple(reach.place for reach in sender.reachable_in),
        reach_stated=tuple(
            ReachBody(place=r.place, stated_by=r.stated_by, stated_at=r.stated_at) for r in sender.reachable_in
        ),
        stop_page=sender.stop_page,
        findings=tuple(_findings(sender, policy)),
    )


def _findings(sender: Sender, policy: Policy) -> Iterator[SenderFinding]:
    """Yield a finding for each of the sender's countries that the law's data, or the numbering plans, lack."""
    fields = {"country": sender.country} | {f"abroad.{place}": each for place, each in enumerate(sender.abroad)}
    for field, country in fields.items():
        if country not in PLANS or not law.covers(country, policy):
            yield SenderFinding(
                field=field,
                reason="country_not_covered",
                detail=f"no rules are known for {country}: marketing to its numbers is denied, and its numbers are read"
                " in international form alone",
            )
