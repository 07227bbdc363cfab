"""Check or export the audit log: `python -m <service> audit verify [--pin POSITION:HASH] | export`.

`--pin`: a line published or exported earlier, which is still there unchanged, or is past its retention.
"""

import argparse
import sys
from collections.abc import AsyncIterator, Sequence

import msgspec

from common.audit import store
from common.audit.line import Kept, follows
from common.audit.store import Asked
from common.db.database import Database

PAGE = 1000


async def command(service: str, database_url: str, arguments: Sequence[str]) -> int:
    """Run a command of the parser below; return the exit code: 1 where the chain does not hold."""
    parser = argparse.ArgumentParser(prog=f"python -m {service} audit", description="Check or export the audit log.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verify = verbs.add_parser("verify", help="check the chain of all lines")
    verify.add_argument("--pin", action="append", default=[], metavar="POSITION:HASH", help="a line exported earlier")
    verbs.add_parser("export", help="write all lines as JSON lines")
    told = parser.parse_args(arguments)
    database = Database(database_url, pool_size=1, name=f"{service}-audit")
    try:
        if told.verb == "export":
            async for kept in lines(database):
                sys.stdout.write(f"{msgspec.json.encode(kept).decode()}\n")
            return 0
        wrong = await verified(database, dict(_pinned(each) for each in told.pin))
    finally:
        await database.close()
    sys.stdout.write("".join(f"{each}\n" for each in wrong) or "HOLDS\n")
    return 1 if wrong else 0


async def lines(database: Database) -> AsyncIterator[Kept]:
    """Yield every line, the oldest first."""
    after = 0
    while True:
        async with database.begin() as tx:
            found = await store.page(tx, Asked(), after, PAGE)
        for kept in found:
            yield kept
        if len(found) < PAGE:
            return
        after = found[-1].position


async def verified(database: Database, pins: dict[int, str]) -> list[str]:
    """Return each fault: a line changed, a line missing, a pin with another hash, or behind the newest line."""
    wrong: list[str] = []
    before: Kept | None = None
    first: int | None = None
    async for kept in lines(database):
        first = kept.position if first is None else first
        if not follows(before, kept):
            wrong.append(f"line {kept.position} does not follow")
        if pins.pop(kept.position, kept.hash) != kept.hash:
            wrong.append(f"line {kept.position} is not the pinned line")
        before = kept
    wrong += [f"line {each} is missing" for each in sorted(pins) if first is None or each > first]
    return wrong


def _pinned(text: str) -> tuple[int, str]:
    place, _, digest = text.partition(":")
    return int(place), digest
