"""DOMAIN 7.3, case by case: evidence as it came, through the ledger, and what the gate says of a message then.

Of DOMAIN 7 the other tables are 7.1 (segments) in `tests/unit/campaign/test_campaign_text.py`, and 7.2 (hours) in
`tests/unit/common/test_law.py`. "Once", of the confirmation of a STOP, is `tests/service/consent/test_answers.py`; that
no file brings an erased person back, also `tests/service/campaign/test_campaign_erasure.py`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from common.law import load
from consent.ledger import retention
from consent.ledger import rules as ledger
from consent.ledger.rules import Evidence
from dispatch.gate.rules import Allow, Defer, Deny, Knowledge, Request, Subject, Verdict, decide
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)  # a Tuesday, 10:00 in Paris
YEAR = timedelta(days=365)
PROMOTION = Request(
    category="marketing",
    sender_id="brand-a",
    purpose="promotions",
    campaign_id="c1",
    requested_at=NOW - timedelta(minutes=1),
    send_before=NOW + timedelta(days=1),
    territory="FR",
    mentions_stop=True,
)
SERVICE = replace(PROMOTION, category="service", purpose=None, campaign_id=None, mentions_stop=False)
TRANSACTIONAL = replace(SERVICE, category="transactional")


def said(kind: Any, ago: timedelta, sender_id: str = "brand-a", delivered: timedelta | None = None) -> Evidence:
    """`ago`: how long before NOW it was said. `delivered`: how long before NOW we heard of it."""
    return Evidence(
        evidence_id=f"{kind}-{sender_id}-{ago}",
        kind=kind,
        sender_id=sender_id,
        purpose="promotions" if kind == "opt_in" else None,
        source="mo" if kind == "opt_out" else "form",
        basis="soft_opt_in" if kind == "opt_in" else None,
        sale_reference="2024-17" if kind == "opt_in" else None,
        form_id="checkout",
        form_version="3",
        occurred_at=NOW - ago,
        received_at=NOW - (ago if delivered is None else delivered),
    )


def gate(request: Request, *evidence: Evidence, **known: Any) -> Verdict:
    """What goes out on this evidence, in the order in which it came; `known`: of Knowledge, and `erased`."""
    state = ledger.fold(evidence)
    ends = {(t.sender_id, t.purpose): t.expires_at for t in retention.terms(state, {})}
    subject = Subject(
        version=len(evidence),
        consents=tuple(replace(c, expires_at=ends.get((c.sender_id, c.purpose))) for c in ledger.consents(state)),
        suppressions=ledger.suppressions(state),
        erased=known.pop("erased", False),
        unreadable=False,
    )
    about = {
        "as_of": NOW - timedelta(seconds=1),
        "subject": subject if evidence else None,
        "purposes": frozenset({"promotions"}),
        "countries": frozenset({"FR"}),
        "control": "running",
        **known,
    }
    return decide(request, Knowledge(**about), NOW, Limits(), load("france-3"))


IN, STOP = said("opt_in", 2 * YEAR), said("opt_out", YEAR)


@pytest.mark.parametrize(
    ("case", "found", "expected"),
    [
        ("no record", gate(PROMOTION), Deny((Reason.NO_CONSENT,))),
        (
            "opt-in brand A, promo brand B",
            gate(PROMOTION, said("opt_in", YEAR, "brand-b")),
            Deny((Reason.NO_CONSENT, Reason.OTHER_CONTROLLER)),
        ),
        ("soft opt-in, purchase 2 years ago", gate(PROMOTION, IN), Allow()),
        (
            "soft opt-in, last contact 3 years and a day ago",
            gate(PROMOTION, said("opt_in", 3 * YEAR + timedelta(days=2))),  # one of them a leap year
            Deny((Reason.CONSENT_EXPIRED,)),
        ),
        (
            "the same, and a click since: contact from the person",
            gate(PROMOTION, said("opt_in", 3 * YEAR + timedelta(days=2)), said("contact", YEAR)),
            Allow(),
        ),
        ("opt-in then STOP", gate(PROMOTION, IN, STOP), Deny((Reason.OPTED_OUT, Reason.SUPPRESSED))),
        (
            "opt-in, STOP, new opt-in that a form asserts",
            gate(PROMOTION, IN, STOP, said("opt_in", timedelta(days=9))),
            Deny((Reason.OPTED_OUT, Reason.SUPPRESSED)),
        ),
        (
            "opt-in, STOP, new opt-in of the person's own",
            gate(PROMOTION, IN, STOP, replace(said("opt_in", timedelta(days=9)), source="double_opt_in")),
            Allow(),
        ),
        (
            "opt-in, an employee's opt-out, new web opt-in with evidence",
            gate(PROMOTION, IN, replace(STOP, source="call-centre"), said("opt_in", timedelta(days=9))),
            Allow(),
        ),
        (
            "a STOP taken back, and the provider's blacklist still blocks",
            gate(PROMOTION, IN, STOP, replace(said("opt_in", timedelta(days=9)), source="mo"), blocked=True),
            Deny((Reason.PROVIDER_BLOCK,)),
        ),
        ("opted out, transactional", gate(TRANSACTIONAL, IN, STOP), Allow()),
        (
            "erased, in the suppression list, imported anew",
            gate(PROMOTION, STOP, said("opt_in", 2 * YEAR, delivered=timedelta(hours=1)), erased=True),
            Deny((Reason.ERASED, Reason.OPTED_OUT, Reason.SUPPRESSED)),
        ),
        (
            "STOP between scheduling and dispatch",
            gate(replace(PROMOTION, requested_at=NOW - timedelta(hours=1)), IN, said("opt_out", timedelta(minutes=30))),
            Deny((Reason.OPTED_OUT, Reason.SUPPRESSED)),
        ),
        (
            "STOP older than the opt-in, delivered later",
            gate(
                PROMOTION,
                said("opt_in", timedelta(hours=1)),
                said("opt_out", timedelta(hours=2), delivered=timedelta()),
            ),
            Deny((Reason.OPTED_OUT, Reason.SUPPRESSED)),
        ),
        (
            "STOP at the instant of the opt-in: a tie is an opt-out",
            gate(PROMOTION, said("opt_in", timedelta(hours=1)), said("opt_out", timedelta(hours=1))),
            Deny((Reason.OPTED_OUT, Reason.SUPPRESSED)),
        ),
        ("STOP confirmation itself", gate(SERVICE, IN, STOP), Allow()),
    ],
)
def test_the_golden_consent_filter(case: str, found: Verdict, expected: Verdict) -> None:
    if isinstance(expected, Deny):
        assert isinstance(found, Deny), case
        assert set(found.reasons) == set(expected.reasons), case
    else:
        assert found == expected, case


@pytest.mark.parametrize("as_of", [None, NOW - timedelta(seconds=2, microseconds=1)])
def test_behind_or_unreachable_nothing_goes(as_of: datetime | None) -> None:
    assert isinstance(gate(PROMOTION, IN, as_of=as_of), Defer)
