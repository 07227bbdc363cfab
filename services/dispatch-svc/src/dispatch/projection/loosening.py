"""Whether a state of a consent forgets a STOP that dispatch holds. Pure.

consent-svc's database may have lost commits (a failover to a standby that was behind): its next state then has a higher
version, and not the STOP. In the ledger the time of a STOP only grows, and only newer evidence opens what the STOP has
shut. So for each STOP that is known, any true later state says

    of a purpose that was opted out at T    something newer than T, whatever it is, or an opt-out of T
    of a suppression since T                that suppression, since T or later

A state that does not is looser than what is known: the STOPs that it forgot are kept beside what it says, and its
subject is unreadable until a state accounts for them.
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from common.contracts.consent import Consent, ConsentStateChanged, Suppression


class Stops(msgspec.Struct, frozen=True, gc=False):
    """What a state shuts: its opted-out consents, and its suppressions."""

    consents: tuple[Consent, ...] = ()
    suppressions: tuple[Suppression, ...] = ()


NO_STOPS = Stops()


def stops_of(state: ConsentStateChanged) -> Stops:
    return Stops(tuple(c for c in state.consents if c.state == "opted_out"), state.suppressions)


def loosens(stored: Stops, new: ConsentStateChanged) -> bool:
    """Whether `new` forgets a STOP of `stored`."""
    return forgotten(stored, new) != NO_STOPS


def forgotten(stored: Stops, new: ConsentStateChanged) -> Stops:
    """The STOPs of `stored` that `new` does not account for."""
    if stored == NO_STOPS:
        return NO_STOPS  # of most
    said = {(c.sender_id, c.purpose): c for c in new.consents}
    since = {s.sender_id: s.since for s in new.suppressions}
    return Stops(
        tuple(c for c in stored.consents if not _accounts(said.get((c.sender_id, c.purpose)), c)),
        tuple(s for s in stored.suppressions if s.sender_id not in since or since[s.sender_id] < s.since),
    )


def believed(stored: Stops, states: Sequence[ConsentStateChanged]) -> tuple[ConsentStateChanged, bool]:
    """Of states of one subject in the order of their versions: the last one, with each STOP that it forgot, and whether
    it forgot any."""
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
