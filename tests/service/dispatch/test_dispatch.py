"""dispatch-svc in process, with a real Postgres, a real broker and a strict fake operator."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest

from common.contracts import (
    CAMPAIGN_REQUESTS,
    CONTROLS,
    DISPATCH_MESSAGES,
    DISPATCH_REQUESTS,
    INBOUND_RECEIPTS,
    SENDERS,
    STATES,
    TEMPLATES,
)
from common.contracts.campaign import MessageRequested
from common.contracts.consent import Consent, ConsentStateChanged
from common.contracts.dispatch import MessageChanged
from common.kafka.broker import partition_of
from dispatch.messages import waking_store
from dispatch.sending import timers
from dispatch.sending.in_hand import TURNS_AHEAD
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    SENDER,
    codes_sender_changed,
    controlled,
    field_keys,
    now,
    number,
    opted_in,
    opted_out,
    receipt,
    requested,
    sender_changed,
    shown,
    subject,
    template_changed,
)
from tests.support.eventually import eventually
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.publish import all_read, heartbeat, publish, publish_raw
from tests.support.reading import changes_in, reading
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

PATIENT_S = 60.0


@dataclass
class Dispatch:
    """The service under test, its operator, and its neighbours' voices."""

    client: httpx.AsyncClient
    operator: Operator
    surroundings: Surroundings

    async def publish_states(self, *states: ConsentStateChanged) -> None:
        await publish(self.surroundings, STATES, states, as_of=now())

    async def request(self, *requests: MessageRequested) -> None:
        """Publish requests once all published consents are read: the two topics are not ordered."""
        await all_read(self.surroundings, "dispatch", STATES)
        await publish(self.surroundings, CAMPAIGN_REQUESTS, requests)

    async def control(self, control: str, version: int) -> None:
        await publish(self.surroundings, CONTROLS, [controlled(control, version)])

    async def message(self, identity: str) -> dict[str, Any]:
        response = await self.client.get(f"/v1/messages/{identity}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def becomes(self, identity: str, status: str, reason: str | None = None) -> Callable[[], Awaitable[dict[str, Any]]]:
        """`reason`: one of those it must have by then; others may come first, while knowledge catches up."""

        async def look() -> dict[str, Any]:
            found = await self.message(identity)
            assert found["status"] == status, found
            assert reason is None or reason in found["reasons"], found
            return found

        return look

    async def enforcements(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.client.get("/v1/enforcements")).json()["items"]
        return items


@asynccontextmanager
async def dispatch(
    surroundings: Surroundings, handler: Operator, *, watermarks: bool = True, **more: Any
) -> AsyncIterator[Dispatch]:
    """`watermarks`: a consent-svc that is alive keeps saying so every 200 ms, and what it says stays fresh however
    late a busy machine brings it. Without, consent is stale as early as in production. Who waits for the operator's
    answer waits for as long as a test keeps it."""
    usual: dict[str, Any] = {"gateway_url": handler.url, "gateway_token": TOKEN, "hours": "demonstration"}
    usual |= {"submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1}
    if not watermarks:
        usual["max_staleness_s"] = Settings.model_fields["max_staleness_s"].default
    settings = await surroundings.settings("dispatch", **{**usual, **more})
    async with running(build(Settings(**settings))) as client:
        under_test = Dispatch(client, handler, surroundings)
        await publish(surroundings, SENDERS, [sender_changed(), codes_sender_changed()])
        await publish(surroundings, CONTROLS, [controlled("running")])
        async with heartbeat(surroundings, STATES) if watermarks else contextlib.nullcontext():
            await eventually(lambda: _knows_the_sender(surroundings))
            if watermarks:
                await eventually(lambda: _ready(client))
            yield under_test


async def _knows_the_sender(surroundings: Surroundings) -> bool:
    async with surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval("SELECT count(*) FROM sender") == 2)


async def known(surroundings: Surroundings, many: int, table: str = "subject") -> bool:
    async with surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval(f"SELECT count(*) FROM {table}") == many)


async def _ready(client: httpx.AsyncClient) -> bool:
    response = await client.get("/readyz")
    assert response.status_code == 200, response.text
    return True


