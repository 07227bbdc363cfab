"""The one door to the gate: read the knowledge of a decision, and decide, under the partition's lock.

Consents, controls and counts are read under the lock; senders, provider blocks and erasures just before it, in the same
transaction.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import Category, MessageRequested
from common.db.timer import uptime_s
from common.keyring import FieldKeys, LinkKeys, SubjectKeys, Unreadable, owner_of
from common.law import Policy, can_stop, mark_of
from common.law.stop_mention import mentions_stop
from common.privacy import erasing
from common.privacy.erasing import Asked
from common.privacy.stop_link import has_foreign_link, has_stop_link
from common.sms.msisdn import territory_of
from common.telemetry import counter
from dispatch.gate import record, store
from dispatch.gate import rules as gate
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Verdict
from dispatch.gateways.pool import Traffic, Ways
from dispatch.lane import Lane, lane_of
from dispatch.messages import store as messages
from dispatch.messages.reasons import Reason
from dispatch.messages.row import FREE_TEXT, MessageRow
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.projection.limits import Limits
from dispatch.projection.store import Sender

VERDICTS = counter(
    "sms_dispatch_verdicts_total", "Decisions of the gate, by verdict and first reason.", ["verdict", "reason"]
)
NO_ROUTE = counter(
    "sms_dispatch_no_route_total",
    "Permitted messages without a gateway configured for their territory, sender, category and text.",
)

TURN = 50  # messages; then the event loop turns, so that a code does not wait for a whole campaign
NO_ROUTE_RECHECK = timedelta(minutes=5)  # the operator has to configure a route


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A message to decide on. `number` and `text` are encrypted."""

    message_id: UUID
    campaign_id: str | None
    sender_id: str
    purpose: str | None
    category: Category
    subject_id: str
    partition: int
    number: str
    text: str
    requested_at: datetime
    send_before: datetime
    gateway: str | None = None  # of the last decision
    region: str | None = None
    template: str | None = None  # only of a request over HTTP
    version: int = 0  # of the row; 0: no row yet

    @property
    def lane(self) -> Lane:
        return lane_of(self.category)


def requested(event: MessageRequested, partition: int) -> Candidate:
    """Return the candidate of a request. Raise ValueError for an id that is no UUID."""
    return Candidate(
        message_id=pgproto.UUID(event.message_id),  # asyncpg's UUID takes a tenth of the time
        campaign_id=event.campaign_id,
        sender_id=event.sender_id,
        purpose=event.purpose,
        category=event.category,
        subject_id=event.subject_id,
        partition=partition,
        number=event.number,
        text=event.text,
        requested_at=event.requested_at,
        send_before=event.send_before,
        region=event.region,
    )


def stored(row: MessageRow) -> Candidate:
    return Candidate(**{name: getattr(row, name) for name in Candidate.__struct_fields__})


class Permit(msgspec.Struct, frozen=True, gc=False):
    """An allowed message, decrypted, with the sender's particulars.

    A hand-off begins before `until` (`uptime_s`), or the message is decided again. `again`: the gateway may have had
    the message before, so the message goes by the same gateway or not at all, and is never `deferred`.
    """

    candidate: Candidate
    number: str
    text: str
    oadc: str
    stop_code: str
    gateway: str
    until: float
    row: MessageRow
    again: bool = False
    lacks_stop: bool = False  # the gateway has to add the STOP mention
    to_stopped: bool = False  # the person had stopped the sender, or its controller

    @property
    def decided_at(self) -> datetime:
        assert self.row.decided_at is not None, "a permit is of a decision"
        return self.row.decided_at

    def __repr__(self) -> str:  # omits number and text
        return f"Permit({self.candidate.message_id})"


class Decision(msgspec.Struct, frozen=True, gc=False):
    candidate: Candidate
    verdict: Verdict
    row: MessageRow
    permit: Permit | None


