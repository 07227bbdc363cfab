"""Two gateways: which one a message takes, and what is never given to the other. And an operator that is on Kafka."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import ProducerFenced

from common.contracts import DISPATCH_MESSAGES, DISPATCH_REQUESTS, INBOUND_RECEIPTS, operator_submits
from common.contracts.dispatch import MessageChanged
from common.contracts.operator import MessageSubmitted
from common.db.timer import uptime_s
from common.kafka import broker as kafka
from common.settings import ServiceSettings
from dispatch.gateways import Late, Result, Unanswered, Unreachable
from dispatch.gateways.by_kafka.gateway import KafkaGateway
from dispatch.gateways.circuit_breaker import Health, counted, failed, may_go
from dispatch.sending.receipts import OF_GATEWAY
from stack.broker import Broker
from tests.service.dispatch.test_dispatch import PATIENT_S, _otp, dispatch, known
from tests.support.builders import opted_in, receipt, requested
from tests.support.eventually import eventually
from tests.support.operators.accounts import submit
from tests.support.operators.faults import fault_server
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.publish import publish
from tests.support.reading import changes_in, reading, reading_at
from tests.support.running import Surroundings

CHEAP, DEAR = "simulator", "simulator.dear"


@pytest.mark.any_broker
async def test_what_the_first_gateway_never_had_goes_by_the_second_and_what_it_may_have_had_does_not(
    surroundings: Surroundings,
) -> None:
    async with operator() as cheap, operator() as dear:
        second: dict[str, Any] = {
            "provider": "simulator",
            "account": "dear",
            "url": dear.url,
            "secret": TOKEN,
            "echoes_reference": False,
            "routes": [{"territories": ["FR"], "price": "0.08"}],
        }
        async with dispatch(surroundings, cheap, gateways=[second]) as d:
            await d.publish_states(*(opted_in(n) for n in range(1, 5)))
            await d.request(usual := requested(1))
            assert (await eventually(d.becomes(usual.message_id, "accepted")))["gateway"] == CHEAP

            cheap.answer = "drop"
            await d.request(lost := requested(2))
            assert (await eventually(d.becomes(lost.message_id, "unknown")))["gateway"] == CHEAP

            cheap.answer = "unknown"  # our token: nothing is taken until somebody acts
            await d.request(moved := requested(3))
            found = await eventually(d.becomes(moved.message_id, "accepted"), within_s=PATIENT_S)
            assert found["gateway"] == DEAR
            told = receipt("delivered", gateway_id=f"op-{moved.message_id}", account="dear")
            foreign = receipt("failed", gateway_id=f"op-{moved.message_id}")
            before = {name: OF_GATEWAY.labels(name)._value.get() for name in (CHEAP, DEAR)}
            await publish(surroundings, INBOUND_RECEIPTS, [foreign, told])

            async def delivered() -> bool:
                return bool((await d.message(moved.message_id))["receipt"] == "delivered")

            await eventually(delivered)
            assert cheap.references == [usual.message_id, lost.message_id]
            assert dear.references == [moved.message_id]
            assert {name: OF_GATEWAY.labels(name)._value.get() - before[name] for name in before} == {CHEAP: 1, DEAR: 1}


@pytest.mark.any_broker
async def test_a_gateway_that_takes_long_holds_up_no_code_of_another(surroundings: Surroundings) -> None:
    """To one person: what it has no slot for waits in the ledger, and that neither Kafka nor the timer wait for."""

    def by(op: Operator, account: str, category: str) -> dict[str, Any]:
        usual = {"provider": "simulator", "account": account, "url": op.url, "secret": TOKEN}
        return {**usual, "routes": [{"categories": [category]}]}

    more: dict[str, Any] = {"gateway_submits": 2, "submit_timeout_s": PATIENT_S, "drain_s": PATIENT_S + 1}
    async with operator() as slow, operator() as quick:
        both = [by(slow, "slow", "transactional"), by(quick, "quick", "service")]
        async with dispatch(surroundings, slow, gateway_url=None, gateways=both, **more) as d:
            slow.open.clear()
            codes = [requested(1, category="transactional", purpose=None, campaign_id=None) for _ in range(6)]
            for code in codes:
                await publish(surroundings, DISPATCH_REQUESTS, [code])
                await eventually(d.becomes(code.message_id, "sending" if code in codes[:2] else "pending"))
            quick.answer = "throttle"
            answer = requested(1, category="service", purpose=None, campaign_id=None)
            await publish(surroundings, DISPATCH_REQUESTS, [answer])
            await eventually(d.becomes(answer.message_id, "deferred", "gateway_throttled"))
            quick.answer = "accept"
            await eventually(d.becomes(answer.message_id, "accepted"))
            assert [code.message_id for code in codes[:2]] == slow.references
            waiting = [await d.message(code.message_id) for code in codes[2:]]
            assert {(w["status"], w["gateway"]) for w in waiting} == {("pending", "simulator.slow")}
            async with surroundings.sql("dispatch") as sql:
                versions = await sql.fetchval("SELECT max(version) FROM message WHERE status = 'pending'")
            assert versions == 1, "passed over"
            slow.open.set()
            for code in codes:
                await eventually(d.becomes(code.message_id, "accepted"))
            assert sorted(slow.references) == sorted(code.message_id for code in codes)
            assert len({message["at"] for message in slow.messages[2:]}) == 1, "they leave together"


@pytest.mark.any_broker
async def test_a_silent_gateway_gets_one_probe_after_each_cool_down(surroundings: Surroundings) -> None:
    """What it does not answer is `unknown`, and nobody can send it again: a whole batch each time would be many."""
    async with operator() as op, dispatch(surroundings, op, gateway_batch=10, gateway_submits=1) as d:
        await d.publish_states(*(opted_in(n) for n in range(1, 6)))
        op.answer = "drop"
        state, until_it_trips = Health(), 0
        while may_go(state, 0.0):
            state, until_it_trips = failed(counted(state, 0, 1), "unanswered", 0.0, jitter=1.0), until_it_trips + 1
        await d.request(*(wanted := [requested(n) for n in range(1, 6) for _ in range(20)]))

        async def tried() -> list[int]:
            sizes = list(Counter(message["at"] for message in op.messages).values())
            assert len(sizes) >= until_it_trips + 2
            return sizes

        sizes = await eventually(tried, within_s=PATIENT_S)
        assert set(sizes[until_it_trips:]) == {1}
        op.answer = "accept"

        async def all_left() -> bool:
            return len(op.references) == len(wanted)

        await eventually(all_left, within_s=PATIENT_S)
        assert set(op.references) == {message.message_id for message in wanted}, "each once"
        assert max(Counter(message["at"] for message in op.messages[sum(sizes) :]).values()) > 1, "open again"


@pytest.mark.any_broker
async def test_where_the_only_gateway_for_a_place_needs_somebody_every_message_for_it_says_so(
    surroundings: Surroundings,
) -> None:
    """So that its campaign is paused, though another gateway is open to others."""
    async with operator() as home, operator() as islands:
        gateways = [
            {
                "provider": "simulator",
                "account": account,
                "url": op.url,
                "secret": TOKEN,
                "routes": [{"territories": to}],
            }
            for account, op, to in (("home", home, ["FR"]), ("islands", islands, ["RE", "YT"]))
        ]
        home.answer = "unknown"
        only: dict[str, Any] = {"gateway_url": None, "gateways": gateways}
        async with (
            dispatch(surroundings, home, **only) as d,
            reading(surroundings, DISPATCH_MESSAGES) as read,
        ):
            await d.publish_states(opted_in(1), opted_in(2))
            await eventually(lambda: known(surroundings, 2))
            await d.request(first := requested(1))
            await eventually(d.becomes(first.message_id, "deferred"))
            await d.request(second := requested(2))
            await eventually(d.becomes(second.message_id, "deferred"))

            async def told() -> list[MessageChanged]:
                events = changes_in(await read())
                assert {event.message_id for event in events} == {first.message_id, second.message_id}
                return events

            assert {event.reasons for event in await eventually(told)} == {("gateway_needs_somebody",)}
            home.answer = "accept"
            for wanted in (first, second):
                await eventually(d.becomes(wanted.message_id, "accepted"), within_s=PATIENT_S)


@pytest.mark.any_broker
async def test_whom_one_provider_does_not_deliver_to_gets_codes_by_another_and_no_marketing_by_any(
    surroundings: Surroundings,
) -> None:
    async with operator() as cheap, operator() as dear:
        second = {"provider": "simulator", "account": "dear", "url": dear.url, "secret": TOKEN}
        routes = [{"price": "0.08"}]
        async with dispatch(surroundings, cheap, gateways=[{**second, "routes": routes}]) as d:
            await d.publish_states(opted_in(1))
            await d.request(first := requested(1))
            assert (await eventually(d.becomes(first.message_id, "accepted")))["gateway"] == CHEAP
            await publish(surroundings, INBOUND_RECEIPTS, [receipt("failed", reference=first.message_id, blocked=True)])

            async def is_blocked() -> bool:
                return bool((await d.client.get("/v1/provider-blocks")).json()["items"])

            await eventually(is_blocked)
            await d.request(denied := requested(1))
            code = (await d.client.post("/v1/messages", json=_otp(1))).json()["message_id"]
            assert (await eventually(d.becomes(denied.message_id, "denied")))["reasons"] == ["provider_block"]
            assert (await eventually(d.becomes(code, "accepted")))["gateway"] == DEAR
            assert (cheap.references, dear.references) == ([first.message_id], [code])


@pytest.mark.any_broker
@pytest.mark.parametrize(("early", "code"), [(False, "900"), (True, "910")])
async def test_a_receipt_that_blames_our_account_stops_what_would_go_the_same_way(
    surroundings: Surroundings, early: bool, code: str
) -> None:
    """Each submit is answered well, and comes to nothing: the campaign is paused, for somebody to see. `early`: the
    receipt is here before the answer."""
    async with operator() as nobody, fault_server() as plivo:
        body = b'{"message_uuid": ["u-1"]}'
        plivo.answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        gateway = {"provider": "plivo", "user": "MA01", "secret": "a-token", "url": plivo.url}
        only: dict[str, Any] = {"gateway_url": None, "gateways": [gateway]}
        async with dispatch(surroundings, nobody, **only) as d:
            await d.publish_states(opted_in(1), opted_in(2))
            await eventually(lambda: known(surroundings, 2))
            first, told = requested(1), receipt("failed", gateway_id="u-1", provider="plivo", code=code)
            if early:
                await publish(surroundings, INBOUND_RECEIPTS, [told])

                async def kept() -> bool:
                    async with surroundings.sql("dispatch") as sql:
                        return bool(await sql.fetchval("SELECT count(*) FROM early_receipt"))

                await eventually(kept)
            await d.request(first)
            await eventually(d.becomes(first.message_id, "accepted"))
            if not early:
                await publish(surroundings, INBOUND_RECEIPTS, [told])

            async def failed() -> bool:
                return bool((await d.message(first.message_id))["code"] == code)

            await eventually(failed)
            await d.request(second := requested(2))
            found = await eventually(d.becomes(second.message_id, "deferred"))
            assert found["reasons"] == ["gateway_needs_somebody"]
            assert len(plivo.requests) == 1


async def test_without_a_broker_nothing_was_handed_to_an_operator_on_kafka(surroundings: Surroundings) -> None:
    settings = ServiceSettings(**{**await surroundings.settings("dispatch"), "kafka_bootstrap": "127.0.0.1:9"})
    gateway = KafkaGateway("kafka.orange", "orange", settings, timeout_s=5.0)
    with pytest.raises(Unreachable):
        await gateway.submit([submit(1)])
    await gateway.close()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """To be stopped in the middle of a submit."""
    broker = Broker(tmp_path).start()
    yield broker
    broker.stop()


async def test_a_submit_to_a_log_ends_in_its_time_whatever_of_it_went_by_before_it_could_begin(
    surroundings: Surroundings, own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told on a clock of the test's: 59 s of 60 go by until there is a broker to write to, and that falls silent."""
    given = await surroundings.settings("dispatch")
    at = {"kafka_bootstrap": own_broker.bootstrap, "kafka_idempotence": False}
    settings = ServiceSettings(**{**given, **at, "kafka_replication": 1})
    await kafka.ensure_topics(settings, [operator_submits("orange")])
    gateway = KafkaGateway("kafka.orange", "orange", settings, timeout_s=60.0)
    assert await gateway.submit([submit(1)]) == [Result("accepted", None, None)]
    assert own_broker._child is not None
    broker = own_broker._child.pid
    loop = asyncio.get_running_loop()
    clock, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)
    starting = gateway._publisher._starting
    await starting.acquire()
    late = asyncio.create_task(gateway.submit([submit(2)]))
    await eventually(lambda: _waits_for(starting))
    ahead = 59.0
    os.kill(own_broker._child.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: _is_stopped(broker))
        starting.release()
        await eventually(lambda: _is_free(starting))
        ahead = 61.0
        done, _ = await asyncio.wait({late}, timeout=30.0)
    finally:
        os.kill(own_broker._child.pid, signal.SIGCONT)
    assert done, "a minute more would have been the second deadline's"
    assert [type(answer) for answer in await late] == [Unanswered]
    await gateway.close()


