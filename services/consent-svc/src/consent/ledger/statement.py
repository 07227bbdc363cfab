"""Statements offered to the recorder, their outcome, and what the registry adds to each. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from common.contracts.consent import StopScope
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
