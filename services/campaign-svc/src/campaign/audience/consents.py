"""Keep each subject's newest consent state, as published by consent-svc.

The states serve counts, opt-outs and the event feed; the gate alone decides whether a message may leave. A poison
record makes its subject unreadable until a newer record. A state that forgets a known STOP does so until a state
accounts for the STOP.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import opt_outs, store
from campaign.audience.reach import Standing
from campaign.feed import rules, telling
from campaign.feed import store as feeds
from campaign.feed.event import Told
from campaign.senders.own import EVERYBODY, Own
from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.contracts.loosening import Stops, believed, stops_of
from common.db.database import fetch_many
from common.kafka.reading.offsets import applied_watermark
from common.kafka.subscription import COUNTED_S, After, Received, Subscription

log = logging.getLogger(__name__)

GROUP = "campaign.consents"
L = TypeVar("L", ConsentStateChanged, Stops)  # lines of senders


def subscription(own: Own = EVERYBODY) -> Subscription:
    return Subscription(GROUP, STATES, partial(apply, own=own), on_poison=mark_unreadable, gather_s=COUNTED_S)


async def apply(tx: AsyncConnection, batch: list[Received], own: Own = EVERYBODY) -> After | None:
    events = [r.event for r in batch if isinstance(r.event, ConsentStateChanged)]
    if not own.all:
        strangers = await own.strangers(tx, _senders_of(events))
        events = [_without(strangers, event) for event in events]
    await opt_outs.keep(tx, events)
    known = await store.known_standings(tx, {event.subject_id for event in events})
    if not own.all:
        known = await _of_own(tx, own, known)
        events = [event for event in events if event.subject_id in known or _says_something(event)]
    fresh = _believed(events, known)
    if not fresh:
        return None
    if await feeds.any_begun(tx):
        await telling.tell(tx, await _told(tx, fresh))
    await store.put_standings(
        tx,
        {
            subject_id: (states[-1].state.version, _standing(states[-1].state, unreadable=states[-1].forgets))
            for subject_id, states in fresh.items()
        },
    )
    return None


def _senders_of(told: Iterable[ConsentStateChanged | Stops]) -> set[str]:
    """Return every sender that these states name."""
    found: set[str] = set()
    for each in told:
        found |= {consent.sender_id for consent in each.consents}
        found |= {one.sender_id for one in each.suppressions if one.sender_id is not None}
    return found


def _without(strangers: Collection[str], told: L) -> L:
    """Return the state without the lines of other shards' senders."""
    return replace(
        told,
        consents=tuple(each for each in told.consents if each.sender_id not in strangers),
        suppressions=tuple(each for each in told.suppressions if each.sender_id not in strangers),
    )


async def _of_own(tx: AsyncConnection, own: Own, known: dict[str, store.Known]) -> dict[str, store.Known]:
    """Return the stored subjects without the STOPs of other shards' senders.

    Such a STOP was stored before the registry told of its sender; no later state accounts for the STOP here.
    """
    strangers = await own.strangers(tx, _senders_of(each.stops for each in known.values()))
    if not strangers:
        return known
    return {
        subject_id: store.Known(version, _without(strangers, stops)) for subject_id, (version, stops) in known.items()
    }


def _says_something(event: ConsentStateChanged) -> bool:
    """Return whether the state says more of its subject than that no sender here has a line.

    An opt-out from strangers leaves its version: the feed waits for the opt-out of each enforcement.
    """
    opted_out = any(cause.kind == "opt_out" for cause in event.causes)
    return bool(opted_out or event.consents or event.suppressions or event.erased or event.held_since is not None)


class _Believed(NamedTuple):
    """A state with each forgotten STOP, and whether it forgot one."""

    state: ConsentStateChanged
    forgets: bool


def _believed(
    events: Iterable[ConsentStateChanged], known: Mapping[str, store.Known]
) -> dict[str, Sequence[_Believed]]:
    """Return each subject's states that are newer than the known one, in the order of their versions.

    A newest state that forgets a STOP makes its subject unreadable.
    """
    found: dict[str, Sequence[_Believed]] = {}
    for subject_id, told in groupby(sorted(events, key=attrgetter("subject_id", "version")), attrgetter("subject_id")):
        version, stops = known.get(subject_id, store.NOT_KNOWN)
        states: list[_Believed] = []
        for event in told:
            if event.version > version:
                states.append(_Believed(*believed(stops, [event])))
                version, stops = event.version, stops_of(states[-1].state)
        if not states:
            continue
        found[subject_id] = states
        if states[-1].forgets:
            log.error(
                "a state forgets a STOP that is known here: its subject is unreadable until a state accounts for it",
                extra={"subject_id": subject_id, "version": version},
            )
    return found


async def _told(tx: AsyncConnection, fresh: Mapping[str, Sequence[_Believed]]) -> list[Told]:
    """Return the events of these states, each compared with the state before."""
    now = datetime.now(UTC)
    stored = await store.standings_of(tx, fresh)
    told: list[Told] = []
    for subject_id, states in fresh.items():
        was = stored.get(subject_id, Standing())
        before = rules.Standing(was.consents, was.suppressions, was.held)
        for state, _ in states:
            told += rules.of_state(before, state, now)
            before = rules.Standing(state.consents, state.suppressions, state.held_since is not None)
    return told


@dataclass(frozen=True, slots=True)
class Applied:
    """What the event feed has to know of consents.

    `oldest_of`: the number of partitions, while a person's state may stand in any of them: ids are moved to another
    outer key.
    """

    oldest_of: int | None = None

    async def versions_of(self, tx: AsyncConnection, subject_ids: Sequence[str]) -> Mapping[str, int]:
        return await store.versions_of(tx, subject_ids)

    async def senders_of(self, tx: AsyncConnection, subject_ids: Sequence[str]) -> Mapping[str, set[str]]:
        found = await store.standings_of(tx, subject_ids)
        return {subject_id: {c.sender_id for c in standing.consents} for subject_id, standing in found.items()}

    async def up_to(self, tx: AsyncConnection, partition: int) -> datetime | None:
        if self.oldest_of is not None:
            return await as_of(tx, self.oldest_of)
        rows = await fetch_many(
            tx,
            "SELECT as_of FROM consumer_offset WHERE consumer_group = $1 AND topic = $2 AND partition = $3",
            GROUP,
            STATES.name,
            partition,
        )
        return rows[0][0] if rows else None


async def mark_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Mark the subject of a poison record unreadable, if the record has a key."""
    if key is not None:
        await store.mark_unreadable(tx, key)


async def as_of(tx: AsyncConnection, partitions: int) -> datetime | None:
    """Return the time up to which every consent change is applied; `None` during the first reading."""
    return await applied_watermark(tx, GROUP, STATES, range(partitions))


def _standing(event: ConsentStateChanged, *, unreadable: bool) -> Standing:
    return Standing(
        consents=event.consents,
        suppressions=event.suppressions,
        erased=event.erased,
        held=event.held_since is not None,
        unreadable=unreadable,
    )
