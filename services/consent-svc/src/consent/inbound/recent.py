"""Remember the messages handed off of late, so that a DLR which changes nothing here needs no statement. Pure.

Most DLRs are the next version of a message, with the same outcome and time of hand-off. The reader has then either
stored the version before, or seen that nothing changed since the stored one: every version from there on was read, and
none differs. Where a later version is stored meanwhile, by the process that got the partition, the DLR is late. A
failover that lost rows makes the consumer read the lost versions again, none of which is the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

KEPT = 50_000  # messages, of some 250 bytes: what leaves in half a minute

State = tuple[int, str, datetime]
"""A message's version, outcome and time of hand-off."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest states, by message id. `most`: the number of messages kept; the first to come is forgotten first."""

    most: int = KEPT
    states: dict[str, State] = field(default_factory=dict)

    def add(self, states: Mapping[str, State]) -> None:
        """Add states that are stored, or change nothing. Only once their transaction has committed."""
        self.states.update(states)
        for message_id in list(islice(self.states, max(0, len(self.states) - self.most))):
            del self.states[message_id]
