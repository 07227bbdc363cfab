"""Proof over HTTP: receipts of ledger lines, bundles, seals on the whole ledger, and the public keys."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from common.db.database import Database
from common.privacy.signing import KeySet, SigningKeys
from common.service import Resources, resources
from common.settings import KeyRingSettings, ServiceSettings
from common.sms.message_id import began
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import NotFound, PastItsTime, Reason
from consent.bodies import Body, Number
from consent.calls import any_number
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import PERSONAL, Entry
from consent.ledger.rules import Evidence
from consent.ledger.store import Subject
from consent.proof import receipt as proof
from consent.proof import sealing, seals, store
from consent.proof.bundle import MessageLine, SubjectLine, Withheld, Writer
from consent.proof.receipt import Party
from consent.proof.seals import Seal
from consent.proof.store import HandedOff

BUNDLE_TYPE = "application/jsonl"
BUNDLE: dict[int | str, dict[str, object]] = {200: {"content": {BUNDLE_TYPE: {}}}}
SUBJECTS = 50  # per transaction: a signature takes a tenth of a millisecond, and other requests wait
JWKS_KEPT_S = 300


class ProofBody(Body):
    """A number to prove. `name_the_number`: the bundle contains the number, for the person or the regulator only."""

    number: Number
    name_the_number: bool = False


class SealedBody(BaseModel):
    """The fields which the receipt proves without revealing: `ledger.sealed` is the SHA-256 of `salt` and the canonical
    JSON of the other fields."""

    salt: str
    actor: str | None
    form_id: str | None
    form_version: str | None
    reference: str | None
    sale_reference: str | None
    text_shown: str | None


class ReceiptBody(BaseModel):
    """`receipt`: a compact JWS, to check against /.well-known/jwks.json; `record`: the payload; `sealed`: null once
    erased. `corrections`: the receipts of the lines which correct this line, to show with this receipt."""

    evidence_id: str
    receipt: str
    record: dict[str, object]
    sealed: SealedBody | None
    corrections: list["ReceiptBody"] = []


class SealBody(BaseModel):
    """A seal on the ledger's entries after the seal before, up to `last`. `previous`: hash of the seal before. `root`:
    of the Merkle tree over the hashes of the entries (RFC 6962). `pin`: the value to keep, for `python -m consent
    verify --pin`. `signature`: a compact JWS over the canonical JSON of the fields from `number` to `hash`."""

    number: int
    previous: str
    entries: int
    first: int
    last: int
    root: str
    sealed_at: datetime
    hash: str
    pin: str
    signature: str


def router(ring: KeyRingSettings, retired: dict[str, str], handed_off_kept: timedelta) -> APIRouter:
    """Return the routes, which sign with the current key of `ring`. Raises ValueError for an invalid key.

    `handed_off_kept`: retention of the messages handed off.
    """
    routes = APIRouter()
    keys = SigningKeys(ring, retired)

    @routes.get("/.well-known/jwks.json")
    async def get_keys(response: Response) -> KeySet:
        """Return the public keys, retired keys included. The route needs no token: any reader may check a receipt."""
        response.headers["Cache-Control"] = f"public, max-age={JWKS_KEPT_S}"
        return keys.jwks

    @routes.get("/v1/receipts/{evidence_id}")
    async def get_receipt(
        evidence_id: Storable,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> ReceiptBody:
        """Return the signed receipt of a ledger line, the payload, and the receipts of corrections.

        A line of a sender outside the token gives 404.
        """
        async with held.database.begin() as tx:
            entry = await ledger_store.find_entry(tx, evidence_id)
            named = {entry.evidence.sender_id} if entry and entry.evidence.sender_id else set()
            parties = await store.parties(tx, named)
            corrections = await store.corrections_of(tx, entry) if entry else []
        if entry is None or not caller.sees(entry.evidence.sender_id):
            raise NotFound("no such evidence", reasons=[Reason("evidence_id", "unknown_evidence")])
        told = _receipt(entry, parties, keys)
        return told.model_copy(update={"corrections": [_receipt(each, parties, keys) for each in corrections]})

    @routes.get("/v1/seals/newest")
    async def get_newest_seal(
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> SealBody:
        """Return the newest seal on the whole ledger, signed.

        A kept `pin` lets `python -m consent verify --pin` check the whole ledger up to this seal.
        """
        async with held.database.begin() as tx:
            seal = await sealing.newest(tx)
        if seal is None:
            raise NotFound(
                "no seal exists yet: the first one covers the first entries of the ledger",
                reasons=[Reason(None, "no_seal")],
            )
        return _seal_body(seal, keys)

    @routes.get("/v1/seals")
    async def get_seals(
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
        cursor: Cursor = None,
        limit: Limit = LIMIT,
    ) -> Page[SealBody]:
        """List every seal, oldest first. A seal holds no personal data."""
        async with held.database.begin() as tx:
            found = await sealing.page(tx, position(cursor, int) or 0, limit)
        return Page[SealBody](
            items=[_seal_body(seal, keys) for seal in found], next=next_of(found, limit, attrgetter("number"))
        )

    @routes.post("/v1/proofs", response_class=Response, responses=BUNDLE)
    async def get_bundle(
        body: ProofBody,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> Response:
        """Return the whole record of a number, in one file for `python -m consent verify-bundle`.

        Without any record, the file says so. A caller limited to some senders gets only the hashes of other senders'
        entries.
        """
        number = any_number(body.number, held)
        subject_id = held.subject_keys.subject_id(number)
        async with held.database.begin() as tx:
            ((subject, entries),) = await ledger_store.whole_histories(tx, [subject_id])
            parties = await store.parties(tx, {name for e in entries if (name := _seen_sender(caller, e))})
        writer = Writer(keys, datetime.now(UTC), parties)
        told = [e if caller.sees(e.evidence.sender_id) else _withheld(e) for e in entries]
        line = _subject_line(subject, told, caller.sees, number if body.name_the_number else None)
        return Response(
            writer.opening() + writer.subject(line, told) + writer.end(),
            media_type=BUNDLE_TYPE,
            headers=_saved_as(subject_id),
        )

    @routes.get("/v1/proofs/campaigns/{campaign_id}", response_class=StreamingResponse, responses=BUNDLE)
    async def get_campaign_bundle(
        campaign_id: Storable,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> StreamingResponse:
        """Stream every message of a campaign which was handed off, with the whole chain of each recipient.

        Entries which do not concern the campaign's sender are withheld. A truncated file has no end line, and fails the
        check. Once some of the messages may be past retention, the answer is 410: half a proof would look whole.
        """
        async with held.database.begin() as tx:
            first = await store.handed_off_of(tx, campaign_id, "", 1)
            sender_ids = {message.sender_id for messages in first.values() for message in messages}
            parties = await store.parties(tx, filter(caller.sees, sender_ids))
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
        lines = _campaign(held.database, Writer(keys, datetime.now(UTC), parties), campaign_id, parties[-1])
        return StreamingResponse(lines, media_type=BUNDLE_TYPE, headers=_saved_as(campaign_id))

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


async def _campaign(database: Database, writer: Writer, campaign_id: str, sender: Party) -> AsyncIterator[bytes]:
    """Yield the bundle, in a transaction per SUBJECTS: the ledger only grows."""

    yield writer.opening(campaign_id)
    after = ""
    while True:
        async with database.begin() as tx:
            found = await store.handed_off_of(tx, campaign_id, after, SUBJECTS)
            histories = await ledger_store.whole_histories(tx, found)
        for subject, entries in histories:
            told = [e if concerns(e.evidence, sender) else _withheld(e) for e in entries]
            line = _subject_line(subject, told, lambda other: other in (None, sender.sender_id))
            yield writer.subject(line, told, map(_message_line, found[subject.subject_id]))
            after = subject.subject_id
        if len(found) < SUBJECTS:
            break
    yield writer.end()


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
    subject: Subject, told: Sequence[Entry | Withheld], sees: Callable[[str | None], bool], number: str | None = None
) -> SubjectLine:
    """Return the subject line. `sees`: whose consents to show."""
    named = {entry.evidence.sender_id for entry in told if isinstance(entry, Entry)}
    return SubjectLine(
        subject_id=subject.subject_id,
        number=number,
        version=subject.version,
        entries=subject.entries,
        head=subject.head,
        consents=tuple(c for c in ledger.consents(subject.state) if sees(c.sender_id)),
        suppressions=tuple(s for s in ledger.suppressions(subject.state) if s.sender_id in named),
    )


def _message_line(message: HandedOff) -> MessageLine:
    return MessageLine(
        message_id=message.message_id,
        campaign_id=message.campaign_id,
        sender_id=message.sender_id,
        purpose=message.purpose,
        handed_off_at=message.handed_off_at,
        consent_version=message.consent_version,
    )


def _seal_body(seal: Seal, keys: SigningKeys) -> SealBody:
    return SealBody(**asdict(seal), pin=seal.pin, signature=keys.sign(seals.record(seal), "placet-seal"))


def _withheld(entry: Entry) -> Withheld:
    return Withheld(position=entry.position, hash=entry.hash)


def _seen_sender(caller: Caller, entry: Entry) -> str | None:
    sender_id = entry.evidence.sender_id
    return sender_id if caller.sees(sender_id) else None


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''placet-proof-{quote(name, safe='')}.jsonl"}
