"""What a piece of evidence changes. Pure: no clock, no I/O.

The state of a subject is a fold over all its evidence that keeps, for each scope, the newest of each kind by *time at
source*. Keeping the newest is commutative, associative and idempotent, so arrival order, duplicates and replays cannot
change the result. An opt-in holds only if it is strictly newer than every opt-out and expiry that covers it: a tie is
shut, and nothing but newer evidence than the STOP loosens (docs/architecture.md, promise 3).

A STOP by text counts from its arrival at Placet: an operator's clock may run slow, and no STOP that arrives after an
opt-in may leave it open. One opt-in is ordered by the operator's clock all the same: a START that this same clock has
timed (`Mark.shuts`).

    opt-in   of (sender, purpose)
    opt-out  of (sender, purpose), of a sender (purpose None: all its purposes, those to come as well), of every sender
             of its controller as well, those to come included (controller), or of everyone (sender None)
    request  of (sender, purpose): a double opt-in was asked. `pending` until answered or lapsed; it opens nothing
    expiry   of (sender, purpose): retention ran out. Only a strictly newer opt-in holds again
             one that answers a request is its lapse: the request is over, and nothing else is
    contact  with a sender: the person was in touch. It moves the clock of retention and no state
    correction  of another line: what it says is not right. It stands beside that line and moves nothing; where the line
             must count no more, the correction is an opt-out as old as the line (`annuls`)

A "no" is a value here (`Refusal`), never an exception.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal

import msgspec

from common.contracts.consent import Basis, Cause, Consent, State, Suppression

Kind = Literal["opt_in", "opt_out", "request", "expiry", "contact", "correction"]
MarkKind = Literal["opt_in", "opt_out", "request", "expiry", "contact", "lapse"]
Wrong = Literal["person", "sender", "purpose", "basis", "time", "sale_reference", "form", "text_shown", "actor"]

CLOCK_SKEW = timedelta(minutes=1)  # how far ahead of ours a caller's clock may be
LAST_INSTANT = timedelta(microseconds=999_999)  # of a second
RECTIFICATION = "rectification"  # the source of what a person had put right


class Refusal(StrEnum):
    """Why evidence is not taken. Also the reason in the API's answer."""

    OCCURRED_IN_THE_FUTURE = "occurred_in_the_future"
    SOURCE_MISSING = "source_missing"
    SENDER_MISSING = "sender_missing"
    PURPOSE_MISSING = "purpose_missing"
    BASIS_MISSING = "basis_missing"
    NOTHING_SHOWN = "nothing_shown"
    SALE_REFERENCE_MISSING = "sale_reference_missing"


class Verdict(StrEnum):
    """What became of a piece of evidence."""

    RECORDED = "recorded"  # kept, and it changed the state
    UNCHANGED = "unchanged"  # kept, and it changed nothing
    DUPLICATE = "duplicate"  # known already
    REFUSED = "refused"  # not kept


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What proves one opt-in, opt-out or step between (RGPD art. 7(1); DOMAIN 1.3 says why each field).

    `occurred_at` is the time at source, as claimed; `received_at` when Placet first held it. Both aware.
    `reference` is the operator's name for what said it: an MO (provider/account/provider message id), or the message
    whose receipt tells of an opt-out (provider/provider message id). Evidence by API has none. `answers`: the evidence
    this one follows from, as an opt-in by double opt-in does from its request. `controller`: the legal entity behind
    the sender, which a sender keeps for life; of an opt-out, only where it shuts all of that entity's senders.
    `arrived_at`: of a STOP by text: when it reached Placet. `clock`: of a STOP and a START by text: the operator's
    account whose clock has timed it (provider/account).
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

    @property
    def corrects(self) -> str | None:
        """The evidence that this one puts right."""
        return self.answers if self.source == RECTIFICATION else None

    @property
    def at(self) -> datetime:
        """The time it is ordered by.

        Nothing happened after we held it: without this bound, an opt-in from a clock that runs ahead would outvote
        the STOP that answers it. And an opt-out timed to the whole second, as operators do, may be of any instant of
        that second: it counts from the last one, so that an opt-in within the second is a tie.
        """
        whole = self.kind == "opt_out" and self.occurred_at.microsecond == 0
        held_at = self.received_at if self.arrived_at is None else min(self.received_at, self.arrived_at)
        return min(self.occurred_at + LAST_INSTANT if whole else self.occurred_at, held_at)

    @property
    def since(self) -> datetime:
        """The earliest instant it may be of. Another than `at` only for an opt-out timed to the whole second: whether
        the person was out at an instant within that second is in doubt, and doubt is out."""
        return min(self.occurred_at, self.received_at)


