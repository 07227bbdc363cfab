"""Decision records as the ledger puts their two parts together."""

from collections.abc import Collection

from dispatch.gate import record
from dispatch.gate.rules import Knowledge, Request, Verdict
from dispatch.projection.limits import Limits


def encoded(
    request: Request,
    known: Knowledge,
    limits: Limits,
    verdict: Verdict,
    controller: Collection[str] | None = None,
) -> str:
    shared = record.encode_shared(request, known, limits)
    own = record.encode_own(request, known, known.subject, known.recent, verdict, controller)
    return f"{shared[:-1]},{own[1:]}"
