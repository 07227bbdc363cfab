"""What a database still holds of a person: every value of every column of every table, sealed fields opened.

A sealed field is opened without its context, which is what whoever has the keys and patience could do: AES-GCM is
AES-CTR from the counter 2, and only its tag knows the context.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from common.keyring import NONCE_BYTES
from tests.support.running import KEY_RING

TAG_BYTES = 16
SEALED = re.compile(rf"{KEY_RING['current']}\.([A-Za-z0-9_-]{{38,}}=*)")
BEGINS = f"{KEY_RING['current']}.".encode()
KEY = base64.b64decode(KEY_RING["keys"][KEY_RING["current"]])


def spellings(e164: str) -> list[str]:
    """A French number as people, operators and we write it."""
    national = "0" + e164.removeprefix("+33")
    return [e164.removeprefix("+"), national, " ".join(re.findall("..", national))]


async def holdings(sql: asyncpg.Connection, needles: Sequence[str]) -> list[str]:
    """`table.column` of each value that holds one of `needles`, in clear or sealed."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
    assert tables
    found = []
    for (table,) in tables:
        for row in await sql.fetch(f'SELECT * FROM "{table}"'):
            found += [f"{table}.{column}" for column, value in row.items() if _holds(value, needles)]
    return sorted(set(found))


async def rows_with(sql: asyncpg.Connection, needles: Sequence[str], but: Sequence[str] = ()) -> list[str]:
    """Every row, in clear, that holds one of `needles`, with its table; the tables `but` aside."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
    found = []
    for (table,) in tables:
        for row in await sql.fetch(f'SELECT * FROM "{table}"') if table not in but else ():
            if any(_holds(value, needles) for value in row.values()):
                found.append(f"{table} {dict(row)}")
    assert found
    return sorted(found)


def _holds(value: Any, needles: Sequence[str]) -> bool:
    return any(needle in text for text in opened(value) for needle in needles)


def opened(value: Any) -> Iterator[str]:
    """The value as a text, and what is in each sealed field of it, whose own text may be sealed fields again."""
    if isinstance(value, bytes) and value.startswith(BEGINS):
        yield from opened(_unsealed(value.removeprefix(BEGINS)))
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
    yield text
    for sealed in SEALED.findall(text):
        yield from opened(_unsealed(base64.urlsafe_b64decode(sealed)).decode("utf-8", errors="replace"))


def _unsealed(raw: bytes) -> bytes:
    counter = raw[:NONCE_BYTES] + (2).to_bytes(4, "big")
    return Cipher(AES(KEY), CTR(counter)).decryptor().update(raw[NONCE_BYTES:-TAG_BYTES])
