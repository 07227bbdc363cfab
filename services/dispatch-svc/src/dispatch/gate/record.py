"""The decision record: the knowledge behind a decision, stored with it, small, without number or text. Pure.

With the ledger's own columns, a record suffices to decide again years later. Of a person the record keeps only the
consent for the message and the newest opt-out that covers the message.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from common.contracts.campaign import Category, Control
from common.contracts.consent import Basis, Consent, State, Suppression
from common.law import Policy
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Subject, Verdict, decide, stopped_at
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits

ANOTHER = ""  # stands for another sender: no sender has this id


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True): ...


class Standing(_Kept, frozen=True):
    """The consent for the sender and purpose of the message.

    `reopening_rule`: the sender's rule on which the consent rests after a STOP.
    """

    state: State
    at: datetime
    basis: Basis | None = None
    proven: bool = False
    until: datetime | None = None
    reopening_rule: str | None = None
    stopped: datetime | None = None


class Person(_Kept, frozen=True):
    """The person behind the decision.

    `elsewhere`: opted in to another sender. `stopped`: the newest opt-out that covers this sender; of a code or notice
    requested over HTTP, the newest STOP that the person told the controller and has not taken back.
    """

    consent: Standing | None = None
    elsewhere: bool = False
    stopped: datetime | None = None
    erased: bool = False
    unreadable: bool = False
    held: datetime | None = None


class Bounds(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The limits at the decision, in seconds, and the cap."""

    max_staleness: float
    max_clock_skew: float
    recheck: float
    registry_grace: float
    paused_recheck: float
    review_recheck: float
    cap: int | None
    cap_window: float


class Told(_Kept, frozen=True):
    """The verdict, unless `allow`."""

    verdict: str
    reasons: tuple[Reason, ...] = ()
    until: datetime | None = None


class Shared(_Kept, frozen=True, kw_only=True):
    """The part of a record that is mostly equal for the messages of a batch. The ledger keeps the part once.

    `stop`, `link`: the means to stop in the text. `stated`: where the sender states that its code is reachable. `mark`
    is the mark under any law, so that another edition can decide. `sender`: whether the purpose was known. `limits`:
    the encoded `Bounds`.
    """

    limits: msgspec.Raw
    stop: bool = False
    link: bool = False
    mark: str | None = None
    courtesy: bool = False
    sender: bool | None = None
    countries: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    control: Control | None = None


class Own(_Kept, frozen=True, kw_only=True):
    """The message's own part of a record. `erased`: an erasure concerned the request."""

    to: str
    region: str | None = None
    flaw: Reason | None = None
    erased: bool = False
    person: Person | None = None
    blocked: bool = False
    recent: int = 0
    told: Told | None = None


class Record(NamedTuple):
    """The record of one decision. As stored, the fields of both parts stand in one JSON object."""

    shared: Shared
    own: Own


class Row(Protocol):
    """The columns of a message that a decision reads."""

    category: Category
    sender_id: str
    purpose: str | None
    campaign_id: str | None
    requested_at: datetime
    send_before: datetime
    decided_at: datetime
    as_of: datetime | None


_encoder = msgspec.json.Encoder()
_shared_decoder = msgspec.json.Decoder(Shared)
_own_decoder = msgspec.json.Decoder(Own)
_bounds_decoder = msgspec.json.Decoder(Bounds)


def encode_shared(request: Request, known: Knowledge, limits: Limits) -> str:
    """Return the shared part: nothing of the person."""
    return _encoder.encode(
        Shared(
            stop=request.mentions_stop,
            link=request.stop_link,
            mark=request.mark,
            courtesy=request.courtesy,
            sender=None if known.purposes is None else request.purpose in known.purposes,
            countries=_in_order(known.countries),
            stated=_in_order(known.reachable_in),
            control=known.control,
            limits=_bounds(limits),
        )
    ).decode()


def encode_own(
    request: Request,
    known: Knowledge,
    subject: Subject | None,
    recent: int,
    verdict: Verdict,
    controller: Collection[str] | None = None,
) -> str:
    """Return the message's own part. The person is `subject`, not the one in `known`.

    `controller`: its senders, of a code or notice requested over HTTP (`rules.stopped_at`).
    """
    return _encoder.encode(
        Own(
            to=request.territory,
            region=request.region,
            flaw=request.flaw,
            erased=request.erased,
            person=None if subject is None else _person(request, subject, controller),
            blocked=known.blocked,
            recent=recent,
            told=None if type(verdict) is Allow else _told(verdict),
        )
    ).decode()


def decode(kept: str) -> Record:
    """Return the record. Raise msgspec.DecodeError."""
    return Record(_shared_decoder.decode(kept), _own_decoder.decode(kept))


def decide_again(record: Record, row: Row, policy: Policy) -> Verdict:
    """Return the gate's verdict under this policy (as `at_hand_off` gives it), at the decision's instant."""
    return decide(asked(record, row), knew(record, row), row.decided_at, bounds(record), policy)


