"""Decide on the messages of one batch, with the knowledge that was read (`clearance.py`). No database.

A batch is decided in one loop, which works out once the properties of each text (`_Text`), and the part of decisions
that is equal for messages whose requests differ in person and number alone (`_Form`).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from msgspec import structs

from common.contracts.campaign import Category, Control
from common.law import Policy, can_stop, mark_of
from common.law.stop_mention import mentions_stop
from common.limits import FRENCH
from common.privacy import erasing
from common.privacy.erasing import Asked, Erasure
from common.sms.msisdn import territory_of
from common.sms.prices import Prices
from common.sms.sms_length import segments
from common.telemetry import counter
from dispatch.gate import record
from dispatch.gate import rules as gate
from dispatch.gate.candidate import Candidate, Decision, Permit
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Prepared, Request, Subject, Verdict
from dispatch.gateways.pool import Traffic, Ways
from dispatch.lane import Lane
from dispatch.messages.reasons import Reason
from dispatch.messages.row import MessageRow, shared_id, shortened
from dispatch.messages.status import Status
from dispatch.projection.limits import Limits
from dispatch.projection.store import Sender
from dispatch.quotas.budget import Budget, Over, Purse

NO_ROUTE = counter(
    "sms_dispatch_no_route_total",
    "Permitted messages without a gateway configured for their territory, sender, category and text.",
)

NO_ROUTE_RECHECK = timedelta(minutes=5)  # the operator has to configure a route
SHORT_RECHECK = timedelta(seconds=1)  # the lease was late, or another message took the rest of the lease
FIRST_RECHECK = timedelta(seconds=30)  # idle leases of other processes are back by then
LIMIT_RECHECK = timedelta(hours=6)  # the operator may raise a limit
NONE: frozenset[str] = frozenset()


class Opened(NamedTuple):
    """A message decrypted. `flaw`: a reason in the request; then number and text are empty."""

    number: str
    text: str
    flaw: Reason | None = None
    stop_link: bool = False  # the person's own
    foreign_link: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a process for decisions, besides the database and the keys."""

    traffic: Traffic
    policy: Policy
    limits: Limits
    prices: Prices
    budget: Budget | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The knowledge of a batch. `until`: when its permits end (`uptime_s`), at the instant `lapses`."""

    now: datetime
    lapses: datetime
    until: float
    as_of: datetime | None
    senders: Mapping[str, Sender]
    subjects: Mapping[str, Subject]
    controls: Mapping[str, Control]
    blocks: Mapping[str, frozenset[str]]
    erased: Mapping[str, Sequence[Erasure]]
    retired: Collection[str]  # templates
    controllers: Mapping[str, Collection[str]]  # of a sender of codes: its controller's senders
    purses: Mapping[str, Purse]  # of limited senders
    highest: Mapping[UUID, int | None]  # costs


@dataclass(frozen=True, slots=True)
class _Text:
    """The properties of a text. Many messages of a campaign have the same text. `kind`: equal for equal properties."""

    kind: int
    lacks_code: bool  # the STOP mention
    mark: str | None
    unfit: frozenset[str]  # gateways
    unfit_alone: frozenset[str]  # likewise, without another means to stop
    segments: dict[str, int] = field(default_factory=dict)  # by gateway, as the gateway sends the text


@dataclass(frozen=True, slots=True)
class _Form:
    """The equal part of decisions on messages whose requests differ in person and number alone."""

    request: Request
    known: Knowledge  # without the person
    prepared: Prepared
    shared: str  # of the decision record
    shared_id: UUID
    ways: Ways
    lacks_stop: bool
    deliver_by: datetime | None
    controller: Collection[str] | None  # of a code or notice requested over HTTP
    costs: dict[int, int | None] = field(default_factory=dict)  # by segments
    of_unknown: dict[int, tuple[Verdict, str]] = field(default_factory=dict)  # `_verdict`, by `recent`
    rows: dict[tuple[object, ...], MessageRow] = field(default_factory=dict)  # the first of rows that are much alike


@dataclass(slots=True)
class Batch:
    """The decisions of one batch. `again`: a resubmit, by the gateway that may have had the message."""

    having: Resources
    known: Known
    recent: Counter[tuple[str, str]]
    again: bool = False
    _texts: dict[tuple[str, str, Category], _Text] = field(default_factory=dict)
    _kinds: dict[tuple[object, ...], int] = field(default_factory=dict)  # of texts
    _forms: dict[tuple[object, ...], _Form] = field(default_factory=dict)
    _ways: dict[tuple[object, ...], Ways] = field(default_factory=dict)

    def decide(self, candidate: Candidate, opened: Opened) -> Decision:
        known, subject_id, sender_id = self.known, candidate.subject_id, candidate.sender_id
        number, content, flaw, stop_link, foreign_link = opened
        sender = known.senders.get(sender_id)
        gone = subject_id in known.erased and self._is_gone(candidate, sender)
        if candidate.template in known.retired:
            flaw = flaw or Reason.TEMPLATE_RETIRED
        elif foreign_link:
            flaw = flaw or Reason.FOREIGN_LINK
        territory = territory_of(number)
        if territory not in FRENCH and sender is not None and not self._may_go_to(candidate, territory, sender, number):
            flaw = flaw or Reason.PLACE_NOT_ALLOWED
        subject = known.subjects.get(subject_id)
        blocked = known.blocks.get(subject_id, NONE)
        said = content, sender_id, candidate.category
        if (text := self._texts.get(said)) is None:
            text = self._texts[said] = self._read(content, candidate.category, sender)
        like = (
            *(sender_id, candidate.category, candidate.purpose, candidate.campaign_id, candidate.template),
            *(candidate.requested_at, candidate.send_before, candidate.region, territory),
            *(flaw, stop_link, gone, blocked, text.kind),
            candidate.gateway if self.again else None,
        )
        if (form := self._forms.get(like)) is None:
            form = self._forms[like] = self._form(candidate, sender, text, territory, flaw, blocked, opened, gone=gone)
        gateway = candidate.gateway if self.again else form.ways.of(candidate.message_id)
        if blocked and candidate.category != "marketing" and gateway in blocked:
            form = self._blocked(form)
        recent = self.recent.get((subject_id, sender_id), 0)
        if subject is not None:
            verdict, facts = _verdict(form, subject, recent)
        elif (told := form.of_unknown.get(recent)) is not None:
            verdict, facts = told
        else:
            verdict, facts = form.of_unknown[recent] = _verdict(form, None, recent)
        if gateway is None and type(verdict) is Allow:
            verdict = _no_way(candidate, form.ways, known.now)
        charged = None
        if candidate.is_limited and not candidate.charged and sender_id in known.purses:
            verdict, charged = self._charged(candidate, verdict)
        allowed = type(verdict) is Allow
        parts, cost = None, None
        if allowed:
            assert sender is not None
            assert gateway is not None
            if (parts := text.segments.get(gateway)) is None:
                sends = self.having.traffic.gateways[gateway].capabilities
                parts = segments(sends.as_sent(content, candidate.category, sender.stop_code))
                text.segments[gateway] = parts
            if parts not in form.costs:
                form.costs[parts] = cost_of(self.having.prices, candidate, territory, parts, known.now)
            cost = form.costs[parts]
        row = self._row(
            candidate,
            verdict,
            form,
            consent_version=None if subject is None else subject.version,
            facts=facts,
            gateway=gateway if allowed else None,
            segments=parts,
            cost=cost,
            charged=candidate.charged or charged is not None,
        )
        permit = None
        if allowed:
            assert sender is not None
            assert gateway is not None
            ends, controller = gate.ends(form.request, subject), form.controller
            lapses, until = known.lapses, known.until
            permit = Permit(
                candidate,
                number,
                content,
                sender.oadc,
                sender.stop_code,
                gateway,
                until if ends >= lapses else until - (lapses - ends).total_seconds(),
                row,
                form.deliver_by,
                again=self.again,
                lacks_stop=form.lacks_stop,
                to_stopped=controller is not None and gate.stopped_at(subject, controller) is not None,
            )
            if candidate.category == "marketing":
                self.recent[subject_id, sender_id] += 1
        return Decision(candidate, verdict, row, permit, charged, form.shared)

    # --- once for many messages

    def _form(
        self,
        candidate: Candidate,
        sender: Sender | None,
        text: _Text,
        territory: str,
        flaw: Reason | None,
        blocked: frozenset[str],
        opened: Opened,
        *,
        gone: bool,
    ) -> _Form:
        traffic, policy, known = self.having.traffic, self.having.policy, self.known
        category, region = candidate.category, candidate.region
        works = opened.stop_link and can_stop(territory, policy, code=False, link=True, region=region)
        lacks_stop = text.lacks_code and not works
        unfit = text.unfit_alone if lacks_stop else text.unfit
        like = candidate.sender_id, category, territory, unfit, blocked
        if (ways := self._ways.get(like)) is None:
            ways = self._ways[like] = traffic.ways(
                territory=territory,
                sender_id=candidate.sender_id,
                oadc=sender.oadc if sender else "",
                category=category,
                unfit=unfit,
                blocked=blocked,
            )
        # a gateway that adds the missing mention counts even while its breaker is open: no denial for that
        added = lacks_stop and (candidate.gateway in traffic.adding_stop if self.again else ways.exist)
        request = Request(
            category=category,
            sender_id=candidate.sender_id,
            purpose=candidate.purpose,
            campaign_id=candidate.campaign_id,
            requested_at=candidate.requested_at,
            send_before=candidate.send_before,
            territory=territory,
            mentions_stop=sender is not None and (added or not text.lacks_code),
            flaw=flaw,
            erased=gone,
            region=region,
            mark=text.mark,
            stop_link=opened.stop_link,
            courtesy=category == "service" and candidate.template is not None,
        )
        about = Knowledge(
            as_of=known.as_of,
            subject=None,
            purposes=sender.purposes if sender else None,
            countries=sender.countries if sender else NONE,
            reachable_in=sender.reachable_in if sender else NONE,
            control=known.controls.get(candidate.campaign_id) if candidate.campaign_id else None,
            blocked=bool(blocked) and category == "marketing",
        )
        is_code = candidate.template is not None and candidate.lane is Lane.TRANSACTIONAL
        shared = record.encode_shared(request, about, self.having.limits)
        prepared = gate.prepare(request, about, known.now, self.having.limits, policy)
        return _Form(
            request,
            about,
            prepared,
            shared,
            shared_id(shared),
            ways,
            lacks_stop,
            None if any(prepared.denials) else gate.deliver_by(request, known.now, policy),
            known.controllers.get(candidate.sender_id) if is_code else None,
        )

    def _blocked(self, form: _Form) -> _Form:
        """Return the form of a message whose own gateway blocks the person."""
        known = structs.replace(form.known, blocked=True)
        prepared = gate.prepare(form.request, known, self.known.now, self.having.limits, self.having.policy)
        return replace(form, known=known, prepared=prepared, of_unknown={}, rows={})

    def _read(self, content: str, category: Category, sender: Sender | None) -> _Text:
        lacks_code = sender is not None and lacks_a_mention(category, content, sender.stop_code)
        unfit = self.having.traffic.unfit(content)
        alone = self.having.traffic.unfit(content, lacks_stop=True) if lacks_code else unfit
        properties = lacks_code, mark_of(content, self.having.policy), unfit, alone
        return _Text(self._kinds.setdefault(properties, len(self._kinds)), *properties)

    # --- rarer steps

    def _is_gone(self, candidate: Candidate, sender: Sender | None) -> bool:
        asked = erasing.concerning(self.known.erased[candidate.subject_id], sender.controller if sender else None)
        return _not_to_be_kept(candidate, asked)

    def _may_go_to(self, candidate: Candidate, territory: str, sender: Sender, number: str) -> bool:
        """Return whether the limits of the sender's organisation open the place. An unreadable number has no place."""
        budget = self.having.budget
        if not number or budget is None or not candidate.is_limited:
            return True
        return budget.limited.of(sender.organisation_id).allow(territory)

    def _charged(self, candidate: Candidate, verdict: Verdict) -> tuple[Verdict, tuple[Purse, int] | None]:
        """Charge a message that the verdict accepts; or return the verdict on a message over a limit."""
        if not _is_charged_by(verdict):
            return verdict, None
        purse, cost = self.known.purses[candidate.sender_id], self.known.highest.get(candidate.message_id, 0)
        if purse.take_prepaid() or (over := purse.pay_from_leases(cost)) is None:
            return verdict, (purse, cost or 0)
        return _over(over, verdict, candidate, self.known.now), None

    def _row(
        self,
        candidate: Candidate,
        verdict: Verdict,
        form: _Form,
        *,
        consent_version: int | None,
        facts: str,
        gateway: str | None,
        segments: int | None,
        cost: int | None,
        charged: bool,
    ) -> MessageRow:
        """Return the row, without the number and the text of a message that nobody will send."""
        reasons: tuple[Reason, ...] = ()
        due: datetime | None = None
        match verdict:
            case Allow():
                status = Status.SENDING
            case Deny(reasons=found):
                status, reasons = Status.DENIED, found
            case Defer(reasons=found, until=until):
                status, reasons, due = Status.DEFERRED, found, until
            case Expire(reasons=found):
                status, reasons = Status.EXPIRED, found
        is_over = status in (Status.DENIED, Status.EXPIRED)
        number, content = (None, None) if is_over else (candidate.number, candidate.text)
        like = status, reasons, due, gateway, segments, cost, charged, candidate.version, candidate.partition
        if (first := form.rows.get(like)) is not None:  # a fourth of the time
            return structs.replace(
                first,
                message_id=candidate.message_id,
                subject_id=candidate.subject_id,
                number=number,
                text=content,
                consent_version=consent_version,
                facts=facts,
            )
        row = form.rows[like] = MessageRow(
            message_id=candidate.message_id,
            status=status,
            reasons=reasons,
            campaign_id=candidate.campaign_id,
            sender_id=candidate.sender_id,
            purpose=candidate.purpose,
            category=candidate.category,
            subject_id=candidate.subject_id,
            partition=candidate.partition,
            number=number,
            text=content,
            requested_at=candidate.requested_at,
            send_before=candidate.send_before,
            version=candidate.version + 1,
            policy_version=self.having.policy.version,
            due_at=due,
            consent_version=consent_version,
            as_of=self.known.as_of,
            decided_at=self.known.now,
            region=candidate.region,
            facts=facts,
            gateway=gateway,
            template=candidate.template,
            segments=segments,
            cost=cost,
            prices=None if segments is None else self.having.prices.version,
            charged=charged,
            shared_id=form.shared_id,
        )
        return row


