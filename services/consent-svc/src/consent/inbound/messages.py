"""Turn the MOs of `inbound.messages.v1` into evidence and answers, a batch in a transaction.

STOP     opts out of every sender that uses or once used the code; of the named senders only (STOP ACME); on a code of
         several controllers, of the one that wrote last as well (`shared_codes.py`); of every sender for STOP ALL, a
         code without senders (unless a reviewer decides first, `no_sender`), or a request for erasure
START    takes a STOP back: an opt-in to what the person had opted in to, with the senders that use the code today; on a
         code of several controllers, of one controller alone. A sender that has left the code did not receive the
         START (DOMAIN 2.4, France)
OUI      answers a double opt-in if exactly a single question waits. Otherwise an OUI answers the question at the end
         of a consent, or is only a contact. No OUI gets an answer
review   may mean STOP: marketing to the number is held until a reviewer has decided (ADR-0015), as after a STOP behind
         a START (ADR-0060), which spares what the START has opened

The number decides the subject of an MO: with another subject id in the event, only a STOP or a review counts
(ADR-0061). An unreadable record may have been a STOP: the subject of its key is opted out of every sender until the
person opts in again (ADR-0007; DOMAIN 2.4).
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import MessageReceived
from common.kafka.subscription import URGENT_MS, After, Received, Stopped, Subscription
from common.keyring import MISMATCHES, FieldKeys, SubjectKeys, Unreadable, owner_of
from common.sms.keywords_scope import scope
from common.sms.message_id import message_id
from common.sms.subject_id import Inner
from common.telemetry import counter
from consent.answers import replies
from consent.answers.answers import Answer, Answers, tell_of_flaws
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in import rules as asking
from consent.double_opt_in.rules import Question
from consent.inbound import shared_codes, store
from consent.inbound.elsewhere import NOWHERE, Elsewhere
from consent.inbound.shared_codes import LAST_MESSAGE_DAYS, NO_STOP, Mo, Reach, Written
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
    """An MO, the senders of its code by id, and its subject, if known.

    `written`: on a code of several controllers, what the senders wrote to the person. `reach`: of a STOP. `opens`: each
    (sender, purpose) that a START may open; `None`: any.
    """

    message: MessageReceived
    owners: Mapping[str, Sender]
    subject: Subject | None
    asked: Sequence[Due] = ()  # the renewal questions
    written: Written | None = None
    reach: Reach = NO_STOP
    opens: Collection[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """The making of links to the preference page. `make`: (seed, expiry) to (link id, URL), the same for the same."""

    make: Callable[[str, datetime], tuple[str, str]]
    lasts: timedelta


class Intake:
    """The handler that records MOs and answers. `links`: `None` without a page."""

    def __init__(
        self,
        keys: FieldKeys,
        subject_keys: SubjectKeys,
        answers: Answers,
        links: Links | None = None,
        last_message_days: int = LAST_MESSAGE_DAYS,
        elsewhere: Elsewhere = NOWHERE,
    ) -> None:
        """`last_message_days`: the age up to which a message explains a STOP on a code of several controllers."""
        self._keys = keys
        self._subject_keys = subject_keys
        self._answers = answers
        self._links = links
        self._days = last_message_days
        self._elsewhere = elsewhere

    def subscription(self) -> Subscription:
        return Subscription(GROUP, INBOUND_MESSAGES, self.apply, on_poison=self.shut_out, wait_ms=URGENT_MS)

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Record a batch and answer. A repeated MO gives the same ids: no effect."""
        messages = [self._attributed(r.event) for r in batch if isinstance(r.event, MessageReceived)]
        for message, _ in messages:
            INTENTS.labels(message.intent).inc()
        mismatched = (each for each in messages if not each[1])
        for database, theirs in self._elsewhere.parts(mismatched, _author).items():
            messages = [each for each in messages if each not in theirs]
            async with database.begin() as of_others:
                await self._apply(of_others, theirs)
        await self._apply(tx, messages)
        return None

    async def _apply(self, tx: AsyncConnection, messages: Sequence[tuple[MessageReceived, bool]]) -> None:
        """Record the texts of people of this database. `messages`: each with whether its event names the person."""
        said = [m for m, certain in messages if m.intent == "stop" or (certain and m.intent != "review")]
        codes = await senders_store.owners_of(tx, {m.short_code for m in said}) if said else {}
        # inbound-svc may know a sender later than this registry
        waiting = {m.mo_id for m in said if m.no_sender and m.revision == 0 and not codes.get(m.short_code)}
        said = [m for m in said if m.mo_id not in waiting]
        reviews = [
            review(m, waits=m.mo_id in waiting)
            for m, _ in messages
            if m.intent == "review" or m.behind_start or m.revision > 0 or m.mo_id in waiting
        ]
        if not said and not reviews:
            return
        written = await self._written(tx, said, codes)
        held = await _locked(tx, said, reviews)
        asked = await store.questions_of(tx, _who_may_renew(said))
        texts = [
            self._said(
                Said(
                    m,
                    {} if decided_for_everyone(m) else codes.get(m.short_code, {}),
                    held.get(m.subject_id),
                    asked.get(m.subject_id, ()),
                    written.get(m.mo_id),
                )
            )
            for m in said
        ]
        questions = await Questions.read(tx, texts)
        histories = await _histories(tx, texts)
        statements = []
        for n, text in enumerate(texts):
            if text.message.subject_id in histories:
                texts[n] = text = self._may_open(text, questions.state(text), histories[text.message.subject_id])
            statements.append(list(self._statements(text, questions)))
            questions.go_on(text, statements[-1])
        now = datetime.now(UTC)
        results = await recorder.record(
            tx, self._subject_keys.inner, [one for each in statements for one in each], now, reviews, held
        )
        await erasures.begin(tx, results, now)
        await shared_codes.keep(tx, [(Mo.of(said.message), said.reach) for said in texts])
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

    async def _written(
        self,
        tx: AsyncConnection,
        said: Sequence[MessageReceived],
        codes: Mapping[str, Mapping[str, Sender]],
    ) -> dict[str, Written]:
        """Return, by mo_id, what was written to the author of each text to a code of several controllers.

        The locks come before those of the subjects, or two transactions could wait for each other.
        """
        told = [m for m in said if m.intent in ("stop", "start", "contact")]
        told = [m for m in told if shared_codes.is_shared(codes.get(m.short_code, {}))]
        if stopped := [m.subject_id for m in told if m.intent == "stop"]:
            await shared_codes.lock_stops(tx, stopped)
        return await shared_codes.written_to(tx, [Mo.of(m) for m in told], self._days)

    def _said(self, said: Said) -> Said:
        """Add the reach of a STOP."""
        if said.message.intent != "stop":
            return said
        return dataclasses.replace(said, reach=concerned(self._keys, said, self._days))

    def _may_open(self, start: Said, state: SubjectState, history: Iterable[Evidence]) -> Said:
        """Add what a START may open on a code of several controllers. `state`: with the texts before."""
        if start.message.intent != "start" or start.written is None:
            return start
        senders = shared_codes.taken_back(start.written, start.owners, Mo.of(start.message), state, self._days)
        given = reopening.ever_given(history, {s: start.owners[s].controller for s in senders})
        return dataclasses.replace(start, opens={each for each in given if each[0] in senders})

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
            evidence = map(Mo.of(message).opt_out, said.reach.senders)
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
            for one in in_touch(said, self._subject_keys.inner):
                yield Statement(message.subject_id, None, one)

    async def shut_out(self, tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
        """Opt the subject of an unreadable record (poison) out of every sender, because a consent may be on its way.

        Raises Stopped if the record has no readable key: the watermark then stands still, and no marketing goes out.
        """
        if key is None:
            raise Stopped(
                f"partition {partition} of {INBOUND_MESSAGES.name} holds a message whose sender cannot be read"
            )
        if not self._subject_keys.knows(key):
            log.error("an unreadable message has a key of no subject", extra={"partition": partition})
            return  # no number has this key
        now = datetime.now(UTC)
        evidence = Evidence(
            evidence_id=evidence_id(UNREADABLE, self._subject_keys.inner(key), now.isoformat()),
            kind="opt_out",
            sender_id=None,
            purpose=None,
            source=UNREADABLE,
            occurred_at=now,
            received_at=now,
        )
        await recorder.record(tx, self._subject_keys.inner, [Statement(key, None, evidence)], now)
        log.error("a message is unreadable: its author is opted out of everything", extra={"subject_id": key})


def _author(attributed: tuple[MessageReceived, bool]) -> str:
    return attributed[0].subject_id


@dataclass(slots=True)
class Questions:
    """The open double opt-in questions to people who wrote OUI, and the states within the batch of authors.

    `states`: of those who wrote OUI or START.
    """

    asked: Mapping[str, Sequence[Question]]
    requests: Mapping[str, Evidence]
    states: dict[str, SubjectState]

    @classmethod
    async def read(cls, tx: AsyncConnection, texts: Sequence[Said]) -> "Questions":
        """Read the questions. The caller holds the locks of the subjects."""
        follow = {t.message.subject_id for t in texts if t.message.intent in ("confirm", "start")}
        states = dict.fromkeys(follow, NEVER_SEEN)
        states |= {t.subject.subject_id: t.subject.state for t in texts if t.subject and t.subject.subject_id in follow}
        if not (who := {t.message.subject_id for t in texts if t.message.intent == "confirm"}):
            return cls({}, {}, states)
        asked = await double_opt_ins.asked_of(tx, who)
        requests = await double_opt_ins.requests(tx, [q for each in asked.values() for q in each])
        return cls(asked, requests, states)

    def state(self, said: Said) -> SubjectState:
        return self.states.get(said.message.subject_id, NEVER_SEEN)

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
        for statement in statements:
            if (state := self.states.get(statement.subject_id)) is None:
                continue
            evidence = statement.evidence
            owner = said.owners.get(evidence.sender_id or "")
            if owner and evidence.kind == "opt_out" and owner.stop_scope == "controller":
                evidence = replace(evidence, controller=owner.controller)
            self.states[statement.subject_id] = ledger.apply(state, evidence)


def review(message: MessageReceived, *, waits: bool = False) -> Review:
    """Return the review of an MO: the first revision opens a hold, the next lifts the hold.

    `waits`: a STOP to a code without a sender.
    """
    return Review(
        mo_id=message.mo_id,
        subject_id=message.subject_id,
        since=message.received_at,
        revision=message.revision,
        open=message.intent == "review" or waits or (message.behind_start and message.revision == 0),
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


async def _histories(tx: AsyncConnection, texts: Sequence[Said]) -> dict[str, list[Evidence]]:
    """Return the evidence of the authors of each START to a code of several controllers."""
    who = {t.message.subject_id for t in texts if t.message.intent == "start" and t.written is not None}
    if not who:
        return {}
    found = await ledger_store.whole_histories(tx, who)
    return {one.subject_id: [entry.evidence for entry in entries] for one, entries in found}


def decided_for_everyone(message: MessageReceived) -> bool:
    """Return whether a reviewer has decided a STOP to a code without a sender: a later owner does not narrow it."""
    return message.intent == "stop" and message.no_sender and message.revision > 0


def concerned(keys: FieldKeys, stop: Said, days: int) -> Reach:
    """Return the reach of a STOP. Unreadable words name no sender."""
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
        return Reach((None,))
    if stop.written is not None:
        return shared_codes.reached(stop.written, stop.owners, Mo.of(message), meant.senders, days)
    return Reach(meant.senders if meant.reach == "named" else tuple(names))


def starts(start: Said) -> Iterator[Evidence]:
    """Yield the opt-ins of a START: none for a new or erased subject."""
    message = start.message
    if start.subject is None or start.subject.erased_at is not None:
        return
    for sender_id, owner in start.owners.items():
        if owner.stop_code != message.short_code:
            continue
        for purpose in reopening.reopened(start.subject.state, sender_id):
            if start.opens is not None and (sender_id, purpose) not in start.opens:
                continue
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


def in_touch(said: Said, inner: Inner) -> Iterator[Evidence]:
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
        evidence_id=evidence_id("contact", inner(message.subject_id), met[0], retention.day(at)),
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
    On a code of several controllers the answers to STOP and CONTACT name only senders that wrote to the person.
    """
    message, owners = said.message, said.owners
    match message.intent:
        case "stop" if not message.answered:
            shut = {e.sender_id for e in evidence if ledger.shut(after, e.sender_id)}
            shut = {sender_id for sender_id in shut if not ledger.shut(before, sender_id)}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in shut or None in shut}:
                everyone = None in shut
                wrote, whose = _that_wrote(said.written, by)
                text = replies.stopped(_identities(wrote), everyone=everyone)
                return _owed(message, whose, "stopped", text, links, everyone=everyone)
        case "start":
            opened = {e.sender_id for e in evidence if _open(after, e) and not _open(before, e)}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in opened}:
                text = replies.started(_identities(by), message.short_code)
                return _owed(message, by, "started", text, links)
        case "contact":
            known = {mark.sender_id for mark in before.marks}
            if by := {sender_id: s for sender_id, s in owners.items() if sender_id in known} or dict(owners):
                wrote, whose = _that_wrote(said.written, by if said.written is None else dict(owners), by)
                text = replies.contact(_identities(wrote), message.short_code)
                return _owed(message, whose, "contact", text, links)
    return None


def _that_wrote(
    written: Written | None, senders: dict[str, Sender], known: dict[str, Sender] | None = None
) -> tuple[dict[str, Sender], dict[str, Sender]]:
    """Return the senders that an answer may name, and those to answer from: of no sender that wrote, no stranger.

    `known`: to answer from, where no sender is likelier.
    """
    if written is None:
        return senders, senders
    wrote = {one: sender for one, sender in senders.items() if one in written.senders}
    perhaps = {one: sender for one, sender in senders.items() if one in written.perhaps}
    return wrote, wrote or perhaps or known or senders


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
