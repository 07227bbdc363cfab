"""Kannel as Debian ships it (`kannel`, `kannel-extras`): bearerbox, smsbox, and its fakesmsc as the SMSC.

The configuration, what runs before bearerbox, and the replay of a log are those of docs/operators/kannel.md; ports,
folders and secrets are ours.
"""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import aiohttp

from stack.processes import Supervisor, free_port
from tests.support.eventually import eventually

log = logging.getLogger(__name__)

DOCUMENT = Path(__file__).parents[3] / "docs" / "operators" / "kannel.md"
BEARERBOX, SMSBOX, SMSC = "bearerbox", "smsbox", "fakesmsc"
PROGRAMS = {BEARERBOX: "/usr/sbin/bearerbox", SMSBOX: "/usr/sbin/smsbox", SMSC: "/usr/lib/kannel/test/fakesmsc"}
SMSC_ID, FOLDERS = "operator", range(100)  # of a spool (gw/dlr_spool.c, `MAX_DIRS`)
USER, PASSWORD, ADMIN_PASSWORD, PATH_SECRET = "placet", "of-sendsms", "of-admin", "a-path-secret-of-tests"
SENT = "fakesmsc: sent message"
SPOOLS = "/var/spool/kannel"
DOCUMENTED = "https://sms.example.com/v1/callbacks/kannel/main/<path secret>/messages"
CALLBACKS = f"/v1/callbacks/kannel/main/{PATH_SECRET}"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OUTPUT = re.compile(r"^\S+ \S+ \[\d+\] \[\d+\] \w+: ", re.MULTILINE)
_GOT = re.compile(r"Got message \d+: <(.*)>", re.DOTALL)
_UNREADABLE = re.compile(r"Could not unpack message `(.*)'$", re.MULTILINE)
_TAKEN = re.compile(r"send-SMS request added - sender:\w+:(\S+) \S+ target:(\S+) request: '(.*)'$", re.MULTILINE)
_HEADED = re.compile(r"(\S+) (\S+) (?:udh (\S+) data|(text|ucs-2)) ?(.*)", re.DOTALL)


class Part(NamedTuple):
    """An SMS as the SMSC has it. `of`, `number`: of its text's parts. `raw`: UTF-8, or UTF-16BE."""

    sender: str
    to: str
    reference: int
    of: int
    number: int
    raw: bytes


class Logged(NamedTuple):
    """A line of bearerbox's access log."""

    what: str
    id: str
    sender: str
    to: str
    text: str


class Place(NamedTuple):
    """How far the logs have come, in bytes: of fakesmsc, of bearerbox, of smsbox."""

    smsc: int
    access: int
    smsbox: int


BEGINNING = Place(0, 0, 0)


class Submitted(NamedTuple):
    """A line of smsbox's access log."""

    sender: str
    number: str
    text: str


def block(language: str) -> str:
    """Return the first code block of the document in this language."""
    found = _BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8"))
    return next(each[2] for each in found if each[1] == language)


def raw_of(parts: Sequence[Part]) -> bytes:
    """Return the bytes of a text of these parts, whatever their order. Raises ValueError unless each is there once."""
    ordered = sorted(parts, key=lambda part: part.number)
    if [part.number for part in ordered] != list(range(1, ordered[0].of + 1)):
        raise ValueError(f"parts {[part.number for part in ordered]} of {ordered[0].of}")
    return b"".join(part.raw for part in ordered)


