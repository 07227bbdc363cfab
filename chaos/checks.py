"""Check the promises against the operator's log and the services' ledgers. Pure.

Facts come in any order as they become known; violations come out. Only the operator (`stack.simulator`) says what was
sent to whom, and when.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

MARKETING = "marketing"
# the latest begin of a hand-off after an acknowledged STOP: max_staleness + permit_ttl
BEGINS_WITHIN = timedelta(seconds=3)
ON_ITS_WAY = timedelta(seconds=1)  # from a hand-off's begin to the operator, on a busy machine
ON_THE_WAY = timedelta(seconds=15)  # until a message taken by the operator is stored: no sweep is later
HAS_LEFT = frozenset({"sending", "accepted", "rejected", "unknown"})
OVER = frozenset({"finished", "cancelled"})
REASONS = ("paused_because", "sending_waits", "failing")  # of a campaign that goes on
AT_AN_END = frozenset({"denied", "accepted", "rejected", "unknown", "expired"})


class Person(NamedTuple):
    """A person and a STOP code: each sender has a code of its own, and a campaign."""

    number: str
    code: str


@dataclass(frozen=True, slots=True)
class Violation:
    """`promise`: its number in the README, or 0. `what` holds no number and no text."""

    promise: int
    check: str
    what: str


@dataclass(slots=True)
class Loss:
    """A failover to an older copy: the database lost its commits from `since` to `until`.

    Contradictions that follow from the loss are forgiven; a lost STOP is not.
    """

    service: str
    since: datetime
    until: datetime | None = None
    made_good: bool = False  # repeatable facts have been repeated

    def forgot(self, at: datetime) -> bool:
        """Return whether a fact of `at` was lost; storing takes up to ON_THE_WAY."""
        return self.since - ON_THE_WAY <= at and (self.until is None or at <= self.until)


def forgot(losses: Iterable[Loss], service: str, at: datetime) -> bool:
    return any(loss.service == service and loss.forgot(at) for loss in losses)


@dataclass(slots=True)
class Account:
    """The operator's facts. Each `take…` returns the violations in the light of all earlier facts.

    `losses`: a message forgotten by dispatch-svc may leave again (docs/runbook.md).
    """

    losses: list[Loss] = field(default_factory=list)
    taken: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # accepted or rejected, by reference
    times: dict[Person, list[datetime]] = field(default_factory=lambda: defaultdict(list))  # of marketing
    stops: dict[str, tuple[Person, datetime]] = field(default_factory=dict)  # by the reply's id; with the time sent
    acknowledged: dict[str, datetime] = field(default_factory=dict)
    enforced: dict[str, datetime] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)  # enforced by an operator's list
    _forbidden: dict[Person, datetime] = field(default_factory=dict)  # no arrival later: acknowledged
    _closed: dict[Person, datetime] = field(default_factory=dict)  # no begin later: enforced

    def take(self, lines: Iterable[Mapping[str, Any]]) -> list[Violation]:
        """Take lines of the operator's log."""
        found: list[Violation] = []
        for line in lines:
            match line["kind"]:
                case "submit" if line["category"] == MARKETING and not line["replay"]:
                    found += self._submit(line)
                case "reply":
                    at = datetime.fromisoformat(line["sent_at"])
                    self.stops[line["id"]] = Person(line["from"], line["to"]), at
                case "reply_acknowledged":
                    found += self._acknowledged(line["id"], datetime.fromisoformat(line["at"]))
        return found

    def take_enforced(self, reply: str, at: datetime, *, by_list: bool = False) -> list[Violation]:
        """Take an enforcement by dispatch-svc, at `at`.

        `by_list`: a log had lost the STOP; its latency is the repair's.
        """
        if reply in self.enforced or reply not in self.stops:
            return []
        self.enforced[reply] = at
        if by_list:
            self.listed.add(reply)
        person = self.stops[reply][0]
        self._closed[person] = min(at, self._closed.get(person, at))
        return [_after_enforced(reply) for time in self.times[person] if time > at]

    @property
    def stopped_within_s(self) -> list[float]:
        """Return the latency of each STOP enforced by its own event, from the operator's sending."""
        timed = {reply: at for reply, at in self.enforced.items() if reply not in self.listed}
        return [(at - self.stops[reply][1]).total_seconds() for reply, at in timed.items()]

    def _submit(self, line: Mapping[str, Any]) -> list[Violation]:
        found = []
        person, at = Person(line["to"], line["short_code"]), datetime.fromisoformat(line["at"])
        before = self.taken.get(line["reference"])
        again = before is not None and not self._forgotten(datetime.fromisoformat(before["at"]))
        if again:
            found.append(Violation(4, "sent twice", f"message {line['reference']}"))
        elif line["status"] == "accepted" and not all(map(self._forgotten, self.times[person])):
            found.append(Violation(4, "sent twice", f"two messages of one campaign, {line['reference']} the later"))
        if not again:
            self.taken[line["reference"]] = line
        if line["status"] == "accepted":
            self.times[person].append(at)
            if (closed := self._closed.get(person)) is not None and at > closed:
                found.append(_after_enforced(line["reference"]))
            if (forbidden := self._forbidden.get(person)) is not None and at > forbidden:
                found.append(_after_acknowledged(line["reference"]))
        return found

    def _forgotten(self, at: datetime) -> bool:
        return forgot(self.losses, "dispatch", at)

    def _acknowledged(self, reply: str, at: datetime) -> list[Violation]:
        self.acknowledged[reply] = at
        person, forbidden = self.stops[reply][0], at + BEGINS_WITHIN + ON_ITS_WAY
        self._forbidden[person] = min(forbidden, self._forbidden.get(person, forbidden))
        return [_after_acknowledged(reply) for time in self.times[person] if time > forbidden]


