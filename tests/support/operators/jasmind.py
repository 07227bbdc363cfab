"""Jasmin whole, as `jasmind` with RabbitMQ and Redis: its HTTP API before an SMSC, its throwers before inbound-svc.

The configuration is that of docs/operators/jasmin.md, of which ports, folders and secrets are replaced.
"""

import asyncio
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from stack.processes import Supervisor, free_port
from tests.support.operators import jasmin

VENV = Path(__file__).parents[3] / ".jasmin"  # made by `make operators`
EPMD, RABBITMQ, REDIS, JASMIND = "epmd", "rabbitmq", "redis", "jasmind"
RABBIT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
USER, PASSWORD, PATH_SECRET = "placet", "jasmins-secret", "the-path-secret-of-jasmin-in-tests"
CALLBACKS = f"/v1/callbacks/jasmin/main/{PATH_SECRET}"
DOCUMENT = Path(__file__).parents[3] / "docs" / "operators" / "jasmin.md"
DOCUMENTED = "https://sms.example.com/v1/callbacks/jasmin/main/<path secret>/messages"
STARTS_S = 90.0
PROMPTS = (b"jcli : ", b"\n> ")
REFUSALS = (b"rror", b"nknown", b"annot", b"ncorrect", b"nvalid")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(language: str) -> str:
    """Return the first code block of the document in this language."""
    found = _BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8"))
    return next(each[2] for each in found if each[1] == language)


@dataclass
class Jasmin:
    """Jasmin's processes under a supervisor. `smsc_port`: of the SMSC. `inbound`: the URL of inbound-svc."""

    folder: Path
    supervisor: Supervisor
    smsc_port: int
    inbound: str = ""
    api_port: int = field(default_factory=free_port)
    jcli_port: int = field(default_factory=free_port)
    amqp_port: int = field(default_factory=free_port)
    redis_port: int = field(default_factory=free_port)
    epmd_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    async def start(self) -> None:
        for program in (RABBIT, "redis-server"):
            assert shutil.which(program), f"{program} is missing: apt-get install rabbitmq-server redis-server"
        assert VENV.exists(), "Jasmin is missing: make operators T=tests/operators/test_jasmin.py"
        for name in ("log", "store", "rabbitmq"):
            (self.folder / name).mkdir(parents=True)
        self._configuration.write_text(self._configured(), encoding="utf-8")
        await self._start(
            REDIS, ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1"], self.redis_port
        )
        await self._start(EPMD, ["epmd", "-port", str(self.epmd_port)], self.epmd_port)  # else it outlives the broker
        await self._start(RABBITMQ, [RABBIT], self.amqp_port, self._rabbits())
        throwers = [f"--enable-{name}" for name in ("dlr-thrower", "dlr-lookup")]
        command = [str(VENV / "bin" / "python"), str(VENV / "bin" / "jasmind.py"), "-c", str(self._configuration)]
        folders = {"ROOT_PATH": str(self.folder), "LOG_PATH": str(self.folder / "log"), "CONFIG_PATH": str(self.folder)}
        await self._start(JASMIND, [*command, *throwers], self.jcli_port, os.environ | folders)
        await self._told()

    async def _start(self, name: str, command: list[str], port: int, env: dict[str, str] | None = None) -> None:
        async def listens() -> str | None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as error:
                return type(error).__name__
            writer.close()
            return None

        await self.supervisor.start(name, command, env=env, ready=listens, within_s=STARTS_S)

    async def _told(self) -> None:
        """Type the document's lines into jCli, each once the one before is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.jcli_port)
        async with asyncio.timeout(STARTS_S):
            await reader.readuntil(b"Session ref")
            for line in self._replaced(block("text")).splitlines():
                writer.write(line.encode() + b"\r\n")
                said = b""
                while not said.endswith(PROMPTS):
                    said += await reader.read(1024)
                assert not any(word in said for word in REFUSALS), f"{line}: {said!r}"
        writer.close()

    @property
    def _configuration(self) -> Path:
        return self.folder / "jasmin.cfg"

    def _configured(self) -> str:
        spec = next(VENV.glob("lib/python*/site-packages/txamqp/specs/standard/amqp0-9-1.stripped.xml"))
        others = "".join(
            f"\n[{section}]\nbind = 127.0.0.1\nport = {free_port()}\n"
            for section in ("router", "smpp-server", "smpp-server-pb")
        )
        local = {
            "[amqp-broker]": f"[amqp-broker]\nport = {self.amqp_port}\nspec = {spec}",
            "[redis-client]": f"[redis-client]\nport = {self.redis_port}",
            "[jcli]": "[jcli]\nauthentication = False",
            "[client-management]": f"[client-management]\nbind = 127.0.0.1\nport = {free_port()}",
        }
        found = block("ini")
        for old, new in local.items():
            assert old in found, f"docs/operators/jasmin.md has no {old}"
            found = found.replace(old, new)
        return self._replaced(found) + others

    def _replaced(self, said: str) -> str:
        documented = {
            DOCUMENTED: f"{self.inbound}{CALLBACKS}/messages",
            "<http password>": PASSWORD,
            "<system id>": jasmin.USER,
            "<password>": jasmin.PASSWORD,
            "smsc.operator.example": "127.0.0.1",
            "port 2775": f"port {self.smsc_port}",
            "1401": str(self.api_port),
            "8990": str(self.jcli_port),
        }
        for old, new in documented.items():
            said = said.replace(old, new)
        return said

    def _rabbits(self) -> dict[str, str]:
        """Return the environment of a broker that shares nothing with another of this machine."""
        folder = self.folder / "rabbitmq"
        return os.environ | {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": "placet@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp_port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        }
