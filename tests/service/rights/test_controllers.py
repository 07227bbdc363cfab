"""Rights are per controller: what one controller is asked for concerns its own data, and the person may ask for all.

Two organisations know the same person. What Maison Lune holds says "Zoé 1", what Beta holds says "Lea 1".
"""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from common.contracts import COPY_PARTS
from common.contracts.rights import CopyGathered
from common.db.database import Database
from common.privacy.copying import context
from consent.proof.audit import Audit
from tests.service.rights.four import SERVICES, Four, four, knows_senders, published
from tests.service.rights.test_erasure import NOTHING, chain_of
from tests.support.builders import SENDER, STOP_CODE, called, field_keys, inner, now, number, shown, subject
from tests.support.eventually import eventually
from tests.support.holdings import rows_with
from tests.support.publish import publish
from tests.support.running import ALL_SCOPES, Surroundings, bearer

pytestmark = pytest.mark.any_broker

TENANT = ALL_SCOPES.replace(" platform:admin", "")
OURS, THEIRS = (bearer(organisation=each, scope=TENANT) for each in ("tests", "strangers"))
BETA_CODE = "36222"
BETA: dict[str, Any] = {
    "legal_name": "Beta SAS",
    "brand": "Beta",
    "contact": "contact@beta.example",
    "country": "FR",
    "controller": "beta",
    "oadc": "BETA",
    "sender_id": "beta",
    "stop_code": BETA_CODE,
    "purposes": [{"id": "promotions", "wording": "Nos offres"}],
}
FORM = {"source": "shop", "form_id": "checkout", "form_version": "3"}
WHOLE_PERSON = ("subject", "standing")  # one row for all controllers
ALONE = ("campaign", "dispatch", "inbound")


async def joined(told: Four, **more: Any) -> None:
    """Beta, of the other organisation, is known to every service."""
    codes = {"sender_id": "beta-compte", "oadc": "BETACOMPTE", "stop_code": "38222", "purposes": []}
    for sender in (BETA | more, BETA | codes):
        await told.call("POST", "consent", "/v1/senders", sender, headers=THEIRS)
    for service in SERVICES:
        if service in told.clients and service != "consent":
            await eventually(knows_senders(told.surroundings, service, 4))


async def consented(told: Four, n: int) -> Any:
    body: dict[str, Any] = {
        "sender_id": "beta",
        "purpose": "promotions",
        "number": number(n),
        "occurred_at": now().isoformat(),
    }
    body |= {"evidence": FORM | {"text_shown": f"Lea {n} : oui"}}
    return await told.call("POST", "consent", "/v1/consents", body, headers=THEIRS)


async def imported(told: Four, n: int) -> Any:
    file = f"number;first_name\n{number(n)};Lea {n}\n".encode()
    client, where = told.clients["campaign"], {"sender_id": "beta"}
    answer = await client.post("/v1/imports", params=where, content=file, headers=THEIRS, timeout=20)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def everywhere(told: Four, n: int) -> None:
    """Something of Beta's in each of the four databases."""
    await consented(told, n)
    await imported(told, n)
    body = {"sender_id": "beta-compte", "to": number(n), "category": "transactional"}
    body |= {"text": f"Votre code : 48{n:02d} Lea {n}"}
    sent = await told.call("POST", "dispatch", "/v1/messages", body, headers=THEIRS, timeout=20)

    async def accepted() -> bool:
        path = f"/v1/messages/{sent['message_id']}"
        return bool((await told.call("GET", "dispatch", path, headers=THEIRS))["status"] == "accepted")

    await eventually(accepted)
    await told.texted(n, f"Merci, c'est Lea {n}", to=BETA_CODE)
    link = {"sender_id": "beta", "number": number(n)}
    await told.call("POST", "consent", "/v1/preference-links", link, headers=THEIRS)
    await copied(told, n, THEIRS)


async def copied(told: Four, n: int, token: dict[str, str]) -> Any:
    asked = await told.call("POST", "consent", "/v1/copies", {"number": number(n)}, headers=token)

    async def look() -> Any:
        found = await told.call("GET", "consent", f"/v1/copies/{asked['copy_id']}", headers=token)
        assert found["status"] == "complete", found
        return found

    return await eventually(look)


async def erased(told: Four, n: int, token: dict[str, str]) -> Any:
    body = {"number": number(n), "evidence": {"source": "call-centre"}}
    asked = await told.call("POST", "consent", "/v1/erasures", body, headers=token)

    async def look() -> Any:
        found = await told.call("GET", "consent", f"/v1/erasures/{asked['erasure_id']}", headers=token)
        assert found["status"] == "complete", found
        return found

    return await eventually(look)


