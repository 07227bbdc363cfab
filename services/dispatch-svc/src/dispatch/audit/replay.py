"""`python -m dispatch replay`: decide stored decisions again, by their own or other rules, and report differences.

The command only reads. Exit code 0: every decision agrees with its record and its row. 1: a decision disagrees. 2: the
input cannot be read. With `--policy` or `--rules-of` the command is a dry run, which shows the messages that other
rules would have treated otherwise, and never ends with 1.

An allowed message may also wait for a gateway. An erasure denies waiting messages without a decision: the summary
counts such messages apart.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from uuid import UUID

import msgspec
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.exc import SQLAlchemyError

from common.db.database import Database, may_idle
from common.law import Policy, at_hand_off, load, rules_of
from dispatch.audit import store
from dispatch.gate import record
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Verdict
from dispatch.messages.reasons import Reason
from dispatch.messages.status import HANDED_OFF, Status
from dispatch.quotas.budget import OF_A_LIMIT

TOLD = 100  # messages printed


class _Settings(BaseSettings):
    """The only setting of the command; a role with read access suffices."""

    model_config = SettingsConfigDict(env_prefix="PLACET_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str


@dataclass(slots=True)
class Replay:
    """The tallies of a replay, and its rules: `other`, or the rules named by each decision."""

    other: Policy | None = None
    house: bytes | None = None
    looked_at: int = 0
    without_record: int = 0
    differing: int = 0
    erased: int = 0  # by an erasure, while the messages waited
    changes: Counter[str] = field(default_factory=Counter)
    _policies: dict[str, Policy | None] = field(default_factory=dict)

    def line(self, row: store.Decided) -> str | None:
        """Return the difference of one message, if any."""
        self.looked_at += 1
        if row.facts is None:
            self.without_record += 1
            return None
        policy = self.other or self._named(row.policy_version)
        if policy is None:
            self.differing += 1
            return f"{row.message_id}: the version {row.policy_version} is not available"
        try:
            kept = record.decode(row.facts)
            stood = record.verdict(kept)
            record.bounds(kept)  # `decode` leaves the limits unread
        except (msgspec.DecodeError, ValueError) as error:
            self.differing += 1
            return f"{row.message_id}: the record cannot be read: {error}"
        if self.other is None and not _is_told(stood, row.status, row.reasons):
            if (row.status, list(row.reasons)) != (Status.DENIED, [Reason.ERASED]):
                self.differing += 1
                says = f"the row says {' '.join((row.status, ', '.join(row.reasons))).strip()}"
                return f"{row.message_id}: {says}, the record {_told(stood)}"
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


WAYS_OUT = frozenset(  # reasons that hold back an allowed message, and are not law
    (
        Reason.SERVICE_STOPPING,
        Reason.GATEWAY_UNREACHABLE,
        Reason.GATEWAY_THROTTLED,
        Reason.GATEWAY_NEEDS_SOMEBODY,
        Reason.NO_ROUTE,
    )
)


def _is_told(verdict: Verdict, status: str, reasons: Sequence[str]) -> bool:
    """Return whether a row agrees with the verdict."""
    if limited := OF_A_LIMIT.intersection(reasons):
        if status == Status.DENIED:
            return isinstance(verdict, Allow | Defer) and limited.issuperset(reasons)
        reasons = [reason for reason in reasons if reason not in limited]
        if isinstance(verdict, Allow):
            return status == Status.DEFERRED and WAYS_OUT.issuperset(reasons)
    match verdict:
        case Allow() if status == Status.DEFERRED:
            return bool(reasons) and WAYS_OUT.issuperset(reasons)
        case Allow():
            return status in {Status.PENDING, *HANDED_OFF} and not reasons
        case Deny():
            told = Status.DENIED
        case Defer():
            told = Status.DEFERRED
        case Expire():
            told = Status.EXPIRED
    return (status, tuple(reasons)) == (told, verdict.reasons)


def run(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    try:
        house = options.house.read_bytes() if options.house else None
        other = _other(options.policy, options.rules_of, house)
        return asyncio.run(_run(_Settings().database_url, Replay(other, house), options))
    except (OSError, SQLAlchemyError, ValueError) as error:  # ValueError: settings, unreadable files
        sys.stderr.write(f"cannot be replayed: {_first_line(error)}\n")
        return 2


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dispatch replay", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("message_ids", nargs="*", type=UUID, metavar="MESSAGE_ID")
    parser.add_argument("--campaign", metavar="ID", help="all messages of a campaign")
    parser.add_argument("--sample", type=int, metavar="N", help="N messages at random")
    parser.add_argument(
        "--policy", metavar="VERSION|FILE", help="decide by other rules: a version, or a file of house rules"
    )
    parser.add_argument(
        "--rules-of", type=date.fromisoformat, metavar="DATE", help="decide by the rules in force on that day"
    )
    parser.add_argument("--house", type=Path, metavar="FILE", help="the house rules of the original decisions")
    options = parser.parse_args(arguments)
    if sum(map(bool, (options.message_ids, options.campaign, options.sample))) != 1:
        parser.error("say which: message ids, --campaign or --sample")
    return options


def _other(policy: str | None, day: date | None, house: bytes | None) -> Policy | None:
    """Return the other rules, if any."""
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
        await may_idle(tx)  # the reader of the output may be slow
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
