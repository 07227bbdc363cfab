"""What people answer by SMS: through the intake on a real Postgres, and whole, from topic to topic."""

import asyncio
import base64
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from aiokafka.client import AIOKafkaClient
from sqlalchemy import text

from common.contracts import INBOUND_MESSAGES, STATES, Event, Watermark
from common.contracts.consent import ConsentStateChanged, Purpose
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.contracts.inbound import MessageReceived
from common.contracts.rights import ErasureRequested
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka.reading import broken_logs, log_watch
from common.kafka.subscription import Received, Stopped
from common.keyring import MISMATCHES
from common.privacy import erasing
from common.privacy.erasing import Whom
from consent import eraser
from consent.answers.answers import Answers
from consent.inbound import messages as intake
from consent.inbound.opt_out_receipts import Receipts
from consent.ledger import retention, term_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.recorder import Statement, record
from consent.proof.audit import Audit
from consent.senders import registry as senders
from consent.senders import store as senders_store
from consent.service import Settings, build
from tests.support.builders import field_keys, inner, number, subject_keys
from tests.support.builders import subject as somebody
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.publish import lose, publish, publish_raw
from tests.support.reading import reading
from tests.support.running import ORGANISATION, OUTER_RING, SUBJECT_RING, Surroundings, running
from tests.unit.consent.evidences import NOW, at, on_page, opt_in, opt_out

WHO = somebody(1)
INTAKE = intake.Intake(field_keys, subject_keys, Answers(field_keys, per_day=5, fictional=True))


def mo(minutes: float, intent: str = "stop", who: int = 1, **changes: Any) -> MessageReceived:
    """An MO to acme's code from the number of `who`, `minutes` after noon."""
    fields: dict[str, Any] = {
        "mo_id": f"mo-{intent}-{minutes}",
        "subject_id": somebody(who),
        "provider": "simulator",
        "account": "fr",
        "provider_message_id": f"p-{intent}-{minutes}",
        "number": field_keys.seal(number(who), f"number:{somebody(who)}"),
        "short_code": "36111",
        "text": "sealed",
        "intent": intent,
        "rule": "test",
        "score": 1.0,
        "occurred_at": at(minutes),
        "received_at": at(minutes) + timedelta(seconds=2),
    }
    return MessageReceived(**(fields | changes))


def saying(words: str, **changes: Any) -> MessageReceived:
    """A STOP with these words beside it, as inbound-svc publishes it."""
    stop = mo(1, **changes)
    return msgspec.structs.replace(stop, named=field_keys.seal(words, f"named:{stop.mo_id}"))


def sender(sender_id: str, stop_code: str = "36111", brand: str = "Acme") -> senders_store.Sender:
    return senders_store.Sender(
        sender_id=sender_id,
        organisation_id=ORGANISATION,
        legal_name=f"{brand} SAS",
        brand=brand,
        contact="acme.example",
        country="FR",
        oadc=brand.upper().replace(" ", ""),
        stop_code=stop_code,
        purposes=(Purpose(id="promotions", wording="Nos offres"), Purpose(id="loyalty", wording="Votre carte")),
        controller=sender_id,
    )


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        await senders.register(tx, sender("acme"), NOW)
    yield opened
    await opened.close()


async def give(database: Database, *evidence: ledger.Evidence) -> None:
    async with database.begin() as tx:
        await record(tx, inner, [Statement(WHO, "sealed", e) for e in evidence], NOW)


async def receive(database: Database, *messages: MessageReceived) -> None:
    batch = [Received(m, m.subject_id, 0, n, NOW, None) for n, m in enumerate(messages)]
    async with database.begin() as tx:
        assert await INTAKE.apply(tx, batch) is None


async def subject(database: Database, subject_id: str = WHO) -> ledger_store.Subject | None:
    async with database.begin() as tx:
        return await ledger_store.find_subject(tx, subject_id)


async def standing(database: Database, sender_id: str = "acme", purpose: str = "promotions") -> str:
    found = await subject(database)
    return ledger.standing(found.state, sender_id, purpose) if found else "unknown"


async def test_a_stop_closes_every_purpose_of_the_sender_and_names_its_mo(database: Database) -> None:
    await give(database, opt_in(0), opt_in(0, purpose="loyalty"))
    await receive(database, mo(1))
    assert await standing(database) == await standing(database, purpose="loyalty") == "opted_out"
    async with database.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.source, proof.reference, proof.purpose) == ("mo", "simulator/fr/p-stop-1", None)
    assert (proof.occurred_at, proof.received_at) == (at(1), at(1) + timedelta(seconds=2))


async def test_a_stop_on_a_shared_code_closes_all_its_senders_and_no_other(database: Database) -> None:
    async with database.begin() as tx:
        await senders.register(tx, sender("globex"), NOW)
        await senders.register(tx, sender("initech", "36222"), NOW)
    await receive(database, mo(1))
    assert await standing(database, "globex") == await standing(database, "acme") == "opted_out"
    assert await standing(database, "initech") == "unknown"


async def test_a_stop_on_a_code_that_is_nobodys_closes_every_sender(database: Database) -> None:
    await receive(database, mo(1, short_code="36999"))
    assert await standing(database, "any-sender", "any-purpose") == "opted_out"


async def test_a_stop_to_a_code_of_nobody_that_waits_for_a_reader_holds_and_stops_once_read(database: Database) -> None:
    """The reader decides for every sender, whoever has registered the code meanwhile."""
    await give(database, opt_in(0))
    waiting = mo(1, short_code="36999", no_sender=True)
    await receive(database, waiting)
    assert await standing(database) == "opted_in"
    held = await subject(database)
    assert held is not None
    assert held.held_since == waiting.received_at
    async with database.begin() as tx:
        await senders.register(tx, sender("late", "36999"), NOW)
    read = msgspec.structs.replace(waiting, revision=1, decided_by="léa", decided_at=at(9))
    await receive(database, read)
    assert await standing(database) == await standing(database, "any-sender", "any-purpose") == "opted_out"
    assert (found := await subject(database)) is not None
    assert found.held_since is None


async def test_a_stop_to_a_code_that_only_inbound_does_not_know_yet_counts_at_once(database: Database) -> None:
    await receive(database, mo(1, no_sender=True))
    assert (found := await subject(database)) is not None
    assert (await standing(database), found.held_since) == ("opted_out", None)