class Mark(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The newest evidence of one kind for one scope: all of it that the state needs. `lapse`: an expiry that answers a
    request. `arrived_at` and `clock`: as the evidence says."""

    kind: MarkKind
    sender_id: str | None
    purpose: str | None
    at: datetime
    evidence_id: str
    basis: Basis | None = None
    controller: str | None = None
    arrived_at: datetime | None = None
    clock: str | None = None

    @property
    def scope(self) -> tuple[str, str, str, str, str]:
        """An opt-out of a sender does not replace one of its controller: what that one shuts stays shut. Nor does what
        one clock has timed replace what another has."""
        wide = self.controller if self.kind == "opt_out" else None
        return self.kind, self.sender_id or "", self.purpose or "", wide or "", self.clock or ""

    @property
    def rank(self) -> tuple[datetime, str]:
        """Newest wins; the id only makes a tie between two of the same kind fall the same way in any order."""
        return self.at, self.evidence_id

    @property
    def counts_from(self) -> datetime:
        """Of an opt-out: what is no newer is shut by it, unless one clock has timed both."""
        return self.at if self.arrived_at is None else self.arrived_at

    def shuts(self, opening: "Mark") -> bool:
        """Whether this opt-out is newer than an opt-in or a request that it covers, or as new. The one place that
        orders the two (docs/architecture.md, promise 3).

        By time at source; but a STOP by text by its arrival: the operator's clock may be slow, and then only the
        arrival shows that the STOP came last. Where one operator's clock has timed both, their order is known even if
        that clock is wrong: a START that it puts behind a STOP takes the STOP back, however late the STOP is delivered.
        """
        same_clock = self.clock is not None and self.clock == opening.clock
        return (self.at if same_clock else self.counts_from) >= opening.at

    def covers(self, sender_id: str, purpose: str, controller: str | None = None) -> bool:
        """`controller`: of `sender_id`, as what is on record of it says."""
        shared = self.kind == "opt_out" and self.controller is not None and self.controller == controller
        return (shared or self.sender_id in (None, sender_id)) and self.purpose in (None, purpose)


class SubjectState(msgspec.Struct, frozen=True, dict=True):
    """One mark per scope, in scope order; two where the opt-out that is newest at source is not the last to arrive."""

    marks: tuple[Mark, ...] = ()

    @cached_property
    def consents(self) -> tuple[Consent, ...]:
        """Every purpose on record with its current state, suppressions taken into account. Asked for again and again
        while one line is recorded."""
        on_record = sorted({(m.sender_id, m.purpose) for m in self.marks if m.sender_id and m.purpose})
        found = (consent_of(self, sender_id, purpose) for sender_id, purpose in on_record)
        return tuple(consent for consent in found if consent)


NEVER_SEEN = SubjectState()


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one piece of evidence did. `state` is the state after it; `cause` is the opt-in or opt-out to name to the
    others, None where there is none."""

    verdict: Verdict
    state: SubjectState
    cause: Cause | None = None
    refusals: tuple[Refusal, ...] = ()

    @property
    def changed(self) -> bool:
        return self.verdict is Verdict.RECORDED

    @property
    def told(self) -> bool:
        """Whether the others must hear of it."""
        return self.changed or self.cause is not None


def decide(state: SubjectState, evidence: Evidence, now: datetime) -> Decision:
    """What `evidence` changes in `state`.

    An opt-out by an operator is told even where it changes nothing: dispatch answers each with the instant it was
    enforced (docs/architecture.md, promise 1). One that is `outvoted` is not: it would be reported as enforced.
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
    """Whether this STOP leaves open what was opened before it arrived, because its operator's clock puts a START
    behind it. `state`: with the STOP applied."""
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
    """Every reason not to take it. What opens nothing needs no more than a source and a scope: its clock is bounded,
    not judged, because a STOP counts."""
    if not evidence.source.strip():
        yield Refusal.SOURCE_MISSING
    everyone = evidence.kind in ("opt_out", "correction") and evidence.purpose is None
    if evidence.sender_id is None and not everyone:
        yield Refusal.SENDER_MISSING  # consent is limited to an identified party (DOMAIN 1.1); a purpose is one's own
    if evidence.purpose is None and evidence.kind in ("opt_in", "request", "expiry"):
        yield Refusal.PURPOSE_MISSING
    if evidence.kind != "opt_in":
        return
    if evidence.reference is None and evidence.occurred_at > now + CLOCK_SKEW:
        yield Refusal.OCCURRED_IN_THE_FUTURE  # a caller can mend its clock; a person cannot mend the operator's
    if evidence.basis is None:
        yield Refusal.BASIS_MISSING
    shown = (evidence.form_id and evidence.form_version) or evidence.text_shown or evidence.reference
    if not shown:
        yield Refusal.NOTHING_SHOWN  # informed consent: we must be able to show what the person saw (DOMAIN 1.3)
    if evidence.basis == "soft_opt_in" and not evidence.sale_reference:
        yield Refusal.SALE_REFERENCE_MISSING  # an account without a purchase is not a customer (DOMAIN 1.2)


def apply(state: SubjectState, evidence: Evidence) -> SubjectState:
    """One step of the fold."""
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
    )


def _newest_of(marks: Sequence[Mark]) -> list[Mark]:
    """Of one scope: the newest at source, and the last to arrive where that is another and counts from later."""
    newest = max(marks, key=lambda mark: (mark.rank, mark.counts_from))
    last = max(marks, key=lambda mark: (mark.counts_from, mark.rank))
    return [newest] if last.counts_from == newest.counts_from else [last, newest]


def fold(evidence: Iterable[Evidence]) -> SubjectState:
    """The state all this evidence amounts to, in whatever order it comes."""
    state = NEVER_SEEN
    for one in evidence:
        state = apply(state, one)
    return state


def consent_of(state: SubjectState, sender_id: str, purpose: str) -> Consent | None:
    """The consent for one purpose and the evidence that made it so. None: nothing covers it (`unknown`).

    A request or an expiry never hides a STOP: who is out stays `opted_out` until a newer opt-in.
    """
    own = [mark for mark in state.marks if mark.sender_id == sender_id and mark.purpose == purpose]
    ins, request = [mark for mark in own if mark.kind == "opt_in"], _newest(own, "request")
    named = _newest(ins, "opt_in") or request
    outs = _opt_outs(state, sender_id, purpose, named.controller if named else None)
    standing_in = [mark for mark in ins if not any(out.shuts(mark) for out in outs)] if outs else ins
    if outs and not standing_in:
        return _consent(sender_id, purpose, "opted_out", _last_word(outs, ins))
    given, expiry = _newest(standing_in, "opt_in"), _newest(own, "expiry")
    if given and (expiry is None or given.at > expiry.at):
        return _consent(sender_id, purpose, "opted_in", given)
    if request and open_request(state, sender_id, purpose):
        return _consent(sender_id, purpose, "pending", request)
    over = [mark for mark in (expiry, _newest(own, "lapse")) if mark]
    return _consent(sender_id, purpose, "expired", max(over, key=lambda mark: mark.rank)) if over else None


def standing_stop(state: SubjectState, sender_id: str, purpose: str, controller: str | None) -> Mark | None:
    """The newest STOP that covers the purpose, unless an opt-in is newer. `controller`: of the sender."""
    ins = [m for m in state.marks if (m.kind, m.sender_id, m.purpose) == ("opt_in", sender_id, purpose)]
    outs = _opt_outs(state, sender_id, purpose, controller)
    if not outs or any(not any(out.shuts(mark) for out in outs) for mark in ins):
        return None
    return _last_word(outs, ins)


def open_request(state: SubjectState, sender_id: str, purpose: str) -> Mark | None:
    """The double opt-in that is asked and not answered: nothing as new, but contacts, is on record for the purpose. It
    may be open while the state says `opted_out`."""
    own = [mark for mark in state.marks if mark.sender_id == sender_id and mark.purpose == purpose]
    request = _newest(own, "request")
    if request is None:
        return None
    ends = [mark for mark in own if mark.kind in ("opt_in", "expiry", "lapse")]
    ends += _opt_outs(state, sender_id, purpose, request.controller)
    return None if any(mark.shuts(request) for mark in ends) else request


def last_contact(state: SubjectState, sender_id: str) -> datetime | None:
    """When the person was last in touch with this sender, as far as evidence says: the clock of retention. Delivery and
    opening do not count (DOMAIN 1.4), nor does a request, which somebody else may have typed, nor a no to one purpose,
    which a list may say that came without the person: it would keep what they said yes to. Where the person says it
    themself, a contact is beside it. A no to a sender is a contact, as it leaves nothing that it could prolong."""
    newest = None
    for mark in state.marks:
        if mark.kind == "opt_out" and mark.purpose is not None:
            continue
        if mark.kind in ("opt_in", "opt_out", "contact") and mark.sender_id in (None, sender_id):
            newest = mark.at if newest is None or mark.at > newest else newest
    return newest


def consents(state: SubjectState) -> tuple[Consent, ...]:
    return state.consents


def suppressions(state: SubjectState) -> tuple[Suppression, ...]:
    """The opt-outs wider than one purpose. One stays listed after a newer opt-in for some purpose: it still covers
    the others, and `consents` says which one is open."""
    since: dict[str | None, datetime] = {}
    for mark in state.marks:
        if mark.kind == "opt_out" and mark.purpose is None:
            since[mark.sender_id] = max(mark.at, since.get(mark.sender_id, mark.at))
    if not since:
        return ()  # of most
    return tuple(Suppression(sender_id=sender_id, since=at) for sender_id, at in since.items())


def standing(state: SubjectState, sender_id: str | None, purpose: str | None) -> State:
    """The state of a scope in one word. Of a wide scope: `opted_in` while any purpose in it still is, else `opted_out`
    if any is."""
    if sender_id and purpose:
        consent = consent_of(state, sender_id, purpose)
        return consent.state if consent else "unknown"
    states: set[State] = {c.state for c in consents(state) if sender_id in (None, c.sender_id)}
    if any(s.sender_id in (None, sender_id) for s in suppressions(state)):
        states.add("opted_out")
    return next((one for one in ("opted_in", "opted_out", "pending", "expired") if one in states), "unknown")


def is_out(state: SubjectState, said: Evidence) -> bool:
    """Of all that this opt-out shuts, now and to come, by one that nothing newer has outvoted. Where it is of the
    controller, nobody is while a consent to another of its senders stands."""
    if said.sender_id is not None and said.purpose is not None:
        return standing(state, said.sender_id, said.purpose) == "opted_out"
    if said.controller is not None:
        given = {m.sender_id for m in state.marks if m.kind == "opt_in" and m.controller == said.controller}
        if any(c.state == "opted_in" and c.sender_id in given for c in consents(state)):
            return False
    return is_out_of_sender(state, said.sender_id)


def is_out_of_sender(state: SubjectState, sender_id: str | None) -> bool:
    """Of all that this sender sends; None: that anyone does."""
    suppressed = any(s.sender_id in (None, sender_id) for s in suppressions(state))
    return suppressed and standing(state, sender_id, None) == "opted_out"


def shut(state: SubjectState, sender_id: str | None) -> bool:
    """Whether a STOP of this sender, or of everyone, is on record, and nothing it covers has been opened since."""
    stopped = any(s.sender_id in (None, sender_id) for s in suppressions(state))
    return stopped and standing(state, sender_id, None) != "opted_in"


def differs(before: SubjectState, after: SubjectState) -> bool:
    """Whether the two mean something else for any purpose of any sender: another state, basis or time at source.

    An opt-in older than the STOP that covers it adds a mark and no difference: that purpose was out, by that same
    STOP, before and after. Nor does a second proof of what is already proven.
    """
    if before == after:
        return False
    if suppressions(before) != suppressions(after):
        return True
    return any(_meaning(c) != _meaning(consent_of(before, c.sender_id, c.purpose)) for c in consents(after))


def reopened(state: SubjectState, sender_id: str) -> tuple[str, ...]:
    """The purposes of this sender that a START by SMS speaks for: those the person had opted in to, that have not
    expired, and that the person has not left one by one since. It takes back a STOP; it grants nothing new (DOMAIN
    2.4, France)."""
    own = [m for m in state.marks if m.sender_id == sender_id and m.purpose]
    purposes = dict.fromkeys(m.purpose for m in own if m.purpose and m.kind == "opt_in")
    newest = {p: given for p in purposes if (given := newest_opt_in(state, sender_id, p))}
    closing = [m for m in own if m.kind in ("opt_out", "expiry")]
    return tuple(p for p, given in newest.items() if not any(m.purpose == p and m.shuts(given) for m in closing))


def given_to(state: SubjectState, sender_id: str | None, controller: str | None) -> list[tuple[str, str]]:
    """What the person ever said yes to, by (sender_id, purpose), whatever became of it: with this sender and all of
    `controller`; None: with every sender."""
    ins = (m for m in state.marks if m.kind == "opt_in" and m.sender_id and m.purpose)
    shared = (m for m in ins if sender_id in (None, m.sender_id) or (controller and m.controller == controller))
    return sorted({(m.sender_id, m.purpose) for m in shared if m.sender_id and m.purpose})


def annuls(line: Evidence, wrong: Collection[Wrong], right: Collection[str]) -> bool:
    """Whether this line must count no more, once `wrong` of it is wrong and of `right` (names of its fields) is known
    what is right. Only what opens can be annulled: a correction never loosens.

    A consent that was of somebody else, for something else, at another time or on another basis proves nothing: with
    what is right, it is another consent, to be recorded as one. Where only the reference to what was shown is wrong,
    the line stands with the right one beside it, and falls without: nothing could be shown of it any more.
    """
    if line.kind not in ("opt_in", "request"):
        return False
    proven = {
        "form": {"form_id", "form_version"} <= {*right},
        "text_shown": "text_shown" in right,
        "actor": True,  # who typed it in
    }
    return not all(proven.get(each, False) for each in wrong)


def corrected_by(evidence: Iterable[Evidence]) -> dict[str, list[str]]:
    """Of this evidence, by its id, the ids of what puts it right."""
    found: dict[str, list[str]] = {}
    for one in evidence:
        if one.corrects is not None:
            found.setdefault(one.corrects, []).append(one.evidence_id)
    return found


def cause(evidence: Evidence) -> Cause | None:
    """Of an opt-in or opt-out: the other kinds are told by the state alone, as no reader of yesterday knows them."""
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
    return _newest([m for m in state.marks if m.sender_id == sender_id and m.purpose == purpose], "opt_in")


def _newest(marks: Iterable[Mark], kind: MarkKind) -> Mark | None:
    newest = None
    for mark in marks:
        if mark.kind == kind and (newest is None or mark.rank > newest.rank):
            newest = mark
    return newest


def _opt_outs(state: SubjectState, sender_id: str, purpose: str, controller: str | None) -> list[Mark]:
    """Those that cover the purpose. `controller`: of the sender."""
    return [mark for mark in state.marks if mark.kind == "opt_out" and mark.covers(sender_id, purpose, controller)]


def _last_word(outs: Sequence[Mark], ins: Sequence[Mark]) -> Mark:
    """The newest of the opt-outs that shut the newest of the opt-ins, which are all shut."""
    given = _newest(ins, "opt_in")
    return max((out for out in outs if given is None or out.shuts(given)), key=lambda mark: mark.rank)


def _meaning(consent: Consent | None) -> tuple[State, Basis | None, datetime] | None:
    return (consent.state, consent.basis, consent.occurred_at) if consent else None


def _consent(sender_id: str, purpose: str, state: State, mark: Mark) -> Consent:
    return Consent(
        sender_id=sender_id,
        purpose=purpose,
        state=state,
        basis=mark.basis,
        occurred_at=mark.at,
        evidence_id=mark.evidence_id,
    )
