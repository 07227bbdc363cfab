"""Select the content of the preference page: senders, purposes, since when, and on which evidence. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec import structs

from common.contracts.consent import RETENTION_MONTHS, State
from consent.ledger import rules as ledger
from consent.ledger.chain import Entry, as_a_fact
from consent.ledger.rules import Evidence, SubjectState
from consent.ledger.store import Subject
from consent.rights.store import PreferenceLink
from consent.senders.store import Sender

VISIBLE_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Choice:
    """A purpose of a sender. `proof`: the evidence of its state, if among the lines read."""

    sender: Sender
    purpose: str
    wording: str
    offered: bool
    state: State
    since: datetime | None
    proof: Evidence | None

    @property
    def on(self) -> bool:
        return self.state == "opted_in"


@dataclass(frozen=True, slots=True)
class Party:
    """A sender and its purposes."""

    sender: Sender
    choices: tuple[Choice, ...]

    @property
    def on(self) -> bool:
        return any(choice.on for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Line:
    """A ledger line. `sender` and `wording` are None where the line covers all."""

    evidence: Evidence
    recorded_at: datetime
    sender: Sender | None
    wording: str | None

    @property
    def ends_all(self) -> bool:
        return self.evidence.kind == "opt_out" and self.evidence.purpose is None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The content of the page.

    `history`: newest first. `entries`: the count of lines to which a form is bound. `stopped`: an opt-out of everything
    under this link is in force. `stop`: the newest opt-out of all purposes. `done`: the choice just made by this link.
    `reaches_further`: a stop of the only sender shown covers other senders of its controller.
    """

    ending: str
    parties: tuple[Party, ...]
    history: tuple[Line, ...]
    entries: int
    stopped: bool
    stop: Line | None
    done: Line | None
    held_since: datetime | None
    reaches_further: bool = False

    @property
    def on(self) -> bool:
        return any(party.on for party in self.parties)

    @property
    def retention_months(self) -> int:
        """Return the longest retention on offer here."""
        asked = [p.retention_months for party in self.parties for p in party.sender.purposes]
        return max(asked, default=RETENTION_MONTHS)

    def choice(self, sender_id: str, purpose: str) -> Choice | None:
        shown = (choice for party in self.parties for choice in party.choices)
        return next((c for c in shown if (c.sender.sender_id, c.purpose) == (sender_id, purpose)), None)


JUST_DONE = timedelta(minutes=5)


def senders_shown(state: SubjectState, sender_id: str | None) -> set[str]:
    """Return the sender of the link, or every sender on record."""
    return {sender_id} if sender_id else {m.sender_id for m in state.marks if m.sender_id}


def senders_told(state: SubjectState, sender_id: str | None) -> set[str]:
    """Return the senders shown and senders whose controller-wide STOP may cover a sender shown."""
    wide = {m.sender_id for m in state.marks if m.kind == "opt_out" and m.controller and m.sender_id}
    return senders_shown(state, sender_id) | wide


def of_the_controllers(senders: Sequence[Sender], shown: Collection[str]) -> list[Sender]:
    """Return those of the senders whose controller has a sender shown."""
    controllers = {sender.controller for sender in senders if sender.sender_id in shown}
    return [sender for sender in senders if sender.controller in controllers]


def view(
    number: str,
    link: PreferenceLink,
    subject: Subject,
    entries: Sequence[Entry],
    senders: Sequence[Sender],
    now: datetime,
    *,
    reaches_further: bool = False,
) -> View:
    """Return the page's content. `entries`: newest last. `senders`: those told, `of_the_controllers` of senders shown.

    A link that only stops may be a caller's own: the page then tells facts of lines about other senders, and nothing
    that depends on the records of strangers.
    """
    state, sender_id = subject.state, link.sender_id
    ids = senders_shown(state, sender_id)
    shown = [sender for sender in senders if sender.sender_id in ids]
    by_id = {sender.sender_id: sender for sender in senders}
    entries = [e for e in entries if e.evidence.sender_id is None or _concerns(e.evidence, shown)]
    if link.only_stops:
        entries = [
            entry if entry.evidence.sender_id in ids else structs.replace(entry, evidence=as_a_fact(entry.evidence))
            for entry in entries
        ]
    proofs = {entry.evidence.evidence_id: entry.evidence for entry in entries}
    parties = tuple(Party(sender, _choices(sender, state, proofs)) for sender in shown)
    wide = [m for m in state.marks if m.kind == "opt_out" and m.purpose is None]
    covered = [m for m in wide if m.sender_id is None or any(m.covers(s.sender_id, "", s.controller) for s in shown)]
    stopped = bool(covered) if sender_id else any(m.sender_id is None for m in wide)
    history = tuple(_line(entry, by_id) for entry in reversed(entries))
    on_record = any(mark.sender_id in ids for mark in state.marks)
    newest = history[0] if history else None
    just = newest and newest.evidence.actor == actor(link) and newest.wording and newest.recorded_at > now - JUST_DONE
    return View(
        entries=len(history) if link.only_stops else subject.entries,
        done=newest if just else None,
        ending=number[-VISIBLE_DIGITS:],
        parties=parties,
        history=history,
        stopped=stopped and not any(party.on for party in parties),
        stop=next((line for line in history if line.ends_all), None),
        held_since=subject.held_since if on_record or not link.only_stops else None,
        reaches_further=reaches_further,
    )


def _concerns(evidence: Evidence, shown: Sequence[Sender]) -> bool:
    """Return whether the evidence is about a sender shown, or its controller's STOP."""
    shuts = evidence.controller if evidence.kind == "opt_out" else None
    return any(evidence.sender_id == s.sender_id or (shuts and shuts == s.controller) for s in shown)


def actor(link: PreferenceLink) -> str:
    """Return the actor for evidence: the person if texted the link, else the link's holder."""
    if link.whole and link.given_to is None:
        return f"person, by link {link.link_id}"
    return f"holder of link {link.link_id}" + (f", given to {link.given_to}" if link.given_to else "")


def _choices(sender: Sender, state: SubjectState, proofs: dict[str, Evidence]) -> tuple[Choice, ...]:
    """Return the purposes on offer, in order, then past purposes with a consent."""
    offered = {purpose.id: purpose.wording for purpose in sender.purposes}
    once = {m.purpose for m in state.marks if m.sender_id == sender.sender_id and m.purpose} - set(offered)
    choices = [_choice(sender, purpose, wording, True, state, proofs) for purpose, wording in offered.items()]
    choices += [_choice(sender, purpose, purpose, False, state, proofs) for purpose in sorted(once)]
    return tuple(choice for choice in choices if choice.offered or choice.on)


def _choice(
    sender: Sender, purpose: str, wording: str, offered: bool, state: SubjectState, proofs: dict[str, Evidence]
) -> Choice:
    consent = ledger.consent_of(state, sender.sender_id, purpose)
    proof = proofs.get(consent.evidence_id) if consent else None
    return Choice(
        sender=sender,
        purpose=purpose,
        wording=wording,
        offered=offered,
        state=consent.state if consent else "unknown",
        since=proof.occurred_at if proof else consent.occurred_at if consent else None,
        proof=proof,
    )


def _line(entry: Entry, senders: dict[str, Sender]) -> Line:
    evidence = entry.evidence
    sender = senders[evidence.sender_id] if evidence.sender_id else None
    wordings = {purpose.id: purpose.wording for purpose in sender.purposes} if sender else {}
    wording = wordings.get(evidence.purpose, evidence.purpose) if evidence.purpose else None
    return Line(evidence, entry.recorded_at, sender, wording)
