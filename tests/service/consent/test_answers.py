"""What people hear back: once, from the sender they wrote to, and never in a loop. On a real Postgres."""

import random
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from common.contracts.campaign import MessageRequested
from common.contracts.consent import Purpose, Replies
from common.contracts.inbound import Intent, MessageReceived
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka.subscription import Received
from common.sms.sms_length import length
from consent.answers.answers import NOT_SENT, Answers
from consent.answers.replies import IN_OUR_WORDS
from consent.inbound import messages as intake
from consent.ledger import store as ledger_store
from consent.ledger.recorder import Statement, record
from consent.page import api as page
from consent.page import store as page_store
from consent.page.link import read
from consent.proof import store as proof_store
from consent.senders import registry as senders
from consent.senders import store as senders_store
from inbound.keywords import classify
from tests.support.builders import field_keys, inner, link_keys, now, number, subject, subject_keys
from tests.support.failing import Crash
from tests.support.infrastructure import Postgres
from tests.support.running import ORGANISATION
from tests.unit.consent.evidences import on_page, opt_in

pytestmark = pytest.mark.brokerless

PER_DAY = 5
INTAKE = intake.Intake(field_keys, subject_keys, Answers(field_keys, PER_DAY, fictional=True))
THEN = now() - timedelta(hours=1)
CODE = "36111"


def at(minutes: float) -> datetime:
    return THEN + timedelta(minutes=minutes)


def mo(minutes: float, intent: Intent = "stop", sender: str = number(1), **changes: Any) -> MessageReceived:
    """A text to the shared code, `minutes` after an hour ago."""
    who = subject_keys.subject_id(sender)
    mo_id = f"mo-{intent}-{minutes}-{who[-4:]}"
    fields: dict[str, Any] = {
        "mo_id": mo_id,
        "subject_id": who,
        "provider": "simulator",
        "account": "fr",
        "provider_message_id": mo_id,
        "number": field_keys.seal(sender, f"number:{who}"),
        "short_code": CODE,
        "text": "sealed",
        "intent": intent,
        "rule": "test",
        "score": 1.0,
        "occurred_at": at(minutes),
        "received_at": at(minutes),
    }
    return MessageReceived(**(fields | changes))


def sender(sender_id: str, brand: str, own: Replies = IN_OUR_WORDS) -> senders_store.Sender:
    return senders_store.Sender(
        sender_id=sender_id,
        organisation_id=ORGANISATION,
        legal_name=f"{brand} SAS",
        brand=brand,
        contact=f"contact@{sender_id}.example",
        country="FR",
        oadc=brand.upper().replace(" ", ""),
        stop_code=CODE,
        purposes=(Purpose(id="promotions", wording="Nos offres"),),
        controller=sender_id,
        replies=own,
    )


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        await senders.register(tx, sender("acme", "Acme"), at(0))
    yield opened
    await opened.close()


async def give(database: Database, minutes: float, sender_id: str = "acme") -> None:
    given = opt_in(
        sender_id=sender_id, evidence_id=f"ev-{sender_id}-{minutes}", occurred_at=at(minutes), received_at=at(minutes)
    )
    async with database.begin() as tx:
        await record(tx, inner, [Statement(subject(1), "sealed", given)], now())


async def wrote(database: Database, *sender_ids: str) -> None:
    """Each of these senders has texted the person an offer, at one instant."""
    fields: dict[str, Any] = {
        "subject_id": subject(1),
        "purpose": "promotions",
        "campaign_id": "c1",
        "status": "accepted",
        "version": 1,
    }
    async with database.begin() as tx:
        await proof_store.add_handed_off(
            tx,
            [
                proof_store.HandedOff(message_id=f"m-{each}", sender_id=each, handed_off_at=at(0), **fields)
                for each in sender_ids
            ],
        )


async def receive(database: Database, *messages: MessageReceived) -> None:
    batch = [Received(m, m.subject_id, 0, n, now(), None) for n, m in enumerate(messages)]
    async with database.begin() as tx:
        await INTAKE.apply(tx, batch)


