"""Put decisions into effect once their time to be undone is over, and measure how long texts wait for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

import msgspec

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import Concern, MessageReceived
from common.db.database import Database
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.telemetry import gauge
from inbound.reviews import queue, rules
from inbound.reviews.queue import Decided

RULE = "person"  # in place of a rule's name
LOOK_EVERY_S = 1.0
MEASURE_EVERY_S = 30.0
AT_ONCE = 200

OLDEST = gauge("sms_inbound_oldest_review_age_seconds", "Age of the oldest open review; 0 without one.", ["concern"])
LATE = gauge(
    "sms_inbound_review_overdue_seconds",
    "How long the oldest open review is past the time in which a person reads its text; 0 without one.",
    ["concern"],
)
OPEN = gauge("sms_inbound_open_reviews", "Open reviews, by concern.", ["concern"])


@dataclass(frozen=True, slots=True)
class Effect:
    """The workers of the queue."""

    database: Database

    def workers(self) -> list[Worker]:
        timers = (
            Timer("decided reviews", self.publish, LOOK_EVERY_S, self.database),
            Timer("open reviews", self.measure, MEASURE_EVERY_S, self.database),
        )
        return [Worker(timer.name, timer.run) for timer in timers]

    async def publish(self) -> bool:
        """Publish the decisions whose time to be undone is over; return whether there may be more."""
        async with self.database.begin() as tx:
            due = await queue.lock_due(tx, datetime.now(UTC), AT_ONCE)
            await outbox.append(
                tx, INBOUND_MESSAGES, [revised(each.event, each.decided) for each in due if each.decided]
            )
            await queue.tell(tx, [each.event.mo_id for each in due])
        return len(due) == AT_ONCE

    async def measure(self) -> bool:
        async with self.database.begin() as tx:
            waiting = await queue.waiting(tx)
        show(waiting, datetime.now(UTC))
        return False


def show(waiting: Mapping[Concern, queue.Waiting], now: datetime) -> None:
    """Set the gauges of each concern, also of one without an open review."""
    for concern in get_args(Concern):
        found = waiting.get(concern)
        OPEN.labels(concern).set(found.reviews if found else 0)
        OLDEST.labels(concern).set((now - found.oldest).total_seconds() if found else 0)
        late = (now - rules.due_at(concern, found.oldest)).total_seconds() if found else 0
        LATE.labels(concern).set(max(late, 0))


def revised(event: MessageReceived, decided: Decided) -> MessageReceived:
    """Return the MO's next revision, with the decided intent."""
    return msgspec.structs.replace(
        event,
        intent=decided.intent,
        rule=RULE,
        score=1.0,
        revision=event.revision + 1,
        decided_by=decided.by,
        decided_at=decided.at,
    )
