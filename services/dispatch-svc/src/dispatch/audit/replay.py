"""`python -m dispatch replay`: are stored decisions what their records give, and what would other rules have said?

Reads, changes nothing. Ends with 0, or with 1 where a decision is not the one that its record gives or its row tells,
or 2 where nothing can be read. With `--policy` it is a dry run: which messages other rules would have treated
otherwise.

A row tells of its decision by status and reasons: what was allowed has left or waits for a way out, all else is as it
was decided. But for what an erasure denied while it waited: nobody decided on it, so its reason is in no record. Those
are counted apart.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from common.db.database import Database, may_idle
from common.law import Policy, at_hand_off, load, rules_of
from dispatch import store
from dispatch.gate import record
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Reason, Verdict

TOLD = 100  # messages that are printed; the others are counted


class _Settings(BaseSettings):
    """Of all that the service is told, the one thing that this needs: of a role that may read is enough."""

    model_config = SettingsConfigDict(env_prefix="PLACET_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str


@dataclass(slots=True)
class Replay:
    """What to decide again, and by which rules: `other`, or those that each decision names. `house`: the content of a
    file of house rules, where decisions name one."""

    other: Policy | None = None
    house: bytes | None = None
    looked_at: int = 0
    without_record: int = 0
    differing: int = 0
    erased: int = 0  # since, while they waited
    changes: Counter[str] = field(default_factory=Counter)
    _policies: dict[str, Policy | None] = field(default_factory=dict)

    def line(self, row: Row[Any]) -> str | None:
        """What is to be said of one message; None where nothing is."""
        self.looked_at += 1
        if row.facts is None:
            self.without_record += 1
            return None
        policy = self.other or self._named(row.policy_version)
        if policy is None:
            self.differing += 1
            return f"{row.message_id}: {row.policy_version} is not to be had"
        try:
            kept = record.decode(row.facts)
            stood = record.verdict(kept)
        except (msgspec.DecodeError, ValueError) as error:
            self.differing += 1
            return f"{row.message_id}: its record cannot be read: {error}"
        if self.other is None and not _is_told(stood, row.status, row.reasons):
            if (row.status, list(row.reasons)) != ("denied", [Reason.ERASED]):
                self.differing += 1
                says = f"its row says {' '.join((row.status, ', '.join(row.reasons))).strip()}"
                return f"{row.message_id}: {says}, its record {_told(stood)}"
            self.erased += 1
        found = record.decide_again(kept, row, policy)
        if found == stood:
            return None
        self.differing += 1
        self.changes[f"{_short(stood)} -> {_short(found)}"] += 1
        return f"{row.message_id}: {_told(stood)} -> {_told(found)}"

    def summary(self) -> list[str]:
        what = "would be otherwise" if self.other else "are not what their record gives"
        lines = [f"{self.looked_at} decisions, {self.differing} {what}"]
        lines += [f"  {change}: {count}" for change, count in self.changes.most_common()]
        if self.erased:
            lines.append(
                f"{self.erased} denied by an erasure while they waited: their records are of the decision before"
            )
        if self.without_record:
            lines.append(f"{self.without_record} without a record: not decided, or before there were any")
        return lines

    def _named(self, version: str) -> Policy | None:
        if version not in self._policies:
            self._policies[version] = self._loaded(version)
        return self._policies[version]

    def _loaded(self, version: str) -> Policy | None:
        edition, house, _ = version.partition("+")
        try:
            policy = load(edition, self.house if house else None)
        except FileNotFoundError:
            return None
        return at_hand_off(policy) if policy.version == version else None


WAYS_OUT = frozenset(  # that hinder what was allowed, and are not of the law
    (
        Reason.SERVICE_STOPPING,
        Reason.GATEWAY_UNREACHABLE,
        Reason.GATEWAY_THROTTLED,
        Reason.GATEWAY_NEEDS_SOMEBODY,
        Reason.NO_ROUTE,
    )
)


def _is_told(verdict: Verdict, status: str, reasons: Sequence[str]) -> bool:
    """Does a row with these tell of this verdict?"""
    match verdict:
        case Allow() if status == "deferred":
            return bool(reasons) and WAYS_OUT.issuperset(reasons)
        case Allow():
            return status in ("pending", "sending", "accepted", "rejected", "unknown") and not reasons
        case Deny():
            told = "denied"
        case Defer():
            told = "deferred"
        case Expire():
            told = "expired"
    return (status, tuple(reasons)) == (told, verdict.reasons)


def run(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    try:
        house = options.house.read_bytes() if options.house else None
        other = _other(options.policy, options.rules_of, house)
        return asyncio.run(_run(_Settings().database_url, Replay(other, house), options))
    except (OSError, SQLAlchemyError, ValueError) as error:  # ValueError: settings, and files that cannot be read
        sys.stderr.write(f"cannot be replayed: {_first_line(error)}\n")
        return 2


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dispatch replay", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("message_ids", nargs="*", type=UUID, metavar="MESSAGE_ID")
    parser.add_argument("--campaign", metavar="ID", help="all messages of a campaign")
    parser.add_argument("--sample", type=int, metavar="N", help="so many messages, drawn at random")
    parser.add_argument("--policy", metavar="VERSION|FILE", help="by other rules: an edition, or a file of house rules")
    parser.add_argument("--rules-of", type=date.fromisoformat, metavar="DATE", help="the rules in force on that day")
    parser.add_argument("--house", type=Path, metavar="FILE", help="the house rules that decisions were made with")
    options = parser.parse_args(arguments)
    if sum(map(bool, (options.message_ids, options.campaign, options.sample))) != 1:
        parser.error("say which: message ids, --campaign or --sample")
    return options


def _other(policy: str | None, day: date | None, house: bytes | None) -> Policy | None:
    """Other rules to decide by, if any: those of an edition, those of an edition and a house file, those of a day."""
    if policy is None and day is None:
        return None
    if policy is not None and Path(policy).suffix == ".json":
        found = load("france", Path(policy).read_bytes())
    else:
        found = load(policy or "france", house)
    return at_hand_off(rules_of(day, found) if day else found)


async def _run(url: str, replay: Replay, options: argparse.Namespace) -> int:
    database = Database(url, pool_size=1, name="dispatch-replay")
    told = 0
    try:
        async for line in lines(database, replay, options.message_ids, options.campaign, options.sample):
            told += 1
            if told <= TOLD:
                sys.stdout.write(f"{line}\n")
    finally:
        await database.close()
    if told > TOLD:
        sys.stdout.write(f"and {told - TOLD} more\n")
    sys.stdout.write("".join(f"{line}\n" for line in replay.summary()))
    return 1 if replay.differing and replay.other is None else 0


async def lines(
    database: Database,
    replay: Replay,
    message_ids: Sequence[UUID] = (),
    campaign_id: str | None = None,
    sample: int | None = None,
) -> AsyncIterator[str]:
    async with database.begin() as tx:
        await may_idle(tx)  # whoever reads what is written takes their time
        async for row in store.decided(tx, message_ids, campaign_id, sample):
            if (line := replay.line(row)) is not None:
                yield line


def _short(verdict: Verdict) -> str:
    if isinstance(verdict, Allow):
        return "allow"
    return f"{type(verdict).__name__.lower()} {', '.join(verdict.reasons)}"


def _told(verdict: Verdict) -> str:
    until = f" until {verdict.until.isoformat()}" if isinstance(verdict, Defer) else ""
    return _short(verdict) + until


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
    return str(error).partition("\n")[0]
