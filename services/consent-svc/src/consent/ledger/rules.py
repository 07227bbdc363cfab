"""The rules that decide how evidence changes consent. Pure: no clock, no I/O.

A subject's state is a fold that keeps, for each scope, the newest evidence of each kind by *time at source*: arrival
order, duplicates and replays cannot change the result. An opt-in holds only if strictly newer than every opt-out and
expiry of its scope: a tie counts as opted out (README, promise 3). A STOP by text counts from its arrival (ADR-0060).
After a STOP of the person's own, an opt-in that a caller asserts opens nothing, whatever its time, unless recorded
under a reopening rule (ADR-0064).

    opt-in   for (sender, purpose)
    opt-out  from (sender, purpose); from a sender (`purpose` is `None`), future purposes included; from every sender of
             a controller (`controller`), future senders included; or from every sender (`sender_id` is `None`)
    request  for (sender, purpose): a double opt-in, `pending` until the answer or the lapse
    expiry   for (sender, purpose): retention ended, or a lapse, which answers a request and ends only the request
    contact  with a sender: moves the retention clock
    correction  of a wrong entry (`corrections.annuls`)
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal

import msgspec

from common.contracts.consent import Basis, Cause, Consent, State, Suppression

Kind = Literal["opt_in", "opt_out", "request", "expiry", "contact", "correction"]
MarkKind = Literal["opt_in", "opt_out", "request", "expiry", "contact", "lapse"]

CLOCK_SKEW = timedelta(minutes=1)  # how far a caller's clock may run ahead
LAST_INSTANT = timedelta(microseconds=999_999)  # of a second
RECTIFICATION = "rectification"  # the source of evidence that corrects
# No caller may write these sources (`consent.bodies.Source`). An unreadable MO may be a STOP. A DLR and a provider's
# list report that the person stopped with the operator. An erasure that a restore lost may be the person's wish.
PERSONS_STOPS = frozenset(
    {"mo", "unreadable_mo", "preference_page", "stop_link", "receipt", "provider_list", "restore"}
)
PERSONS_OPT_INS = frozenset({"mo", "preference_page", "double_opt_in"})


class Refusal(StrEnum):
    """A reason to refuse evidence, named alike in the API's answer."""

    OCCURRED_IN_THE_FUTURE = "occurred_in_the_future"
    SOURCE_MISSING = "source_missing"
    SENDER_MISSING = "sender_missing"
    PURPOSE_MISSING = "purpose_missing"
    BASIS_MISSING = "basis_missing"
    NOTHING_SHOWN = "nothing_shown"
    SALE_REFERENCE_MISSING = "sale_reference_missing"


class Verdict(StrEnum):
    """The outcome of offering evidence."""

    RECORDED = "recorded"  # stored, with a new state
    UNCHANGED = "unchanged"  # stored, with the same state
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The proof of an opt-in, an opt-out or a step between (RGPD art. 7(1); DOMAIN 1.3 explains each field).

    `occurred_at` is the claimed time at source; `received_at` is when Placet first held the evidence. `reference`: the
    MO (provider/account/provider message id), the message of an opted-out DLR (provider/provider message id), the click
    (campaign/message) or the operator's list. `answers`: the id of earlier evidence. `controller`: the legal entity; on
    an opt-out only if wider than the sender. `arrived_at`: of a STOP by text. `clock`: the account (provider/account)
    that timed a STOP or START. `reopening_rule`: in force for the sender when an asserted opt-in was recorded.
    """

    evidence_id: str
    kind: Kind
    sender_id: str | None
    purpose: str | None
    source: str
    occurred_at: datetime
    received_at: datetime
    basis: Basis | None = None
    form_id: str | None = None
    form_version: str | None = None
    text_shown: str | None = None
    actor: str | None = None
    sale_reference: str | None = None
    reference: str | None = None
    answers: str | None = None
    controller: str | None = None
    arrived_at: datetime | None = None
    clock: str | None = None
    reopening_rule: str | None = None

    @property
    def by_person(self) -> bool:
        """Return whether the person's own act is the evidence: a caller's word on the person's behalf is not."""
        own = PERSONS_STOPS if self.kind == "opt_out" else PERSONS_OPT_INS
        return self.kind in ("opt_in", "opt_out") and self.source in own

    @property
    def corrects(self) -> str | None:
        """Return the id of the evidence that this rectification corrects."""
        return self.answers if self.source == RECTIFICATION else None

    @property
    def at(self) -> datetime:
        """Return the time that orders the evidence.

        `received_at` bounds the time: otherwise an opt-in from a fast clock would outvote the STOP sent in reply. An
        opt-out timed to the whole second counts from its last instant: an opt-in within the second is a tie.
        """
        whole = self.kind == "opt_out" and self.occurred_at.microsecond == 0
        held_at = self.received_at if self.arrived_at is None else min(self.received_at, self.arrived_at)
        return min(self.occurred_at + LAST_INSTANT if whole else self.occurred_at, held_at)

    @property
    def since(self) -> datetime:
        """Return the earliest possible instant of the evidence: in doubt the subject is opted out."""
        return min(self.occurred_at, self.received_at)