@pytest.fixture
async def shared(database: Database) -> Database:
    """Acme and Maison Lune behind one code, Initech on its own."""
    async with database.begin() as tx:
        await senders.register(tx, sender("lune", brand="Maison Lune"), NOW)
        await senders.register(tx, sender("initech", "36222", brand="Initech"), NOW)
    await wrote(database, acme=0, lune=0)
    return database


def moved(sender_id: str, minute: float, **changes: Any) -> MessageChanged:
    event = MessageChanged(
        message_id=f"m-{sender_id}-{minute}",
        campaign_id="c1",
        sender_id=sender_id,
        subject_id=WHO,
        category="marketing",
        version=3,
        status="accepted",
        reasons=(),
        until=None,
        policy_version="france-2",
        consent_version=1,
        as_of=None,
        decided_at=at(minute),
        gateway="simulator",
        gateway_message_id=f"g-{sender_id}-{minute}",
        receipt=None,
        code=None,
        purpose="promotions",
        handed_off_at=at(minute),
    )
    return msgspec.structs.replace(event, **changes)


WAITING = (
    "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted"
)


async def waiting_for_a_lock(database: Database) -> bool:
    async with database.begin() as tx:
        return bool(await tx.scalar(text(WAITING)))


async def wrote(database: Database, **minutes: float) -> None:
    """Each of these senders wrote to the person at this minute."""
    await told(database, *(moved(sender_id, minute) for sender_id, minute in minutes.items()))


def received(changed: MessageChanged, offset: int) -> Received:
    return Received(MessagesChanged(changes=(changed,)), WHO, 0, offset, NOW, None)


async def told(database: Database, *changed: MessageChanged) -> None:
    batch = [received(one, n) for n, one in enumerate(changed)]
    async with database.begin() as tx:
        await Receipts(field_keys, subject_keys).apply(tx, batch)


async def asked(database: Database, sender_id: str, minute: float) -> str:
    """The sender requested a question to the person at this minute."""
    question = str(uuid4())
    async with database.begin() as tx:
        await tx.execute(
            text(
                "INSERT INTO answer (message_id, subject_id, sender_id, kind, asked_at)"
                " VALUES (CAST(:id AS uuid), :who, :sender, 'question', :at)"
            ),
            {"id": question, "who": WHO, "sender": sender_id, "at": at(minute)},
        )
    return question


async def out(database: Database) -> list[str]:
    return [who for who in ("acme", "lune", "initech") if await standing(database, who) == "opted_out"]


async def test_a_stop_on_a_code_of_several_is_for_who_wrote_last(shared: Database) -> None:
    await wrote(shared, lune=1)
    await receive(shared, mo(2))
    assert await out(shared) == ["lune"]
    await wrote(shared, acme=5)
    await receive(shared, mo(6))
    assert await out(shared) == ["acme", "lune"]


async def test_a_stop_that_arrives_hours_late_is_also_for_who_wrote_last_before_it_was_sent(shared: Database) -> None:
    async with shared.begin() as tx:
        await senders.register(tx, sender("globex"), NOW)
    await wrote(shared, acme=5, lune=120)
    await receive(shared, mo(6, received_at=at(180)))
    assert await out(shared) == ["acme", "lune"]
    assert await standing(shared, "globex") == "unknown"
    await wrote(shared, globex=60)
    assert await standing(shared, "globex") == "opted_out", "a message of between, known late, widens it"


async def test_a_stop_that_was_sent_before_every_message_is_for_the_whole_code(shared: Database) -> None:
    await wrote(shared, lune=120)
    await receive(shared, mo(-60, received_at=at(180)))
    assert await out(shared) == ["acme", "lune"]


async def test_a_message_that_never_left_takes_no_stop_and_one_that_perhaps_left_takes_it_too(shared: Database) -> None:
    await wrote(shared, acme=1)
    await told(shared, moved("lune", 2, status="rejected"))
    await receive(shared, mo(3))
    assert await out(shared) == ["acme"]
    await told(shared, moved("lune", 4, status="unknown"))
    await told(shared, moved("lune", 4, version=4, status="rejected"))
    await receive(shared, mo(5))
    assert await out(shared) == ["acme"], "the operator said at last that it did not go"
    await told(shared, moved("lune", 6, status="unknown"))
    await receive(shared, mo(7))
    assert await out(shared) == ["acme", "lune"]


@pytest.mark.parametrize("left", [False, True], ids=["perhaps", "surely"])
async def test_a_question_takes_the_place_of_a_message_once_it_has_left(shared: Database, left: bool) -> None:
    """Dispatch may deny it, or the operator: before, the message that surely left explains the STOP."""
    question = await asked(shared, "lune", 2)
    await wrote(shared, acme=1)
    if left:
        gone = moved("lune", 2, message_id=question, category="service", purpose=None, campaign_id=None)
        await told(shared, gone)
    await receive(shared, mo(3))
    assert await out(shared) == (["lune"] if left else ["acme", "lune"])


async def test_a_message_that_did_not_arrive_takes_no_stop_from_the_one_before(shared: Database) -> None:
    await wrote(shared, acme=1, lune=2)
    await told(shared, moved("lune", 2, version=4, receipt="failed"))
    await receive(shared, mo(3))
    assert await out(shared) == ["acme", "lune"]


async def test_a_message_that_left_later_than_it_seemed_takes_the_stop(shared: Database) -> None:
    """Its first process was lost before the submit; another has sent it, long after the message of the other brand."""
    lost = moved("lune", 0, version=2, status="unknown", handed_off_at=None)
    await told(shared, lost)
    await wrote(shared, acme=5)
    await told(shared, msgspec.structs.replace(lost, version=4, status="accepted", handed_off_at=at(9)))
    await receive(shared, mo(10))
    assert await out(shared) == ["lune"]


async def test_a_question_that_may_have_waited_is_stopped_too(shared: Database) -> None:
    await asked(shared, "lune", 1)
    await wrote(shared, acme=2)
    await receive(shared, mo(3))
    assert await out(shared) == ["acme", "lune"]


async def test_a_message_on_another_code_explains_no_stop_on_this_one(shared: Database) -> None:
    """Acme has left the code, and wrote last: the person answers the message before, on this code."""
    async with shared.begin() as tx:
        await senders.change(tx, sender("acme"), sender("acme", "36333"), at(2))
    await wrote(shared, lune=1, acme=3)
    await receive(shared, mo(4))
    assert await out(shared) == ["lune"]


async def test_a_stop_long_after_every_message_is_for_the_whole_code(shared: Database) -> None:
    await wrote(shared, lune=1)
    await receive(shared, mo(1 + 30 * 24 * 60 + 1))
    assert await out(shared) == ["acme", "lune"]