async def test_more_than_a_batch_holds_goes_in_several_and_each_message_once(surroundings: Surroundings) -> None:
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    gateway = KafkaGateway("kafka.orange", "orange", settings, timeout_s=PATIENT_S)
    asked = [submit(n, text="é" * (kafka.BATCH_BYTES // 50)) for n in range(100)]
    async with reading(surroundings, operator_submits("orange")) as read:
        answers = await gateway.submit(asked)
        assert answers == [Result("accepted", None, None)] * len(asked)

        async def all_there() -> list[str]:
            there = [event.reference for event in await read() if isinstance(event, MessageSubmitted)]
            return there if len(there) >= len(asked) else []

        assert sorted(await eventually(all_there)) == sorted(each.reference for each in asked)
    await gateway.close()


async def test_what_a_producer_cannot_do_at_all_is_not_tried_again_and_again(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for late, it would go to a new producer at once, and so until the message ends."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await kafka.ensure_topics(settings, [operator_submits("orange")])
    gateway = KafkaGateway("kafka.orange", "orange", settings, timeout_s=PATIENT_S)
    assert await gateway.submit([submit(1)]) == [Result("accepted", None, None)]
    outlet = gateway._publisher._outlet
    assert outlet is not None

    async def fenced(*_: Any, **__: Any) -> None:
        raise ProducerFenced

    monkeypatch.setattr(outlet.producer, "send_batch", fenced)
    assert [type(answer) for answer in await gateway.submit([submit(2)])] == [Unanswered]
    assert await gateway.submit([submit(3)]) == [Result("accepted", None, None)]
    await gateway.close()


async def test_what_could_not_begin_in_time_is_on_no_topic_once_there_is_a_broker_again(
    surroundings: Surroundings, own_broker: Broker
) -> None:
    """The library would try for as long as it takes, and an operator that reads it then sends it at night."""
    given = await surroundings.settings("dispatch")
    at = {"kafka_bootstrap": own_broker.bootstrap, "kafka_idempotence": False, "kafka_replication": 1}
    settings = ServiceSettings(**{**given, **at})
    topic = operator_submits("orange")
    await kafka.ensure_topics(settings, [topic])
    gateway = KafkaGateway("kafka.orange", "orange", settings, timeout_s=PATIENT_S)
    assert await gateway.submit([submit(1)]) == [Result("accepted", None, None)]
    outlet = gateway._publisher._outlet
    own_broker.stop()
    answers = await gateway.submit([submit(2, begin_by=uptime_s() + 0.5), submit(3, begin_by=uptime_s() + 0.5)])
    assert [type(answer) for answer in answers] == [Late, Late]
    assert outlet is not None
    assert outlet.is_shut
    own_broker.start()  # with an empty log
    await kafka.ensure_topics(settings, [topic])

    async def goes_again() -> bool:
        with suppress(Unreachable):
            return await gateway.submit([submit(4)]) == [Result("accepted", None, None)]
        return False

    await eventually(goes_again)
    await asyncio.gather(*gateway._publisher._ending)  # all that it might still have done
    async with reading_at(settings, topic) as read:
        there = await eventually(read)
    assert [event.reference for event in there if isinstance(event, MessageSubmitted)] == [submit(4).reference]
    await gateway.close()


async def _waits_for(lock: asyncio.Lock) -> bool:
    return bool(lock._waiters)


async def _is_stopped(pid: int) -> bool:
    stat = await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text)
    return stat.rpartition(")")[2].split()[0] == "T"


async def _is_free(lock: asyncio.Lock) -> bool:
    return not lock.locked() and not lock._waiters
