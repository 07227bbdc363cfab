"""MOs of providers that tell no time: what comes late may have been said before what came in time."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from common.contracts.inbound import MessageReceived
from consent.inbound import messages as intake
from consent.inbound.messages import Said
from consent.inbound.shared_codes import Mo
from consent.ledger.rules import SubjectState, apply, fold, standing
from consent.ledger.store import Subject
from consent.senders.store import Sender
from inbound.journal import message_entry
from inbound.providers import PROVIDERS, RETRIES_FOR, Message
from inbound.store import Origin
from tests.support.builders import field_keys, number, subject_keys
from tests.unit.consent.evidences import NOON, at, opt_in

ACME = Sender(
    sender_id="acme",
    organisation_id="tests",
    legal_name="ACME SAS",
    brand="Acme",
    contact="acme.example",
    country="FR",
    oadc="ACME",
    stop_code="36111",
    purposes=(),
    controller="acme",
)


def mo(provider: str, text: str, came: datetime, sent_at: datetime | None = None) -> MessageReceived:
    held: Any = SimpleNamespace(
        field_keys=field_keys, subject_keys=subject_keys, settings=SimpleNamespace(country="FR")
    )
    said = Message(text + str(came), number(1), "36111", text, sent_at)
    does = PROVIDERS[provider].capabilities
    event = message_entry(held, Origin(provider, "main", "messages"), said, came, retries_for=does.retries_for).event
    assert isinstance(event, MessageReceived)
    return event


def after(state: SubjectState, event: MessageReceived) -> SubjectState:
    said = Said(event, {"acme": ACME}, Subject(subject_id=event.subject_id, state=state))
    for evidence in intake.starts(said) if event.intent == "start" else [Mo.of(event).opt_out("acme")]:
        state = apply(state, evidence)
    return state


def stands(state: SubjectState) -> str | None:
    return standing(state, "acme", "promotions")


@pytest.mark.parametrize("provider", ["esendex", "plivo", "jasmin", "kannel"])
def test_a_start_that_may_have_been_said_before_the_stop_takes_nothing_back(provider: str) -> None:
    """It was said a minute before, refused, and came again a quarter of an hour after."""
    stopped = after(fold([opt_in(-60)]), mo(provider, "STOP", NOON))
    assert stands(after(stopped, mo(provider, "START", at(16)))) == "opted_out"
    late = NOON + PROVIDERS[provider].capabilities.retries_for + timedelta(minutes=1)
    assert stands(after(stopped, mo(provider, "START", late))) == "opted_in"


def test_one_that_tells_its_time_takes_back_what_is_older() -> None:
    stopped = after(fold([opt_in(-60)]), mo("kannel", "STOP", NOON, sent_at=NOON))
    assert stands(after(stopped, mo("kannel", "START", at(16), sent_at=at(-1)))) == "opted_out"
    assert stands(after(stopped, mo("kannel", "START", at(16), sent_at=at(1)))) == "opted_in"


def test_what_only_tightens_counts_from_when_it_came() -> None:
    assert mo("esendex", "STOP", NOON).occurred_at == NOON
    assert mo("esendex", "START", NOON).occurred_at == NOON - timedelta(hours=72)


def test_where_nobody_says_how_long_a_callback_comes_again_it_is_the_longest_that_anybody_says() -> None:
    assert max(provider.capabilities.retries_for for provider in PROVIDERS.values()) == RETRIES_FOR
