"""Keep each subject's newest consent state, as published by consent-svc.

The states serve counts and opt-outs; the gate alone decides whether a message may leave. A poison record makes
its subject unreadable until a newer record. A state that forgets a known STOP does so until a state accounts for the
STOP.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import opt_outs, store
from campaign.audience.reach import Standing
from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.contracts.loosening import believed
from common.kafka.reading.offsets import applied_watermark
from common.kafka.subscription import After, Received, Subscription

log = logging.getLogger(__name__)

GROUP = "campaign.consents"


def subscription() -> Subscription:
    return Subscription(GROUP, STATES, apply, on_poison=mark_unreadable)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    events = [r.event for r in batch if isinstance(r.event, ConsentStateChanged)]
    await opt_outs.keep(tx, events)
    known = await store.known_standings(tx, {event.subject_id for event in events})
    if told := _believed(events, known):
        await store.put_standings(tx, told)
    return None


def _believed(
    events: Iterable[ConsentStateChanged], known: Mapping[str, store.Known]
) -> dict[str, tuple[int, Standing]]:
    """Return each subject's newest state if newer than the known one; a state that forgets a STOP is unreadable."""
    found: dict[str, tuple[int, Standing]] = {}
    for subject_id, told in groupby(sorted(events, key=attrgetter("subject_id", "version")), attrgetter("subject_id")):
        version, stops = known.get(subject_id, store.NOT_KNOWN)
        states = [event for event in told if event.version > version]
        if not states:
            continue
        state, forgets = believed(stops, states)
        found[subject_id] = state.version, _standing(state, unreadable=forgets)
        if forgets:
            log.error(
                "a state forgets a STOP that is known here: its subject is unreadable until a state accounts for it",
                extra={"subject_id": subject_id, "version": state.version},
            )
    return found


async def mark_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Mark the subject of a poison record unreadable, if the record has a key."""
    if key is not None:
        await store.mark_unreadable(tx, key)


async def as_of(tx: AsyncConnection, partitions: int) -> datetime | None:
    """Return the time up to which every consent change is applied; `None` during the first reading."""
    return await applied_watermark(tx, GROUP, STATES, partitions)


def _standing(event: ConsentStateChanged, *, unreadable: bool) -> Standing:
    return Standing(
        consents=event.consents,
        suppressions=event.suppressions,
        erased=event.erased,
        held=event.held_since is not None,
        unreadable=unreadable,
    )