def _after_enforced(which: str) -> Violation:
    return Violation(1, "after enforcement", f"a message after an enforced STOP: {which}")


def _after_acknowledged(which: str) -> Violation:
    limit = (BEGINS_WITHIN + ON_ITS_WAY).total_seconds()
    return Violation(1, "after acknowledgement", f"a message more than {limit:g} s after an acknowledged STOP: {which}")


def contradicted(
    statuses: Mapping[str, str | None], taken: Mapping[str, Mapping[str, Any]], losses: Sequence[Loss] = ()
) -> list[Violation]:
    """Check that messages taken by the operator have left, by dispatch-svc's ledger (`statuses`) too."""
    return [
        Violation(4, "contradicted", f"the operator has message {reference}, which is {status or 'unknown to us'}")
        for reference, status in statuses.items()
        if reference in taken
        and (status not in HAS_LEFT or _other_outcome(status, taken[reference]["status"]))
        and not forgot(losses, "dispatch", datetime.fromisoformat(taken[reference]["at"]))
    ]


def _other_outcome(ours: str | None, theirs: str) -> bool:
    return ours in ("accepted", "rejected") and ours != theirs


def never_taken(statuses: Mapping[str, str], taken: Mapping[str, Mapping[str, Any]]) -> list[Violation]:
    """Check that the operator has seen each message accepted or rejected by the ledger."""
    return [
        Violation(4, "contradicted", f"message {reference} is {status}, and the operator never had it")
        for reference, status in statuses.items()
        if status in ("accepted", "rejected") and reference not in taken
    ]


def adds_up(campaign: str, accounts: Mapping[str, int], recipients: Mapping[str, int]) -> list[Violation]:
    """Check a campaign's counters against its recipients by status, at one instant."""
    counted = Counter(recipients)
    counted["pending"] += counted.pop("sending", 0)
    names = ("pending", "denied", "deferred", "expired", "accepted", "rejected", "unknown")
    parts = sum(accounts[name] for name in names)
    wrong = [name for name in names if accounts[name] != counted[name]]
    found = [Violation(4, "does not add up", f"campaign {campaign}: {', '.join(wrong)} differ")] if wrong else []
    if accounts["audience"] != parts:
        found.append(
            Violation(4, "does not add up", f"campaign {campaign}: audience {accounts['audience']} is not {parts}")
        )
    return found


@dataclass(slots=True)
class Standings:
    """A service's consent data, look by look: no version goes back, and an opt-out stays."""

    service: str
    versions: dict[str, int] = field(default_factory=dict)  # by subject
    closed: set[tuple[str, str]] = field(default_factory=set)  # (subject, sender): seen to be opted out

    def take(self, subject: str, version: int, closed: Iterable[str], opened: Iterable[str]) -> list[Violation]:
        """Take a subject's state: `closed` and `opened` senders."""
        found = []
        if version < self.versions.get(subject, version):
            found.append(Violation(3, "went back", f"{self.service} knows less of {subject} than before"))
        self.versions[subject] = max(version, self.versions.get(subject, version))
        found += [
            Violation(3, "loosened", f"{self.service}: {subject} is opted in to {sender} again")
            for sender in opened
            if (subject, sender) in self.closed
        ]
        self.closed |= {(subject, sender) for sender in closed}
        return found


def lost(campaign: str, people: int, accounts: Mapping[str, int], statuses: Mapping[str, int]) -> list[Violation]:
    """Check at the end that every person was in the audience, and every message has an end."""
    found = []
    if accounts["audience"] != people:
        found.append(Violation(4, "lost", f"campaign {campaign}: an audience of {accounts['audience']}, not {people}"))
    if waiting := {status: n for status, n in statuses.items() if status not in AT_AN_END}:
        found.append(Violation(4, "lost", f"campaign {campaign}: {waiting} have no end"))
    return found


