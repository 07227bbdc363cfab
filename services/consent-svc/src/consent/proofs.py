"""Proof over HTTP: the signed receipt of one line of the ledger, the bundle of a subject, the keys that check both."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from common.auth import Caller, require
from common.fields import Storable
from common.problems import NotFound, Reason
from common.service import Resources, resources
from common.settings import KeyRingSettings, ServiceSettings
from common.signing import SigningKeys
from consent import ledger, proof, store
from consent.api import any_number
from consent.bodies import ProofBody, ReceiptBody, SealedBody
from consent.bundle import SubjectLine, Withheld, Writer
from consent.chain import PERSONAL
from consent.store import Subject

BUNDLE_TYPE = "application/jsonl"
JWKS_KEPT_S = 300  # how long a caller may believe the key set it has


def router(ring: KeyRingSettings, retired: dict[str, str]) -> APIRouter:
    """Its routes sign with the current key of `ring`. Raises ValueError where a key is none."""
    routes = APIRouter()
    keys = SigningKeys(ring, retired)

    @routes.get("/.well-known/jwks.json")
    async def get_keys(response: Response) -> dict[str, Any]:
        """For everyone: a receipt is checked by whoever it is shown to. Retired keys stay."""
        response.headers["Cache-Control"] = f"public, max-age={JWKS_KEPT_S}"
        return keys.jwks

    @routes.get("/v1/receipts/{evidence_id}")
    async def get_receipt(
        evidence_id: Storable,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> ReceiptBody:
        """The receipt of one opt-in or opt-out, and what it says. Another sender's is not found."""
        async with held.database.begin() as tx:
            entry = await store.find_entry(tx, evidence_id)
            named = {entry.evidence.sender_id} if entry and entry.evidence.sender_id else set()
            parties = await store.parties(tx, named)
        if entry is None or not caller.sees(entry.evidence.sender_id):
            raise NotFound("no such evidence", reasons=[Reason("evidence_id", "unknown_evidence")])
        sender = proof.in_force(parties, entry)
        return ReceiptBody(
            evidence_id=evidence_id,
            receipt=proof.receipt(entry, sender, keys),
            record=json.loads(proof.record(entry, sender)),
            sealed=SealedBody(salt=entry.salt, **{name: getattr(entry.evidence, name) for name in PERSONAL})
            if entry.salt
            else None,
        )

    @routes.post("/v1/proofs", response_class=Response, responses={200: {"content": {BUNDLE_TYPE: {}}}})
    async def get_bundle(
        body: ProofBody,
        caller: Annotated[Caller, Depends(require("consent:read"))],
        held: Annotated[Resources[ServiceSettings], Depends(resources)],
    ) -> Response:
        """All that is on record of a number, in one file for `python -m consent verify-bundle`. Where nothing is, the
        file says so. A caller limited to some senders gets of the others' entries the hashes only."""
        number = any_number(body.number, held)
        subject_id = held.subject_keys.subject_id(number)
        async with held.database.begin() as tx:
            subject = await store.find_subject(tx, subject_id) or Subject(subject_id=subject_id)
            entries = await store.whole_history(tx, subject_id, subject.entries)
            named = {e.evidence.sender_id for e in entries if e.evidence.sender_id}
            parties = await store.parties(tx, [sender_id for sender_id in named if caller.sees(sender_id)])
        line = SubjectLine(
            subject_id=subject_id,
            number=number if body.name_the_number else None,
            version=subject.version,
            entries=subject.entries,
            head=subject.head,
            consents=tuple(c for c in ledger.consents(subject.state) if caller.sees(c.sender_id)),
            suppressions=tuple(s for s in ledger.suppressions(subject.state) if caller.sees(s.sender_id)),
        )
        writer = Writer(keys, datetime.now(UTC), parties)
        told = [e if caller.sees(e.evidence.sender_id) else Withheld(position=e.position, hash=e.hash) for e in entries]
        file = writer.opening() + writer.subject(line, told) + writer.end()
        headers = {"Content-Disposition": f'attachment; filename="placet-proof-{subject_id}.jsonl"'}
        return Response(file, media_type=BUNDLE_TYPE, headers=headers)

    return routes
