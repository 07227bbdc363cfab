"""Audit the whole database: `python -m consent verify [--pin NUMBER:HASH]…`. The command changes no data.

Exit status: 0 where everything holds, 1 where a check fails, 2 where the database cannot be read.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from time import perf_counter

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from common.db.database import Database, may_idle
from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings
from common.sms.subject_id import Inner
from consent.proof.audit import Audit

TOLD = 100  # the rest is counted


class _Settings(BaseSettings):
    """The settings of the command. Read access to the database is enough."""

    model_config = SettingsConfigDict(env_prefix="PLACET_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str
    subject_keys: SubjectRingSettings


def run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m consent verify", description="Check the whole ledger.")
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        type=_pin,
        metavar="NUMBER:HASH",
        help="a seal published earlier (`pin` of GET /v1/seals/newest); may be repeated",
    )
    pins = dict(parser.parse_args(arguments).pin)
    try:
        settings = _Settings()
        return asyncio.run(_run(settings.database_url, SubjectKeys(settings.subject_keys).inner, pins))
    except (OSError, SQLAlchemyError, ValidationError) as error:
        sys.stderr.write(f"cannot be read: {error}\n")
        return 2


async def _run(url: str, inner: Inner, pins: Mapping[int, str]) -> int:
    database = Database(url, pool_size=1, name="consent-verify")
    problems = 0
    try:
        async for line, problem in verified(database, inner, pins):
            problems += problem
            if not problem or problems <= TOLD:
                sys.stdout.write(f"{line}\n")
    finally:
        await database.close()
    if problems > TOLD:
        sys.stdout.write(f"and {problems - TOLD} more\n")
    sys.stdout.write("DOES NOT HOLD\n" if problems else "HOLDS\n")
    return 1 if problems else 0


async def verified(database: Database, inner: Inner, pins: Mapping[int, str]) -> AsyncIterator[tuple[str, bool]]:
    """Yield each line to print, and whether the line is a problem.

    The audit delays neither recording nor sealing; but Postgres cannot vacuum meanwhile.
    """
    started = perf_counter()
    async with database.begin() as tx:
        await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        await may_idle(tx)  # the reader of the output may be slow
        audit = Audit(tx, inner, pins)
        async for found in audit.findings():
            yield f"{found.where}: {found.why}", True
    took_s = perf_counter() - started
    yield (
        f"{audit.entries} entries of {audit.subjects} subjects, {audit.erased} of them erased, {audit.ended} ended",
        False,
    )
    yield f"{audit.seals} seals; {audit.unsealed} entries are not sealed yet", False
    if audit.moved.leaves:
        yield f"{audit.moved.leaves} entries are in another shard since the division, root {audit.moved.root}", False
    if audit.newest:
        yield f"newest seal: {audit.newest.pin}", False
    yield f"{took_s:.1f} s, {audit.entries / took_s:,.0f} entries/s", False


def _pin(value: str) -> tuple[int, str]:
    number, _, digest = value.partition(":")
    if not number.isdigit() or len(digest) != 64:
        raise argparse.ArgumentTypeError("a pin is NUMBER:HASH")
    return int(number), digest
