"""Double opt-in: a form asks, the person's own phone answers. On a real Postgres, and over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import structs
from sqlalchemy import text

from common.contracts.campaign import MessageRequested
from common.contracts.inbound import Intent, MessageReceived
from common.db.database import Database
from common.kafka.subscription import Received
from common.privacy.erasing import Whom
from common.web.problems import TooMany
from consent import eraser
from consent.answers.answers import Answers
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in.requests import Lapsing, Terms
from consent.double_opt_in.rules import Most, Question
from consent.inbound import messages as intake
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import verify
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.senders import registry as senders
from consent.senders import store as senders_store
from consent.service import Settings, build
from inbound.keywords import classify
from tests.service.consent.test_answers import asked as texted
from tests.service.consent.test_answers import heard, mo, sender
from tests.service.consent.test_consent_api import SENDER, outbox, reasons
from tests.support.builders import called, field_keys, inner, number, subject, subject_keys
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.running import Surroundings, bearer, running
from tests.unit.consent.evidences import opt_in, request, stop

pytestmark = pytest.mark.brokerless

SHOWN = "Oui, je veux recevoir les offres d'Acme par SMS."
THEN = datetime.now(UTC) - timedelta(days=20)
CODE = "36111"
ANSWERS = Answers(field_keys, 5, fictional=True)
TERMS = Terms(
    number_a_day=3,
    number_a_month=6,
    controller_an_hour=1000,
    caller_an_hour=1000,
    after_stop=timedelta(days=30),
    most=Most(a_day=5, a_month=20),
    share=Most(a_day=5, a_month=20),
)


def at(minutes: float) -> datetime:
    return THEN + timedelta(minutes=minutes)


@dataclass
class Consent:
    """The doors of consent-svc, each called at an instant of the test's choice."""

    database: Database

    async def sender(self, sender_id: str, brand: str, **more: Any) -> None:
        async with self.database.begin() as tx:
            await senders.register(tx, replace(sender(sender_id, brand), **more), at(-1))

    async def ask(
        self,
        minutes: float,
        sender_id: str = "acme",
        who: int = 1,
        form: float | None = None,
        terms: Terms = TERMS,
        answers: Answers = ANSWERS,
    ) -> Question:
        """`form`: when it was filled in, if not just then."""
        filled_in = at(minutes if form is None else form)
        evidence = request(
            0,
            evidence_id=f"ev-{sender_id}-{minutes}-{who}",
            sender_id=sender_id,
            occurred_at=filled_in,
            received_at=at(minutes),
            form_id="newsletter",
            form_version="3",
            text_shown=SHOWN,
        )
        statement = Statement(subject(who), field_keys.seal(number(who), f"number:{subject(who)}"), evidence)
        async with self.database.begin() as tx:
            asking = await senders_store.find_sender(tx, sender_id)
            assert asking is not None
            return await double_opt_ins.ask(tx, answers, statement, asking, terms, "site", at(minutes))

    async def hear(self, *messages: MessageReceived) -> None:
        batch = [Received(m, m.subject_id, 0, n, datetime.now(UTC), None) for n, m in enumerate(messages)]
        async with self.database.begin() as tx:
            await intake.Intake(field_keys, subject_keys, ANSWERS).apply(tx, batch)

    async def say(self, said: Evidence, minutes: float, who: int = 1) -> None:
        said = structs.replace(
            said, evidence_id=f"ev-said-{minutes}-{who}", occurred_at=at(minutes), received_at=at(minutes)
        )
        async with self.database.begin() as tx:
            await record(tx, inner, [Statement(subject(who), "sealed", said)], at(minutes))

    async def lapse(self, read_up_to: datetime | None, at_once: int = 500) -> bool:
        async def known(tx: object) -> datetime | None:
            return read_up_to

        return await Lapsing(self.database, known, inner, at_once).look()

    async def history(self, who: int = 1) -> list[Evidence]:
        """But for contacts: whoever writes was in touch."""
        async with self.database.begin() as tx:
            entries = await ledger_store.history(tx, subject(who))
        assert verify(entries, inner) is None
        return [entry.evidence for entry in entries if entry.evidence.kind != "contact"]

    async def state(self, sender_id: str = "acme", who: int = 1) -> str:
        async with self.database.begin() as tx:
            found = await ledger_store.find_subject(tx, subject(who))
        return ledger.standing(found.state, sender_id, "promotions") if found else "unknown"

    async def texts(self, who: int = 1) -> list[MessageRequested]:
        return [m for m in await texted(self.database) if m.subject_id == subject(who) and m.purpose]


