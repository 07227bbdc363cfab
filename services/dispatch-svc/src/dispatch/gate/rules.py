"""The gate: may this message go now? Pure: values in, a verdict with all reasons out; `now` is an argument.

A denial outranks every delay. Every reason counts, so that support can answer "why did she not get it?". Marketing
needs a current opt-in for its sender and purpose, with evidence, read from knowledge fresher than `max_staleness`.
Unknown, unreadable, stale or contradictory knowledge never sends (README, promises 1 and 2). Transactional and service
messages need a known sender and an unexpired request, and no consent (DOMAIN 1.10). A service message requested over
HTTP waits for its courtesy hours; an answer to the person, and a transactional message, go at any hour. A service
message with a purpose asks for a consent, or for its renewal: consent-svc decides that the person may be asked, and
later words of the person may forbid the question.
"""

from collections.abc import Collection, Iterator
from datetime import datetime

import msgspec

from common.contracts import consent_rule
from common.contracts.campaign import Category, Control
from common.contracts.consent import Consent, Suppression
from common.contracts.consent_rule import OF_OTHERS, Against
from common.law import (
    Aspect,
    Policy,
    begins_with,
    closed_abroad,
    closed_by,
    closes_after,
    country_of,
    covers,
    next_permitted,
)
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits, is_fresh


class Allow(msgspec.Struct, frozen=True, gc=False): ...


class Deny(msgspec.Struct, frozen=True, gc=False):
    reasons: tuple[Reason, ...]


class Defer(msgspec.Struct, frozen=True, gc=False):
    reasons: tuple[Reason, ...]
    until: datetime


class Expire(msgspec.Struct, frozen=True, gc=False):
    """`send_before` has passed, whatever else holds."""

    reasons: tuple[Reason, ...] = (Reason.SEND_BEFORE_PASSED,)


Verdict = Allow | Deny | Defer | Expire


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request for one message.

    `territory` comes from the number, `region` from an address. `mentions_stop`: the text has the STOP mention, or the
    gateway adds it. `stop_link`: the text has the person's valid stop link. `mark`: the longest advertising mark of any
    known law that begins the text. `flaw`: a reason in the request itself. `erased`: an erasure concerns the request.
    `courtesy`: courtesy hours apply.
    """

    category: Category
    sender_id: str
    purpose: str | None
    campaign_id: str | None
    requested_at: datetime
    send_before: datetime
    territory: str
    mentions_stop: bool
    flaw: Reason | None = None
    erased: bool = False
    region: str | None = None
    mark: str | None = None
    stop_link: bool = False
    courtesy: bool = False

    @property
    def is_question(self) -> bool:
        return self.category == "service" and self.purpose is not None


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The projection's knowledge of a person; absent when no event named the person."""

    version: int
    consents: tuple[Consent, ...]
    suppressions: tuple[Suppression, ...]
    erased: bool
    unreadable: bool
    held_since: datetime | None = None  # their text may mean STOP and awaits a review


class Knowledge(msgspec.Struct, frozen=True, gc=False):
    """The knowledge behind a decision; marketing and questions read consents under the partition's lock."""

    as_of: datetime | None
    subject: Subject | None
    purposes: frozenset[str] | None  # `None`: unknown sender
    countries: frozenset[str]  # where the sender may send marketing
    control: Control | None  # `None`: not arrived
    reachable_in: frozenset[str] = frozenset()  # where the sender states that its code is reachable
    blocked: bool = False  # by the gateway's provider; for marketing, by any
    recent: int = 0  # marketing of this sender within `cap_window`


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """The part of a decision that is equal for each person: a batch prepares a request once, and decides for many.

    `denials`: the reasons before and after the frequency cap. `delays`: (reason, until) before and after a review.
    """

    request: Request
    known: Knowledge  # its person does not count
    at: datetime
    limits: Limits
    expired: bool
    denials: tuple[tuple[Reason, ...], tuple[Reason, ...]]
    delays: tuple[tuple[tuple[Reason, datetime], ...], tuple[tuple[Reason, datetime], ...]]