@dataclass(frozen=True, slots=True)
class Clearance:
    """The resources for decisions besides the database."""

    subject_keys: SubjectKeys
    field_keys: FieldKeys
    traffic: Traffic
    policy: Policy
    limits: Limits
    permit_ttl_s: float
    link_keys: LinkKeys | None = None  # without, no stop link counts
    # held while marketing is decided, taken before the partition's lock: opt-outs wait for running decisions, and wait
    # six times as long for six partitions at once
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)

    async def decide(
        self,
        tx: AsyncConnection,
        partition: int,
        candidates: Sequence[Candidate],
        *,
        locked: bool = False,
        again: bool = False,
    ) -> list[Decision]:
        """Decide on messages of one partition, and hold the partition's lock from then on. Store no row.

        `locked`: the caller holds the lock already, because the caller has locked the rows, and row locks come after
        the partition's.
        """
        opened = []
        for place, candidate in enumerate(candidates):  # before the lock: opt-outs need not wait for decryption
            opened.append(self._open(candidate))
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
        senders = await projection.senders(tx, {c.sender_id for c in candidates})
        linked = []
        for place, (candidate, (_, content, _)) in enumerate(zip(candidates, opened, strict=True)):
            linked.append(self._links(candidate, content, senders.get(candidate.sender_id)))
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
        blocks = await store.blocks(tx, [c.subject_id for c in candidates])
        erased = await erasing.asked_of(tx, {c.subject_id for c in candidates})
        named = {c.template for c in candidates if c.template is not None and c.template != FREE_TEXT}
        retired = named - await templates.approved(tx, named)
        codes = {c.sender_id for c in candidates if c.template is not None and c.lane is Lane.TRANSACTIONAL}
        controllers = await projection.controllers(tx, codes) if codes else {}
        if not locked:
            await messages.lock_partition(tx, partition, _lane_of_all(candidates))
        until = uptime_s() + self.permit_ttl_s  # before the read: no permit outlives its knowledge
        campaigns = {c.campaign_id for c in candidates if c.campaign_id}
        as_of = await projection.watermark(tx, partition, campaigns)
        subjects = await store.subjects(tx, [c.subject_id for c in candidates])
        controls = await store.controls(tx, campaigns)
        recent = await self._recent(tx, partition, candidates)
        now = datetime.now(UTC)
        lapses = now + timedelta(seconds=until - uptime_s())
        ways: dict[tuple[object, ...], Ways] = {}  # one per kind of message
        decisions = []
        for place, (candidate, (number, content, flaw), (stop_link, foreign_link)) in enumerate(
            zip(candidates, opened, linked, strict=True)
        ):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            if _not_to_be_kept(candidate, erased.get(candidate.subject_id)):
                flaw = Reason.ERASED
            elif candidate.template in retired:
                flaw = flaw or Reason.TEMPLATE_RETIRED
            elif foreign_link:
                flaw = flaw or Reason.FOREIGN_LINK
            sender = senders.get(candidate.sender_id)
            subject = subjects.get(candidate.subject_id)
            blocked = blocks.get(candidate.subject_id, frozenset())
            territory = territory_of(number)
            lacks_code = sender is not None and lacks_a_mention(candidate.category, content, sender.stop_code)
            lacks_stop = lacks_code and not (stop_link and self._link_works(territory, candidate.region))
            unfit = self.traffic.unfit(content, lacks_stop=lacks_stop)
            like = candidate.sender_id, candidate.category, territory, unfit, blocked
            if (open_ways := ways.get(like)) is None:
                oadc = sender.oadc if sender else ""
                open_ways = ways[like] = self._ways(candidate, territory, oadc, unfit, blocked)
            gateway = candidate.gateway if again else open_ways.of(candidate.message_id)
            # a gateway that adds the missing mention counts even while its breaker is open: no denial for that
            added = lacks_stop and (gateway in self.traffic.adding_stop if again else open_ways.exist)
            one = candidate.subject_id, candidate.sender_id
            request = Request(
                category=candidate.category,
                sender_id=candidate.sender_id,
                purpose=candidate.purpose,
                campaign_id=candidate.campaign_id,
                requested_at=candidate.requested_at,
                send_before=candidate.send_before,
                territory=territory,
                mentions_stop=sender is not None and (added or not lacks_code),
                flaw=flaw,
                region=candidate.region,
                mark=mark_of(content, self.policy),
                stop_link=stop_link,
                courtesy=candidate.category == "service" and candidate.template is not None,
            )
            known = Knowledge(
                as_of=as_of,
                subject=subject,
                purposes=sender.purposes if sender else None,
                countries=sender.countries if sender else frozenset(),
                reachable_in=sender.reachable_in if sender else frozenset(),
                control=controls.get(candidate.campaign_id) if candidate.campaign_id else None,
                blocked=bool(blocked) if candidate.category == "marketing" else gateway in blocked,
                recent=recent[one],
            )
            verdict = gate.decide(request, known, now, self.limits, self.policy)
            is_code = candidate.template is not None and candidate.lane is Lane.TRANSACTIONAL
            controller = controllers.get(candidate.sender_id) if is_code else None
            # the gate's verdict: routes are not law
            facts = record.encode(request, known, self.limits, verdict, controller)
            if isinstance(verdict, Allow) and gateway is None:
                verdict = _no_way(candidate, open_ways, now)
            allowed = isinstance(verdict, Allow)
            row = self._row(
                candidate,
                verdict,
                consent_version=subject.version if subject else None,
                as_of=as_of,
                now=now,
                gone=flaw is Reason.ERASED,
                facts=facts,
                gateway=gateway if allowed else None,
            )
            permit = None
            if allowed:
                assert sender is not None
                assert gateway is not None
                ends = gate.ends(request, known)
                by = until if ends >= lapses else until - (lapses - ends).total_seconds()
                permit = Permit(
                    candidate,
                    number,
                    content,
                    sender.oadc,
                    sender.stop_code,
                    gateway,
                    by,
                    row,
                    again=again,
                    lacks_stop=lacks_stop,
                    to_stopped=controller is not None and gate.stopped_at(subject, controller) is not None,
                )
                recent[one] += candidate.category == "marketing"
            decisions.append(Decision(candidate, verdict, row, permit))
        for (kind, first), many in Counter([(type(d.verdict), d.row.reasons[:1]) for d in decisions]).items():
            VERDICTS.labels(kind.__name__.lower(), *first or ("",)).inc(many)
        return decisions

    def _ways(
        self, candidate: Candidate, territory: str, oadc: str, unfit: Collection[str], blocked: Collection[str]
    ) -> Ways:
        return self.traffic.ways(
            territory=territory,
            sender_id=candidate.sender_id,
            oadc=oadc,
            category=candidate.category,
            unfit=unfit,
            blocked=blocked,
        )

    async def _recent(
        self, tx: AsyncConnection, partition: int, candidates: Sequence[Candidate]
    ) -> Counter[tuple[str, str]]:
        """Count marketing messages by (subject_id, sender_id), without these candidates.

        A lock of the partition orders the counts of two campaigns to the same people.
        """
        marketing = [c for c in candidates if c.category == "marketing"]
        if self.limits.cap is None or not marketing:
            return Counter()
        await store.lock_counts(tx, partition)
        return await store.recent_marketing(
            tx,
            [c.subject_id for c in marketing],
            [c.message_id for c in candidates if c.version],  # version 0 of a repeated request: its row counts
            datetime.now(UTC) - self.limits.cap_window,
        )

    def _links(self, candidate: Candidate, content: str, sender: Sender | None) -> tuple[bool, bool]:
        """Return whether a marketing text has the person's own stop link, and whether any link of another."""
        if candidate.category != "marketing" or sender is None or sender.stop_page is None:
            return False, False
        named, page, now = (candidate.sender_id, candidate.subject_id), sender.stop_page, datetime.now(UTC)
        own = self.link_keys is not None and has_stop_link(content, page, self.link_keys, *named, now)
        return own, has_foreign_link(content, page, self.link_keys, *named, now)

    def _link_works(self, territory: str, region: str | None) -> bool:
        return can_stop(territory, self.policy, code=False, link=True, region=region)

    def _open(self, candidate: Candidate) -> tuple[str, str, Reason | None]:
        """Return number, text and flaw of the request."""
        if not candidate.text:
            return "", "", Reason.CANNOT_BE_WRITTEN
        try:
            owner = owner_of(candidate.number, candidate.subject_id, self.field_keys, self.subject_keys)
            content = self.field_keys.unseal(candidate.text, f"text:{candidate.message_id}")
        except Unreadable:
            return "", "", Reason.REQUEST_UNREADABLE
        if owner.subject_id != candidate.subject_id:
            return "", "", Reason.SUBJECT_MISMATCH
        return owner.e164, content, None

    def _row(
        self,
        candidate: Candidate,
        verdict: Verdict,
        *,
        consent_version: int | None,
        as_of: datetime | None,
        now: datetime,
        gone: bool,
        facts: str,
        gateway: str | None,
    ) -> MessageRow:
        """Return the row. `gone`: the person was erased since, which an expired message's reasons do not show."""
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
        gone = (status is Status.DENIED and Reason.ERASED in reasons) or (status is Status.EXPIRED and gone)
        return MessageRow(
            message_id=candidate.message_id,
            status=status,
            reasons=reasons,
            campaign_id=candidate.campaign_id,
            sender_id=candidate.sender_id,
            purpose=candidate.purpose,
            category=candidate.category,
            subject_id=candidate.subject_id,
            partition=candidate.partition,
            number=None if gone else candidate.number,
            text=None if gone else candidate.text,
            requested_at=candidate.requested_at,
            send_before=candidate.send_before,
            version=candidate.version + 1,
            policy_version=self.policy.version,
            due_at=due,
            consent_version=consent_version,
            as_of=as_of,
            decided_at=now,
            region=candidate.region,
            facts=facts,
            gateway=gateway,
            template=candidate.template,
        )


def _lane_of_all(candidates: Sequence[Candidate]) -> Lane:
    marketing = any(candidate.category == "marketing" for candidate in candidates)
    return Lane.MARKETING if marketing else Lane.TRANSACTIONAL


def lacks_a_mention(category: Category, text: str, stop_code: str) -> bool:
    """Return whether a marketing text lacks the STOP mention."""
    return category == "marketing" and not mentions_stop(text, stop_code)


def _no_way(candidate: Candidate, ways: Ways, now: datetime) -> Defer:
    """Return the delay of an allowed message without a gateway."""
    reason = Reason.GATEWAY_NEEDS_SOMEBODY if ways.needs_somebody else Reason.GATEWAY_UNREACHABLE
    until = ways.again(now)
    if not ways.exist:
        reason, until = Reason.NO_ROUTE, now + NO_ROUTE_RECHECK
        NO_ROUTE.inc()
    return Defer((reason,), min(until, candidate.send_before))


def _not_to_be_kept(candidate: Candidate, asked: Asked | None) -> bool:
    """Return whether the request precedes the person's erasure, or is marketing without a lift since."""
    if asked is None:
        return False
    return candidate.requested_at <= asked.at or (candidate.category == "marketing" and not asked.lifted)