async def asked(database: Database) -> list[MessageRequested]:
    """What dispatch was asked for, in order."""
    async with database.begin() as tx:
        rows = await tx.execute(
            text("SELECT type, payload FROM outbox WHERE topic = 'dispatch.requests.v1' ORDER BY id")
        )
        events = [kafka.decode(row.payload, [("ce_type", row.type.encode())]) for row in rows]
    assert all(isinstance(event, MessageRequested) for event in events)
    return [event for event in events if isinstance(event, MessageRequested)]


async def heard(database: Database) -> list[str]:
    return [field_keys.unseal(m.text, f"text:{m.message_id}") for m in await asked(database)]


async def test_a_stop_is_confirmed_on_the_service_lane_with_the_brand_and_no_advertising(database: Database) -> None:
    await give(database, 0)
    await receive(database, stop := mo(1))
    (answer,) = await asked(database)
    assert (answer.category, answer.campaign_id, answer.purpose) == ("service", None, None)
    assert (answer.sender_id, answer.subject_id, answer.number) == ("acme", subject(1), stop.number)
    assert answer.send_before == at(1) + timedelta(days=1)
    assert await heard(database) == ["Acme : votre STOP est pris en compte, vous ne recevrez plus nos SMS commerciaux."]


async def test_a_stop_of_a_stranger_is_confirmed_as_well(database: Database) -> None:
    await receive(database, mo(1))
    assert len(await asked(database)) == 1


async def test_a_stop_that_comes_again_or_is_said_again_is_confirmed_once(database: Database) -> None:
    await receive(database, mo(1), mo(1))
    await receive(database, mo(1))
    await receive(database, mo(2), mo(3, everyone=False))
    assert len(await asked(database)) == 1


async def test_a_stop_after_a_start_is_confirmed_again(database: Database) -> None:
    await give(database, 0)
    await receive(database, mo(1), mo(2, "start"), mo(3))
    stopped, started, again = await heard(database)
    assert stopped == again
    assert started == "Acme : vous recevrez de nouveau nos SMS. Pour ne plus en recevoir, STOP au 36111."


async def test_a_stop_that_the_provider_confirms_itself_is_not_confirmed_twice(database: Database) -> None:
    await receive(database, mo(1, answered=True), mo(2, answered=True))
    assert await asked(database) == []


async def test_a_stop_that_the_persons_newer_consent_outvotes_is_not_confirmed(database: Database) -> None:
    async with database.begin() as tx:
        own = on_page(occurred_at=at(5), received_at=at(5))
        await record(tx, inner, [Statement(subject(1), "sealed", own)], now())
    await receive(database, mo(1))
    assert await asked(database) == []


async def test_a_start_that_opens_nothing_is_not_acknowledged(database: Database) -> None:
    await give(database, 0)
    await receive(database, mo(1, "start"))
    await receive(database, mo(2, "start", sender=number(2)))
    assert await asked(database) == []


async def test_a_contact_is_answered_with_who_edits_the_service_and_how_to_stop_also_after_a_stop(
    database: Database,
) -> None:
    await receive(database, mo(1), mo(2, "contact"))
    assert (await heard(database))[1] == (
        "Service SMS édité par Acme SAS, contact@acme.example. Pour ne plus recevoir nos SMS : STOP au 36111."
    )


async def test_on_a_shared_code_a_contact_names_who_wrote_and_nobody_where_none_did(database: Database) -> None:
    """A consent that a caller asserts makes no brand known; its name as the origin is better than a stranger's."""
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune"), at(0))
    await give(database, 0, "lune")
    await receive(database, mo(1, "contact"), mo(1, "contact", sender=number(2)))
    await wrote(database, "acme")
    await receive(database, mo(2, "contact"))
    assert [m.sender_id for m in await asked(database)] == ["lune", "acme", "acme"]
    nameless = "Service SMS de plusieurs marques. Pour ne plus recevoir nos SMS : STOP au 36111."
    *before, after = await heard(database)
    assert before == [nameless, nameless]
    assert after.startswith("Service SMS édité par Acme SAS, contact@acme.example. Pour")


