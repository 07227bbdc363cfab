"""The rights of a person over HTTP: erasure, with its certificate.

They concern a person and every sender alike: only a token for every sender may use them.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from common.auth import Caller, require
from common.contracts import SEVEN_DAYS_MS
from common.fields import Position, Storable
from common.msisdn import NumberRefused, any_number
from common.problems import Conflict, Forbidden, Invalid, NotFound, Reason
from common.service import Resources, resources
from common.settings import ServiceSettings
from consent import erasures, recorder, store
from consent.bodies import EXAMPLE_NUMBER, Body, EvidenceBody, Number
from consent.chain import evidence_id
from consent.erasures import Erasure
from consent.ledger import Evidence
from consent.recorder import Statement

router = APIRouter(prefix="/v1")

LOG_FORGETS = timedelta(milliseconds=SEVEN_DAYS_MS)

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Reads = Annotated[Caller, Depends(require("erasure:read"))]
Writes = Annotated[Caller, Depends(require("erasure:write"))]

KEPT = (  # by whom, what, why
    (
        "consent",
        "the keyed hash of the number, with its opt-outs",
        "so that nobody writes to the person again (CNIL MED-2023-040)",
    ),
    (
        "consent",
        "when the person consented or objected, to whom and for what: the ledger's lines without what was personal",
        "proof of what was done until then (RGPD art. 7(1), 17(3)(e))",
    ),
    ("campaign", "where the keyed hash stood in each campaign's audience", "the accounts of campaigns"),
    ("dispatch", "the decision on each message of the keyed hash, and its outcome", "the accounts of campaigns"),
    (
        "inbound",
        "that a text came, under the provider's id and the keyed hash",
        "the same text again is not kept again",
    ),
)


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


class ErasureBody(Body):
    """Whose data is to be erased, and who asked for it and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"number": EXAMPLE_NUMBER, "evidence": {"source": "call-centre", "actor": "agent-12"}}]
        }
    )

    number: Number
    evidence: EvidenceBody


class Done(BaseModel):
    """What one service erased, and when; `acknowledged_at` is when consent-svc had its answer."""

    service: str
    erased_at: datetime
    acknowledged_at: datetime
    erased: dict[str, int]


class Kept(BaseModel):
    service: str
    what: str
    why: str


class Certificate(BaseModel):
    """An erasure. Once `complete`, it certifies what each service erased and when, and what is kept and why."""

    erasure_id: str
    subject_id: str
    status: Literal["open", "complete"]
    source: str
    evidence_id: str = Field(description="The opt-out of everyone that came first.")
    requested_at: datetime
    completed_at: datetime | None
    services: list[Done]
    waiting_for: list[str]
    asked_again_at: datetime | None = Field(description="An answer was late, and was asked for again.")
    log_forgets_at: datetime | None = Field(description="The last event that held a sealed field is gone by then.")
    kept: list[Kept]


class Certificates(BaseModel):
    items: list[Certificate]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


@router.post("/erasures", status_code=202)
async def ask_for_erasure(
    body: ErasureBody, request: Request, response: Response, caller: Writes, held: Held, key: Key = None
) -> Certificate:
    """Stop everything for this number at once, and erase all that any service holds of it. While one is under way, the
    same again is that one."""
    _for_every_sender(caller)
    number = _number(body.number, held)
    subject_id = held.subject_keys.subject_id(number)
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        if key is not None:
            content = (await request.body()).decode(errors="replace")
            fingerprint = held.subject_keys.subject_id(f"{request.url.path}\n{content}")
            if not await store.claim_key(tx, caller.subject, key, fingerprint):
                raise KeyReused("the key belongs to another request", reasons=[Reason("Idempotency-Key", "reused")])
        subject = (await store.lock_subjects(tx, {subject_id: None}))[subject_id]
        under_way = await erasures.open_of(tx, subject_id)
        if under_way is None or subject.erased_at is None:
            identity = evidence_id("erasure", caller.subject, key or f"{subject_id} {now.isoformat()}")
            evidence = Evidence(
                evidence_id=identity,
                kind="opt_out",
                sender_id=None,
                purpose=None,
                occurred_at=now,
                received_at=now,
                **dict(body.evidence),
            )
            recorded = await recorder.record(tx, [Statement(subject_id, None, evidence, erases=True)], now)
            await erasures.begin(tx, recorded, now)
            (under_way,) = await erasures.find(tx, [erasures.named(identity)])
    response.headers["Location"] = f"/v1/erasures/{under_way.erasure_id}"
    return _certificate(under_way)


@router.get("/erasures")
async def list_erasures(
    caller: Reads,
    held: Held,
    status: Literal["open", "complete"] = "open",
    cursor: Annotated[Position, Query()] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Certificates:
    """Those that are under way, or complete; oldest first."""
    _for_every_sender(caller)
    async with held.database.begin() as tx:
        found = await erasures.page(tx, complete=status == "complete", after=cursor, limit=limit)
    items = [_certificate(each) for each in found]
    return Certificates(items=items, next=str(found[-1].place) if len(found) == limit else None)


@router.get("/erasures/{erasure_id}")
async def get_erasure(erasure_id: Storable, caller: Reads, held: Held) -> Certificate:
    """How far it is, and its certificate once it is complete."""
    _for_every_sender(caller)
    return _certificate(await _found(held, erasure_id))


async def _found(held: Resources[ServiceSettings], erasure_id: str) -> Erasure:
    async with held.database.begin() as tx:
        found = await erasures.find(tx, [erasure_id])
    if not found:
        raise NotFound("no such erasure", reasons=[Reason("erasure_id", "unknown_erasure")])
    return found[0]


def _certificate(erasure: Erasure) -> Certificate:
    complete = erasure.completed_at is not None
    return Certificate(
        erasure_id=erasure.erasure_id,
        subject_id=erasure.subject_id,
        status="complete" if complete else "open",
        source=erasure.source,
        evidence_id=erasure.evidence_id,
        requested_at=erasure.requested_at,
        completed_at=erasure.completed_at,
        services=[
            Done(
                service=ack.service,
                erased_at=ack.erased_at,
                acknowledged_at=ack.acknowledged_at,
                erased=dict(ack.erased),
            )
            for ack in erasure.acks
        ],
        waiting_for=list(erasure.waiting_for),
        asked_again_at=erasure.asked_again_at,
        log_forgets_at=erasure.completed_at + LOG_FORGETS if erasure.completed_at else None,
        kept=[Kept(service=service, what=what, why=why) for service, what, why in KEPT],
    )


def _number(raw: str, held: Resources[ServiceSettings]) -> str:
    try:
        return any_number(raw, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("no number", reasons=[Reason("number", refused.reason)]) from refused


def _for_every_sender(caller: Caller) -> None:
    """Raises Forbidden: these concern a person, and every sender alike."""
    if caller.senders is not None:
        raise Forbidden(
            "only a token for every sender may do this", reasons=[Reason("senders", "not_for_every_sender")]
        )
