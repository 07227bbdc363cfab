"""What the gate decides on is what was asked for, all of it."""

from datetime import UTC, datetime

from common.contracts.campaign import MessageRequested
from dispatch.gate.candidate import Candidate, requested

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)


def test_nothing_of_a_request_is_lost_on_its_way_to_the_gate() -> None:
    event = MessageRequested(
        message_id="019abcde-0000-8000-8000-000000000001",
        campaign_id="cmp-1",
        sender_id="lune",
        purpose="promotions",
        category="marketing",
        subject_id="s",
        number="sealed number",
        text="sealed text",
        requested_at=NOW,
        send_before=NOW,
        region="FR-6AE",
    )
    candidate = requested(event, 3)
    shared = set(Candidate.__struct_fields__) & set(MessageRequested.__struct_fields__)
    assert {"number", "text", "region", "send_before"} <= shared
    for name in shared:
        assert str(getattr(candidate, name)) == str(getattr(event, name)), name