def between(
    since: datetime, until: datetime, without: Iterable[tuple[datetime, datetime]], margin: timedelta
) -> list[tuple[datetime, datetime]]:
    """Return `since` to `until` without these spans, each with a margin on both sides."""
    left, at = [], since
    for begin, end in sorted(without):
        if begin - margin > at:
            left.append((at, min(begin - margin, until)))
        at = max(at, end + margin)
    return [(begin, end) for begin, end in [*left, (at, until)] if begin < end]


def newest_is_last(log: Iterable[tuple[str, int]]) -> list[Violation]:
    """Check that the last record of each key is its newest: compaction leaves only the last.

    `log`: key and version of each record, in order.
    """
    newest: dict[str, int] = {}
    last: dict[str, int] = {}
    for key, version in log:
        last[key] = version
        newest[key] = max(version, newest.get(key, version))
    older = sum(last[key] < newest[key] for key in last)
    return [Violation(3, "compacted away", f"{older} subjects: an older state is last in the log")] * bool(older)


@dataclass(frozen=True, slots=True)
class AtRest:
    """A check after all faults; `why` it fails."""

    check: str
    why: list[str]

    @property
    def violations(self) -> list[Violation]:
        return [Violation(10, self.check, why) for why in self.why]


def nothing_pending(waiting: Mapping[str, int]) -> AtRest:
    """Check for waiting rows. `waiting`: counts by kind."""
    return AtRest("nothing pending", [f"{many} {what}" for what, many in waiting.items() if many])


def nothing_unread(left: Mapping[str, int | None]) -> AtRest:
    """Check for unread records. `left`: counts by reader; `None`: the reader has never begun."""
    return AtRest(
        "nothing unread",
        [
            f"{reader} has never begun" if many is None else f"{reader} has {many} records before it"
            for reader, many in left.items()
            if many is None or many
        ],
    )


def all_fresh(ages_s: Mapping[str, float | None], limit_s: float) -> AtRest:
    """Check the age of applied watermarks, by partition; `None`: no watermark."""
    return AtRest(
        "every partition fresh",
        [
            f"{partition} has no watermark" if age is None else f"{partition} stands at {age:.0f} s ago"
            for partition, age in ages_s.items()
            if age is None or not age <= limit_s
        ],
    )


def every_stop_enforced(account: Account) -> AtRest:
    missing = len(account.acknowledged.keys() - account.enforced)
    return AtRest("every STOP enforced", [f"{missing} acknowledged STOPs are not"] if missing else [])


def every_campaign_ends(campaigns: Mapping[str, Mapping[str, Any]]) -> AtRest:
    """Check that each campaign, as told by campaign-svc, has ended or names its reason to wait."""
    silent = {
        campaign: told["status"]
        for campaign, told in campaigns.items()
        if told["status"] not in OVER and not any(told.get(reason) for reason in REASONS)
    }
    return AtRest(
        "every campaign ends", [f"campaign {campaign} is {status}, and silent" for campaign, status in silent.items()]
    )


def not_noticed(kind: str, target: str, red: Iterable[str], held: bool) -> list[Violation]:
    """Check that a loss of acknowledged records is noticed.

    Until the repair, a reader's readiness must name the topic, and marketing must be held. `red`: the reasons of
    processes. `held`: at every look.
    """
    where = f"{kind}, {target}"
    found = (
        [] if any(target in why for why in red) else [Violation(10, "not noticed", f"{where}: no readiness names it")]
    )
    return found + ([] if held else [Violation(1, "not held", f"{where}: marketing was not held until the repair")])


def stood_still(service: str, waited_s: float | None, limit_s: float) -> list[Violation]:
    """Check that a standby took over from a relay without Kafka. `waited_s`: until the outbox moved; `None`: never."""
    if waited_s is not None and waited_s <= limit_s:
        return []
    told = "until the cut was over" if waited_s is None else f"for {waited_s:.0f} s"
    return [Violation(10, "no standby", f"the outbox of {service} stood still {told}, beside a standby")]


def stepped_over(topic: str, written: int, buried: int) -> list[Violation]:
    """Check that each foreign record of an unknown type is a dead letter of a reader."""
    missing = f"{written - buried} of {written} foreign records of {topic} are no dead letters"
    return [Violation(3, "stepped over", missing)] if buried < written else []


def never_enforced(account: Account) -> list[Violation]:
    """Check at the end that every STOP was acknowledged, and every acknowledged STOP enforced."""
    found = [Violation(1, "not acknowledged", f"STOP {each}") for each in account.stops.keys() - account.acknowledged]
    return found + [
        Violation(1, "not enforced", f"STOP {each}") for each in account.acknowledged.keys() - account.enforced
    ]


def open_again(sender: str, results: Sequence[Mapping[str, Any]]) -> list[Violation]:
    """Check consent-svc's answer about people who have all stopped with this sender."""
    allowed = sum(bool(result["allowed"]) for result in results)
    return [Violation(3, "loosened", f"consent-svc would have {allowed} who stopped written to by {sender}")] * bool(
        allowed
    )
