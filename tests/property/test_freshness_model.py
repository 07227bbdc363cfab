"""The first promise, exhausted: a model of ADR-0004 with one subject and one STOP, all interleavings, for ever.

    operator ──STOP──▶ inbound: row ──relay──▶ log ──▶ consent: row ──relay──▶ log ──▶ dispatch: projection
             ◀──2xx───                      shop ──STOP──▶ (or here)                    decide ▶ permit ▶ hand-off

Each line that `steps` yields is one thing that happens at once (a commit, the snapshot of a read, an acknowledged
publish); between any two of them anything else may happen, and time may pass. In every state that can be reached:

    late        no hand-off begins more than max_staleness + permit_ttl after the STOP was acknowledged
    enforced    no hand-off begins after the opt-out was reported enforced

Instants are held as ages that stop growing where they no longer matter, so the states are finite and time has no end.
Every rule of ADR-0004, 0008 and 0009 that looks like one could do without it is a field of `Rules`: without it, the
same search finds the way to a message that somebody gets after her STOP.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

import pytest

MAX_STALENESS = 1
PERMIT_TTL = 1
STALE = MAX_STALENESS + 1  # the age from which on a watermark is just old
LATE = MAX_STALENESS + PERMIT_TTL + 1  # the age of an acknowledgement from which on no hand-off may begin
UNREAD = 1  # records that a log may hold ahead of its reader; its relay waits, with what it has read, to write another

STOP = -1
Log = tuple[int, ...]  # STOP, or the age of a watermark


@dataclass(frozen=True)
class Rules:
    """Those rules, and what may befall them: a service's Postgres fails over to a replica that is one commit behind; a
    log loses its last record; a former leader of consent's relay has an older state of the subject under way."""

    answer_once: Literal["in the log", "committed", "received"] = "in the log"
    clock_before_snapshot: bool = True
    ceiling: bool = True
    ceiling_before_snapshot: bool = True
    max_staleness: bool = True
    permit_ttl: bool = True
    partition_lock: bool = True
    numbers: bool = True  # no watermark is applied over a gap
    fence: bool = True  # Kafka refuses what a former leader writes after its successor
    inbound_loses_a_commit: bool = True
    logs_lose_their_tail: bool = True
    consent_loses_a_commit: bool = False

    def reads(self, of_consent: bool) -> tuple[str, ...]:
        """What a relay reads in one turn, in this order, before it publishes."""
        reads = ["clock", "snapshot"] if self.clock_before_snapshot else ["snapshot", "clock"]
        if of_consent and self.ceiling:
            reads.insert(0 if self.ceiling_before_snapshot else len(reads), "ceiling")
        return tuple(reads)


class Relay(NamedTuple):
    """One turn of it. `as_of`: the age of the watermark it may publish, once clock or ceiling are read."""

    reads_done: int = 0
    as_of: int | None = None
    found: bool = False  # the snapshot has a row, not yet published


