"""Define the events of consent-svc: the senders, each subject's whole consent, checksums of all states, imports."""

from typing import ClassVar, Literal

import msgspec

from common.contracts.envelope import Event, Instant

State = Literal["unknown", "pending", "opted_in", "opted_out", "expired"]
Basis = Literal["opt_in", "soft_opt_in", "non_commercial"]
StopScope = Literal["controller", "sender"]

SLICE = 3  # hexadecimal characters of a keyed hash: 4,096 slices
DIGEST_BYTES = 5  # the sum of a slice of ten million lines stays below 2^63
RETENTION_MONTHS = 36  # for a prospect, from the last interaction (DOMAIN 1.4)


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """The purpose of a consent, as one sender words it."""

    id: str
    wording: str
    retention_months: int = RETENTION_MONTHS  # validity of a consent after the person's last interaction


class Replies(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's own texts for replies by SMS; `None`: Placet's standard text."""

    stop: str | None = None
    contact: str | None = None
    double_opt_in: str | None = None
    start: str | None = None


class SenderChanged(Event, frozen=True, kw_only=True):
    """The current data of a sender: the identified party to which a person gives consent."""

    type: ClassVar[str] = "consent.sender_changed.v1"

    sender_id: str
    version: int
    legal_name: str
    brand: str
    contact: str
    country: str  # ISO 3166-1 alpha-2
    oadc: str  # 3 to 11 alphanumerics with at least one letter
    stop_code: str  # 36xxx (marketing) or 38xxx (transactional)
    purposes: tuple[Purpose, ...]
    organisation_id: str  # of the tokens that may use the sender; never changes
    controller_id: str  # of the legal entity, shared by its senders; never changes
    stop_scope: StopScope = "controller"  # reach of a STOP: all senders of the controller, or this sender
    replies: Replies = Replies()
    abroad: tuple[str, ...] = ()  # other countries permitted for its marketing, ISO 3166-1 alpha-2
    reachable_in: tuple[str, ...] = ()  # places of the law's data where, by its own statement, its code is reachable
    stop_page: str | None = None  # the address before the token of a personal stop link; `None`: no link stops

    @property
    def key(self) -> str:
        return self.sender_id


class Consent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The current state for one (sender, purpose), with the evidence behind the state."""

    sender_id: str
    purpose: str
    state: State
    basis: Basis | None
    occurred_at: Instant  # time at source of the evidence
    evidence_id: str
    expires_at: Instant | None = None  # of an opt-in: the gate denies from then on, before the state changes
    reopening_rule: str | None = None  # the sender's rule by which an asserted opt-in stands in spite of a STOP
    stopped_at: Instant | None = None  # of an opt-out: arrival of the last STOP by text, if after `occurred_at`


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """An opt-out wider than the purposes on record. `sender_id` `None`: every sender."""

    sender_id: str | None
    since: Instant  # time at source


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence behind a change of state. `received_at`: when Placet first held the evidence (webhook or API)."""

    kind: Literal["opt_in", "opt_out"]
    source: str
    evidence_id: str
    received_at: Instant
    reference: str | None = None  # the operator's id of the MO, or of the message whose DLR reported the opt-out


class ConsentStateChanged(Event, frozen=True, kw_only=True):
    """The whole current consent of a subject.

    Each change has a higher `version` than every earlier change of the subject; versions skip numbers (ADR-0059).
    """

    type: ClassVar[str] = "consent.state_changed.v1"

    subject_id: str
    version: int
    consents: tuple[Consent, ...]
    suppressions: tuple[Suppression, ...]
    erased: bool
    causes: tuple[Cause, ...]  # evidence new in this version; empty where only the review hold changed
    held_since: Instant | None = None  # review hold: an MO waits for a reviewer, and marketing to the subject waits too

    @property
    def key(self) -> str:
        return self.subject_id


class StatesSummed(Event, frozen=True, kw_only=True):
    """The checksum of all published states, by which a reader checks its copy.

    `sums`: (number of subjects, sum of their digests) by slice: the last SLICE characters of the subject_id. A
    subject's digest is the sum of its lines' digests; a line's digest is the first DIGEST_BYTES of its SHA-256 as a
    number. Each line is `subject_id|version|sender_id|purpose|word`, with an empty field where a value does not apply:
    a line for the subject itself, with the word `erased` or `known`; a line per suppression, with `suppressed`; a line
    per consent, with its state. An opted-out consent under a suppression of its sender, or of every sender, has no
    line: consent-svc publishes no change for an old opt-in that arrives late under a suppression.

    All sums come from the same snapshot, taken between `begun_at` and `seen_until`; a state published after
    `seen_until` is not counted. `outer_key`: the outer key of the subject ids, which a reader's ids need too; empty
    without a subject.
    """

    type: ClassVar[str] = "consent.states_summed.v1"

    sum_id: str
    begun_at: Instant
    seen_until: Instant
    sums: dict[str, tuple[int, int]]
    outer_key: str = ""

    @property
    def key(self) -> str:
        return self.sum_id


class ConsentImportFinished(Event, frozen=True, kw_only=True):
    """Every line of a file of consents or opt-outs is recorded, or refused."""

    type: ClassVar[str] = "consent.import_finished.v1"

    notice_id: str  # the import's id
    sender_id: str | None  # `None`: every sender
    kind: Literal["consents", "suppressions"]
    lines: int
    refused: int
    finished_at: Instant

    @property
    def key(self) -> str:
        return self.notice_id
