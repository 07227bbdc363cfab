"""Two batches of evidence about one person, in the orders of their statements (`interleaving.py`)."""

from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import msgspec
import pytest

from common.contracts.consent import ConsentStateChanged
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka.subscription import Received
from consent.imports import files
from consent.inbound.opt_out_receipts import Receipts
from consent.ledger import rules as ledger
from consent.ledger import store
from consent.ledger.chain import verify
from consent.ledger.recorder import Statement, keep_listed, record
from consent.ledger.rules import Evidence
from consent.senders import registry as senders
from tests.service.consent.test_consent_intake import INTAKE, mo, moved, sender
from tests.support.builders import field_keys, inner, subject, subject_keys
from tests.support.infrastructure import Postgres
from tests.support.interleaving import Act, Interleaving, Stepped, watching
from tests.unit.consent.evidences import NOW, opt_in, opt_out, stop

pytestmark = pytest.mark.brokerless

PUBLISHED = "SELECT payload FROM outbox WHERE topic = 'consent.states.v1' AND key = $1 ORDER BY id"


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Stepped]:
    url = await postgres.clone("consent", f"consent_{unique}")
    async with watching(url) as sql:
        await sql.execute(f"ALTER DATABASE consent_{unique} SET default_transaction_isolation = 'repeatable read'")
    database = await Stepped(url, pool_size=2).connected()
    yield database
    await database.close()


@pytest.mark.parametrize("known", [False, True], ids=["never seen", "known"])
async def test_an_opt_in_and_a_newer_stop_of_one_person(database: Stepped, known: bool) -> None:
    """The STOP wins, both are on record in one chain, and the versions leave in the order in which they were given."""
    people = (f"t1-{n:032x}" for n in count())
    person = ""

    async def says(*evidence: Evidence) -> None:
        async with database.begin() as tx:
            await record(tx, inner, [Statement(person, "sealed", one) for one in evidence], NOW)

    async def begin() -> dict[str, Act]:
        nonlocal person
        person = next(people)
        if known:
            await says(named(opt_in(0)))
        return {"opts in": lambda: says(named(opt_in(1))), "stops": lambda: says(named(stop(2)))}

    def named(evidence: Evidence) -> Evidence:
        return msgspec.structs.replace(evidence, evidence_id=f"{evidence.evidence_id}-{person}")

    async def ended(watcher: asyncpg.Connection) -> None:
        async with database.begin() as tx:
            entries = await store.history(tx, person)
            subject = await store.find_subject(tx, person)
        assert subject is not None
        assert [entry.position for entry in entries] == list(range(1, 4 if known else 3))
        assert subject.entries == len(entries)
        assert verify(entries, inner) is None
        assert ledger.standing(subject.state, "acme", "promotions") == "opted_out"
        payloads = await watcher.fetch(PUBLISHED, person.encode())
        told = [msgspec.json.decode(payload, type=ConsentStateChanged) for (payload,) in payloads]
        versions = [event.version for event in told]
        assert versions == sorted(set(versions))
        assert versions[-1] == subject.version
        assert not any(consent.state == "opted_in" for consent in told[-1].consents)
        assert [cause.kind for event in told for cause in event.causes].count("opt_out") == 1

    async with watching(database.dsn) as watcher:
        await Interleaving(watcher, freezes=1).every_order(begin, ended)


@pytest.mark.parametrize("known", [False, True], ids=["never seen", "known"])
async def test_a_stop_that_comes_twice_at_once_is_recorded_once(database: Stepped, known: bool) -> None:
    people = (f"t1-{n:032x}" for n in count())
    person = ""

    async def begin() -> dict[str, Act]:
        nonlocal person
        person = next(people)

        async def says(evidence: Evidence) -> None:
            async with database.begin() as tx:
                await record(tx, inner, [Statement(person, "sealed", evidence)], NOW)

        if known:
            await says(opt_in(0, evidence_id=f"in-{person}"))
        said = stop(1, evidence_id=f"stop-{person}")
        return {"one": lambda: says(said), "other": lambda: says(said)}

    async def ended(watcher: asyncpg.Connection) -> None:
        async with database.begin() as tx:
            kinds = [entry.evidence.kind for entry in await store.history(tx, person)]
        assert kinds == ["opt_in", "opt_out"][0 if known else 1 :]
        assert len(await watcher.fetch(PUBLISHED, person.encode())) == len(kinds)

    async with watching(database.dsn) as watcher:
        await Interleaving(watcher, freezes=1).every_order(begin, ended)


