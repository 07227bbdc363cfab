"""Proof over HTTP: receipts of ledger lines, bundles, seals on the whole ledger, and the public keys."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from common.db import everywhere
from common.db.shards import Shard, Shards
from common.privacy.signing import KeySet, SigningKeys
from common.service import Resources, resources
from common.settings import KeyRingSettings, ServiceSettings
from common.sms.message_id import began
from common.web.auth import NOBODY, Caller, require
from common.web.fields import NumberCountry, Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import NotFound, PastItsTime, Reason
from common.web.streaming import Streamed
from consent.bodies import Body, Number
from consent.calls import any_number, countries_of_all
from consent.ledger import ended_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import GENESIS, PERSONAL, Ended, Entry
from consent.ledger.rules import Evidence
from consent.proof import receipt as proof
from consent.proof import sealing, seals, store
from consent.proof.bundle import MessageLine, SubjectLine, Withheld, Writer
from consent.proof.receipt import Party
from consent.proof.retold import own, retold
from consent.proof.seals import Seal
from consent.proof.store import HandedOff
from consent.senders import store as senders_store

BUNDLE_TYPE = "application/jsonl"
BUNDLE: dict[int | str, dict[str, object]] = {
    200: {
        "content": {
            BUNDLE_TYPE: {
                "schema": {"type": "string", "format": "binary"},
                "example": '{"line":"bundle","format":"placet-bundle-1","made_at":"2026-03-02T14:05:00Z"}\n',
            }
        }
    }
}
OfShard = Annotated[
    Storable | None, Query(max_length=16, description="The shard whose ledger is asked for. Default: of partition 0.")
]
SUBJECTS = 50  # per transaction: a signature takes a tenth of a millisecond, and other requests wait
MIXED = 2000  # people of a campaign's bundle whose messages are in memory at once
JWKS_KEPT_S = 300


class ProofBody(Body):
    """A number to prove."""

    number: Number = Field(description="A number in any notation with a digit.")
    country: NumberCountry = None
    name_the_number: bool = Field(
        False, description="True: the bundle contains the number, for the person or the regulator only."
    )


class SealedBody(BaseModel):
    """The fields which the receipt proves without revealing: `ledger.sealed` is the SHA-256 of `salt` and the canonical
    JSON of the other fields."""

    salt: str = Field(description="The salt of the digest, in base64url.")
    actor: str | None
    form_id: str | None
    form_version: str | None
    reference: str | None = Field(
        description="The operator's name of the text or DLR behind the line, such as `ovh/main/mo-1843`; null"
        " without one. An erasure takes the value."
    )
    sale_reference: str | None
    text_shown: str | None


class ReceiptBody(BaseModel):
    """The signed proof of a line of the ledger."""

    evidence_id: str
    receipt: str = Field(description="A compact JWS, to check against `/.well-known/jwks.json`.")
    record: dict[str, object] = Field(description="The payload of the JWS.")
    sealed: SealedBody | None
    corrections: list["ReceiptBody"] = Field(
        [], description="The receipts of the lines that correct this line, to show with this receipt."
    )


class SealBody(BaseModel):
    """A seal on the ledger's entries after the seal before, up to `last`."""

    number: int = Field(description="The number of the seal, from 1.")
    previous: str = Field(description="The hash of the seal before.")
    entries: int = Field(description="Entries under this seal.")
    first: int = Field(description="The ordinal of the first entry under this seal.")
    last: int = Field(description="The ordinal of the last entry under this seal.")
    root: str = Field(
        description="The root of the Merkle tree over the hashes of the entries (RFC 6962), in hexadecimal."
    )
    sealed_at: datetime = Field(description="The time of the seal.")
    hash: str = Field(
        description="SHA-256 of the hash before and the canonical JSON of the other fields, in hexadecimal."
    )
    pin: str = Field(description="The value to keep elsewhere, for `python -m consent verify --pin`.")
    signature: str = Field(description="A compact JWS over the canonical JSON of the fields from `number` to `hash`.")
    shard: str | None = Field(
        None, description="The shard whose ledger is sealed, each with seals of its own; null without shards."
    )