async def test_an_opted_in_subject_gets_the_message_once_with_its_whole_decision(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        wanted = requested(1)
        await d.request(wanted, wanted)
        await d.request(wanted)
        found = await eventually(d.becomes(wanted.message_id, "accepted"))
        await d.request(last := requested(1))
        await eventually(d.becomes(last.message_id, "accepted"))
        assert op.references == [wanted.message_id, last.message_id]
        assert op.messages[0]["to"] == number(1)
        assert op.messages[0]["from"] == "MAISONLUNE"
        assert found["policy_version"] == "demonstration-3"
        assert found["consent_version"] == 1
        assert found["as_of"] is not None
        assert found["subject_id"] == shown(1)
        assert number(1) not in str(found)


WRITTEN = "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'message'"
OTHERS = (  # which tell what they wrote by the time that they end
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_a_message_that_goes_as_it_should_is_written_twice(surroundings: Surroundings) -> None:
    """One insert and one update, within its page: what a message costs, counted by Postgres itself."""
    async with operator() as op, dispatch(surroundings, op, permit_ttl_s=PATIENT_S, gateway_batch=10) as d:
        await d.publish_states(*(opted_in(n) for n in range(1, 21)))
        await eventually(lambda: known(surroundings, 20))
        await eventually(lambda: control_is(surroundings, "running"))
        wanted = [requested(n) for n in range(1, 21) for _ in range(10)]
        await d.request(*wanted)

        async def accepted() -> bool:
            async with surroundings.sql("dispatch") as sql:
                return bool(await sql.fetchval("SELECT count(*) FROM message WHERE status = 'accepted'") == len(wanted))

        await eventually(accepted)
        assert sorted(op.references) == sorted(one.message_id for one in wanted)
    async with surroundings.sql("dispatch") as sql:

        async def alone() -> bool:
            return not await sql.fetchval(OTHERS)

        await eventually(alone)
        assert tuple(await sql.fetchrow(WRITTEN)) == (len(wanted), len(wanted), len(wanted), 0)


async def test_without_consent_after_a_stop_or_unreadable_nothing_is_sent(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(2), opted_out(2, version=2))
        await publish_raw(
            surroundings, STATES, subject(3).encode(), b"{broken", [("ce_type", b"consent.state_changed.v1")]
        )
        await d.publish_states(opted_in(4), opted_in(5))
        await publish_raw(surroundings, STATES, subject(5).encode(), b"{}", [("ce_type", b"consent.state_changed.v9")])
        never, out, unreadable, yes = requested(1), requested(2), requested(3), requested(4)
        of_tomorrow = requested(5)
        await d.request(never, out, unreadable, yes, of_tomorrow)
        assert (await eventually(d.becomes(never.message_id, "denied")))["reasons"] == ["no_consent"]
        assert "opted_out" in (await eventually(d.becomes(out.message_id, "denied")))["reasons"]
        for one in (unreadable, of_tomorrow):
            assert "consent_unreadable" in (await eventually(d.becomes(one.message_id, "denied")))["reasons"]
        await eventually(d.becomes(yes.message_id, "accepted"))
        assert op.references == [yes.message_id]


@pytest.mark.any_broker
@pytest.mark.usefixtures("strangers")
async def test_a_stranger_s_message_and_sender_are_what_nobody_has(surroundings: Surroundings) -> None:
    """By an organisation's token, for all its senders or for one that it does not have."""
    scope = ALL_SCOPES.replace(" platform:admin", "")
    theirs = bearer(organisation="strangers", scope=scope), bearer(organisation="strangers", senders=[CODES_SENDER])
    async with operator() as op, dispatch(surroundings, op) as d:
        sent = (await d.client.post("/v1/messages", json=_otp(1))).json()["message_id"]
        await eventually(d.becomes(sent, "accepted"))
        for token in theirs:
            unknown = await d.client.get("/v1/messages/01a2106a-b86f-824b-bc66-626b85015e26", headers=token)
            hidden = await d.client.get(f"/v1/messages/{sent}", headers=token)
            refused = await d.client.post("/v1/messages", json=_otp(2), headers=token)
            assert (hidden.status_code, hidden.json() | {"trace_id": ""}) == (404, unknown.json() | {"trace_id": ""})
            assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (404, "unknown_sender")
        nobodys = await d.client.post("/v1/messages", json=_otp(2) | {"sender_id": "nobodys"}, headers=theirs[0])
        refused = await d.client.post("/v1/messages", json=_otp(2), headers=theirs[0])
        assert refused.json() | {"trace_id": ""} == nobodys.json() | {"trace_id": ""}
        for path in ("enforcements", "provider-blocks", "dead-letters"):
            assert (await d.client.get(f"/v1/{path}", headers=theirs[0])).status_code == 403
        assert len(op.messages) == 1


@pytest.mark.any_broker
async def test_whom_else_somebody_said_yes_to_is_told_to_nobody_who_may_use_one_sender(
    surroundings: Surroundings,
) -> None:
    yes = Consent(
        sender_id="globex", purpose="promotions", state="opted_in", basis="opt_in", occurred_at=now(), evidence_id="e"
    )
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1, consents=(yes,), held_since=now()))
        await eventually(lambda: known(surroundings, 1))
        await d.request(wanted := requested(1))
        told = await eventually(d.becomes(wanted.message_id, "denied"))
        url, own = f"/v1/messages/{wanted.message_id}", bearer(senders=[SENDER])
        shown = (await d.client.get(url, headers=own)).json()
    assert told["reasons"] == told["facts"]["told"]["reasons"] == ["no_consent", "other_controller"]
    assert told["facts"]["person"]["elsewhere"] is True
    assert shown["reasons"] == shown["facts"]["told"]["reasons"] == ["no_consent"]
    assert "person" not in shown["facts"], "as of a person whom nobody knows"


async def test_a_decision_waits_for_an_opt_out_that_is_being_applied_and_knows_it(surroundings: Surroundings) -> None:
    """As the projection does: with the partition to itself, and committed after the request has come."""
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1), opted_out(2))
        await eventually(lambda: known(surroundings, 2))
        async with surroundings.sql("dispatch") as sql, sql.transaction():
            partition = partition_of(subject(1), surroundings.partitions)
            await sql.execute("SELECT pg_advisory_xact_lock(hashtext('placet.partition'), $1)", partition)
            await sql.execute(APPLY_WHAT_THE_OTHER_SAID, subject(1), subject(2))
            await d.request(wanted := requested(1))
            await eventually(lambda: sql.fetchval(SOMEBODY_WAITS_FOR_A_PARTITION))
        assert "opted_out" in (await eventually(d.becomes(wanted.message_id, "denied")))["reasons"]
        assert op.messages == []


APPLY_WHAT_THE_OTHER_SAID = (
    "UPDATE subject AS s SET version = s.version + 1, consents = o.consents, suppressions = o.suppressions"
    " FROM subject AS o WHERE s.subject_id = $1 AND o.subject_id = $2"
)
SOMEBODY_WAITS_FOR_A_PARTITION = (  # to decide: who applies consents waits for all of it
    "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ShareLock' AND NOT l.granted)"
)


@pytest.mark.any_broker
async def test_an_older_state_never_replaces_a_newer_one(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_out(1, version=5))
        await d.publish_states(opted_in(1, version=4))
        await d.request(wanted := requested(1))
        assert "opted_out" in (await eventually(d.becomes(wanted.message_id, "denied")))["reasons"]
        assert op.messages == []


