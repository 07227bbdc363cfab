"""Statements offered to the recorder, their outcome, and what the registry adds to each. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress

import msgspec
from msgspec.structs import replace

from common.contracts.consent import StopScope
from common.sms.subject_id import InnerId
from consent.ledger.rules import Decision, Evidence


class Statement(msgspec.Struct, frozen=True, gc=False):
    """Evidence with its subject. `number` is encrypted with the context "number:<subject_id>".

    `erases`: the opt-out asks for erasure. An opt-out from every sender erases everything; an opt-out from one sender
    erases its controller's data. `to_review`: the opt-out waits for a reviewer.
    """

    subject_id: str
    number: str | None
    evidence: Evidence
    erases: bool = False
    trace: str | None = None
    to_review: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """Opt-ins that differ in person, evidence id and time alone, as columns: a file has thousands of them.

    `evidence`: of one of them. A person has one place. `numbers`: encrypted, as of `Statement`.
    """

    evidence: Evidence
    subjects: Sequence[str]
    inners: Sequence[InnerId]
    numbers: Sequence[str | None]
    evidence_ids: Sequence[str]
    times: Sequence[datetime]

    def __len__(self) -> int:
        return len(self.subjects)

    def statements(self) -> Iterator[Statement]:
        """Yield the statement of each place."""
        for subject_id, number, evidence_id, at in zip(
            self.subjects, self.numbers, self.evidence_ids, self.times, strict=True
        ):
            yield Statement(subject_id, number, replace(self.evidence, evidence_id=evidence_id, occurred_at=at))

    def of(self, people: Collection[str]) -> "Alike":
        """Return the opt-ins of these people."""
        return self.where([subject_id in people for subject_id in self.subjects])

    def without(self, people: Collection[str]) -> "Alike":
        """Return the opt-ins of all but these people."""
        return self.where([subject_id not in people for subject_id in self.subjects]) if people else self

    def where(self, chosen: Sequence[bool]) -> "Alike":
        """Return the opt-ins that are chosen, by place."""
        return Alike(
            self.evidence,
            list(compress(self.subjects, chosen)),
            list(compress(self.inners, chosen)),
            list(compress(self.numbers, chosen)),
            list(compress(self.evidence_ids, chosen)),
            list(compress(self.times, chosen)),
        )


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a statement. `version`, `erased`: after the batch; `version` is `None` if refused."""

    statement: Statement
    decision: Decision
    version: int | None
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """A sender's controller, how far a STOP reaches, and the reopening rules in force by purpose."""

    controller: str
    stop_scope: StopScope
    reopening_rules: dict[str, str]


def controlled(evidence: Evidence, registered: Mapping[str, Registered], *, whole: bool = False) -> Evidence:
    """Return `evidence` with the registry's controller (ADR-0020) and reopening rule, which no caller can set.

    `whole`: an opt-out covers the whole controller, whatever reach the sender gives a STOP.
    """
    sender = registered.get(evidence.sender_id) if evidence.sender_id else None
    if sender is None:
        return evidence
    narrow = evidence.kind == "opt_out" and (evidence.purpose is not None or sender.stop_scope == "sender")
    narrow = narrow and not whole
    asserted = evidence.kind == "opt_in" and not evidence.by_person
    return replace(
        evidence,
        controller=None if narrow else sender.controller,
        reopening_rule=sender.reopening_rules.get(evidence.purpose or "") if asserted else None,
    )
