"""Webhooks over HTTP: add, change, rotate the secret, test, read the delivery log, replay.

A webhook belongs to an organisation, and to the senders that its author's token covered. A token sees the webhooks
about no other sender than its own.
"""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from msgspec.structs import asdict, replace
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.feed import store as feed
from campaign.feed.event import Told, Type
from campaign.senders.caller import of_caller
from campaign.webhooks import signing, store
from campaign.webhooks.bodies import (
    Asked,
    Delivery,
    NewWebhook,
    Replay,
    Replayed,
    Rotation,
    Webhook,
    WebhookChange,
    WebhookWithSecret,
)
from campaign.webhooks.destinations import refusal
from campaign.webhooks.sender import LEASE
from campaign.webhooks.signing import Secret
from common.service import Resources
from common.web.auth import NOBODY, Caller, require
from common.web.fields import Storable
from common.web.idempotency import Key, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, whole_page
from common.web.problems import Conflict, Invalid, NotFound, Reason

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Held = Annotated[Resources[Any], Depends(of_caller)]
Reader = Annotated[Caller, Depends(require("webhook:read"))]
Writer = Annotated[Caller, Depends(require("webhook:write"))]


class DestinationRefused(Invalid):
    """The URL is no destination for events: not https, not public, with credentials, or with a fragment.

    Give an https URL at a public address, without user, password and fragment. The reason of `url` names the flaw.
    """

    slug, title = "destination-refused", "Events cannot be sent to this URL"


@router.post(
    "",
    operation_id="webhooks.create",
    status_code=201,
    response_model=WebhookWithSecret,
    responses=tells(201, "Location") | refuses(NotFound, DestinationRefused),
)
async def add_webhook(body: NewWebhook, request: Request, held: Held, caller: Writer, key: Key = None) -> Response:
    """Add a destination, which gets the events from now on. The answer has the secret of the signatures.

    A repeat of the request with the same `Idempotency-Key` gets the first answer, with the first secret.
    """
    _look_at(body.url, held)
    senders = sorted(set(body.sender_ids)) if body.sender_ids is not None else None
    if senders is None and not caller.for_every_sender:
        senders = await caller.covered()
    for sender_id in senders or ():
        await caller.may_use(sender_id, "sender_ids")
    webhook_id, now = derived_id("whk", caller, key), datetime.now(UTC)
    fingerprint = await fingerprint_of(request, held.subject_keys)
    own = [Secret(signing.secret_of(secrets.token_bytes(signing.SECRET_BYTES)))]
    async with held.database.begin() as tx:
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        await feed.begin(tx, caller.organisation, now)
        await store.insert(
            tx,
            webhook_id,
            caller.organisation,
            url=body.url,
            types=body.types,
            senders=senders,
            description=body.description,
            secrets=store.sealed(own, webhook_id, held.field_keys),
            created_by=caller.subject,
            fingerprint=fingerprint,
            now=now,
        )
        found = await _found(tx, caller, webhook_id)
        same(found.fingerprint, fingerprint)
        return await claimed.keep(tx, _with_secret(found, held), 201, {"Location": f"/v1/webhooks/{webhook_id}"})


@router.get("", operation_id="webhooks.list")
async def list_webhooks(held: Held, caller: Reader, cursor: Cursor = None, limit: Limit = LIMIT) -> Page[Webhook]:
    """List the webhooks of your organisation about no other senders than your token's, oldest first."""
    senders = None if caller.for_every_sender else await caller.covered()
    async with held.database.begin() as tx:
        after = position(cursor, int) or 0
        found = await whole_page(
            tx,
            "webhook",
            limit,
            lambda: store.webhooks_after(tx, caller.organisation, after, senders, limit),
            lambda each: each.position,
        )
    return Page[Webhook](items=list(map(_shown, found)), next=next_of(found, limit, lambda each: each.position))


@router.get("/{webhook_id}", operation_id="webhooks.get")
async def get_webhook(webhook_id: Storable, held: Held, caller: Reader) -> Webhook:
    """Return a webhook, and how its destination answers."""
    async with held.database.begin() as tx:
        return _shown(await _found(tx, caller, webhook_id))


@router.patch("/{webhook_id}", operation_id="webhooks.update", responses=refuses(DestinationRefused))
async def change_webhook(webhook_id: Storable, body: WebhookChange, held: Held, caller: Writer) -> Webhook:
    """Change a webhook. Other types count for events from now on.

    `status: enabled` begins at the first event not yet told, and makes every waiting delivery due.
    """
    if body.url is not None:
        _look_at(body.url, held)
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        found = await _found(tx, caller, webhook_id, lock=True)
        said = body.model_dump(exclude_unset=True)
        changed = replace(
            found,
            url=found.url if body.url is None else body.url,
            types=body.types if "types" in said else found.types,
            description=found.description if body.description is None else body.description,
        )
        match body.status:
            case "enabled":
                changed = replace(
                    changed, enabled="enabled", disabled_at=None, failures=0, failing_since=None, rests_until=None
                )
            case "paused" if changed.enabled == "enabled":
                changed = replace(changed, enabled="paused", disabled_at=now)
        await store.put(tx, changed)
        if body.status == "enabled":
            await store.make_due(tx, [webhook_id], now, LEASE)
    return _shown(changed)