def decide(request: Request, known: Knowledge, now: datetime, limits: Limits, policy: Policy) -> Verdict:
    """Decide whether a message may be handed off at `now` (aware)."""
    return decide_for(prepare(request, known, now, limits, policy), known.subject, known.recent)


def prepare(request: Request, known: Knowledge, now: datetime, limits: Limits, policy: Policy) -> Prepared:
    """Return the part of a decision that does not need the person."""
    if now >= request.send_before:
        return Prepared(request, known, now, limits, True, ((), ()), ((), ()))
    denials = tuple(denials_of_request(request, known, now, policy)), tuple(denials_of_text(request, known))
    delays = tuple(delays_of_knowledge(request, known, now, limits)), tuple(delays_of_hours(request, now, policy))
    return Prepared(request, known, now, limits, False, denials, delays)


def decide_for(prepared: Prepared, subject: Subject | None, recent: int) -> Verdict:
    """Decide for one person. `recent`: marketing of this sender within `cap_window`."""
    if prepared.expired:
        return Expire()
    denials = denials_for(prepared, subject, recent)
    if denials:
        request, now = prepared.request, prepared.at
        if _may_only_be_behind(denials, request, prepared.known, now, prepared.limits):
            return Defer((Reason.KNOWLEDGE_BEHIND,), min(now + prepared.limits.recheck, request.send_before))
        return Deny(denials)
    early, late = prepared.delays
    if early or late or (subject is not None and subject.held_since is not None):
        delays = (*early, *_delays_of_review(prepared, subject), *late)
        if delays:
            latest = max(until for _, until in delays)
            return Defer(tuple(reason for reason, _ in delays), min(latest, prepared.request.send_before))
    return Allow()


def denials_for(prepared: Prepared, subject: Subject | None, recent: int) -> tuple[Reason, ...]:
    """Return every reason to deny the message, in order."""
    return (
        *prepared.denials[0],
        *_denials_of_frequency(prepared, recent),
        *prepared.denials[1],
        *denials_of_person(prepared.request, prepared.known, subject, prepared.at),
    )


def stopped_at(subject: Subject | None, controller: Collection[str]) -> datetime | None:
    """Return when the person told one of the controller's senders to stop, and has not opted in there since.

    A suppression names the sender of the STOP alone (ADR-0020), and outlives a newer opt-in.
    """
    if subject is None:
        return None
    stopped: datetime | None = None
    for stop in subject.suppressions:
        if stop.sender_id is not None and stop.sender_id not in controller:
            continue
        named = controller if stop.sender_id is None else (stop.sender_id,)
        returned = any(
            c.state == "opted_in" and c.sender_id in named and c.occurred_at > stop.since for c in subject.consents
        )
        if not returned and (stopped is None or stop.since > stopped):
            stopped = stop.since
    return stopped


def ends(request: Request, subject: Subject | None) -> datetime:
    """Return the instant from which an allowed message is no longer allowed, as far as known.

    `law.at_hand_off` already closes the hours early.
    """
    end = request.send_before
    if request.category == "marketing" and subject is not None:
        for c in subject.consents:
            until = c.expires_at
            if until is not None and until < end and (c.sender_id, c.purpose) == (request.sender_id, request.purpose):
                end = until
    return end


def deliver_by(request: Request, now: datetime, policy: Policy) -> datetime | None:
    """Return when the hours end in which an allowed marketing message may reach the person, if within a day."""
    if request.category != "marketing":
        return None
    return closes_after(now, request.territory, policy, region=request.region)


