"""A proof bundle: what is on record of a subject, or of a campaign's, in one file that is checked without us. Pure.

JSON Lines (UTF-8, one canonical object a line, each line ended by a newline), in this order:

    bundle    what this is
    keys      the JWK set that checks the signatures, a convenience: trust the one that was published
    sender    who asked, and in which words: each version that was ever in force of those named below
    subject   who it is of and what now holds, then the whole chain of it, oldest first:
      entry     a line of the ledger and its signed receipt
      withheld  one that is not for whoever asked to see: its place and its hash
      message   one that was handed off to this subject, and the version of its consent that this was decided on
    end       one signature over every byte before it, so that nothing was changed, cut, added or moved

`check` recomputes all of it: each line's form, the hash chain up to the head, each receipt, the state as the fold of
the entries, on which consent each message stood, the signature at the end.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
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
LINE_BYTES = 1024 * 1024  # no line of ours comes near
PROBLEMS = 20  # that are told; one is enough
OVERTAKEN = timedelta(seconds=10)  # above max_staleness, permit_ttl and the clocks' skew: before a STOP is enforced


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="line"):
    """One line, named by its tag."""


class Opening(_Line, frozen=True, kw_only=True, tag="bundle"):
    """`campaign_id`: whose messages it is about; None: it is about a subject."""

    format: str
    made_at: datetime
    campaign_id: str | None


class Keys(_Line, frozen=True, kw_only=True, tag="keys"):
    jwks: dict[str, Any]


class SenderLine(_Line, frozen=True, kw_only=True, tag="sender"):
    sender: Party


class SubjectLine(_Line, frozen=True, kw_only=True, tag="subject"):
    """`entries` and `head`: how many lines the chain has, and the hash of the last. `number`: only where whoever asked
    wanted it said whose chain this is."""

    subject_id: str
    number: str | None
    version: int
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
    consent_version: int | None


class End(_Line, frozen=True, kw_only=True, tag="end"):
    signature: str


Line = Opening | Keys | SenderLine | SubjectLine | EntryLine | Withheld | MessageLine | End
_lines = msgspec.json.Decoder(Line)


class Writer:
    """Turns lines into bytes, and signs them all at the end."""

    def __init__(self, keys: SigningKeys, made_at: datetime, senders: Sequence[Party]) -> None:
        """`senders`: each version of those that the entries name."""
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
    """`line`: its number in the file, from 1."""

    line: int
    why: str


class Standing(StrEnum):
    """What a message stood on when it was handed off."""

    CONSENT = "consent"  # on record, and as far as we know today not withdrawn by then
    STOPPED_SINCE = "stopped_since"  # on record; the person had stopped, and we learned it later
    OVERTAKEN = "overtaken"  # decided on a consent whose withdrawal was recorded in the seconds before
    NOTHING = "nothing"  # no consent on record


@dataclass(slots=True)
class Report:
    """What `check` found. `subjects` and `entries`: those of a subject's bundle that can be read, in order. Of a
    campaign's, which may be millions, only what somebody has to look at is kept: `doubtful`."""

    made_at: datetime | None = None
    campaign_id: str | None = None
    signed_by: set[str] = field(default_factory=set)  # ids of the keys
    jwks: dict[str, Any] | None = None  # the bundle's own
    senders: list[Party] = field(default_factory=list)
    subjects: list[SubjectLine] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    standings: Counter[Standing] = field(default_factory=Counter)  # of the messages
    doubtful: list[tuple[MessageLine, Standing]] = field(
        default_factory=list
    )  # those that stood on less than a consent
    withheld: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


def check(lines: Iterable[bytes], trusted: PublicKeys | None = None) -> Report:
    """Whatever the bytes, a report and never an exception. `lines`: with their newlines. `trusted`: the keys that were
    published; without them the signatures are checked against the bundle's own set, which proves that the file is whole
    and not who made it."""
    checking = _Check(trusted)
    for number, raw in enumerate(lines, start=1):
        checking.take(number, raw)
    checking.close()
    return checking.report


@dataclass(slots=True)
class _Seal:
    """What the end signs: how many lines came before it, and the SHA-256 of their bytes."""

    lines: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, raw: bytes) -> None:
        self.lines += 1
        self.digest.update(raw)

    def payload(self, made_at: datetime | None) -> bytes:
        return canonical({"format": FORMAT, "lines": self.lines, "made_at": made_at, "sha256": self.digest.hexdigest()})


class _Check:
    """One bundle while it is read: a line at a time, one subject in memory."""

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
            self._problem("something follows the end")
        elif (number == 1) != isinstance(line, Opening) or (number == 2) != isinstance(line, Keys):
            self._problem("out of its place")
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
        """One form only: what would read the same, written otherwise, is not what was signed."""
        try:
            line: Line = _lines.decode(raw)
            if _written(line) == raw:
                return line
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            pass
        self._problem("not a line of a bundle, or not written as we write it")
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
            self._problem("an entry of another subject")
        if not holds(entry, entry.subject_id, self._position, self._hash):
            self._problem("the chain does not hold here: the entry, or one before it, is not what was recorded")
        self._hash = entry.hash
        self._entries.append(entry)
        if self.report.campaign_id is None:
            self.report.entries.append(entry)
        expected = proof.record(entry, proof.in_force(self.report.senders, entry))
        if self._signed(line.receipt, proof.RECEIPT) not in (None, expected):
            self._problem("the receipt is of something else")

    def _skip(self, line: Withheld) -> None:
        self._position += 1
        if line.position != self._position:
            self._problem("the chain does not hold here: an entry is missing")
        self._hash = line.hash
        self._withheld += 1
        self.report.withheld += 1

    def _message(self, line: MessageLine) -> None:
        if self._subject is None:
            self._problem("a message of nobody")
        elif line.campaign_id != self.report.campaign_id:
            self._problem("a message of another campaign")
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
            self._problem("the state is not what the entries amount to")

    def _end(self, line: End) -> None:
        self._ended = True
        if self._signed(line.signature, SIGNED) not in (None, self._seal.payload(self.report.made_at)):
            self._problem("the signature at the end is not over these bytes")

    def _signed(self, token: str, kind: Type) -> bytes | None:
        """The payload; None, and a problem, where the signature does not hold."""
        if self._keys is None:
            self._problem("no keys to check it with")
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
    """`entries`: of its subject; those withheld say nothing about its sender."""
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
