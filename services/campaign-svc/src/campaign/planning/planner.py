"""Start due campaigns, and request their recipients a chunk at a time.

An expansion stores requests, waits and cursor in one transaction, so a crash repeats no request; planners share the
work by row locks. Expansion keeps the outbox short, so a pause or cancellation never waits behind a million requests.
Campaigns take turns by chunks, so a small campaign never waits behind a large campaign.

A failing campaign is put off for longer each time, so no other campaign waits behind it.

Kafka may lose a request, or the report on a message. So the planner repeats requests without a report, a page at a
time. The next page follows once half of the page has reports: the silent rest may lie in a halted partition, and must
not hold back the requests of other partitions. Otherwise a page half as large follows, after a wait that doubles: while
dispatch-svc is down, a campaign repeats hardly more than two pages. At most a quarter of a page repeats earlier repeats
while requests remain that were never repeated, so a third of the partitions may be halted. A repeat follows its first
request in the same partition, so even while dispatch-svc is hours behind, a campaign has few repeats in Kafka.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import segments
from campaign.audience import store as audience_store
from campaign.audience.segment_language import Condition
from campaign.campaigns import recipients
from campaign.campaigns import store as campaigns
from campaign.campaigns.campaign import Campaign, Progress
from campaign.links import links
from campaign.links.links import Tokens
from campaign.message.wording import required
from campaign.planning import control, store
from campaign.planning.asking import Asking, Chunk, Written, asking_of
from campaign.planning.store import Recipient
from campaign.preflight import checks
from campaign.preflight.forecast import TOO_LATE
from campaign.preflight.limits import REQUESTED_OF_DAY
from campaign.schedule import recurrence
from campaign.schedule.lifecycle import Action, Status, ends_by, later, messages_of
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Pace, starts
from campaign.senders import store as senders
from common.contracts import CAMPAIGN_REQUESTS, Event
from common.contracts.campaign import MessageRequested
from common.db.allowances import tally
from common.db.database import Database, plan_now
from common.db.timer import Timer, Worker
from common.kafka import outbox, widening
from common.keyring import FieldKeys, LinkKeys
from common.law import Policy, at_hand_off, zones
from common.limits import day_of
from common.telemetry import counter, gauge

log = logging.getLogger(__name__)

STARTED = counter("sms_campaign_starts_total", "Campaigns started.")
MISSED = counter(
    "sms_campaign_missed_occurrences_total",
    "Occurrences of recurring campaigns skipped: the planner did not start them in time.",
)
REQUESTED = counter(
    "sms_campaign_requests_total",
    "Recipients requested from dispatch-svc, requested again without a report, or denied before a request.",
    ["result"],
)

FAILING = gauge(
    "sms_campaign_failing_rows", "Campaigns whose next step has failed more than once; the planner tries again later."
)

PAGE = 1_000
# Of a campaign's first chunk, for each partition of people. dispatch-svc begins at once with three quarters of a batch
# (its `intake_batch`, 500), while the planner goes on; fewer requests wait until they are half a second old.
FIRST_REQUESTS = 650
LOCKS_WITHIN_S = 2.0
AHEAD = 100  # recipients read beyond a pace's room, to find the waiting
LOOK_EVERY_S = 1.0
IDLE_S = 2.0
EXPAND_EVERY_S = 0.25
COUNT_EVERY_S = 10.0
REPEAT_AFTER = timedelta(minutes=15)
LONGEST_SILENCE = timedelta(hours=6)  # between repeats
# Within these days of the campaign's start dispatch-svc's ledger still has each message, so no repeat is a second SMS.
ON_RECORD = timedelta(days=6)
CANCELLED_BEFORE_REQUEST = "campaign_cancelled"  # as the gate calls it


def utc_now() -> datetime:
    return datetime.now(UTC)


def pause(failures: int) -> timedelta:
    """Return the wait after failures in a row; zero after the first, perhaps only a lock."""
    return min(timedelta(seconds=2 ** min(failures, 20) - 2), campaigns.LONGEST_PAUSE)


def silence(after: timedelta, repeats: int) -> timedelta:
    """Return the wait for reports after repeats in a row: `after`, then twice as long each time."""
    return min(after * (1 << min(repeats - 1, 20)), LONGEST_SILENCE)


def limit(page: int, repeats: int) -> int:
    """Return the most requests of a page of repeats: `page`, half as many after each wait in vain."""
    return max(page >> min(repeats - 1, 20), store.FEWEST)


def over_at(campaign: Progress, margin: timedelta) -> datetime:
    """Return from when each recipient of a begun campaign must have a final report: `margin` after its end."""
    ends = ends_by(campaign.scheduled_start, campaign.send_before)
    return later(min(ends, campaign.ended_at or ends), margin)


@dataclass
class _Attempt:
    """An attempt at the next step of a campaign, if found yet."""

    campaign_id: str | None = None
    status: Status = Status.DRAFT
    failures: int = 0  # in a row, before this attempt

    def at(self, campaign: Progress) -> None:
        self.campaign_id, self.status, self.failures = campaign.campaign_id, campaign.status, campaign.failures


class Planner:
    """The planner's timers and steps.

    `backlog` counts outbox rows: a page makes a row for each partition.
    """

    def __init__(
        self,
        database: Database,
        field_keys: FieldKeys,
        link_keys: LinkKeys,
        policy: Policy,
        *,
        partitions: int,
        chunk: int,
        backlog: int,
        repeat_after: timedelta = REPEAT_AFTER,
        page: int = PAGE,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._field_keys = field_keys
        self._link_keys = link_keys
        self._policy = policy
        self._gate = at_hand_off(policy)
        self._partitions = partitions
        self._chunk = chunk
        self._page = page
        self._backlog = backlog
        self._repeat_after = repeat_after
        self._now = clock

    def workers(self) -> list[Worker]:
        timers = (
            Timer("start campaigns", self.start_due, LOOK_EVERY_S, self._database, campaigns.DUE),
            Timer("expand campaigns", self.expand, EXPAND_EVERY_S, self._database, outbox.RELAYED),
            Timer("deny the unrequested", self.deny_unrequested, LOOK_EVERY_S, self._database, idle_s=IDLE_S),
            Timer("repeat requests", self.repeat_requests, LOOK_EVERY_S, self._database, idle_s=IDLE_S),
            Timer("finish campaigns", self.finish_done, LOOK_EVERY_S, self._database, idle_s=IDLE_S),
            Timer("count failing campaigns", self.count_failing, COUNT_EVERY_S, self._database),
        )
        return [Worker(timer.name, timer.run) for timer in timers]

    async def _apart(self, step: Callable[[datetime, _Attempt], Awaitable[bool]]) -> bool:
        """Take a campaign's step; put a failing campaign off, longer each time.

        After a failure the step answers True: the timer takes the next campaign at once. A failure without a campaign,
        or of the database itself, is raised.
        """
        now, attempt = self._now(), _Attempt()
        try:
            return await step(now, attempt)
        except Exception:
            if attempt.campaign_id is None:
                raise
            failures = attempt.failures + 1
            retry_at = now + pause(failures)
            async with self._database.begin() as tx:
                await campaigns.put_off(tx, attempt.campaign_id, attempt.status, failures=failures, retry_at=retry_at)
            log.warning(
                "a campaign's step failed, trying again later",
                extra={"campaign_id": attempt.campaign_id, "failures": failures, "retry_at": retry_at.isoformat()},
                exc_info=True,
            )
            return True

    async def start_due(self) -> bool:
        """Start a due campaign. Return whether a campaign was due."""
        return await self._apart(self._start_due)

    async def expand(self) -> bool:
        """Request a chunk of a running campaign. Return whether more can be done at once."""
        if not await self._database.read(store.RUNNING):
            return False
        return await self._apart(self._expand)

    async def deny_unrequested(self) -> bool:
        """Deny a chunk of unrequested recipients; return whether a campaign had any to deny."""
        return await self._apart(self._deny_unrequested)

    async def repeat_requests(self) -> bool:
        """Repeat a page of requests without a report. Return whether a campaign had any to repeat."""
        return await self._apart(self._repeat_requests)

    async def finish_done(self) -> bool:
        """Finish a campaign without recipients left to decide. Return whether there was a campaign."""
        return await self._apart(self._finish_done)

    async def count_failing(self) -> bool:
        """Measure the number of failing campaigns."""
        async with self._database.begin() as tx:
            FAILING.set(await store.count_failing(tx))
        return False

    async def _start_due(self, now: datetime, attempt: _Attempt) -> bool:
        async with self._database.begin() as tx:
            due = await store.lock_due(tx, now)
            if due is None:
                return False
            attempt.at(due)
            campaign = await campaigns.read_campaign(tx, due.campaign_id)
            selected = await segments.of_campaign(tx, due.sender_id, campaign.selection, now, self._policy)
            why, rule = await self._against(tx, campaign, selected), campaign.recurring
            audience = await self._freeze(tx, campaign, selected, now) if why is None and rule is None else 0
            if not await store.lock_unchanged(tx, due):  # cancelled, edited, paused
                await tx.rollback()
                return True
            if why is not None:
                await campaigns.take_off_schedule(tx, due.campaign_id, why)
                await control.take(tx, due, Action.EDIT, now)
                log.warning("campaign is a draft again", extra={"campaign_id": due.campaign_id, "reason": why})
                return True
            if rule is not None:
                await self._occur(tx, campaign, rule, now)
                return True
            await control.take(tx, due, Action.START, now)
        STARTED.inc()
        log.info("campaign started", extra={"campaign_id": due.campaign_id, "audience": audience})
        return True

    async def _freeze(self, tx: AsyncConnection, campaign: Campaign, selected: Condition, now: datetime) -> int:
        """Freeze the audience; return its size.

        Meanwhile (15 seconds for a million recipients) only the sender's next campaign waits.
        """
        await store.alone_with_audiences(tx, campaign.sender_id)
        wordings = campaign.wordings.values()
        await links.put_targets(tx, campaign.campaign_id, list(dict.fromkeys(t for w in wordings for t in w.targets)))
        return await recipients.freeze_audience(tx, campaign, selected, required(wordings), now)

    async def _against(self, tx: AsyncConnection, campaign: Campaign, selected: Condition) -> str | None:
        """Return why a due campaign does not start, or `None`.

        A recurring campaign may select no contact: its next occurrence may select some.
        """
        if (why := await checks.against_start(tx, campaign)) is not None:
            return why
        if (
            campaign.recurring is None
            and campaign.selection.segment is not None
            and not await segments.selects_somebody(tx, campaign.sender_id, selected)
        ):
            return "nobody_selected"
        return None

    async def _occur(self, tx: AsyncConnection, series: Campaign, rule: Recurring, now: datetime) -> None:
        """Schedule the due occurrence as a campaign of its own.

        Of several due occurrences only the last occurs: an occurrence is of use until the next.
        """
        sender = await senders.find_sender(tx, series.sender_id)
        assert sender is not None
        assert series.at is not None, "scheduling sets the first occurrence"
        zone = zones(sender.country, self._gate)[0]
        at, missed = recurrence.latest(rule, zone, series.at, now)
        following = recurrence.first(rule, zone, at + timedelta.resolution)
        starts_at = starts(series.timing, at, sender.country, series.scheduled_start, self._gate)
        ends = ends_by(starts_at, None)
        campaign_id = recurrence.occurrence_id(series.campaign_id, at)
        if await campaigns.insert_occurrence(tx, series.campaign_id, campaign_id, min(ends, following or ends), now):
            occurrence = await campaigns.read_campaign(tx, campaign_id, lock=True)
            digest = checks.agreed(occurrence, sender, None)
            await checks.pass_on_approvals(tx, series, occurrence, sender)
            await campaigns.set_start(
                tx,
                campaign_id,
                at,
                starts_at,
                digest,
                series.acknowledged,
                agreed_start=series.agreed_start,
                approval_needed=series.approval_needed,
            )
            await control.take(tx, occurrence, Action.SCHEDULE, now)
        begins = starts(series.timing, following or at, sender.country, now, self._gate)
        await campaigns.set_next(tx, series.campaign_id, following or at, begins, missed)
        if following is None:
            await control.take(tx, series, Action.FINISH, now)
        MISSED.inc(missed)
        log.log(
            logging.WARNING if missed else logging.INFO,
            "campaign recurs",
            extra={"campaign_id": campaign_id, "series_id": series.campaign_id, "missed": missed},
        )

    async def _expand(self, now: datetime, attempt: _Attempt) -> bool:
        async with self._database.begin() as tx, self._database.begin() as reading:
            for each in (reading, tx):
                await store.wait_for_locks_within(each, LOCKS_WITHIN_S)
            if await outbox.backlog(tx) > self._backlog:
                return False  # the relay's NOTIFY wakes the timer
            locked = await store.lock_expanding(tx, now)
            if locked is None:
                return False
            attempt.at(locked)
            campaign = await campaigns.read_campaign(tx, locked.campaign_id)
            asking = await self._asking(tx, campaign, now)
            pace = Pace.of(campaign.timing)
            slots = pace.room(campaign.next_slot, now)
            most = self._chunk if campaign.cursor else min(self._chunk, FIRST_REQUESTS * self._partitions)
            room = most if slots is None else min(slots, most)
            await audience_store.reading_contacts(tx)
            waiting = await store.waiting_recipients(tx, asking.campaign, now, room) if asking.may_wait else []
            ahead = most if slots is None else min(room + AHEAD, most)
            chunk = Chunk(asking, self._link_keys, room, campaign.cursor)
            ended = await self._ask_for(tx, reading, chunk, waiting, ahead)
            await recipients.deny(tx, campaign.campaign_id, chunk.denied)
            await recipients.set_waiting(tx, campaign.campaign_id, chunk.waits)
            await recipients.set_variants(tx, campaign.campaign_id, chunk.variants)
            next_slot = pace.after(campaign.next_slot, now, chunk.asked)
            done, look_at = ended, next_slot if chunk.full else None
            if done and asking.may_wait:
                first = await store.next_wait(tx, campaign.campaign_id, asking.chosen_at)
                if first is not None:
                    done, look_at = False, max(first, next_slot or first)
            if look_at is not None:
                look_at = min(look_at, now + campaigns.LOOK_AHEAD)
            await campaigns.keep_place(
                tx,
                campaign.campaign_id,
                chunk.cursor,
                expanded=done,
                look_at=look_at,
                next_slot=next_slot,
                repeat_at=now + self._repeat_after if chunk.asked else None,
                turn=(len(waiting) + chunk.reached) * campaign.priority.cost,
                now=now,
            )
        # a crash before loses the count, which only the pre-flight reads
        await tally(self._database, REQUESTED_OF_DAY, asking.sender.organisation_id, day_of(now)[0], chunk.asked)
        REQUESTED.labels("requested").inc(chunk.asked)
        REQUESTED.labels("denied").inc(len(chunk.denied))
        return True

    async def _deny_unrequested(self, now: datetime, attempt: _Attempt) -> bool:
        async with self._database.begin() as tx:
            await plan_now(tx)
            campaign = await store.lock_given_up(tx, now)
            if campaign is None:
                return False
            attempt.at(campaign)
            why = CANCELLED_BEFORE_REQUEST if campaign.status is Status.CANCELLED else TOO_LATE
            denied = await recipients.deny_unrequested(tx, campaign, why, self._chunk)
        REQUESTED.labels("denied").inc(denied)
        return True

    async def _repeat_requests(self, now: datetime, attempt: _Attempt) -> bool:
        async with self._database.begin() as tx:
            await store.wait_for_locks_within(tx, LOCKS_WITHIN_S)
            if await outbox.backlog(tx) > self._backlog:
                return False
            locked = await store.lock_to_repeat(tx, now, LONGEST_SILENCE, self._page)
            if locked is None:
                return False
            attempt.at(locked)
            final_at = over_at(locked, self._repeat_after)
            repeats, began_at, page_size = await self._page_of(tx, locked, now)
            page_at: datetime | None = began_at
            campaign, room, next_slot = None, limit(self._page, repeats) - page_size, None
            if locked.status is Status.RUNNING and now < final_at:
                campaign = await campaigns.read_campaign(tx, locked.campaign_id)
                pace = Pace.of(campaign.timing)
                slots = pace.room(campaign.next_slot, now)
                room = room if slots is None else min(slots, room)
            await audience_store.reading_contacts(tx)
            silent = await store.repeated_recipients(tx, locked, self._page)
            due_at = now - self._repeat_after
            again = [each for each in silent if each.repeated_at is None or not due_at < each.repeated_at <= now]
            new_room = room - min(len(again), room // 4)
            new = await store.unreported_recipients(tx, locked, new_room, undecided=now >= final_at)
            page = [*new, *again[: room - len(new)]]
            if page:
                repeat_at = now + silence(self._repeat_after, repeats)
                requests = await self._repeated(tx, locked, campaign, page, now)
                await self._append(tx, lambda _: requests)
                await recipients.set_repeated(tx, locked.campaign_id, [each.subject_id for each in page], now)
                if campaign is not None:
                    next_slot = pace.after(campaign.next_slot, now, len(page))
            else:
                page_at, page_size, repeat_at = None, 0, now + self._repeat_after
                if not silent:
                    repeats, repeat_at = 0, max(final_at, repeat_at)
                elif locked.repeat_at is not None and locked.repeat_at > now:
                    repeat_at = locked.repeat_at
                repeat_at = min(repeat_at, now + LONGEST_SILENCE)
            await campaigns.set_repeats(
                tx,
                locked.campaign_id,
                repeats,
                repeat_at,
                next_slot,
                page_at=page_at,
                page_size=page_size + len(page),
            )
        REQUESTED.labels("repeated").inc(len(page))
        return bool(page)

    async def _asking(self, tx: AsyncConnection, campaign: Campaign, now: datetime) -> Asking:
        sender = await senders.find_sender(tx, campaign.sender_id)
        assert sender is not None, "a campaign is written for a known sender, and senders are never removed"
        return await asking_of(tx, campaign, sender, self._gate, self._field_keys, now)

    async def _page_of(self, tx: AsyncConnection, locked: Progress, now: datetime) -> tuple[int, datetime, int]:
        """Return the repeats in a row, and the begin and size of the page of repeats to add to.

        A pace fills a page little by little, so a page is full before the next begins. While a campaign is still
        requested, the wait of few silent recipients does not double: a new request may be lost too.
        """
        if locked.page_at is None:
            in_vain = locked.expanded and locked.repeat_at is not None and locked.repeat_at <= now
            return locked.repeats + 1 if in_vain else 1, now, 0
        most = limit(self._page, locked.repeats)
        if 2 * await store.count_silent(tx, locked.campaign_id) > most:
            return locked.repeats + 1, now, 0
        if locked.page_size < most:
            return locked.repeats, locked.page_at, locked.page_size
        return 1, now, 0

    async def _repeated(
        self, tx: AsyncConnection, locked: Progress, campaign: Campaign | None, page: Sequence[Recipient], now: datetime
    ) -> list[MessageRequested]:
        """Return the repeated requests of these recipients, with the texts and links of the first requests.

        Without `campaign` no message may leave any more: each request only asks for the message's state, and so does
        the request of a recipient whose text can no longer be written.
        """
        ends, messages = ends_by(locked.scheduled_start, locked.send_before), []
        if campaign is not None:
            asking = await self._asking(tx, campaign, now)
            sent = await links.tokens_of(tx, locked.campaign_id, [r.subject_id for r in page]) if asking.linked else {}
            made = {
                r.subject_id: Tokens(
                    self._link_keys,
                    locked.campaign_id,
                    r.subject_id,
                    campaign.sender_id,
                    now,
                    sent.get(r.subject_id, {}),
                )
                for r in page
                if asking.linked
            }
            written = [asking.again(each, made.get(each.subject_id)) for each in page]
            messages = asking.requests([each for each in written if each is not None])
            await links.keep(tx, [each.tokens for each in written if each is not None and each.tokens is not None])
            assert locked.started_at is not None, "a running campaign has started"
            ends = min(ends, later(locked.started_at, ON_RECORD))
        versions = {each.subject_id: each.version for each in page}
        repeats = {
            each.subject_id: replace(each, repeated=True, known_version=versions[each.subject_id], send_before=ends)
            for each in messages
        }
        message_of = messages_of(locked.campaign_id, locked.scheduled_start)
        return [
            repeats.get(each.subject_id)
            or MessageRequested(
                message_id=message_of(self._field_keys.inner(each.subject_id)),
                campaign_id=locked.campaign_id,
                sender_id=locked.sender_id,
                purpose=None,
                category="marketing",
                subject_id=each.subject_id,
                number="",
                text="",
                requested_at=now,
                send_before=ends,
                repeated=True,
                known_version=each.version,
            )
            for each in page
        ]

    async def _finish_done(self, now: datetime, attempt: _Attempt) -> bool:
        async with self._database.begin() as tx:
            campaign = await store.lock_done(tx, now)
            if campaign is None:
                return False
            attempt.at(campaign)
            await control.take(tx, campaign, Action.FINISH, now)
        return True

    async def _ask_for(
        self, tx: AsyncConnection, reading: AsyncConnection, chunk: Chunk, waiting: Sequence[Recipient], ahead: int
    ) -> bool:
        """Take the waiting recipients, then at most `ahead` after the cursor; return whether none is left.

        `reading` only reads, and ends before `tx`, which holds the lock a rectification and the transaction id an
        erasure waits for. Either may wait for a table behind a transaction waiting for the other, which Postgres cannot
        know; hence the short LOCKS_WITHIN_S.
        """
        asking, seen = chunk.asking, 0

        def read(after: str) -> asyncio.Future[list[Recipient]]:
            many = min(ahead - seen, self._page)
            return asyncio.ensure_future(store.next_recipients(reading, asking.campaign, after, many))

        def stored(written: Sequence[Written]) -> asyncio.Future[None]:
            return asyncio.ensure_future(self._store(tx, asking, written))

        storing = stored(await chunk.take(waiting, waited=True))
        chunk.full = 0 < chunk.room == len(waiting)  # more waiting recipients may be due
        coming = read(chunk.cursor)
        try:
            while True:
                page, wanted = await coming, min(ahead - seen, self._page)
                seen += len(page)
                last = len(page) < wanted or seen == ahead
                if not last:
                    coming = read(page[-1].subject_id)
                written = await chunk.take(page)
                await storing
                storing = stored(written)
                if last or chunk.reached < seen:
                    await storing
                    return chunk.reached == seen < ahead
        finally:
            await asyncio.gather(coming, storing, return_exceptions=True)

    async def _store(self, tx: AsyncConnection, asking: Asking, written: Sequence[Written]) -> None:
        await links.keep(tx, [each.tokens for each in written if each.tokens is not None])
        await self._append(tx, partial(asking.together, written))

    async def _append(self, tx: AsyncConnection, requests: Callable[[int], Sequence[Event]]) -> None:
        """Publish requests by partition. `requests`: of so many partitions."""

        async def append(count: int | None) -> None:
            by = count or self._partitions
            await outbox.append_by_partition(tx, CAMPAIGN_REQUESTS, requests(by), by)

        await widening.in_parts(CAMPAIGN_REQUESTS, append)