async def test_a_message_known_after_the_stop_that_it_came_before_widens_the_stop(shared: Database) -> None:
    """Dispatch may say late what has left: the STOP was for that brand, and what it has shut stays so."""
    await wrote(shared, lune=1)
    await receive(shared, mo(3))
    assert await out(shared) == ["lune"]
    await wrote(shared, acme=0.5)
    assert await out(shared) == ["lune"], "an older message changes nothing"
    await wrote(shared, acme=4)
    assert await out(shared) == ["lune"], "nor does a later one"
    await wrote(shared, acme=2)
    assert await out(shared) == ["acme", "lune"]
    async with shared.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.source, proof.reference, proof.arrived_at) == ("mo", "simulator/fr/p-stop-3", mo(3).received_at)


@pytest.mark.parametrize("gone", [{"receipt": "failed"}, {"receipt": "expired"}, {"status": "rejected"}])
async def test_a_last_message_that_is_known_late_not_to_have_arrived_gives_the_stop_to_the_one_before_too(
    shared: Database, gone: dict[str, Any]
) -> None:
    """The person answered Acme, and then Globex, whose messages had arrived; nobody gets the STOP back."""
    async with shared.begin() as tx:
        await senders.register(tx, sender("globex"), NOW)
    await wrote(shared, globex=1, acme=2, lune=3)
    await receive(shared, mo(4))
    await told(shared, moved("lune", 3, version=4, receipt="delivered"))
    assert await out(shared) == ["lune"]
    await told(shared, moved("lune", 3, version=5, **gone))
    assert await out(shared) == ["acme", "lune"]
    assert await standing(shared, "globex") == "unknown"
    async with shared.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.source, proof.reference, proof.arrived_at) == ("mo", "simulator/fr/p-stop-4", mo(4).received_at)
    await told(shared, moved("acme", 2, version=4, **gone))
    assert await standing(shared, "globex") == "opted_out"
    assert await out(shared) == ["acme", "lune"]


async def test_a_stop_that_names_a_brand_stays_with_it_whatever_became_of_another_sender_s_message(
    shared: Database,
) -> None:
    async with shared.begin() as tx:
        await senders.register(tx, dataclasses.replace(sender("lune-2", brand="Lune Deux"), controller="lune"), NOW)
    await wrote(shared, acme=0.1, lune=0.2)
    await receive(shared, saying("maison lune"))
    await told(shared, moved("acme", 0.3, status="unknown"), moved("acme", 0.3, version=4, status="rejected"))
    assert await out(shared) == ["lune"]
    assert await standing(shared, "lune-2") == "unknown"


async def test_a_question_that_is_known_late_not_to_have_arrived_gives_the_stop_to_the_one_before_too(
    shared: Database,
) -> None:
    question = await asked(shared, "lune", 2)
    await wrote(shared, acme=1)
    gone = moved("lune", 2, message_id=question, category="service", purpose=None, campaign_id=None)
    await told(shared, gone)
    await receive(shared, mo(3))
    assert await out(shared) == ["lune"]
    await told(shared, msgspec.structs.replace(gone, version=5, receipt="expired"), gone)
    assert await out(shared) == ["acme", "lune"]


async def test_a_decided_stop_that_widens_names_its_reviewer_and_an_undecided_one_waits(shared: Database) -> None:
    async with shared.begin() as tx:
        await senders.register(tx, sender("globex"), NOW)
    await give(shared, opt_in(0))
    await wrote(shared, acme=1)
    await receive(shared, mo(8, "start"))
    await wrote(shared, lune=2)
    behind = late_stop(10, said=5, behind_start=True)
    await receive(shared, behind)
    await told(shared, moved("lune", 2, version=4, receipt="failed"))
    assert await out(shared) == ["lune"], "acme, which the STOP covers too by now, is not shut before the decision"
    await receive(shared, msgspec.structs.replace(behind, revision=1, decided_by="léa", decided_at=at(20)))
    await wrote(shared, globex=3)
    assert await out(shared) == ["acme", "lune"]
    async with shared.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.sender_id, proof.actor, proof.received_at, proof.clock) == ("globex", "léa", at(20), None)


async def test_an_erasure_of_everything_takes_the_name_of_the_text_behind_an_attribution(shared: Database) -> None:
    """Of one before the erasure, read then or later; the STOP still widens. A later one keeps its name."""
    kept = text("SELECT mo_id, reference, actor FROM attributed_stop ORDER BY arrived_at")
    await wrote(shared, acme=1, lune=2)
    await receive(shared, mo(3, revision=1, decided_by="léa", decided_at=at(4)))
    async with shared.begin() as tx:
        await eraser.erase(tx, {Whom(WHO, "lune"): at(20)})
        assert [row.actor for row in await tx.execute(kept)] == ["léa"], "the person may have meant another"
        asked = ErasureRequested(erasure_id="e-1", subject_id=WHO, controller_id=None, requested_at=at(20))
        await erasing.put(tx, asked)
        await eraser.erase(tx, {Whom(WHO, None): at(20)})
        assert [tuple(row) for row in await tx.execute(kept)] == [("mo-stop-3", None, None)]
    await receive(shared, mo(5))
    await receive(shared, mo(30))
    async with shared.begin() as tx:
        found = [tuple(row) for row in await tx.execute(kept)]
    assert found == [
        ("mo-stop-3", None, None),
        ("mo-stop-5", None, None),
        ("mo-stop-30", "simulator/fr/p-stop-30", None),
    ]
    await told(shared, moved("lune", 2, version=4, receipt="failed"))
    assert await out(shared) == ["acme", "lune"]


async def test_a_stop_and_a_message_recorded_at_once_do_not_miss_each_other(shared: Database) -> None:
    """Whichever transaction comes first: the brand that wrote last is shut. Also of a text under another subject id."""
    await wrote(shared, lune=1)
    async with shared.begin() as first:
        await Receipts(field_keys, subject_keys).apply(first, [received(moved("acme", 2), 9)])
        stop = asyncio.create_task(receive(shared, misnamed(mo(3))))
        await eventually(lambda: waiting_for_a_lock(shared))
    await stop
    assert await out(shared) == ["acme"]


async def test_a_brand_like_a_word_beside_stop_takes_no_stop_of_others(shared: Database) -> None:
    """« STOP MERCI » is for who wrote last, although another on the code, which wrote before, is called so."""
    async with shared.begin() as tx:
        await senders.register(tx, sender("mallory", brand="Merci"), NOW)
    await wrote(shared, mallory=0.5, lune=1)
    await receive(shared, msgspec.structs.replace(mo(2), named=field_keys.seal("merci", "named:mo-stop-2")))
    assert await out(shared) == ["lune"]
    assert await standing(shared, "mallory") == "opted_out"


