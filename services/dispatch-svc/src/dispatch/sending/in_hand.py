"""What is in hand: messages with a permit and without an outcome. No more come than leave on their permits."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TURNS_AHEAD = 4  # at most: an opt-out waits for what of its person is in hand
LATELY = 8  # submits of which the average tells


@dataclass(slots=True)
class InHand:
    """The messages in hand.

    `a_turn`: messages that the slots of one gateway submit at once; `all_slots`: those of all gateways, so that a slow
    gateway leaves room for the others.
    """

    a_turn: int
    all_slots: int
    many: int = 0
    _deciding: int = 0  # read and not decided
    _turns: int = TURNS_AHEAD
    _submit_s: float = 0.0  # how long a submit keeps its slot: a moving average
    _room: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._room.set()

    @property
    def most(self) -> int:
        """Return how many messages may be in hand."""
        return max(self.all_slots, self._turns * self.a_turn)

    @property
    def is_behind(self) -> bool:
        """Return whether more is in hand than leaves soon."""
        return self.many >= self.most

    @property
    def at_once(self) -> int:
        """Return how many messages may come in hand with one decision."""
        return max(1, self.most // 2)

    @property
    def may_take(self) -> int:
        """Return how many messages the intake may read now. Messages without room are decoded in vain."""
        return 0 if self.many + self._deciding >= self.most else self.at_once

    async def room(self) -> None:
        """Return once the hand-off is not behind. A polling caller would find the room taken."""
        await self._room.wait()

    @contextmanager
    def holding(self, many: int) -> Iterator[None]:
        """Have so many more messages in hand meanwhile."""
        self._add(many)
        try:
            yield
        finally:
            self._add(-many)

    @contextmanager
    def deciding(self, many: int) -> Iterator[None]:
        """Have so many messages meanwhile that may come in hand."""
        self._deciding += many
        try:
            yield
        finally:
            self._deciding -= many

    def submitted(self, took_s: float, permit_s: float) -> None:
        """Note how long a submit kept its slot. `permit_s`: how long a permit lasts."""
        self._submit_s += (took_s - self._submit_s) / (LATELY if self._submit_s else 1)
        self._turns = turns_ahead(self._submit_s, permit_s)

    def _add(self, many: int) -> None:
        self.many += many
        if self.is_behind:
            self._room.clear()
        else:
            self._room.set()


def turns_ahead(submit_s: float, permit_s: float) -> int:
    """Return how many submits of a slot may be in hand: the last begins within half of a permit.

    A message that waits for longer lapses, and is decided again at the cost of a second decision.
    """
    return max(1, min(TURNS_AHEAD, int(permit_s / 2 / max(submit_s, 0.001))))