async def test_while_consent_is_stale_marketing_is_held_and_transactional_goes(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        await publish(surroundings, STATES, [opted_in(1)], as_of=now() - timedelta(seconds=60))
        await d.request(wanted := requested(1))
        sent = await d.client.post("/v1/messages", json=_otp(2))
        assert sent.status_code == 202, sent.text
        await eventually(d.becomes(sent.json()["message_id"], "accepted"))
        marketing = await d.client.post(
            "/v1/messages",
            json=_offer(1),
        )
        found = await eventually(d.becomes(marketing.json()["message_id"], "pending"))
        assert (await d.client.get("/readyz")).status_code == 503
        assert (await d.client.get(f"/v1/messages/{wanted.message_id}")).status_code == 404
        assert [m["category"] for m in op.messages] == ["transactional"]
        async with heartbeat(surroundings, STATES):
            await eventually(d.becomes(wanted.message_id, "accepted"))
            await eventually(d.becomes(found["message_id"], "accepted"))


@pytest.mark.any_broker
@pytest.mark.parametrize(("roles", "holds"), [("api", False), ("relay", False), ("worker", True), ("projection", True)])
async def test_stale_consent_makes_who_holds_marketing_not_ready_and_nobody_else(
    surroundings: Surroundings, roles: str, holds: bool
) -> None:
    """Codes come in by the API, and are decided and handed off by the projection, ready or not."""
    async with operator() as op:
        settings = await surroundings.settings("dispatch", gateway_url=op.url, gateway_token=TOKEN, roles=roles)
        async with running(build(Settings(**settings))) as client:

            async def told() -> httpx.Response:
                answer = await client.get("/readyz")
                stale = ["no watermark of consent yet: marketing is held"]
                why, remarks = answer.json()["why"], answer.json()["remarks"]
                assert (why, remarks) == ((stale, []) if holds else ([], stale)), answer.text
                return answer

            assert (await eventually(told)).status_code == (503 if holds else 200)


@pytest.mark.any_broker
async def test_what_was_held_goes_at_the_gateways_pace_and_a_code_goes_between(surroundings: Surroundings) -> None:
    """Held in Kafka, and deferred in the ledger; then all of it may go at the same moment."""
    async with operator() as op, dispatch(surroundings, op, gateway_batch=5, gateway_submits=2, intake_batch=20) as d:
        people = range(1, 9)
        await d.publish_states(*(opted_in(n) for n in people))
        await eventually(lambda: known(surroundings, len(people)))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        waiting = [requested(n) for n in people for _ in range(8)]
        await d.request(*waiting)
        await eventually(lambda: _statuses(surroundings, {"deferred": len(waiting)}))
    async with operator() as op, dispatch(surroundings, op, watermarks=False, gateway_batch=5, gateway_submits=2) as d:
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("UPDATE consumer_offset SET as_of = as_of - interval '1 minute'")
        await d.control("running", 3)
        await eventually(lambda: control_is(surroundings, "running"))
        held = [requested(n) for n in people for _ in range(8)]
        await d.request(*held)
        op.open.clear()
        async with heartbeat(surroundings, STATES):
            await eventually(lambda: _holds(op.at_once == 2))
            code = (await d.client.post("/v1/messages", json=_otp(1))).json()["message_id"]
            await eventually(lambda: _holds(code in op.references))
            assert op.most_at_once == 3
            op.open.set()
            await eventually(lambda: _statuses(surroundings, {"accepted": len(waiting) + len(held) + 1}))
        assert op.most_at_once == 3
        assert len(op.references) == len(set(op.references)) == len(waiting) + len(held) + 1


async def test_an_opt_out_is_enforced_only_when_nothing_of_the_subject_is_in_flight(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        op.open.clear()
        await d.request(in_flight := requested(1))
        await eventually(lambda: _holds(bool(op.messages)))
        await d.publish_states(opted_out(1, version=2, reference="simulator/main/mo-1"), opted_out(2, version=2))

        async def applied() -> list[dict[str, Any]]:
            found = await d.enforcements()
            assert {e["subject_id"] for e in found} == {subject(1), subject(2)}
            return found

        by_subject = {e["subject_id"]: e for e in await eventually(applied)}
        assert by_subject[subject(2)]["enforced_at"] is not None
        assert by_subject[subject(1)]["enforced_at"] is None
        op.open.set()
        await eventually(d.becomes(in_flight.message_id, "accepted"))

        async def enforced() -> dict[str, Any]:
            [found] = [e for e in await d.enforcements() if e["subject_id"] == subject(1)]
            assert found["enforced_at"] is not None
            return found

        assert (await eventually(enforced))["reference"] == "simulator/main/mo-1"
        await d.request(after := requested(1))
        await eventually(d.becomes(after.message_id, "denied"))
        assert op.references == [in_flight.message_id]


@pytest.mark.any_broker
async def test_an_answer_to_a_person_goes_after_their_stop_and_does_not_hold_up_its_enforcement(
    surroundings: Surroundings,
) -> None:
    """Service messages stand on no consent: not on a stale or missing watermark, not on a hold, nor out of hours."""
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        await d.publish_states(opted_out(1, version=1, held_since=now()))
        op.open.clear()
        answer = requested(1, category="service", purpose=None, campaign_id=None, text="Maison Lune : c'est noté.")
        await publish(surroundings, DISPATCH_REQUESTS, [answer])
        await eventually(lambda: _holds(op.references == [answer.message_id]))
        await d.publish_states(opted_out(1, version=2, reference="simulator/main/mo-9"))

        async def enforced() -> bool:
            return any(e["enforced_at"] and e["reference"] == "simulator/main/mo-9" for e in await d.enforcements())

        await eventually(enforced)
        assert (await d.message(answer.message_id))["status"] == "sending"
        op.open.set()
        await eventually(d.becomes(answer.message_id, "accepted"))
        assert op.messages[0]["category"] == "service"


@pytest.mark.any_broker
async def test_the_question_of_a_double_opt_in_goes_to_who_is_pending_and_not_after_their_stop(
    surroundings: Surroundings,
) -> None:
    """Unlike an answer it is something that a STOP forbids, and is waited for."""
    async with operator() as op, dispatch(surroundings, op) as d:
        waiting = opted_in(1)
        asked = msgspec.structs.replace(waiting.consents[0], state="pending", basis=None, occurred_at=now())
        await d.publish_states(msgspec.structs.replace(waiting, consents=(asked,)))
        op.open.clear()
        question = requested(1, category="service", campaign_id=None, text="Maison Lune : répondez OUI.")
        await publish(surroundings, DISPATCH_REQUESTS, [question])
        await eventually(lambda: _holds(op.references == [question.message_id]))
        await d.publish_states(opted_out(1, version=2))

        async def enforced(*, wanted: bool) -> bool:
            assert [e["enforced_at"] is not None for e in await d.enforcements()] == [wanted]
            return True

        await eventually(lambda: enforced(wanted=False))
        op.open.set()
        await eventually(lambda: enforced(wanted=True))
        late = requested(1, category="service", campaign_id=None, requested_at=asked.occurred_at)
        await publish(surroundings, DISPATCH_REQUESTS, [late])
        await eventually(d.becomes(late.message_id, "denied"))
        assert op.references == [question.message_id]


@pytest.mark.any_broker
async def test_an_enforcement_nobody_closed_is_closed_by_the_sweep(surroundings: Surroundings) -> None:
    """Two hand-offs of one person that settle at the same instant may each see the other still in flight."""
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        async with surroundings.sql("dispatch") as sql:
            await sql.execute(
                "INSERT INTO enforcement (subject_id, partition, consent_version, source, received_at, applied_at)"
                " VALUES ($1, 0, 2, 'mo', $2, $2)",
                subject(1),
                now() - timedelta(minutes=1),
            )

        async def closed() -> bool:
            return (await d.enforcements())[0]["enforced_at"] is not None

        await eventually(closed)


async def test_a_request_in_a_foreign_partition_is_not_decided_on_another_partitions_knowledge(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await publish(surroundings, CAMPAIGN_REQUESTS, [requested(1)], partition_shift=1)
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "accepted"))

        async def buried() -> bool:
            async with surroundings.sql("dispatch") as sql:
                return bool(await sql.fetchval("SELECT sum(next_offset) = 2 FROM consumer_offset WHERE topic = $1",
                                               CAMPAIGN_REQUESTS.name))  # fmt: skip

        await eventually(buried)
        assert op.references == [wanted.message_id]


@pytest.mark.any_broker
async def test_a_lapsed_permit_is_decided_again_before_the_submit(surroundings: Surroundings) -> None:
    """Two batches, one slot: the second waits while the operator dawdles, its permit lapses, and a STOP arrives. The
    operator dawdles for as long as that takes; a permit outlasts the time a busy machine takes to begin a submit."""
    more: dict[str, Any] = {"permit_ttl_s": 2.0, "submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1}
    async with operator() as op, dispatch(surroundings, op, gateway_submits=1, **more) as d:
        await d.publish_states(opted_in(1), opted_in(2))
        await eventually(
            lambda: known(surroundings, 2)
        )  # else the first is deferred, and woken by who wakes the second
        op.open.clear()
        await d.request(first := requested(1))
        await eventually(lambda: _holds(bool(op.messages)))
        sent = await d.client.post(
            "/v1/messages",
            json=_offer(2),
        )
        waiting = sent.json()["message_id"]
        await eventually(d.becomes(waiting, "sending"))
        await d.publish_states(opted_out(2, version=2))
        await eventually(lambda: _count(d.enforcements(), 1))
        assert "opted_out" in (await eventually(d.becomes(waiting, "denied")))["reasons"]
        op.open.set()
        await eventually(d.becomes(first.message_id, "accepted"))
        assert op.references == [first.message_id]


async def test_no_answer_is_unknown_never_sent_again_and_a_receipt_resolves_it(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, gateway_echoes_reference=False) as d:
        await d.publish_states(opted_in(1))
        op.answer = "drop"
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "unknown"))
        op.answer = "accept"
        await d.request(wanted)
        await d.request(other := requested(1))
        await eventually(d.becomes(other.message_id, "accepted"))
        assert op.references == [wanted.message_id, other.message_id]
        for state in ("delivered", "sent", "delivered", "failed"):
            await publish(surroundings, INBOUND_RECEIPTS, [receipt(state, reference=wanted.message_id)])
        found = await eventually(d.becomes(wanted.message_id, "accepted"))
        await publish(surroundings, INBOUND_RECEIPTS, [receipt("delivered", gateway_id=f"op-{other.message_id}")])

        async def delivered() -> bool:
            return bool((await d.message(other.message_id))["receipt"] == "delivered")

        await eventually(delivered)
        assert found["receipt"] == "delivered"


