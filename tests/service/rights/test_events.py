"""What happens in the four services is told in one feed, by their real topics."""

from typing import Any

from tests.service.rights.four import Four, four
from tests.support.builders import SENDER, number, shown, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings

EXPECTED = {
    "consent.changed",
    "consent.opted_out",
    "consent.opt_out_enforced",
    "message.accepted",
    "import.finished",
    "erasure.finished",
}


async def feed(told: Four) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await told.call("GET", "campaign", "/v1/events?limit=1000"))["items"]
    return found


async def test_a_stop_a_message_an_import_and_an_erasure_are_told_in_one_feed(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        assert await feed(told) == []
        await told.consented(1)
        await told.consented(2)
        await told.imported(1)
        await told.consents_imported(f"number,occurred_at\n{number(3)},2026-03-02T14:05:00+01:00\n")
        await told.code_sent(1)
        await told.texted(1, "STOP")

        async def enforced() -> list[dict[str, Any]]:
            found = [each for each in await feed(told) if each["type"] == "consent.opt_out_enforced"]
            assert found
            return found

        done = await eventually(enforced)
        assert {each["data"]["subject_id"] for each in done} == {shown(1, "lune")}
        asked = await told.erased(2)
        await eventually(told.complete(asked["erasure_id"]))

        async def everything() -> list[dict[str, Any]]:
            found = await feed(told)
            assert {each["type"] for each in found} >= EXPECTED, {each["type"] for each in found}
            imports = [each["data"]["kind"] for each in found if each["type"] == "import.finished"]
            assert sorted(imports) == ["consents", "contacts"]  # of two services
            opted_out = {each["data"]["subject_id"] for each in found if each["type"] == "consent.opted_out"}
            assert opted_out == {shown(1, "lune"), shown(2, "lune")}, "the erasure's opt-out comes by another topic"
            return found

        found = await eventually(everything)
        assert len({each["id"] for each in found}) == len(found)
        [erasure] = [each for each in found if each["type"] == "erasure.finished"]
        assert erasure["data"] == {
            "subject_id": shown(2, "lune"),
            "erasure_id": asked["erasure_id"],
            "everything": False,
        }
        assert {each["data"].get("sender_id", SENDER) for each in found} >= {SENDER}
        text = str(found)
        for n in (1, 2, 3):
            assert number(n) not in text
            assert subject(n) not in text
