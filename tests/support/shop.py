"""The example shop as a process of its own, which can die by `kill -9` at a commit of its database.

    python -m tests.support.shop PORT [before|after N]     dies before, or after, its Nth commit

The shop has no switch for that: the commit is wrapped here.
"""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

import httpx
import uvicorn

from stack.processes import free_port, kill, spawn, tail
from tests.support.eventually import WITHIN_S, eventually

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"
STAFF = ("staff", "a password for tests only")
STOPPED = re.compile(r'<td class="number">([^<]+)</td>')
TOKEN = "client"


@dataclass(frozen=True)
class Point:
    when: Literal["before", "after"]
    commit: int


@dataclass
class Shop:
    """`environment`: of the client: a token and the URLs. `more`: further settings, by variable."""

    folder: Path
    environment: Mapping[str, str]
    more: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "shop.sqlite3"

    @property
    def log(self) -> Path:
        return self.folder / "shop.log"

    def start(self, dies_at: Point | None = None) -> None:
        environment = {
            **os.environ,
            **self.environment,
            "SHOP_URL": self.url,
            "SHOP_STAFF_PASSWORD": STAFF[1],
            "SHOP_DATABASE": str(self.database),
            **self.more,
        }
        point = [] if dies_at is None else [dies_at.when, str(dies_at.commit)]
        command = [sys.executable, "-m", "tests.support.shop", str(self.port), *point]
        self.process = spawn(command, self.log, env=environment, cwd=ROOT)

    def kill(self) -> None:
        if self.process is not None:
            kill(self.process)

    @property
    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    async def up(self) -> None:
        """Wait until the shop answers. Raises AssertionError for a shop that has died."""

        async def alive() -> bool:
            assert not self.is_dead, tail(self.log)
            return await self.answers()

        await eventually(alive)

    async def answers(self) -> bool:
        async with httpx.AsyncClient(timeout=WITHIN_S) as http:
            try:
                return (await http.get(f"{self.url}/livez")).status_code == 200
            except httpx.TransportError:
                return False

    async def ordered(self, number: str, *, offers: bool, key: str | None = None, name: str = "Zoé") -> str:
        """Send the form of the checkout; return the customer's cookie. Raises TransportError."""
        form = {"cle": key or uuid4().hex, "nom": name, "mobile": number, "version": "1"}
        async with httpx.AsyncClient(timeout=30) as browser:
            answer = await browser.post(f"{self.url}/commande", data=form | ({"offres": "true"} if offers else {}))
        assert answer.status_code == 303, answer.text
        return answer.cookies[TOKEN]

    async def chose(self, cookie: str, *, offers: bool, key: str | None = None) -> None:
        """Send the form of the preferences. Raises TransportError."""
        form = {"cle": key or uuid4().hex, "version": "1", "offres": str(offers).lower()}
        async with httpx.AsyncClient(timeout=30, cookies={TOKEN: cookie}) as browser:
            answer = await browser.post(f"{self.url}/preferences", data=form)
        assert answer.status_code == 303, answer.text

    async def stopped(self) -> set[str]:
        """Return the numbers in the list of customers who have opted out. Raises TransportError."""
        async with httpx.AsyncClient(auth=STAFF, timeout=30) as staff:
            answer = await staff.get(f"{self.url}/clients", params={"stopped": "true"})
        assert answer.status_code == 200, answer.text
        return set(STOPPED.findall(answer.text))

    def came_by(self) -> dict[str, str]:
        """Return how each event that the shop applied came, by the event's id."""
        with _reading(self.database) as db:
            return dict(db.execute("SELECT id, came_by FROM event").fetchall())

    def untold(self) -> int:
        """Return how much Placet has still to be told."""
        with _reading(self.database) as db:
            [choices] = db.execute("SELECT count(*) FROM choice WHERE told_at IS NULL").fetchone()
            [strangers] = db.execute("SELECT count(*) FROM customer WHERE subject_id IS NULL").fetchone()
        return int(choices) + int(strangers)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        yield db
    finally:
        db.close()


@contextmanager
def opened(folder: Path, environment: Mapping[str, str], dies_at: Point | None = None, **more: str) -> Iterator[Shop]:
    """A shop that has been started; killed at the end."""
    shop = Shop(folder, environment, more)
    shop.start(dies_at)
    try:
        yield shop
    finally:
        shop.kill()


def _arm(point: Point) -> None:
    from shop.store import Store

    begin, commits = Store.transaction, 0

    @contextmanager
    def dying(self: Store) -> Iterator[sqlite3.Connection]:
        nonlocal commits
        with begin(self) as db:
            yield db
            commits += 1
            here = commits == point.commit
            if here and point.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.transaction = dying  # type: ignore[method-assign]


def _main(port: str, when: Literal["before", "after"] | None = None, commit: str = "0") -> None:
    sys.path.insert(0, str(SHOP))
    if when is not None:
        _arm(Point(when, int(commit)))
    uvicorn.run("shop.app:create", factory=True, host="127.0.0.1", port=int(port), timeout_keep_alive=620)


if __name__ == "__main__":
    _main(*sys.argv[1:])  # type: ignore[arg-type]