@pytest.mark.any_broker
async def test_a_receipt_before_the_submits_answer_finds_its_message(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, gateway_echoes_reference=False) as d:
        await d.publish_states(opted_in(1))
        op.open.clear()
        await d.request(wanted := requested(1))
        await eventually(lambda: _holds(bool(op.messages)))
        await publish(surroundings, INBOUND_RECEIPTS, [receipt("delivered", gateway_id=f"op-{wanted.message_id}")])

        async def waiting() -> bool:
            async with surroundings.sql("dispatch") as sql:
                return bool(await sql.fetchval("SELECT count(*) FROM early_receipt"))

        await eventually(waiting)
        op.open.set()

        async def delivered() -> bool:
            return bool((await d.message(wanted.message_id))["receipt"] == "delivered")

        await eventually(delivered)
        assert (await d.message(wanted.message_id))["status"] == "accepted"


@pytest.mark.any_broker
async def test_an_operator_that_is_down_or_busy_loses_nothing(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        op.answer = "throttle"
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "deferred", "gateway_throttled"))
        op.answer = "accept"
        await eventually(d.becomes(wanted.message_id, "accepted"))
        op.answer = "reject"
        await d.request(refused := requested(1))
        assert (await eventually(d.becomes(refused.message_id, "rejected")))["code"] == "unknown_subscriber"


@pytest.mark.any_broker
async def test_one_bad_message_does_not_take_its_batch_down(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(*(opted_in(n) for n in range(1, 9)))
        op.dislikes = "interdit"
        wanted = [requested(n) for n in range(1, 8)]
        bad = requested(8, text="Mot interdit. STOP au 36111")
        await d.request(*wanted[:4], bad, *wanted[4:])
        for message in wanted:
            await eventually(d.becomes(message.message_id, "accepted"))
        assert (await eventually(d.becomes(bad.message_id, "rejected")))["code"] == "http_400"
        assert sorted(op.references) == sorted(m.message_id for m in wanted)


@pytest.mark.any_broker
async def test_an_operator_that_does_not_know_us_rejects_nobody(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        op.answer = "unknown"
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "deferred", "gateway_needs_somebody"))
        op.answer = "accept"
        await eventually(d.becomes(wanted.message_id, "accepted"), within_s=PATIENT_S)  # each cool-down is longer


@pytest.mark.any_broker
async def test_what_waits_for_a_slow_operator_is_not_taken_for_a_crash_and_a_code_overtakes_it(
    surroundings: Surroundings,
) -> None:
    """One slot, one message a submit, 1.5 s each: the last waits for longer than a live hand-off may last (2.7 s), and
    is renewed meanwhile; a transactional message does not queue behind the five. A submit itself may take its time."""
    more: dict[str, Any] = {"gateway_batch": 1, "permit_ttl_s": 0.2, "settle_margin_s": 2.5 - PATIENT_S}
    async with operator() as op, dispatch(surroundings, op, gateway_submits=1, **more) as d:
        await d.publish_states(*(opted_in(n) for n in range(1, 6)))
        op.latency_s = 1.5
        wanted = [requested(n) for n in range(1, 6)]
        await d.request(*wanted)
        await eventually(lambda: _holds(bool(op.messages)))
        code = (await d.client.post("/v1/messages", json=_otp(7))).json()["message_id"]
        await eventually(d.becomes(code, "accepted"))
        for message in wanted:
            await eventually(d.becomes(message.message_id, "accepted"))
        assert sorted(op.references) == sorted([code, *(m.message_id for m in wanted)])
        assert op.references.index(code) <= 3


