"""The one question at the end of a consent, against a real Postgres, with `now` as an argument."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from common.contracts.campaign import MessageRequested
from common.contracts.inbound import MessageReceived
from common.db.database import Database
from common.kafka.subscription import Received
from common.law import load
from consent.answers.answers import Answers
from consent.inbound import messages as intake
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.retention.expiring import Recount, step
from consent.retention.renewals import Asking
from consent.senders import registry as senders
from consent.senders import store as senders_store
from tests.service.consent.test_retention import sender
from tests.support.builders import field_keys, inner, number, subject, subject_keys
from tests.support.infrastructure import Postgres
from tests.unit.consent.evidences import contact, opt_in, opt_out

pytestmark = pytest.mark.brokerless

DAY = timedelta(days=1)
OPENED = datetime(2026, 3, 3, 9, 0, tzinfo=UTC)  # a Tuesday, 10:00 in Paris
END = OPENED.replace(year=2027)  # a Wednesday
ASKS = END - 30 * DAY  # a Monday, 10:00
ANSWERS = Answers(field_keys, per_day=5, fictional=True)
ASKING = Asking(ANSWERS, load("france-3"))
WHO = subject(1)


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    """With somebody who consented to the promotions of a sender that asks thirty days before a year has passed."""
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        await senders.register(tx, sender("acme", renewal_days=30), OPENED)
        await senders.register(tx, sender("globex"), OPENED)
    await given(opened, opt_in(0, occurred_at=OPENED, received_at=OPENED))
    yield opened
    await opened.close()


async def given(database: Database, *evidence: Evidence, who: int = 1, now: datetime | None = None) -> None:
    sealed = field_keys.seal(number(who), f"number:{subject(who)}")
    async with database.begin() as tx:
        await record(
            tx, inner, [Statement(subject(who), sealed, one) for one in evidence], now or evidence[-1].received_at
        )


async def looked(database: Database, now: datetime, asking: Asking = ASKING) -> None:
    """As often as there is something to do."""
    while True:
        async with database.begin() as tx:
            if not await step(tx, now, asking, clock=lambda: now):
                return


async def asked(database: Database, who: int = 1) -> list[MessageRequested]:
    async with database.begin() as tx:
        rows = await tx.execute(text("SELECT payload FROM outbox WHERE topic = 'dispatch.requests.v1' ORDER BY id"))
    requests = [msgspec.json.decode(row.payload, type=MessageRequested) for row in rows]
    return [request for request in requests if request.subject_id == subject(who)]


async def texts(database: Database, who: int = 1) -> list[str]:
    return [field_keys.unseal(r.text, f"text:{r.message_id}") for r in await asked(database, who)]


async def says(database: Database, intent: str, at: datetime, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "mo_id": f"mo-{intent}-{at.isoformat()}",
        "subject_id": WHO,
        "provider": "simulator",
        "account": "fr",
        "provider_message_id": f"p-{intent}-{at.isoformat()}",
        "number": field_keys.seal(number(1), f"number:{WHO}"),
        "short_code": "36111",
        "text": "sealed",
        "intent": intent,
        "rule": "test",
        "score": 1.0,
        "occurred_at": at,
        "received_at": at + timedelta(seconds=2),
    }
    message = MessageReceived(**(fields | changes))
    async with database.begin() as tx:
        await intake.Intake(field_keys, subject_keys, ANSWERS).apply(tx, [Received(message, WHO, 0, 0, at, None)])


async def state(database: Database, purpose: str = "promotions") -> str:
    async with database.begin() as tx:
        found = await ledger_store.find_subject(tx, WHO)
    return ledger.standing(found.state, "acme", purpose) if found else "unknown"


async def newest(database: Database) -> Evidence:
    async with database.begin() as tx:
        return (await ledger_store.history(tx, WHO))[-1].evidence


async def test_the_person_is_asked_once_before_the_end_and_an_oui_renews(database: Database) -> None:
    await looked(database, ASKS - timedelta(seconds=1))
    assert await asked(database) == []
    for day in range(5):
        await looked(database, ASKS + day * DAY)
    (request,) = await asked(database)
    assert (request.category, request.sender_id, request.send_before - ASKS) == ("service", "acme", timedelta(hours=1))
    assert await texts(database) == [
        "acme : sans nouvelles de vous, nos SMS prendront fin le 03/03/2027. Pour les garder, envoyez OUI au 36111."
        " Sinon, rien à faire."
    ]
    await says(database, "confirm", ASKS + 6 * DAY)
    renewed = await newest(database)
    assert (renewed.kind, renewed.basis, renewed.answers) == ("opt_in", "opt_in", "ev-opt_in-0-None-promotions")
    assert [renewed.text_shown] == await texts(database)
    await looked(database, END + DAY)
    assert await state(database) == "opted_in"
    again = (ASKS + 6 * DAY).replace(year=2028) - 30 * DAY
    await looked(database, again + 3 * DAY)
    assert len(await asked(database)) == 2  # of the next term


async def test_who_says_nothing_expires_at_the_end_and_is_not_asked_again(database: Database) -> None:
    await looked(database, ASKS)
    await looked(database, END)
    assert await state(database) == "expired"
    await looked(database, END + 400 * DAY)
    assert len(await asked(database)) == 1
    await says(database, "confirm", END + 401 * DAY)
    assert await state(database) == "expired"


async def test_a_year_late_marketing_is_shut_first_and_the_person_asked_once_with_as_many_days(
    database: Database,
) -> None:
    late = END.replace(year=2028) - DAY  # a Thursday
    await looked(database, late)
    assert await state(database) == "expired"
    assert (await newest(database)).occurred_at == END
    (request,) = await asked(database)
    assert (request.purpose, request.category) == ("promotions", "service"), "so that the gate looks for a STOP since"
    assert await texts(database) == [
        "acme : sans nouvelles de vous, nos SMS ont pris fin. Pour les recevoir de nouveau, envoyez OUI au 36111"
        " avant le 01/04/2028. Sinon, rien à faire."
    ]
    await looked(database, late + 29 * DAY)
    await says(database, "confirm", late + 29 * DAY)
    assert await state(database) == "opted_in"
    assert len(await asked(database)) == 1


async def test_a_stop_closes_the_question_whether_the_consent_was_open_or_had_ended(database: Database) -> None:
    late = END.replace(year=2028) - DAY
    await looked(database, late)
    await given(database, opt_out(0, occurred_at=late + DAY, received_at=late + DAY))
    await says(database, "confirm", late + 2 * DAY)
    assert await state(database) == "opted_out"


async def test_an_oui_of_the_very_instant_of_the_end_is_too_late_also_where_nobody_has_looked(
    database: Database,
) -> None:
    await looked(database, ASKS)
    await says(database, "confirm", END)
    assert await state(database) == "expired"


async def test_an_oui_counts_from_the_question_on_until_its_day_and_not_after_a_stop(database: Database) -> None:
    await says(database, "confirm", ASKS - DAY)
    await given(database, opt_in(1, occurred_at=OPENED, received_at=OPENED, purpose="loyalty", sender_id="globex"))
    assert (await newest(database)).kind == "opt_in"
    touched = (ASKS - DAY).replace(year=2028)  # that OUI answered nothing: they were in touch
    await looked(database, touched - 28 * DAY)  # the 30th before is the 1st of January, a Saturday
    assert len(await asked(database)) == 1
    await given(database, opt_out(0, occurred_at=touched - 20 * DAY, received_at=touched - 20 * DAY))
    await says(database, "confirm", touched - 19 * DAY)
    assert await state(database) == "opted_out"


async def test_nobody_is_asked_at_night_or_on_a_holiday_or_while_a_text_of_theirs_is_read(database: Database) -> None:
    """Ten at night, then a Sunday; then eight in the morning of a Monday."""
    await looked(database, ASKS + timedelta(hours=12))
    assert await asked(database) == []
    await looked(database, ASKS - timedelta(hours=2) + DAY + timedelta(minutes=59))
    assert len(await asked(database)) == 1
    await given(database, opt_in(0, occurred_at=OPENED, received_at=OPENED, evidence_id="ev-2"), who=2)
    sunday = ASKS + 6 * DAY
    await looked(database, sunday)
    assert await asked(database, 2) == []
    await looked(database, sunday + DAY)
    assert len(await asked(database, 2)) == 1


async def test_all_that_ends_together_is_one_question_and_one_answer(database: Database) -> None:
    """Nobody who was in touch since, nobody of a sender that does not ask."""
    async with database.begin() as tx:
        locked = await senders_store.lock_sender(tx, "acme")
        assert locked is not None
        both = tuple(msgspec.structs.replace(p, retention_months=12) for p in locked.purposes)
        await senders.change(tx, locked, replace(locked, purposes=both), OPENED)
    recount = Recount(database, backlog=10**9)
    while await recount.look():
        pass
    points = opt_in(0, occurred_at=OPENED, received_at=OPENED, purpose="loyalty", evidence_id="ev-points")
    await given(database, points)
    await given(database, opt_in(0, occurred_at=OPENED, received_at=OPENED, evidence_id="ev-2"), who=2)
    await given(database, contact(0, occurred_at=ASKS - DAY, received_at=ASKS - DAY), who=2)
    await given(
        database, opt_in(0, occurred_at=OPENED, received_at=OPENED, evidence_id="ev-3", sender_id="globex"), who=3
    )
    await looked(database, ASKS)
    assert [len(await asked(database, who)) for who in (1, 2, 3)] == [1, 0, 0]
    await says(database, "confirm", ASKS + DAY)
    await looked(database, END + DAY)
    assert await state(database) == await state(database, "loyalty") == "opted_in"