@pytest.mark.parametrize(
    ("words", "shut"),
    [
        ("maison lune", ["lune"]),
        ("pub de maisonlune", ["lune"]),
        ("acme et maison lune", ["acme", "lune"]),
        ("dupont", ["acme", "lune"]),
        ("lune acme peut continuer", ["acme", "lune"]),
        ("initech", ["acme", "lune"]),
    ],
    ids=["a brand", "an OADC", "two brands", "nobody we know", "more than names", "a brand of another code"],
)
async def test_a_stop_that_names_a_brand_on_a_shared_code_is_for_that_brand_and_in_doubt_for_the_code(
    shared: Database, words: str, shut: list[str]
) -> None:
    await receive(shared, saying(words))
    assert await out(shared) == shut


async def test_a_stop_to_all_is_for_everyone_whatever_the_code(shared: Database) -> None:
    await receive(shared, mo(1, everyone=True, short_code="36222"))
    assert await standing(shared) == await standing(shared, "not-even-registered", "any") == "opted_out"


async def test_a_stop_whose_words_cannot_be_read_is_for_the_whole_code(shared: Database) -> None:
    await receive(shared, mo(1, named="t1.damaged"))
    assert await standing(shared) == await standing(shared, "lune") == "opted_out"


async def test_a_stop_that_names_somebody_on_a_code_that_is_nobodys_is_for_everyone(shared: Database) -> None:
    await receive(shared, saying("acme", short_code="36999"))
    assert await standing(shared) == await standing(shared, "initech") == "opted_out"


async def test_a_stop_that_answers_an_old_code_still_means_its_sender(database: Database) -> None:
    async with database.begin() as tx:
        await senders.change(tx, sender("acme"), sender("acme", "36333"), NOW)
        await senders.register(tx, sender("globex", "36222"), NOW)
    await receive(database, mo(1, short_code="36111"))
    assert await standing(database) == "opted_out"
    assert await standing(database, "globex") == "unknown"


async def test_a_repeated_stop_falls_out(database: Database) -> None:
    await receive(database, mo(1), mo(1))
    await receive(database, mo(1))
    found = await subject(database)
    assert found
    assert (found.version > 0, found.entries) == (True, 1)


async def test_a_stop_older_than_the_persons_own_opt_in_does_not_close_it(database: Database) -> None:
    await give(database, on_page(5))
    await receive(database, mo(1))
    assert await standing(database) == "opted_in"


async def test_a_start_takes_a_stop_back_for_what_the_person_had_opted_in_to(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1), mo(2, "start"))
    assert await standing(database) == "opted_in"
    assert await standing(database, purpose="loyalty") == "opted_out"
    async with database.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.kind, proof.purpose, proof.basis) == ("opt_in", "promotions", "opt_in")
    assert (proof.source, proof.reference) == ("mo", "simulator/fr/p-start-2")


async def test_a_start_is_for_the_senders_of_the_code_today_and_for_none_that_has_left_it(shared: Database) -> None:
    await give(shared, opt_in(0), opt_in(0, sender_id="lune"))
    async with shared.begin() as tx:
        await senders.change(tx, sender("acme"), sender("acme", "36333"), NOW)
    await wrote(shared, lune=1)
    await receive(shared, mo(1, short_code="36333"), mo(2), mo(3, "start"))
    assert await standing(shared, "lune") == "opted_in"
    assert await standing(shared) == "opted_out"
    await receive(shared, mo(4, "start", short_code="36333"))
    assert await standing(shared) == "opted_in"


async def test_a_start_on_a_code_of_several_takes_back_the_newest_stop_alone(shared: Database) -> None:
    """Neither who was stopped before, nor what is asserted only since, whatever time the assertion claims."""
    await give(shared, opt_in(0), opt_in(0, sender_id="lune"))
    await wrote(shared, lune=1, acme=3)
    await receive(shared, mo(2), mo(4))
    assert await out(shared) == ["acme", "lune"]
    backdated = opt_in(1, purpose="news", received_at=at(5))
    await give(shared, opt_in(5), opt_in(5, purpose="loyalty"), backdated)
    await receive(shared, mo(6, "start"))
    assert [await standing(shared), await standing(shared, "lune")] == ["opted_in", "opted_out"]
    assert await standing(shared, purpose="loyalty") == await standing(shared, purpose="news") == "opted_out"


async def test_a_start_leaves_an_old_stop_by_text_where_the_person_has_stopped_another_since(shared: Database) -> None:
    await give(shared, opt_in(0), opt_in(0, sender_id="lune"))
    await wrote(shared, lune=1)
    await receive(shared, mo(2))
    await give(shared, opt_out(4, source="stop_link"))
    await wrote(shared, acme=5)
    await receive(shared, mo(6, "start"))
    assert [await standing(shared), await standing(shared, "lune")] == ["opted_in", "opted_out"]


async def test_a_start_on_a_code_of_several_counts_the_stop_that_came_with_it(shared: Database) -> None:
    await give(shared, opt_in(0), opt_in(0, sender_id="lune"))
    await wrote(shared, lune=1, acme=3)
    await receive(shared, mo(2), mo(4), mo(6, "start"))
    assert [await standing(shared), await standing(shared, "lune")] == ["opted_in", "opted_out"]


@pytest.mark.parametrize(
    ("minutes", "opened"), [({"acme": 1}, ["acme"]), ({}, [])], ids=["one wrote last", "both at one instant"]
)
async def test_a_start_after_a_stop_of_all_opens_only_the_one_that_wrote_last(
    shared: Database, minutes: dict[str, float], opened: list[str]
) -> None:
    await give(shared, opt_in(0), opt_in(0, sender_id="lune"))
    await wrote(shared, **minutes)
    await receive(shared, mo(2, everyone=True), mo(3, "start"))
    assert [who for who in ("acme", "lune") if await standing(shared, who) == "opted_in"] == opened


@pytest.mark.parametrize(
    "before",
    [
        [],
        [opt_in(0, sender_id="globex")],
        [opt_in(0), opt_out(1, purpose="promotions")],
    ],
    ids=["never in", "in with another sender", "left that purpose by itself"],
)
async def test_a_start_grants_nothing_new(database: Database, before: list[ledger.Evidence]) -> None:
    await give(database, *before)
    await receive(database, mo(2), mo(3, "start"))
    assert await standing(database) == "opted_out"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("start_at", [1, 0.5])
