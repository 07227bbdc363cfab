"""Turns the MOs of `inbound.messages.v1` into evidence and answers, a batch in a transaction.

STOP     opts out of every sender that uses or once used the code; of the named senders only (STOP ACME); of every
         sender for STOP ALL, a code without senders, or a request for erasure
START    takes a STOP back: an opt-in to what the person had opted in to, with the senders that use the code today. A
         sender that has left the code did not receive the START (DOMAIN 2.4, France)
OUI      answers a double opt-in if exactly a single question waits. Otherwise an OUI answers the question at the end
         of a consent, or is only a contact. No OUI gets an answer
review   may mean STOP: marketing to the number is held until a reviewer has decided (ADR-0015), as after a STOP behind
         a START (ADR-0060), which spares what the START has opened

The number decides the subject of an MO: with another subject id in the event, only a STOP or a review counts
(ADR-0061). An unreadable record may have been a STOP: the subject of its key is opted out of every sender until the
person opts in again (ADR-0007; DOMAIN 2.4).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import MessageReceived
from common.kafka.subscription import URGENT_MS, After, Received, Stopped, Subscription
from common.keyring import MISMATCHES, FieldKeys, SubjectKeys, Unreadable, is_subject_id, owner_of
from common.sms.keywords_scope import scope
from common.sms.message_id import message_id
from common.telemetry import counter
from consent.answers import replies
from consent.answers.answers import Answer, Answers, tell_of_flaws
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in import rules as asking
from consent.double_opt_in.rules import Question
from consent.inbound import store
from consent.ledger import recorder, reopening, retention
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import NEVER_SEEN, Evidence, SubjectState, Verdict
from consent.ledger.store import Review, Subject
from consent.ledger.term_store import Due
from consent.retention import renewals
from consent.rights import erasures
from consent.rights import store as rights_store
from consent.rights.store import PreferenceLink
from consent.senders import store as senders_store
from consent.senders.store import Sender

log = logging.getLogger(__name__)

GROUP = "consent.inbound"
SOURCE = recorder.MO
UNREADABLE = "unreadable_mo"
KEPT = (Verdict.RECORDED, Verdict.UNCHANGED)

INTENTS = counter("sms_consent_inbound_total", "MOs, by intent.", ["intent"])


@dataclass(frozen=True, slots=True)
class Said:
    """An MO, the senders of its code by id, and its subject, if known."""

    message: MessageReceived
    owners: Mapping[str, Sender]
    subject: Subject | None
    asked: Sequence[Due] = ()  # the renewal questions


@dataclass(frozen=True, slots=True)
class Links:
    """The making of links to the preference page. `make`: (seed, expiry) to (link id, URL), the same for the same."""

    make: Callable[[str, datetime], tuple[str, str]]
    lasts: timedelta


class Intake:
    """The handler that records MOs and answers. `links`: `None` without a page."""

    def __init__(
        self, keys: FieldKeys, subject_keys: SubjectKeys, answers: Answers, links: Links | None = None
    ) -> None:
        self._keys = keys
        self._subject_keys = subject_keys
        self._answers = answers
        self._links = links

    def subscription(self) -> Subscription:
        return Subscription(GROUP, INBOUND_MESSAGES, self.apply, on_poison=shut_out, wait_ms=URGENT_MS)

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Record a batch and answer. A repeated MO gives the same ids: no effect."""
        messages = [self._attributed(r.event) for r in batch if isinstance(r.event, MessageReceived)]
        for message, _ in messages:
            INTENTS.labels(message.intent).inc()
        said = [m for m, certain in messages if m.intent == "stop" or (certain and m.intent != "review")]
        reviews = [review(m) for m, _ in messages if m.intent == "review" or m.behind_start or m.revision > 0]
        if not said and not reviews:
            return None
        codes = await senders_store.owners_of(tx, {m.short_code for m in said})
        held = await _locked(tx, said, reviews)
        asked = await store.questions_of(tx, _who_may_renew(said))
        texts = [
            Said(m, codes.get(m.short_code, {}), held.get(m.subject_id), asked.get(m.subject_id, ())) for m in said
        ]
        questions = await Questions.read(tx, texts)
        statements = []
        for text in texts:
            statements.append(list(self._statements(text, questions)))
            questions.go_on(text, statements[-1])
        now = datetime.now(UTC)
        results = await recorder.record(tx, [one for each in statements for one in each], now, reviews)
        await erasures.begin(tx, results, now)
        answered = {r.statement.evidence.answers for r in results if r.decision.verdict in KEPT}
        await double_opt_ins.confirm(tx, [one for one in answered if one and one in questions.requests], now)
        recorded = iter(results)
        states = {subject_id: subject.state for subject_id, subject in held.items()}
        owed: list[Owed] = []
        for text, each in zip(texts, statements, strict=True):
            before = after = states.get(text.message.subject_id, NEVER_SEEN)
            for _ in each:
                after = next(recorded).decision.state
            states[text.message.subject_id] = after
            if not text.message.erasure:  # dispatch would keep the answer with the number
                one = answer(text, [one.evidence for one in each], before, after, self._links)
                owed += [one] if one else []
        given = {one.message_id for one in await self._answers.give(tx, [one.answer for one in owed], now)}
        links = [one.link for one in owed if one.link and one.answer.message_id in given]
        await rights_store.add_texted(tx, links, now)
        return None

    def _attributed(self, message: MessageReceived) -> tuple[MessageReceived, bool]:
        """Return the MO with the subject of its number, and whether the event names that subject.

        An MO whose number does not decrypt keeps the event's subject, uncertain.
        """
        try:
            owner = owner_of(message.number, message.subject_id, self._keys, self._subject_keys)
        except Unreadable:
            MISMATCHES.inc()
            log.error("the number of a text does not open: only a STOP counts", extra={"mo_id": message.mo_id})
            return message, False
        if owner.subject_id == message.subject_id:
            return message, True
        log.error(
            "subject_mismatch: a text has another subject id than its number; a STOP counts for the number, nothing"
            " else counts. Give inbound-svc and consent-svc the same PLACET_SUBJECT_KEYS",
            extra={"mo_id": message.mo_id, "subject_id": owner.subject_id},
        )
        number = self._keys.seal(owner.e164, f"number:{owner.subject_id}")
        return replace(message, subject_id=owner.subject_id, number=number), False

    def _statements(self, said: Said, questions: "Questions") -> Iterator[Statement]:
        message = said.message
        evidence: Iterator[Evidence] = iter(())
        if message.intent == "stop":
            evidence = stops(message, concerned(self._keys, said))
        elif message.intent == "start":
            evidence = starts(said)
        elif message.intent == "confirm":
            evidence = iter(list(questions.confirms(message)) or renewed(said))
        one = None
        for one in evidence:
            yield Statement(
                message.subject_id, message.number, one, erases=message.erasure, to_review=message.behind_start
            )
        if one is None and message.intent != "stop":
            for one in in_touch(said):
                yield Statement(message.subject_id, None, one)


