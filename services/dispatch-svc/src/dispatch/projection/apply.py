"""The projection of consents, senders, templates and campaigns: upserts guarded by version, rebuilt by replay.

An unreadable consent makes its subject `unreadable`, and so does a state that forgets a known STOP
(`common/contracts/loosening.py`). Without a readable key the partition halts, since the missed opt-out could be
anyone's.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: an opt-out
[before-opt-out-commit, after-opt-out-commit], a control [before-control-commit, after-control-commit].
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CONTROLS, SENDERS, STATES, TEMPLATES
from common.contracts.campaign import CampaignControlled, TemplateChanged
from common.contracts.consent import ConsentStateChanged, SenderChanged
from common.contracts.loosening import NO_STOPS, believed
from common.kafka.subscription import URGENT_MS, After, Received, Stopped, Subscription
from common.privacy import erasing
from common.privacy.erasing import Erasure
from common.telemetry import counter
from dispatch.messages import enforcement, waking_store
from dispatch.messages import store as messages
from dispatch.projection import store, templates

log = logging.getLogger(__name__)

LOOSENED = counter(
    "sms_dispatch_consent_loosened_total",
    "Consent states without a STOP that dispatch-svc holds; each makes its subject unreadable.",
)
REUSED = counter(
    "sms_dispatch_template_versions_reused_total",
    "Published versions of templates with another content than before; no message leaves from such a version.",
)


def subscriptions() -> list[Subscription]:
    return [
        Subscription(store.CONSENTS_GROUP, STATES, apply_states, on_poison=mark_unreadable, wait_ms=URGENT_MS),
        Subscription("dispatch.senders", SENDERS, apply_senders),
        Subscription("dispatch.templates", TEMPLATES, apply_templates, on_poison=mark_template_unreadable),
        # a single record: a control waits for running decisions, and later decisions for the control
        Subscription("dispatch.controls", CONTROLS, apply_controls, max_records=1),
    ]


async def apply_states(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Apply states of one partition, under the lock of each person's own.

    Each opt-out is enforced now, or with the outcome of the person's last message in flight. Messages held for a review
    become due once the review is over.
    """
    homes = {r.event.subject_id: r.home for r in batch if isinstance(r.event, ConsentStateChanged)}
    await messages.lock_decisions_out(tx, batch[0].partition, *homes.values())
    events = [r.event for r in batch if isinstance(r.event, ConsentStateChanged)]
    known = await store.known_subjects(tx, [e.subject_id for e in events])
    fresh = newer(events, known)
    if not fresh:
        return None
    newest = await put_states(tx, fresh, known, published(batch))
    was_held = {subject_id: subject.held_since for subject_id, subject in known.items() if subject.held_since}
    if lifted := [e.subject_id for e in newest if e.subject_id in was_held and e.held_since is None]:
        await waking_store.wake_held(tx, lifted, min(was_held[subject_id] for subject_id in lifted))
    opt_outs = [(state, cause) for state in fresh for cause in state.causes if cause.kind == "opt_out"]
    if not opt_outs:
        return None
    now = datetime.now(UTC)
    erased = await erasing.asked_of(tx, {state.subject_id for state, _ in opt_outs})
    await enforcement.open_enforcements(
        tx,
        [
            enforcement.OptOut(
                subject_id=state.subject_id,
                partition=homes[state.subject_id],
                consent_version=state.version,
                source=cause.source,
                reference=None
                if _said_before(erased.get(state.subject_id, ()), cause.received_at)
                else cause.reference,
                received_at=cause.received_at,
                applied_at=now,
            )
            for state, cause in opt_outs
        ],
    )
    await enforcement.enforce(tx, [state.subject_id for state, _ in opt_outs])
    return None


def newer(states: Iterable[ConsentStateChanged], known: Mapping[str, store.Known]) -> list[ConsentStateChanged]:
    """Return the states newer than the known ones, ordered, each version once."""
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
    """Store the believed state of each subject; a newest state that forgets a STOP makes its subject unreadable.

    Return the stored states. `states` come from `newer`.
    """
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


def _said_before(erasures: Iterable[Erasure], at: datetime) -> bool:
    """Return whether the text behind the opt-out was erased since, with everything of the person."""
    return any(each.controller_id is None and at <= each.at for each in erasures)


def published(batch: Sequence[Received]) -> dict[tuple[str, int], store.Published]:
    """Return the publication of each (subject_id, version)."""
    states = ((r.event, r) for r in batch if isinstance(r.event, ConsentStateChanged))
    return {(event.subject_id, event.version): store.Published(r.published_at, r.home_offset) for event, r in states}


async def mark_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Mark the subject of a poison consent unreadable. Raise Stopped without a subject."""
    if key is None:
        raise Stopped(f"partition {partition} of {STATES.name} holds a state whose subject cannot be read")
    await messages.lock_decisions_out(tx, partition)
    await store.mark_unreadable(tx, key, offset)
    log.error("consent unreadable: this subject is denied until a newer state arrives", extra={"subject_id": key})


async def apply_senders(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, SenderChanged):
            await store.put_sender(tx, received.event)
    return None


async def apply_templates(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, TemplateChanged) and not await templates.put_template(tx, received.event):
            REUSED.inc()
            log.error(
                "a version of a template has another content than before: no message leaves from this version",
                extra={"template": received.event.template_version},
            )
    return None


async def mark_template_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Let no message leave from the version of a poison record, which may retire the version.

    Raise Stopped without a key.
    """
    if key is None:
        raise Stopped(f"partition {partition} of {TEMPLATES.name} holds a template whose key cannot be read")
    await templates.mark_unreadable(tx, key)
    log.error("template unreadable: no message leaves from this version", extra={"template": key})


async def apply_controls(tx: AsyncConnection, batch: list[Received]) -> After | None:
    controlled = (received.event for received in batch if isinstance(received.event, CampaignControlled))
    for event in sorted(controlled, key=attrgetter("campaign_id")):  # the order in which decisions lock campaigns
        await store.put_control(tx, event)
    return None
