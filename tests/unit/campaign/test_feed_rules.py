"""What each sender is told of a person and of a message, and what it is not told."""

from datetime import timedelta

from msgspec.structs import replace

from campaign.feed import rules
from campaign.feed.event import Type, id_of
from common.contracts.consent import Consent, ConsentStateChanged, Suppression
from tests.service.campaign.campaigns import changed
from tests.support.builders import SENDER, now, opted_in, opted_out, subject

OTHER = "autre-marque"
NOBODY_YET = rules.Standing()


def standing(state: ConsentStateChanged) -> rules.Standing:
    return rules.Standing(state.consents, state.suppressions, state.held_since is not None)


def told(before: rules.Standing, after: ConsentStateChanged) -> list[tuple[Type, str | None]]:
    return [(each.type, each.sender_id) for each in rules.of_state(before, after, now())]


def of_other(state: ConsentStateChanged) -> Consent:
    return replace(state.consents[0], sender_id=OTHER)


def test_a_first_opt_in_is_a_change_and_an_opt_out_is_named_so() -> None:
    given = opted_in(1)
    assert told(NOBODY_YET, given) == [(Type.CONSENT_CHANGED, SENDER)]
    assert told(standing(given), opted_out(1)) == [(Type.OPTED_OUT, SENDER)]
    assert told(standing(opted_out(1)), opted_in(1, 3)) == [(Type.CONSENT_CHANGED, SENDER)]


def test_what_means_the_same_is_not_told_again() -> None:
    given = opted_in(1)
    [consent] = given.consents
    later = replace(given, version=2, consents=(replace(consent, expires_at=now() + timedelta(days=9)),))
    assert told(standing(given), later) == []


def test_a_sender_is_told_of_its_own_line_alone() -> None:
    mine = opted_in(1)
    both = replace(mine, version=2, consents=(*mine.consents, of_other(mine)))
    assert told(standing(mine), both) == [(Type.CONSENT_CHANGED, OTHER)]
    [event] = rules.of_state(NOBODY_YET, mine, now())
    assert [line["state"] for line in event.data["consents"]] == ["opted_in"]  # type: ignore[attr-defined]


def test_a_stop_to_every_sender_is_told_to_those_who_know_the_person() -> None:
    mine = opted_in(1)
    everywhere = replace(mine, version=2, suppressions=(Suppression(sender_id=None, since=now()),))
    assert told(standing(mine), everywhere) == [(Type.OPTED_OUT, SENDER)]
    assert told(NOBODY_YET, replace(everywhere, consents=())) == []


def test_a_start_after_a_stop_opens_its_purpose_and_leaves_the_others_stopped() -> None:
    """The state of a purpose and the word on all others contradict each other in no event."""
    stopped = opted_out(1)
    again = replace(stopped, version=3, consents=opted_in(1).consents)
    [event] = rules.of_state(standing(stopped), again, now())
    assert [line["state"] for line in event.data["consents"]] == ["opted_in"]  # type: ignore[attr-defined]
    assert event.data["other_purposes_stopped"] is True
    assert not [name for name in event.data if "every" in name]
    [closed] = rules.of_state(standing(again), replace(stopped, version=4), now())
    assert ([line["state"] for line in closed.data["consents"]], closed.data["other_purposes_stopped"]) == (  # type: ignore[attr-defined]
        ["opted_out"],
        True,
    )


def test_a_stop_to_one_sender_by_somebody_unknown_is_told_to_that_sender() -> None:
    stopped = replace(opted_out(1), consents=())
    assert told(NOBODY_YET, stopped) == [(Type.OPTED_OUT, SENDER)]


def test_a_review_is_told_once_to_those_who_know_the_person() -> None:
    mine = opted_in(1)
    held = replace(mine, version=2, held_since=now())
    assert told(standing(mine), held) == [(Type.REVIEW_WAITING, SENDER)]
    assert told(standing(held), replace(held, version=3)) == []
    assert told(NOBODY_YET, replace(held, consents=())) == []


def test_a_message_is_told_as_accepted_then_delivered_or_failed() -> None:
    def kinds(status: str, **more: str) -> list[Type]:
        return [each.type for each in rules.of_message(changed("c1", subject(1), 1, status, **more), now())]

    assert kinds("sending") == kinds("deferred") == kinds("unknown") == []
    assert kinds("accepted") == [Type.ACCEPTED]
    assert kinds("accepted", receipt="delivered") == [Type.ACCEPTED, Type.DELIVERED]
    assert kinds("unknown", receipt="delivered") == [Type.DELIVERED]
    assert kinds("accepted", receipt="failed") == [Type.ACCEPTED, Type.FAILED]
    assert kinds("denied") == kinds("rejected") == kinds("expired") == [Type.FAILED]


def test_a_denied_message_does_not_say_what_others_know() -> None:
    event = changed("c1", subject(1), 1, "denied", reasons=("other_controller", "opted_out"))
    [event_told] = rules.of_message(event, now())
    assert "reasons" not in event_told.data
    assert "other_controller" not in str(event_told.data)


def test_the_same_fact_has_one_id_in_a_feed_and_another_in_another() -> None:
    [first] = rules.of_state(NOBODY_YET, opted_in(1), now())
    [again] = rules.of_state(NOBODY_YET, opted_in(1), now())
    [newer] = rules.of_state(NOBODY_YET, opted_in(1, version=2), now())
    assert id_of(first, "a") == id_of(again, "a")
    assert len({id_of(first, "a"), id_of(first, "b"), id_of(newer, "a")}) == 3
