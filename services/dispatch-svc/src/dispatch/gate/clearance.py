"""The one door to the gate: read the knowledge of a decision, and decide, under the partition's lock.

A decision on codes alone takes no lock.

Consents, controls and counts are read under the lock; senders, provider blocks and erasures just before it, in the same
transaction. `deciding.py` decides on what was read.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.timer import uptime_s
from common.kafka.subscription import Hold
from common.keyring import FieldKeys, LinkKeys, Owner, SubjectKeys, owners_of
from common.law import Policy
from common.privacy.stop_link import has_foreign_link, has_stop_link, names_page, names_stop_link
from common.sms.msisdn import territory_of
from common.sms.prices import NO_PRICES, Prices
from common.sms.sms_length import segments
from common.telemetry import counter
from dispatch.gate import store
from dispatch.gate.candidate import Candidate, Decision
from dispatch.gate.deciding import Batch, Known, Opened, Resources, cost_of
from dispatch.gateways.gateway import Capabilities, longest_sent
from dispatch.gateways.pool import Traffic
from dispatch.lane import Lane
from dispatch.messages.reasons import Reason
from dispatch.messages.row import FREE_TEXT
from dispatch.projection.limits import Limits, is_fresh
from dispatch.projection.store import Sender
from dispatch.quotas.budget import Budget, Purse

VERDICTS = counter(
    "sms_dispatch_verdicts_total", "Decisions of the gate, by verdict and first reason.", ["verdict", "reason"]
)
TURN = 50  # messages; then the event loop turns, so that a code does not wait for a whole campaign
LEASED_WITHIN_S = 2.0  # opt-outs may wait meanwhile
NOT_OPENED: Mapping[UUID, Opened] = MappingProxyType({})


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
    # held while marketing is decided, taken before the partition's lock and released before the decisions are stored:
    # opt-outs wait for running decisions, and wait six times as long for six partitions at once
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)
    one_opened: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)  # ahead of its turn

    async def decide(
        self,
        tx: AsyncConnection,
        partition: int,
        candidates: Sequence[Candidate],
        beforehand: Mapping[UUID, Opened] = NOT_OPENED,
        *,
        locked: bool = False,
        again: bool = False,
        only_fresh: bool = False,
    ) -> list[Decision]:
        """Decide on messages of one partition. Store no row.

        From then on hold the partition's lock, if an opt-out may forbid any of the messages.

        `beforehand`: these messages decrypted, where the caller has opened all of them. `locked`: the caller holds the
        lock already, because the caller has locked the rows, and row locks come after the partition's. `only_fresh`:
        raise Hold, without a verdict, where consents are too old for marketing.
        """
        opened = [beforehand[c.message_id] for c in candidates] if beforehand else await self._opened(candidates)
        people = [c.subject_id for c in candidates]
        named = {c.template for c in candidates if c.template is not None and c.template != FREE_TEXT}
        codes = {c.sender_id for c in candidates if c.template is not None and c.lane is Lane.TRANSACTIONAL}
        asked = {c.sender_id for c in candidates}, people, named, codes
        around = await store.surroundings(tx, *asked)
        await self._look_for_links(candidates, opened, around.senders)
        purses, highest = await self._purses(tx, candidates, opened, around.senders)
        if purses:  # a lease may have been late
            around = await store.surroundings(tx, *asked)
        campaigns = {c.campaign_id for c in candidates if c.campaign_id}
        await store.lock(tx, partition, None if locked else _lock_of(candidates), campaigns)
        until = uptime_s() + self.permit_ttl_s  # before the read: no permit outlives its knowledge
        found = await store.knowledge(tx, partition, people, campaigns, oldest_of=self.oldest_of)
        if only_fresh and not is_fresh(found.as_of, datetime.now(UTC), self.limits):
            raise Hold
        recent = await self._recent(tx, partition, candidates)
        left = timedelta(seconds=until - uptime_s())  # before `now`: no permit outlives what it stands on
        now = datetime.now(UTC)
        known = Known(
            now=now,
            lapses=now + left,
            until=until,
            as_of=found.as_of,
            senders=around.senders,
            subjects=found.subjects,
            controls=found.controls,
            blocks=around.blocks,
            erased=around.erasures,
            retired=named - around.approved,
            controllers=around.controllers,
            purses=purses,
            highest=highest,
        )
        batch = Batch(Resources(self.traffic, self.policy, self.limits, self.prices, self.budget), known, recent, again)
        decisions = []
        for place, (candidate, one) in enumerate(zip(candidates, opened, strict=True)):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            decisions.append(batch.decide(candidate, one))
        for (kind, first), many in Counter([(type(d.verdict), d.row.reasons[:1]) for d in decisions]).items():
            VERDICTS.labels(kind.__name__.lower(), first[0] if first else "").inc(many)
        for purse in purses.values():
            purse.return_prepaid()
        return decisions

    async def open(self, candidates: Sequence[Candidate]) -> dict[UUID, Opened]:
        """Decrypt messages for `decide`, ahead of their turn: the decision before them waits for the database.

        One batch at a time is decrypted: the event loop turns between the messages of one.
        """
        async with self.one_opened:
            return dict(zip([c.message_id for c in candidates], await self._opened(candidates), strict=True))

    async def _purses(
        self,
        tx: AsyncConnection,
        candidates: Sequence[Candidate],
        opened: Sequence[Opened],
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
        opened: Sequence[Opened],
        senders: Mapping[str, Sender],
        spending: Mapping[str, Purse],
        now: datetime,
    ) -> dict[UUID, int | None]:
        """Return the cost of each message not charged yet, by the gateway that makes most SMS of it, and expect it.

        A message is charged once. A later decision may send the message by another gateway than the one open now.
        """
        costs: dict[UUID, int | None] = {}
        takers: dict[tuple[object, ...], Sequence[Capabilities]] = {}  # one for each kind of message
        for place, (candidate, (number, content, *_)) in enumerate(zip(candidates, opened, strict=True)):
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
            cost = cost_of(self.prices, candidate, territory, max(1, segments(said)), now)
            costs[candidate.message_id] = cost
            purse.expect(cost)
        return costs

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

    async def _opened(self, candidates: Sequence[Candidate]) -> list[Opened]:
        """Decrypt, before the lock: opt-outs need not wait for it."""
        opened: list[Opened] = []
        for start in range(0, len(candidates), TURN):
            some = candidates[start : start + TURN]
            owners = owners_of([(c.number, c.subject_id) for c in some], self.field_keys, self.subject_keys)
            texts = self.field_keys.unseal_texts([(c.text or "", f"text:{c.message_id}") for c in some])
            opened += map(_opened, some, owners, texts)
            await asyncio.sleep(0)
        return opened

    async def _look_for_links(
        self, candidates: Sequence[Candidate], opened: list[Opened], senders: Mapping[str, Sender]
    ) -> None:
        """Note in `opened` which marketing texts have the person's own stop link, and which any link of another.

        Most texts of a campaign are equal, and have no address of ours.
        """
        pages = {sender_id: each.stop_page for sender_id, each in senders.items() if each.stop_page is not None}
        named: dict[tuple[str, str], bool] = {}  # whether a text names a stop page, or one beside it
        for place, candidate in enumerate(candidates):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            if (page := pages.get(candidate.sender_id)) is None or candidate.category != "marketing":
                continue
            said = content, _ = opened[place].text, page
            if said not in named:
                named[said] = names_stop_link(content, page) or names_page(content, page)
            if not named[said]:
                continue
            whose, now = (candidate.sender_id, candidate.subject_id), datetime.now(UTC)
            own = self.link_keys is not None and has_stop_link(content, page, self.link_keys, *whose, now)
            foreign = has_foreign_link(content, page, self.link_keys, *whose, now)
            opened[place] = opened[place]._replace(stop_link=own, foreign_link=foreign)


def _opened(candidate: Candidate, owner: Owner | None, content: str | None) -> Opened:
    if not candidate.text:
        return Opened("", "", Reason.CANNOT_BE_WRITTEN)
    if owner is None or content is None:
        return Opened("", "", Reason.REQUEST_UNREADABLE)
    if owner.subject_id != candidate.subject_id:
        return Opened("", "", Reason.SUBJECT_MISMATCH)
    return Opened(owner.e164, content)


def _lock_of(candidates: Sequence[Candidate]) -> Lane | None:
    """Return the lane whose lock the decision needs: none where no opt-out could change a verdict."""
    lanes = {candidate.lane for candidate in candidates if candidate.is_on_consent}
    return Lane.MARKETING if Lane.MARKETING in lanes else next(iter(lanes), None)


def give_back(decisions: Sequence[Decision]) -> None:
    """Give back the charges of decisions that the ledger did not take: the messages were on record."""
    for decision in decisions:
        if decision.charged is not None:
            purse, cost = decision.charged
            purse.give_back(cost)
