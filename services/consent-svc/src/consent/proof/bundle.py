"""A proof bundle: the record of a subject, or of a campaign's subjects, in one file checkable without Placet. Pure.

JSON Lines (UTF-8, one canonical object a line, each line ended by a newline), which docs/proof.md describes, in this
order: bundle, keys, each sender named, then for each subject the subject, the whole chain (entry or withheld) and the
messages, and the end.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from common.contracts.consent import Consent, Suppression
from common.privacy.signing import Forged, PublicKeys, SigningKeys, Type, key_id
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, Entry, canonical, holds
from consent.proof import receipt as proof
from consent.proof.receipt import Party

FORMAT = "placet-bundle-1"
SIGNED: Final[Type] = "placet-bundle"
LINE_BYTES = 1024 * 1024  # far above any line of Placet
PROBLEMS = 20
OVERTAKEN = timedelta(seconds=10)  # a STOP is enforced by then: above max_staleness and permit_ttl


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="line"):
    """A line."""


class Opening(_Line, frozen=True, kw_only=True, tag="bundle"):
    """The first line. `campaign_id` is null in a subject's bundle."""

    format: str
    made_at: datetime
    campaign_id: str | None


class Keys(_Line, frozen=True, kw_only=True, tag="keys"):
    jwks: Mapping[str, object]


class SenderLine(_Line, frozen=True, kw_only=True, tag="sender"):
    sender: Party


class SubjectLine(_Line, frozen=True, kw_only=True, tag="subject"):
    """A person with one controller. `entries` and `head`: of the chain. `number`: only on request."""

    subject_id: str
    number: str | None
    entries: int
    head: str
    consents: tuple[Consent, ...]
    suppressions: tuple[Suppression, ...]


class EntryLine(_Line, frozen=True, kw_only=True, tag="entry"):
    entry: Entry
    receipt: str


class Withheld(_Line, frozen=True, kw_only=True, tag="withheld"):
    position: int
    hash: str


class MessageLine(_Line, frozen=True, kw_only=True, tag="message"):
    message_id: str
    campaign_id: str | None
    sender_id: str
    purpose: str
    handed_off_at: datetime


class End(_Line, frozen=True, kw_only=True, tag="end"):
    signature: str


Line = Opening | Keys | SenderLine | SubjectLine | EntryLine | Withheld | MessageLine | End
_lines = msgspec.json.Decoder(Line)


class Writer:
    """An encoder of lines, which signs the whole bundle at the end."""

    def __init__(self, keys: SigningKeys, made_at: datetime, senders: Sequence[Party]) -> None:
        """`senders`: each version of every sender which an entry names."""
        self._keys = keys
        self._made_at = made_at
        self._senders = senders
        self._seal = _Seal()

    def opening(self, campaign_id: str | None = None) -> bytes:
        lines: list[Line] = [
            Opening(format=FORMAT, made_at=self._made_at, campaign_id=campaign_id),
            Keys(jwks=self._keys.jwks),
            *(SenderLine(sender=sender) for sender in self._senders),
        ]
        return b"".join(map(self._written, lines))

    def subject(
        self, line: SubjectLine, entries: Iterable[Entry | Withheld], messages: Iterable[MessageLine] = ()
    ) -> bytes:
        return b"".join(map(self._written, (line, *map(self._with_receipt, entries), *messages)))

    def end(self) -> bytes:
        return _written(End(signature=self._keys.sign(self._seal.payload(self._made_at), SIGNED)))

    def _with_receipt(self, entry: Entry | Withheld) -> EntryLine | Withheld:
        if isinstance(entry, Withheld):
            return entry
        sender = proof.in_force(self._senders, entry)
        return EntryLine(entry=entry, receipt=proof.receipt(entry, sender, self._keys))

    def _written(self, line: Line) -> bytes:
        raw = _written(line)
        self._seal.add(raw)
        return raw


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault. `line`: number from 1."""

    line: int
    why: str


class Standing(StrEnum):
    """The consent behind a message at hand-off."""

    CONSENT = "consent"  # not withdrawn by then, as known today
    STOPPED_SINCE = "stopped_since"  # on record; the STOP was recorded later
    OVERTAKEN = "overtaken"  # the withdrawal was recorded in the seconds before
    NOTHING = "nothing"  # none on record


@dataclass(slots=True)
class Report:
    """The result of `check`. `subjects`, `entries`: of a subject's bundle, because a campaign may have millions."""

    made_at: datetime | None = None
    campaign_id: str | None = None
    signed_by: set[str] = field(default_factory=set)
    jwks: Mapping[str, object] | None = None  # the bundle's own
    senders: list[Party] = field(default_factory=list)
    subjects: list[SubjectLine] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    standings: Counter[Standing] = field(default_factory=Counter)  # of the messages
    doubtful: list[tuple[MessageLine, Standing]] = field(default_factory=list)  # any standing but CONSENT
    withheld: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