@pytest.mark.any_broker
async def test_a_code_does_not_wait_for_the_answer_to_another_and_a_planned_stop_waits_for_both(
    surroundings: Surroundings,
) -> None:
    """To one person, so in one partition. The operator answers once nobody looks for codes any more: then there is
    nothing left of the stop but to wait."""
    more: dict[str, Any] = {"submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1}
    async with operator() as op, asyncio.TaskGroup() as beside:
        op.open.clear()

        async def answer_once_the_stop_waits() -> None:
            await eventually(lambda: _look_for_codes(surroundings, 0))
            op.open.set()

        async with dispatch(surroundings, op, **more) as d:
            codes = []
            for n in range(1, 4):
                codes.append((await d.client.post("/v1/messages", json=_otp(7))).json()["message_id"])
                await eventually(partial(_waits_for_answers, op, n))
            await eventually(lambda: _look_for_codes(surroundings, 1))
            beside.create_task(answer_once_the_stop_waits())
        assert await _statuses(surroundings, {"accepted": 3})
        assert op.references == codes


@pytest.mark.any_broker
async def test_a_code_over_http_is_told_of_and_not_looked_for(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "LOOK_EVERY_S", 3600.0)
    async with operator() as op, dispatch(surroundings, op) as d:
        await eventually(lambda: _look_for_codes(surroundings, 1))
        for n in range(1, 4):  # the first look may have found the first of them
            await d.client.post("/v1/messages", json=_otp(7))
            await eventually(partial(_statuses, surroundings, {"accepted": n}))


@pytest.mark.any_broker
async def test_codes_that_come_while_each_slot_is_taken_leave_together(surroundings: Surroundings) -> None:
    async with (
        operator() as op,
        dispatch(surroundings, op, gateway_submits=2, submit_timeout_s=30.0, drain_s=40.0) as d,
    ):
        op.open.clear()
        for n in range(1, 3):
            await d.client.post("/v1/messages", json=_otp(7))
            await eventually(partial(_waits_for_answers, op, n))
        for _ in range(3):
            await d.client.post("/v1/messages", json=_otp(7))
        op.open.set()
        await eventually(lambda: _statuses(surroundings, {"accepted": 5}))
        assert len({message["at"] for message in op.messages}) == 3


async def test_a_code_from_kafka_does_not_wait_for_the_answer_to_another_and_a_planned_stop_waits_for_both(
    surroundings: Surroundings,
) -> None:
    """Of one partition, each read once the one before is at the operator. Then each slot is taken: what comes waits in
    the ledger, and leaves together."""
    more: dict[str, Any] = {"submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1, "gateway_submits": 2}
    async with operator() as op, asyncio.TaskGroup() as beside:
        op.open.clear()

        async def answer_once_the_stop_waits() -> None:
            await eventually(lambda: _look_for_codes(surroundings, 0))
            op.open.set()

        async with dispatch(surroundings, op, **more):
            await _ask(surroundings, _answer(7))
            await eventually(partial(_waits_for_answers, op, 1))
            await _ask(surroundings, _answer(7))
            await eventually(partial(_waits_for_answers, op, 2))
            await _ask(surroundings, *(together := [_answer(7) for _ in range(3)]))
            await eventually(lambda: _statuses(surroundings, {"sending": 2, "pending": 3}))
            op.open.set()
            await eventually(lambda: _statuses(surroundings, {"accepted": 5}))
            assert len({m["at"] for m in op.messages if m["reference"] in {t.message_id for t in together}}) == 1
            op.open.clear()
            await _ask(surroundings, _answer(7))
            await eventually(partial(_waits_for_answers, op, 1))
            await eventually(lambda: _look_for_codes(surroundings, 1))
            beside.create_task(answer_once_the_stop_waits())
        assert await _statuses(surroundings, {"accepted": 6})
        assert len(op.references) == len(set(op.references))


def _answer(n: int, **more: Any) -> MessageRequested:
    fields = {"category": "service", "purpose": None, "campaign_id": None, "text": "Maison Lune : c'est noté."}
    return requested(n, **{**fields, **more})


async def _ask(surroundings: Surroundings, *wanted: MessageRequested) -> None:
    await publish(surroundings, DISPATCH_REQUESTS, wanted)


async def test_pause_resume_and_cancel_are_honoured_at_the_gate(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1), opted_in(2))
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        await d.request(wanted := requested(1))
        found = await eventually(d.becomes(wanted.message_id, "deferred", "campaign_paused"))
        assert found["reasons"] == ["campaign_paused"]
        await d.control("running", 3)
        await eventually(d.becomes(wanted.message_id, "accepted"))
        await d.control("paused", 4)
        await eventually(lambda: control_is(surroundings, "paused"))
        await d.request(late := requested(2))
        await eventually(d.becomes(late.message_id, "deferred"))
        await d.control("cancelled", 5)
        assert (await eventually(d.becomes(late.message_id, "denied")))["reasons"] == ["campaign_cancelled"]
        assert op.references == [wanted.message_id]


@pytest.mark.any_broker
async def test_a_hold_delays_marketing_until_it_is_lifted_and_never_a_transactional_message(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1), opted_in(1, version=2, held_since=now()), opted_in(2))
        await d.request(held := requested(1), other := requested(2))
        found = await eventually(d.becomes(held.message_id, "deferred", "under_review"))
        assert (found["reasons"], found["consent_version"]) == (["under_review"], 2)
        assert timedelta(minutes=4) < datetime.fromisoformat(found["due_at"]) - now() < timedelta(minutes=6)
        sent = await d.client.post("/v1/messages", json=_otp(1))
        await eventually(d.becomes(sent.json()["message_id"], "accepted"))
        await eventually(d.becomes(other.message_id, "accepted"))
        assert held.message_id not in op.references
        await d.publish_states(opted_in(1, version=3))
        await eventually(d.becomes(held.message_id, "accepted"))


@pytest.mark.any_broker
async def test_what_a_stop_found_in_review_holds_back_is_denied_at_once(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1, held_since=now()))
        await d.request(held := requested(1))
        await eventually(d.becomes(held.message_id, "deferred", "under_review"))
        await d.publish_states(opted_out(1, version=2))
        assert "opted_out" in (await eventually(d.becomes(held.message_id, "denied")))["reasons"]
        assert op.messages == []


@pytest.mark.any_broker
async def test_a_number_the_provider_will_not_deliver_to_is_denied_until_somebody_removes_the_block(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1), opted_in(2))
        await d.request(first := requested(1))
        await eventually(d.becomes(first.message_id, "accepted"))
        await publish(surroundings, INBOUND_RECEIPTS, [receipt("failed", reference=first.message_id, blocked=True)])

        async def blocks() -> list[dict[str, Any]]:
            answer = await d.client.get("/v1/provider-blocks")
            assert answer.status_code == 200, answer.text
            items: list[dict[str, Any]] = answer.json()["items"]
            return items

        [block] = await eventually(blocks)
        assert (block["gateway"], block["subject_id"]) == ("simulator", subject(1))
        await d.request(denied := requested(1), other := requested(2))
        otp = (await d.client.post("/v1/messages", json=_otp(1))).json()["message_id"]
        for identity in (denied.message_id, otp):
            assert (await eventually(d.becomes(identity, "denied")))["reasons"] == ["provider_block"]
        await eventually(d.becomes(other.message_id, "accepted"))
        assert await d.enforcements() == [], "nobody opted out"

        path = f"/v1/provider-blocks/simulator/{subject(1)}"
        for claims in ({"scope": "message:read"}, {"senders": ["maison-lune"]}):
            assert (await d.client.delete(path, headers=bearer(**claims))).status_code == 403
        assert (await d.client.delete(path)).status_code == 204
        assert (await d.client.delete(path)).status_code == 404
        await publish(surroundings, INBOUND_RECEIPTS, [receipt("failed", reference=first.message_id, blocked=True)])
        await d.request(again := requested(1))
        await eventually(d.becomes(again.message_id, "accepted"))
        assert await blocks() == [], "a receipt that comes twice closes it once"


@pytest.mark.any_broker
async def test_a_block_that_came_before_the_submits_answer_is_kept(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, gateway_echoes_reference=False) as d:
        await d.publish_states(opted_in(1))
        op.open.clear()
        await d.request(wanted := requested(1))
        await eventually(lambda: _holds(bool(op.messages)))
        early = receipt("failed", gateway_id=f"op-{wanted.message_id}", blocked=True)
        await publish(surroundings, INBOUND_RECEIPTS, [early])

        async def row(query: str) -> bool:
            async with surroundings.sql("dispatch") as sql:
                return bool(await sql.fetchval(query))

        await eventually(lambda: row("SELECT count(*) FROM early_receipt"))
        op.open.set()
        await eventually(lambda: row("SELECT count(*) FROM provider_block"))