@dataclass(slots=True)
class Questions:
    """The open double opt-in questions to people who wrote OUI, and their states within the batch."""

    asked: Mapping[str, Sequence[Question]]
    requests: Mapping[str, Evidence]
    states: dict[str, SubjectState]

    @classmethod
    async def read(cls, tx: AsyncConnection, texts: Sequence[Said]) -> "Questions":
        """Read the questions. The caller holds the locks of the subjects."""
        if not (who := {t.message.subject_id for t in texts if t.message.intent == "confirm"}):
            return cls({}, {}, {})
        asked = await double_opt_ins.asked_of(tx, who)
        requests = await double_opt_ins.requests(tx, [q for each in asked.values() for q in each])
        return cls(asked, requests, {t.subject.subject_id: t.subject.state for t in texts if t.subject})

    def confirms(self, message: MessageReceived) -> Iterator[Evidence]:
        asked, state = self.asked.get(message.subject_id, ()), self.states.get(message.subject_id, NEVER_SEEN)
        at = min(message.occurred_at, message.received_at)  # never later than its arrival
        question = asking.answered(state, asked, message.short_code, at)
        if question is None or question.evidence_id not in self.requests:
            return
        yield asking.yes(
            self.requests[question.evidence_id],
            evidence_id=evidence_id(SOURCE, message.mo_id, question.evidence_id),
            source=SOURCE,
            at=message.occurred_at,
            received_at=understood_at(message),
            reference=message.reference,
        )

    def go_on(self, said: Said, statements: Iterable[Statement]) -> None:
        """Apply the statements to `states`, with the controller the recorder will add."""
        for statement in statements if self.asked else ():
            evidence, state = statement.evidence, self.states.get(statement.subject_id, NEVER_SEEN)
            owner = said.owners.get(evidence.sender_id or "")
            if owner and evidence.kind == "opt_out" and owner.stop_scope == "controller":
                evidence = replace(evidence, controller=owner.controller)
            self.states[statement.subject_id] = ledger.apply(state, evidence)