def router(ring: KeyRingSettings, retired: dict[str, str], handed_off_kept: timedelta) -> APIRouter:
    """Return the routes, which sign with the current key of `ring`. Raises ValueError for an invalid key.

    `handed_off_kept`: retention of the messages handed off.
    """
    routes = APIRouter()
    keys = SigningKeys(ring, retired)

    @routes.get("/.well-known/jwks.json", operation_id="keys.get")
    async def get_keys(response: Response) -> KeySet:
        """Return the public keys, retired keys included. The route needs no token: any reader may check a receipt."""
        response.headers["Cache-Control"] = f"public, max-age={JWKS_KEPT_S}"
        return keys.jwks

    @routes.get("/v1/receipts/{evidence_id}", operation_id="receipts.get")
    async def get_receipt(
        evidence_id: Storable,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> ReceiptBody:
        """Return the signed receipt of a ledger line, the payload, and the receipts of corrections.

        A line of a sender outside the token gives 404, and so does a line about every sender, except to the platform's
        operator.
        """
        database = held.database
        if held.shards.divided:
            shard, _ = await everywhere.found(held.shards, lambda tx: ledger_store.find_entry(tx, evidence_id))
            database = shard.database
        async with database.begin() as tx:
            entry = await ledger_store.find_entry(tx, evidence_id)
            sender_id = _sender_of(entry) if entry else None
            seen = await caller.seen([sender_id or NOBODY], tx)
            if entry is None or not (seen or (sender_id is None and caller.everywhere)):
                raise NotFound("no such evidence", reasons=[Reason("evidence_id", "unknown_evidence")])
            parties = await store.parties(tx, {sender_id} if sender_id else set())
            ((_, entries),) = await ledger_store.whole_histories(tx, [entry.subject_id])
            controllers = await senders_store.controllers_of_senders(tx, _named(entries))
            ended = await ended_store.of_subject(tx, entry.subject_id) if sender_id is None else []
        if sender_id is None:
            entries = own(entries, ended, held.subject_keys.inner(entry.subject_id))
        else:
            entries = _retold(held, entries, controllers, controllers[sender_id], entry.subject_id)
        told, *corrections = [
            _receipt(each, parties, keys)
            for each in entries
            if evidence_id in (each.evidence.evidence_id, each.evidence.corrects)
        ]
        return told.model_copy(update={"corrections": corrections})

    @routes.get("/v1/seals/newest", operation_id="seals.get_newest", responses=refuses(NotFound))
    async def get_newest_seal(
        caller: Annotated[Caller, Depends(require("consent:read", platform=True))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
        shard: OfShard = None,
    ) -> SealBody:
        """Return the newest seal on the whole ledger, signed.

        A kept `pin` lets `python -m consent verify --pin` check the whole ledger up to this seal. For the platform's
        operator: a seal tells how much every organisation has recorded.
        """
        of = _shard(held.shards, shard)
        async with of.database.begin() as tx:
            seal = await sealing.newest(tx)
        if seal is None:
            raise NotFound(
                "no seal exists yet: the first one covers the first entries of the ledger",
                reasons=[Reason(None, "no_seal")],
            )
        return _seal_body(of, seal, keys)

    @routes.get("/v1/seals", operation_id="seals.list", responses=refuses(NotFound))
    async def get_seals(
        caller: Annotated[Caller, Depends(require("consent:read", platform=True))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
        shard: OfShard = None,
        cursor: Cursor = None,
        limit: Limit = LIMIT,
    ) -> Page[SealBody]:
        """List every seal, oldest first, for the platform's operator. A seal holds no personal data."""
        of = _shard(held.shards, shard)
        async with of.database.begin() as tx:
            found = await sealing.page(tx, position(cursor, int) or 0, limit)
        return Page[SealBody](
            items=[_seal_body(of, seal, keys) for seal in found], next=next_of(found, limit, attrgetter("number"))
        )

    @routes.post("/v1/proofs", operation_id="proofs.get", response_class=Response, responses=BUNDLE | refuses(NotFound))
    async def get_bundle(
        body: ProofBody,
        caller: Annotated[Caller, Depends(require("consent:read", looks_up=True))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> Response:
        """Return the whole record of a number, in one file for `python -m consent verify-bundle`.

        The file has a chain for each controller of the token's senders, under the person's id with the controller.
        Without any record of these senders the chain is empty, whatever others have on record. Of the controller's
        other senders' entries, and of those about every sender, the caller gets the hashes. The platform's operator
        gets the ledger's own chain, linked under the platform's own id of the person.
        """
        number = any_number(body.number, held, await countries_of_all(caller, held, body.country))
        subject_id = held.subject_keys.subject_id(number)
        async with held.database_of(subject_id).begin() as tx:
            ((_, entries),) = await ledger_store.whole_histories(tx, [subject_id])
            ended = await ended_store.of_subject(tx, subject_id) if caller.everywhere else []
            named = _named(entries) | {NOBODY}
            seen = await caller.seen(named, tx)
            parties = await store.parties(tx, seen)
            controllers = await senders_store.controllers_of_senders(tx, named)

        def sees(sender_id: str | None) -> bool:
            return sender_id in seen if sender_id is not None else caller.everywhere

        chains = {subject_id: own(entries, ended, held.subject_keys.inner(subject_id))}
        if not caller.everywhere:
            theirs = {*(await caller.controllers(await caller.covered())).values()}
            chains = {held.edge_ids.of(one).shown(subject_id): [] for one in sorted(theirs)}
            for one in {controllers[sender_id] for sender_id in seen}:
                who = held.edge_ids.of(one).shown(subject_id)
                chains[who] = _retold(held, entries, controllers, one, subject_id)
        writer = Writer(keys, datetime.now(UTC), parties)
        written = [writer.opening()]
        for who, of_person in chains.items():
            told = [e if sees(_sender_of(e)) else _withheld(e) for e in of_person]
            told = sorted([*told, *map(_withheld, ended)], key=attrgetter("position"))
            line = _subject_line(who, of_person, told, sees, number if body.name_the_number else None)
            written.append(writer.subject(line, told))
        saved_as = next(iter(chains), "nobody")
        return Response(b"".join([*written, writer.end()]), media_type=BUNDLE_TYPE, headers=_saved_as(saved_as))

    @routes.get(
        "/v1/proofs/campaigns/{campaign_id}",
        operation_id="proofs.get_of_campaign",
        response_class=Streamed,
        responses=BUNDLE | refuses(PastItsTime),
    )
    async def get_campaign_bundle(
        campaign_id: Storable,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> Streamed:
        """Stream every message of a campaign which was handed off, with the whole chain of each recipient.

        Each chain is of the sender's controller alone; entries which do not concern the sender are withheld, and
        entries about every sender come without what is personal. A truncated file has no end line, and fails the
        check. Once some of the messages may be past retention, the answer is 410: half a proof would look whole.
        """
        of_each = await everywhere.of_each(held.shards, lambda tx: store.handed_off_of(tx, campaign_id, "", 1))
        first = dict(chain.from_iterable(each.items() for each in of_each))
        sender_ids = {message.sender_id for messages in first.values() for message in messages}
        async with held.database.begin() as tx:
            parties = await store.parties(tx, await caller.seen(sender_ids or {NOBODY}, tx))
        if not parties:
            raise NotFound(
                "nothing of such a campaign was handed off, or not any more",
                reasons=[Reason("campaign_id", "unknown_campaign")],
            )
        oldest = min(_began(message) for messages in first.values() for message in messages)
        if oldest < datetime.now(UTC) - handed_off_kept:
            raise PastItsTime(
                f"which messages left is kept for {handed_off_kept.days} days", reasons=[Reason("campaign_id", "past")]
            )
        lines = _campaign(held, Writer(keys, datetime.now(UTC), parties), campaign_id, parties[-1])
        return Streamed(lines, media_type=BUNDLE_TYPE, headers=_saved_as(campaign_id))

    return routes


def _receipt(entry: Entry, parties: Sequence[Party], keys: SigningKeys) -> ReceiptBody:
    sender = proof.in_force(parties, entry)
    return ReceiptBody(
        evidence_id=entry.evidence.evidence_id,
        receipt=proof.receipt(entry, sender, keys),
        record=json.loads(proof.record(entry, sender)),
        sealed=SealedBody(salt=entry.salt, **{name: getattr(entry.evidence, name) for name in PERSONAL})
        if entry.salt
        else None,
    )


def _retold(
    held: Resources[ServiceSettings],
    entries: Sequence[Entry],
    controllers: Mapping[str, str],
    controller: str,
    subject_id: str,
) -> list[Entry]:
    """Return the chain of a person as `controller` gets it. `controllers`: of every sender that the entries name."""
    senders = {sender_id for sender_id, of in controllers.items() if of == controller}
    return retold(entries, senders, held.edge_ids.of(controller).shown(subject_id))


async def _campaign(
    held: Resources[ServiceSettings], writer: Writer, campaign_id: str, sender: Party
) -> AsyncIterator[bytes]:
    """Yield the bundle, in a transaction per SUBJECTS: the ledger only grows.

    The people of each MIXED stand in the order of the ids shown: the order of the subject ids would join two bundles.
    """
    yield writer.opening(campaign_id)
    for shard in held.shards.each:
        async for line in _campaign_of(held.of_shard(shard), writer, campaign_id, sender):
            yield line
    yield writer.end()


async def _campaign_of(
    held: Resources[ServiceSettings], writer: Writer, campaign_id: str, sender: Party
) -> AsyncIterator[bytes]:
    """Yield the people of a shard."""
    ids, after = held.edge_ids.of(sender.controller), ""
    while True:
        async with held.database.begin() as tx:
            found = await store.handed_off_of(tx, campaign_id, after, MIXED)
        people = sorted(found, key=ids.shown)
        for some in (people[at : at + SUBJECTS] for at in range(0, len(people), SUBJECTS)):
            async with held.database.begin() as tx:
                histories = {
                    subject.subject_id: entries for subject, entries in await ledger_store.whole_histories(tx, some)
                }
                named = _named(entry for entries in histories.values() for entry in entries)
                controllers = await senders_store.controllers_of_senders(tx, named)
            for subject_id in some:
                entries = _retold(held, histories[subject_id], controllers, sender.controller, subject_id)
                told = [e if concerns(e.evidence, sender) else _withheld(e) for e in entries]
                line = _subject_line(
                    ids.shown(subject_id), entries, told, lambda other: other in (None, sender.sender_id)
                )
                yield writer.subject(line, told, map(_message_line, found[subject_id]))
        if len(found) < MIXED:
            return
        *_, after = found


def _began(message: HandedOff) -> datetime:
    """Return when the campaign began, by the message id: before any message left."""
    try:
        return began(UUID(message.message_id)) or message.handed_off_at
    except ValueError:  # an id from elsewhere
        return message.handed_off_at


def concerns(evidence: Evidence, sender: Party) -> bool:
    """Return whether the evidence can affect this sender, also as a STOP that covers the shared controller."""
    if evidence.sender_id in (None, sender.sender_id):
        return True
    return evidence.kind == "opt_out" and evidence.purpose is None and evidence.controller == sender.controller


def _subject_line(
    who: str,
    chain: Sequence[Entry],
    told: Sequence[Entry | Withheld],
    sees: Callable[[str | None], bool],
    number: str | None = None,
) -> SubjectLine:
    """Return the subject line of a chain. `told`: its entries as shown. `sees`: whose consents to show."""
    state = ledger.fold(entry.evidence for entry in chain)
    named = {entry.evidence.sender_id for entry in told if isinstance(entry, Entry)}
    return SubjectLine(
        subject_id=who,
        number=number,
        entries=len(told),
        head=told[-1].hash if told else GENESIS,
        consents=tuple(c for c in ledger.consents(state) if sees(c.sender_id)),
        suppressions=tuple(s for s in ledger.suppressions(state) if s.sender_id in named),
    )


def _message_line(message: HandedOff) -> MessageLine:
    return MessageLine(
        message_id=message.message_id,
        campaign_id=message.campaign_id,
        sender_id=message.sender_id,
        purpose=message.purpose,
        handed_off_at=message.handed_off_at,
    )


def _shard(shards: Shards, name: str | None) -> Shard:
    """Return the shard of this name, or of partition 0. Raises NotFound."""
    if name is None:
        return shards.first
    found = next((shard for shard in shards.each if shard.name == name), None)
    if found is None or not shards.divided:
        raise NotFound("no such shard: PLACET_SHARDS names each", reasons=[Reason("shard", "unknown_shard")])
    return found


def _seal_body(shard: Shard, seal: Seal, keys: SigningKeys) -> SealBody:
    signature = keys.sign(seals.record(seal), "placet-seal")
    return SealBody(**asdict(seal), pin=seal.pin, signature=signature, shard=shard.name or None)


def _withheld(entry: Entry | Ended) -> Withheld:
    return Withheld(position=entry.position, hash=entry.hash)


def _sender_of(entry: Entry) -> str | None:
    return entry.evidence.sender_id


def _named(entries: Iterable[Entry]) -> set[str]:
    return {sender_id for entry in entries if (sender_id := _sender_of(entry)) is not None}


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''placet-proof-{quote(name, safe='')}.jsonl"}
