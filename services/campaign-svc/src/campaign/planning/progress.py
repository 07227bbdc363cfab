"""Apply dispatch-svc's report of each message to its recipient and the campaign's tallies.

Tallies move by the difference to the newest version, in the same transaction: exact at every instant, despite repeated
and late reports. A batch counts in rows of one of its partitions, which no other process has: two batches of a campaign
never wait for each other. No table of campaign-svc has a reason that only other senders explain, so no count and no
export can show one (`consent_rule.told`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import Standing, moved_together
from campaign.campaigns import recipients, tallies
from campaign.planning import control, store
from campaign.schedule.lifecycle import Action
from common.contracts import DISPATCH_MESSAGES
from common.contracts.consent_rule import told
from common.contracts.dispatch import READ_AT_ONCE, MessageChanged, MessagesChanged, changes_in
from common.kafka.subscription import GATHER_S, After, Received, Subscription
from common.telemetry import counter

Place = tuple[str, str]  # campaign_id, subject_id

NEEDS_SOMEBODY = "gateway_needs_somebody"  # dispatch's reason: our account, its money, our sender
REPORTED = counter(
    "sms_campaign_recipients_total", "Changes of recipients' statuses, as reported by dispatch-svc.", ["status"]
)


def subscription() -> Subscription:
    return Subscription(
        "campaign.progress",
        DISPATCH_MESSAGES,
        apply,
        max_records=READ_AT_ONCE,
        weigh=changes_in,
        gather_s=GATHER_S,
        together=True,
    )


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    newest: dict[Place, MessageChanged] = {}
    for received in batch:
        for change in received.event.changes if isinstance(received.event, MessagesChanged) else ():
            if change.campaign_id is None:
                continue
            place = (change.campaign_id, change.subject_id)
            if place not in newest or newest[place].version < change.version:
                newest[place] = structs.replace(change, reasons=told(change.reasons)) if change.reasons else change
    if not newest:
        return None
    before = await _store(tx, newest, await store.older(tx, list(newest.values())))
    if not before:
        return None
    events = [newest[place] for place in before]
    changes: dict[str, Counter[tuple[Standing, Standing]]] = defaultdict(Counter)
    for event, old in zip(events, before.values(), strict=True):
        assert event.campaign_id is not None
        changes[event.campaign_id][old, Standing(event.status, event.reasons, event.receipt)] += 1
    totals = {campaign_id: moved_together(alike) for campaign_id, alike in changes.items()}
    partition = batch[0].partition
    await tallies.add_counts(tx, {campaign_id: counts for campaign_id, (counts, _) in totals.items()}, partition)
    denials = {campaign_id: denied for campaign_id, (_, denied) in totals.items()}
    await tallies.add_reasons(tx, "denied", denials, partition)
    await _pause_what_needs_somebody(tx, events, datetime.now(UTC))

    async def count() -> None:
        for status, many in Counter(event.status for event in events).items():
            REPORTED.labels(status).inc(many)

    return count


async def _store(
    tx: AsyncConnection, newest: Mapping[Place, MessageChanged], before: Mapping[Place, store.Stored]
) -> dict[Place, Standing]:
    """Store the reports on these recipients; return the state of each before its report.

    A recipient that the planner has changed meanwhile is read again, locked.
    """
    if not before:
        return {}
    known = [(each.standing.status, each.version) for each in before.values()]
    stored = await recipients.update_recipients(tx, [newest[place] for place in before], known)
    found = {place: each.standing for place, each in before.items() if place in stored}
    if others := [newest[place] for place in before if place not in stored]:
        found |= await _store(tx, newest, await store.older(tx, others, locked=True))
    return found


async def _pause_what_needs_somebody(tx: AsyncConnection, events: Sequence[MessageChanged], now: datetime) -> None:
    """Pause running campaigns whose deferred messages still wait for an operator.

    A late report (`until` has passed) does not count. A locked campaign is left alone: more reports follow.
    """
    waiting = Counter(
        event.campaign_id
        for event in events
        if event.status == "deferred" and NEEDS_SOMEBODY in event.reasons and event.until and event.until > now
    )
    for campaign in await store.lock_running(tx, [campaign_id for campaign_id in waiting if campaign_id]):
        await control.take(tx, campaign, Action.PAUSE, now)
        await tallies.add_reasons(
            tx, "paused", {campaign.campaign_id: Counter({NEEDS_SOMEBODY: waiting[campaign.campaign_id]})}
        )