async def test_a_receipt_that_tells_of_an_opt_out_is_published_with_whom_and_when(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, DISPATCH_MESSAGES) as read:
        sent = (await d.client.post("/v1/messages", json=_otp(1))).json()["message_id"]
        await eventually(d.becomes(sent, "accepted"))
        told = receipt("opted_out", reference=sent)
        await publish(surroundings, INBOUND_RECEIPTS, [told])

        async def published() -> MessageChanged:
            changes = changes_in(await read())
            assert all(change.number is None for change in changes if change.receipt != "opted_out")
            found = [change for change in changes if change.receipt == "opted_out"]
            assert len(found) == 1
            return found[0]

        found = await eventually(published)
        assert (found.subject_id, found.sender_id, found.receipt_at) == (
            subject(1),
            "maison-lune-compte",
            told.occurred_at,
        )
        assert found.number
        assert field_keys.unseal(found.number, f"number:{subject(1)}") == number(1)


async def test_a_message_that_left_is_published_with_when_and_what_it_stood_on(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d, reading(surroundings, DISPATCH_MESSAGES) as read:
        await d.publish_states(opted_in(1))
        before = now()
        await d.request(left := requested(1), kept := requested(2))

        async def published() -> dict[str, MessageChanged]:
            changes = {e.message_id: e for e in changes_in(await read())}
            assert changes.keys() == {left.message_id, kept.message_id}
            assert {change.status for change in changes.values()} == {"accepted", "denied"}
            return changes

        found = await eventually(published)
        accepted, denied = found[left.message_id], found[kept.message_id]
        assert (accepted.purpose, accepted.consent_version) == ("promotions", 1)
        assert accepted.decided_at
        assert accepted.handed_off_at
        assert before < accepted.decided_at <= accepted.handed_off_at < now()
        assert denied.handed_off_at is None


@pytest.mark.any_broker
async def test_what_a_crash_left_sending_becomes_unknown_and_is_not_sent_again(surroundings: Surroundings) -> None:
    async with operator() as op:
        left = await _leave_sending(surroundings)
        async with dispatch(surroundings, op) as d:
            await eventually(d.becomes(str(left), "unknown"))
            await publish(surroundings, INBOUND_RECEIPTS, [receipt("sent", reference=str(left))])
            await eventually(d.becomes(str(left), "accepted"))
            assert op.messages == []


@pytest.mark.any_broker
async def test_an_idempotent_gateway_gets_what_a_crash_left_once_more_if_it_may_still_go(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op, gateway_idempotent=True) as d:
        await d.publish_states(opted_in(1), opted_in(2))
        await d.request(known := requested(1))
        await eventually(d.becomes(known.message_id, "accepted"))
        left = await _leave_sending(surroundings, 1)
        await eventually(d.becomes(str(left), "accepted"))
        await d.publish_states(opted_out(1, version=2))
        await eventually(lambda: _count(d.enforcements(), 1))
        stopped = await _leave_sending(surroundings, 1)
        await eventually(d.becomes(str(stopped), "unknown"))
        by_another = await _leave_sending(surroundings, 2, gateway="of-yesterday")
        await eventually(d.becomes(str(by_another), "unknown"))
        assert op.references == [known.message_id, str(left)]


@pytest.mark.any_broker
async def test_a_receipt_that_came_before_the_crash_makes_it_accepted(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        left = await _leave_sending(surroundings, 1, receipt="delivered")
        found = await eventually(d.becomes(str(left), "accepted"))
        assert found["receipt"] == "delivered"
        assert op.messages == []


async def _leave_sending(
    surroundings: Surroundings, n: int = 1, receipt: str | None = None, gateway: str = "simulator"
) -> UUID:
    """A row as the mark leaves it that its submit begins, by a process that died an hour ago."""
    wanted = requested(n, requested_at=now() - timedelta(hours=1))
    partition = partition_of(wanted.subject_id, 3)
    async with surroundings.sql("dispatch") as sql:
        await sql.execute(
            "INSERT INTO message (message_id, campaign_id, sender_id, purpose, category, subject_id, partition, number,"
            " text, requested_at, send_before, status, version, reasons, policy_version, decided_at, receipt, gateway,"
            " charged) VALUES ($1, 'c1', $2, 'promotions', 'marketing', $3, $8, $4, $5, $6, $7, 'sending', 1, '{}',"
            " 'x', $6, $9, $10, false)",
            UUID(wanted.message_id), wanted.sender_id, wanted.subject_id, wanted.number, wanted.text,
            wanted.requested_at, wanted.send_before, partition, receipt, gateway,
        )  # fmt: skip
        await sql.execute(
            "INSERT INTO sending (partition, since, decided_at, message_ids, people)"
            " VALUES ($1, $2, $2, $3, ARRAY[hashtext($4)])",
            partition, wanted.requested_at, [wanted.message_id], wanted.subject_id,
        )  # fmt: skip
        await sql.execute(
            "INSERT INTO begun (partition, decided_at, message_ids) VALUES ($1, $2, $3)",
            partition, wanted.requested_at, [wanted.message_id],
        )  # fmt: skip
    return UUID(wanted.message_id)


@pytest.mark.any_broker
async def test_a_receipt_of_nothing_handed_off_or_of_another_gateway_changes_nothing(
    surroundings: Surroundings,
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        await d.request(denied := requested(2), sent := requested(1))
        await eventually(d.becomes(denied.message_id, "denied"))
        await eventually(d.becomes(sent.message_id, "accepted"))
        await publish(
            surroundings,
            INBOUND_RECEIPTS,
            [
                receipt("delivered", reference=denied.message_id),
                receipt("failed", reference=sent.message_id, provider="another"),
                receipt("sent", reference=sent.message_id, gateway_id="op-other"),
            ],
        )

        async def told() -> dict[str, Any]:
            found = await d.message(sent.message_id)
            assert found["receipt"] == "sent"
            return found

        assert (await eventually(told))["gateway_message_id"] == f"op-{sent.message_id}"
        untouched = await d.message(denied.message_id)
        assert (untouched["status"], untouched["receipt"], untouched["gateway"]) == ("denied", None, None)


async def test_a_planned_stop_hands_back_what_has_not_left(surroundings: Surroundings) -> None:
    """One slot, and an operator that holds its answer: at the stop one message is in flight, others wait for the slot,
    others in Kafka. The one is answered once the service is stopping; the next run sends the rest."""
    more: dict[str, Any] = {"gateway_batch": 1, "gateway_submits": 1}
    people = range(1, 13)
    await publish(surroundings, STATES, [opted_in(n) for n in people])
    wanted = [requested(n) for n in people]
    await publish(surroundings, CAMPAIGN_REQUESTS, wanted)  # all there before it starts: taken in one batch a partition
    async with operator() as op, asyncio.TaskGroup() as beside:
        op.open.clear()

        async def answer_once_it_is_stopping() -> None:
            await eventually(lambda: _look_for_codes(surroundings, 0))
            op.open.set()

        async with dispatch(surroundings, op, **more) as d:
            await eventually(lambda: _sending(surroundings, 2))
            await eventually(lambda: _holds(bool(op.messages)))
            await eventually(lambda: _look_for_codes(surroundings, 1))
            beside.create_task(answer_once_it_is_stopping())
        async with surroundings.sql("dispatch") as sql:
            left = await sql.fetch("SELECT status, reasons FROM message ORDER BY status")
        assert [row["status"] for row in left] == ["accepted", *["deferred"] * (len(left) - 1)]
        reasons = {reason for row in left for reason in row["reasons"]}
        # the control, or a watermark, may be read after some requests
        assert reasons - {"campaign_unknown", "knowledge_behind"} == {"service_stopping"}
        async with dispatch(surroundings, op, **more) as d:
            for message in wanted:
                await eventually(d.becomes(message.message_id, "accepted"))
        assert sorted(op.references) == sorted(m.message_id for m in wanted)


@pytest.mark.any_broker
async def test_a_request_whose_number_is_not_its_subjects_is_denied(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        forged = requested(1, number=field_keys.seal(number(2), f"number:{subject(1)}"))
        moved = requested(1, number=field_keys.seal(number(1), f"number:{subject(2)}"))
        await d.request(forged, moved)
        assert (await eventually(d.becomes(forged.message_id, "denied")))["reasons"][0] == "subject_mismatch"
        assert "request_unreadable" in (await eventually(d.becomes(moved.message_id, "denied")))["reasons"]
        assert op.messages == []


@pytest.mark.any_broker
async def test_marketing_that_does_not_tell_how_to_stop_is_denied(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        before = now() - timedelta(minutes=1)  # the sender's registry has had its time to arrive
        await d.request(told := requested(1))
        await eventually(d.becomes(told.message_id, "accepted"))
        await d.request(silent := requested(1, text="-20 % samedi", requested_at=before))
        assert (await eventually(d.becomes(silent.message_id, "denied")))["reasons"] == ["stop_mention_missing"]
        assert op.references == [told.message_id]


async def test_a_poisoned_request_goes_to_the_dead_letters_and_the_rest_goes_on(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        bad = ("ce_type", b"campaign.message_requested.v1")
        await publish_raw(surroundings, CAMPAIGN_REQUESTS, subject(1).encode(), b'{"message_id": 7}', [bad])
        await publish_raw(surroundings, CAMPAIGN_REQUESTS, subject(1).encode(), b"{}", [("ce_type", b"unheard.of.v9")])
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "accepted"))


@pytest.mark.any_broker
async def test_the_idempotency_key_makes_one_message_of_many_calls(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        key = {"Idempotency-Key": "order-4821"}
        answers = await asyncio.gather(*(d.client.post("/v1/messages", json=_otp(1), headers=key) for _ in range(5)))
        assert {a.status_code for a in answers} == {202}
        [identity] = {a.json()["message_id"] for a in answers}
        await eventually(d.becomes(identity, "accepted"))
        later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
        for change in ({"text": "autre"}, {"send_before": later}):
            other = await d.client.post("/v1/messages", json={**_otp(1), **change}, headers=key)
            assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
        assert op.references == [identity]


def _otp(n: int) -> dict[str, Any]:
    national = "0" + number(n)[3:]
    return {"sender_id": CODES_SENDER, "to": national, "text": "Votre code : 4821", "category": "transactional"}


def _offer(n: int, **more: Any) -> dict[str, Any]:
    offer = {"category": "marketing", "purpose": "promotions", "text": "Offre. STOP au 36111"}
    return {**_otp(n), "sender_id": SENDER, **offer, **more}


@pytest.mark.any_broker
async def test_a_template_arrives_is_sent_from_and_ends(surroundings: Surroundings) -> None:
    """To a person who had stopped another sender of the controller, which a report counts."""
    body = {**_otp(1), "text": None, "template_id": "tpl-code", "values": {"code": "4821"}}

    async def refused(reason: str, **more: Any) -> bool:
        answer = await d.client.post("/v1/messages", json={**body, **more})
        return answer.status_code == 409 and answer.json()["reasons"][0]["reason"] == reason

    async def report() -> list[Any]:
        items: list[Any] = (await d.client.get("/v1/reports/to-stopped")).json()["items"]
        return items

    async with operator() as op, dispatch(surroundings, op) as d:
        group = {"controller_id": "lune", "version": 2}
        await publish(surroundings, SENDERS, [sender_changed(**group), codes_sender_changed(**group)])
        await eventually(lambda: _count(_rows(surroundings, "SELECT FROM sender WHERE controller = 'lune'"), 2))
        await d.publish_states(opted_out(1))
        await publish(surroundings, TEMPLATES, [template_changed(), template_changed(number=2)])
        await eventually(lambda: known(surroundings, 1))
        await eventually(lambda: _count(_rows(surroundings, "SELECT FROM template"), 2))
        sent = await d.client.post("/v1/messages", json=body)
        await eventually(d.becomes(sent.json()["message_id"], "accepted"))
        assert [m["text"] for m in op.messages] == ["Maison Lune : votre code est 4821."]
        told = {"sender_id": CODES_SENDER, "category": "transactional", "template": "tpl-code@2"}
        assert await report() == [{**told, "messages": 1, "to_stopped": 1}]
        metrics = (await d.client.get("/metrics")).text
        assert (
            'sms_dispatch_requested_total{lane="transactional",sender="maison-lune-compte",state="stopped"}' in metrics
        )
        await publish(surroundings, TEMPLATES, [template_changed(number=2, state="retired", version=2)])
        await eventually(lambda: _count(_rows(surroundings, "SELECT FROM template WHERE state = 'retired'"), 1))
        sent = await d.client.post("/v1/messages", json=body)
        assert (await d.message(sent.json()["message_id"]))["template"] == "tpl-code@1"
        headers = [("ce_type", b"campaign.template_changed.v1")]
        await publish_raw(surroundings, TEMPLATES, b"tpl-code@1", b"{}", headers)  # perhaps the end of this one
        await eventually(lambda: refused("template_unreadable", version=1))
        assert await refused("template_retired")


@pytest.mark.any_broker
async def test_a_notice_waits_for_the_day_and_an_answer_does_not(surroundings: Surroundings, tmp_path: Path) -> None:
    hour = 20 if datetime.now(ZoneInfo("Europe/Paris")).hour in (11, 12) else 12  # half an hour a day, and not now
    rule = {"layer": "house", "source": "a test", "opens": f"{hour}:00", "closes": f"{hour}:30"}
    rules = [{"id": name, **rule} for name in ("ours", "ours.courtesy")]
    house = tmp_path / "house.json"
    house.write_text(json.dumps({"version": "h-1", "about": "tests", "rules": rules[:1], "courtesy": rules[1:]}))
    async with operator() as op, dispatch(surroundings, op, hours="france", house_rules=house) as d:
        notice = await d.client.post("/v1/messages", json={**_otp(1), "category": "service", "text": "Colis demain."})
        waits = await eventually(d.becomes(notice.json()["message_id"], "deferred", "quiet_hours"))
        assert datetime.fromisoformat(waits["due_at"]).astimezone(ZoneInfo("Europe/Paris")).hour == hour
        answer = requested(2, campaign_id=None, purpose=None, category="service", text="Bien noté.")
        await publish(surroundings, DISPATCH_REQUESTS, [answer])
        await eventually(d.becomes(answer.message_id, "accepted"))
        # a template that is retired while its message waits sends nothing
        of_service = partial(template_changed, category="service")
        await publish(surroundings, TEMPLATES, [of_service()])
        await eventually(lambda: _count(_rows(surroundings, "SELECT FROM template"), 1))
        body = {**_otp(1), "category": "service", "text": None, "template_id": "tpl-code", "values": {"code": "6A1"}}
        late = (await d.client.post("/v1/messages", json=body)).json()["message_id"]
        await eventually(d.becomes(late, "deferred", "quiet_hours"))
        await publish(surroundings, TEMPLATES, [of_service(state="retired", version=2)])
        await eventually(lambda: _count(_rows(surroundings, "SELECT FROM template WHERE state = 'retired'"), 1))
        await _rows(surroundings, "UPDATE message SET due_at = now() WHERE status = 'deferred'")
        assert (await eventually(d.becomes(late, "denied")))["reasons"] == ["template_retired"]
        assert op.references == [answer.message_id]


async def _rows(surroundings: Surroundings, query: str) -> list[Any]:
    async with surroundings.sql("dispatch") as sql:
        found: list[Any] = await sql.fetch(query)
    return found


JSON = {"Content-Type": "application/json"}
BAD_INPUT: list[tuple[dict[str, Any], int, str, str | None]] = [
    (_otp(1) | {"to": "01 23 45 67 89"}, 422, "to", "not_mobile"),
    (_otp(1) | {"to": "bonjour"}, 422, "to", None),
    (_otp(1) | {"text": ""}, 422, "text", None),
    (_otp(1) | {"category": "advertising"}, 422, "category", None),
    (_otp(1) | {"purpose": "promotions"}, 422, "body", "value_error"),
    (_otp(1) | {"template_id": "tpl-code"}, 422, "body", "value_error"),
    (_otp(1) | {"values": {"code": "1"}}, 422, "body", "value_error"),
    (_otp(1) | {"sender_id": SENDER, "category": "marketing"}, 422, "purpose", "missing"),
    (_offer(1) | {"text": "Votre code : 4821"}, 422, "text", "stop_mention_missing"),
    (_offer(1) | {"purpose": "other"}, 422, "purpose", "unknown_purpose"),
    (_otp(1) | {"sender_id": "nobody"}, 404, "sender_id", "unknown_sender"),
    (_otp(1) | {"surprise": 1}, 422, "surprise", None),
    (_otp(1) | {"send_before": "2020-01-01T00:00:00Z"}, 422, "send_before", "in_the_past"),
    ({"messages": []}, 422, "messages", "too_short"),
]


@pytest.mark.any_broker
@pytest.mark.usefixtures("strangers")
async def test_bad_input_gets_a_clear_answer(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        for body, status, field, reason in BAD_INPUT:
            answer = await d.client.post("/v1/messages", json=body)
            assert answer.status_code == status, (body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            [found] = answer.json()["reasons"]
            assert found["field"] == field
            assert reason in (None, found["reason"])
            assert number(1)[3:] not in answer.text
        assert (await d.client.post("/v1/messages", content=b"{", headers=JSON)).status_code == 400
        assert (await d.client.get("/v1/messages/not-a-uuid")).status_code == 422
        for path in ("enforcements", "provider-blocks"):
            assert (await d.client.get(f"/v1/{path}", params={"cursor": 7})).status_code == 422
        unheard = "01a2106a-b86f-824b-bc66-626b85015e26"
        assert (await d.client.get(f"/v1/messages/{unheard}")).status_code == 404


@pytest.mark.any_broker
async def test_nobody_uninvited(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op, watermarks=False) as d:
        assert (await d.client.post("/v1/messages", json=_otp(1), headers={"Authorization": ""})).status_code == 401
        for claims, status in (
            ({"scope": "message:read"}, 403),
            ({"scope": "message:send:marketing message:send:service message:send:free_text"}, 403),
            ({"senders": ["other"]}, 403),
            ({"exp": 1}, 401),
            ({"aud": "someone-else"}, 401),
        ):
            answer = await d.client.post("/v1/messages", json=_otp(1), headers=bearer(**claims))
            assert answer.status_code == status, (claims, answer.text)
        assert op.messages == []


async def _holds(value: bool) -> bool:
    return value


async def _count(found: Awaitable[list[Any]], n: int) -> bool:
    return len(await found) >= n


async def _sending(surroundings: Surroundings, at_least: int) -> bool:
    async with surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval("SELECT count(*) FROM message WHERE status = 'sending'") >= at_least)


async def _statuses(surroundings: Surroundings, wanted: dict[str, int]) -> bool:
    async with surroundings.sql("dispatch") as sql:
        found = await sql.fetch("SELECT status, count(*) AS many FROM message GROUP BY status")
    assert {row["status"]: row["many"] for row in found} == wanted
    return True


async def _waits_for_answers(op: Operator, many: int) -> bool:
    return op.at_once == many


async def _look_for_codes(surroundings: Surroundings, processes: int) -> bool:
    """The timer hears of codes as long as it runs, and not a moment longer."""
    async with surroundings.sql("dispatch") as sql:
        many: int = await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1",
            f"LISTEN%{waking_store.CODES_DUE}%",
        )
    return many == processes


async def control_is(surroundings: Surroundings, control: str) -> bool:
    async with surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval("SELECT control FROM campaign") == control)


async def test_no_more_is_taken_than_leaves_soon(surroundings: Surroundings) -> None:
    """What is taken while the operator dawdles would only be decided again and again: it stays in the log."""
    more: dict[str, Any] = {"permit_ttl_s": 0.3, "submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1}
    async with operator() as op, dispatch(surroundings, op, gateway_submits=1, gateway_batch=1, **more) as d:
        people = {partition_of(subject(n), surroundings.partitions): n for n in range(1, 40)}
        *some, last = people.values()  # each in another partition
        await d.publish_states(*map(opted_in, (*some, last)))
        op.open.clear()
        many = [requested(n) for n in some for _ in range(TURNS_AHEAD // len(some))]
        await d.request(*many)
        await eventually(lambda: _sending(surroundings, len(many)))
        await d.request(late := requested(last))
        waiting = next(m.message_id for m in many if m.message_id not in op.references)
        decided: set[str] = set()

        async def again_and_again() -> bool:
            decided.add((await d.message(waiting))["decided_at"])
            assert len(decided) > 3
            return True

        await eventually(again_and_again)
        assert (await d.client.get(f"/v1/messages/{late.message_id}")).status_code == 404
        op.open.set()
        await eventually(d.becomes(late.message_id, "accepted"))
