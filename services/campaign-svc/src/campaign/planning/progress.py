"""Apply dispatch-svc's report of each message to its recipient and the campaign's tallies.

Tallies move by the difference to the newest version, in the same transaction: exact at every instant, despite repeated
and late reports. A batch counts in rows of one of its partitions, which no other process has: two batches of a campaign
never wait for each other.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import Standing, moved_together
from campaign.campaigns import recipients, tallies
from campaign.campaigns.recipients import Moved
from campaign.campaigns.reports import NEEDS_SOMEBODY, reports_of
from campaign.planning import control, store
from campaign.schedule.lifecycle import Action
from campaign.senders.own import EVERYBODY, Own
from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import READ_AT_ONCE, MessagesChanged, changes_in
from common.kafka.subscription import COUNTED_S, After, Received, Subscription
from common.telemetry import counter

REPORTED = counter(
    "sms_campaign_recipients_total", "Changes of recipients' statuses, as reported by dispatch-svc.", ["status"]
)


def subscription(own: Own = EVERYBODY) -> Subscription:
    return Subscription(
        "campaign.progress",
        DISPATCH_MESSAGES,
        partial(apply, own=own),
        max_records=READ_AT_ONCE,
        weigh=changes_in,
        gather_s=COUNTED_S,
        together=True,
    )


async def apply(tx: AsyncConnection, batch: list[Received], own: Own = EVERYBODY) -> After | None:
    now, events = datetime.now(UTC), [received.event for received in batch]
    changes = chain.from_iterable(event.changes for event in events if isinstance(event, MessagesChanged))
    reports = reports_of(await own.kept(tx, changes), now)
    moved = await recipients.update_recipients(tx, reports) if reports else []
    if not moved:
        return None
    alike: dict[str, Counter[tuple[Standing, Standing]]] = defaultdict(Counter)
    for report, before, many in moved:
        alike[report.campaign_id][before, Standing(report.status, report.reasons, report.receipt)] += many
    totals = {campaign_id: moved_together(changes) for campaign_id, changes in alike.items()}
    partition = batch[0].source
    await tallies.add_counts(tx, {campaign_id: counts for campaign_id, (counts, _) in totals.items()}, partition)
    denials = {campaign_id: denied for campaign_id, (_, denied) in totals.items()}
    await tallies.add_reasons(tx, "denied", denials, partition)
    await _pause_what_needs_somebody(tx, moved, now)

    async def count() -> None:
        for report, _, many in moved:
            REPORTED.labels(report.status).inc(many)

    return count


async def _pause_what_needs_somebody(tx: AsyncConnection, moved: Sequence[Moved], now: datetime) -> None:
    """Pause running campaigns whose deferred messages still wait for an operator.

    A locked campaign is left alone: more reports follow.
    """
    waiting = Counter[str]()
    for report, _, many in moved:
        if report.waits:
            waiting[report.campaign_id] += many
    for campaign in await store.lock_running(tx, list(waiting)):
        await control.take(tx, campaign, Action.PAUSE, now)
        await tallies.add_reasons(
            tx, "paused", {campaign.campaign_id: Counter({NEEDS_SOMEBODY: waiting[campaign.campaign_id]})}
        )
