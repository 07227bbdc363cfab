"""Apache Kafka itself, in KRaft mode, from Maven Central's own jars: one broker, or three that replicate.

Each is broker and controller in one, on 127.0.0.1, with a folder for its data and its log. It needs Java 17 and, the
first time, Maven.
"""

import base64
import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from uuid import uuid4

from stack.processes import DidNotStart, end, free_port, spawn, tail, wait_until

HOME = Path(__file__).parents[2] / "kafka"  # pom.xml, log4j2.properties
JARS = HOME.parents[1] / ".kafka" / "libs"
START_WITHIN_S = 120.0  # three JVMs on a busy machine
STOP_GRACE_S = 30.0  # a controlled shutdown moves leaders away first
LAST_GRACE_S = 2.0
HEAP = "-Xmx512m"
# For a broker that lives for minutes: of a JVM's first, a third goes to compiling what it has only begun to run.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
META, CHECKPOINT = "meta.properties", "bootstrap.checkpoint"  # what a formatted folder holds
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "offsets.topic.num.partitions": "6",
    "transaction.state.log.num.partitions": "3",
    "log.cleaner.dedupe.buffer.size": "8388608",
}


_formatted: dict[tuple[object, ...], bytes] = {}  # by what brokers are told, the checkpoint they begin with


@dataclass
class Node:
    number: int
    folder: Path
    port: int
    controller_port: int
    child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "kafka.log"


