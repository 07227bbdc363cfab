"""Who takes back a STOP: what callers assert, what people do, and what a sender's rule lets by, in any order.

The oracle goes through the days as they were, one after the other; the ledger folds what it is told in any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from consent.ledger.recorder import controlled
from consent.ledger.reopening import Means, held_by, reopened, reopens_with
from consent.ledger.retention import last_contact
from consent.ledger.rules import (
    Evidence,
    SubjectState,
    fold,
    standing,
)
from consent.ledger.store import Registered
from tests.unit.consent.evidences import NOON

CONTROLLERS = {"acme": "group", "outlet": "group", "globex": "globex"}
PURPOSES = ("promotions", "loyalty")
EVERYWHERE = [(sender, purpose) for sender in CONTROLLERS for purpose in PURPOSES]
ASSERTED = ("api", "import")
ACTS = ("start", "page_on", "double_opt_in")
STOPS = ("text", "text_to_all", "page_off", "page_off_all", "link", "receipt", "provider_list", "unreadable")
SOURCES = {
    "api": "shop",
    "import": "old-crm",
    "support": "call-centre",
    "support_one": "call-centre",
    "start": "mo",
    "page_on": "preference_page",
    "double_opt_in": "double_opt_in",
    "text": "mo",
    "text_to_all": "mo",
    "page_off": "preference_page",
    "page_off_all": "preference_page",
    "link": "stop_link",
    "receipt": "receipt",
    "provider_list": "provider_list",
    "unreadable": "unreadable_mo",
}
CALLERS = ("call-centre", "rectification")
TO_ALL = ("text_to_all", "unreadable")


@dataclass(frozen=True)
class Event:
    """What happens on a day, or the change of a sender's rule. `sender` and `purpose` are who it is about."""

    kind: str
    day: int
    sender: str = "acme"
    purpose: str = "promotions"


kinds = st.sampled_from((*ASSERTED, *ACTS, *STOPS, "support", "support_one", "annul", "rule_on", "rule_off"))
events = st.builds(Event, kinds, st.integers(0, 9), st.sampled_from(tuple(CONTROLLERS)), st.sampled_from(PURPOSES))
of_one = events.map(lambda event: replace_scope(event))
histories = st.lists(events, max_size=12) | st.lists(of_one, max_size=8)  # where all that is said meets


def replace_scope(event: Event) -> Event:
    return Event(event.kind, event.day)


def recorded(history: Iterable[Event]) -> list[Evidence]:
    """The evidence, in the order of recording: the recorder adds what the registry says at that moment."""
    rules: dict[str, dict[str, str]] = {sender: {} for sender in CONTROLLERS}
    made = list[Evidence]()
    for place, event in enumerate(history):
        if event.kind == "rule_on":
            rules[event.sender][event.purpose] = f"rule-{event.sender}-{event.purpose}"
        elif event.kind == "rule_off":
            rules[event.sender].pop(event.purpose, None)
        elif event.kind == "annul":
            made += [annulment(line, place) for line in acts_of(made, event.sender, event.purpose)[-1:]]
        else:
            registered = {s: Registered(c, "controller", dict(rules[s])) for s, c in CONTROLLERS.items()}
            made.append(controlled(evidence(event, place), registered))
    return made


def evidence(event: Event, place: int) -> Evidence:
    opening = event.kind in (*ASSERTED, *ACTS)
    named = opening or event.kind in ("page_off", "support_one")
    # an opt-out is told to the second, so it counts from the end of the second; both are on record at the day's end
    at = NOON + timedelta(days=event.day)
    return Evidence(
        evidence_id=f"ev-{place}",
        kind="opt_in" if opening else "opt_out",
        sender_id=None if event.kind in TO_ALL else event.sender,
        purpose=event.purpose if named else None,
        source=SOURCES[event.kind],
        basis="opt_in" if opening else None,
        text_shown="Oui" if opening else None,
        occurred_at=at,
        received_at=at + timedelta(hours=1),
        arrived_at=at if event.kind.startswith("text") else None,
    )


