"""Rotations of field, link and signing keys, beside four running services.

Nothing is lost, STOPs count meanwhile, and the old field and signing keys go.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from campaign.service import SEALED as OF_CAMPAIGN
from common.db.database import Database
from common.keyring import LinkKeys
from common.privacy import stop_link
from common.privacy.resealing import Resealing, command
from common.privacy.signing import PublicKeys, SigningKeys, key_id
from common.settings import KeyRingSettings
from consent.service import SEALED as OF_CONSENT
from dispatch.service import SEALED as OF_DISPATCH
from inbound.service import SEALED as OF_INBOUND
from tests.service.rights.four import SERVICES, Four, four, published
from tests.support.builders import SENDER, now, number, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.holdings import BEGINS, SEALED
from tests.support.running import KEY_RING, SIGNING_RING, Surroundings

COLUMNS = {"consent": OF_CONSENT, "campaign": OF_CAMPAIGN, "dispatch": OF_DISPATCH, "inbound": OF_INBOUND}
NEW = {"n1": base64.b64encode(b"n" * 32).decode()}
SIGNS = {"p2": base64.b64encode(b"q" * 32).decode()}
LINKS = {"l1": base64.b64encode(b"l" * 32).decode()}
OLD_LINKS, NEW_LINKS = (
    LinkKeys(KeyRingSettings.model_validate({"current": current, "keys": keys}), subject_keys)
    for current, keys in (("t1", KEY_RING["keys"]), ("l1", LINKS))
)
BEFORE = {"current": "t1", "keys": KEY_RING["keys"] | NEW}
DURING = {"current": "n1", "keys": KEY_RING["keys"] | NEW}
AFTER = {"current": "n1", "keys": NEW}
KEPT, STOPS, DOUBTS = 1, 2, 3


@dataclass(frozen=True)
class Ringed(Surroundings):
    """Surroundings whose services have other rings. `signing`: further settings of consent-svc."""

    rings: dict[str, Any] = field(default_factory=dict)
    signing: dict[str, Any] = field(default_factory=dict)

    async def settings(self, service: str, **more: Any) -> dict[str, Any]:
        signing = self.signing if service == "consent" else {}
        return await super().settings(service, **{**self.rings, **signing, **more})


def ringed(
    surroundings: Surroundings, fields: dict[str, Any], links: dict[str, Any], signing: dict[str, Any], **more: Any
) -> Ringed:
    """`more`: further settings of consent-svc."""
    of = surroundings
    told = {"rings": {"field_keys": fields, "link_keys": links}, "signing": {"signing_keys": signing, **more}}
    return Ringed(of.postgres, of.broker, of.unique, of.urls, of.partitions, **told)


def before(surroundings: Surroundings) -> Ringed:
    """Every service has the new keys, and none is current."""
    links = {"current": "t1", "keys": KEY_RING["keys"] | LINKS}
    signing = {"current": "p1", "keys": SIGNING_RING["keys"] | SIGNS}
    return ringed(surroundings, BEFORE, links, signing)


def during(surroundings: Surroundings) -> Ringed:
    """The new keys are current, and the old ones read."""
    signing = {"current": "p2", "keys": SIGNING_RING["keys"] | SIGNS}
    return ringed(surroundings, DURING, {"current": "l1", "keys": KEY_RING["keys"] | LINKS}, signing)


def after(surroundings: Surroundings) -> Ringed:
    """The old field and signing keys have gone; the old link key stays until its links have ended."""
    [retired] = SigningKeys(KeyRingSettings.model_validate(SIGNING_RING)).jwks["keys"]
    links, signing = {"current": "l1", "keys": KEY_RING["keys"] | LINKS}, {"current": "p2", "keys": SIGNS}
    return ringed(surroundings, AFTER, links, signing, retired_signing_keys={"p1": retired["x"]})


async def columns_of_old(surroundings: Surroundings) -> dict[str, set[str]]:
    """By service, each column with a field of the old key, once nothing is on its way."""
    found: dict[str, set[str]] = {}
    for service in SERVICES:
        async with surroundings.sql(service) as sql:
            await published(sql)
            tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            found[service] = {
                f"{table}.{column}"
                for (table,) in tables
                for row in await sql.fetch(f'SELECT * FROM "{table}"')
                for column, value in row.items()
                if (value.startswith(BEGINS) if isinstance(value, bytes) else SEALED.search(str(value)))
            }
    return found


async def put(told: Four) -> None:
    """Something in every column that has encrypted fields, but an upload under way and a part of a long text."""
    await told.everywhere(KEPT)
    for n in (STOPS, DOUBTS):
        await told.consented(n)
    await told.code_sent(STOPS)
    correct = {"kind": "contact", "sender_id": SENDER, "fields": {"first_name": "Zoë"}}
    asked = {"source": "call-centre", "actor": "agent", "statement": "Zoë"}
    rectified = {"number": number(KEPT), "asked": asked, "correct": correct}
    await told.call("POST", "consent", "/v1/rectifications", rectified)
    webhook = {"url": "https://127.0.0.1:1/placet", "sender_ids": [SENDER]}
    await told.call("POST", "campaign", "/v1/webhooks", webhook)
    await told.texted(DOUBTS, "Ne stoppez pas", mo="mo-doubt")

    async def waiting() -> Any:
        return (await told.call("GET", "inbound", "/v1/reviews"))["items"]

    [review] = await eventually(waiting)
    decided = {"intent": "none", "note": "a parcel"}
    await told.call("POST", "inbound", f"/v1/reviews/{review['mo_id']}/decision", decided)


async def receipt_of(told: Four, n: int) -> str:
    """Return the receipt of the person's first consent."""
    line = (await told.state(n))["history"][0]
    return str((await told.call("GET", "consent", f"/v1/receipts/{line['evidence_id']}"))["receipt"])


