"""The `Idempotency-Key` of a request (draft-ietf-httpapi-idempotency-key-header), the same in every service.

A key belongs to its caller, and no route requires one. A repeat of a request under its key is answered with the first
answer: status, headers and body. Another request under the key is refused (KeyReused), whatever its route. A refused
request claims no key, nor does a batch without any item that counts. A repeat waits while the first is in progress.

A caller may build a key from a number. So a route gets a keyed hash of the key (`Key`), and no row, id or event holds
the key itself.

The table `keyed_request` (`define`) has a row for each claimed key, with the first answer, written in the transaction
of the request. The answer is encrypted, and the key of the cipher derives from the request: a database with every key
of the deployment opens no answer. Only a repeat does, and a repeat already names what the answer is about. So nothing
of a person can be read from an answer after an erasure (ADR-0010).

The row goes at the end of its retention. Then a row whose id derives from the key (`derived_id`) still makes a repeat
the same thing, as the thing is by then.

A route claims its key first, and keeps the answer last (`claim`, `Claim.keep`). Routes of many requests a second have
no statement to spare: these look for the key in a statement that they need anyway, and write the key with its answer
(`keep_all`). An import of contacts has a file for its body: `campaign.imports.upload` compares sender and file.

Two requests are the same where path and body are, byte by byte (`keyed`): other white space or another order of fields
makes another request. The query and the headers do not count. A fingerprint is made with the subject key, and the key
cannot be replaced once a person is stored (`SubjectKeys`). After a replacement before that, a repeat of an earlier
request is refused (KeyReused).
"""

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import uuid4

import msgspec
from fastapi import Depends, Header, Request, Response
from pydantic import AfterValidator, BaseModel
from sqlalchemy import Column, DateTime, Index, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from common.keyring import AnswerCipher, SubjectKeys
from common.web.auth import Caller
from common.web.problems import Conflict, Invalid, Reason

HEADER = "Idempotency-Key"


def _unquoted(key: str) -> str:
    """Return the key without the quotes of the draft, which few callers send."""
    if len(key) > 2 and key[0] == key[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", key[1:-1])
    return key


_Told = Annotated[
    Annotated[str, AfterValidator(_unquoted)] | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        pattern="^[ -~]+$",
        description="A value of your own, new for each request; send the request again with the same value.",
    ),
]


async def _hashed(request: Request, key: _Told = None) -> str | None:
    keys: SubjectKeys = request.state.resources.subject_keys
    return None if key is None else keys.of_key(key)


Key = Annotated[str | None, Depends(_hashed)]  # the keyed hash of the header: no route sees a caller's key


class KeyReused(Invalid):
    """The Idempotency-Key came before with another path or another body.

    Use a new key for each new request. For a repeat, send the first request again, byte by byte.
    """

    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"

    def __init__(self) -> None:
        super().__init__("the key belongs to another request: send a new key", reasons=[Reason(HEADER, "reused")])


class KeyInProgress(Conflict):
    """The first request with this Idempotency-Key is still at work.

    Wait as many seconds as `Retry-After` says, and send the request again with the same key.
    """

    slug, title = "idempotency-key-in-progress", "A request with this Idempotency-Key is in progress"
    tells = ("Retry-After",)

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
        Column("answer", LargeBinary),  # encrypted (`Keyed.sealed`); NULL within the transaction of a claim
        PrimaryKeyConstraint("caller", "key"),
        Index("keyed_request_created_at_ix", "created_at"),
    )


def derived_id(prefix: str, caller: Caller, key: str | None) -> str:
    """Return the id of what a request makes: the same for a key, a new one without."""
    seed = f"{caller.account}\x1f{key}" if key is not None else str(uuid4())
    return f"{prefix}-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was first given."""

    status: int
    headers: dict[str, str]
    body: bytes

    def response(self) -> Response:
        return Response(self.body, self.status, self.headers, media_type="application/json")


class Keyed(NamedTuple):
    """A request under a key of its caller. `key`: as hashed. `cipher`: of the answers to this request."""

    caller: str
    key: str
    fingerprint: str
    cipher: AnswerCipher

    def sealed(self, answer: Answer) -> bytes:
        return self.cipher.seal(zlib.compress(msgspec.msgpack.encode(answer)), f"{self.caller}\x1f{self.key}")

    def first(self, fingerprint: str, sealed: bytes | None) -> Answer | None:
        """Return the answer of the key's row. Raises KeyReused."""
        same(fingerprint, self.fingerprint)
        if sealed is None:
            return None
        opened = zlib.decompress(self.cipher.unseal(sealed, f"{self.caller}\x1f{self.key}"))
        return msgspec.msgpack.decode(opened, type=Answer)