def review(message: MessageReceived) -> Review:
    """Return the review of an MO: the first revision opens a hold, the next lifts the hold."""
    return Review(
        mo_id=message.mo_id,
        subject_id=message.subject_id,
        since=message.received_at,
        revision=message.revision,
        open=message.intent == "review" or (message.behind_start and message.revision == 0),
    )


async def _locked(
    tx: AsyncConnection, said: Sequence[MessageReceived], reviews: Sequence[Review]
) -> dict[str, Subject]:
    """Lock and return the subjects. Only a STOP or a review creates a row.

    A START reads the subject's state, the daily cap earlier answers: both need the lock, and a second locking statement
    would break the order of locking.
    """
    created = {r.subject_id for r in reviews} | {m.subject_id for m in said if m.intent == "stop"}
    return await ledger_store.lock_subjects(tx, created, [m.subject_id for m in said])


def concerned(keys: FieldKeys, stop: Said) -> Sequence[str | None]:
    """Return the senders that a STOP covers; `None` means every sender. Unreadable words name no sender."""
    message = stop.message
    try:
        named = keys.unseal(message.named, f"named:{message.mo_id}").split() if message.named else []
    except Unreadable:
        log.error(
            "the senders named by a STOP cannot be read: the STOP counts for the whole code",
            extra={"mo_id": message.mo_id},
        )
        named = []
    names = {sender_id: (s.brand, s.oadc, s.legal_name) for sender_id, s in stop.owners.items()}
    meant = scope(named, message.everyone, names)
    if message.erasure or meant.reach == "everyone" or not names:
        return (None,)
    return meant.senders if meant.reach == "named" else tuple(names)


def stops(message: MessageReceived, senders: Sequence[str | None]) -> Iterator[Evidence]:
    """Yield the opt-outs of a STOP. A reviewer's STOP has no clock (ADR-0060)."""
    decided = message.behind_start and message.decided_by is not None
    for sender_id in senders:
        yield Evidence(
            evidence_id=evidence_id(SOURCE, message.mo_id, sender_id, *(("decided",) if decided else ())),
            kind="opt_out",
            sender_id=sender_id,
            purpose=None,
            source=SOURCE,
            actor=message.decided_by,
            reference=message.reference,
            occurred_at=message.occurred_at,
            received_at=understood_at(message),
            arrived_at=message.received_at,
            clock=message.clock if message.decided_by is None else None,
        )


def starts(start: Said) -> Iterator[Evidence]:
    """Yield the opt-ins of a START: none for a new or erased subject."""
    message = start.message
    if start.subject is None or start.subject.erased_at is not None:
        return
    for sender_id, owner in start.owners.items():
        if owner.stop_code != message.short_code:
            continue
        for purpose in reopening.reopened(start.subject.state, sender_id):
            yield Evidence(
                evidence_id=evidence_id(SOURCE, message.mo_id, sender_id, purpose),
                kind="opt_in",
                sender_id=sender_id,
                purpose=purpose,
                basis="opt_in",  # an express request, whatever the basis was before
                source=SOURCE,
                actor=message.decided_by,
                reference=message.reference,
                occurred_at=message.occurred_at,
                received_at=understood_at(message),
                clock=message.clock if message.decided_by is None else None,
            )


def renewed(said: Said) -> list[Evidence]:
    """Return the opt-ins of an OUI to a renewal question."""
    if said.subject is None:
        return []
    state, when = said.subject.state, understood_at(said.message)
    return list(renewals.confirms(said.message, said.owners, state, said.asked, when))


def _who_may_renew(said: Sequence[MessageReceived]) -> set[str]:
    """Return the subjects with an OUI and no STOP in the batch."""
    stopped = {m.subject_id for m in said if m.intent == "stop"}
    return {m.subject_id for m in said if m.intent == "confirm"} - stopped


def in_touch(said: Said) -> Iterator[Evidence]:
    """Yield the contact with the sender of the code, at most once a day.

    The contact counts only if the subject knows exactly a single sender of the code: a retention clock that runs too
    long is unlawful.
    """
    message, subject = said.message, said.subject
    if subject is None or subject.erased_at is not None:
        return
    met = [sender_id for sender_id in said.owners if any(m.sender_id == sender_id for m in subject.state.marks)]
    at = min(message.occurred_at, message.received_at)
    if len(met) != 1 or not retention.worth_keeping(subject.state, met[0], at):
        return
    yield Evidence(
        evidence_id=evidence_id("contact", message.subject_id, met[0], retention.day(at)),
        kind="contact",
        sender_id=met[0],
        purpose=None,
        source=SOURCE,
        actor=message.decided_by,
        reference=message.reference,
        occurred_at=message.occurred_at,
        received_at=message.received_at,
    )


