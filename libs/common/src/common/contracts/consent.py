"""What consent-svc publishes: the sender registry, and the whole consent of a subject with its version."""

from typing import ClassVar, Literal

import msgspec

from common.contracts.envelope import Event, Instant

State = Literal["unknown", "pending", "opted_in", "opted_out", "expired"]
Basis = Literal["opt_in", "soft_opt_in", "non_commercial"]
StopScope = Literal["controller", "sender"]

SLICE = 3  # characters, of a keyed hash in hexadecimal: 4,096 slices
DIGEST_BYTES = 5  # a slice of ten million lines still adds up to less than 2^63
RETENTION_MONTHS = 36  # of a prospect, from their last contact (DOMAIN 1.4)


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What a consent is for, as one sender words it."""

    id: str
    wording: str
    retention_months: int = RETENTION_MONTHS  # how long a consent holds after the person's last contact


class Replies(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender answers by SMS, in its own words; None: in Placet's."""

    stop: str | None = None
    contact: str | None = None
    double_opt_in: str | None = None
    start: str | None = None


class SenderChanged(Event, frozen=True, kw_only=True):
    """A sender as it now stands: the identified party a consent is given to."""

    type: ClassVar[str] = "consent.sender_changed.v1"

    sender_id: str
    version: int
    legal_name: str
    brand: str
    contact: str
    country: str  # ISO 3166-1 alpha-2
    oadc: str  # 3 to 11 alphanumerics, one letter at least
    stop_code: str  # 36xxx (marketing) or 38xxx (transactional)
    purposes: tuple[Purpose, ...]
    controller: str | None = None  # the legal entity's id, several senders may share it; None: the sender alone
    stop_scope: StopScope = "controller"  # what a STOP to this sender shuts: all of its controller, or this sender
    replies: Replies = Replies()
    abroad: tuple[str, ...] = ()  # other countries that it may send marketing to, ISO 3166-1 alpha-2

    @property
    def key(self) -> str:
        return self.sender_id


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """The current state for one (sender, purpose), and the evidence that made it so."""

    sender_id: str
    purpose: str
    state: State
    basis: Basis | None
    occurred_at: Instant  # time at source of the evidence
    evidence_id: str
    expires_at: Instant | None = None  # of one that is opted in: from then on it is none, whatever comes to be told


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """An opt-out that covers more than the purposes on record. `sender_id` None: every sender."""

    sender_id: str | None
    since: Instant  # time at source


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a state changed; `received_at` is when Placet first held the evidence (webhook or API)."""

    kind: Literal["opt_in", "opt_out"]
    source: str
    evidence_id: str
    received_at: Instant
    reference: str | None = None  # the operator's name for what said it: an MO, or the message a receipt is of


class ConsentStateChanged(Event, frozen=True, kw_only=True):
    """The whole current consent of a subject; `version` grows by one with each change."""

    type: ClassVar[str] = "consent.state_changed.v1"

    subject_id: str
    version: int
    consents: tuple[Consent, ...]
    suppressions: tuple[Suppression, ...]
    erased: bool
    causes: tuple[Cause, ...]  # what changed in this version; none where only the hold did
    held_since: Instant | None = None  # an MO of theirs waits for a person to read it: marketing waits with it

    @property
    def key(self) -> str:
        return self.subject_id


class StatesSummed(Event, frozen=True, kw_only=True):
    """What all states that were told add up to, so that whoever keeps a copy can tell whether it is one.

    `sums`: (how many subjects, the sum of their digests) by slice: the last SLICE characters of the subject_id. A
    subject's digest is the sum of those of its lines; a line's are the first DIGEST_BYTES of its SHA-256 as a number.
    Each line is `subject_id|version|sender_id|purpose|word`, empty where it does not apply: one of the subject itself,
    with the word `erased` or `known`; one of each suppression, with `suppressed`; one of each consent, with its state,
    but not where it is opted out and a suppression says so already: an old opt-in that comes late is told to nobody.

    They are of one snapshot, taken between `begun_at` and `seen_until`: what was told after `seen_until` is not in it.
    """

    type: ClassVar[str] = "consent.states_summed.v1"

    sum_id: str
    begun_at: Instant
    seen_until: Instant
    sums: dict[str, tuple[int, int]]

    @property
    def key(self) -> str:
        return self.sum_id