async def test_a_stop_of_one_brand_is_confirmed_by_that_brand_and_a_stop_of_all_names_them(database: Database) -> None:
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune"), at(0))
    named = mo(1)
    await wrote(database, "acme", "lune")
    await receive(
        database,
        msgspec.structs.replace(named, named=field_keys.seal("maison lune", f"named:{named.mo_id}")),
        mo(2),
        mo(3, everyone=True),
    )
    assert [m.sender_id for m in await asked(database)] == ["lune", "acme", "acme"]
    assert [said.partition(" :")[0] for said in await heard(database)] == [
        "Maison Lune",
        "Acme",
        "Acme et Maison Lune",
    ]


async def test_a_stop_on_a_code_of_several_names_no_brand_that_never_wrote(database: Database) -> None:
    """Who else is behind the code is nobody's to learn from a text."""
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune"), at(0))
    await receive(database, mo(1))
    await wrote(database, "lune")
    await receive(database, mo(2, everyone=True))
    assert [said.partition(" :")[0] for said in await heard(database)] == ["Nos marques", "Maison Lune"]
    assert [m.sender_id for m in await asked(database)] == ["acme", "lune"]


async def test_a_sender_answers_in_its_own_words_where_it_answers_alone(database: Database) -> None:
    own = Replies(
        stop="Bien reçu : plus de SMS de Maison Lune",
        contact="Édité par Maison Lune SAS, 1 rue de la Paix, Paris",
        start="Maison Lune vous retrouve. STOP au 36111",
    )
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune", own), at(0))
    await give(database, 0, "lune")
    first = mo(1)
    await wrote(database, "lune")
    alone = msgspec.structs.replace(first, named=field_keys.seal("maison lune", f"named:{first.mo_id}"))
    await receive(database, alone, mo(1.5, "contact"), mo(2, "start"))
    assert await heard(database) == [own.stop, own.contact, own.start]
    await wrote(database, "acme")
    await receive(database, mo(3))
    assert (await heard(database))[-1].startswith("Acme et Maison Lune : votre STOP est pris en compte")