@dataclass(frozen=True, slots=True)
class Owed:
    """An answer, and the link to the preference page that the answer tells of."""

    answer: Answer
    link: PreferenceLink | None


def answer(
    said: Said, evidence: Sequence[Evidence], before: SubjectState, after: SubjectState, links: Links | None = None
) -> Owed | None:
    """Return the answer owed for an MO, from a sender of its code, or `None`.

    A STOP gets an answer if a sender is newly shut, unless the provider answers; a START, if a purpose is newly open.
    """
    message, owners = said.message, said.owners
    match message.intent:
        case "stop" if not message.answered:
            shut = {e.sender_id for e in evidence if ledger.shut(after, e.sender_id)}
            shut = {sender_id for sender_id in shut if not ledger.shut(before, sender_id)}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in shut or None in shut}:
                everyone = None in shut
                text = replies.stopped(_identities(by), everyone=everyone)
                return _owed(message, by, "stopped", text, links, everyone=everyone)
        case "start":
            opened = {e.sender_id for e in evidence if _open(after, e) and not _open(before, e)}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in opened}:
                text = replies.started(_identities(by), message.short_code)
                return _owed(message, by, "started", text, links)
        case "contact":
            known = {mark.sender_id for mark in before.marks}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in known} or dict(owners):
                text = replies.contact(_identities(by), message.short_code)
                return _owed(message, by, "contact", text, links)
    return None


def _open(state: SubjectState, evidence: Evidence) -> bool:
    return ledger.standing(state, evidence.sender_id, evidence.purpose) == "opted_in"


def _owed(
    message: MessageReceived,
    by: Mapping[str, Sender],
    kind: replies.Kind,
    text: str,
    links: Links | None,
    *,
    everyone: bool = False,
) -> Owed:
    sender_id = next(iter(by))
    if flaws := replies.flaws(_identities(by), kind, everyone=everyone):
        tell_of_flaws(sender_id, kind, flaws)
    link = None
    if links is not None:
        expires_at = understood_at(message).replace(microsecond=0) + links.lasts  # as a link's token holds it
        link_id, url = links.make(message.mo_id, expires_at)
        if (longer := replies.with_link(text, kind, url)) != text:
            text = longer
            link = PreferenceLink(
                link_id=link_id,
                subject_id=message.subject_id,
                number=message.number,
                sender_id=sender_id if len(by) == 1 and not everyone else None,
                expires_at=expires_at,
                whole=True,  # the SMS goes to the person alone (ADR-0058)
            )
    return Owed(
        Answer(
            message_id=message_id(message.received_at, "answer", message.mo_id),
            subject_id=message.subject_id,
            number=message.number,
            sender_id=sender_id,
            kind=kind,
            text=text,
            since=understood_at(message),
        ),
        link,
    )


def _identities(senders: Mapping[str, Sender]) -> list[replies.Identity]:
    return [replies.Identity(s.legal_name, s.brand, s.contact, s.stop_code, s.replies) for s in senders.values()]


def understood_at(message: MessageReceived) -> datetime:
    """Return when Placet first held the evidence: an MO under review proves nothing before."""
    return message.decided_at or message.received_at


async def shut_out(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Opt the subject of an unreadable record (poison) out of every sender, because a consent may be on its way.

    Raises Stopped if the record has no readable key: the watermark then stands still, and no marketing goes out.
    """
    if key is None:
        raise Stopped(f"partition {partition} of {INBOUND_MESSAGES.name} holds a message whose sender cannot be read")
    if not is_subject_id(key):
        log.error("an unreadable message has a key of no subject", extra={"partition": partition})
        return  # no number has this key
    now = datetime.now(UTC)
    evidence = Evidence(
        evidence_id=evidence_id(UNREADABLE, key, now.isoformat()),
        kind="opt_out",
        sender_id=None,
        purpose=None,
        source=UNREADABLE,
        occurred_at=now,
        received_at=now,
    )
    await recorder.record(tx, [Statement(key, None, evidence)], now)
    log.error("a message is unreadable: its author is opted out of everything", extra={"subject_id": key})
