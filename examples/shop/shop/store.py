"""The shop's SQLite file. A transaction is one unit of work: what happened and what is known of it commit together.

customer   a person who ordered; `subject_id`: the person's id with Placet, once known
purchase   an order, under the key of the form that was sent
choice     a yes or no to offers by SMS, with its proof, until Placet has it: the ledger then holds the proof
standing   the state of each person's consent, by the person's id, as Placet last told
event      the ids of events that were applied, so that a repeat does nothing
feed       the cursor of the event feed
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

SCHEMA = """
CREATE TABLE IF NOT EXISTS customer (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, name TEXT NOT NULL, number TEXT NOT NULL,
    subject_id TEXT, unreachable TEXT, created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS customer_of_subject ON customer (subject_id);
CREATE TABLE IF NOT EXISTS purchase (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, customer_id INTEGER NOT NULL REFERENCES customer, at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS choice (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, customer_id INTEGER NOT NULL REFERENCES customer,
    yes INTEGER NOT NULL, form TEXT NOT NULL, version TEXT NOT NULL, wording TEXT NOT NULL, purchase_id INTEGER,
    ip TEXT, user_agent TEXT, made_at TEXT NOT NULL,
    told_at TEXT, evidence_id TEXT, effective INTEGER, refused TEXT
);
CREATE TABLE IF NOT EXISTS standing (
    subject_id TEXT PRIMARY KEY, state TEXT NOT NULL, opted_out INTEGER NOT NULL, since TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, came_by TEXT NOT NULL, arrived_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS feed (one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT NOT NULL);
"""
KEEP_EVENTS = timedelta(days=30)  # longer than Placet repeats an event


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof of a choice: the form with its wording, and the browser's address and name."""

    form: str
    version: str
    wording: str
    ip: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Choice:
    id: int
    key: str
    number: str
    yes: bool
    proof: Proof
    purchase_id: int | None
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """A person's consent to the shop's offers. `since`: when the fact occurred."""

    subject_id: str
    state: str
    opted_out: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer as the pages show one. `chose`: the newest choice; None without any."""

    id: int
    name: str
    number: str
    state: str | None
    opted_out: bool
    since: datetime | None
    chose: bool | None
    told: bool
    effective: bool | None


class Store:
    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connected() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            yield db
        finally:
            db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit on return; an error leaves nothing."""
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")  # the write lock at once: what is read here stays so
            yield db
            db.execute("COMMIT")

    # What customers do

    def order(self, key: str, token: str | None, name: str, number: str, proof: Proof | None) -> str:
        """Take an order, and the consent given with it, if any; return the customer's token.

        The same form sent twice is one order. `token`: of a customer who has been here; another number makes another
        customer.
        """
        now = _now()
        with self.transaction() as db:
            if known := db.execute(
                "SELECT token FROM purchase JOIN customer ON customer.id = customer_id WHERE key = ?", (key,)
            ).fetchone():
                return str(known["token"])
            customer = db.execute("SELECT id FROM customer WHERE token = ? AND number = ?", (token, number)).fetchone()
            if customer is None:
                token = secrets.token_urlsafe(32)
                customer = db.execute(
                    "INSERT INTO customer (token, name, number, created_at) VALUES (?, ?, ?, ?) RETURNING id",
                    (token, name, number, now),
                ).fetchone()
            purchase = db.execute(
                "INSERT INTO purchase (key, customer_id, at) VALUES (?, ?, ?) RETURNING id", (key, customer["id"], now)
            ).fetchone()
            if proof is not None:
                _choose(db, key, customer["id"], True, proof, purchase["id"], now)
        assert token is not None
        return token

    def choose(self, key: str, token: str, yes: bool, proof: Proof) -> None:
        """Keep a choice made on the page of preferences. The same form sent twice is one choice."""
        with self.transaction() as db:
            customer = db.execute("SELECT id FROM customer WHERE token = ?", (token,)).fetchone()
            _choose(db, key, customer["id"], yes, proof, None, _now())

    def customers(self, *, token: str | None = None) -> list[Customer]:
        """Return the customers, or the one with a token, with what Placet last told of each."""
        chosen = "SELECT max(id) FROM choice WHERE customer_id = customer.id"
        with self._connected() as db:
            found = db.execute(
                f"""
                SELECT customer.id, name, number, state, coalesce(opted_out, 0) AS opted_out, since,
                    yes, told_at, effective
                FROM customer
                LEFT JOIN standing USING (subject_id)
                LEFT JOIN choice ON choice.id = ({chosen})
                WHERE ?1 IS NULL OR token = ?1
                ORDER BY customer.id
                """,
                (token,),
            ).fetchall()
        return [
            Customer(
                id=row["id"],
                name=row["name"],
                number=row["number"],
                state=row["state"],
                opted_out=bool(row["opted_out"]),
                since=None if row["since"] is None else datetime.fromisoformat(row["since"]),
                chose=None if row["yes"] is None else bool(row["yes"]),
                told=row["told_at"] is not None,
                effective=None if row["effective"] is None else bool(row["effective"]),
            )
            for row in found
        ]

    # What Placet has to be told

    def untold(self) -> list[Choice]:
        """Return the choices that Placet does not have, oldest first."""
        with self._connected() as db:
            found = db.execute(
                "SELECT choice.*, number FROM choice JOIN customer ON customer.id = customer_id"
                " WHERE told_at IS NULL ORDER BY choice.id"
            ).fetchall()
        return [
            Choice(
                id=row["id"],
                key=row["key"],
                number=row["number"],
                yes=bool(row["yes"]),
                proof=Proof(row["form"], row["version"], row["wording"], row["ip"], row["user_agent"]),
                purchase_id=row["purchase_id"],
                made_at=datetime.fromisoformat(row["made_at"]),
            )
            for row in found
        ]

    def told(self, choice: Choice, evidence_id: str | None, effective: bool, refused: str | None = None) -> None:
        """Keep that Placet has a choice, or refused the choice for good. The ledger holds the proof from now on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE choice SET told_at = ?, evidence_id = ?, effective = ?, refused = ?, ip = NULL,"
                " user_agent = NULL WHERE id = ?",
                (_now(), evidence_id, effective, refused, choice.id),
            )

    def strangers(self, most: int) -> list[tuple[int, str]]:
        """Return customers whose ids with Placet are unknown, with their numbers."""
        with self._connected() as db:
            found = db.execute(
                "SELECT id, number FROM customer WHERE subject_id IS NULL AND unreachable IS NULL ORDER BY id LIMIT ?",
                (most,),
            ).fetchall()
        return [(row["id"], row["number"]) for row in found]

    def met(self, customer_id: int, standing: Standing | None, unreachable: str | None) -> None:
        """Keep a customer's id with Placet. `standing`: the present state, which counts only until an event tells
        another one: an event that came first is newer.
        """
        with self.transaction() as db:
            db.execute(
                "UPDATE customer SET subject_id = ?, unreachable = ? WHERE id = ?",
                (standing and standing.subject_id, unreachable, customer_id),
            )
            if standing is not None:
                db.execute("INSERT INTO standing VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", _values(standing))

    # What Placet tells

    def cursor(self) -> str | None:
        with self._connected() as db:
            row = db.execute("SELECT cursor FROM feed").fetchone()
        return None if row is None else str(row["cursor"])

    def apply(
        self,
        events: Iterable[tuple[str, Standing]],
        came_by: Literal["webhook", "feed"],
        cursor: str | None = None,
    ) -> int:
        """Apply events that were not applied before, and the cursor behind them, in one transaction.

        Returns how many were new. A crash leaves all of it or nothing: a cursor stored before its events would skip
        them, and an id stored before its event would make the repeat do nothing.
        """
        now, new = _now(), 0
        with self.transaction() as db:
            for event_id, standing in events:
                first = db.execute(
                    "INSERT INTO event VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (event_id, came_by, now)
                )
                if first.rowcount:
                    _stand(db, standing)
                    new += 1
            if cursor is not None:
                _move(db, cursor)
                oldest = datetime.now(UTC) - KEEP_EVENTS
                db.execute("DELETE FROM event WHERE arrived_at < ?", (oldest.isoformat(),))
        return new

    def people(self) -> list[tuple[int, str]]:
        """Return every customer that Placet can write to, with the number."""
        with self._connected() as db:
            found = db.execute("SELECT id, number FROM customer WHERE unreachable IS NULL ORDER BY id").fetchall()
        return [(row["id"], row["number"]) for row in found]

    def replace(self, people: Sequence[tuple[int, Standing]], passed: Iterable[str], cursor: str) -> None:
        """Replace all that events told by the present state, read after `cursor`. `passed`: the events before it."""
        now = _now()
        with self.transaction() as db:
            db.execute("DELETE FROM standing")
            for customer_id, standing in people:
                db.execute("UPDATE customer SET subject_id = ? WHERE id = ?", (standing.subject_id, customer_id))
                _stand(db, standing)
            for event_id in passed:
                db.execute("INSERT INTO event VALUES (?, 'feed', ?) ON CONFLICT DO NOTHING", (event_id, now))
            _move(db, cursor)


def _choose(
    db: sqlite3.Connection, key: str, customer_id: int, yes: bool, proof: Proof, purchase_id: int | None, now: str
) -> None:
    db.execute(
        "INSERT INTO choice (key, customer_id, yes, form, version, wording, ip, user_agent, purchase_id, made_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
        (
            key,
            customer_id,
            yes,
            proof.form,
            proof.version,
            proof.wording,
            proof.ip,
            proof.user_agent,
            purchase_id,
            now,
        ),
    )


def _stand(db: sqlite3.Connection, standing: Standing) -> None:
    db.execute(
        "INSERT INTO standing VALUES (?, ?, ?, ?) ON CONFLICT (subject_id) DO UPDATE"
        " SET state = excluded.state, opted_out = excluded.opted_out, since = excluded.since",
        _values(standing),
    )


def _move(db: sqlite3.Connection, cursor: str) -> None:
    db.execute("INSERT INTO feed VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET cursor = excluded.cursor", (cursor,))


def _values(standing: Standing) -> tuple[str, str, bool, str]:
    return standing.subject_id, standing.state, standing.opted_out, standing.since.isoformat()


def _now() -> str:
    return datetime.now(UTC).isoformat()