def oui(minutes: float, code: str = CODE, who: int = 1, intent: Intent = "confirm", **more: Any) -> MessageReceived:
    named = {"mo_id": f"mo-{intent}-{minutes}-{who}", "short_code": code}
    return mo(0, intent, number(who), **(named | {"occurred_at": at(minutes), "received_at": at(minutes)} | more))


@pytest.fixture
async def consent(postgres: Postgres, unique: str) -> AsyncIterator[Consent]:
    opened = Consent(Database(await postgres.clone("consent", f"consent_{unique}")))
    await opened.sender("acme", "Acme")
    yield opened
    await opened.database.close()


def test_what_people_answer_is_what_the_classifier_calls_confirm() -> None:
    assert classify("Oui").intent == "confirm"
    assert classify("OUI mais STOP").intent != "confirm"


async def test_the_answer_opens_what_was_asked_with_the_words_of_the_form(consent: Consent) -> None:
    question = await consent.ask(0)
    assert await consent.state() == "pending"
    (text_,) = await consent.texts()
    assert (text_.category, text_.purpose, text_.sender_id) == ("service", "promotions", "acme")
    assert text_.send_before == at(60), "of no use later"
    assert await heard(consent.database) == [
        'Acme : pour recevoir par SMS "Nos offres", répondez OUI. Sinon, ne faites rien. STOP au 36111.'
    ]
    await consent.hear(said := oui(5))
    assert await consent.state() == "opted_in"
    form, yes = await consent.history()
    assert (form.kind, yes.kind, yes.basis, yes.source) == ("request", "opt_in", "opt_in", "mo")
    assert (yes.answers, yes.reference, yes.occurred_at) == (question.evidence_id, said.reference, at(5))
    assert (yes.form_id, yes.form_version, yes.text_shown) == ("newsletter", "3", SHOWN)
    assert len(await texted(consent.database)) == 1, "an OUI is answered by nothing"


async def test_the_same_answer_again_and_an_answer_to_nothing_change_nothing(consent: Consent) -> None:
    await consent.hear(oui(-5))
    assert await consent.history() == []
    await consent.ask(0)
    await consent.hear(oui(-5), oui(5), oui(5), oui(6))
    await consent.hear(oui(5), oui(7))
    assert [e.kind for e in await consent.history()] == ["request", "opt_in"]
    assert len(await texted(consent.database)) == 1


@pytest.mark.parametrize(
    "answer",
    [oui(24 * 60 + 1), oui(5, code="36222"), oui(5, who=2), oui(5, occurred_at=at(-1)), oui(24 * 61, intent="none")],
    ids=["late", "another code", "another number", "written before", "another word"],
)
async def test_an_answer_that_is_not_one_opens_nothing(consent: Consent, answer: MessageReceived) -> None:
    await consent.ask(0)
    await consent.hear(answer)
    assert (await consent.state(), await consent.state(who=2)) == ("pending", "unknown")


@pytest.mark.parametrize("together", [True, False])
async def test_after_a_stop_an_oui_opens_nothing_also_in_one_batch_and_across_the_group(
    consent: Consent, together: bool
) -> None:
    await consent.sender("outlet", "Outlet", controller="acme", stop_code="36222")
    await consent.ask(0)
    await consent.ask(0, "outlet")
    words = [oui(5, "36222", intent="stop"), oui(6), oui(6.5, "36222")]
    for batch in [words] if together else [[word] for word in words]:
        await consent.hear(*batch)
    assert {await consent.state(), await consent.state("outlet")} == {"opted_out"}
    await consent.hear(oui(5), oui(7))
    assert {e.kind for e in await consent.history()} == {"request", "opt_out"}


async def test_two_brands_on_one_code_never_wait_for_the_same_oui(consent: Consent) -> None:
    await consent.sender("zinc", "Café Zinc")
    await consent.ask(0)
    await consent.ask(5, "zinc")  # somebody else's doing, perhaps
    assert [m.sender_id for m in await consent.texts()] == ["acme"]
    await consent.hear(oui(6))
    assert (await consent.state(), await consent.state("zinc")) == ("opted_in", "unknown")
    await consent.ask(7, "zinc")
    await consent.hear(oui(8))
    assert await consent.state("zinc") == "opted_in", "once the first is answered there is no doubt"


