"""Turn what services publish into events of the feed. Pure.

A sender is told of a person only if the person has a line of that sender, or stopped that sender: an event never tells
that another controller knows a number (ADR-0067).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter

import msgspec

from campaign.feed.event import Told, Type
from common.contracts.campaign import ContactImportFinished, StatusChanged
from common.contracts.consent import Consent, ConsentImportFinished, ConsentStateChanged, Suppression
from common.contracts.dispatch import MessageChanged
from common.contracts.rights import ErasureFinished
from common.sms.prices import euros

STATUS = {
    "start": Type.STARTED,
    "pause": Type.PAUSED,
    "resume": Type.RESUMED,
    "finish": Type.FINISHED,
    "cancel": Type.CANCELLED,
}
NEVER_SENT = ("denied", "rejected", "expired")
NOT_DELIVERED = ("failed", "expired", "opted_out")


class Standing(msgspec.Struct, frozen=True):
    """The last known state of a person."""

    consents: Sequence[Consent] = ()
    suppressions: Sequence[Suppression] = ()
    held: bool = False


class Line(msgspec.Struct, frozen=True):
    """A consent as a sender is told of it."""

    purpose: str
    state: str
    basis: str | None
    occurred_at: datetime
    expires_at: datetime | None


class _View(msgspec.Struct, frozen=True):
    """The part of a state that a sender may know."""

    lines: Sequence[Line] = ()
    stopped: bool = False
    since: datetime | None = None  # the newest suppression that counts

    @property
    def meaning(self) -> tuple[bool, frozenset[tuple[str, str]]]:
        return self.stopped, frozenset((line.purpose, line.state) for line in self.lines)

    def closed(self) -> set[str]:
        """Return the purposes that are closed by an opt-out; "" is every purpose."""
        shut = {line.purpose for line in self.lines if line.state == "opted_out"}
        return shut | ({""} if self.stopped else set())


def of_state(before: Standing, after: ConsentStateChanged, now: datetime) -> Iterator[Told]:
    """Yield what each sender is told of a person's new state, and of a review that began."""
    known = Standing(after.consents, after.suppressions, after.held_since is not None)
    for sender_id in sorted(_senders(known)):
        was, is_now = _view(before, sender_id), _view(known, sender_id)
        occasion = (after.subject_id, str(after.version))
        if was.meaning != is_now.meaning:
            opted_out = bool(is_now.closed() - was.closed())
            at = max([line.occurred_at for line in is_now.lines if line not in was.lines], default=is_now.since)
            yield Told(
                type=Type.OPTED_OUT if opted_out else Type.CONSENT_CHANGED,
                sender_id=sender_id,
                subject_id=after.subject_id,
                about=after.subject_id,
                occasion=occasion,
                at=at or now,
                version=after.version,
                data={
                    "consents": [msgspec.to_builtins(line) for line in is_now.lines],
                    "other_purposes_stopped": is_now.stopped,
                    "erased": after.erased,
                },
            )
        if after.held_since is not None and not before.held and is_now.lines:
            yield Told(
                type=Type.REVIEW_WAITING,
                sender_id=sender_id,
                subject_id=after.subject_id,
                about=after.subject_id,
                occasion=occasion,
                at=after.held_since,
                data={},
            )


def _senders(known: Standing) -> set[str]:
    return {c.sender_id for c in known.consents} | {s.sender_id for s in known.suppressions if s.sender_id is not None}


def _view(known: Standing, sender_id: str) -> _View:
    lines = tuple(
        Line(c.purpose, c.state, c.basis, c.occurred_at, c.expires_at)
        for c in sorted(known.consents, key=attrgetter("purpose"))
        if c.sender_id == sender_id
    )
    since = [s.since for s in known.suppressions if s.sender_id == sender_id or (s.sender_id is None and lines)]
    return _View(lines, bool(since), max(since, default=None))


def of_message(event: MessageChanged, now: datetime) -> Iterator[Told]:
    """Yield what a sender is told of a message: accepted, then delivered or failed, each once.

    A denied message has no reasons here: a reason may tell what other senders know. `GET /v1/messages/{id}` has those
    that the sender may see.
    """
    happened: list[tuple[Type, datetime | None]] = []
    if event.status == "accepted":
        happened.append((Type.ACCEPTED, event.handed_off_at))
    if event.receipt == "delivered":
        happened.append((Type.DELIVERED, event.receipt_at))
    elif event.receipt in NOT_DELIVERED:
        happened.append((Type.FAILED, event.receipt_at))
    elif event.status in NEVER_SENT:
        happened.append((Type.FAILED, event.decided_at))
    for kind, at in happened:
        yield Told(
            type=kind,
            sender_id=event.sender_id,
            subject_id=event.subject_id,
            about=event.subject_id,
            occasion=(event.message_id,),
            at=at or now,
            data={
                "message_id": event.message_id,
                "campaign_id": event.campaign_id,
                "category": event.category,
                "status": event.status,
                "receipt": event.receipt,
                "code": event.code,
                "segments": event.segments,
                "cost": None if event.cost is None else str(euros(event.cost)),
            },
        )


def of_enforcement(
    sender_id: str, subject_id: str, opt_out: str, version: int, received_at: datetime, enforced_at: datetime
) -> Told:
    """Return what a sender is told once its opt-out `opt_out`, an event's id, is enforced."""
    return Told(
        type=Type.ENFORCED,
        sender_id=sender_id,
        subject_id=subject_id,
        about=subject_id,
        occasion=(subject_id, str(version)),
        at=enforced_at,
        data={"opt_out": opt_out, "received_at": _told(received_at), "enforced_at": _told(enforced_at)},
    )


def of_status(event: StatusChanged) -> Told:
    return Told(
        type=STATUS[event.action],
        sender_id=event.sender_id,
        about=event.notice_id,
        occasion=(event.notice_id, _told(event.changed_at)),
        at=event.changed_at,
        data={"campaign_id": event.notice_id},
    )


def of_import(event: ContactImportFinished | ConsentImportFinished) -> Told | None:
    """Return what a sender is told of a finished import, or `None` if the import was about every sender."""
    if event.sender_id is None:
        return None
    if isinstance(event, ContactImportFinished):
        kind, given_up = "contacts", event.given_up
    else:
        kind, given_up = event.kind, False
    return Told(
        type=Type.IMPORT_FINISHED,
        sender_id=event.sender_id,
        about=event.notice_id,
        occasion=(event.notice_id,),
        at=event.finished_at,
        data={
            "import_id": event.notice_id,
            "kind": kind,
            "lines": event.lines,
            "refused": event.refused,
            "given_up": given_up,
        },
    )


def of_erasure(event: ErasureFinished, controllers: Sequence[str]) -> Iterator[Told]:
    """Yield what each of the controllers is told of a finished erasure.

    The id of an erasure of everything is the same for every controller, and stays with the platform's operator.
    """
    for controller in controllers:
        yield Told(
            type=Type.ERASURE_FINISHED,
            sender_id=None,
            controller=controller,
            subject_id=event.subject_id,
            about=event.subject_id,
            occasion=(event.notice_id,),
            at=event.finished_at,
            data={
                "erasure_id": None if event.controller_id is None else event.notice_id,
                "everything": event.controller_id is None,
            },
        )


def _told(at: datetime) -> str:
    return msgspec.to_builtins(at)  # type: ignore[no-any-return]  # RFC 3339, as in every answer