class Mark(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The newest evidence of a kind for a scope. A `lapse` is an expiry that answers a request.

    `by_person`: a STOP that only the person takes back, or an opt-in that takes such a STOP back. `annuls`: of an
    opt-out, the wrong opt-in, which takes nothing back.
    """

    kind: MarkKind
    sender_id: str | None
    purpose: str | None
    at: datetime
    evidence_id: str
    basis: Basis | None = None
    controller: str | None = None
    arrived_at: datetime | None = None
    clock: str | None = None
    by_person: bool = False
    reopening_rule: str | None = None
    annuls: str | None = None

    @property
    def scope(self) -> tuple[str, str, str, str, str, str]:
        """Return the key that marks replace each other by.

        Wide opt-outs, each clock, each annulment, the person's own acts and opt-ins under a reopening rule stay apart.
        """
        wide = self.controller if self.kind == "opt_out" else None
        said = "person" if self.by_person else "rule" if self.reopening_rule else self.annuls or ""
        return self.kind, self.sender_id or "", self.purpose or "", wide or "", self.clock or "", said

    @property
    def rank(self) -> tuple[datetime, str]:
        """Return the sort key: the id breaks ties in any order of arrival."""
        return self.at, self.evidence_id

    @property
    def counts_from(self) -> datetime:
        """Return the time up to which an opt-out shuts opt-ins and requests of other clocks."""
        return self.at if self.arrived_at is None else self.arrived_at

    def shuts(self, opening: "Mark") -> bool:
        """Return whether this opt-out is as new as `opening`, an opt-in or a request in its scope, or newer.

        No other function orders the two (README, promise 3; ADR-0060).
        """
        same_clock = self.clock is not None and self.clock == opening.clock
        return (self.at if same_clock else self.counts_from) >= opening.at

    def holds(self, asserted: "Mark") -> bool:
        """Return whether `asserted`, an opt-in, came after this opt-out and opens nothing in spite of its time.

        The caller has checked that no opt-in of the person's own takes this opt-out back. A reopening rule is one
        controller's: it takes back no STOP to every sender.
        """
        if not self.by_person or asserted.by_person or self.shuts(asserted):
            return False
        return asserted.reopening_rule is None or self.sender_id is None

    def covers(self, sender_id: str, purpose: str, controller: str | None = None) -> bool:
        """Return whether the mark's scope includes the purpose. `controller` is the sender's."""
        shared = self.kind == "opt_out" and self.controller is not None and self.controller == controller
        return (shared or self.sender_id in (None, sender_id)) and self.purpose in (None, purpose)


class SubjectState(msgspec.Struct, frozen=True, dict=True):
    """The marks in scope order, two for a scope if the newest opt-out at source is not the last to arrive."""

    marks: tuple[Mark, ...] = ()

    @cached_property
    def consents(self) -> tuple[Consent, ...]:
        """Return the consent for every purpose on record."""
        on_record = sorted({(m.sender_id, m.purpose) for m in self.marks if m.sender_id and m.purpose})
        found = (consent_of(self, sender_id, purpose) for sender_id, purpose in on_record)
        return tuple(consent for consent in found if consent)

    @cached_property
    def held(self) -> tuple[Mark, ...]:
        """Return the opt-ins asserted after a STOP of the person's own, which open nothing."""
        if not any(mark.by_person and mark.kind == "opt_out" for mark in self.marks):
            return ()
        asserted = [mark for mark in self.marks if mark.kind == "opt_in" and not mark.by_person]
        return tuple(
            mark for mark in asserted if any(stop.holds(mark) for stop in persons_stops(self, *addressee(mark)))
        )


NEVER_SEEN = SubjectState()


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The effect of evidence: the `state` after, and the `cause` to publish."""

    verdict: Verdict
    state: SubjectState
    cause: Cause | None = None
    refusals: tuple[Refusal, ...] = ()

    @property
    def changed(self) -> bool:
        return self.verdict is Verdict.RECORDED

    @property
    def told(self) -> bool:
        """Return whether the recorder must publish the subject."""
        return self.changed or self.cause is not None


def decide(state: SubjectState, evidence: Evidence, now: datetime) -> Decision:
    """Return the effect of `evidence` on `state`.

    An opt-out with a reference has a cause even without a change, unless `outvoted` (README, promise 1).
    """
    if refused := tuple(refusals(evidence, now)):
        return Decision(verdict=Verdict.REFUSED, state=state, refusals=refused)
    after = apply(state, evidence)
    changed = differs(state, after)
    told = changed or (evidence.kind == "opt_out" and evidence.reference is not None)
    return Decision(
        verdict=Verdict.RECORDED if changed else Verdict.UNCHANGED,
        state=after,
        cause=cause(evidence) if told and not outvoted(after, evidence) else None,
    )


def outvoted(state: SubjectState, evidence: Evidence) -> bool:
    """Return whether a STOP leaves an opt-in open by a later START on its operator's clock."""
    if evidence.kind != "opt_out" or evidence.clock is None:
        return False
    stop = _mark(evidence)
    return any(
        mark.kind == "opt_in"
        and mark.sender_id is not None
        and mark.purpose is not None
        and mark.at <= stop.counts_from
        and stop.covers(mark.sender_id, mark.purpose, mark.controller)
        and not stop.shuts(mark)
        and standing(state, mark.sender_id, mark.purpose) == "opted_in"
        for mark in state.marks
    )


def refusals(evidence: Evidence, now: datetime) -> Iterator[Refusal]:
    """Yield every reason to refuse `evidence`.

    A STOP with a wrong time counts: `Evidence.at` bounds the time.
    """
    if not evidence.source.strip():
        yield Refusal.SOURCE_MISSING
    everyone = evidence.kind in ("opt_out", "correction") and evidence.purpose is None
    if evidence.sender_id is None and not everyone:
        yield Refusal.SENDER_MISSING  # consent needs an identified party (DOMAIN 1.1)
    if evidence.purpose is None and evidence.kind in ("opt_in", "request", "expiry"):
        yield Refusal.PURPOSE_MISSING
    if evidence.kind != "opt_in":
        return
    if evidence.reference is None and evidence.occurred_at > now + CLOCK_SKEW:
        yield Refusal.OCCURRED_IN_THE_FUTURE  # a person cannot correct the operator's clock
    if evidence.basis is None:
        yield Refusal.BASIS_MISSING
    shown = (evidence.form_id and evidence.form_version) or evidence.text_shown or evidence.reference
    if not shown:
        yield Refusal.NOTHING_SHOWN  # informed consent (DOMAIN 1.3)
    if evidence.basis == "soft_opt_in" and not evidence.sale_reference:
        yield Refusal.SALE_REFERENCE_MISSING  # an account alone makes no customer (DOMAIN 1.2)


def apply(state: SubjectState, evidence: Evidence) -> SubjectState:
    """Return the state after one step of the fold."""
    if evidence.kind == "correction":
        return state
    mark = _mark(evidence)
    if not state.marks:
        return SubjectState((mark,))
    scope = mark.scope
    scoped = [(one.scope, one) for one in state.marks]
    held = [one for its, one in scoped if its == scope]
    kept = _newest_of([*held, mark]) if held else [mark]
    if kept == held:
        return state
    before = (one for its, one in scoped if its < scope)
    return SubjectState((*before, *kept, *(one for its, one in scoped if its > scope)))


def _mark(evidence: Evidence) -> Mark:
    lapsed = evidence.kind == "expiry" and evidence.answers is not None
    assert evidence.kind != "correction", "a correction leaves no mark"
    return Mark(
        kind="lapse" if lapsed else evidence.kind,
        sender_id=evidence.sender_id,
        purpose=evidence.purpose,
        at=evidence.at,
        evidence_id=evidence.evidence_id,
        basis=evidence.basis,
        controller=evidence.controller,
        arrived_at=evidence.arrived_at,
        clock=evidence.clock,
        by_person=evidence.by_person,
        reopening_rule=evidence.reopening_rule,
        annuls=evidence.corrects if evidence.kind == "opt_out" else None,
    )


def _newest_of(marks: Sequence[Mark]) -> list[Mark]:
    """Return the newest mark of a scope at source, after the last to arrive if that mark counts from a later time."""
    newest = max(marks, key=lambda mark: (mark.rank, mark.counts_from))
    last = max(marks, key=lambda mark: (mark.counts_from, mark.rank))
    return [newest] if last.counts_from == newest.counts_from else [last, newest]


def fold(evidence: Iterable[Evidence]) -> SubjectState:
    """Return the state after all this evidence, in any order."""
    state = NEVER_SEEN
    for one in evidence:
        state = apply(state, one)
    return state


def consent_of(state: SubjectState, sender_id: str, purpose: str) -> Consent | None:
    """Return the consent for a purpose, or `None` (`unknown`) when no mark decides.

    A request or an expiry never hides a STOP. A held opt-in counts as if absent.
    """
    own = [mark for mark in state.marks if mark.sender_id == sender_id and mark.purpose == purpose]
    given_here, request = [mark for mark in own if mark.kind == "opt_in"], _newest(own, "request")
    named = _newest(given_here, "opt_in") or request
    outs = _opt_outs(state, sender_id, purpose, named.controller if named else None)
    ins = [mark for mark in given_here if mark not in state.held] if outs else given_here
    standing_in = [mark for mark in ins if not any(out.shuts(mark) for out in outs)] if outs else ins
    if outs and not standing_in:
        said, stopped_at = _last_word(outs), max(out.counts_from for out in outs)
        return _consent(sender_id, purpose, "opted_out", said, stopped_at=stopped_at if stopped_at > said.at else None)
    given, expiry = _newest(standing_in, "opt_in"), _newest(own, "expiry")
    if given and (expiry is None or given.at > expiry.at):
        return _consent(sender_id, purpose, "opted_in", given, _rule_of(state, given))
    if request and open_request(state, sender_id, purpose):
        return _consent(sender_id, purpose, "pending", request)
    over = [mark for mark in (expiry, _newest(own, "lapse")) if mark]
    return _consent(sender_id, purpose, "expired", max(over, key=lambda mark: mark.rank)) if over else None


def persons_stops(state: SubjectState, sender_id: str, purpose: str, controller: str | None) -> list[Mark]:
    """Return the person's own STOPs for the purpose that no opt-in of the person's own takes back.

    `controller` is the sender's. An annulled opt-in, and one before, takes back nothing: the STOP and the opt-in may be
    two people's.
    """
    outs = _opt_outs(state, sender_id, purpose, controller)
    wrong = {out.annuls for out in outs}
    own = [mark for mark in opt_ins(state, sender_id, purpose) if mark.by_person]
    annulled = max((mark.rank for mark in own if mark.evidence_id in wrong), default=None)
    own = [mark for mark in own if annulled is None or mark.rank > annulled]
    return [out for out in outs if out.by_person and all(out.shuts(mark) for mark in own)]


def addressee(opt_in: Mark | Evidence) -> tuple[str, str, str | None]:
    """Return the sender, the purpose and, if known, the controller of an opt-in or a request."""
    assert opt_in.sender_id is not None, "an opt-in is some sender's"
    assert opt_in.purpose is not None, "an opt-in is for a purpose"
    return opt_in.sender_id, opt_in.purpose, opt_in.controller


def _rule_of(state: SubjectState, given: Mark) -> str | None:
    """Return the reopening rule without which `given` would open nothing."""
    if given.reopening_rule is None:
        return None
    return given.reopening_rule if persons_stops(state, *addressee(given)) else None


def standing_stop(state: SubjectState, sender_id: str, purpose: str, controller: str | None) -> Mark | None:
    """Return the newest STOP that shuts the purpose. `controller` is the sender's."""
    ins = [mark for mark in opt_ins(state, sender_id, purpose) if mark not in state.held]
    outs = _opt_outs(state, sender_id, purpose, controller)
    if not outs or any(not any(out.shuts(mark) for out in outs) for mark in ins):
        return None
    return _last_word(outs)


def open_request(state: SubjectState, sender_id: str, purpose: str) -> Mark | None:
    """Return the unanswered request: no mark but a contact is as new. The state may still be `opted_out`."""
    own = [mark for mark in state.marks if mark.sender_id == sender_id and mark.purpose == purpose]
    request = _newest(own, "request")
    if request is None:
        return None
    ends = [mark for mark in own if mark.kind in ("opt_in", "expiry", "lapse") and mark not in state.held]
    ends += _opt_outs(state, sender_id, purpose, request.controller)
    return None if any(mark.shuts(request) for mark in ends) else request


def consents(state: SubjectState) -> tuple[Consent, ...]:
    return state.consents


def suppressions(state: SubjectState) -> tuple[Suppression, ...]:
    """Return the opt-outs wider than a purpose, even after a newer opt-in."""
    since: dict[str | None, datetime] = {}
    for mark in state.marks:
        if mark.kind == "opt_out" and mark.purpose is None:
            since[mark.sender_id] = max(mark.at, since.get(mark.sender_id, mark.at))
    if not since:
        return ()
    return tuple(Suppression(sender_id=sender_id, since=at) for sender_id, at in since.items())


def standing(state: SubjectState, sender_id: str | None, purpose: str | None) -> State:
    """Return the state of a scope: if wide, `opted_in` if any purpose is, else `opted_out` if any purpose is."""
    if sender_id and purpose:
        consent = consent_of(state, sender_id, purpose)
        return consent.state if consent else "unknown"
    states: set[State] = {c.state for c in consents(state) if sender_id in (None, c.sender_id)}
    if any(s.sender_id in (None, sender_id) for s in suppressions(state)):
        states.add("opted_out")
    return next((one for one in ("opted_in", "opted_out", "pending", "expired") if one in states), "unknown")


def is_out(state: SubjectState, said: Evidence) -> bool:
    """Return whether the subject is already opted out of everything that `said` covers.

    An opt-out wider than a purpose needs a suppression, for future purposes; a controller-wide opt-out, also no open
    consent to the controller's senders.
    """
    if said.sender_id is not None and said.purpose is not None:
        return standing(state, said.sender_id, said.purpose) == "opted_out"
    if said.controller is not None:
        given = {m.sender_id for m in state.marks if m.kind == "opt_in" and m.controller == said.controller}
        if any(c.state == "opted_in" and c.sender_id in given for c in consents(state)):
            return False
    return shut(state, said.sender_id)


def is_out_of_sender(state: SubjectState, sender_id: str, controller: str) -> bool:
    """Return whether an opt-out of all purposes covers this sender, and no purpose is opted in.

    `controller` is the sender's: a STOP to a sister sender may cover the whole controller.
    """
    wide = any(m.kind == "opt_out" and m.purpose is None and m.covers(sender_id, "", controller) for m in state.marks)
    return wide and standing(state, sender_id, None) != "opted_in"


def shut(state: SubjectState, sender_id: str | None) -> bool:
    """Return whether a suppression names this sender or every sender, and no purpose is opted in."""
    stopped = any(s.sender_id in (None, sender_id) for s in suppressions(state))
    return stopped and standing(state, sender_id, None) != "opted_in"


def differs(before: SubjectState, after: SubjectState) -> bool:
    """Return whether any suppression, or any purpose's state, basis or time at source, differs."""
    if before == after:
        return False
    if suppressions(before) != suppressions(after):
        return True
    return any(_meaning(c) != _meaning(consent_of(before, c.sender_id, c.purpose)) for c in consents(after))


def given_to(state: SubjectState, sender_id: str | None, controller: str | None) -> list[tuple[str, str]]:
    """Return every (sender_id, purpose) ever opted in to, of this sender (`None`: all) or `controller`."""
    ins = (m for m in state.marks if m.kind == "opt_in" and m.sender_id and m.purpose)
    shared = (m for m in ins if sender_id in (None, m.sender_id) or (controller and m.controller == controller))
    return sorted({(m.sender_id, m.purpose) for m in shared if m.sender_id and m.purpose})


def closing(state: SubjectState, senders: Sequence[str], controller: str) -> list[tuple[str, str | None]]:
    """Return the scopes of the opt-outs that close a controller's consents for good; the first sender's comes last.

    Each consent is closed by name as well, because a START takes back a STOP; and each sender, whose STOPs may be its
    own.
    """
    first, *others = senders
    return [*given_to(state, first, controller), *((one, None) for one in others), (first, None)]


def cause(evidence: Evidence) -> Cause | None:
    """Return the cause to publish; the state shows the other kinds."""
    if evidence.kind not in ("opt_in", "opt_out"):
        return None
    return Cause(
        kind=evidence.kind,
        source=evidence.source,
        evidence_id=evidence.evidence_id,
        received_at=evidence.received_at,
        reference=evidence.reference,
    )


def newest_opt_in(state: SubjectState, sender_id: str, purpose: str) -> Mark | None:
    """Return the newest opt-in, held ones aside."""
    return _newest((mark for mark in opt_ins(state, sender_id, purpose) if mark not in state.held), "opt_in")


def opt_ins(state: SubjectState, sender_id: str, purpose: str) -> list[Mark]:
    return [m for m in state.marks if (m.kind, m.sender_id, m.purpose) == ("opt_in", sender_id, purpose)]


def _newest(marks: Iterable[Mark], kind: MarkKind) -> Mark | None:
    newest = None
    for mark in marks:
        if mark.kind == kind and (newest is None or mark.rank > newest.rank):
            newest = mark
    return newest


def _opt_outs(state: SubjectState, sender_id: str, purpose: str, controller: str | None) -> list[Mark]:
    """Return the opt-outs that cover the purpose."""
    return [mark for mark in state.marks if mark.kind == "opt_out" and mark.covers(sender_id, purpose, controller)]


def _last_word(outs: Sequence[Mark]) -> Mark:
    """Return the newest opt-out at source.

    An older one may be the last to arrive, and alone shut the newest opt-in: a state that named the older one would go
    back in time, and readers would miss a STOP (ADR-0062).
    """
    return max(outs, key=lambda mark: mark.rank)


def _meaning(
    consent: Consent | None,
) -> tuple[State, Basis | None, datetime, str | None, datetime | None] | None:
    if consent is None:
        return None
    return consent.state, consent.basis, consent.occurred_at, consent.reopening_rule, consent.stopped_at


def _consent(
    sender_id: str,
    purpose: str,
    state: State,
    mark: Mark,
    reopening_rule: str | None = None,
    stopped_at: datetime | None = None,
) -> Consent:
    return Consent(
        sender_id=sender_id,
        purpose=purpose,
        state=state,
        basis=mark.basis,
        occurred_at=mark.at,
        evidence_id=mark.evidence_id,
        reopening_rule=reopening_rule,
        stopped_at=stopped_at,
    )
