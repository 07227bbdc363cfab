"""A backup brings erased people back, and a command erases them again, whatever the age of the backup."""

from datetime import datetime

import pytest

from common.db.database import Database
from common.privacy.erasing import Kept, command, kept_since
from consent.rights.erasing_again import erase_again
from tests.service.rights.four import SERVICES, four
from tests.support.builders import SENDER, inner, now, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings

NOTHING: dict[str, list[str]] = {service: [] for service in SERVICES}


async def backed_up(surroundings: Surroundings) -> dict[str, str]:
    """Copy each database, while no service runs."""
    return {
        service: await surroundings.postgres.copy(surroundings.urls[service], f"{service}_backup_{surroundings.unique}")
        for service in SERVICES
    }


async def restore(surroundings: Surroundings, service: str, backup: str) -> None:
    """Have the service run on its backup. The log has forgotten what came since: the reader stands at its end."""
    async with surroundings.sql(service) as lost:
        reached = await lost.fetch("SELECT consumer_group, topic, partition, next_offset FROM consumer_offset")
    surroundings.urls[service] = backup
    async with surroundings.sql(service) as sql:
        await sql.executemany(
            "UPDATE consumer_offset SET next_offset = $4 WHERE (consumer_group, topic, partition) = ($1, $2, $3)",
            [tuple(row) for row in reached],
        )


@pytest.mark.any_broker
async def test_what_a_backup_brings_back_is_erased_again(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.everywhere(1)
        await told.everywhere(2)
        other = await told.held(2)
    backups, made = await backed_up(surroundings), now()
    async with four(surroundings) as told:
        asked = await told.erased(1)
        first = await eventually(told.complete(asked["erasure_id"]))
        assert await told.held(1) == NOTHING
    for service in ("campaign", "dispatch", "inbound"):
        await restore(surroundings, service, backups[service])
    async with four(surroundings) as told:
        back = await told.held(1)
        assert all(back[service] for service in ("campaign", "dispatch", "inbound")), back
        assert await again(surroundings, made) == (1, 0)
        done = await eventually(told.complete(asked["erasure_id"]))
        assert await told.held(1) == NOTHING
        assert await told.held(2) == other
        assert done["asked_again_at"] > first["completed_at"]
        assert min(each["erased_at"] for each in done["services"]) > first["completed_at"], "a certificate of this time"
        assert await again(surroundings, now()) == (0, 0), "nothing was erased since"


@pytest.mark.any_broker
async def test_what_a_consent_svc_has_lost_is_erased_by_what_the_others_know(
    surroundings: Surroundings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with four(surroundings) as told:
        await told.everywhere(1)
        await told.everywhere(2)
    backups, made = await backed_up(surroundings), now()
    async with four(surroundings) as told:
        asked = await told.erased(1)
        await eventually(told.complete(asked["erasure_id"]))
        await told.texted(2, "SUPPRIMEZ MES DONNEES", mo="mo-erase")

        async def certified() -> bool:
            found = (await told.call("GET", "consent", "/v1/erasures?status=complete"))["items"]
            return {each["controller"] for each in found} == {"lune", None}

        assert await eventually(certified)
        assert (await told.held(2))["consent"] == []
    await restore(surroundings, "consent", backups["consent"])
    async with four(surroundings) as told:
        assert (await told.held(1))["consent"]
        assert (await told.held(2))["consent"]
        lost = await known(surroundings, "dispatch", made)
        assert {(each.subject_id, each.controller_id) for each in lost} == {(subject(1), "lune"), (subject(2), None)}
        assert await command("dispatch", surroundings.urls["dispatch"], ["--since", made.isoformat()]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
        assert await again(surroundings, made, lost) == (0, 2)

        async def gone() -> bool:
            return (await told.held(1), await told.held(2)) == (NOTHING, NOTHING)

        assert await eventually(gone)
        for n in (1, 2):
            state = await told.state(n)
            assert {each["state"] for each in state["consents"]} == {"opted_out"}
            assert {each["sender_id"] for each in state["suppressions"]} & {SENDER, None}, (
                "from the sender, or everybody"
            )
        assert await again(surroundings, made, lost) == (2, 0), "the command again asks for both again, and begins none"


async def again(surroundings: Surroundings, since: datetime, lost: list[Kept] | None = None) -> tuple[int, int]:
    database = Database(surroundings.urls["consent"], pool_size=1)
    try:
        return await erase_again(database, inner, since, lost or [])
    finally:
        await database.close()


async def known(surroundings: Surroundings, service: str, since: datetime) -> list[Kept]:
    database = Database(surroundings.urls[service], pool_size=1)
    try:
        async with database.begin() as tx:
            return await kept_since(tx, since)
    finally:
        await database.close()