def stopped(told: Four, n: int) -> Callable[[], Any]:
    async def look() -> bool:
        assert {each["state"] for each in (await told.state(n))["consents"]} == {"opted_out"}
        return True

    return look


async def resealed(surroundings: Surroundings, service: str, *, killed: bool = False) -> dict[str, int]:
    """Run over the columns of a service, a block a transaction; `killed`: the run ends within. Return what is left."""
    database = Database(await surroundings.database(service), pool_size=1)
    left: dict[str, int] = {}
    try:
        work = Resealing(database, KeyRingSettings.model_validate(DURING), subject_keys, COLUMNS[service], blocks=1)
        async for column, told in work.run():
            assert told.unreadable == 0, column
            left[column.name] = told.left
            if killed:
                break
    finally:
        await database.close()
    return left


@pytest.mark.any_broker
async def test_the_old_key_goes_from_every_column_while_a_stop_counts_and_nothing_is_lost(
    surroundings: Surroundings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with four(before(surroundings)) as told:
        await put(told)
        receipt = await receipt_of(told, KEPT)
        found = await columns_of_old(surroundings)
    declared = {service: {each.name for each in columns} for service, columns in COLUMNS.items()}
    assert all(found[service] <= declared[service] for service in SERVICES), (found, declared)
    not_put = {"consent": {"import_file.rest", "import_piece.body", "double_opt_in.number"}}
    not_put |= {"campaign": {"import_piece.body"}, "inbound": {"part.text"}}
    assert {service: declared[service] - not_put.get(service, set()) for service in SERVICES} == found
    async with four(during(surroundings)) as told:
        for service in SERVICES:
            await resealed(surroundings, service, killed=True)
        assert any((await columns_of_old(surroundings)).values()), "the killed runs have left some"
        stopping = asyncio.create_task(told.texted(STOPS, "STOP"))
        left = await asyncio.gather(*(resealed(surroundings, service) for service in SERVICES))
        await stopping
        await eventually(stopped(told, STOPS))
        assert {n for each in left for n in each.values()} == {0}
        for service in SERVICES:
            await resealed(surroundings, service)
        assert await columns_of_old(surroundings) == {service: set() for service in SERVICES}
    url, ring = await surroundings.database("consent"), KeyRingSettings.model_validate(DURING)
    assert await command("consent", url, ring, subject_keys, OF_CONSENT, []) == 0
    assert capsys.readouterr().out.endswith("others in the ring: t1; fields of the others: 0\n")
    async with four(after(surroundings)) as told:
        copy = await told.copied(KEPT)
        assert number(KEPT) in str(copy)
        assert "samedi" in str(copy), "the text, as the operator told it"
        await told.texted(KEPT, "STOP")
        await eventually(stopped(told, KEPT))
        await eventually(stopped(told, STOPS))
        await told.code_sent(DOUBTS)
        for keys in (OLD_LINKS, NEW_LINKS):
            link = stop_link.token(keys, SENDER, subject(DOUBTS), now())
            page = await told.clients["consent"].get(f"{stop_link.PATH}/{SENDER}/{link}")
            assert (page.status_code, "Maison Lune" in page.text) == (200, True), "a link in a phone still stops"
        published = PublicKeys((await told.clients["consent"].get("/.well-known/jwks.json")).json())
        again = await receipt_of(told, KEPT)
        assert published.verified(receipt, "placet-receipt") == published.verified(again, "placet-receipt")
        assert [key_id(each) for each in (receipt, again)] == ["p1", "p2"]
        [webhook] = (await told.call("GET", "campaign", "/v1/webhooks"))["items"]
        assert (await told.call("POST", "campaign", f"/v1/webhooks/{webhook['webhook_id']}/rotate"))["secret"]