def _read(log: Path, since: int) -> str:
    """Return what was written to a log from this byte on."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(since)
        return file.read().decode("utf-8", "surrogateescape")


def _part(line: str) -> Part:
    found = _HEADED.fullmatch(line)
    assert found is not None
    sender, to, header, plain, said = found.groups()
    if plain == "text":
        return Part(sender, to, 0, 1, 1, said.encode("utf-8", "surrogateescape"))
    raw = unquote_to_bytes(said.replace("+", " "))
    if plain:
        return Part(sender, to, 0, 1, 1, raw)
    *_, reference, of, number = unquote_to_bytes(header.replace("+", " "))
    return Part(sender, to, reference, of, number, raw)


@dataclass
class Kannel:
    """Kannel's processes under a supervisor. `inbound`: the URL of inbound-svc, once it is known."""

    folder: Path
    supervisor: Supervisor
    inbound: str = ""
    sendsms_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    boxes_port: int = field(default_factory=free_port)
    smsc_port: int = field(default_factory=free_port)
    _texting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.sendsms_port}"

    @property
    def messages_url(self) -> str:
        return f"{self.inbound}{CALLBACKS}/messages"

    async def start(self) -> None:
        for program in PROGRAMS.values():
            assert shutil.which(program), f"{program} is missing: apt-get install kannel kannel-extras"
        for name in ("store", "dlr"):
            (self.folder / name).mkdir(parents=True)
        self._configuration.write_text(self._configured(), encoding="utf-8")
        os.mkfifo(self._input)
        for name, ready in ((BEARERBOX, self._routes), (SMSBOX, self._listens), (SMSC, self._connected)):
            await self.supervisor.start(name, self._command(name), ready=ready)

    async def again(self, name: str, *, kill: bool) -> None:
        """Restart a program; smsbox and the SMSC's connection end with bearerbox.

        Of itself a smsbox whose bearerbox is gone would start again after ten seconds, out of the supervisor's sight.
        """
        async with self._texting:
            ended = [BEARERBOX, SMSBOX, SMSC] if name == BEARERBOX else [name]
            for each in ended:
                if kill or each != name:
                    self.supervisor.kill(each)
            if name == BEARERBOX:
                await self.supervisor.halt(BEARERBOX)
                await self._before_bearerbox()
            for each in ended:
                await self.supervisor.restart(each)

    async def text(self, number: str, code: str, text: str) -> None:
        """Have the SMSC deliver an MO. fakesmsc reads lines of 255 bytes, one at a time."""
        line = f"{number} {code} text {text}\n"
        if not text.isascii():
            line = f"{number} {code} ucs2 {''.join(f'%{byte:02X}' for byte in text.encode('utf-16-be'))}\n"
        assert len(line) < 255
        async with self._texting:
            begun = self.here().smsc
            with self._input.open("w") as pipe:
                pipe.write(line)

            async def taken() -> bool:
                return SENT in _read(self.supervisor.log(SMSC), begun)

            await eventually(taken)

    def here(self) -> Place:
        logs = (self.supervisor.log(SMSC), self.access_log, self._smsbox_log)
        return Place(*(log.stat().st_size if log.exists() else 0 for log in logs))

    def received(self, since: Place = BEGINNING) -> list[Part]:
        """Return what the SMSC has of Placet, in the order of arrival."""
        lines: list[str] = []
        for said in _OUTPUT.split(_read(self.supervisor.log(SMSC), since.smsc)):
            if (got := _GOT.match(said)) is None:
                continue
            if _HEADED.fullmatch(got[1]) is None and lines:
                lines[-1] += "\n" + got[1]  # a text with a line end comes as two lines
            else:
                lines.append(got[1])
        return [_part(line) for line in lines]

    def logged(self, what: str, since: Place = BEGINNING) -> list[Logged]:
        """Return the lines of bearerbox's access log of this kind."""
        found = []
        for line in _read(self.access_log, since.access).splitlines():
            _, kind, identity, _, _, sender, to, coding, _, _, text = line.split("|", 10)
            if kind == what:
                text = bytes.fromhex(text).decode("utf-16-be") if coding == "2" else text
                found.append(Logged(kind, identity, sender, to, text))
        return found

    def submitted(self, code: str, since: Place = BEGINNING) -> list[Submitted]:
        """Return each submit that smsbox took whose text, of GSM letters, names this code."""
        return [
            Submitted(*found) for found in _TAKEN.findall(_read(self._smsbox_log, since.smsbox)) if code in found[2]
        ]

    def stored(self) -> list[Path]:
        """Return the messages that bearerbox keeps."""
        return [path for path in (self.folder / "store").rglob("*") if path.is_file()]

    def left_begun(self, waiting: Sequence[Path], people: Sequence[str]) -> Path:
        """Leave what a kill amid each of these messages' entries in the spool of receipts leaves, and amid a message.

        Return the latter's file. Whose a message is and which folder is its receipt's, Kannel alone knows: so of each.
        """
        begun = self.folder / "store" / "0" / "00000000-0000-4000-8000-000000000000"
        begun.parent.mkdir(exist_ok=True)
        begun.touch()
        for folder in FOLDERS:
            awaited = self.folder / "dlr" / str(folder)
            awaited.mkdir(exist_ok=True)
            for message in waiting:
                named = hashlib.sha1(f"{SMSC_ID}{message.name}".encode(), usedforsecurity=False).hexdigest()
                for number in people:
                    (awaited / f"{named}{number.encode().hex()}").touch()
        return begun

    def unreadable(self) -> list[Path]:
        """Return the files that bearerbox could not read when it started, each time it started."""
        return [Path(found) for found in _UNREADABLE.findall(_read(self.supervisor.log(BEARERBOX), 0))]

    @property
    def access_log(self) -> Path:
        return self.folder / "access.log"

    @property
    def _smsbox_log(self) -> Path:
        return self.folder / "smsbox-access.log"

    @property
    def _input(self) -> Path:
        return self.folder / "fakesmsc.in"

    @property
    def _configuration(self) -> Path:
        return self.folder / "smskannel.conf"

    def _configured(self) -> str:
        replaced = {
            DOCUMENTED: self.messages_url,
            "<sendsms password>": PASSWORD,
            "<admin password>": ADMIN_PASSWORD,
            SPOOLS: str(self.folder),
            "/var/log/kannel": str(self.folder),
            "13000": str(self.admin_port),
            "13001": str(self.boxes_port),
            "13013": str(self.sendsms_port),
        }
        found = block("ini")
        for old, new in replaced.items():
            assert old in found, f"docs/operators/kannel.md has no {old}"
            found = found.replace(old, new)
        groups = [group for group in found.split("\n\n") if not group.startswith("group = smsc\n")]
        smsc = f"group = smsc\nsmsc = fake\nsmsc-id = {SMSC_ID}\nport = {self.smsc_port}\nconnect-allow-ip = 127.0.0.1"
        return "\n\n".join([groups[0], smsc, *groups[1:]])

    async def _before_bearerbox(self) -> None:
        """Run the page's command for the start of bearerbox."""
        command = block("sh").replace(SPOOLS, shlex.quote(str(self.folder)))
        ran = await asyncio.create_subprocess_exec("sh", "-ec", command, stdout=asyncio.subprocess.PIPE)
        said, _ = await ran.communicate()
        assert ran.returncode == 0
        log.info("left empty by bearerbox: %d", len(said.splitlines()))

    def _command(self, name: str) -> list[str]:
        if name != SMSC:
            return [PROGRAMS[name], "-v", "1", str(self._configuration)]
        fake = f"{PROGRAMS[SMSC]} -H 127.0.0.1 -r {self.smsc_port} -i 0 -v 0"
        return ["sh", "-c", f"exec {fake} <> {shlex.quote(str(self._input))}"]  # read and write: it never ends

    async def _routes(self) -> str | None:
        url = f"http://127.0.0.1:{self.admin_port}/status.txt?password={ADMIN_PASSWORD}"
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as answer:
                said = await answer.text()
        except aiohttp.ClientError as error:
            return type(error).__name__
        return None if f"FAKE:{self.smsc_port}" in said else said

    async def _listens(self) -> str | None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.sendsms_port)
        except OSError as error:
            return type(error).__name__
        writer.close()
        return None

    async def _connected(self) -> str | None:
        said = _read(self.supervisor.log(SMSC), 0)
        return None if "fakesmsc starting" in said[said.rfind("interactive mode") :] else "fakesmsc has not begun"
