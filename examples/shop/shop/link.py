"""The shop's link with Placet: a thread tells Placet the customers' choices and reads the event feed, webhooks arrive
between.

The order of events about a person decides which one is the newest. Placet keeps that order in the feed and in the
deliveries of a webhook, where a later event waits for the acceptance of the earlier one. So webhooks are refused until
the feed has been read once: an event from before the webhook could else come after a newer one.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from placet_client import OMITTED, Gone, Invalid, NotGenuine, Page, Placet, PlacetError, verify
from placet_client.answers.campaign import ConsentEvent
from placet_client.answers.consent import ConsentAnswer
from placet_client.bodies.consent import EvidenceBody
from shop.settings import Settings
from shop.store import Choice, Standing, Store

log = logging.getLogger("shop")

TYPES: Sequence[Literal["consent.changed", "consent.opted_out"]] = ("consent.changed", "consent.opted_out")
AT_ONCE = 1_000
AGAIN_S = 2.0  # after a failure
MOST_CHARS = 200  # of `actor`


class Busy(Exception):
    """The shop cannot take a webhook now: Placet sends it again."""


class Link:
    def __init__(self, settings: Settings, store: Store, placet: Placet) -> None:
        self._settings = settings
        self._store = store
        self._placet = placet
        self._secret: str | None = None  # known once the feed has been read
        self._replacing = threading.Lock()
        self._wake = threading.Event()
        self._leaving = False

    @contextmanager
    def running(self) -> Iterator["Link"]:
        thread = threading.Thread(target=self._run, name="placet", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._leaving = True
            self._wake.set()
            thread.join(timeout=5.0)

    def wake(self) -> None:
        """Tell Placet a new choice at once."""
        self._wake.set()

    def take(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Apply a webhook; return once the event is stored. Raises NotGenuine, or Busy."""
        if self._secret is None:
            raise Busy
        found = verify(body, headers, self._secret)
        if found.body.get("type") not in TYPES:
            return
        event = ConsentEvent.model_validate(found.body)
        if event.id != found.id:
            raise NotGenuine("the id of the event is not the webhook's")
        if not self._replacing.acquire(timeout=5.0):
            raise Busy
        try:
            self._store.apply([self._read(event)], "webhook")
        finally:
            self._replacing.release()

    def _run(self) -> None:
        secret, next_at = None, 0.0
        while not self._leaving:
            pause_s = AGAIN_S
            try:
                secret = secret or self._subscribed()
                if time.monotonic() >= next_at:
                    self._catch_up()
                    next_at = time.monotonic() + self._settings.catch_up_every_s
                self._secret = secret
                self._tell()
                pause_s = max(0.0, next_at - time.monotonic())
            except PlacetError as error:
                log.warning("Placet cannot be asked now: %s", error)
            except Exception:
                log.exception("the link with Placet failed, and goes on")
            self._wake.wait(pause_s)
            self._wake.clear()

    def _subscribed(self) -> str:
        """Return the secret of this shop's webhook, which is added at the first start."""
        url = f"{self._settings.url}/placet"
        webhook = self._placet.webhooks.create(
            url=url,
            types=TYPES,
            sender_ids=[self._settings.sender],
            description="shop",
            idempotency_key=f"shop-{sha256(url.encode()).hexdigest()}",  # so that each start finds the same webhook
        )
        if webhook.status in ("failing", "gone"):  # because the shop was away; a person's pause stays
            self._placet.webhooks.update(webhook.webhook_id, status="enabled")
        return webhook.secret

    # The feed

    def _catch_up(self) -> None:
        """Read the feed from the cursor to its end: at the start, and now and then for what no webhook brought."""
        try:
            for page in self._pages(self._store.cursor()):
                new = self._store.apply([self._read(event) for event in page.items], "feed", page.next)
                if not page.items:
                    return
                if new:
                    log.info("%d events came by the feed", new)
        except Gone:
            self._read_anew()

    def _read_anew(self) -> None:
        """Read the present state: events behind the cursor are past their retention.

        The feed's events are passed by first, and the state is read after: what happens meanwhile is told by later
        events. Webhooks wait: the state read here may be older than theirs.
        """
        log.warning("the cursor is past the retention of events: the present state is read")
        with self._replacing:
            passed: list[str] = []
            for page in self._pages(None):
                passed += [event.id for event in page.items]
                if not page.items:
                    break
            cursor = page.next
            people = self._store.people()
            found = [
                (customer_id, standing)
                for at in range(0, len(people), AT_ONCE)
                for customer_id, standing, _ in self._present(people[at : at + AT_ONCE])
                if standing is not None
            ]
            assert cursor is not None
            self._store.replace(found, passed, cursor)

    def _pages(self, cursor: str | None) -> Iterator[Page[Any]]:
        return self._placet.events.list(
            cursor=OMITTED if cursor is None else cursor,
            type=TYPES,
            sender_id=self._settings.sender,
            limit=AT_ONCE,
            wait_s=0,
        ).pages()

    def _read(self, event: ConsentEvent) -> tuple[str, Standing]:
        """Return the id and the meaning of an event: each has the whole state after the change."""
        told = event.data
        state = next((each.state for each in told.consents if each.purpose == self._settings.purpose), "unknown")
        return event.id, _standing(told.subject_id, state, told.other_purposes_stopped, event.timestamp)

    # The customers

    def _tell(self) -> None:
        """Tell Placet each choice, oldest first, and learn the ids of new customers.

        A crash after the call repeats the call under the same key: one choice is one line of the ledger.
        """
        while strangers := self._store.strangers(AT_ONCE):
            for customer_id, standing, fault in self._present(strangers):
                self._store.met(customer_id, standing, fault)
        for choice in self._store.untold():
            try:
                found = self._opt_in(choice) if choice.yes else self._opt_out(choice)
            except Invalid as refused:
                log.error("Placet refuses choice %d: %s", choice.id, refused)
                self._store.told(choice, None, False, ", ".join(each.reason for each in refused.errors))
            else:
                self._store.told(choice, found.evidence_id, found.effective)

    def _present(self, people: Sequence[tuple[int, str]]) -> list[tuple[int, Standing | None, str | None]]:
        """Return for each customer the present state, or why Placet cannot write to the number."""
        now = datetime.now(UTC)
        checked = self._placet.consents.check(
            sender_id=self._settings.sender, purpose=self._settings.purpose, numbers=[number for _, number in people]
        )
        found: list[tuple[int, Standing | None, str | None]] = []
        for (customer_id, _), result in zip(people, checked.results, strict=True):
            if result.subject_id is None:
                found.append((customer_id, None, ", ".join(result.reasons)))
            else:
                standing = _standing(result.subject_id, result.state, "suppressed" in result.reasons, now)
                found.append((customer_id, standing, None))
        return found

    def _opt_in(self, choice: Choice) -> ConsentAnswer:
        return self._placet.consents.create(
            sender_id=self._settings.sender,
            purpose=self._settings.purpose,
            number=choice.number,
            occurred_at=choice.made_at,
            evidence=_evidence(choice),
            idempotency_key=choice.key,
        )

    def _opt_out(self, choice: Choice) -> ConsentAnswer:
        return self._placet.opt_outs.create(
            sender_id=self._settings.sender,
            purpose=self._settings.purpose,
            number=choice.number,
            occurred_at=choice.made_at,
            evidence=_evidence(choice),
            idempotency_key=choice.key,
        )


def _standing(subject_id: str, state: str, stopped: bool, since: datetime) -> Standing:
    """`stopped`: an opt-out covers purposes without a state of their own. A state counts every opt-out and START."""
    return Standing(subject_id, state, state == "opted_out" or (state == "unknown" and stopped), since)


def _evidence(choice: Choice) -> EvidenceBody:
    proof = choice.proof
    return {
        "source": "shop",
        "form_id": proof.form,
        "form_version": proof.version,
        "text_shown": proof.wording,
        "actor": f"customer at {proof.ip}, {proof.user_agent}"[:MOST_CHARS],
        "sale_reference": None if choice.purchase_id is None else f"order-{choice.purchase_id}",
    }
