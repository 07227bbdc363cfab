"""The result of a run, for a person and as JSON. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from chaos.checks import AtRest, Violation
from chaos.watching import Hold


@dataclass(slots=True)
class Suffered:
    """A fault that was injected. Seconds; `began_s` since the start.

    `recovered_s`: from its end until every process was ready, with fresh consent data; `None`: never.
    """

    number: int
    kind: str
    target: str
    began_s: float
    lasted_s: float
    recovered_s: float | None
    held_s: float = 0.0  # of fault and recovery, with marketing held

    @property
    def ended_s(self) -> float:
        return self.began_s + self.lasted_s + (self.recovered_s or 0.0)


@dataclass(slots=True)
class Report:
    seed: int
    broker: str
    seconds: float
    faults: list[Suffered]
    left_out: list[str]
    messages: int  # taken by the operator
    outcomes: dict[str, int]  # of the ledger, by status
    stops: int
    stop_latencies_s: list[float]  # from the operator's sending to the enforcement
    holds: list[Hold]
    deaths: list[str]  # of processes that no fault killed: they end on purpose
    dead_letters: int
    at_rest: list[AtRest]
    looks: int
    looks_failed: int
    violations: list[Violation] = field(default_factory=list)

    def latency_s(self, percent: int) -> float:
        if len(self.stop_latencies_s) < 2:
            return max(self.stop_latencies_s, default=0.0)
        return statistics.quantiles(self.stop_latencies_s, n=100, method="inclusive")[percent - 1]

    @property
    def longest_hold_s(self) -> float:
        return max((hold.lasted_s for hold in self.holds), default=0.0)

    @property
    def longest_recovery_s(self) -> float:
        return max((fault.recovered_s or 0.0 for fault in self.faults), default=0.0)

    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def text(self) -> str:
        lines = [
            f"seed {self.seed}, {self.broker}, {self.seconds:.0f} s, {len(self.faults)} faults",
            "",
            f"{'':>3}  {'at':>7}  {'fault':<16} {'to':<28} {'lasted':>8} {'recovered':>10} {'held':>7}",
        ]
        for one in self.faults:
            recovered = "never" if one.recovered_s is None else f"{one.recovered_s:.1f} s"
            lines.append(
                f"{one.number:>3}. {one.began_s:>6.0f} s  {one.kind:<16} {one.target:<28} {one.lasted_s:>6.1f} s"
                f" {recovered:>10} {one.held_s:>5.1f} s"
            )
        lines += [f"left out: {why}" for why in self.left_out]
        outcomes = ", ".join(f"{status} {many}" for status, many in sorted(self.outcomes.items()))
        lines += [
            "",
            f"messages: {self.messages} taken by the operator; in the ledger: {outcomes}",
            f"STOPs: {self.stops}, enforced {len(self.stop_latencies_s)}; sent to enforced: median"
            f" {self.latency_s(50):.2f} s, p99 {self.latency_s(99):.2f} s,"
            f" longest {max(self.stop_latencies_s, default=0.0):.2f} s",
            f"holds: {len(self.holds)}, together {sum(hold.lasted_s for hold in self.holds):.1f} s,"
            f" longest {self.longest_hold_s:.1f} s",
            f"recovery: longest {self.longest_recovery_s:.1f} s",
            f"processes that ended by themselves: {len(self.deaths)}; dead letters: {self.dead_letters}",
            *(f"at rest: {one.check}: {'; '.join(one.why) or 'yes'}" for one in self.at_rest),
            f"looks: {self.looks}, of which {self.looks_failed} found a ledger out of reach",
            f"violations: {len(self.violations)}",
            *(f"  promise {each.promise}, {each.check}: {each.what}" for each in self.violations),
        ]
        return "\n".join(lines)


def held(faults: Sequence[Suffered], holds: Sequence[Hold]) -> None:
    """Set the time of each fault and recovery during which marketing was held."""
    for fault in faults:
        overlaps = (
            min(fault.ended_s, hold.began_s + hold.lasted_s) - max(fault.began_s, hold.began_s) for hold in holds
        )
        fault.held_s = round(sum(each for each in overlaps if each > 0), 1)