async def looked_up(told: Four, n: int, token: dict[str, str]) -> Any:
    return await told.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)}, headers=token)


async def rows_of(told: Four, n: int) -> dict[str, list[str]]:
    """By service, every row that is Beta's or names the person as Beta does."""
    found = {}
    for service in SERVICES:
        async with told.surroundings.sql(service) as sql:
            await published(sql)
            found[service] = await rows_with(sql, [f"Lea {n}", "'beta'", "beta-compte"], but=WHOLE_PERSON)
    return found


async def test_what_one_controller_erases_leaves_every_byte_of_another_and_the_last_takes_the_number(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings) as told:
        await joined(told)
        await told.everywhere(1)
        await everywhere(told, 1)
        ours, theirs = await copied(told, 1, OURS), await copied(told, 1, THEIRS)
        for copy, own, others in (
            (ours, ("Zoé 1", STOP_CODE), ("Lea 1", BETA_CODE)),
            (theirs, ("Lea 1", BETA_CODE), ("Zoé 1", STOP_CODE)),
        ):
            said = str(copy["data"])
            assert not any(one in said for one in others), said
            assert all(own[service == "inbound"] in str(copy["data"][service]) for service in SERVICES), said
        assert "beta" not in str(ours["data"])
        before, seen = await rows_of(told, 1), await looked_up(told, 1, THEIRS)
        mine = ("Zoé 1", r"Zo\u00e9 1")  # the second as a provider writes it
        assert all((await told.held(1, *mine)).values())

        done = await erased(told, 1, OURS)
        assert (done["controller"], done["subject_id"]) == ("lune", shown(1, "lune"))
        assert {each["service"]: each["erased"] for each in done["services"]} == {
            "campaign": {"contacts": 1, "links": 0, "conversions": 0},
            "consent": {"evidence": 4, "links": 1, "copies": 2, "rectifications": 0, "questions": 0},
            "dispatch": {"messages": 1},
            "inbound": {"callbacks": 1, "reviews": 0, "parts": 0},
        }
        assert await told.held(1, *mine) == NOTHING
        assert await rows_of(told, 1) == before
        assert await looked_up(told, 1, THEIRS) == seen
        assert (await copied(told, 1, THEIRS))["data"] == theirs["data"]
        assert "subject.number" in (await told.held(1))["consent"]
        assert [c["state"] for c in (await looked_up(told, 1, OURS))["consents"]] == ["opted_out"]
        assert await findings(surroundings) == []

        await erased(told, 1, THEIRS)
        assert await told.held(1, "Lea 1") == NOTHING
        assert await told.held(1) == NOTHING
        assert await chain_of(surroundings, 1) is None
        assert await findings(surroundings) == []


async def findings(surroundings: Surroundings) -> list[Any]:
    database = Database(await surroundings.database("consent"), pool_size=1)
    try:
        async with database.begin() as tx:
            return [found async for found in Audit(tx, inner).findings()]
    finally:
        await database.close()


