"""The one door to the gate: read the knowledge of a decision, and decide, under the partition's lock.

Consents, controls and counts are read under the lock; senders, provider blocks and erasures just before it, in the same
transaction.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import Category
from common.db.timer import uptime_s
from common.keyring import FieldKeys, LinkKeys, SubjectKeys, Unreadable, owner_of
from common.law import Policy, can_stop, mark_of
from common.law.stop_mention import mentions_stop
from common.limits import FRENCH
from common.privacy import erasing
from common.privacy.erasing import Asked
from common.privacy.stop_link import has_foreign_link, has_stop_link
from common.sms.msisdn import territory_of
from common.sms.prices import NO_PRICES, Prices
from common.sms.sms_length import segments
from common.telemetry import counter
from dispatch.gate import record, store
from dispatch.gate import rules as gate
from dispatch.gate.candidate import Candidate, Decision, Permit
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Verdict
from dispatch.gateways.gateway import Capabilities, longest_sent
from dispatch.gateways.pool import Traffic, Ways
from dispatch.lane import Lane
from dispatch.messages import store as messages
from dispatch.messages.reasons import Reason
from dispatch.messages.row import FREE_TEXT, MessageRow
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.projection.limits import Limits
from dispatch.projection.store import Sender
from dispatch.quotas.budget import Budget, Over, Purse

VERDICTS = counter(
    "sms_dispatch_verdicts_total", "Decisions of the gate, by verdict and first reason.", ["verdict", "reason"]
)
NO_ROUTE = counter(
    "sms_dispatch_no_route_total",
    "Permitted messages without a gateway configured for their territory, sender, category and text.",
)

TURN = 50  # messages; then the event loop turns, so that a code does not wait for a whole campaign
NO_ROUTE_RECHECK = timedelta(minutes=5)  # the operator has to configure a route
LEASED_WITHIN_S = 2.0  # opt-outs may wait meanwhile
SHORT_RECHECK = timedelta(seconds=1)  # the lease was late, or another message took the rest of the lease
FIRST_RECHECK = timedelta(seconds=30)  # idle leases of other processes are back by then
LIMIT_RECHECK = timedelta(hours=6)  # the operator may raise a limit


class _Text(NamedTuple):
    """The properties of a text. Many messages of a campaign have the same text: a batch reads the text once."""

    lacks_code: bool  # the STOP mention
    mark: str | None
    unfit: frozenset[str]  # gateways
    unfit_alone: frozenset[str]  # likewise, without another means to stop


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
    budget: Budget | None = None  # without, no limit holds
    prices: Prices = NO_PRICES
    oldest_of: int | None = None  # see `projection.watermark`: while the ring has an older outer key
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
        purses, highest = await self._purses(tx, candidates, opened, senders)
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
        as_of = await projection.watermark(tx, partition, campaigns, oldest_of=self.oldest_of)
        subjects = await store.subjects(tx, [c.subject_id for c in candidates])
        controls = await store.controls(tx, campaigns)
        recent = await self._recent(tx, partition, candidates)
        left = timedelta(seconds=until - uptime_s())  # before `now`: no permit outlives what it stands on
        now = datetime.now(UTC)
        lapses = now + left
        ways: dict[tuple[object, ...], Ways] = {}  # one per kind of message
        costs: dict[tuple[object, ...], int | None] = {}  # likewise
        texts: dict[tuple[str, str, Category], _Text] = {}  # one per text, category and sender
        closings: dict[tuple[object, ...], datetime | None] = {}  # likewise
        sizes: dict[tuple[object, ...], int] = {}  # likewise, as a gateway sends the text
        decisions = []
        for place, (candidate, (number, content, flaw), (stop_link, foreign_link)) in enumerate(
            zip(candidates, opened, linked, strict=True)
        ):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            sender = senders.get(candidate.sender_id)
            erasures = erased.get(candidate.subject_id)
            gone = erasures is not None and _not_to_be_kept(
                candidate, erasing.concerning(erasures, sender.controller if sender else None)
            )
            if candidate.template in retired:
                flaw = flaw or Reason.TEMPLATE_RETIRED
            elif foreign_link:
                flaw = flaw or Reason.FOREIGN_LINK
            subject = subjects.get(candidate.subject_id)
            blocked = blocks.get(candidate.subject_id, frozenset())
            territory = territory_of(number)
            if (
                territory not in FRENCH
                and sender is not None
                and candidate.is_limited
                and not self._may_go_to(territory, sender, number)
            ):
                flaw = flaw or Reason.PLACE_NOT_ALLOWED
            said = content, candidate.sender_id, candidate.category
            if (read := texts.get(said)) is None:
                read = texts[said] = self._read(content, candidate.category, sender)
            lacks_code = read.lacks_code
            lacks_stop = lacks_code and not (stop_link and self._link_works(territory, candidate.region))
            unfit = read.unfit_alone if lacks_stop else read.unfit
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
                erased=gone,
                region=candidate.region,
                mark=read.mark,
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
            charged = None
            if (
                (purse := purses.get(candidate.sender_id)) is not None
                and candidate.is_limited
                and not candidate.charged
                and _is_charged_by(verdict)
            ):
                cost = highest.get(candidate.message_id, 0)
                if purse.take_prepaid() or (over := purse.pay_from_leases(cost)) is None:
                    charged = purse, cost or 0
                else:
                    verdict = _over(over, verdict, candidate, now)
            allowed = isinstance(verdict, Allow)
            parts, cost = None, None
            if allowed:
                assert sender is not None
                assert gateway is not None
                if (parts := sizes.get((gateway, *said))) is None:
                    sends = self.traffic.gateways[gateway].capabilities
                    parts = segments(sends.as_sent(content, candidate.category, sender.stop_code))
                    sizes[gateway, *said] = parts
                priced = territory, candidate.category, candidate.sender_id, parts
                if priced not in costs:
                    costs[priced] = self._cost(candidate, territory, parts, now)
                cost = costs[priced]
            row = self._row(
                candidate,
                verdict,
                consent_version=subject.version if subject else None,
                as_of=as_of,
                now=now,
                gone=gone,
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
                ends = gate.ends(request, known)
                by = until if ends >= lapses else until - (lapses - ends).total_seconds()
                hours = candidate.category, territory, candidate.region
                if hours not in closings:
                    closings[hours] = gate.deliver_by(request, now, self.policy)
                permit = Permit(
                    candidate,
                    number,
                    content,
                    sender.oadc,
                    sender.stop_code,
                    gateway,
                    by,
                    row,
                    closings[hours],
                    again=again,
                    lacks_stop=lacks_stop,
                    to_stopped=controller is not None and gate.stopped_at(subject, controller) is not None,
                )
                recent[one] += candidate.category == "marketing"
            decisions.append(Decision(candidate, verdict, row, permit, charged))
        for (kind, first), many in Counter([(type(d.verdict), d.row.reasons[:1]) for d in decisions]).items():
            VERDICTS.labels(kind.__name__.lower(), first[0] if first else "").inc(many)
        for purse in purses.values():
            purse.return_prepaid()
        return decisions

    async def _purses(
        self,
        tx: AsyncConnection,
        candidates: Sequence[Candidate],
        opened: Sequence[tuple[str, str, Reason | None]],
        senders: Mapping[str, Sender],
    ) -> tuple[dict[str, Purse], dict[UUID, int | None]]:
        """Return the purse of each limited sender, and the highest cost of each message where a spend is limited.

        The purses have leases for all messages that a verdict may charge. The payments of the batch are given back if
        `tx` fails.
        """
        charged = [c.sender_id for c in candidates if c.is_limited and not c.charged]
        if self.budget is None or not charged:
            return {}, {}
        now = datetime.now(UTC)
        purses = {one: self.budget.purse(one, now) for one in {each.organisation_id for each in senders.values()}}
        limited = {
            sender_id: purses[sender.organisation_id]
            for sender_id, sender in senders.items()
            if not purses[sender.organisation_id].unlimited
        }
        for sender_id, many in Counter(charged).items():
            if sender_id in limited and not limited[sender_id].spends:
                limited[sender_id].expect(None, many)
        spending = {sender_id: purse for sender_id, purse in limited.items() if purse.spends}
        highest = await self._highest_costs(candidates, opened, senders, spending, now) if spending else {}
        by = uptime_s() + LEASED_WITHIN_S  # for all of them: the caller may hold the partition's lock
        for purse in [each for each in purses.values() if not each.unlimited]:
            purse.undo_with(tx)
            await purse.stock_within(by - uptime_s())
        return limited, highest

    async def _highest_costs(
        self,
        candidates: Sequence[Candidate],
        opened: Sequence[tuple[str, str, Reason | None]],
        senders: Mapping[str, Sender],
        spending: Mapping[str, Purse],
        now: datetime,
    ) -> dict[UUID, int | None]:
        """Return the cost of each message not charged yet, by the gateway that makes most SMS of it, and expect it.

        A message is charged once. It may be decided again, and leave by another gateway than the one open now.
        """
        costs: dict[UUID, int | None] = {}
        takers: dict[tuple[object, ...], Sequence[Capabilities]] = {}  # one for each kind of message
        for place, (candidate, (number, content, _)) in enumerate(zip(candidates, opened, strict=True)):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            purse = spending.get(candidate.sender_id)
            if purse is None or not candidate.is_limited or candidate.charged:
                continue
            territory, unfit = territory_of(number), self.traffic.unfit(content)
            kind = territory, candidate.sender_id, candidate.category, unfit
            if (found := takers.get(kind)) is None:
                found = takers[kind] = self.traffic.takers(territory, candidate.sender_id, candidate.category, unfit)
            said = longest_sent(found, content, candidate.category, senders[candidate.sender_id].stop_code)
            costs[candidate.message_id] = cost = self._cost(candidate, territory, max(1, segments(said)), now)
            purse.expect(cost)
        return costs

    def _may_go_to(self, territory: str, sender: Sender, number: str) -> bool:
        """Return whether the limits of the sender's organisation open the place. An unreadable number has no place."""
        return not number or self.budget is None or self.budget.limited.of(sender.organisation_id).allow(territory)

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

    def _cost(self, candidate: Candidate, territory: str, segments: int, now: datetime) -> int | None:
        """Return the cost at the price in force now, within a permit of the submit."""
        return self.prices.cost(territory, segments, at=now, category=candidate.category, sender_id=candidate.sender_id)

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

    def _read(self, content: str, category: Category, sender: Sender | None) -> _Text:
        lacks_code = sender is not None and lacks_a_mention(category, content, sender.stop_code)
        unfit = self.traffic.unfit(content)
        alone = self.traffic.unfit(content, lacks_stop=True) if lacks_code else unfit
        return _Text(lacks_code, mark_of(content, self.policy), unfit, alone)

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
        segments: int | None,
        cost: int | None,
        charged: bool,
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
            segments=segments,
            cost=cost,
            prices=None if segments is None else self.prices.version,
            charged=charged,
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


def give_back(decisions: Sequence[Decision]) -> None:
    """Give back the charges of decisions that the ledger did not take: the messages were on record."""
    for decision in decisions:
        if decision.charged is not None:
            purse, cost = decision.charged
            purse.give_back(cost)


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
