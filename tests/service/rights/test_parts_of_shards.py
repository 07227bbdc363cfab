"""A service each of whose shards has some data of a person: consent-svc waits for the part of each."""

from datetime import timedelta
from typing import Any

import pytest

from common.contracts import COPY_PARTS, ERASURE_ACKS, RECTIFICATION_ACKS
from common.contracts.rights import CopyGathered, ErasureAcknowledged, RectificationAcknowledged
from common.privacy.copying import context
from tests.service.rights.four import Four, four
from tests.support.builders import SENDER, field_keys, now, number, subject
from tests.support.eventually import eventually
from tests.support.publish import all_read, publish
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # rows of databases, and what is published of them by a relay

ALONE = ("campaign", "dispatch", "inbound")
AT = now()


def erased(erasure_id: str, service: str, shard: str = "", shards: int = 1, contacts: int = 1) -> ErasureAcknowledged:
    return ErasureAcknowledged(
        erasure_id=erasure_id,
        subject_id=subject(1),
        service=service,
        erased_at=AT + timedelta(seconds=contacts),
        erased={"contacts": contacts, "links": 0},
        shard=shard,
        shards=shards,
    )


async def certificate(told: Four, erasure_id: str) -> Any:
    return await told.call("GET", "consent", f"/v1/erasures/{erasure_id}")


async def test_an_erasure_is_complete_once_each_shard_has_answered(surroundings: Surroundings) -> None:
    """Shard b is divided into b and c between the answers: a is not asked again."""
    async with four(surroundings, without=ALONE) as told:
        erasure_id = (await told.erased(1))["erasure_id"]
        others = [erased(erasure_id, service) for service in ("dispatch", "inbound")]
        campaign = [erased(erasure_id, "campaign", "a", 2), erased(erasure_id, "campaign", "b", 3, 2)]
        await publish(surroundings, ERASURE_ACKS, [*others, *campaign, *campaign])
        await all_read(surroundings, "consent", ERASURE_ACKS)

        async def waits_for_it_alone() -> bool:
            found = await certificate(told, erasure_id)
            assert (found["status"], "campaign" in found["waiting_for"]) == ("open", True)
            return bool(found["waiting_for"] == ["campaign"])

        await eventually(waits_for_it_alone)
        assert "campaign" not in {each["service"] for each in (await certificate(told, erasure_id))["services"]}
        await publish(surroundings, ERASURE_ACKS, [erased(erasure_id, "campaign", "c", 3, 4)])
        done = await eventually(told.complete(erasure_id))
        [answer] = [each for each in done["services"] if each["service"] == "campaign"]
        assert answer["erased"] == {"contacts": 7, "links": 0}
        assert len(done["services"]) == 4


async def test_the_log_tells_which_shards_have_answered_for_a_late_erasure(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    async with four(surroundings, without=ALONE, erasure_late_after_s=0.5) as told:
        erasure_id = (await told.erased(1))["erasure_id"]
        answers = [erased(erasure_id, "inbound"), erased(erasure_id, "campaign", "a", 2)]
        await publish(surroundings, ERASURE_ACKS, [*answers, erased(erasure_id, "campaign", "b", 3)])

        async def is_told() -> bool:
            lines = [vars(record) for record in caplog.records if record.name == "consent.rights.erasures"]
            return {
                "waiting_for": ["campaign", "dispatch"],
                "answered": ["campaign a of 2", "campaign b of 3"],
            } in [{key: line.get(key) for key in ("waiting_for", "answered")} for line in lines]

        await eventually(is_told)


async def test_a_copy_has_the_items_of_each_shard_and_none_before_the_last(surroundings: Surroundings) -> None:
    def part(copy_id: str, service: str, place: int = 0, of: int = 1, shard: str = "", shards: int = 1) -> CopyGathered:
        said = f'[{{"kind": "contact", "name": "{service} {shard} {place}"}}]'
        return CopyGathered(
            copy_id=copy_id,
            subject_id=subject(1),
            service=service,
            place=place,
            of=of,
            items=field_keys.seal(said, context(copy_id, service, place, shard)),
            gathered_at=now(),
            shard=shard,
            shards=shards,
        )

    async with four(surroundings, without=ALONE) as told:
        copy_id = (await told.call("POST", "consent", "/v1/copies", {"number": number(1)}))["copy_id"]
        others = [part(copy_id, service) for service in ("dispatch", "inbound")]
        campaign = [part(copy_id, "campaign", place, 2, "a", 2) for place in (0, 1)]
        campaign.append(part(copy_id, "campaign", 0, 1, "b", 3))  # after it was divided into b and c
        last = part(copy_id, "campaign", 0, 1, "c", 3)
        await publish(surroundings, COPY_PARTS, [*others, *campaign, *campaign])
        await all_read(surroundings, "consent", COPY_PARTS)
        found = await told.call("GET", "consent", f"/v1/copies/{copy_id}")
        assert (found["status"], found["waiting_for"]) == ("open", ["campaign"])
        await publish(surroundings, COPY_PARTS, [last])

        async def complete() -> Any:
            found = await told.call("GET", "consent", f"/v1/copies/{copy_id}")
            return found["data"] if found["status"] == "complete" else None

        data = await eventually(complete)
        assert [item["name"] for item in data["campaign"]] == [
            "campaign a 0",
            "campaign a 1",
            "campaign b 0",
            "campaign c 0",
        ]
        assert [item["name"] for item in data["inbound"]] == ["inbound  0"]


async def test_a_rectification_is_complete_once_each_shard_has_answered(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        await told.consented(1)
        right = {"kind": "contact", "sender_id": SENDER, "fields": {"city": "Nîmes"}}
        body = {"number": number(1), "asked": {"source": "letter"}, "correct": right}
        asked = await told.call("POST", "consent", "/v1/rectifications", body)

        def corrected(shard: str, shards: int, contacts: int) -> RectificationAcknowledged:
            return RectificationAcknowledged(
                rectification_id=asked["rectification_id"],
                subject_id=subject(1),
                service="campaign",
                rectified_at=now(),
                rectified={"contacts": contacts, "messages": 0},
                shard=shard,
                shards=shards,
            )

        await publish(surroundings, RECTIFICATION_ACKS, [*[corrected("a", 2, 1)] * 2, corrected("b", 3, 2)])
        await all_read(surroundings, "consent", RECTIFICATION_ACKS)
        path = f"/v1/rectifications/{asked['rectification_id']}"
        assert (await told.call("GET", "consent", path))["waiting_for"] == ["campaign"]
        await publish(surroundings, RECTIFICATION_ACKS, [corrected("c", 3, 4)])

        async def complete() -> Any:
            found = await told.call("GET", "consent", path)
            return found if found["completed_at"] else None

        assert (await eventually(complete))["rectified"] == {"campaign": {"contacts": 7, "messages": 0}}