async def test_a_list_that_is_kept_and_an_opt_in_that_is_older_than_it(database: Stepped) -> None:
    """Whichever comes first: who was told by a list to be out, after they had said yes, is out."""
    people = (f"t1-{n:032x}" for n in count())
    person = ""

    async def begin() -> dict[str, Act]:
        nonlocal person
        person = next(people)
        listed = stop(3, evidence_id=f"list-{person}", source="list")

        async def says(evidence: Evidence) -> None:
            async with database.begin() as tx:
                await record(tx, inner, [Statement(person, "sealed", evidence)], NOW)

        async def keeps() -> None:
            """As a list is taken: who is out of all that it says is kept beside the ledger, the others are recorded."""
            async with database.begin() as tx:
                locked = await store.lock_subjects(tx, {}, [person])
                is_out = ledger.standing(locked[person].state, "acme", "promotions") != "opted_in"
                statement = Statement(person, None, listed)
                await (keep_listed(tx, [statement]) if is_out else record(tx, inner, [statement], NOW))

        await says(opt_out(0, evidence_id=f"stop-{person}"))  # asserted: an asserted opt-in takes it back
        return {"lists": keeps, "opts in": lambda: says(opt_in(2, evidence_id=f"in-{person}"))}

    async def ended(_: asyncpg.Connection) -> None:
        async with database.begin() as tx:
            subject = await store.find_subject(tx, person)
        assert subject is not None
        assert ledger.standing(subject.state, "acme", "promotions") == "opted_out"

    async with watching(database.dsn) as watcher:
        await Interleaving(watcher, freezes=1).every_order(begin, ended)


async def test_the_reasons_of_an_import_are_those_of_its_totals(database: Stepped) -> None:
    ids = (f"import-{n}" for n in count())
    seen: list[files.Progress] = []

    async def begin() -> dict[str, Act]:
        file = files.ImportFile(
            import_id=next(ids),
            created_by="shop",
            fingerprint="",
            sender_id="acme",
            kind="consents",
            format="csv",
            terms="{}",
            bytes=None,
            created_at=NOW,
        )
        async with database.begin() as tx:
            await files.add(tx, file)
            await files.put_pieces(tx, file.import_id, [files.SealedPiece(0, 1, 2, b"")], NOW)

        async def records() -> None:
            piece = files.WaitingPiece(file=file, position=0, first_line=1, body=b"", received_at=NOW)
            async with database.begin() as tx:
                await files.settle(tx, piece, {"outvoted": 1, "refused": 1}, {"stopped_by_person": 1}, b"", NOW)

        async def reads() -> None:
            async with database.begin() as tx:
                seen.extend((await files.progress(tx, [file.import_id])).values())

        return {"records": records, "reads": reads}

    async def ended(_: asyncpg.Connection) -> None:
        one = seen.pop()
        assert (one.outvoted, one.reasons) in ((0, {}), (1, {"stopped_by_person": 1}))

    async with watching(database.dsn) as watcher:
        await Interleaving(watcher, freezes=1).every_order(begin, ended)


OF_LUNE = (moved("lune", 1),)
HANDED_OFF = moved("acme", 2)


@pytest.mark.parametrize(
    ("before", "told", "closed"),
    [
        (OF_LUNE, HANDED_OFF, {"acme"}),
        ((*OF_LUNE, HANDED_OFF), msgspec.structs.replace(HANDED_OFF, version=4, receipt="failed"), {"lune"}),
    ],
    ids=["a hand-off", "a DLR: not arrived"],
)
@pytest.mark.parametrize("others", [0, 60], ids=["alone", "beside others"])
async def test_a_stop_on_a_code_of_two_and_what_dispatch_tells_of_the_last_message(
    database: Stepped, before: tuple[MessageChanged, ...], told: MessageChanged, closed: set[str], others: int
) -> None:
    """Whichever comes first, the STOP covers at least the controller of the last message that arrived."""
    people = count()
    who, receipts = 0, Receipts(field_keys, subject_keys)
    async with database.begin() as tx:
        for sender_id in ("acme", "lune"):
            await senders.register(tx, sender(sender_id, brand=sender_id.title()), NOW)

    def of(change: MessageChanged, person: int) -> MessageChanged:
        ids = {"message_id": f"{change.message_id}-{who}-{person}", "subject_id": subject(person)}
        return msgspec.structs.replace(change, **ids)

    async def tells(*changes: MessageChanged) -> None:
        event = MessagesChanged(changes=changes)
        async with database.begin() as tx:
            await receipts.apply(tx, [Received(event, event.key, 0, 0, NOW, None)])

    async def stops() -> None:
        said = mo(3, who=who, mo_id=f"stop-{who}")
        async with database.begin() as tx:
            await INTAKE.apply(tx, [Received(said, said.subject_id, 0, 0, NOW, None)])

    async def begin() -> dict[str, Act]:
        nonlocal who
        who = next(people)
        await tells(*(of(change, who) for change in before))
        beside = (of(moved("acme", 2), 5_000 + person) for person in range(others))
        batch = (of(told, who), *beside)
        return {"tells": lambda: tells(*batch), "stops": stops}

    async def ended(_: asyncpg.Connection) -> None:
        async with database.begin() as tx:
            found = await store.find_subject(tx, subject(who))
        assert found is not None
        states = {each: ledger.standing(found.state, each, "promotions") for each in ("acme", "lune")}
        assert closed <= {each for each, state in states.items() if state == "opted_out"}

    async with watching(database.dsn) as watcher:
        await Interleaving(watcher, freezes=1).every_order(begin, ended)