def annulment(line: Evidence, place: int) -> Evidence:
    """What a rectification says of a line that counts no more."""
    return Evidence(
        evidence_id=f"ev-{place}",
        kind="opt_out",
        sender_id=line.sender_id,
        purpose=line.purpose,
        source="rectification",
        answers=line.evidence_id,
        occurred_at=line.at,
        received_at=line.received_at,
    )


def acts_of(told: Iterable[Evidence], sender: str, purpose: str) -> list[Evidence]:
    """The person's own opt-ins that count, oldest first: those after the last that was annulled."""
    told = list(told)
    acts = [e for e in told if is_act(e) and (e.sender_id, e.purpose) == (sender, purpose)]
    acts.sort(key=lambda e: (e.occurred_at, e.evidence_id))
    wrong = {e.answers for e in told}
    return acts[1 + max((n for n, act in enumerate(acts) if act.evidence_id in wrong), default=-1) :]


def day_by_day(told: Sequence[Evidence], sender: str, purpose: str) -> bool:
    """Whether the purpose is open at the end, as somebody would say who has watched each day in turn."""
    is_open, stops = False, list[str | None]()  # of the person's own that stand: to which sender (None: all)
    acts = acts_of(told, sender, purpose)
    for each in sorted(told, key=lambda e: (e.occurred_at, e.kind == "opt_out")):
        own = each.source not in ("shop", "old-crm", *CALLERS)
        if each.kind == "opt_out":
            group = each.purpose is None and CONTROLLERS.get(each.sender_id or "") == CONTROLLERS[sender]
            if (each.sender_id in (None, sender) or group) and each.purpose in (None, purpose):
                is_open, stops = False, stops + [each.sender_id] * own
        elif (each.sender_id, each.purpose) == (sender, purpose):
            if own and each in acts:
                is_open, stops = True, []
            elif not own and (not stops or (each.reopening_rule and None not in stops)):
                is_open = True
    return is_open


S, A, START = Event("text", 1), Event("api", 2), Event("start", 3)
ANNULLED = [S, Event("double_opt_in", 2), Event("annul", 3)]


@given(histories, st.randoms(use_true_random=False))
@example([S, A], None)
@example([Event("link", 1), A], None)
@example([Event("api", 0), S, A, START, Event("support", 4), Event("import", 5)], None)
@example([Event("rule_on", 0), S, A], None)
@example([Event("rule_on", 0), Event("text_to_all", 1), A], None)
@example([Event("rule_on", 0), S, A, Event("rule_off", 0), Event("api", 3)], None)
@example([Event("page_off", 1), Event("support", 3), Event("api", 4)], None)
@example([*ANNULLED, Event("api", 4)], None)
@example([*ANNULLED, Event("support_one", 3), Event("api", 4)], None)
@example([*ANNULLED, START, Event("support", 3), Event("api", 4)], None)
def test_a_purpose_is_open_as_the_days_have_it_in_any_order_of_telling(history: list[Event], mix: object) -> None:
    told = recorded(history)
    states = [fold(told), fold(reversed(told)), fold([*told, *told])]
    assert states[0] == states[1] == states[2]
    for sender, purpose in EVERYWHERE:
        assert (standing(states[0], sender, purpose) == "opted_in") is day_by_day(told, sender, purpose)


@given(histories)
@example([S, A])
def test_no_asserted_opt_in_leaves_a_stop_of_the_persons_own_open(history: list[Event]) -> None:
    """Whenever it is dated, and wherever it comes from: without a rule, only the person's own later act does."""
    told = recorded(event for event in history if event.kind != "rule_on")
    state = fold(told)
    for sender, purpose in EVERYWHERE:
        if standing(state, sender, purpose) != "opted_in":
            continue
        stops = [e.occurred_at for e in told if covers(e, sender, purpose) and e.source not in CALLERS]
        acts = [e.occurred_at for e in acts_of(told, sender, purpose)]
        assert not stops or max(acts, default=NOON - timedelta(days=1)) > max(stops)


def covers(out: Evidence, sender: str, purpose: str) -> bool:
    group = out.purpose is None and CONTROLLERS.get(out.sender_id or "") == CONTROLLERS[sender]
    return out.kind == "opt_out" and (out.sender_id in (None, sender) or group) and out.purpose in (None, purpose)


