"""A probe: one fictional person consents, is written to, and says STOP by the operator's own way; each step is timed.

The STOP travels as a person's: the simulated operator calls inbound-svc back. The turn then asks for further messages
until one is denied for the STOP. At its end the person texts START, or the number could never consent again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx

from placet_client import Placet, PlacetError

PEOPLE = 10_000  # 06 39 98 xx xx, which belong to nobody
LOOK_EVERY_S = 0.1
DECIDED = ("accepted", "denied", "rejected", "unknown", "expired")


@dataclass(frozen=True)
class Turn:
    """What a turn measured; a step that was not reached is None. `fault`: what is wrong, and what to do."""

    at: str
    consent_s: float | None = None
    message: str | None = None
    message_s: float | None = None
    stop_s: float | None = None
    fault: str | None = None

    @property
    def line(self) -> str:
        steps = [
            *([f"consent {self.consent_s:.2f} s"] if self.consent_s is not None else []),
            *([f"message {self.message} {self.message_s:.2f} s"] if self.message_s is not None else []),
            *([f"STOP {self.stop_s:.2f} s"] if self.stop_s is not None else []),
        ]
        return (
            f"{self.at} {'WRONG' if self.fault else 'ok'} {', '.join([*steps, *([self.fault] if self.fault else [])])}"
        )


class Fault(Exception):
    """A step that did not end as it must."""


@dataclass(frozen=True)
class Probe:
    """`operator`: the URL of the simulated operator. `within_s`: of each step."""

    placet: Placet
    http: httpx.Client
    operator: str
    sender_id: str
    purpose: str
    within_s: float

    def turn(self, person: int) -> Turn:
        """Go through the steps as one person, and tell how long each took. Never raises for a fault of the platform."""
        number, measured = f"+3363998{person % PEOPLE:04d}", dict[str, Any]()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            for name, value in self._steps(number):
                measured[name] = value
        except Fault as fault:
            measured["fault"] = str(fault)
        except (PlacetError, httpx.HTTPError) as error:
            measured["fault"] = f"{type(error).__name__}: {error}"
        if number in str(measured.get("fault", "")):
            measured["fault"] = "an answer told the number: run `placet doctor`"
        return Turn(at, **measured)

    def _steps(self, number: str) -> Iterator[tuple[str, Any]]:
        code = self.placet.senders.get(self.sender_id).stop_code
        begun = time.monotonic()
        given = self.placet.consents.create(
            sender_id=self.sender_id,
            purpose=self.purpose,
            number=number,
            occurred_at=datetime.now(UTC),
            evidence={"source": "probe", "form_id": "doctor", "form_version": "1"},
        )
        if not given.effective:
            self._texts(number, code, "START")
            raise Fault("the consent is not in force after an earlier turn: START was sent, try the next turn")
        yield "consent_s", time.monotonic() - begun
        begun = time.monotonic()
        status = self._became(self._message(number, code))
        yield "message", status
        yield "message_s", time.monotonic() - begun
        if status not in ("accepted", "deferred"):  # a message at night waits for the morning
            raise Fault(f"the message is {status}: `placet messages list` has its decision")
        begun = time.monotonic()
        self._texts(number, code, "STOP")
        self._until(lambda: not self._allowed(number), "consent-svc does not know the STOP: docs/runbook.md#stopslow")
        self._until(
            lambda: self._became(self._message(number, code)) == "denied",
            "a message after the STOP is not denied: docs/runbook.md#stopslow",
        )
        yield "stop_s", time.monotonic() - begun
        self._texts(number, code, "START")

    def _texts(self, number: str, code: str, text: str) -> None:
        reply = {"from": number, "to": code, "text": text}
        self.http.post(f"{self.operator.rstrip('/')}/control/replies", json={"replies": [reply]}).raise_for_status()

    def _allowed(self, number: str) -> bool:
        (found,) = self.placet.consents.check(sender_id=self.sender_id, purpose=self.purpose, numbers=[number]).results
        return found.allowed

    def _message(self, number: str, code: str) -> UUID:
        return self.placet.messages.create(
            sender_id=self.sender_id,
            to=number,
            category="marketing",
            purpose=self.purpose,
            text=f"Essai. STOP au {code}",
        ).message_id

    def _became(self, message_id: UUID) -> str:
        """Return the status of a message once it is decided, or `deferred` where a message is that for too long.

        The gate defers for a moment while dispatch-svc's consents are older than the request.
        """
        deadline, status = time.monotonic() + self.within_s, ""
        while time.monotonic() < deadline:
            status = self.placet.messages.get(message_id).status
            if status in DECIDED:
                return status
            time.sleep(LOOK_EVERY_S)
        if status != "deferred":
            raise Fault(f"not within {self.within_s:g} s: a message is still {status}: docs/runbook.md#consentstale")
        return status

    def _until(self, look: Callable[[], bool], fault: str) -> None:
        deadline = time.monotonic() + self.within_s
        while not look():
            if time.monotonic() > deadline:
                raise Fault(f"not within {self.within_s:g} s: {fault}")
            time.sleep(LOOK_EVERY_S)