async def test_a_second_form_replaces_the_question_and_one_sent_twice_does_not(consent: Consent) -> None:
    await consent.ask(0)
    await consent.ask(1)
    assert len(await consent.texts()) == 1
    second = await consent.ask(10)
    await consent.hear(oui(9))
    assert await consent.state() == "pending", "written before the question that stands"
    await consent.hear(oui(11))
    assert (await consent.history())[-1].answers == second.evidence_id


async def test_who_has_said_stop_is_texted_once_by_a_controllers_newer_form_and_not_again(consent: Consent) -> None:
    await consent.sender("zinc", "Café Zinc", stop_code="36222")
    await consent.say(opt_in(), 0)
    await consent.say(stop(sender_id=None), 10)
    await consent.ask(11, form=9)
    assert await consent.texts() == [], "the form is older than the STOP"
    for minutes in (20, 60 * 24 * 2, 60 * 24 * 12):
        await consent.ask(minutes)
        await consent.ask(minutes + 5, "zinc")
    assert [m.requested_at for m in await consent.texts()] == [at(20), at(25)], "one of each controller"
    assert await consent.state() == "opted_out", "asked, and nothing opened"
    await consent.hear(oui(30))
    assert await consent.state() == "opted_in"


async def test_the_question_to_a_person_who_has_stopped_says_nothing_that_advertises(consent: Consent) -> None:
    await consent.say(stop(sender_id=None), 0)
    await consent.ask(5)
    assert await heard(consent.database) == [
        'Acme : pour recevoir par SMS "nos messages commerciaux", répondez OUI. Sinon, ne faites rien. STOP au 36111.'
    ]


async def test_an_erased_person_is_not_forgotten_as_one_who_was_asked(consent: Consent) -> None:
    await consent.say(stop(sender_id=None), 0)
    await consent.ask(10)
    async with consent.database.begin() as tx:
        done = await eraser.erase(tx, {(whom := Whom(subject(1), None)): at(15)})
        kept = await tx.scalar(text("SELECT count(number) FROM double_opt_in"))
    assert (done[whom]["questions"], kept) == (1, 0)
    await consent.ask(20)
    await consent.hear(oui(21))
    assert len(await consent.texts()) == 1
    assert await consent.state() == "opted_out"


# --- lapses ---------------------------------------------------------------------------------------------------------


async def test_what_nobody_answers_lapses_once_every_text_of_its_window_was_read(consent: Consent) -> None:
    question = await consent.ask(0)
    end = question.expires_at
    for read_up_to in (None, end - timedelta(seconds=1), end):
        assert not await consent.lapse(read_up_to)
        assert await consent.state() == "pending"
    await consent.lapse(end + timedelta(seconds=1))
    await consent.lapse(datetime.now(UTC))
    assert await consent.state() == "expired"
    *_, lapse = await consent.history()
    assert (lapse.kind, lapse.answers, lapse.occurred_at) == ("expiry", question.evidence_id, end)
    await consent.hear(oui(60))
    assert await consent.state() == "expired", "an OUI that comes after it finds it closed"
    await consent.ask(60 * 24 * 2)
    await consent.hear(oui(60 * 24 * 2 + 5))
    assert await consent.state() == "opted_in"


async def test_after_a_day_down_all_that_is_due_lapses_in_batches_and_two_timers_share_it(consent: Consent) -> None:
    for who in range(1, 12):
        await consent.ask(who / 10, who=who)
    await consent.hear(oui(5, who=4))
    await consent.say(stop(), 5, who=5)
    ends = datetime.now(UTC)
    async with consent.database.begin() as tx:  # somebody is busy with one of them
        await ledger_store.lock_subjects(tx, {}, [subject(7)])
        while any(await asyncio.gather(consent.lapse(ends, 2), consent.lapse(ends, 2))):
            pass
        found = {who: await consent.state(who=who) for who in range(1, 12)}
    assert found == dict.fromkeys(range(1, 12), "expired") | {4: "opted_in", 5: "opted_out", 7: "pending"}
    while await consent.lapse(ends, 2):
        pass
    assert await consent.state(who=7) == "expired"
    kinds = [e.kind for who in range(1, 12) for e in await consent.history(who)]
    assert kinds.count("expiry") == 9, "one each"


async def test_a_question_that_lapses_takes_no_consent_with_it(consent: Consent) -> None:
    await consent.say(opt_in(basis="soft_opt_in", sale_reference="sale-1"), -60)
    await consent.ask(0)
    await consent.lapse(datetime.now(UTC))
    assert await consent.state() == "opted_in"


