"""Decide what opens a consent that a STOP or an end has closed. Pure: no clock, no I/O.

Only the person, or the sender's reopening rule, opens a consent after a STOP of the person's own (ADR-0064).
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec.structs import replace

from consent.ledger.rules import (
    Evidence,
    Mark,
    SubjectState,
    addressee,
    apply,
    newest_opt_in,
    opt_ins,
    persons_stops,
    standing,
)


class Means(StrEnum):
    """A means to open a consent, named alike in the API's answer."""

    NEWER_OPT_IN = "newer_opt_in"
    START = "start"
    DOUBLE_OPT_IN = "double_opt_in"
    PREFERENCE_PAGE = "preference_page"


def held_by(state: SubjectState, evidence: Evidence) -> Mark | None:
    """Return the newest STOP of the person's own because of which the opt-in `evidence` is without effect.

    `state` includes `evidence`. Without a STOP, or with an open consent, the result is `None`.
    """
    if evidence.kind != "opt_in" or evidence.by_person:
        return None
    sender_id, purpose, controller = addressee(evidence)
    if standing(state, sender_id, purpose) == "opted_in":
        return None
    # the recorder has added the controller to the mark alone
    controller = next((mark.controller for mark in opt_ins(state, sender_id, purpose)), controller)
    return max(persons_stops(state, sender_id, purpose, controller), key=lambda mark: mark.rank, default=None)


def reopens_with(state: SubjectState, evidence: Evidence, *, erased: bool) -> tuple[Means, ...]:
    """Return what would open the consent of the opt-in `evidence`: nothing if the consent is open.

    A person that was erased has no consent that a START could take up again.
    """
    sender_id, purpose, _ = addressee(evidence)
    if standing(state, sender_id, purpose) == "opted_in":
        return ()
    found = [] if held_by(state, evidence) else [Means.NEWER_OPT_IN]
    if purpose in reopened(state, sender_id) and not erased:
        found.append(Means.START)
    return (*found, Means.DOUBLE_OPT_IN, Means.PREFERENCE_PAGE)


def is_repeat(state: SubjectState, stop: Evidence) -> bool:
    """Return whether a STOP of the person's own says the same as `stop`, with no opt-in and no question after.

    `stop` carries the registry's controller.
    """
    scope = stop.sender_id, stop.purpose, stop.controller
    said = [m for m in state.marks if m.kind == "opt_out" and m.by_person]
    return any(
        (out.sender_id, out.purpose, out.controller) == scope
        and all(out.shuts(m) for m in state.marks if m.kind in ("opt_in", "request") and out.covers(*addressee(m)))
        for out in said
    )


def reopened(state: SubjectState, sender_id: str) -> tuple[str, ...]:
    """Return the purposes of this sender that a START by SMS opens again.

    A START takes back a STOP and grants nothing new (DOMAIN 2.4, France). On a code of several controllers,
    `inbound.shared_codes.taken_back` decides first for which senders this function is called.
    """
    own = SubjectState(tuple(m for m in state.marks if m.sender_id == sender_id and m.purpose))
    purposes = dict.fromkeys(m.purpose for m in own.marks if m.purpose and m.kind == "opt_in")
    # a purpose left by name stays so, whatever a caller asserts
    newest = {p: given for p in purposes if (given := newest_opt_in(own, sender_id, p))}
    closing = [m for m in own.marks if m.kind in ("opt_out", "expiry")]
    return tuple(p for p, given in newest.items() if not any(m.purpose == p and m.shuts(given) for m in closing))


def ever_given(history: Iterable[Evidence], controllers: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return each (sender, purpose) with an opt-in that no STOP of the person's own held when it was recorded.

    `history`: in the order of recording. `controllers`: by sender_id.
    """
    given, state = set(), SubjectState()
    for one in history:
        if one.kind in ("opt_in", "request"):
            one = replace(one, controller=controllers.get(one.sender_id or ""))
        state = apply(state, one)
        if one.kind == "opt_in" and held_by(state, one) is None:
            sender_id, purpose, _ = addressee(one)
            given.add((sender_id, purpose))
    return given
