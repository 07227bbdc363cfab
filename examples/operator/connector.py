"""An operator's connector for Placet, small and whole: the JSON of `standard`, by Python's standard library alone.

    CONNECTOR_PORT       port on 127.0.0.1
    CONNECTOR_TOKEN      bearer token of Placet's submits
    CONNECTOR_SECRET     "whsec_…", signs callbacks by Standard Webhooks
    CONNECTOR_CALLBACKS  Placet's URL for this account: https://…/v1/callbacks/standard/<account>
    CONNECTOR_DATABASE   file of the SQLite database

Placet submits to POST /v1/submits. The network is simulated: GET /control/sms lists the SMS on the phones, POST
/control/replies is a phone that texts. A real connector has an SMSC there, and serves no /control.

A message, its parts and its DLRs are one transaction, committed before the answer; a known reference is no new SMS. A
callback stays in the database until a 2xx of Placet, and is repeated with the same id and body.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN, SECRET = os.environ["CONNECTOR_TOKEN"], os.environ["CONNECTOR_SECRET"]
CALLBACKS = urlsplit(os.environ["CONNECTOR_CALLBACKS"])
DATABASE = os.environ["CONNECTOR_DATABASE"]
MOST_MESSAGES, MOST_BYTES, MOST_PARTS = 100, 1024 * 1024, 10
TIMEOUT_S, FIRST_RETRY_S, LONGEST_RETRY_S, GIVE_UP_S = 15.0, 0.2, 60.0, 48 * 3600
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
FIELDS = ("reference", "to", "from", "short_code", "category", "text")

SCHEMA = """
CREATE TABLE IF NOT EXISTS message (reference TEXT PRIMARY KEY, id TEXT, status TEXT, code TEXT);
CREATE TABLE IF NOT EXISTS sms (reference TEXT, number TEXT, part INT, parts INT, coding TEXT, octets BLOB);
CREATE TABLE IF NOT EXISTS piece (mo TEXT, part INT, parts INT, coding TEXT, octets BLOB, PRIMARY KEY (mo, part));
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, kind TEXT, body TEXT, made REAL, due REAL, attempts INT);
"""

# 3GPP TS 23.038: the default alphabet, and its extension behind an escape
GSM7 = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = dict(zip("\f^{}\\[~]|€", b"\x0a\x14\x28\x29\x2f\x3c\x3d\x3e\x40\x65", strict=True))
SEPTETS = {c: bytes((n,)) for n, c in enumerate(GSM7) if c != "\x1b"} | {
    c: bytes((27, n)) for c, n in EXTENSION.items()
}


def parts_of(text: str) -> tuple[str, list[bytes]]:
    """Return the coding and the parts of a text. No part ends within a character."""
    if all(c in SEPTETS for c in text):
        coding, units, single, most = "gsm7", [SEPTETS[c] for c in text], 160, 153
    else:
        coding, units, single, most = "ucs2", [c.encode("utf-16-be") for c in text], 140, 134
    if len(b"".join(units)) <= single:
        return coding, [b"".join(units)]
    parts = [b""]
    for unit in units:
        if len(parts[-1]) + len(unit) > most:
            parts.append(b"")
        parts[-1] += unit
    return coding, parts


def text_of(coding: str, octets: bytes) -> str:
    """Return the text that a phone shows."""
    if coding == "ucs2":
        return octets.decode("utf-16-be", "replace")
    extended = {n: c for c, n in EXTENSION.items()}
    shown = re.sub(rb"\x1b.", lambda found: bytes((128 + found[0][1],)), octets, flags=re.DOTALL)
    return "".join(GSM7[n] if n < 128 else extended[n - 128] for n in shown)


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Commit all or nothing; a commit survives the end of the process, and of the machine."""
    with closing(sqlite3.connect(DATABASE, timeout=30, isolation_level=None)) as database:
        database.executescript("PRAGMA synchronous = FULL; BEGIN IMMEDIATE;")
        yield database
        database.execute("COMMIT")


def expect(database: sqlite3.Connection, kind: str, data: Mapping[str, Any], after_s: float = 0.0) -> None:
    """Plan a callback; the sender repeats the callback until Placet has it."""
    body = json.dumps({"type": f"message.{kind}", "data": data}, ensure_ascii=False)
    planned = (f"ev-{uuid.uuid4()}", kind, body, time.time(), time.time() + after_s)
    database.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, 0)", planned)


def take(database: sqlite3.Connection, message: Mapping[str, str]) -> dict[str, str | None]:
    """Send a message once, and return the result; of a known reference, the first result."""
    reference, number = message["reference"], message["to"]
    known = database.execute("SELECT id, status, code FROM message WHERE reference = ?", (reference,)).fetchone()
    if known is None:
        coding, parts = parts_of(message["text"])
        code = "too_long" if len(parts) > MOST_PARTS else None if NUMBER.fullmatch(number) else "invalid_number"
        known = (None, "rejected", code) if code else (f"op-{uuid.uuid4()}", "accepted", None)
        database.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (reference, *known))
        if code is None:
            for place, octets in enumerate(parts, start=1):
                sms = (reference, number, place, len(parts), coding, octets)
                database.execute("INSERT INTO sms VALUES (?, ?, ?, ?, ?, ?)", sms)
            for status, after_s in (("sent", 0.0), ("delivered", 0.05)):
                at = datetime.now(UTC).isoformat()
                receipt = {"id": known[0], "reference": reference, "status": status, "code": None, "at": at}
                expect(database, "receipt", receipt, after_s)
    return dict(zip(("reference", "id", "status", "code"), (reference, *known), strict=True))