def settings(node: Node, nodes: Sequence[Node], more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What one of the brokers is told. Of three, two have a record before it is acknowledged: one may be lost. Pure."""
    in_sync = 1 if len(nodes) == 1 else 2
    return SETTINGS | {
        "node.id": str(node.number),
        "controller.quorum.voters": ",".join(f"{each.number}@127.0.0.1:{each.controller_port}" for each in nodes),
        "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.port}",
        "log.dirs": str(node.folder.resolve() / "data"),
        "default.replication.factor": str(len(nodes)),
        "offsets.topic.replication.factor": str(len(nodes)),
        "transaction.state.log.replication.factor": str(len(nodes)),
        "min.insync.replicas": str(in_sync),
        "transaction.state.log.min.isr": str(in_sync),
        **(more or {}),
    }


@dataclass
class Kafka:
    """`brokers`: 1 or 3. `folder` gets a folder for each; what is in it survives a stop, and a start goes on with it.

    `libs`: the jars; see `fetch`. `more`: further settings of each broker, over ours. `jvm`: options of each one's.
    `env`: variables of a broker's process, by its number, besides ours.
    """

    folder: Path
    libs: Path
    brokers: int = 1
    more: Mapping[str, str] = field(default_factory=dict)
    jvm: Sequence[str] = ()
    env: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    _nodes: list[Node] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._nodes = [
            Node(n, self.folder / f"broker-{n}", free_port(), free_port()) for n in range(1, self.brokers + 1)
        ]

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

    def start(self) -> "Kafka":
        """Blocks until every broker answers. Raises DidNotStart with the log's tail."""
        self._format()
        try:
            for node in self._nodes:
                self.launch(node.number)
            for node in self._nodes:
                self.wait(node.number)
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self, number: int) -> None:
        """Start one broker, without waiting for it."""
        node = self._nodes[number - 1]
        command = self._java("kafka.Kafka", str(node.folder / "server.properties"), jvm=self.jvm)
        node.child = spawn(command, node.log, env={**os.environ, **self.env.get(number, {})})

    def wait(self, number: int) -> None:
        node = self._nodes[number - 1]
        assert node.child is not None, "launch it first"
        wait_until(lambda: _listens(node.port), node.child, f"kafka broker {number}", node.log, START_WITHIN_S)

    def data(self, number: int) -> Path:
        """The folder with one broker's logs."""
        return self._nodes[number - 1].folder / "data"

    def pid(self, number: int) -> int:
        child = self._nodes[number - 1].child
        assert child is not None, "launch it first"
        return child.pid

    def kill(self, number: int) -> None:
        """`kill -9` of one broker."""
        node = self._nodes[number - 1]
        if node.child is not None:
            end(node.child, 0.0, first=signal.SIGKILL)
            node.child = None

    def stop(self) -> None:
        """A controlled shutdown of all, the last one started first. Who is left without a majority of controllers would
        wait for one: it is given LAST_GRACE_S."""
        running = [node for node in self._nodes if node.child is not None]
        while running:
            node = running.pop()
            assert node.child is not None
            end(node.child, STOP_GRACE_S if self.brokers == 1 or len(running) >= self.brokers // 2 else LAST_GRACE_S)
            node.child = None

    def died(self) -> str | None:
        """Why one of them is not running any more, though nobody stopped it."""
        for node in self._nodes:
            if node.child is not None and (code := node.child.poll()) is not None:
                return f"kafka broker {node.number} ended with code {code}:\n{tail(node.log)}"
        return None

    def _format(self) -> None:
        """What was formatted is left as it is. Kafka's tool takes two seconds: of all the brokers that this process
        tells the same it formats one, and the others get what it wrote, with ids of their own."""
        cluster = self.folder / "cluster-id"
        if not cluster.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            cluster.write_text(uuid4().hex[:22])
        told_alike = (self.libs.resolve(), self.brokers, *sorted(self.more.items()))
        for node in self._nodes:
            node.folder.mkdir(exist_ok=True)
            properties, data = node.folder / "server.properties", node.folder / "data"
            told = settings(node, self._nodes, self.more)
            properties.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
            if (data / META).exists():
                continue
            if (checkpoint := _formatted.get(told_alike)) is None:
                self._run_the_tool(cluster.read_text(), properties)
                _formatted[told_alike] = (data / CHECKPOINT).read_bytes()
                continue
            data.mkdir(exist_ok=True)
            (data / CHECKPOINT).write_bytes(checkpoint)
            (data / META).write_text(_meta(cluster.read_text(), node.number))

    def _run_the_tool(self, cluster: str, properties: Path) -> None:
        formatting = ("format", "--cluster-id", cluster, "--ignore-formatted", "-c", str(properties))
        command = self._java("kafka.tools.StorageTool", *formatting, jvm=SHORT_LIVED)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DidNotStart(f"kafka's storage was not formatted:\n{done.stdout}{done.stderr}")

    def _java(self, main: str, *arguments: str, jvm: Sequence[str]) -> list[str]:
        if (java := which("java")) is None:
            raise DidNotStart("Apache Kafka needs Java 17 or later on the PATH")
        logging = f"-Dlog4j2.configurationFile={HOME / 'log4j2.properties'}"
        return [java, HEAP, *jvm, logging, "-cp", f"{self.libs.resolve()}/*", main, *arguments]


def fetch(libs: Path = JARS) -> Path:
    """The jars in `libs`, copied there by Maven the first time: all of them, or none. Raises DidNotStart."""
    libs.parent.mkdir(parents=True, exist_ok=True)
    with libs.with_name("fetching").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two test workers begin together
        if any(libs.glob("kafka_2.13-*.jar")):
            return libs
        if (maven := which("mvn")) is None:
            raise DidNotStart("the first start of Apache Kafka needs Maven (mvn) on the PATH")
        arriving = libs.with_name("arriving")
        shutil.rmtree(arriving, ignore_errors=True)
        command: Sequence[str] = [
            maven, "--quiet", "--batch-mode", "--file", str(HOME / "pom.xml"),
            "dependency:copy-dependencies", f"-DoutputDirectory={arriving.resolve()}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DidNotStart(f"Maven could not fetch Apache Kafka:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        shutil.rmtree(libs, ignore_errors=True)
        arriving.rename(libs)
    return libs


def _meta(cluster: str, node: int) -> str:
    """As Kafka's tool writes it: no two folders of a cluster have the same id."""
    directory = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
    return f"version=1\ncluster.id={cluster}\nnode.id={node}\ndirectory.id={directory}\n"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