@router.delete("/{webhook_id}", operation_id="webhooks.delete", status_code=204)
async def delete_webhook(webhook_id: Storable, held: Held, caller: Writer) -> None:
    """Delete a webhook and its delivery log. No delivery begins afterwards."""
    async with held.database.begin() as tx:
        await _found(tx, caller, webhook_id, lock=True)
        await store.delete(tx, webhook_id)


@router.post("/{webhook_id}/rotate", operation_id="webhooks.rotate_secret")
async def rotate_secret(
    webhook_id: Storable, held: Held, caller: Writer, body: Rotation | None = None
) -> WebhookWithSecret:
    """Give a webhook a new secret. For a while, each delivery has a signature by the former secret, too."""
    now = datetime.now(UTC)
    until = now + timedelta(seconds=(body or Rotation()).former_ends_in_s)
    async with held.database.begin() as tx:
        found = await _found(tx, caller, webhook_id, lock=True)
        new = signing.secret_of(secrets.token_bytes(signing.SECRET_BYTES))
        own = signing.rotated(found.opened(held.field_keys), new, now, until)
        found = replace(found, secrets=store.sealed(own, webhook_id, held.field_keys))
        await store.put(tx, found)
    return _with_secret(found, held)


@router.post("/{webhook_id}/test", operation_id="webhooks.test", status_code=202, responses=refuses(Conflict))
async def test_webhook(webhook_id: Storable, held: Held, caller: Writer) -> Asked:
    """Send an event `webhook.test` to this webhook alone; the delivery log has the outcome."""
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        found = await _found(tx, caller, webhook_id)
        if found.enabled != "enabled":
            raise Conflict("enable the webhook first", reasons=[Reason("status", found.enabled)])
        told = Told(
            type=Type.TEST,
            sender_id=None,
            about=webhook_id,
            occasion=(webhook_id, secrets.token_hex(8)),
            at=now,
            data={"webhook_id": webhook_id},
        )
        return Asked(event_id=await feed.add_test(tx, found.organisation_id, webhook_id, told))


@router.get("/{webhook_id}/deliveries", operation_id="webhooks.list_deliveries")
async def list_deliveries(
    webhook_id: Storable,
    held: Held,
    caller: Reader,
    state: Annotated[store.State | None, Query(description="Only deliveries in this state.")] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Delivery]:
    """List a webhook's deliveries, newest event first. The log has the events of the last days."""
    async with held.database.begin() as tx:
        await _found(tx, caller, webhook_id)
        found = await store.deliveries_before(tx, webhook_id, position(cursor, int), state, limit)
    items = [
        Delivery.model_validate(asdict(each) | {"due_at": each.due_at if each.state == "waiting" else None})
        for each in found
    ]
    return Page[Delivery](items=items, next=next_of(found, limit, lambda each: each.position))


@router.post("/{webhook_id}/replay", operation_id="webhooks.replay")
async def replay_deliveries(webhook_id: Storable, body: Replay, held: Held, caller: Writer) -> Replayed:
    """Send settled deliveries again, under the same event ids."""
    async with held.database.begin() as tx:
        await _found(tx, caller, webhook_id)
        many = await store.replay(
            tx, webhook_id, event_id=None, since=body.since, failed=body.failed_only, now=datetime.now(UTC)
        )
    return Replayed(deliveries=many)


@router.post("/{webhook_id}/deliveries/{event_id}/replay", operation_id="webhooks.replay_delivery")
async def replay_delivery(webhook_id: Storable, event_id: Storable, held: Held, caller: Writer) -> Replayed:
    """Send a settled delivery again, under the same event id."""
    async with held.database.begin() as tx:
        await _found(tx, caller, webhook_id)
        many = await store.replay(tx, webhook_id, event_id=event_id, since=None, failed=False, now=datetime.now(UTC))
    if not many:
        raise NotFound(
            "no settled delivery of this event is in the log", reasons=[Reason("event_id", "unknown_delivery")]
        )
    return Replayed(deliveries=many)


def _look_at(url: str, held: Resources[Any]) -> None:
    """Raise DestinationRefused for an URL that no delivery would go to. Names are resolved at each delivery."""
    if (why := refusal(url, private=held.settings.webhooks_private)) is not None:
        raise DestinationRefused(
            "`url` must be https at a public address, without credentials or fragment", reasons=[Reason("url", why)]
        )


async def _found(tx: AsyncConnection, caller: Caller, webhook_id: str, *, lock: bool = False) -> store.Webhook:
    """Return a webhook of the caller's organisation, about no other senders than the token's. Raises NotFound."""
    found = await store.find(tx, caller.organisation, webhook_id, lock=lock)
    senders = None if found is None else found.senders
    seen = await caller.seen(senders or [NOBODY], tx)
    covered = caller.for_every_sender if senders is None else seen.issuperset(senders)
    if found is None or not covered:
        raise NotFound("no such webhook", reasons=[Reason("webhook_id", "unknown_webhook")])
    return found


def _fields(found: store.Webhook) -> dict[str, object]:
    return asdict(found) | {"sender_ids": found.senders, "status": found.enabled}


def _shown(found: store.Webhook) -> Webhook:
    return Webhook.model_validate(_fields(found))


def _with_secret(found: store.Webhook, held: Resources[Any]) -> WebhookWithSecret:
    own = found.opened(held.field_keys)
    return WebhookWithSecret.model_validate(_fields(found) | {"secret": own[0].secret})
