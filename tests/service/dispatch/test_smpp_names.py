"""An MO that the SMSC delivers again has one name, whichever process and session it comes to."""

from dataclasses import dataclass

import pytest

from common.db.database import Database
from dispatch.gateways import Account
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.by_smpp import names
from dispatch.gateways.by_smpp import session as sessions
from dispatch.gateways.by_smpp.names import Names, Said
from dispatch.lane import Lane
from tests.support.builders import subject_keys
from tests.support.eventually import eventually
from tests.support.operators.wire import PASSWORD, USER, Wire, delivered, wire
from tests.unit.dispatch.test_smpp_session import Log

GATEWAY = "smpp.orange"
SESSION, NEXT = object(), object()
STOP, START, OTHERS = Said("stop", SESSION), Said("start", SESSION), Said("stop of another", SESSION)


def process(database: Database | None) -> Names:
    return Names(GATEWAY, subject_keys.fingerprint, database)


async def one(known: Names, said: Said) -> str:
    """Return the name of the MO that the delivery may be."""
    [named] = await known.of([said])
    return named.repeats or named.message_id


async def rows(database: Database) -> int:
    return len(await database.read("SELECT name FROM mo_name"))


async def test_the_next_process_finds_the_name_of_an_mo_whose_acknowledgement_may_be_lost(database: Database) -> None:
    first, second = process(database), process(database)
    [new] = await first.of([STOP])
    [again] = await second.of([STOP])
    assert (new.repeats, again.repeats) == (None, new.message_id)
    assert again.message_id != new.message_id, "inbound-svc decides whether both are one MO"
    assert await one(second, OTHERS) not in (new.message_id, again.message_id)


async def test_two_mos_of_a_person_that_both_come_again_are_two(database: Database) -> None:
    """The second ended the name of the first, which then had a second one, and ended that of the second."""
    first, second = process(database), process(database)
    names = [await one(first, STOP), await one(first, START)]
    assert [await one(second, STOP), await one(second, START)] == names
    assert [await one(first, STOP), await one(first, START)] == names


async def test_the_same_words_in_a_session_that_has_acknowledged_them_are_another_mo(database: Database) -> None:
    known = process(database)
    [first] = await known.of([STOP])
    assert await one(known, STOP) == first.message_id, "refused, it comes again"
    known.acknowledged(first.name, SESSION)
    [second] = await known.of([STOP])
    assert second.repeats is None
    assert await one(known, Said("stop", NEXT)) == second.message_id
    assert await one(process(database), STOP) == second.message_id


async def test_a_stop_that_is_written_again_after_the_proof_is_another(database: Database) -> None:
    first, second = process(database), process(database)
    [named] = await first.of([STOP])
    first.proven(named.name)
    await first.close()
    assert await rows(database) == 0
    assert await one(second, STOP) != named.message_id


async def test_a_proof_that_could_not_be_written_still_tells_the_next_stop(database: Database) -> None:
    known = process(database)
    [named] = await known.of([STOP])
    await database.run("ALTER TABLE mo_name RENAME TO away")
    known.proven(named.name)
    await known.close()
    await database.run("ALTER TABLE away RENAME TO mo_name")
    assert await rows(database) == 1
    assert await one(known, STOP) != named.message_id


async def test_without_the_database_the_names_of_the_process_count(database: Database) -> None:
    known = process(database)
    await database.run("ALTER TABLE mo_name RENAME TO away")
    try:
        assert await one(known, STOP) == await one(known, STOP)
    finally:
        await database.run("ALTER TABLE away RENAME TO mo_name")


async def test_a_name_ends_and_one_of_a_refused_mo_later(database: Database) -> None:
    known = process(database)
    name, [refused] = await one(known, STOP), await known.of([OTHERS])
    await known.refused([refused.name])
    late = f"UPDATE mo_name SET repeats_until = repeats_until - interval '{names.REPEATS_WITHIN_S + 1} s'"
    await database.run(late)
    assert await one(process(database), STOP) != name
    assert await one(process(database), OTHERS) == refused.message_id


async def test_neither_number_nor_words_are_in_the_table(database: Database) -> None:
    await one(process(database), Said("33639980001 STOP", SESSION))
    [row] = await database.read("SELECT mo_name::text FROM mo_name")
    assert not [said for said in ("33639980001", "639980001", "STOP") if said in row[0]]


@dataclass
class Bound:
    link: by_smpp.Link
    log: Log

    def dies(self) -> None:
        """Drop what a killed process drops."""
        for task in self.link.binds._keeping:
            task.cancel()
        for session in self.link.binds.sessions:
            session.abort()


async def bound(database: Database, server: Wire) -> Bound:
    url = f"smpp://127.0.0.1:{server.port}"
    account = Account("smpp", "orange", user=USER, secret=PASSWORD, url=url, options={"binds": "1"})
    shared, log = by_smpp.Shared(), Log()
    shared.serve(Lane.MARKETING, database, subject_keys.fingerprint)
    link = shared.link(GATEWAY, account, log)
    link.binds.start()
    await server.until(lambda: bool(server.bound))
    return Bound(link, log)


async def test_an_mo_comes_again_to_the_process_after_a_killed_one_and_a_new_one_is_new(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wire() as server:
        with monkeypatch.context() as unproven:
            unproven.setattr(sessions, "PROVE_S", 3600.0)
            killed = await bound(database, server)
            assert await server.bound[0].deliver(delivered(b"STOP")) == 0
            killed.dies()
            await server.until(lambda: not server.bound)
        following = await bound(database, server)
        assert await server.bound[0].deliver(delivered(b"STOP")) == 0

        async def forgotten() -> bool:
            return await rows(database) == 0

        await eventually(forgotten)
        assert await server.bound[0].deliver(delivered(b"STOP")) == 0
        await following.link.close()
    [first] = killed.log.messages
    again, another = following.log.messages
    assert (first.repeats, again.repeats, another.repeats) == (None, first.message_id, None)
    assert len({first.message_id, again.message_id, another.message_id}) == 3