async def test_a_start_as_old_as_the_stop_or_older_opens_nothing_in_any_order(
    database: Database, order: tuple[int, int], start_at: float
) -> None:
    await give(database, opt_in(0))
    both = [mo(1), mo(start_at, "start")]
    for place in order:
        await receive(database, both[place])
    assert await standing(database) == "opted_out"


async def test_a_start_from_a_stranger_leaves_no_trace(database: Database) -> None:
    await receive(database, mo(1, "start"))
    assert await subject(database) is None


async def test_a_start_on_a_code_that_is_nobodys_opens_nothing(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1), mo(2, "start", short_code="36999"))
    assert await standing(database) == "opted_out"


@pytest.mark.parametrize("intent", ["confirm", "contact", "erase", "none"])
async def test_the_other_intents_change_no_consent_yet(database: Database, intent: str) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, intent))
    found = await subject(database)
    assert found
    assert (found.version > 0, found.entries) == (True, 1)


def decided(minutes: float, intent: str) -> MessageReceived:
    """What a person made, an hour later, of the review MO of `minutes`."""
    return msgspec.structs.replace(
        mo(minutes, "review"), intent=intent, revision=1, decided_by="agent-12", decided_at=at(minutes + 60)
    )


async def held_since(database: Database) -> datetime | None:
    found = await subject(database)
    assert found
    return found.held_since


async def test_a_text_in_doubt_holds_the_subject_and_changes_no_consent(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, "review"), mo(1, "review"))
    await receive(database, mo(1, "review"))
    found = await subject(database)
    assert found
    assert (found.held_since, found.entries) == (mo(1).received_at, 1)
    assert await standing(database) == "opted_in"


async def test_a_text_in_doubt_holds_a_stranger_who_may_opt_in_later(database: Database) -> None:
    """Their number is held from then on: until then nothing would ever erase it."""
    await receive(database, mo(1, "review"), mo(1, "contact"))
    found = await subject(database)
    assert found
    assert found.held_since
    assert found.number is None
    await give(database, opt_in(2))
    found = await subject(database)
    assert found
    assert found.held_since
    assert found.number == "sealed"


@pytest.mark.parametrize("intent", ["none", "start"])
async def test_of_a_stranger_who_is_held_no_longer_no_number_stays(database: Database, intent: str) -> None:
    await receive(database, mo(1, "review"), mo(2, "none"))
    await receive(database, decided(1, intent))
    found = await subject(database)
    assert found
    assert (found.held_since, found.number) == (None, None)


@pytest.mark.parametrize("intent", ["none", "contact"])
async def test_a_hold_is_lifted_by_the_person_who_read_the_text(database: Database, intent: str) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, "review"))
    await receive(database, decided(1, intent), decided(1, intent))
    assert await held_since(database) is None
    assert await standing(database) == "opted_in"
    found = await subject(database)
    assert found
    async with database.begin() as tx:
        told = await tx.scalar(text("SELECT count(*) FROM outbox WHERE topic = 'consent.states.v1'"))
    assert told == 3


async def test_a_stop_that_a_person_found_is_evidence_with_their_name_and_lifts_the_hold(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, "review"))
    await receive(database, decided(1, "stop"))
    assert (await standing(database), await held_since(database)) == ("opted_out", None)
    async with database.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.source, proof.actor, proof.reference) == ("mo", "agent-12", "simulator/fr/p-review-1")
    assert (proof.occurred_at, proof.received_at) == (at(1), at(61)), "said then, understood an hour later"
    found = await subject(database)
    assert found
    async with database.begin() as tx:
        told = await tx.scalar(text("SELECT count(*) FROM outbox WHERE topic = 'consent.states.v1'"))
    assert told == 3, "one version tells both"


@pytest.mark.parametrize("found_by", ["the classifier", "a reviewer"])
async def test_of_a_stranger_who_texts_stop_the_keyed_hash_alone_is_held_and_keeps_them_out(
    database: Database, found_by: str
) -> None:
    """CNIL MED-2023-040. What they wrote goes with the person's own term."""
    if found_by == "a reviewer":
        await receive(database, mo(1, "review"))
    await receive(database, decided(1, "stop") if found_by == "a reviewer" else mo(1, "stop"))
    found = await subject(database)
    assert found
    assert found.number is None
    assert await standing(database) == "opted_out"
    await give(database, opt_in(2))
    assert await standing(database) == "opted_out", "an asserted opt-in opens nothing"
    await receive(database, mo(3, "stop"))
    async with database.begin() as tx:
        [term] = (await term_store.terms_kept(tx, [WHO]))[WHO]
    assert retention.is_person(term)


async def test_a_stop_found_late_does_not_close_what_the_person_has_chosen_since(database: Database) -> None:
    await receive(database, mo(1, "review"))
    await give(database, on_page(30))
    await receive(database, decided(1, "stop"))
    assert await standing(database) == "opted_in"


async def test_a_start_that_a_person_found_takes_back_the_stop_before_it_only(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1), mo(2, "review"))
    await receive(database, decided(2, "start"), mo(3, mo_id="mo-last"))
    assert await standing(database) == "opted_out"
    async with database.begin() as tx:
        kinds = [entry.evidence.kind for entry in await ledger_store.history(tx, WHO)]
    assert kinds == ["opt_in", "opt_out", "opt_in", "opt_out"]


async def test_a_subject_is_held_until_the_last_text_in_doubt_is_read(database: Database) -> None:
    await receive(database, mo(1, "review"), mo(2, "review"))
    await receive(database, decided(1, "none"))
    assert await held_since(database) == mo(2).received_at
    await receive(database, decided(2, "none"))
    assert await held_since(database) is None


async def test_neither_a_start_nor_an_opt_in_lifts_a_hold(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, "review"), mo(2), mo(3, "start"))
    await give(database, opt_in(4, evidence_id="ev-again"))
    assert await standing(database) == "opted_in"
    assert await held_since(database)


async def test_a_text_that_was_read_is_not_in_doubt_again_when_its_first_revision_comes_late(
    database: Database,
) -> None:
    await receive(database, decided(1, "none"))
    await receive(database, mo(1, "review"))
    assert await held_since(database) is None


async def test_a_text_and_its_decision_in_one_batch_leave_no_hold_in_any_order(database: Database) -> None:
    await receive(database, decided(1, "none"), mo(1, "review"))
    assert await held_since(database) is None