def _verdict(form: _Form, subject: Subject | None, recent: int) -> tuple[Verdict, str]:
    """Return the gate's verdict, with the message's own part of its record: routes are not law."""
    verdict = gate.decide_for(form.prepared, subject, recent)
    return verdict, shortened(record.encode_own(form.request, form.known, subject, recent, verdict, form.controller))


def lacks_a_mention(category: Category, text: str, stop_code: str) -> bool:
    """Return whether a marketing text lacks the STOP mention."""
    return category == "marketing" and not mentions_stop(text, stop_code)


def cost_of(prices: Prices, candidate: Candidate, territory: str, segments: int, now: datetime) -> int | None:
    """Return the cost at the price in force now, within a permit of the submit."""
    return prices.cost(territory, segments, at=now, category=candidate.category, sender_id=candidate.sender_id)


def _no_way(candidate: Candidate, ways: Ways, now: datetime) -> Defer:
    """Return the delay of an allowed message without a gateway."""
    reason = Reason.GATEWAY_NEEDS_SOMEBODY if ways.needs_somebody else Reason.GATEWAY_UNREACHABLE
    until = ways.again(now)
    if not ways.exist:
        reason, until = Reason.NO_ROUTE, now + NO_ROUTE_RECHECK
        NO_ROUTE.inc()
    return Defer((reason,), min(until, candidate.send_before))