def is_act(opening: Evidence) -> bool:
    return opening.kind == "opt_in" and opening.source not in ("shop", "old-crm")


@given(histories)
@example([S, A])
@example([Event("page_off", 1), A])
@example([Event("api", 0), Event("page_off", 1), A])
def test_what_is_asserted_against_a_stop_changes_nothing_but_the_record(history: list[Event]) -> None:
    """Without a rule: no purpose's state, no purpose that a START would open, and no term of the data."""
    history = [event for event in history if not event.kind.startswith("rule")]
    for at, event in enumerate(history):
        if event.kind not in ASSERTED:
            continue
        told, one = recorded(history[:at]), recorded(history[: at + 1])[-1]
        if not (stops := persons_stops(told, event)):
            continue
        state, after = fold(told), fold([*told, one])
        for sender, purpose in EVERYWHERE:
            assert opened(state, sender, purpose) == opened(after, sender, purpose)
        if any(stop.purpose for stop in stops):
            assert event.purpose not in reopened(after, event.sender), "left by name, on the page"
        if any(stop.occurred_at < one.occurred_at for stop in stops):
            contact, since = last_contact(state, event.sender), max(stop.at for stop in stops)
            assert contact in (last_contact(after, event.sender), None) or contact <= since
            assert (last_contact(after, event.sender) or since) <= max(since, contact or since)


def persons_stops(told: Sequence[Evidence], about: Event) -> list[Evidence]:
    """The STOPs of the person's own for the purpose, since the person's last own opt-in."""
    acts = [e.occurred_at for e in acts_of(told, about.sender, about.purpose)]
    stops = [e for e in told if e.source not in CALLERS and covers(e, about.sender, about.purpose)]
    return [stop for stop in stops if stop.occurred_at >= max(acts, default=stop.occurred_at)]


def opened(state: SubjectState, sender: str, purpose: str) -> bool:
    return standing(state, sender, purpose) == "opted_in"


@given(histories)
@example([Event("api", 0), S, A])
@example([Event("page_off", 1), A])
@example([Event("support", 1), Event("api", 0)])
def test_the_answer_says_what_opens_the_consent_and_nothing_else_does(history: list[Event]) -> None:
    told = recorded(history)
    state = fold(told)
    for one in (e for e in told if e.kind == "opt_in" and e.source in ("shop", "old-crm")):
        assert one.sender_id is not None
        assert one.purpose is not None
        scope = one.sender_id, one.purpose
        means = reopens_with(state, one, erased=False)
        if opened(state, *scope):
            assert (means, held_by(state, one)) == ((), None)
            continue
        later = {"occurred_at": NOON + timedelta(days=20), "received_at": NOON + timedelta(days=20)}
        newer = replace(one, evidence_id="ev-newer", reopening_rule=None, **later)
        assert opened(fold([*told, newer]), *scope) is (Means.NEWER_OPT_IN in means)
        assert (held_by(state, one) is None) is (Means.NEWER_OPT_IN in means)
        start = [replace(newer, evidence_id=f"ev-start-{p}", purpose=p, source="mo") for p in reopened(state, scope[0])]
        assert opened(fold([*told, *start]), *scope) is (Means.START in means)
        for way, source in ((Means.DOUBLE_OPT_IN, "double_opt_in"), (Means.PREFERENCE_PAGE, "preference_page")):
            assert way in means
            assert opened(fold([*told, replace(newer, source=source)]), *scope)


@given(histories)
@example([Event("rule_on", 0), S, A])
@example([Event("rule_on", 0), Event("support", 1), A])
def test_a_consent_names_the_rule_it_rests_on_and_no_other_does(history: list[Event]) -> None:
    """By taking the rules away: what is shut then has rested on one."""
    told = recorded(history)
    with_rules, without = fold(told), fold([replace(e, reopening_rule=None) for e in told])
    for consent in with_rules.consents:
        if consent.state == "opted_in":
            rests = not opened(without, consent.sender_id, consent.purpose)
            expected = f"rule-{consent.sender_id}-{consent.purpose}" if rests else None
            assert consent.reopening_rule == expected
        else:
            assert consent.reopening_rule is None