def late_stop(minutes: float, said: float, **changes: Any) -> MessageReceived:
    """A STOP that arrives `minutes` after noon, by its operator's clock of `said`."""
    return mo(minutes, occurred_at=at(said), received_at=at(minutes), **changes)


async def causes(database: Database) -> list[str]:
    """Of the newest state that was told."""
    async with database.begin() as tx:
        payload = await tx.scalar(
            text("SELECT payload FROM outbox WHERE topic = 'consent.states.v1' ORDER BY id DESC LIMIT 1")
        )
    event = msgspec.json.decode(payload, type=ConsentStateChanged)
    return [cause.kind for cause in event.causes]


async def test_a_stop_that_arrives_after_an_opt_in_closes_it_though_its_operators_clock_is_slow(
    database: Database,
) -> None:
    await give(database, opt_in(9))
    await receive(database, late_stop(10, said=8))
    assert (await standing(database), await causes(database)) == ("opted_out", ["opt_out"])
    await give(database, on_page(11, evidence_id="ev-back"))
    await receive(database, late_stop(10, said=8))
    assert await standing(database) == "opted_in", "the same STOP again is known"


@pytest.mark.parametrize(("intent", "after"), [("stop", "opted_out"), ("none", "opted_in")])
async def test_a_stop_behind_a_start_is_held_and_not_told_until_a_person_has_decided(
    database: Database, intent: str, after: str
) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(20, "start"))
    old = late_stop(60, said=10, behind_start=True)
    await receive(database, old)
    assert (await standing(database), await held_since(database)) == ("opted_in", at(60))
    assert await causes(database) == []
    await receive(database, old)
    read = msgspec.structs.replace(old, intent=intent, revision=1, decided_by="agent-12", decided_at=at(90))
    await receive(database, read)
    assert (await standing(database), await held_since(database)) == (after, None)
    assert await causes(database) == (["opt_out"] if intent == "stop" else [])


async def test_a_stop_behind_a_start_that_nobody_will_read_closes_what_it_came_after(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(20, "start"))
    await receive(database, late_stop(60, said=10))
    assert (await standing(database), await held_since(database)) == ("opted_out", None)
    assert await causes(database) == ["opt_out"]
    async with database.begin() as tx:
        found = [f async for f in Audit(tx, inner).findings()]
    assert found == [], "whoever verifies the ledger comes to the same state"


async def test_a_stop_is_not_lost_for_an_operators_clock_that_runs_ahead(database: Database) -> None:
    ahead = datetime.now(UTC) + timedelta(days=3)
    await give(database, opt_in(0))
    await receive(database, mo(1, occurred_at=ahead), mo(1.5, "start", occurred_at=ahead))
    assert await standing(database) == "opted_in", "both count from when we held them: the START is later"


def misnamed(message: MessageReceived, who: int = 1) -> MessageReceived:
    """As inbound-svc would publish it with another key under the same key id."""
    other = "t1-" + "f" * 32
    return msgspec.structs.replace(message, subject_id=other, number=field_keys.seal(number(who), f"number:{other}"))


async def test_a_stop_under_another_subject_id_counts_for_the_person_of_its_number(database: Database) -> None:
    await give(database, opt_in(0))
    before = MISMATCHES._value.get()
    await receive(database, misnamed(mo(1)))
    found = await subject(database)
    assert found is not None
    assert ledger.standing(found.state, "acme", "promotions") == "opted_out"
    assert await subject(database, "t1-" + "f" * 32) is None
    assert MISMATCHES._value.get() == before + 1


async def test_what_loosens_under_another_subject_id_counts_for_nobody(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1), misnamed(mo(2, "start")), misnamed(mo(3, "confirm")), misnamed(mo(4, "none")))
    found = await subject(database)
    assert found is not None
    assert (ledger.standing(found.state, "acme", "promotions"), found.entries) == ("opted_out", 2)
    assert await subject(database, "t1-" + "f" * 32) is None


async def test_a_review_under_another_subject_id_holds_the_person_of_its_number_until_it_is_read(
    database: Database,
) -> None:
    await give(database, opt_in(0))
    unread = misnamed(mo(1, "review"))
    await receive(database, unread)
    assert (await subject(database)).held_since is not None  # type: ignore[union-attr]
    read = {"intent": "start", "revision": 1, "decided_by": "reviewer", "decided_at": at(2)}
    await receive(database, msgspec.structs.replace(unread, **read))
    found = await subject(database)
    assert found is not None
    assert (found.held_since, found.entries) == (None, 1)


async def test_of_a_text_whose_number_does_not_open_only_a_stop_counts(database: Database) -> None:
    await give(database, opt_in(0))
    await receive(database, mo(1, number="t1.damaged"), mo(2, "start", number="t1.damaged"))
    found = await subject(database)
    assert found is not None
    assert ledger.standing(found.state, "acme", "promotions") == "opted_out"


async def test_starts_stops_and_opt_ins_at_once_wait_for_each_other(database: Database) -> None:
    """A START reads under the lock before it is recorded; taking locks in two goes must not break their order."""
    rng = random.Random(11)
    people = range(40)

    async def phones(name: str) -> None:
        for n in range(10):
            said = rng.sample(people, 20)
            await receive(
                database,
                *(mo(n, rng.choice(("start", "stop")), who, mo_id=f"mo-{name}-{n}-{who}") for who in said),
            )

    async def shop(name: str) -> None:
        for n in range(10):
            given = [
                Statement(somebody(who), "sealed", opt_in(n, evidence_id=f"ev-{name}-{n}-{who}"))
                for who in rng.sample(people, 20)
            ]
            async with database.begin() as tx:
                await record(tx, inner, given, NOW)

    await asyncio.gather(phones("a"), phones("b"), shop("c"), shop("d"))
    for who in people:
        async with database.begin() as tx:
            found = await ledger_store.find_subject(tx, somebody(who))
            history = await ledger_store.history(tx, somebody(who))
        if found:
            assert found.state == ledger.fold(entry.evidence for entry in history)
            assert found.entries == len(history)


async def test_a_message_nobody_can_read_shuts_its_sender_out_of_everything(database: Database) -> None:
    await give(database, opt_in(0), opt_in(0, sender_id="globex"))
    async with database.begin() as tx:
        await INTAKE.shut_out(tx, WHO, 0, 0)
    assert await standing(database) == await standing(database, "globex") == "opted_out"
    async with database.begin() as tx:
        assert (await ledger_store.history(tx, WHO))[-1].evidence.source == "unreadable_mo"