def denials_of_request(request: Request, known: Knowledge, now: datetime, policy: Policy) -> Iterator[Reason]:
    """Yield the reasons that stand before the frequency cap."""
    if request.flaw is not None:
        yield request.flaw
    if request.erased:
        yield Reason.ERASED
    if known.purposes is None:
        yield Reason.UNKNOWN_SENDER
    if known.control == "cancelled":
        yield Reason.CAMPAIGN_CANCELLED
    if known.blocked:
        yield Reason.PROVIDER_BLOCK  # any category: the provider charges and does not deliver
    if request.category == "marketing" and request.flaw is None:
        yield from denials_of_place(request, known, now, policy)


def denials_of_place(request: Request, known: Knowledge, now: datetime, policy: Policy) -> Iterator[Reason]:
    if not covers(request.territory, policy):
        yield Reason.COUNTRY_NOT_COVERED
        return
    country = country_of(request.territory, policy)
    if country is not None and known.purposes is not None and country not in known.countries:
        yield Reason.SENDER_NOT_ALLOWED_THERE
    for reason in closed_abroad(
        now,
        request.territory,
        policy,
        code=request.mentions_stop,
        link=request.stop_link,
        reachable_in=known.reachable_in,
        region=request.region,
    ):
        yield Reason(reason.value)
    marks = begins_with(now, request.territory, policy, region=request.region)
    if marks and not all((request.mark or "").startswith(mark) for mark in marks):
        yield Reason.ADVERTISING_MARK_MISSING


def denials_of_text(request: Request, known: Knowledge) -> Iterator[Reason]:
    """Yield the reasons in the purpose and the text of marketing."""
    if request.category != "marketing":
        return
    if request.purpose is None:
        yield Reason.NO_PURPOSE
    elif known.purposes is not None and request.purpose not in known.purposes:
        yield Reason.UNKNOWN_PURPOSE
    if not request.mentions_stop and not request.stop_link and request.flaw is None:
        yield Reason.STOP_MENTION_MISSING


def _denials_of_frequency(prepared: Prepared, recent: int) -> tuple[Reason, ...]:
    cap = prepared.limits.cap
    if cap is None or recent < cap or prepared.request.category != "marketing":
        return ()
    return (Reason.FREQUENCY_CAP,)


def denials_of_person(request: Request, known: Knowledge, subject: Subject | None, now: datetime) -> Iterator[Reason]:
    """Yield the reasons of one person."""
    if request.category == "marketing":
        for against in consent_rule.denials(subject, request.sender_id, request.purpose, now):
            if not (against is Against.ERASED and request.erased):  # said already
                yield Reason(against.value)
    elif request.is_question:
        yield from question_denials(request, known, subject)


def question_denials(request: Request, known: Knowledge, subject: Subject | None) -> Iterator[Reason]:
    """Yield the reasons against a question.

    Only a STOP or an expiry at least as new as the question forbids the question: a newer question follows a newer
    form, or asks to renew an ended consent. A STOP by text is as new as its arrival (ADR-0060): its operator's clock
    may be slow.
    """
    if known.purposes is not None and request.purpose not in known.purposes:
        yield Reason.UNKNOWN_PURPOSE
    if subject is None:
        yield Reason.NO_CONSENT
        return
    if subject.unreadable:
        yield Reason.CONSENT_UNREADABLE
    consent = consent_rule.consent_for(subject.consents, request.sender_id, request.purpose)
    stops = [s.since for s in subject.suppressions if s.sender_id in (None, request.sender_id)]
    if consent is None and not stops:
        yield Reason.NO_CONSENT
    elif consent is not None and (consent.stopped_at or consent.occurred_at) >= request.requested_at:
        if consent.state == "expired":
            yield Reason.CONSENT_EXPIRED  # the pending request has lapsed, or the consent to renew has ended
        elif consent.state == "opted_out":
            yield Reason.OPTED_OUT
    if any(since >= request.requested_at for since in stops):
        yield Reason.SUPPRESSED


