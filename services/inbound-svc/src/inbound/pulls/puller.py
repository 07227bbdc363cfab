"""The timer that asks a provider for what no callback told, and journals the rest as callbacks are.

A callback may be on its way, so a pull asks about the time up to `SETTLED` ago. A quick pull reaches a little behind
the last one; a whole one, each hour and after a start, asks about the last `hours`: a DLR may come long after its
message. An item in the journal is a duplicate and changes nothing. An MO without a text goes to review under an id of
its own, so that its callback, should it still come, counts with its text.

Where inbound-svc is divided, the shard of partition 0 pulls, and journals each item in the item's shard. A pull that a
shard cuts short asks about the same time again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.db.database import Database
from common.db.timer import Timer, Worker
from common.service import Resources
from common.telemetry import counter
from inbound import journal, store
from inbound.journal import Arrival, Entry
from inbound.keywords import Understanding
from inbound.providers import Account, Kind, Message, Receipt, Unreadable, WrongField, capabilities
from inbound.pulls import LISTINGS, over_http
from inbound.pulls.listing import Ask, Keys, Listed, Page, Window
from inbound.pulls.over_http import Refused
from inbound.store import Origin

log = logging.getLogger(__name__)

SETTLED = timedelta(minutes=2)  # providers try a failed callback again within a minute
OVERLAP = timedelta(minutes=15)  # of quick pulls: lists lag behind by minutes
WHOLE_EVERY = timedelta(hours=1)
PAGES = 500  # of a pull; the next one starts anew
TEXTLESS = Understanding("review", "pulled_without_text", 0.0, "")

FOUND = counter(
    "sms_inbound_pulled_total",
    "MOs and DLRs that a pull found in a provider's list, and that no callback had told.",
    ["provider", "account", "kind"],
)
PULLS = counter(
    "sms_inbound_pulls_total",
    "Pulls of a provider's list, by result: whole, cut (more pages than we ask for, or items that cannot be read) or"
    " failed.",
    ["provider", "account", "result"],
)


@dataclass(frozen=True, slots=True)
class Pull:
    """The pull of an account. `hours`: how far back a whole pull asks; `every_s`: the pause between pulls."""

    account: Account
    keys: Keys
    kinds: tuple[Kind, ...]
    hours: int
    every_s: float


def worker(held: Resources[Any], pull: Pull) -> Worker:
    database: Database = held.database
    name = f"pull.{pull.account.provider}.{pull.account.account}"
    return Worker(name, Timer(name, Puller(held, pull).tick, pull.every_s, database).run)


class Puller:
    """Pulls the lists of one account."""

    def __init__(self, held: Resources[Any], pull: Pull) -> None:
        self._held = held
        self._pull = pull
        self._listing = LISTINGS[pull.account.provider]
        self._url = (pull.keys.url or self._listing.URL).rstrip("/")
        self._asked_until: datetime | None = None
        self._whole_until: datetime | None = None

    async def tick(self) -> bool:
        """Pull once. A failure waits for the next pull, which asks about the same time again."""
        account = self._pull.account
        labels = account.provider, account.account
        window, whole = self._window(datetime.now(UTC))
        try:
            cut = await self._all(window)
        except (Refused, Unreadable, WrongField) as error:
            PULLS.labels(*labels, "failed").inc()
            log.error("a pull failed", extra={"provider": labels[0], "account": labels[1], "why": str(error)})
            return False
        PULLS.labels(*labels, "cut" if cut else "whole").inc()
        if whole:
            self._whole_until = window.until
        if whole or not cut:
            self._asked_until = window.until
        return False

    def _window(self, now: datetime) -> tuple[Window, bool]:
        """Return the time to ask about, and whether that is all of the last hours."""
        until = now - SETTLED
        if self._asked_until is None or self._whole_until is None or until - self._whole_until >= WHOLE_EVERY:
            return Window(until - timedelta(hours=self._pull.hours), until), True
        return Window(self._asked_until - OVERLAP, until), False

    async def _all(self, window: Window) -> bool:
        """Journal every page; return whether anything was left out."""
        cut, pages = False, 0
        async with over_http.session() as client:
            for ask in self._listing.asks(self._pull.keys, window, self._pull.kinds):
                following: Ask | None = ask
                while following is not None:
                    if pages == PAGES:
                        return True
                    pages += 1
                    url = self._url + following.path
                    headers = self._listing.headers(self._pull.keys, url, datetime.now(UTC))
                    body = await over_http.get(client, url, headers)
                    page = self._listing.page(following, body, self._pull.keys, window)
                    await self._journal(page)
                    cut = cut or page.unreadable > 0
                    following = page.following
        return cut

    async def _journal(self, page: Page) -> None:
        """Journal the items of a page that no callback told."""
        received_at = datetime.now(UTC)
        known = set().union(*await everywhere.of_each(self._held.shards, lambda tx: self._known(tx, page.items)))
        arrivals = [self._arrival(each, received_at) for each in page.items if _name(each) not in known]
        for one in await journal.kept_in_each(self._held, arrivals):
            if one.fresh:
                FOUND.labels(self._pull.account.provider, self._pull.account.account, one.arrival.origin.kind).inc()
        if page.unreadable:
            extra = {"provider": self._pull.account.provider, "account": self._pull.account.account}
            log.error("items of a pull cannot be read", extra={**extra, "unreadable": page.unreadable})

    async def _known(self, tx: AsyncConnection, items: Sequence[Listed]) -> set[str]:
        """Return the names of the MOs in the journal, of a callback or of a pull; DLRs fall away when journalled."""
        names = [name for each in items if (name := _name(each)) is not None]
        origin = self._origin("messages")
        found = await store.known_messages(tx, origin, [*names, *map(_textless, names)]) if names else set()
        return {name for name in names if name in found or _textless(name) in found}

    def _arrival(self, listed: Listed, received_at: datetime) -> Arrival:
        entry = self._entry(listed, received_at)
        kind: Kind = "messages" if isinstance(listed.item, Message) else "receipts"
        return Arrival(self._origin(kind), [entry], listed.content, received_at)

    def _entry(self, listed: Listed, received_at: datetime) -> Entry:
        item = listed.item
        if isinstance(item, Receipt):
            return journal.receipt_entry(self._held, self._origin("receipts"), item, received_at)
        name = item.provider_message_id or ""
        message = structs.replace(
            item,
            provider_message_id=_textless(name) if listed.textless else name,
            short_code=item.short_code or self._pull.account.short_code,
        )
        does = capabilities(self._pull.account)
        return journal.message_entry(
            self._held,
            self._origin("messages"),
            message,
            received_at,
            answered=does.answers_stop,
            retries_for=does.retries_for,
            meant=TEXTLESS if listed.textless else None,
        )

    def _origin(self, kind: Kind) -> Origin:
        return Origin(self._pull.account.provider, self._pull.account.account, kind)


def _name(listed: Listed) -> str | None:
    return listed.item.provider_message_id if isinstance(listed.item, Message) else None


def _textless(name: str) -> str:
    return f"pulled-{name}"