def _is_charged_by(verdict: Verdict) -> bool:
    """Return whether the verdict accepts the message; while the gate's knowledge is behind, a denial may follow."""
    match verdict:
        case Allow():
            return True
        case Defer(reasons=reasons):
            return Reason.KNOWLEDGE_BEHIND not in reasons
        case _:
            return False


def _over(over: Over, verdict: Verdict, candidate: Candidate, now: datetime) -> Verdict:
    """Return the verdict on a message over a limit: a delay, or a denial where the limit opens too late.

    The first refusal of a window is a short delay in any case: other processes may hold the rest as leases. A lease
    that is late or too small is no refusal, nor is a window that has ended before the decision.
    """
    if over.until is None:
        return Deny((over.reason,))
    reason = over.reason
    if over.short or over.until <= now:
        reason, wait = Reason.NO_LEASE, SHORT_RECHECK
    elif not _lasts(over, candidate):
        wait = FIRST_RECHECK
    elif over.until >= candidate.send_before:
        return Deny((over.reason,))
    else:
        wait = LIMIT_RECHECK
    until = min(over.until, now + wait, candidate.send_before)
    if isinstance(verdict, Defer):
        return Defer((*verdict.reasons, reason), max(verdict.until, until))
    return Defer((reason,), until)


def _lasts(over: Over, candidate: Candidate) -> bool:
    """Return whether the verdict before was a refusal by the same limit in the same window."""
    if over.reason not in candidate.reasons or candidate.decided_at is None:
        return False
    return over.since is not None and candidate.decided_at >= over.since


def _not_to_be_kept(candidate: Candidate, asked: Asked | None) -> bool:
    """Return whether the request precedes the erasure that concerns it, or is marketing without a lift since."""
    if asked is None:
        return False
    return candidate.requested_at <= asked.at or (candidate.category == "marketing" and not asked.lifted)
