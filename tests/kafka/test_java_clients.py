"""An operator with Kafka's Java client and the CloudEvents SDK for Java: its records are read, and it reads ours."""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from common.contracts import INBOUND_RECEIPTS, operator_submits
from common.contracts.inbound import ReceiptReceived
from common.contracts.operator import MessageSubmitted, ReceiptDelivered
from common.kafka import broker as kafka
from inbound.service import Settings, build
from stack.jars import fetched
from stack.kafka import HEAP, JARS, SHORT_LIVED
from tests.service.inbound.operated import MESSAGES, RECEIPTS, Operated, mo
from tests.service.inbound.published import published
from tests.support.builders import number, subject
from tests.support.eventually import eventually
from tests.support.publish import ensured, publish
from tests.support.running import Surroundings, bearer, running

HERE = Path(__file__).parent / "java"
MODES = ("BINARY", "STRUCTURED")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
WISHES = ("STOP", "Arrêtez 🙏")
WITHIN_S = 120.0  # a JVM, on a machine that has other work

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operator's program, compiled."""
    assert shutil.which("javac"), "the tests compile a Java program: install a JDK of version 17 or later"
    jars = fetched(
        HERE / "pom.xml", JARS.with_name("operator"), one="cloudevents-kafka-*.jar", of="the operator's program"
    )
    made = tmp_path_factory.mktemp("operator")
    path = f"{jars}/*"
    subprocess.run(["javac", "-cp", path, "-d", made, HERE / "Operator.java"], check=True)
    return ["java", HEAP, *SHORT_LIVED, "-cp", f"{made}:{path}", "Operator"]


async def ran(program: list[str], *told: str, lines: Iterable[str] = ()) -> str:
    """Return what the program prints, given these lines."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program, *told, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        out, err = await asyncio.wait_for(process.communicate("\n".join(lines).encode()), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()


async def test_what_the_java_clients_write_is_read_in_both_modes_and_every_codec(
    surroundings: Surroundings, program: list[str]
) -> None:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    lines = []
    for topic in (MESSAGES, RECEIPTS):
        await ensured(settings, topic)
    for n, how in enumerate(f"{mode} {codec}" for mode in MODES for codec in CODECS):
        delivered = ReceiptDelivered(message_id=f"dlr-{n}", state="delivered", reference=f"our-{n}")
        stops = (mo(text, f"or-{n}-{place}", sender=number(2 * n + place)) for place, text in enumerate(WISHES))
        for topic, event in [(RECEIPTS, delivered), *((MESSAGES, stop) for stop in stops)]:
            packed = base64.b64encode(kafka.encode(event)).decode()
            lines.append(f"{surroundings.unique}.{topic.name} {event.type} {how} {packed}")
    await ran(program, "write", surroundings.broker.bootstrap, lines=lines)
    async with running(build(settings)) as client:
        found = await Operated(settings, surroundings).messages(20)
        assert {event.subject_id for event in found} == {subject(n) for n in range(20)}
        assert {event.intent for event in found} == {"stop"}

        async def receipts() -> list[ReceiptReceived]:
            events = [record.event for record in await published(settings, INBOUND_RECEIPTS)]
            told = [event for event in events if isinstance(event, ReceiptReceived)]
            assert len(told) == 10
            return told

        assert {event.state for event in await eventually(receipts)} == {"delivered"}
        letters = await client.get("/v1/dead-letters", headers=bearer())
        assert letters.json()["items"] == []


async def test_the_java_clients_read_our_submits_as_cloud_events(
    surroundings: Surroundings, program: list[str]
) -> None:
    submits = operator_submits("orange")
    events = [
        MessageSubmitted(
            reference=f"our-{n}",
            recipient=number(n),
            sender="MAISONLUNE",
            short_code="36111",
            category="marketing",
            text="Été 🙂 STOP au 36111",
        )
        for n in range(3)
    ]
    await publish(surroundings, submits, events)
    told = await ran(program, "read", surroundings.broker.bootstrap, f"{surroundings.unique}.{submits.name}", "3")
    read = {key: (kind, json.loads(base64.b64decode(data))) for key, kind, data in map(str.split, told.splitlines())}
    assert read == {event.reference: (MessageSubmitted.type, json.loads(kafka.encode(event))) for event in events}