def check(lines: Iterable[bytes], trusted: PublicKeys | None = None) -> Report:
    """Check a bundle, and return a report for any bytes, never an exception. `lines`: with newlines.

    Without `trusted`, the published keys, the bundle's own keys prove the file whole, and not the author.
    """
    checking = _Check(trusted)
    for number, raw in enumerate(lines, start=1):
        checking.take(number, raw)
    checking.close()
    return checking.report


@dataclass(slots=True)
class _Seal:
    """The content of the end signature: the lines before the end, and their SHA-256."""

    lines: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, raw: bytes) -> None:
        self.lines += 1
        self.digest.update(raw)

    def payload(self, made_at: datetime | None) -> bytes:
        return canonical({"format": FORMAT, "lines": self.lines, "made_at": made_at, "sha256": self.digest.hexdigest()})


class _Check:
    """The check of a bundle, with one subject in memory."""

    def __init__(self, trusted: PublicKeys | None) -> None:
        self.report = Report()
        self._keys = trusted
        self._own_keys_count = trusted is None
        self._seal = _Seal()
        self._number = 0
        self._ended = False
        self._subject: SubjectLine | None = None
        self._position, self._hash = 0, GENESIS
        self._entries: list[Entry] = []
        self._withheld = 0

    def take(self, number: int, raw: bytes) -> None:
        self._number = number
        line = self._read(raw)
        if self._ended:
            self._problem("a line follows the end")
        elif (number == 1) != isinstance(line, Opening) or (number == 2) != isinstance(line, Keys):
            self._problem("the line is out of place")
        match line:
            case Opening():
                self._open(line)
            case Keys():
                self._take_keys(line)
            case SenderLine():
                self._end_subject()
                self.report.senders.append(line.sender)
            case SubjectLine():
                self._end_subject()
                self._begin(line)
            case EntryLine():
                self._entry(line)
            case Withheld():
                self._skip(line)
            case MessageLine():
                self._message(line)
            case End():
                self._end_subject()
                self._end(line)
        self._seal.add(raw)

    def close(self) -> None:
        if not self._ended:
            self._end_subject()
            self._problem("cut short: the signature at the end is missing")

    def _read(self, raw: bytes) -> Line | None:
        """Decode a line in the canonical form only, as signed."""
        try:
            line: Line = _lines.decode(raw)
            if _written(line) == raw:
                return line
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            pass
        self._problem("the line is not a line of a bundle in canonical form")
        return None

    def _open(self, line: Opening) -> None:
        self.report.made_at, self.report.campaign_id = line.made_at, line.campaign_id
        if line.format != FORMAT:
            self._problem(f"not of the format {FORMAT}")

    def _take_keys(self, line: Keys) -> None:
        self.report.jwks = line.jwks
        if self._own_keys_count:
            try:
                self._keys = PublicKeys(line.jwks)
            except ValueError as error:
                self._problem(str(error))

    def _begin(self, line: SubjectLine) -> None:
        self._subject = line
        if self.report.campaign_id is None:
            self.report.subjects.append(line)
        self._position, self._hash, self._entries, self._withheld = 0, GENESIS, [], 0

    def _entry(self, line: EntryLine) -> None:
        entry = line.entry
        self._position += 1
        if self._subject is None or entry.subject_id != self._subject.subject_id:
            self._problem("the entry is another subject's")
        if not holds(entry, entry.subject_id, entry.subject_id, self._position, self._hash):
            self._problem("the chain does not hold here: this entry or an entry before was changed")
        self._hash = entry.hash
        self._entries.append(entry)
        if self.report.campaign_id is None:
            self.report.entries.append(entry)
        expected = proof.record(entry, proof.in_force(self.report.senders, entry))
        if self._signed(line.receipt, proof.RECEIPT) not in (None, expected):
            self._problem("the receipt does not match the entry")

    def _skip(self, line: Withheld) -> None:
        self._position += 1
        if line.position != self._position:
            self._problem("the chain does not hold here: an entry is missing")
        self._hash = line.hash
        self._withheld += 1
        self.report.withheld += 1

    def _message(self, line: MessageLine) -> None:
        if self._subject is None:
            self._problem("the message has no subject")
        elif line.campaign_id != self.report.campaign_id:
            self._problem("the message is another campaign's")
        standing = stood_on(self._entries, line)
        self.report.standings[standing] += 1
        if standing is not Standing.CONSENT:
            self.report.doubtful.append((line, standing))

    def _end_subject(self) -> None:
        if (subject := self._subject) is None:
            return
        self._subject = None
        if (self._position, self._hash) != (subject.entries, subject.head):
            self._problem("the chain does not end where the subject's does: entries are missing or added")
        state = ledger.fold(entry.evidence for entry in self._entries)
        stated = (subject.consents, subject.suppressions)
        if not self._withheld and stated != (ledger.consents(state), ledger.suppressions(state)):
            self._problem("the state differs from the fold of the entries")

    def _end(self, line: End) -> None:
        self._ended = True
        if self._signed(line.signature, SIGNED) not in (None, self._seal.payload(self.report.made_at)):
            self._problem("the signature at the end is not over these bytes")

    def _signed(self, token: str, kind: Type) -> bytes | None:
        """Return the payload; note a problem where the signature does not hold."""
        if self._keys is None:
            self._problem("the file has no keys to check the signature with")
            return None
        try:
            payload = self._keys.verified(token, kind)
        except Forged as forged:
            self._problem(str(forged))
            return None
        self.report.signed_by.add(key_id(token))
        return payload

    def _problem(self, why: str) -> None:
        if len(self.report.problems) < PROBLEMS:
            self.report.problems.append(Problem(self._number, why))


def stood_on(entries: Sequence[Entry], message: MessageLine) -> Standing:
    """Return the consent behind a message. Withheld entries cannot affect the message's sender."""
    left = message.handed_off_at

    def open_by(evidence: Iterable[ledger.Evidence]) -> bool:
        consent = ledger.consent_of(ledger.fold(evidence), message.sender_id, message.purpose)
        return consent is not None and consent.state == "opted_in"

    def open_at(moment: datetime) -> bool:
        return open_by(entry.evidence for entry in entries if entry.recorded_at <= moment)

    if open_at(left):
        known_today = open_by(entry.evidence for entry in entries if entry.evidence.at <= left)
        return Standing.CONSENT if known_today else Standing.STOPPED_SINCE
    since = left - OVERTAKEN
    moments = {since, *(entry.recorded_at for entry in entries if since < entry.recorded_at <= left)}
    return Standing.OVERTAKEN if any(map(open_at, moments)) else Standing.NOTHING


def _written(line: Line) -> bytes:
    return canonical(msgspec.to_builtins(line, builtin_types=(datetime,))) + b"\n"