def asked(record: Record, row: Row) -> Request:
    shared, own = record
    return Request(
        category=row.category,
        sender_id=row.sender_id,
        purpose=row.purpose,
        campaign_id=row.campaign_id,
        requested_at=row.requested_at,
        send_before=row.send_before,
        territory=own.to,
        mentions_stop=shared.stop,
        flaw=own.flaw,
        erased=own.erased,
        region=own.region,
        mark=shared.mark,
        stop_link=shared.link,
        courtesy=shared.courtesy,
    )


def knew(record: Record, row: Row) -> Knowledge:
    shared, own = record
    purposes = None
    if shared.sender is not None:
        purposes = frozenset({row.purpose} if shared.sender and row.purpose is not None else ())
    return Knowledge(
        as_of=row.as_of,
        subject=_subject(own.person, row) if own.person is not None else None,
        purposes=purposes,
        countries=frozenset(shared.countries),
        reachable_in=frozenset(shared.stated),
        control=shared.control,
        blocked=own.blocked,
        recent=own.recent,
    )


def bounds(record: Record) -> Limits:
    kept = _bounds_decoder.decode(record.shared.limits)
    return Limits(
        max_staleness=timedelta(seconds=kept.max_staleness),
        max_clock_skew=timedelta(seconds=kept.max_clock_skew),
        recheck=timedelta(seconds=kept.recheck),
        registry_grace=timedelta(seconds=kept.registry_grace),
        paused_recheck=timedelta(seconds=kept.paused_recheck),
        review_recheck=timedelta(seconds=kept.review_recheck),
        cap=kept.cap,
        cap_window=timedelta(seconds=kept.cap_window),
    )


def verdict(record: Record) -> Verdict:
    match record.own.told:
        case None:
            return Allow()
        case Told(verdict="deny", reasons=reasons):
            return Deny(reasons)
        case Told(verdict="defer", reasons=reasons, until=datetime() as until):
            return Defer(reasons, until)
        case Told(verdict="expire", reasons=reasons):
            return Expire(reasons)
    raise ValueError("no verdict of ours")


def _person(request: Request, subject: Subject, controller: Collection[str] | None) -> Person:
    consent, elsewhere = None, False
    for each in subject.consents:
        if each.sender_id == request.sender_id:
            if each.purpose == request.purpose and consent is None:
                consent = each
        elif each.state == "opted_in":
            elsewhere = True
    stopped = None
    if controller is not None:
        stopped = stopped_at(subject, controller)
    elif subject.suppressions:
        stops = (s.since for s in subject.suppressions if s.sender_id in (None, request.sender_id))
        stopped = max(stops, default=None)
    return Person(
        consent=_standing(consent) if consent else None,
        elsewhere=elsewhere and consent is None,
        stopped=stopped,
        erased=subject.erased,
        unreadable=subject.unreadable,
        held=subject.held_since,
    )


def _standing(consent: Consent) -> Standing:
    return Standing(
        state=consent.state,
        at=consent.occurred_at,
        basis=consent.basis,
        proven=bool(consent.evidence_id),
        until=consent.expires_at,
        reopening_rule=consent.reopening_rule,
        stopped=consent.stopped_at,
    )


def _subject(person: Person, row: Row) -> Subject:
    consents: list[Consent] = []
    if (standing := person.consent) is not None:
        consents.append(_consent(row.sender_id, row.purpose or "", standing))
    if person.elsewhere:
        consents.append(_consent(ANOTHER, "", Standing(state="opted_in", at=row.requested_at)))
    stops = (Suppression(sender_id=row.sender_id, since=person.stopped),) if person.stopped is not None else ()
    return Subject(
        version=0,
        consents=tuple(consents),
        suppressions=stops,
        erased=person.erased,
        unreadable=person.unreadable,
        held_since=person.held,
    )


def _consent(sender_id: str, purpose: str, standing: Standing) -> Consent:
    return Consent(
        sender_id=sender_id,
        purpose=purpose,
        state=standing.state,
        basis=standing.basis,
        occurred_at=standing.at,
        evidence_id="kept" if standing.proven else "",
        expires_at=standing.until,
        reopening_rule=standing.reopening_rule,
        stopped_at=standing.stopped,
    )


@lru_cache(maxsize=1024)
def _in_order(places: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(places))


@lru_cache(maxsize=16)
def _bounds(limits: Limits) -> msgspec.Raw:
    bounds = Bounds(
        max_staleness=limits.max_staleness.total_seconds(),
        max_clock_skew=limits.max_clock_skew.total_seconds(),
        recheck=limits.recheck.total_seconds(),
        registry_grace=limits.registry_grace.total_seconds(),
        paused_recheck=limits.paused_recheck.total_seconds(),
        review_recheck=limits.review_recheck.total_seconds(),
        cap=limits.cap,
        cap_window=limits.cap_window.total_seconds(),
    )
    return msgspec.Raw(_encoder.encode(bounds))


def _told(found: Verdict) -> Told | None:
    match found:
        case Allow():
            return None
        case Deny(reasons=reasons):
            return Told(verdict="deny", reasons=reasons)
        case Defer(reasons=reasons, until=until):
            return Told(verdict="defer", reasons=reasons, until=until)
        case Expire(reasons=reasons):
            return Told(verdict="expire", reasons=reasons)
