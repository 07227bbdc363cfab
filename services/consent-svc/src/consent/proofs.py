"""Proof over HTTP: the signed receipt of one line of the ledger, and the public keys that check it."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from common.auth import Caller, require
from common.fields import Storable
from common.problems import NotFound, Reason
from common.service import Resources, resources
from common.settings import KeyRingSettings, ServiceSettings
from common.signing import SigningKeys
from consent import proof, store
from consent.bodies import ReceiptBody

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
        if entry is None or not caller.sees(entry.evidence.sender_id):
            raise NotFound("no such evidence", reasons=[Reason("evidence_id", "unknown_evidence")])
        return ReceiptBody(
            evidence_id=evidence_id,
            receipt=proof.receipt(entry, keys),
            record=json.loads(proof.record(entry)),
        )

    return routes
