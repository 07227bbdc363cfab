"""The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header), the same in every service.

A key belongs to its caller, and no route requires one. A repeat of a request under its key is answered with the present
state of what the first request made; another request under the key is refused (KeyReused). A repeat waits while the
first is in progress, or is refused (KeyInProgress) where that takes long.

A row whose id derives from the key (`derived_id`) also keeps the fingerprint of the request. A request without such a
row claims its key in the table `keyed_request` (`define`, `claim`). Test sends are found by campaign and key: under the
key of another campaign's test sends, a request is new.

Two requests are the same where path and body are, byte by byte (`fingerprint_of`): other white space or another order
of fields makes another request. The query and the headers do not count. A test send also compares the texts of the
messages, and an import of contacts compares sender and file. A fingerprint is made with the subject key, and the key
cannot be replaced once a person is stored (`SubjectKeys`). After a replacement before that, a repeat of an earlier
request, such as for a campaign or a segment, is refused (KeyReused).
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import Header, Request
from pydantic import AfterValidator
from sqlalchemy import Column, DateTime, Index, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import SubjectKeys
from common.web.auth import Caller
from common.web.problems import Conflict, Invalid, Reason

HEADER = "Idempotency-Key"


def _unquoted(key: str) -> str:
    """Return the key without the quotes of the draft, which few callers send."""
    if len(key) > 2 and key[0] == key[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", key[1:-1])
    return key


Key = Annotated[
    Annotated[str, AfterValidator(_unquoted)] | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        pattern="^[ -~]+$",
        description="A value of your own, new for each request; send the request again with the same value.",
    ),
]


class KeyReused(Invalid):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"

    def __init__(self) -> None:
        super().__init__("the key belongs to another request: send a new key", reasons=[Reason(HEADER, "reused")])


class KeyInProgress(Conflict):
    slug, title = "idempotency-key-in-progress", "A request with this Idempotency-Key is in progress"

    def __init__(self) -> None:
        super().__init__(
            "send the request again in a moment", reasons=[Reason(HEADER, "in_progress")], headers={"Retry-After": "1"}
        )


def define(metadata: MetaData) -> Table:
    """Add the table of claimed keys to a schema; migrations spell it out literally."""
    return Table(
        "keyed_request",
        metadata,
        Column("caller", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        PrimaryKeyConstraint("caller", "key"),
        Index("keyed_request_created_at_ix", "created_at"),
    )


def derived_id(prefix: str, caller: Caller, key: str | None) -> str:
    """Return the id of what a request makes: the same for a key, a new one without."""
    seed = f"{caller.subject}\x1f{key}" if key is not None else str(uuid4())
    return f"{prefix}-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"


async def fingerprint_of(request: Request, keys: SubjectKeys) -> str:
    """Return the keyed hash of path and body: numbers could be tried out against a plain hash."""
    return keys.subject_id(f"{request.url.path}\n{(await request.body()).decode(errors='replace')}")


def same(kept: str, sent: str) -> None:
    """Raise KeyReused where the fingerprints differ."""
    if kept != sent:
        raise KeyReused


async def claim(tx: AsyncConnection, caller: Caller, key: str, fingerprint: str) -> datetime:
    """Claim a key, or find the claim of the same request; return when it was claimed. Raises KeyReused.

    Waits while another transaction holds the key. The instant tells a new request under a pruned key from a repeat.
    """
    (since,) = await claim_all(tx, [(caller.subject, key, fingerprint)])
    if since is None:
        raise KeyReused
    return since


async def claim_all(tx: AsyncConnection, claims: Sequence[tuple[str, str, str]]) -> list[datetime | None]:
    """Run `claim` for each (caller, key, fingerprint); `None` where the key belongs to another request.

    Of two claims on a key, the first counts.
    """
    if not claims:
        return []
    first: dict[tuple[str, str], str] = {}
    for caller, key, fingerprint in claims:
        first.setdefault((caller, key), fingerprint)
    names = sorted(first)  # every transaction claims in the same order: no deadlock
    rows = await tx.execute(
        text(
            "INSERT INTO keyed_request AS r (caller, key, fingerprint)"
            " SELECT * FROM unnest(CAST(:callers AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS text[]))"
            " ON CONFLICT (caller, key) DO UPDATE SET fingerprint = r.fingerprint"
            " RETURNING caller, key, fingerprint, created_at"
        ),
        {
            "callers": [caller for caller, _ in names],
            "keys": [key for _, key in names],
            "fingerprints": [first[name] for name in names],
        },
    )
    held = {(row.caller, row.key, row.fingerprint): row.created_at for row in rows}
    return [held.get(claim) for claim in claims]