class State(NamedTuple):
    stop: Literal[
        "to come",
        "received",
        "in inbound's outbox",
        "in inbound's log",
        "with consent",
        "from a shop",
        "lost",
        "compacted away",
    ] = "to come"
    answered: int | None = None  # since when whoever sent it has a 2xx
    inbound_relay: Relay = Relay()
    inbound_log: Log = ()
    consent_as_of: int = STALE  # the inbound watermark applied
    consent_row: bool = False
    consent_relay: Relay = Relay()
    consent_log: Log = ()
    dispatch_as_of: int = STALE
    stopped: bool = False  # dispatch's projection has the STOP
    enforced: bool = False
    message: Literal["asked", "deciding", "sending", "deciding again", "handed off"] = "asked"
    allowed: bool = False  # what the open decision has come to
    permit: int = 0  # how long it holds; below zero it has lapsed


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Everything that can happen next."""
    yield "time passes", _older(s)
    yield from _sender(s, rules)
    yield from _message(s, rules)
    if s.stopped:  # what is upstream has no bearing on anything any more, unless the projection begins anew
        if not rules.fence:
            yield (
                "an older state lands after the STOP, the log is compacted, and dispatch reads it anew",
                s._replace(stop="compacted away", stopped=False),
            )
        return
    if rules.logs_lose_their_tail:
        yield from _tails(s)
    yield from _inbound_relay(s, rules)
    yield from _consent(s, rules)
    yield from _consent_relay(s, rules)
    yield from _projection(s, rules)


def _sender(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    match s.stop:
        case "to come":
            yield "the operator delivers the STOP", s._replace(stop="received")
            yield "consent commits a shop's opt-out", s._replace(stop="from a shop", consent_row=True)
        case "received":  # and again, when the operator tries again
            yield "inbound commits it", s._replace(stop="in inbound's outbox")
        case "in inbound's outbox" if rules.inbound_loses_a_commit:
            yield "inbound's database fails over and has lost it", s._replace(stop="received")
        case "from a shop" if rules.consent_loses_a_commit and s.consent_row:
            yield "consent's database fails over and has lost it", s._replace(stop="lost", consent_row=False)
    may_answer = {
        "to come": False,
        "received": rules.answer_once == "received",
        "in inbound's outbox": rules.answer_once in ("received", "committed"),
        "in inbound's log": True,
        "with consent": True,
        "from a shop": True,  # consent answers once it has committed
        "lost": True,
        "compacted away": True,
    }
    if s.answered is None and may_answer[s.stop]:
        yield "the sender of the STOP has its 2xx", s._replace(answered=0)


def _tails(s: State) -> Iterator[tuple[str, State]]:
    """The STOP alone: a watermark that is lost is followed by others."""
    if STOP in s.inbound_log:
        yield "inbound's log loses its tail", s._replace(inbound_log=())
    if STOP in s.consent_log:
        yield "consent's log loses its tail", s._replace(consent_log=())


def _gap(of_consent: bool, s: State) -> bool:
    """The watermark at the end of this log tells the number of the STOP, which its reader has not come to. A reader of
    a compacted log takes that for compaction where offsets are missing as well."""
    if of_consent:
        return s.stop in ("with consent", "from a shop") and not s.consent_row
    return s.stop == "in inbound's log"


def _inbound_relay(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    row = s.stop == "in inbound's outbox"
    for does, relay, log in _turn(s.inbound_relay, rules.reads(of_consent=False), row, 0, s.inbound_log):
        after = s._replace(inbound_relay=relay, inbound_log=log)
        yield f"inbound's relay {does}", after._replace(stop="in inbound's log") if does == PUBLISHES else after


def _consent(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if s.inbound_log:
        after = s._replace(inbound_log=s.inbound_log[1:])
        if s.inbound_log[0] == STOP:
            yield "consent applies the STOP", after._replace(stop="with consent", consent_row=True)
        elif rules.numbers and _gap(False, s):
            yield "consent sees a gap, and does not apply the watermark", after
        else:
            as_of = min(s.consent_as_of, s.inbound_log[0])
            yield "consent applies a watermark", after._replace(consent_as_of=as_of)


def _consent_relay(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    reads = rules.reads(of_consent=True)
    for does, relay, log in _turn(s.consent_relay, reads, s.consent_row, s.consent_as_of, s.consent_log):
        after = s._replace(consent_relay=relay, consent_log=log)
        yield f"consent's relay {does}", after._replace(consent_row=False) if does == PUBLISHES else after


PUBLISHES = "publishes the STOP and deletes its row"


def _turn(relay: Relay, reads: tuple[str, ...], row: bool, ceiling: int, log: Log) -> Iterator[tuple[str, Relay, Log]]:
    if relay.reads_done < len(reads):
        read = reads[relay.reads_done]
        relay = relay._replace(reads_done=relay.reads_done + 1)
        if read == "snapshot":
            relay = relay._replace(found=row)
        else:  # the older of clock and ceiling is the watermark's
            relay = relay._replace(as_of=max(relay.as_of or 0, ceiling if read == "ceiling" else 0))
        yield f"reads the {read}", relay, log
    elif len(log) < UNREAD:
        if relay.found and row:  # (a row lost since is not there to be deleted: that turn fails)
            yield PUBLISHES, relay._replace(found=False), (*log, STOP)
        elif relay.found:
            yield "finds its database changed, and begins anew", Relay(), log
        else:
            assert relay.as_of is not None
            yield "publishes a watermark", Relay(), (*log, relay.as_of)


def _projection(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    decision_is_open = s.message in ("deciding", "deciding again")
    if s.consent_log and not (rules.partition_lock and decision_is_open):
        if s.consent_log[0] == STOP:
            applied = State(
                stop=s.stop,
                answered=s.answered,
                stopped=True,
                enforced=s.enforced,
                message=s.message,
                allowed=s.allowed,
                permit=s.permit,
            )
            yield "dispatch applies the STOP", _enforce(applied)
        elif rules.numbers and _gap(True, s):
            yield "dispatch sees a gap, and does not apply the watermark", s._replace(consent_log=s.consent_log[1:])
        else:
            as_of = min(s.dispatch_as_of, s.consent_log[0])
            yield "dispatch applies a watermark", s._replace(consent_log=s.consent_log[1:], dispatch_as_of=as_of)


def _message(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """One after the other, for ever."""
    fresh = s.dispatch_as_of <= MAX_STALENESS or not rules.max_staleness
    decided = s._replace(allowed=fresh and not s.stopped, permit=PERMIT_TTL)
    ended = s._replace(message="asked", allowed=False, permit=0)
    match s.message:
        case "asked" if decided.allowed:
            yield "a decision reads: allow", decided._replace(message="deciding")
        case "deciding":
            yield "the decision commits: sending", s._replace(message="sending")
        case "sending" if s.permit >= 0 or not rules.permit_ttl:
            yield HAND_OFF, s._replace(message="handed off", permit=0)
        case "sending":
            yield "the permit has lapsed: a new decision reads", decided._replace(message="deciding again")
        case "deciding again" if s.allowed:
            yield "the new decision commits: sending", s._replace(message="sending")
        case "deciding again":
            yield "the new decision commits: not now", _enforce(ended)
        case "handed off":
            yield "the hand-off settles", _enforce(ended)


HAND_OFF = "the hand-off begins"


def _enforce(s: State) -> State:
    """Part of each transaction that applies an opt-out or ends a `sending`, as the ledger has it then."""
    sending = s.message in ("sending", "deciding again", "handed off")
    return s._replace(enforced=s.enforced or (s.stopped and not sending))


def _older(s: State) -> State:
    answered = None if s.answered is None else min(s.answered + 1, LATE)
    permit = max(s.permit - 1, -1) if s.message in ("deciding", "sending", "deciding again") else 0
    if s.stopped:
        return s._replace(answered=answered, permit=permit)
    return s._replace(
        answered=answered,
        permit=permit,
        inbound_relay=_older_turn(s.inbound_relay),
        inbound_log=tuple(map(_older_record, s.inbound_log)),
        consent_as_of=min(s.consent_as_of + 1, STALE),
        consent_relay=_older_turn(s.consent_relay),
        consent_log=tuple(map(_older_record, s.consent_log)),
        dispatch_as_of=min(s.dispatch_as_of + 1, STALE),
    )


def _older_record(record: int) -> int:
    return record if record == STOP else min(record + 1, STALE)


def _older_turn(relay: Relay) -> Relay:
    return relay if relay.as_of is None else relay._replace(as_of=min(relay.as_of + 1, STALE))


def broken_by(s: State) -> Literal["late", "enforced"] | None:
    """The promise that a hand-off beginning in this state breaks."""
    if s.enforced:
        return "enforced"
    return "late" if s.answered == LATE else None


@dataclass(frozen=True)
class Search:
    """`story`: what happened on the shortest way to a broken promise; empty when there is none."""

    broken: str | None
    story: tuple[str, ...]
    seen: dict[State, tuple[State, str] | None]


def search(rules: Rules) -> Search:
    start = State()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    ahead = deque([start])
    while ahead:
        state = ahead.popleft()
        for happens, following in steps(state, rules):
            if happens == HAND_OFF and (broken := broken_by(state)):
                return Search(broken, (*_story(state, came_from), happens), came_from)
            if following not in came_from:
                came_from[following] = (state, happens)
                ahead.append(following)
    return Search(None, (), came_from)


def _story(state: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    told: list[str] = []
    while (link := came_from[state]) is not None:
        state, happened = link
        told.append(happened)
    return tuple(reversed(told))


def test_by_the_rules_no_hand_off_begins_late_or_after_enforced() -> None:
    found = search(Rules())
    assert found.broken is None, "\n".join(found.story)
    # and it was not for want of trying
    seen = found.seen
    assert any(s.enforced and s.answered == LATE for s in seen)
    assert any(s.answered == LATE and s.message == "sending" for s in seen), "a lapsed permit"
    assert any(s.answered == LATE - 1 and s.message == "sending" and s.permit >= 0 for s in seen), "the last moment"
    assert any(s.stopped and s.message == "handed off" for s in seen), "a STOP that overtakes a hand-off"


AT_COMMIT = Rules(answer_once="committed", inbound_loses_a_commit=False, logs_lose_their_tail=False)
SHORTCUTS = {
    "consent's watermark is from its own clock alone": (Rules(), Rules(ceiling=False), "late"),
    "consent reads its ceiling after the snapshot": (Rules(), Rules(ceiling_before_snapshot=False), "late"),
    "no bound on staleness": (Rules(), Rules(max_staleness=False), "late"),
    "a permission has no end": (Rules(), Rules(permit_ttl=False), "late"),
    "nobody counts what is published": (Rules(), Rules(numbers=False), "late"),
    "a former leader is not fenced off": (Rules(), Rules(fence=False), "enforced"),
    "no partition lock": (Rules(), Rules(partition_lock=False), "enforced"),
    "the operator is answered before the log has the event": (Rules(), Rules(answer_once="committed"), "late"),
    "the operator is answered before anything is committed": (
        AT_COMMIT,
        replace(AT_COMMIT, answer_once="received"),
        "late",
    ),
    "the clock is read after the snapshot": (AT_COMMIT, replace(AT_COMMIT, clock_before_snapshot=False), "late"),
}


@pytest.mark.parametrize(("kept", "cut", "breaks"), SHORTCUTS.values(), ids=SHORTCUTS.keys())
def test_without_any_one_rule_somebody_gets_a_message_after_her_stop(kept: Rules, cut: Rules, breaks: str) -> None:
    found = search(cut)
    assert found.broken == breaks
    assert found.story[-1] == HAND_OFF
    assert holds(kept), "then it is not for want of this rule"


def test_inbound_waits_for_kafka_because_a_database_may_lose_its_last_commit() -> None:
    """Not for the watermarks: the snapshot after the clock sees whatever was committed before it. Without a 2xx the
    operator sends the STOP again."""
    assert holds(AT_COMMIT)
    assert not holds(replace(AT_COMMIT, inbound_loses_a_commit=True))
    assert holds(Rules(inbound_loses_a_commit=True))


def test_an_opt_out_from_a_shop_is_as_safe_as_consents_database() -> None:
    """Consent answers its API at the commit, so its Postgres needs a standby that commits with it (the ledger does
    anyway): else a failover can lose an opt-out that a shop was told is kept."""
    assert search(Rules(consent_loses_a_commit=True)).broken == "late"


def test_the_order_of_clock_and_snapshot_is_a_second_net() -> None:
    """While inbound waits for Kafka, and consent has its ceiling, no STOP slips between snapshot and clock; take one of
    these away, and it does."""
    assert holds(Rules(clock_before_snapshot=False))


@cache
def holds(rules: Rules) -> bool:
    return search(rules).broken is None