async def test_own_words_on_record_that_do_not_pass_are_not_sent_and_the_stop_is_confirmed_all_the_same(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Words from before the rules of today. The registry refuses them over HTTP (`test_registry.py`)."""
    adverts = Replies(stop="Maison Lune : dernière chance, -50 % !", contact="Nos soldes", start="Bienvenue")
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune", adverts), at(0))
    await give(database, 0, "lune")
    first = mo(1)
    alone = msgspec.structs.replace(first, named=field_keys.seal("maison lune", f"named:{first.mo_id}"))
    await wrote(database, "lune")
    before = NOT_SENT.labels("stopped")._value.get()
    await receive(database, alone, mo(1.5, "contact"), mo(2, "start"))
    assert [said.partition(" :")[0] for said in await heard(database)] == [
        "Maison Lune",
        "Service SMS édité par Maison Lune SAS, contact@lune.example. Pour ne plus recevoir nos SMS",
        "Maison Lune",
    ]
    assert "votre STOP est pris en compte" in (await heard(database))[0]
    assert NOT_SENT.labels("stopped")._value.get() == before + 1
    told = [record for record in caplog.records if "own words do not pass" in record.message]
    assert [(vars(one)["sender_id"], vars(one)["why"]) for one in told][:2] == [
        ("lune", "advertising, rebate"),
        ("lune", "advertising, editor_missing"),
    ]


def link_in_answer(seed: str, expires_at: datetime) -> tuple[str, str]:
    return page.link_in_answer(link_keys, "https://p.example", seed, expires_at)


async def test_where_there_is_a_page_each_answer_has_the_person_s_own_link_to_it(database: Database) -> None:
    """The link is of the answer: it is stored with it, once, and not where the answer does not go."""
    links = intake.Links(link_in_answer, timedelta(days=7))
    at_home = intake.Intake(field_keys, subject_keys, INTAKE._answers, links)
    await give(database, 0)
    texts = [mo(1), mo(2, "contact"), mo(3, "start"), mo(4, sender="+36111"), mo(-24 * 60, "contact")]
    for _ in range(2):
        async with database.begin() as tx:
            await at_home.apply(tx, [Received(m, m.subject_id, 0, n, now(), None) for n, m in enumerate(texts)])
    said = await heard(database)
    assert len(said) == 3
    written = [re.findall(r" Vos choix : https://p\.example/p/(\S{28})$", text) for text in said]
    assert [length(text).segments for text in said] == [1, 2, 1]
    async with database.begin() as tx:
        for (token,), asked_at in zip(written, (1, 2, 3), strict=True):
            named = read(token, link_keys)
            assert named is not None
            link = await page_store.find_link(tx, named.link_id)
            assert link is not None
            assert (link.subject_id, link.sender_id, link.whole, link.given_to) == (subject(1), "acme", True, None)
            assert link.expires_at == named.expires_at == at(asked_at).replace(microsecond=0) + timedelta(days=7)
            assert field_keys.unseal(link.number, f"number:{subject(1)}") == number(1)
        assert await tx.scalar(text("SELECT count(*) FROM preference_link")) == 3


async def test_an_answer_of_several_brands_has_a_link_to_every_brand_where_it_fits(database: Database) -> None:
    at_home = intake.Intake(field_keys, subject_keys, INTAKE._answers, intake.Links(link_in_answer, timedelta(days=7)))
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", "Maison Lune"), at(0))
        stops = mo(1), mo(2, sender=number(2), everyone=True)
        await at_home.apply(tx, [Received(m, m.subject_id, 0, n, now(), None) for n, m in enumerate(stops)])
        links = (await tx.execute(text("SELECT subject_id, sender_id FROM preference_link"))).all()
    assert [tuple(link) for link in links] == [(subject(1), None)]
    assert ["Vos choix" in said for said in await heard(database)] == [True, False], "the second would be two SMS"


async def test_no_form_keeps_the_confirmation_of_a_stop_away(database: Database) -> None:
    """What callers had texted fills the day's cap for what callers cause, and for nothing else."""
    async with database.begin() as tx:
        for n in range(PER_DAY):
            await tx.execute(
                text(
                    "INSERT INTO answer (message_id, subject_id, sender_id, kind, asked_at)"
                    " VALUES (gen_random_uuid(), :who, 'acme', :kind, now())"
                ),
                {"who": subject(1), "kind": ("double_opt_in", "preferences", "renewal")[n % 3]},
            )
    await receive(database, mo(1))
    assert len(await asked(database)) == 1


async def test_on_a_code_that_is_nobodys_nobody_answers(database: Database) -> None:
    await receive(database, mo(1, short_code="36999"), mo(2, "contact", short_code="36999"))
    assert await asked(database) == []


@pytest.mark.parametrize("machine", ["+36111", "+38200", "+1234", "+"])
@pytest.mark.parametrize("intent", ["stop", "contact"])
async def test_what_is_no_phone_is_never_answered_though_its_stop_counts(
    database: Database, machine: str, intent: Intent
) -> None:
    await receive(database, mo(1, intent, sender=machine))
    assert await asked(database) == []
    async with database.begin() as tx:
        found = await ledger_store.find_subject(tx, subject_keys.subject_id(machine))
    assert (found is not None) == (intent == "stop")


async def test_a_number_that_does_not_unseal_is_not_answered(database: Database) -> None:
    await receive(database, mo(1, number="t1.damaged"))
    assert await asked(database) == []


async def test_a_text_that_waited_for_a_day_is_not_answered_any_more(database: Database) -> None:
    await receive(database, mo(-24 * 60, "contact"))
    assert await asked(database) == []


async def test_a_stop_that_a_person_found_later_is_confirmed_then(database: Database) -> None:
    doubtful = mo(-30 * 60, "review")
    decided = msgspec.structs.replace(doubtful, intent="stop", revision=1, decided_by="agent-12", decided_at=at(2))
    await receive(database, doubtful)
    await receive(database, decided, decided)
    assert len(await asked(database)) == 1


async def test_a_number_hears_so_many_answers_a_day_and_no_more(database: Database) -> None:
    for minutes in range(8):
        await receive(database, mo(minutes, "contact"), mo(minutes, "contact", sender=number(2)))
    assert sorted(m.subject_id for m in await asked(database)) == sorted([subject(1), subject(2)] * PER_DAY)
    async with database.begin() as tx:
        await tx.execute(text("UPDATE answer SET asked_at = asked_at - interval '1 day'"))
    await receive(database, *(mo(minutes, "contact") for minutes in (0, 1, 2, 8, 9)))
    assert len([m for m in await asked(database) if m.subject_id == subject(1)]) == PER_DAY + 2, "two were new"


async def test_the_same_text_gives_the_same_message_id_wherever_it_is_read_again(
    database: Database, postgres: Postgres, unique: str
) -> None:
    """A database put back from its backup has forgotten its answers; dispatch has not, and drops them by their id."""
    restored = Database(await postgres.clone("consent", f"restored_{unique}"))
    async with restored.begin() as tx:
        await senders.register(tx, sender("acme", "Acme"), at(0))
    try:
        for one in (database, restored):
            await receive(one, mo(1), mo(2, "contact"))
        first, second = [[m.message_id for m in await asked(one)] for one in (database, restored)]
        assert first == second
        assert len(set(first)) == 2
    finally:
        await restored.close()


@pytest.mark.parametrize("seed", range(8))
async def test_however_often_texts_come_and_transactions_are_lost_each_is_answered_once(
    database: Database, seed: int
) -> None:
    """Each person asks once who writes and stops once, in that order; batches overlap, repeat, and are rolled back."""
    rng = random.Random(seed)
    texts = [mo(n, intent, sender=number(n)) for n in range(12) for intent in ("contact", "stop")]
    done = 0
    while done < len(texts):
        first = rng.randint(0, done)  # from what was committed, or from before: offsets may go back
        batch = texts[first : min(len(texts), done + rng.randint(1, 6))]
        try:
            async with database.begin() as tx:
                await INTAKE.apply(tx, [Received(m, m.subject_id, 0, n, now(), None) for n, m in enumerate(batch)])
                if rng.random() < 0.4:
                    raise Crash
        except Crash:
            continue
        done = first + len(batch)
    answers = await asked(database)
    assert len({m.message_id for m in answers}) == len(answers) == len(texts)
    assert {m.subject_id for m in answers} == {subject(n) for n in range(12)}


BOTS: dict[str, Callable[[str, int], str]] = {
    "an echo": lambda said, turn: said,
    "an echo with a preamble": lambda said, turn: f"Message automatique. Vous avez ecrit : {said}",
    "a quotation": lambda said, turn: f"> {said}\nJe suis absent, merci",
    "asks who": lambda said, turn: "CONTACT",
    "stops": lambda said, turn: "STOP",
    "in and out": lambda said, turn: ("START", "STOP")[turn % 2],
    "everything": lambda said, turn: ("STOP", "CONTACT", "START", said, "OUI", "info")[turn % 6],
}


@pytest.mark.parametrize("bot", BOTS)
async def test_no_machine_that_answers_our_answers_makes_a_loop(database: Database, bot: str) -> None:
    await give(database, 0)
    await receive(database, mo(1, "contact"))
    heard_so_far, turn = 0, 0
    while len(answers := await heard(database)) > heard_so_far:
        for said in answers[heard_so_far:]:
            turn += 1
            meant = classify(BOTS[bot](said, turn))
            await receive(database, mo(turn + 1, meant.intent, everyone=meant.everyone))
        heard_so_far = len(answers)
        assert heard_so_far <= PER_DAY