class Raced(Exception):
    """Another transaction has claimed the key meanwhile, and has committed: look again."""


async def keyed(request: Request, caller: Caller, key: str | None, keys: SubjectKeys) -> Keyed | None:
    """Return the request under its key, if there is one."""
    if key is None:
        return None
    fingerprint, cipher = keys.of_request(await _said(request))
    return Keyed(caller.account, key, fingerprint, cipher)


async def fingerprint_of(request: Request, keys: SubjectKeys) -> str:
    """Return the keyed hash of path and body: numbers could be tried out against a plain hash."""
    return keys.of_text(await _said(request))


async def _said(request: Request) -> str:
    return f"{request.url.path}\n{(await request.body()).decode(errors='replace')}"


def same(kept: str, sent: str) -> None:
    """Raise KeyReused where the fingerprints differ."""
    if kept != sent:
        raise KeyReused


def answer_of(shown: BaseModel, status: int, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the answer that shows a model."""
    return Answer(status, dict(headers or {}), shown.model_dump_json(by_alias=True).encode())


class Claim(NamedTuple):
    """A request that holds its key, or has none. `answer`: the first answer, of a repeat.

    `since`: when the key was claimed. The instant tells a new request under a pruned key from a repeat.
    """

    asked: Keyed | None
    since: datetime | None
    answer: Answer | None

    async def keep(
        self, tx: AsyncConnection, shown: BaseModel, status: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Keep the answer for repeats, and return it. The transaction is that of the claim."""
        answer = answer_of(shown, status, headers)
        if self.asked is not None:
            await keep_answer(tx, self.asked, answer)
        return answer.response()

    async def refused(self, tx: AsyncConnection, shown: BaseModel, status: int) -> Response:
        """Give the key back, and return the answer of a batch that was refused as a whole."""
        if self.asked is not None:
            await give_back(tx, self.asked)
        return answer_of(shown, status).response()


async def claim(tx: AsyncConnection, asked: Keyed | None) -> Claim:
    """Claim the key, or find the claim of the same request. Raises KeyReused.

    Waits while another transaction holds the key.
    """
    if asked is None:
        return Claim(None, None, None)
    [(fingerprint, since, sealed)] = await fetch_many(
        tx,
        "INSERT INTO keyed_request AS r (caller, key, fingerprint) VALUES ($1, $2, $3)"
        " ON CONFLICT (caller, key) DO UPDATE SET fingerprint = r.fingerprint"
        " RETURNING fingerprint, created_at, answer",
        asked.caller,
        asked.key,
        asked.fingerprint,
    )
    return Claim(asked, since, asked.first(fingerprint, sealed))


async def keep_answer(tx: AsyncConnection, asked: Keyed, answer: Answer) -> None:
    """Keep the answer of a claimed key for repeats."""
    await fetch_many(
        tx,
        "UPDATE keyed_request SET answer = $3 WHERE caller = $1 AND key = $2",
        asked.caller,
        asked.key,
        asked.sealed(answer),
    )


async def give_back(tx: AsyncConnection, asked: Keyed) -> None:
    """Forget a claimed key without an answer: nothing was done under the key."""
    await fetch_many(
        tx, "DELETE FROM keyed_request WHERE caller = $1 AND key = $2 AND answer IS NULL", asked.caller, asked.key
    )


async def find(tx: AsyncConnection, asked: Keyed) -> Answer | None:
    """Return the first answer, of a repeat. Raises KeyReused. The caller holds a lock of the key until `keep_all`."""
    rows = await fetch_many(
        tx, "SELECT fingerprint, answer FROM keyed_request WHERE caller = $1 AND key = $2", asked.caller, asked.key
    )
    return asked.first(*rows[0]) if rows else None


async def keep_all(tx: AsyncConnection, answers: Sequence[tuple[Keyed, Answer, datetime]]) -> None:
    """Write each key with the answer and the instant of the claim; each key comes once. Raises Raced.

    Waits while another transaction holds a key.
    """
    if not answers:
        return
    answers = sorted(answers, key=lambda each: each[0][:2])  # every transaction claims in this order: no deadlock
    rows = await fetch_many(
        tx,
        "INSERT INTO keyed_request (caller, key, fingerprint, answer, created_at)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[])"
        " ON CONFLICT (caller, key) DO NOTHING RETURNING key",
        [asked.caller for asked, _, _ in answers],
        [asked.key for asked, _, _ in answers],
        [asked.fingerprint for asked, _, _ in answers],
        [asked.sealed(answer) for asked, answer, _ in answers],
        [since for _, _, since in answers],
    )
    if len(rows) < len(answers):
        raise Raced