def delays_of_knowledge(
    request: Request, known: Knowledge, now: datetime, limits: Limits
) -> Iterator[tuple[Reason, datetime]]:
    """Yield (reason, until) of the campaign's control and the age of consents."""
    if request.campaign_id is not None:
        if known.control == "paused":
            yield Reason.CAMPAIGN_PAUSED, now + limits.paused_recheck
        elif known.control is None:
            yield Reason.CAMPAIGN_UNKNOWN, now + limits.recheck
    if _needs_consent(request) and not is_fresh(known.as_of, now, limits):
        yield Reason.CONSENT_STALE, now + limits.recheck


def _delays_of_review(prepared: Prepared, subject: Subject | None) -> Iterator[tuple[Reason, datetime]]:
    if subject is not None and subject.held_since is not None and _needs_consent(prepared.request):
        yield Reason.UNDER_REVIEW, prepared.at + prepared.limits.review_recheck


def _needs_consent(request: Request) -> bool:
    return request.category == "marketing" or request.is_question


def delays_of_hours(request: Request, now: datetime, policy: Policy) -> Iterator[tuple[Reason, datetime]]:
    """Yield (reason, until) of the hours and days that the message keeps."""
    hours = hours_of(request, policy)
    if hours is not None:
        territory, region = request.territory, request.region
        opens = next_permitted(now, territory, hours, region=region, before=request.send_before)
        if opens != now:
            against = dict.fromkeys(closure.aspect for closure in closed_by(now, territory, hours, region=region))
            yield from ((CLOSED[aspect], opens or request.send_before) for aspect in against)


def hours_of(request: Request, policy: Policy) -> Policy | None:
    """Return the policy whose hours the message keeps, if any. A place without rules has no courtesy hours."""
    if request.category == "marketing":
        return policy
    hours = policy.courtesy if request.courtesy else None
    return hours if hours is not None and covers(request.territory, hours) else None


CLOSED = {
    Aspect.HOURS: Reason.QUIET_HOURS,
    Aspect.WEEKDAY: Reason.CLOSED_WEEKDAY,
    Aspect.HOLIDAY: Reason.PUBLIC_HOLIDAY,
}


def _may_only_be_behind(
    denials: tuple[Reason, ...], request: Request, known: Knowledge, now: datetime, limits: Limits
) -> bool:
    """Return whether knowledge as new as the request could allow the message. Turns a denial into a delay only.

    Evidence acknowledged before the request must count, but may not have arrived: consent until the watermark passes
    `requested_at`, the sender registry (without a watermark) for a short grace. A question is requested before the
    commit that records its cause, and a watermark may pass `requested_at` before the record arrives: questions also get
    the grace. A reason of OF_OTHERS beside another changes nothing: a message to a person known to others alone waits
    as long as one to an unknown person.
    """
    open_to_cure = {reason for reason in denials if reason not in OF_OTHERS}
    curable: frozenset[Reason] = frozenset()
    if known.as_of is None or known.as_of < request.requested_at:
        curable |= CURED_BY_CONSENT
    if now < request.requested_at + limits.registry_grace:
        curable |= CURED_BY_REGISTRY | (CURED_BY_REQUEST if request.is_question else frozenset())
    return bool(open_to_cure) and open_to_cure <= curable


CURED_BY_CONSENT = frozenset(
    (
        Reason.NO_CONSENT,
        Reason.CONSENT_PENDING,
        Reason.CONSENT_EXPIRED,
        Reason.OPTED_OUT,
        Reason.SUPPRESSED,
    )
)
CURED_BY_REQUEST = frozenset((Reason.NO_CONSENT,))
CURED_BY_REGISTRY = frozenset(
    (
        Reason.UNKNOWN_SENDER,
        Reason.UNKNOWN_PURPOSE,
        Reason.STOP_MENTION_MISSING,
        Reason.NO_MEANS_TO_STOP_THERE,
        Reason.SENDER_NOT_ALLOWED_THERE,
    )
)