async def test_a_message_nobody_can_read_shuts_a_stranger_out_of_what_an_older_opt_in_would_open(
    database: Database,
) -> None:
    async with database.begin() as tx:
        await INTAKE.shut_out(tx, WHO, 0, 0)
    await give(database, opt_in(0))
    assert await standing(database) == await standing(database, "globex") == "opted_out"
    found = await subject(database)
    assert found
    assert [s.sender_id for s in ledger.suppressions(found.state)] == [None]


async def test_of_a_message_nobody_can_read_no_number_is_held(database: Database) -> None:
    async with database.begin() as tx:
        await INTAKE.shut_out(tx, WHO, 0, 0)
    found = await subject(database)
    assert found
    assert found.number is None


@pytest.mark.parametrize("key", ["somebody", f"nobody-{'0f' * 16}"])
async def test_a_message_nobody_can_read_whose_key_is_nobodys_changes_nothing(database: Database, key: str) -> None:
    async with database.begin() as tx:
        await INTAKE.shut_out(tx, key, 0, 0)
    assert await subject(database, key) is None


async def test_a_message_whose_sender_nobody_can_tell_stops_the_intake(database: Database) -> None:
    async with database.begin() as tx:
        with pytest.raises(Stopped, match="cannot be read"):
            await INTAKE.shut_out(tx, None, 2, 0)


async def publish_watermark(surroundings: Surroundings, partition: int, as_of: datetime) -> None:
    """inbound-svc's, to one partition."""
    settings = Settings(**await surroundings.settings("consent"))
    mark = Watermark(partition=partition, as_of=as_of, last_number=0)
    async with kafka.producer(settings) as producer:
        await producer.send_and_wait(
            settings.topic_prefix + INBOUND_MESSAGES.name,
            kafka.encode(mark),
            key=mark.key.encode(),
            partition=partition,
            headers=kafka.cloud_event_headers(mark.type, uuid4(), "inbound", as_of, None),
        )


def marks(events: list[Event]) -> list[Watermark]:
    return [event for event in events if isinstance(event, Watermark)]


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """consent-svc with all its roles, and acme registered."""
    async with running(build(Settings(**await surroundings.settings("consent")))) as client:
        body = {k: getattr(sender("acme"), k) for k in ("sender_id", "legal_name", "brand", "contact", "country")}
        body |= {"oadc": "ACME", "stop_code": "36111", "purposes": [{"id": "promotions", "wording": "Nos offres"}]}
        assert (await client.post("/v1/senders", json=body)).status_code == 201
        yield client