# --- over HTTP ------------------------------------------------------------------------------------------------------


def hours_ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


def form(**changes: Any) -> dict[str, Any]:
    body = {
        "sender_id": "acme",
        "purpose": "promotions",
        "number": "06 39 98 12 34",
        "occurred_at": datetime.now(UTC).isoformat(),
        "evidence": {"source": "site", "form_id": "newsletter", "form_version": "3"},
    }
    return body | changes


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        for who in (SENDER, called(SENDER, "zinc") | {"brand": "Café Zinc", "stop_code": "36222"}):
            assert (await client.post("/v1/senders", json=who)).status_code == 201
        yield client


async def requested(surroundings: Surroundings) -> list[MessageRequested]:
    found = await outbox(surroundings, "dispatch.requests.v1")
    return [msgspec.json.decode(payload, type=MessageRequested) for payload in found]


async def test_a_form_is_asked_about_once_however_often_it_is_sent(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    body, key = form(), {"Idempotency-Key": "form-1"}
    answers = [await service.post("/v1/double-opt-ins", json=body, headers=key) for _ in range(5)]
    answers += await asyncio.gather(*(service.post("/v1/double-opt-ins", json=body, headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert len(await requested(surroundings)) == 1
    reused = await service.post("/v1/double-opt-ins", json=body | {"purpose": "loyalty"}, headers=key)
    assert (reused.status_code, reused.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert (await service.post("/v1/consents", json=body)).json()["changed"], "the consent itself is other evidence"


async def test_a_form_that_is_sent_twice_at_once_is_asked_about_once_and_counts_once(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """Both have looked whether it was asked before either asks: they wait for the number's pace, and for each other."""
    body = form(number=number(1))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with surroundings.sql("consent") as looking, surroundings.sql("consent") as sql, sql.transaction():
        await sql.execute("INSERT INTO double_opt_in_pace (key, full_at) SELECT 'number/' || $1, now()", subject(1))
        asking = [asyncio.ensure_future(service.post("/v1/double-opt-ins", json=body)) for _ in range(2)]

        async def both_wait() -> bool:
            return bool(await looking.fetchval(waiting) == 2)

        await eventually(both_wait)
        assert not any(each.done() for each in asking)
    first, second = [await each for each in asking]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.text == second.text
    assert len(await requested(surroundings)) == 1
    async with surroundings.sql("consent") as sql:
        (pace,) = await sql.fetch("SELECT full_at - now() AS left FROM double_opt_in_pace WHERE key ~ '^number.day'")
    assert pace["left"] < timedelta(hours=12), "one of three a day"


@each_of(
    ("changes", "status", "reason"),
    [
        ({"evidence": {"source": "site"}}, 422, ("evidence", "nothing_shown")),
        ({"evidence": form()["evidence"] | {"source": "double_opt_in"}}, 422, ("evidence.source", "source_reserved")),
        (
            {"occurred_at": hours_ago(-24)},
            422,
            ("occurred_at", "occurred_in_the_future"),
        ),
        ({"occurred_at": hours_ago(25)}, 422, ("occurred_at", "form_too_old")),
        ({"purpose": "horoscope"}, 422, ("purpose", "unknown_purpose")),
        ({"number": "01 99 00 12 34"}, 422, ("number", "not_mobile")),
        ({"basis": "soft_opt_in"}, 422, ("basis", "literal_error")),
        ({"sender_id": "nobody"}, 404, ("sender_id", "unknown_sender")),
    ],
)
async def test_what_could_not_become_a_consent_is_not_asked_about(
    service: httpx.AsyncClient,
    surroundings: Surroundings,
    changes: dict[str, Any],
    status: int,
    reason: tuple[str, str],
) -> None:
    answer = await service.post("/v1/double-opt-ins", json=form(**changes))
    assert (answer.status_code, reasons(answer)) == (status, [reason])
    assert await requested(surroundings) == []
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT (SELECT count(*) FROM double_opt_in) + (SELECT count(*) FROM subject)") == 0


async def test_a_caller_asks_for_its_own_senders_only(service: httpx.AsyncClient) -> None:
    for claims in ({"senders": ["zinc"]}, {"scope": "consent:read"}):
        answer = await service.post("/v1/double-opt-ins", json=form(), headers=bearer(**claims))
        assert answer.status_code == 403


async def test_the_answer_does_not_tell_who_consented_who_stopped_and_who_is_unknown(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    consented, stopped, unknown = "06 39 98 00 01", "06 39 98 00 02", "06 39 98 00 03"
    minutes_ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    said = form(number=consented, occurred_at=minutes_ago)
    assert (await service.post("/v1/consents", json=said)).status_code == 201
    out = {"sender_id": None, "number": stopped, "occurred_at": minutes_ago, "evidence": {"source": "call-centre"}}
    assert (await service.post("/v1/opt-outs", json=out)).status_code == 201
    told = []
    for who in (consented, stopped, unknown):
        seen = [
            await service.post("/v1/double-opt-ins", json=form(number=who, sender_id=by)) for by in ("acme", "zinc") * 4
        ]
        waits = [round(int(one.headers.get("Retry-After", 0)) / 600) for one in seen]  # of hours, to ten minutes
        told.append(
            [(one.status_code, sorted(one.json()), sorted(one.headers), w) for one, w in zip(seen, waits, strict=True)]
        )
    assert told[0] == told[1] == told[2]
    texts = [m.subject_id for m in await requested(surroundings)]
    assert sorted(texts.count(who) for who in set(texts)) == [1, 2, 2], "as the doors' own tests say"


async def test_nobody_can_have_a_number_texted_without_end_whichever_way(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """Two processes share the count, and concurrency does not get round it."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings), bearer(subject="another")) as other:
        answers = await asyncio.gather(
            *(
                client.post("/v1/double-opt-ins", json=form(sender_id=sender_id, purpose=purpose))
                for client in (service, other)
                for sender_id in ("acme", "zinc")
                for purpose in ("promotions", "loyalty")
            )
        )
    assert sorted(answer.status_code for answer in answers) == [202] * 6 + [429] * 2, "three of each controller"
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["type"], reasons(refused)) == ("/problems/too-many", [("number", "too_many_by_number")])
    # one every eight hours; a second more for who looked at the clock before those who were counted
    assert 7 * 3600 < int(refused.headers["Retry-After"]) <= 8 * 3600 + 1
    assert len(await requested(surroundings)) <= 6


async def test_the_form_of_one_controller_blocks_its_own_senders_and_no_other(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    sister = SENDER | {"sender_id": "outlet", "controller": "acme", "stop_code": "36333"}
    assert (await service.post("/v1/senders", json=sister)).status_code == 201

    async def ask(sender_id: str, purpose: str = "promotions") -> int:
        return (await service.post("/v1/double-opt-ins", json=form(sender_id=sender_id, purpose=purpose))).status_code

    assert [await ask("acme"), await ask("acme", "loyalty"), await ask("outlet")] == [202] * 3
    assert [await ask("acme"), await ask("outlet", "loyalty")] == [429] * 2, "the senders of a controller share it"
    assert await ask("zinc") == 202
    assert "zinc" in [m.sender_id for m in await requested(surroundings)]


async def test_many_controllers_together_do_not_text_a_number_without_end_and_are_not_told(consent: Consent) -> None:
    few = replace(TERMS, most=Most(a_day=3, a_month=5))
    for n in range(7):
        await consent.sender(f"brand-{n}", f"Marque {n}", stop_code=f"3620{n}")
    for n in range(5):
        await consent.ask(n, f"brand-{n}", terms=few)
    assert [m.sender_id for m in await consent.texts()] == ["brand-0", "brand-1", "brand-2"]
    for n in range(3, 7):
        await consent.ask(60 * 24 + n, f"brand-{n}", terms=few)
    assert [m.sender_id for m in await consent.texts()][3:] == ["brand-3", "brand-4"], "five a month"


async def test_the_questions_of_one_organisation_leave_another_its_own(consent: Consent) -> None:
    """Of all texts to a number, too, which calls for links and renewals cause as well."""
    for n in range(4):
        await consent.sender(f"brand-{n}", f"Marque {n}", stop_code=f"3620{n}")
    await consent.sender("theirs", "Autre", stop_code="36301", organisation_id="strangers")
    few = replace(TERMS, share=Most(a_day=2, a_month=3))
    for who, terms, answers in ((1, few, ANSWERS), (2, TERMS, replace(ANSWERS, share=2))):
        for n, sender_id in enumerate(("brand-0", "brand-1", "brand-2", "theirs")):
            await consent.ask(n, sender_id, who, terms=terms, answers=answers)
        assert [m.sender_id for m in await consent.texts(who)] == ["brand-0", "brand-1", "theirs"]
    for n in (2, 3):
        await consent.ask(60 * 24 + n, f"brand-{n}", terms=few)
    assert [m.sender_id for m in await consent.texts()][3:] == ["brand-2"], "three a month"


async def test_nobody_is_asked_while_a_text_of_theirs_waits_for_a_reviewer(consent: Consent) -> None:
    """Also a STOP behind a START, which one clock puts before the START: the STOP may be the person's last word."""
    await consent.sender("zinc", "Café Zinc", stop_code="36222")
    await consent.hear(doubtful := oui(1, intent="review"))
    await consent.ask(2)
    await consent.say(opt_in(), 0, who=2)
    behind = oui(6, intent="stop", who=2, occurred_at=at(4), behind_start=True)
    await consent.hear(oui(3, intent="stop", who=2), oui(5, intent="start", who=2), behind)
    assert await consent.state(who=2) == "opted_in", "one clock puts the START last"
    await consent.ask(7, "zinc", who=2)
    assert [*await consent.texts(), *await consent.texts(who=2)] == []
    await consent.hear(structs.replace(doubtful, intent="none", revision=1, decided_by="agent-12", decided_at=at(9)))
    await consent.ask(10)
    assert len(await consent.texts()) == 1, "once a person has read it"


async def test_a_controller_and_a_caller_have_a_pace_as_well(surroundings: Surroundings) -> None:
    paces = {"double_opt_ins_per_controller_hour": 2, "double_opt_ins_per_caller_hour": 3}
    settings = Settings(**await surroundings.settings("consent", roles="api", **paces))
    async with running(build(settings)) as client:
        for sender_id in ("acme", "zinc"):
            await client.post("/v1/senders", json=called(SENDER, sender_id))

        async def ask(who: int, sender_id: str, **claims: Any) -> httpx.Response:
            body = form(number=number(who), sender_id=sender_id)
            return await client.post("/v1/double-opt-ins", json=body, headers=bearer(**claims))

        assert [(await ask(who, "acme")).status_code for who in (1, 2, 3)] == [202, 202, 429]
        assert reasons(await ask(4, "acme", subject="another")) == [("sender_id", "too_many_by_sender_id")]
        assert (await ask(5, "zinc")).status_code == 202
        assert reasons(refused := await ask(6, "zinc")) == [("caller", "too_many_by_caller")]
        assert 0 < int(refused.headers["Retry-After"]) <= 1200
        assert (await ask(6, "zinc", subject="another")).status_code == 202, "what was refused counts for nobody"


async def test_the_pace_of_a_number_ends_and_its_rows_with_it(consent: Consent) -> None:
    for minutes in (0, 10, 20):
        await consent.ask(minutes)
    with pytest.raises(TooMany):
        await consent.ask(30)
    await consent.ask(60 * 9)
    await consent.lapse(datetime.now(UTC))
    async with consent.database.begin() as tx:
        keys = (await tx.execute(text("SELECT key FROM double_opt_in_pace"))).scalars().all()
    assert keys == [f"number/month/acme/{subject(1)}"] or keys == []


async def test_who_waited_for_a_row_looked_at_its_clock_too_early_and_is_not_refused_for_that(consent: Consent) -> None:
    for minutes in (0.01, 0.005, 0):
        await consent.ask(minutes)
    with pytest.raises(TooMany):
        await consent.ask(-0.005)


async def test_a_sender_asks_in_its_own_words_and_waits_as_long_as_it_says(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    own = "{brand}. Confirmez {purpose} : OUI. Pour arreter : STOP {stop_code}"
    for wrong in ("Dites OUI, {brand}", own + " {number}", own + " {", own.replace("OUI", "NON")):
        refused = await service.put("/v1/senders/acme", json=SENDER | {"replies": {"double_opt_in": wrong}})
        assert refused.status_code == 422, wrong
    changed = SENDER | {"replies": {"double_opt_in": own}, "double_opt_in_hours": 2}
    assert (await service.put("/v1/senders/acme", json=changed)).json()["double_opt_in_hours"] == 2
    answer = await service.post("/v1/double-opt-ins", json=form())
    (message,) = await requested(surroundings)
    said = field_keys.unseal(message.text, f"text:{message.message_id}")
    assert said == "Acme. Confirmez Nos offres par SMS : OUI. Pour arreter : STOP 36111"
    assert datetime.fromisoformat(answer.json()["answer_before"]) - message.requested_at == timedelta(hours=2)
