"""A message is decided in its batch as it would be alone: nothing of one message's decision is taken for another's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.consent import Consent, Suppression
from common.law import at_hand_off, load
from common.limits import Limited
from common.limits import Limits as OrganisationLimits
from common.privacy.erasing import Erasure
from dispatch.gate.candidate import Candidate, Decision
from dispatch.gate.deciding import Batch, Known, Opened, Resources
from dispatch.gate.rules import Subject
from dispatch.gateways.gateway import Capabilities
from dispatch.gateways.pool import Traffic
from dispatch.gateways.routing import Route
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits
from dispatch.projection.store import Sender
from tests.service.dispatch.test_decision_records import Unasked
from tests.support.prices import line, prices

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)  # Tuesday, 10:00 in Paris
NEVER, SOON, LATE = NOW - timedelta(hours=2), NOW + timedelta(milliseconds=400), NOW + timedelta(days=2)
PEOPLE = [f"o1-{n:032x}" for n in range(12)]  # the sixth and the last are unknown
PURPOSE = "promotions"


class Narrow(Unasked):
    """A gateway for short texts that adds the STOP mention."""

    name = "narrow"
    capabilities = Capabilities(adds_stop=True, segments=1)


CONSENT = Consent(
    sender_id="a",
    purpose=PURPOSE,
    state="opted_in",
    basis="opt_in",
    evidence_id="e",
    occurred_at=NOW - timedelta(days=9),
)


def consent(**more: object) -> Consent:
    return replace(CONSENT, **more)


YES = (consent(),)  # the same list of several people
SUBJECTS = {
    PEOPLE[0]: Subject(1, YES, (), False, False),
    PEOPLE[6]: Subject(7, YES, (), False, False),
    PEOPLE[7]: Subject(8, YES, (), True, False),
    PEOPLE[8]: Subject(9, YES, (), False, True),
    PEOPLE[9]: Subject(10, YES, (), False, False, NOW - timedelta(hours=1)),
    PEOPLE[10]: Subject(11, YES, (Suppression(sender_id=None, since=NOW),), False, False),
    PEOPLE[1]: Subject(2, (consent(expires_at=SOON), consent(sender_id="b")), (), False, False),
    PEOPLE[2]: Subject(3, (consent(state="opted_out"),), (), False, False),
    PEOPLE[3]: Subject(4, (consent(), consent(sender_id="b")), (), False, False, NOW - timedelta(hours=1)),
    PEOPLE[4]: Subject(5, (consent(), consent(sender_id="b")), (), False, False),
}
SENDERS = {
    sender_id: Sender("A", code, frozenset({PURPOSE}), countries, frozenset(), None, sender_id, "development")
    for sender_id, code, countries in (("a", "36111", frozenset({"FR"})), ("b", "38111", frozenset({"FR", "ES"})))
}
KNOWN = Known(
    now=NOW,
    lapses=NOW + timedelta(seconds=1),
    until=100.0,
    as_of=NOW - timedelta(milliseconds=300),
    senders=SENDERS,
    subjects=SUBJECTS,
    controls={"c1": "running", "c2": "paused"},
    blocks={PEOPLE[0]: frozenset({"simulator"}), PEOPLE[4]: frozenset({"narrow"})},
    erased={PEOPLE[3]: [Erasure("a", NOW - timedelta(minutes=30), frozenset())]},
    retired={"t@1"},
    controllers={"a": {"a", "b"}, "b": {"b"}},
    purses={},
    highest={},
)
ROUTES = [Route("simulator"), Route("narrow", frozenset({"FR"}), categories=frozenset({"marketing", "service"}))]
PRICES = prices(line("FR", "0.05"), line("FR", "0.06", sender="b"), line("US", "0.07"), line("DE", "0.08"))
BUDGET: Any = SimpleNamespace(limited=Limited(version="t", default=OrganisationLimits(places=("US",))))
HAVING = Resources(Traffic([Unasked(), Narrow()], ROUTES), at_hand_off(load("france-3")), Limits(cap=2), PRICES, BUDGET)

VALUES: dict[str, tuple[object, ...]] = {
    "subject_id": tuple(PEOPLE),
    "number": ("+33639980001", "+491713920001", "+12025550101", ""),
    "text": (
        "Soldes. STOP au 36111",
        "Soldes",
        "Soldes. STOP 38111",
        "é" * 200 + " STOP au 36111",
        "é" * 400 + " STOP au 36111",
    ),
    "flaw": (None, Reason.SUBJECT_MISMATCH),
    "stop_link": (False, True),
    "foreign_link": (False, True),
    "sender_id": ("a", "b", "c"),
    "purpose": (PURPOSE, "loyalty", None),
    "campaign_id": ("c1", "c2", None),
    "category": ("marketing", "transactional", "service"),
    "requested_at": (NOW - timedelta(hours=1), NOW),
    "send_before": (LATE, SOON, NEVER),
    "region": (None, "FR-57", "MQ"),
    "template": (None, "t@1", "t@2"),
    "gateway": ("simulator", "narrow"),
}
OPENED = {"number", "text", "flaw", "stop_link", "foreign_link"}
changes = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])


def message(place: int, fields: Mapping[str, Any]) -> tuple[Candidate, Opened]:
    more = {name: value for name, value in fields.items() if name not in OPENED}
    opened = Opened(**{name: value for name, value in fields.items() if name in OPENED})
    candidate = Candidate(message_id=UUID(int=place << 64), partition=0, number="sealed", text="sealed", **more)
    return candidate, opened if opened.flaw is None else Opened("", "", opened.flaw)


def decided(batch: Batch, some: Sequence[tuple[Candidate, Opened]]) -> list[Decision]:
    return [batch.decide(candidate, opened) for candidate, opened in some]


HAD = Counter({(who, sender_id): place % 4 for place, who in enumerate(PEOPLE[5:]) for sender_id in ("a", "b")})


def check(some: Sequence[tuple[Candidate, Opened]], *, again: bool) -> None:
    together = decided(Batch(HAVING, KNOWN, Counter(HAD), again), some)
    recent = Counter(HAD)
    alone = [decided(Batch(HAVING, KNOWN, recent, again), [each])[0] for each in some]
    for mine, its in zip(together, alone, strict=True):
        assert (mine.verdict, mine.row, mine.permit, mine.shared) == (its.verdict, its.row, its.permit, its.shared)


FIRST = {name: values[0] for name, values in VALUES.items()}


@given(st.lists(changes, max_size=4), st.lists(changes, min_size=1, max_size=4), st.booleans())
def test_messages_that_differ_in_few_fields_are_decided_as_each_alone(
    base: list[tuple[str, object]], then: list[tuple[str, object]], again: bool
) -> None:
    fields = FIRST | dict(base)
    check([message(0, fields), *(message(n, fields | dict([each])) for n, each in enumerate(then, 1))], again=again)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("category", VALUES["category"])
@pytest.mark.parametrize("name", VALUES)
def test_each_field_counts_for_its_message_alone(name: str, category: str, again: bool) -> None:
    for subject_id in PEOPLE:
        base = FIRST | {"category": category, "subject_id": subject_id}
        for value in VALUES[name]:
            for template, text in product((None, "t@2"), VALUES["text"]):
                usual = base | {"template": template, "text": text}
                pair = [message(1, usual), message(2, usual | {name: value}), message(3, usual)]
                check(pair, again=again)
                check(pair[1:], again=again)
