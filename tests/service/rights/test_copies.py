"""Access and portability: one copy of all that every service holds of a person, as JSON and as CSV."""

import csv
import io
import json
from typing import Any

import pytest

from common.contracts.rights import CopyRequested
from common.privacy import copying
from common.privacy.copying import Copier, context
from tests.service.rights.four import SERVICES, four
from tests.support.builders import SENDER, field_keys, now, number, shown, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.any_broker


def of(copy: Any, service: str, kind: str) -> list[dict[str, Any]]:
    return [item for item in copy["data"][service] if item["kind"] == kind]


async def test_a_copy_holds_what_every_service_holds_of_the_person_and_of_nobody_else(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings) as told:
        for n in (1, 2):
            await told.consented(n)
            await told.imported(n)
            await told.code_sent(n)
            await told.texted(n, f"Merci Nina {n}, à samedi")
        await told.texted(1, "Ne stoppez pas, Nina 1")
        copy = await told.copied(1)
        assert copy["subject_id"] == shown(1, "lune")
        assert set(copy["data"]) == set(SERVICES)

        assert of(copy, "consent", "number")[0]["number"] == number(1)
        [consent] = of(copy, "consent", "consent")
        assert (consent["sender_id"], consent["purpose"], consent["state"]) == (SENDER, "promotions", "opted_in")
        [evidence] = of(copy, "consent", "evidence")
        assert (evidence["said"]["text_shown"], evidence["said"]["source"]) == ("Zoé 1 : oui", "shop")
        [contact] = of(copy, "campaign", "contact")
        assert (contact["number"], contact["attributes"]) == (number(1), {"first_name": "Zoé 1"})
        [message] = of(copy, "dispatch", "message")
        assert (message["text"], message["number"]) == ("Votre code : 4801 Zoé 1", number(1))
        assert "Merci Nina 1" in json.loads(of(copy, "inbound", "text")[0]["as_received"])["text"]
        assert [review["text"] for review in of(copy, "inbound", "review")] == ["Ne stoppez pas, Nina 1"]
        whole = json.dumps(copy, ensure_ascii=False)
        assert number(2) not in whole
        assert "Zoé 2" not in whole

        answer = await told.clients["consent"].get(f"/v1/copies/{copy['copy_id']}", params={"format": "csv"})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert {row["service"] for row in rows} == set(SERVICES)
        told_of = {(row["service"], row["kind"], row["field"]): row["value"] for row in rows}
        assert told_of["campaign", "contact", "attributes.first_name"] == "Zoé 1"
        assert told_of["consent", "evidence", "said.text_shown"] == "Zoé 1 : oui"
        assert told_of["campaign", "contact", "number"] == f"'{number(1)}", "no spreadsheet computes with it"


async def test_nothing_is_held_of_a_stranger_and_that_is_an_answer(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        assert (await told.copied(5))["data"] == {service: [] for service in SERVICES}


async def test_until_every_service_has_answered_a_copy_is_open_and_shows_nothing(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        client = told.clients["consent"]
        await told.consented(1)
        key = {"Idempotency-Key": "k1"}
        asked = await told.call("POST", "consent", "/v1/copies", {"number": number(1)}, headers=key)
        assert (asked["status"], asked["data"]) == ("open", None)
        assert asked["waiting_for"] == ["campaign", "dispatch", "inbound"]
        assert await told.call("POST", "consent", "/v1/copies", {"number": number(1)}, headers=key) == asked
        early = await client.get(f"/v1/copies/{asked['copy_id']}", params={"format": "csv"})
        assert (early.status_code, early.json()["reasons"][0]["reason"]) == (409, "not_complete")
        for answer in (
            await client.post(
                "/v1/copies", json={"number": number(1), "controller": "lune"}, headers=bearer(senders=[SENDER])
            ),
            await client.get(f"/v1/copies/{asked['copy_id']}", headers=bearer(scope="consent:read")),
        ):
            assert answer.status_code == 403
        assert (await client.get("/v1/copies/other")).status_code == 404
        assert (await client.post("/v1/copies", json={"number": "---"})).status_code == 422


async def test_a_copy_is_kept_for_a_week_and_its_parts_with_it(surroundings: Surroundings) -> None:
    async with four(surroundings) as told, surroundings.sql("consent") as sql:
        copy = await told.copied(1)
        await sql.execute("UPDATE copy SET expires_at = now()")
        assert (await told.clients["consent"].get(f"/v1/copies/{copy['copy_id']}")).status_code == 404
        other = await told.copied(2)
        assert other["status"] == "complete"


async def test_an_erasure_takes_the_copies_and_none_is_made_while_it_is_under_way(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        await told.consented(1)
        asked = await told.call("POST", "consent", "/v1/copies", {"number": number(1)})
        await told.erased(1)

        async def gone() -> bool:
            found = await told.clients["consent"].get(f"/v1/copies/{asked['copy_id']}")
            return found.status_code == 404

        assert await eventually(gone)
        refused = await told.clients["consent"].post("/v1/copies", json={"number": number(1)})
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (409, "being_erased")
        async with surroundings.sql("consent") as sql:
            assert await sql.fetchval("SELECT count(*) FROM copy_part") == 0


async def test_what_is_too_long_for_one_record_is_told_in_parts() -> None:
    items = [{"kind": "message", "text": "x" * 1000, "place": place} for place in range(1000)]

    async def gather(tx: Any, subject_id: str, controller_id: str) -> list[dict[str, Any]]:
        return items

    asked = CopyRequested(copy_id="c", subject_id=subject(1), controller_id="lune", requested_at=now())
    parts = await Copier("dispatch", field_keys, gather).parts(None, asked)  # type: ignore[arg-type]
    assert [(part.place, part.of) for part in parts] == [(0, 3), (1, 3), (2, 3)]
    assert all(len(part.items) < 2 * copying.PART_BYTES for part in parts)
    told = [
        item
        for part in parts
        for item in json.loads(field_keys.unseal(part.items, context("c", "dispatch", part.place)))
    ]
    assert told == items