async def test_what_the_person_asks_for_takes_the_data_of_every_controller(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await joined(told)
        await told.everywhere(1)
        await everywhere(told, 1)
        await told.texted(1, "SUPPRIMEZ MES DONNEES")

        async def complete() -> Any:
            found = (await told.call("GET", "consent", "/v1/erasures?status=complete"))["items"]
            assert len(found) == 1
            return found[0]

        done = await eventually(complete)
        assert done["controller"] is None
        assert await told.held(1) == await told.held(1, "Lea 1") == NOTHING
        for token in (OURS, THEIRS):
            assert (await told.call("GET", "consent", "/v1/erasures?status=complete", headers=token))["items"] == []
            path = f"/v1/erasures/{done['erasure_id']}"
            assert (await told.clients["consent"].get(path, headers=token)).status_code == 404


async def test_the_erased_return_to_each_controller_by_new_evidence_of_its_own(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("dispatch", "inbound")) as told:
        await joined(told)
        await told.consented(1)
        await consented(told, 1)
        body = {"number": number(1), "evidence": {"source": "call-centre", "actor": "agent of Zoé 1"}}
        await told.call("POST", "consent", "/v1/erasures", body, headers=OURS)

        async def refused() -> bool:
            return bool((await told.imported(1))["reasons"] == {"erased": 1})

        assert await eventually(refused)
        assert (await imported(told, 1))["created"] == 1
        assert (await consented(told, 1))["state"] == "opted_in", "which lifts nothing of ours"
        old = await told.consented(1, occurred_at=now() - timedelta(days=1))
        assert (old["changed"], old["state"]) == (False, "opted_out")
        assert await told.held(1, "Zoé 1") == NOTHING
        assert await refused()
        assert (await told.consented(1, occurred_at=now()))["state"] == "opted_in"

        async def back() -> bool:
            return bool((await told.imported(1))["created"])

        assert await eventually(back)
        assert await findings(surroundings) == []


async def test_an_erasure_keeps_the_right_to_be_stopped_and_a_start_reopens_nothing_of_it(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings, without=("campaign", "dispatch")) as told:
        await joined(told)
        await told.consented(2)
        await consented(told, 2)
        await told.texted(2, "STOP TOUT")

        async def stopped() -> bool:
            return None in [s["sender_id"] for s in (await told.state(2))["suppressions"]]

        await eventually(stopped)
        await told.consented(1)
        await consented(told, 1)
        for n in (1, 2):
            body = {"number": number(n), "evidence": {"source": "call-centre"}}
            await told.call("POST", "consent", "/v1/erasures", body, headers=OURS)
        assert await stopped()
        assert {c["state"] for c in (await told.state(2))["consents"]} == {"opted_out"}
        await told.texted(1, "START")
        await told.texted(1, "STOP", mo="mo-after")  # on the partition of the START

        async def heard() -> list[Any]:
            history: list[Any] = (await told.state(1))["history"]
            assert "mo-after" in str(history)
            return history

        assert ("opt_in", "mo") not in [(line["kind"], line["source"]) for line in await eventually(heard)]


async def test_a_text_to_a_code_of_several_controllers_is_no_controller_s_and_one_in_review_holds_nobody_up(
    surroundings: Surroundings,
) -> None:
    shared = "36999"
    async with four(surroundings, without=("campaign", "dispatch"), shared_codes=[shared]) as told:
        await joined(told)
        both = {"stop_code": shared, "purposes": BETA["purposes"]}
        ours = {"sender_id": "lune-2", "oadc": "LUNEDEUX", "brand": "Maison Lune Deux", "controller": "lune"}
        ours |= {"legal_name": "Lune Deux SAS"}
        for name, token in (({"sender_id": "beta-2", "oadc": "BETADEUX", "brand": "Beta Deux"}, THEIRS), (ours, OURS)):
            await told.call("POST", "consent", "/v1/senders", BETA | both | name, headers=token)
        await eventually(knows_senders(surroundings, "inbound", 6))
        await told.consented(1)
        await told.texted(1, "Ne stoppez pas, Zoé 1")  # a person has to read it, and marketing waits
        await told.texted(1, "Merci beaucoup", to=shared)

        async def held_since() -> Any:
            return (await told.state(1))["held_since"]

        assert await eventually(held_since)
        await told.erased(1)

        async def let_go() -> bool:
            return await held_since() is None

        assert await eventually(let_go)
        assert (await told.held(1, "Ne stoppez pas"))["inbound"] == []
        assert (await told.held(1, "Merci beaucoup"))["inbound"] == ["callback.body"]
        await told.texted(1, "SUPPRIMEZ MES DONNEES", to=BETA_CODE)

        async def all_gone() -> bool:
            return (await told.held(1))["inbound"] == []

        assert await eventually(all_gone)


async def test_an_erasure_of_everything_is_told_to_a_controller_that_knows_the_person_and_to_no_other(
    surroundings: Surroundings,
) -> None:
    """Beta had no line about the person before: it is answered as of a stranger, also after it has recorded a STOP, and
    its copy keeps nothing gathered meanwhile."""
    async with four(surroundings, without=ALONE) as told:
        await joined(told)
        await told.consented(1)
        async with surroundings.sql("consent") as sql:
            await sql.execute(
                "INSERT INTO erasure (erasure_id, subject_id, source, evidence_id, requested_at)"
                " VALUES ('gone', $1, 'retention', 'over', now())",
                subject(1),
            )
        client = told.clients["consent"]
        for n in (1, 2):
            probe = {"sender_id": "beta", "number": number(n), "evidence": {"source": "shop"}}
            await told.call("POST", "consent", "/v1/opt-outs", probe, headers=THEIRS)
        correct = {"kind": "contact", "sender_id": "beta", "fields": {"city": None}}
        asks: dict[str, dict[str, Any]] = {
            "/v1/copies": {},
            "/v1/rectifications": {"asked": {"source": "letter"}, "correct": correct},
        }
        for path, body in asks.items():
            ours = body if path == "/v1/copies" else body | {"correct": correct | {"sender_id": SENDER}}
            told_us = await refusal(client, path, ours | {"number": number(1)}, OURS)
            assert (told_us[0], told_us[3][0]["reason"]) == (409, "being_erased")
            for n in (1, 2):
                answer = await client.post(path, json=body | {"number": number(n)}, headers=THEIRS)
                assert answer.status_code == 202, answer.text
        copy_id = (await told.call("POST", "consent", "/v1/copies", {"number": number(1)}, headers=THEIRS))["copy_id"]
        gathered = [
            CopyGathered(
                copy_id=copy_id,
                subject_id=subject(1),
                service=service,
                place=0,
                of=1,
                items=field_keys.seal('[{"kind": "contact", "name": "Lea 1"}]', context(copy_id, service, 0)),
                gathered_at=now(),
            )
            for service in ALONE
        ]
        await publish(surroundings, COPY_PARTS, gathered)

        async def complete() -> Any:
            found = await told.call("GET", "consent", f"/v1/copies/{copy_id}", headers=THEIRS)
            assert found["status"] == "complete", found
            return found["data"]

        data = await eventually(complete)
        assert {service: data[service] for service in ALONE} == {service: [] for service in ALONE}
        async with surroundings.sql("consent") as sql:
            kept = "SELECT count(*) FROM copy_part WHERE copy_id = $1 AND service <> 'consent' AND items <> ''"
            assert await sql.fetchval(kept, copy_id) == 0


async def refusal(client: httpx.AsyncClient, path: str, body: dict[str, Any], token: dict[str, str]) -> Any:
    answer = await client.post(path, json=body, headers=token)
    said = answer.json()
    return answer.status_code, said["title"], said["detail"], said["reasons"]


async def test_a_call_concerns_one_controller_of_the_token_and_a_strangers_is_an_unknown_one(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings, without=ALONE) as told:
        await joined(told)
        client = told.clients["consent"]
        asks: dict[str, dict[str, Any]] = {
            "/v1/copies": {"number": number(1)},
            "/v1/rectifications": {
                "number": number(1),
                "asked": {"source": "letter"},
                "correct": {"kind": "number", "sender_id": None},
            },
            "/v1/erasures": {"number": number(1), "evidence": {"source": "letter"}},
        }
        for path, body in asks.items():
            strangers = await refusal(client, path, body | {"controller": "beta"}, OURS)
            assert strangers == await refusal(client, path, body | {"controller": "nobodys"}, OURS)
            assert (strangers[0], strangers[3][0]["reason"]) == (404, "unknown_controller")
            limited = await refusal(client, path, body, bearer(scope=TENANT, senders=[SENDER]))
            assert (limited[0], limited[3][0]["reason"]) == (403, "sender_not_granted")
        wrong = {"kind": "contact", "sender_id": "beta", "fields": {"city": None}}
        answer = await refusal(client, "/v1/rectifications", asks["/v1/rectifications"] | {"correct": wrong}, OURS)
        assert (answer[0], answer[3][0]["field"]) == (404, "correct.sender_id")
        second = called(BETA, "gamma") | {"controller": "gamma", "legal_name": "Gamma SAS", "stop_code": "36333"}
        await told.call("POST", "consent", "/v1/senders", second, headers=OURS)
        for path, body in asks.items():
            missing = await refusal(client, path, body, OURS)
            assert (missing[0], missing[3][0]["field"]) == (422, "controller")
            own = await told.call("POST", "consent", path, body, headers=bearer(scope=TENANT, senders=["gamma"]))
            assert own["controller"] == "gamma"
            begun = await told.call("POST", "consent", path, body | {"controller": "lune"}, headers=OURS)
            assert begun["controller"] == "lune"
            identity = next(value for name, value in begun.items() if name.endswith("_id") and name != "subject_id")
            assert (await client.get(f"{path}/{identity}", headers=OURS)).status_code == 200
            unseen, unknown = [await client.get(f"{path}/{one}", headers=THEIRS) for one in (identity, "nobodys")]
            assert (unseen.status_code, unseen.json()["reasons"]) == (404, unknown.json()["reasons"])
            if path != "/v1/copies":
                listed = (await client.get(path, headers=OURS)).json()["items"]
                assert {each["controller"] for each in listed} == {"lune", "gamma"}
                assert (await client.get(path, headers=THEIRS)).json()["items"] == []
        assert (await looked_up(told, 1, THEIRS))["suppressions"] == []


async def test_a_person_whom_only_others_know_is_copied_and_erased_as_one_that_nobody_knows(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings) as told:
        await joined(told)
        await everywhere(told, 1)
        assert (await copied(told, 1, OURS))["data"] == (await copied(told, 2, OURS))["data"]
        counts = [
            {each["service"]: each["erased"] for each in (await erased(told, n, OURS))["services"]} for n in (1, 2)
        ]
        assert counts[0] == counts[1]
