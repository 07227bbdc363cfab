"""What dispatch knows of consent, senders and campaigns: upserts guarded by version, rebuilt from zero by replaying.

A consent that cannot be read makes its subject `unreadable`, and the gate denies; without a readable key the partition
halts, since nobody could tell whose opt-out was missed. So does a state that forgets a STOP which is known here
(`loosening.py`): consent-svc has lost it.

[n]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: an opt-out [17, 18], a control
[34, 35].
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CONTROLS, SENDERS, STATES
from common.contracts.campaign import CampaignControlled
from common.contracts.consent import ConsentStateChanged, SenderChanged
from common.kafka.consumer import URGENT_MS, After, Received, Stopped, Subscription
from common.privacy import erasing
from common.privacy.erasing import Asked
from common.telemetry import counter
from dispatch import store
from dispatch.projection.loosening import NO_STOPS, believed

log = logging.getLogger(__name__)

LOOSENED = counter(
    "sms_dispatch_consent_loosened_total",
    "States of consents that forgot a STOP which dispatch holds; each made its subject unreadable.",
)


def subscriptions() -> list[Subscription]:
    return [
        Subscription(store.CONSENTS_GROUP, STATES, apply_states, on_poison=mark_unreadable, wait_ms=URGENT_MS),
        Subscription("dispatch.senders", SENDERS, apply_senders),
        # one at a time: each waits for who is deciding, and whoever then wants to decide waits for it
        Subscription("dispatch.controls", CONTROLS, apply_controls, max_records=1),
    ]


async def apply_states(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Newer states replace older ones; each opt-out among them is enforced now or when its last message settles, and
    what waited for a review is decided again once that is over."""
    await store.lock_decisions_out(tx, batch[0].partition)
    events = [r.event for r in batch if isinstance(r.event, ConsentStateChanged)]
    known = await store.known_subjects(tx, [e.subject_id for e in events])
    fresh = newer(events, known)
    if not fresh:
        return None
    newest = await put_states(tx, fresh, known, published(batch))
    was_held = {subject_id for subject_id, subject in known.items() if subject.held}
    if lifted := [e.subject_id for e in newest if e.subject_id in was_held and e.held_since is None]:
        await store.wake_held(tx, lifted)
    opt_outs = [(state, cause) for state in fresh for cause in state.causes if cause.kind == "opt_out"]
    if not opt_outs:
        return None
    now = datetime.now(UTC)
    erased = await erasing.asked_of(tx, {state.subject_id for state, _ in opt_outs})
    await store.open_enforcements(
        tx,
        [
            {
                "subject_id": state.subject_id,
                "partition": batch[0].partition,
                "consent_version": state.version,
                "source": cause.source,
                "reference": None if _said_before(erased.get(state.subject_id), cause.received_at) else cause.reference,
                "received_at": cause.received_at,
                "applied_at": now,
            }
            for state, cause in opt_outs
        ],
    )
    await store.enforce(tx, [state.subject_id for state, _ in opt_outs])
    return None


def newer(states: Iterable[ConsentStateChanged], known: Mapping[str, store.Known]) -> list[ConsentStateChanged]:
    """The states that are newer than what is known, in the order of (subject_id, version), each version once."""
    found = {
        (state.subject_id, state.version): state
        for state in states
        if state.subject_id not in known or state.version > known[state.subject_id].version
    }
    return [found[version] for version in sorted(found)]


async def put_states(
    tx: AsyncConnection,
    states: Sequence[ConsentStateChanged],
    known: Mapping[str, store.Known],
    published: Mapping[tuple[str, int], store.Published],
    *,
    generation: store.Generation = "subject",
) -> list[ConsentStateChanged]:
    """Keep what is believed of each subject, and mark as unreadable each whose newest state forgets a STOP; returns
    what is kept. `states`: as `newer` returns them."""
    newest, loosened = [], []
    for subject_id, some in groupby(states, key=attrgetter("subject_id")):
        state, forgets = believed(known[subject_id].stops if subject_id in known else NO_STOPS, list(some))
        newest.append(state)
        if forgets:
            loosened.append(state)
    await store.put_subjects(tx, newest, published, generation=generation)
    for state in loosened:
        offset = published[state.subject_id, state.version].offset
        await store.mark_unreadable(tx, state.subject_id, offset, generation=generation)
        LOOSENED.inc()
        log.error(
            "a state forgets a STOP that is known here: its subject is denied until a state accounts for the STOP",
            extra={"subject_id": state.subject_id, "version": state.version},
        )
    return newest


def _said_before(erasure: Asked | None, at: datetime) -> bool:
    """By a text that was erased since: its opt-out counts, and which it was is not kept (`empty_enforcements`)."""
    return erasure is not None and at <= erasure.at


def published(batch: Sequence[Received]) -> dict[tuple[str, int], store.Published]:
    """Of each (subject_id, version)."""
    states = ((r.event, r) for r in batch if isinstance(r.event, ConsentStateChanged))
    return {(event.subject_id, event.version): store.Published(r.published_at, r.offset) for event, r in states}


async def mark_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Poison on consent. Raises Stopped when we cannot tell whose it was."""
    if key is None:
        raise Stopped(f"partition {partition} of {STATES.name} holds a state whose subject cannot be read")
    await store.lock_decisions_out(tx, partition)
    await store.mark_unreadable(tx, key, offset)
    log.error("consent unreadable: this subject is denied until a newer state arrives", extra={"subject_id": key})


async def apply_senders(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, SenderChanged):
            await store.put_sender(tx, received.event)
    return None


async def apply_controls(tx: AsyncConnection, batch: list[Received]) -> After | None:
    controlled = (received.event for received in batch if isinstance(received.event, CampaignControlled))
    for event in sorted(controlled, key=attrgetter("campaign_id")):  # in the order in which decisions lock them
        await store.put_control(tx, event)
    return None