def texted(sender: str, to: str, text: str) -> str:
    """Simulate a phone that texts, and return the id of the MO. The network delivers the last part first."""
    coding, parts = parts_of(text)
    mo, sent_at = f"mo-{uuid.uuid4()}", datetime.now(UTC).isoformat()
    for place in range(len(parts), 0, -1):
        arrive((mo, place, len(parts), coding, parts[place - 1]), sender, to, sent_at)
    return mo


def arrive(piece: tuple[str, int, int, str, bytes], sender: str, to: str, sent_at: str) -> None:
    """Keep a part of a person's text, and plan the MO once the last part is there."""
    of_mo = "SELECT octets FROM piece WHERE mo = ? ORDER BY part"
    with transaction() as database:
        database.execute("INSERT OR IGNORE INTO piece VALUES (?, ?, ?, ?, ?)", piece)
        if len(pieces := database.execute(of_mo, piece[:1]).fetchall()) == piece[2]:
            text = text_of(piece[3], b"".join(octets for (octets,) in pieces))
            expect(database, "received", {"id": piece[0], "from": sender, "to": to, "text": text, "sent_at": sent_at})
            database.execute("DELETE FROM piece WHERE mo = ?", piece[:1])


def call(event: str, kind: str, body: bytes) -> bool:
    """Call Placet, and return whether the callback is safe there: only a 2xx says so."""
    stamp = str(int(time.time()))  # of this attempt
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{event}.{stamp}.".encode() + body, hashlib.sha256)
    headers = {"Content-Type": "application/json", "webhook-id": event, "webhook-timestamp": stamp}
    headers["webhook-signature"] = f"v1,{base64.b64encode(mac).decode()}"
    connect = http.client.HTTPSConnection if CALLBACKS.scheme == "https" else http.client.HTTPConnection
    connection = connect(CALLBACKS.netloc, timeout=TIMEOUT_S)
    try:
        connection.request(
            "POST", f"{CALLBACKS.path}/{'messages' if kind == 'received' else 'receipts'}", body, headers
        )
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def attempt(event: str, kind: str, body: str, attempts: int) -> None:
    """Forget a callback that Placet has; plan the next attempt of another, within a minute."""
    done = call(event, kind, body.encode())
    wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(attempts, 16)) * random.uniform(0.5, 1.0)  # noqa: S311
    with transaction() as database:
        if done:
            database.execute("DELETE FROM event WHERE id = ?", (event,))
        else:
            again = (time.time() + wait_s, event)
            database.execute("UPDATE event SET due = ?, attempts = attempts + 1 WHERE id = ?", again)


def send_callbacks() -> None:
    """Send what is due, 16 callbacks at once: a slow answer stops no other callback."""
    due = "SELECT id, kind, body, attempts FROM event WHERE due <= ? ORDER BY due LIMIT 200"
    busy: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(16) as pool:
        while True:
            with transaction() as database:
                database.execute("DELETE FROM event WHERE made < ?", (time.time() - GIVE_UP_S,))
                found = database.execute(due, (time.time(),)).fetchall()
            busy = {event: done for event, done in busy.items() if not done.done()}
            busy |= {each[0]: pool.submit(attempt, *each) for each in found if each[0] not in busy}
            time.sleep(0.02)


class Connector(BaseHTTPRequestHandler):
    """The HTTP side. A request that ends early or stops for 15 s changes nothing."""

    protocol_version, timeout, wbufsize = "HTTP/1.1", TIMEOUT_S, -1  # head and body in one write

    def do_POST(self) -> None:
        routes: dict[str, Callable[[Any], Any]] = {"/v1/submits": self.submits, "/control/replies": self.replies}
        given, length = self.headers.get("Authorization", "").encode(), self.headers.get("Content-Length", "")
        if self.path not in routes:
            return self.answer(404, {"detail": "no such path"})
        if self.path == "/v1/submits" and not hmac.compare_digest(given, f"Bearer {TOKEN}".encode()):
            return self.answer(401, {"detail": "the token is missing or wrong"})
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return self.answer(413, {"detail": f"at most {MOST_BYTES} bytes, with Content-Length"})
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return self.answer(400, {"detail": "the body ended early"})
        try:
            return self.answer(200, routes[self.path](json.loads(body)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self.answer(400, {"detail": "the body is not of the format"})

    def submits(self, body: Any) -> dict[str, Any]:
        messages = body["messages"]
        if not 1 <= len(messages) <= MOST_MESSAGES or not all(isinstance(m[n], str) for m in messages for n in FIELDS):
            raise ValueError("1 to 100 messages, whose fields are texts")
        with transaction() as database:
            return {"results": [take(database, message) for message in messages]}

    def replies(self, body: Any) -> dict[str, Any]:
        return {"replies": [texted(each["from"], each["to"], each["text"]) for each in body["replies"]]}

    def do_GET(self) -> None:
        if self.path != "/control/sms":
            return self.answer(200 if self.path == "/livez" else 404, {})
        with transaction() as database:
            found = database.execute("SELECT * FROM sms ORDER BY rowid").fetchall()
        names = ("reference", "to", "part", "parts", "text")
        rows = [dict(zip(names, (*row[:4], text_of(*row[4:])), strict=True)) for row in found]
        return self.answer(200, {"sms": rows})

    def answer(self, status: int, body: Mapping[str, Any]) -> None:
        raw = json.dumps(body, ensure_ascii=False).encode()
        self.close_connection = self.close_connection or status >= 400  # the body may be unread
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a path or a body may hold a number."""


if __name__ == "__main__":
    with closing(sqlite3.connect(DATABASE)) as prepared:
        prepared.executescript("PRAGMA journal_mode = WAL;" + SCHEMA)
    threading.Thread(target=send_callbacks, daemon=True).start()
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["CONNECTOR_PORT"])), Connector).serve_forever()
