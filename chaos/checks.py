"""The promises, asked of what the operator saw and of what the services' ledgers say, while it happens. Pure: facts go
in as they become known, in any order, and what no promise allows comes out.

Who was sent what, and when, is the operator's own word (`stack.simulator`), never ours.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

MARKETING = "marketing"
# A hand-off that an acknowledged STOP forbids begins no later than this: max_staleness + permit_ttl
BEGINS_WITHIN = timedelta(seconds=3)
ON_ITS_WAY = timedelta(seconds=1)  # from its beginning until the operator has it, on a busy machine
HAS_LEFT = frozenset({"sending", "accepted", "rejected", "unknown"})
AT_AN_END = frozenset({"denied", "accepted", "rejected", "unknown", "expired"})


class Person(NamedTuple):
    """Somebody, as far as one sender is concerned: each sender here has a STOP code of its own and one campaign."""

    number: str
    code: str


@dataclass(frozen=True, slots=True)
class Violation:
    """`promise`: its number in the README; 0 is none of them. `what` holds no number and no text."""

    promise: int
    check: str
    what: str


@dataclass(slots=True)
class Account:
    """What the operator saw. Each `take…` says what is wrong with what it was told, in the light of all before."""

    taken: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # accepted or rejected, by reference
    times: dict[Person, list[datetime]] = field(default_factory=lambda: defaultdict(list))  # of marketing
    stops: dict[str, tuple[Person, datetime]] = field(default_factory=dict)  # by the reply's id: who, and when sent
    acknowledged: dict[str, datetime] = field(default_factory=dict)
    enforced: dict[str, datetime] = field(default_factory=dict)
    _forbidden: dict[Person, datetime] = field(default_factory=dict)  # later than that nothing arrives: acknowledged
    _closed: dict[Person, datetime] = field(default_factory=dict)  # later than that nothing begins: enforced

    def take(self, lines: Iterable[Mapping[str, Any]]) -> list[Violation]:
        """Lines of the operator's log."""
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

    def take_enforced(self, reply: str, at: datetime) -> list[Violation]:
        """dispatch-svc says so of a STOP. From `at` on nothing begins."""
        if reply in self.enforced or reply not in self.stops:
            return []
        self.enforced[reply] = at
        person = self.stops[reply][0]
        self._closed[person] = min(at, self._closed.get(person, at))
        return [_after_enforced(reply) for time in self.times[person] if time > at]

    @property
    def stopped_within_s(self) -> list[float]:
        """Of each STOP that is enforced, from the operator's sending it: by no clock that is moved here."""
        return [(at - self.stops[reply][1]).total_seconds() for reply, at in self.enforced.items()]

    def _submit(self, line: Mapping[str, Any]) -> list[Violation]:
        found = []
        person, at = Person(line["to"], line["short_code"]), datetime.fromisoformat(line["at"])
        if line["reference"] in self.taken:
            found.append(Violation(4, "sent twice", f"message {line['reference']}"))
        elif line["status"] == "accepted" and self.times[person]:
            found.append(Violation(4, "sent twice", f"two messages of one campaign, {line['reference']} the later"))
        self.taken.setdefault(line["reference"], line)
        if line["status"] == "accepted":
            self.times[person].append(at)
            if (closed := self._closed.get(person)) is not None and at > closed:
                found.append(_after_enforced(line["reference"]))
            if (forbidden := self._forbidden.get(person)) is not None and at > forbidden:
                found.append(_after_acknowledged(line["reference"]))
        return found

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


def contradicted(statuses: Mapping[str, str | None], taken: Mapping[str, Mapping[str, Any]]) -> list[Violation]:
    """What the operator has taken has left, by the ledger of dispatch-svc too: `statuses` by message, now."""
    return [
        Violation(4, "contradicted", f"the operator has message {reference}, which is {status or 'unknown to us'}")
        for reference, status in statuses.items()
        if reference in taken and (status not in HAS_LEFT or _other_outcome(status, taken[reference]["status"]))
    ]


def _other_outcome(ours: str | None, theirs: str) -> bool:
    return ours in ("accepted", "rejected") and ours != theirs


def never_taken(statuses: Mapping[str, str], taken: Mapping[str, Mapping[str, Any]]) -> list[Violation]:
    """What the ledger says was accepted or rejected, the operator has seen."""
    return [
        Violation(4, "contradicted", f"message {reference} is {status}, and the operator never had it")
        for reference, status in statuses.items()
        if status in ("accepted", "rejected") and reference not in taken
    ]


def adds_up(campaign: str, accounts: Mapping[str, int], recipients: Mapping[str, int]) -> list[Violation]:
    """The counters of a campaign are what its recipients are, at one instant. `recipients`: how many, by status."""
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
    """What a service knows of consent, look by look: a version never goes back, and who has opted out stays so."""

    service: str
    versions: dict[str, int] = field(default_factory=dict)  # by subject
    closed: set[tuple[str, str]] = field(default_factory=set)  # (subject, sender): seen to be opted out

    def take(self, subject: str, version: int, closed: Iterable[str], opened: Iterable[str]) -> list[Violation]:
        """`closed`, `opened`: the senders this subject has opted out of, or is opted in to, as it is known there."""
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
    """At the end: everyone who was to be asked was, and each has an end."""
    found = []
    if accounts["audience"] != people:
        found.append(Violation(4, "lost", f"campaign {campaign}: an audience of {accounts['audience']}, not {people}"))
    if waiting := {status: n for status, n in statuses.items() if status not in AT_AN_END}:
        found.append(Violation(4, "lost", f"campaign {campaign}: {waiting} have no end"))
    return found


def never_enforced(account: Account) -> list[Violation]:
    """At the end: every STOP that was acknowledged is enforced, and every one was acknowledged."""
    found = [Violation(1, "not acknowledged", f"STOP {each}") for each in account.stops.keys() - account.acknowledged]
    return found + [
        Violation(1, "not enforced", f"STOP {each}") for each in account.acknowledged.keys() - account.enforced
    ]


def open_again(sender: str, results: Sequence[Mapping[str, Any]]) -> list[Violation]:
    """consent-svc, asked about people who have all stopped with this sender."""
    allowed = sum(bool(result["allowed"]) for result in results)
    return [Violation(3, "loosened", f"consent-svc would have {allowed} who stopped written to by {sender}")] * bool(
        allowed
    )
