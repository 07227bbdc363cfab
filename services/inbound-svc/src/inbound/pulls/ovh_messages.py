"""Polling of MOs at OVHcloud, whose MO callback is undocumented (see `providers.ovh`).

A STOP counts once found: its latency includes `every_s`. An MO which cannot be read is logged, tried again at each
poll, and delays no other.

A request is signed: "$1$" and SHA-1, in hexadecimal, of application secret, consumer key, method, URL, body and time,
joined by "+" (ovh/python-ovh ovh/client.py).
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp

from common.db import everywhere
from common.db.database import Database
from common.db.timer import Timer, Worker
from common.service import Resources
from inbound import journal, store
from inbound.journal import Arrival
from inbound.providers import Unreadable, WrongField, ovh
from inbound.store import Origin

log = logging.getLogger(__name__)

AT_ONCE = 100  # in a tick; the next follows at once
REQUEST_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 16 * 1024 * 1024  # a million ids


@dataclass(frozen=True, slots=True)
class OvhService:
    """An OVHcloud SMS service, and our keys to its API.

    `account`: as of its DLRs.
    """

    account: str
    service: str
    application_key: str
    application_secret: str = field(repr=False)
    consumer_key: str = field(repr=False)
    url: str = "https://eu.api.ovh.com/1.0"
    short_code: str = ""


class Refused(Exception):
    """The API gave an unexpected answer."""


def worker(held: Resources[Any], service: OvhService, every_s: float) -> Worker:
    database: Database = held.database
    name = f"ovh.{service.account}"
    return Worker(name, Timer(name, Poller(held, service).tick, every_s, database).run)


class Poller:
    """Fetches the MOs of one service."""

    def __init__(self, held: Resources[Any], service: OvhService) -> None:
        self._held = held
        self._service = service
        self._origin = Origin("ovh", service.account, "messages")
        self._unreadable: set[str] = set()  # tried last

    async def tick(self) -> bool:
        """Fetch up to AT_ONCE new MOs; return whether any was journalled: there may be more."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            listed: object = json.loads(await self._get(session, ""))
            if not isinstance(listed, list):
                raise Refused("the list of MOs is no list")
            ids = [str(one) for one in listed if isinstance(one, int)]
            found_in = await everywhere.of_each(
                self._held.shards, lambda tx: store.known_messages(tx, self._origin, ids)
            )
            known = set().union(*found_in)
            new = sorted((one for one in ids if one not in known), key=self._unreadable.__contains__)[:AT_ONCE]
            found = [await self._fetch(session, one) for one in new]
        return any(found)

    async def _fetch(self, session: aiohttp.ClientSession, mo: str) -> bool:
        """Fetch and journal one MO; return whether the journal has the MO."""
        try:
            raw = await self._get(session, f"/{mo}")
            received_at = datetime.now(UTC)
            fields: object = json.loads(raw)
            if not isinstance(fields, dict):
                raise Unreadable("no object")
            message = ovh.polled({**fields, "id": mo}, self._service.short_code)
        except (Refused, ValueError, RecursionError, Unreadable, WrongField) as error:
            extra = {"provider": "ovh", "account": self._service.account, "provider_message_id": mo}
            self._unreadable.add(mo)
            log.error("a polled MO cannot be read", extra={**extra, "why": type(error).__name__})
            return False
        answered = ovh.capabilities.answers_stop
        entry = journal.message_entry(self._held, self._origin, message, received_at, answered=answered)
        await journal.kept_in_each(self._held, [Arrival(self._origin, [entry], raw, received_at)])
        return True

    async def _get(self, session: aiohttp.ClientSession, path: str) -> bytes:
        url = f"{self._service.url}/sms/{quote(self._service.service, safe='')}/incoming{path}"
        async with session.get(url, headers=headers(self._service, url, datetime.now(UTC))) as answer:
            if answer.status != 200:
                raise Refused(f"OVHcloud answered {answer.status}")
            body = await answer.content.read(MAX_BODY_BYTES)
            while chunk := await answer.content.read(MAX_BODY_BYTES):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Refused("OVHcloud answered more than we read")
            return body


def headers(service: OvhService, url: str, now: datetime) -> Mapping[str, str]:
    """Return the signed headers of a GET."""
    stamp = str(int(now.timestamp()))
    signed = "+".join((service.application_secret, service.consumer_key, "GET", url, "", stamp))
    return {
        "X-Ovh-Application": service.application_key,
        "X-Ovh-Consumer": service.consumer_key,
        "X-Ovh-Timestamp": stamp,
        # chosen by OVHcloud
        "X-Ovh-Signature": "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest(),
    }