async def test_a_stop_travels_from_the_operators_topic_to_the_states(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    given = {
        "sender_id": "acme",
        "purpose": "promotions",
        "number": number(1234),
        "occurred_at": at(0).isoformat(),
        "evidence": {"source": "shop", "text_shown": "Oui"},
    }
    assert (await service.post("/v1/consents", json=given)).status_code == 201
    await publish(surroundings, INBOUND_MESSAGES, [mo(1, who=1234), mo(1, who=1234)])
    async with reading(surroundings, STATES) as read:

        async def told() -> list[ConsentStateChanged]:
            events = [e for e in await read() if isinstance(e, ConsentStateChanged)]
            assert len({e.version for e in events}) == len(events) == 2, "the repeat tells nothing"
            return events

        events = await eventually(told)
    assert [c.state for c in events[-1].consents] == ["opted_out"]
    (cause,) = events[-1].causes
    assert (cause.kind, cause.source, cause.reference) == ("opt_out", "mo", "simulator/fr/p-stop-1")
    assert cause.received_at == at(1) + timedelta(seconds=2)
    found = (await service.post("/v1/subjects/lookup", json={"number": number(1234)})).json()
    assert [e["kind"] for e in found["history"]] == ["opt_in", "opt_out"]


@pytest.mark.parametrize("kind", [MessageReceived.type, "inbound.message_received.v9"], ids=["damaged", "of tomorrow"])
async def test_an_unreadable_message_goes_to_the_dead_letters_and_the_next_one_is_read(
    service: httpx.AsyncClient, surroundings: Surroundings, kind: str
) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.execute("INSERT INTO subject (subject_id, number) VALUES ($1, 'sealed')", WHO)
    await publish_raw(surroundings, INBOUND_MESSAGES, WHO.encode(), b"{", [("ce_type", kind.encode())])
    await publish(surroundings, INBOUND_MESSAGES, [mo(1)])
    async with reading(surroundings, STATES) as read:

        async def both() -> list[ConsentStateChanged]:
            events = [e for e in await read() if isinstance(e, ConsentStateChanged)]
            assert [cause.source for e in events for cause in e.causes] == ["unreadable_mo", "mo"]
            return events

        assert (await eventually(both))[-1].suppressions[0].sender_id is None


async def test_over_a_message_that_the_log_has_lost_no_watermark_of_its_people_says_anything_new(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been a STOP. What comes is applied all the same, and a person ends it. The people of the other
    partitions do not wait: none of their messages is lost."""
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.1)
    known = datetime.now(UTC)

    async def applied() -> datetime | None:
        async with surroundings.sql("consent") as sql:
            found: datetime | None = await sql.fetchval(
                "SELECT min(as_of) FROM consumer_offset WHERE consumer_group = $1 HAVING count(as_of) = 3", intake.GROUP
            )
            return found

    async def is_applied(as_of: datetime) -> bool:
        return await applied() == as_of

    async def opted_out_now() -> bool:
        async with surroundings.sql("consent") as sql:
            return bool(await sql.fetchval("SELECT count(*) FROM evidence WHERE kind = 'opt_out'"))

    async with (
        running(build(Settings(**await surroundings.settings("consent")))) as client,
        reading(surroundings, STATES) as read,
    ):
        await publish(surroundings, INBOUND_MESSAGES, [], as_of=known)
        await eventually(lambda: is_applied(known))
        partition = await lose(surroundings, INBOUND_MESSAGES, WHO)
        await publish(surroundings, INBOUND_MESSAGES, [mo(1)], as_of=datetime.now(UTC))
        await eventually(opted_out_now)

        async def told() -> bool:
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert f"{INBOUND_MESSAGES.name}/{partition} is broken" in "".join(answer.json()["why"])
            return True

        await eventually(told)
        await publish(surroundings, INBOUND_MESSAGES, [], as_of=(later := datetime.now(UTC)))

        async def others_go_on() -> bool:
            said = marks(await read())
            return {mark.partition for mark in said if mark.as_of == later} == {0, 1, 2} - {partition}

        await eventually(others_go_on)
        assert await applied() == known
        assert {mark.as_of for mark in marks(await read()) if mark.partition == partition} <= {known}
        database = Database(await surroundings.database("consent"))
        async with database.begin() as tx:
            [broken] = await broken_logs.found(tx)
            assert await broken_logs.clear(tx, broken.place) == broken
        await database.close()
        await publish(surroundings, INBOUND_MESSAGES, [], as_of=(later := datetime.now(UTC)))
        await eventually(lambda: is_applied(later))


async def test_while_operators_messages_are_not_read_consent_is_not_ready_and_says_why(
    service: httpx.AsyncClient, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, name = AIOKafkaClient.send, f"{surroundings.unique}.{INBOUND_MESSAGES.name}"
    broken = [True]

    async def refused(client: AIOKafkaClient, *asked: Any, **more: Any) -> Any:
        answer = await send(client, *asked, **more)
        if broken and type(answer).__name__.startswith("FetchResponse"):
            answer.topics = [
                (topic, [(p[0], 29, -1, *p[3:-1], b"") for p in parts] if topic == name else parts)
                for topic, parts in answer.topics
            ]
        return answer

    async def why() -> str:
        return "\n".join((await service.get("/readyz")).json()["why"])

    async def red() -> bool:
        said = await why()
        assert "consent.inbound:inbound.messages.v1: partition 0 stands at offset" in said
        assert "TopicAuthorizationFailedError" in said
        return True

    async def well() -> bool:
        assert "inbound.messages" not in await why()
        return True

    await eventually(well)
    monkeypatch.setattr("common.service.READY_STALLED_S", 0.5)
    monkeypatch.setattr(AIOKafkaClient, "send", refused)
    await eventually(red)
    broken.clear()
    await eventually(well)


@pytest.mark.parametrize("moving", [False, True], ids=["", "ids move"])
async def test_no_watermark_says_more_than_was_applied_of_the_operators_messages(
    surroundings: Surroundings, moving: bool
) -> None:
    """Of each partition's people; while ids move, of every partition's: the message of a person may be in any."""
    known, older = datetime.now(UTC), datetime.now(UTC) - timedelta(minutes=5)
    keys = OUTER_RING["keys"] | ({"t2": base64.b64encode(b"n" * 32).decode()} if moving else {})
    ring = SUBJECT_RING | {"outer": OUTER_RING | {"keys": keys}}
    settings = Settings(**await surroundings.settings("consent") | {"subject_keys": ring})

    async def applied() -> int:
        async with surroundings.sql("consent") as sql:
            query = "SELECT count(as_of) FROM consumer_offset WHERE consumer_group = $1"
            return int(await sql.fetchval(query, intake.GROUP))

    async with running(build(settings)), reading(surroundings, STATES) as read:

        async def told(expected: dict[int, datetime]) -> None:
            async def look() -> bool:
                said: dict[int, datetime] = {}
                for mark in marks(await read()):
                    said[mark.partition] = mark.as_of
                assert said == expected
                return True

            await eventually(look)

        for partition, as_of in ((0, known), (1, older)):
            await publish_watermark(surroundings, partition, as_of)
        await eventually(lambda: is_so(applied(), 2))
        await told({} if moving else {0: known, 1: older})
        await publish_watermark(surroundings, 2, known)
        await told({0: older if moving else known, 1: older, 2: older if moving else known})
        await publish_watermark(surroundings, 1, known)
        await told({0: known, 1: known, 2: known})


async def is_so(found: Awaitable[int], expected: int) -> bool:
    return await found == expected


async def test_what_came_before_an_inbound_watermark_is_told_before_the_watermark_that_speaks_for_it(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """So that one number in dispatch speaks for the whole chain (ADR-0004)."""
    received_at = datetime.now(UTC) - timedelta(seconds=2)
    stops = [mo(n, who=n, mo_id=f"mo-{n}", occurred_at=received_at, received_at=received_at) for n in range(60)]
    await publish(surroundings, INBOUND_MESSAGES, stops, as_of=received_at + timedelta(seconds=1))
    async with reading(surroundings, STATES) as read:

        async def spoken_for() -> list[Event]:
            events = await read()
            assert {m.partition for m in marks(events) if m.as_of > received_at} == {0, 1, 2}
            return events

        events = await eventually(spoken_for)
    told = 0
    spoken: set[int] = set()
    for event in events:
        if isinstance(event, ConsentStateChanged):
            partition = kafka.partition_of(event.subject_id, 3)
            assert partition not in spoken, "a STOP was told after the watermark that spoke for it"
            told += 1
        elif isinstance(event, Watermark) and event.as_of > received_at:
            spoken.add(event.partition)
    assert told == len(stops)


async def contacts(database: Database) -> list[ledger.Evidence]:
    async with database.begin() as tx:
        return [e.evidence for e in await ledger_store.history(tx, WHO) if e.evidence.kind == "contact"]


A_DAY = 24 * 60


async def test_whatever_somebody_writes_is_a_contact_once_a_day(database: Database) -> None:
    await give(database, opt_in(0))
    others = ("none", "contact", "confirm", "start")
    again = [mo(A_DAY + n, intent) for n, intent in enumerate(others)]
    await receive(database, *again)
    await receive(database, *again, mo(0.5, "none"))
    await receive(database, mo(2 * A_DAY, "none"))
    first, second = await contacts(database)
    assert (first.sender_id, first.occurred_at, first.reference) == ("acme", at(A_DAY), "simulator/fr/p-none-1440")
    assert second.occurred_at == at(2 * A_DAY)
    found = await subject(database)
    assert found is not None
    assert retention.last_contact(found.state, "acme") == at(2 * A_DAY)
    assert await standing(database) == "opted_in"


async def test_a_word_to_nobody_in_particular_or_from_a_stranger_moves_no_clock(shared: Database) -> None:
    """Acme and Maison Lune share the code."""
    await receive(shared, mo(A_DAY, "none"))
    assert await subject(shared) is None
    await give(shared, opt_in(0))
    await receive(shared, mo(A_DAY, "none", short_code="36222"), mo(A_DAY + 1, "review"), mo(A_DAY + 2, "none"))
    assert [e.sender_id for e in await contacts(shared)] == ["acme"]  # of the two, they know one
    await give(shared, opt_in(1, sender_id="lune"))
    await receive(shared, mo(2 * A_DAY, "none"))
    assert len(await contacts(shared)) == 1
