"""Check whether a consent state forgets a STOP that its reader knows. Pure.

consent-svc's database may lose commits (a failover to a lagging standby): the next state then has a higher version
without the STOP. In the ledger the time of a STOP only grows, and only newer evidence reopens an opt-out. So for each
known STOP, any true later state says

    of a purpose opted out at T    evidence newer than T of any kind, or an opt-out of T
    of a suppression since T       the suppression, since T or later

A forgotten STOP is kept beside the new state; the subject is unreadable until a state accounts for the STOP.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from common.contracts.consent import Consent, ConsentStateChanged, Suppression


class Stops(msgspec.Struct, frozen=True, gc=False):
    """The STOPs of a state: opted-out consents and suppressions."""

    consents: tuple[Consent, ...] = ()
    suppressions: tuple[Suppression, ...] = ()


NO_STOPS = Stops()


def stops_of(state: ConsentStateChanged) -> Stops:
    return stops(state.consents, state.suppressions)


def stops(consents: Iterable[Consent], suppressions: tuple[Suppression, ...]) -> Stops:
    return Stops(tuple(c for c in consents if c.state == "opted_out"), suppressions)


def loosens(stored: Stops, new: ConsentStateChanged) -> bool:
    """Return whether `new` forgets a STOP of `stored`."""
    return forgotten(stored, new) != NO_STOPS


def forgotten(stored: Stops, new: ConsentStateChanged) -> Stops:
    """Return the STOPs for which `new` does not account."""
    if stored == NO_STOPS:
        return NO_STOPS  # the usual case
    said = {(c.sender_id, c.purpose): c for c in new.consents}
    since = {s.sender_id: s.since for s in new.suppressions}
    return Stops(
        tuple(c for c in stored.consents if not _accounts(said.get((c.sender_id, c.purpose)), c)),
        tuple(s for s in stored.suppressions if s.sender_id not in since or since[s.sender_id] < s.since),
    )


def believed(stored: Stops, states: Sequence[ConsentStateChanged]) -> tuple[ConsentStateChanged, bool]:
    """Return the last of a subject's states, with each forgotten STOP, and whether it forgot one.

    `states` are in the order of their versions.
    """
    forgets = False
    for told in states:
        missing = forgotten(stored, told)
        forgets = missing != NO_STOPS
        state = _kept(told, missing) if forgets else told
        stored = stops_of(state)
    return state, forgets


def _accounts(said: Consent | None, stop: Consent) -> bool:
    if said is None or said.occurred_at < stop.occurred_at:
        return False
    return said.state == "opted_out" or said.occurred_at > stop.occurred_at


def _kept(told: ConsentStateChanged, missing: Stops) -> ConsentStateChanged:
    consents = {(c.sender_id, c.purpose): c for c in (*told.consents, *missing.consents)}
    suppressions = {s.sender_id: s for s in (*told.suppressions, *missing.suppressions)}
    return replace(told, consents=tuple(consents.values()), suppressions=tuple(suppressions.values()))
