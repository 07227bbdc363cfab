"""Run Apache Kafka in KRaft mode from Maven Central's jars: a single broker, or three replicating brokers.

Each node is both broker and controller, on 127.0.0.1. A start needs Java 17; the first start also needs Maven.
"""

import base64
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from uuid import uuid4

from stack.jars import fetched
from stack.processes import DidNotStart, end, free_port, spawn, tail, wait_until

HOME = Path(__file__).parents[2] / "kafka"  # pom.xml, log4j2.properties
JARS = HOME.parents[1] / ".kafka" / "libs"
START_WITHIN_S = 120.0  # three JVMs on a busy machine
STOP_GRACE_S = 30.0  # a controlled shutdown moves the leaders first
LAST_GRACE_S = 2.0
HEAP = "-Xmx512m"
# a third of a JVM's first minutes goes into compiling
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
META, CHECKPOINT = "meta.properties", "bootstrap.checkpoint"  # files of a formatted folder
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


_formatted: dict[tuple[object, ...], bytes] = {}  # initial checkpoint by settings


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
    """Return the settings of a broker; of three, two must hold a record before the acknowledgement. Pure."""
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
    """A cluster of 1 or 3 `brokers`, each with a folder in `folder`; the data survives a stop.

    `libs`: see `fetch`. `more`: overrides SETTINGS. `jvm`: options of each broker's JVM. `env`: further environment
    variables by broker number.
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
        """Start, and block until every broker answers. Raises DidNotStart with the log's tail."""
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
        """Start a broker without waiting."""
        node = self._nodes[number - 1]
        command = self._java("kafka.Kafka", str(node.folder / "server.properties"), jvm=self.jvm)
        node.child = spawn(command, node.log, env={**os.environ, **self.env.get(number, {})})

    def wait(self, number: int) -> None:
        node = self._nodes[number - 1]
        assert node.child is not None, "launch it first"
        wait_until(lambda: _listens(node.port), node.child, f"kafka broker {number}", node.log, START_WITHIN_S)

    def data(self, number: int) -> Path:
        """Return the folder with a broker's logs."""
        return self._nodes[number - 1].folder / "data"

    def pid(self, number: int) -> int:
        child = self._nodes[number - 1].child
        assert child is not None, "launch it first"
        return child.pid

    def kill(self, number: int) -> None:
        """Kill a broker with SIGKILL."""
        node = self._nodes[number - 1]
        if node.child is not None:
            end(node.child, 0.0, first=signal.SIGKILL)
            node.child = None

    def stop(self) -> None:
        """Shut all brokers down in a controlled way, the last first.

        A broker without a majority of controllers would wait for ever: it gets only LAST_GRACE_S.
        """
        running = [node for node in self._nodes if node.child is not None]
        while running:
            node = running.pop()
            assert node.child is not None
            end(node.child, STOP_GRACE_S if self.brokers == 1 or len(running) >= self.brokers // 2 else LAST_GRACE_S)
            node.child = None

    def died(self) -> str | None:
        """Return why a broker ended unasked, or `None`."""
        for node in self._nodes:
            if node.child is not None and (code := node.child.poll()) is not None:
                return f"kafka broker {node.number} ended with code {code}:\n{tail(node.log)}"
        return None

    def _format(self) -> None:
        """Format the folders of new brokers.

        Kafka's tool takes two seconds, so it runs once per set of settings; other brokers get a copy of the checkpoint.
        """
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
    """Return `libs` with Kafka's jars, all or none, copied by Maven the first time. Raises DidNotStart."""
    return fetched(HOME / "pom.xml", libs, one="kafka_2.13-*.jar", of="Apache Kafka")


def _meta(cluster: str, node: int) -> str:
    """Return meta.properties as written by Kafka's tool."""
    directory = base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
    return f"version=1\ncluster.id={cluster}\nnode.id={node}\ndirectory.id={directory}\n"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
