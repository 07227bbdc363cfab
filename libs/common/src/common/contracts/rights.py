"""What the services owe a person who uses a right: an erasure asked for, done by each, and ended by new evidence; a
copy; a rectification. What is personal is sealed: the subject id is all that a service needs to find the rest."""

from typing import ClassVar

from common.contracts.envelope import Event, Instant


class ErasureRequested(Event, frozen=True, kw_only=True):
    """Erase all that is held of this person, and say so (`ErasureAcknowledged`). What comes in later and is of before
    `requested_at` is not kept either. The opt-out of everyone was recorded first, in the same transaction."""

    type: ClassVar[str] = "consent.erasure_requested.v1"

    erasure_id: str
    subject_id: str
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class ErasureLifted(Event, frozen=True, kw_only=True):
    """The person came back, by evidence newer than their erasures up to `lifted_at`: they may be held again."""

    type: ClassVar[str] = "consent.erasure_lifted.v1"

    subject_id: str
    lifted_at: Instant
    evidence_id: str

    @property
    def key(self) -> str:
        return self.subject_id


class ErasureAcknowledged(Event, frozen=True, kw_only=True):
    """One service holds nothing more of the person than what it names in the certificate as kept."""

    type: ClassVar[str] = "consent.erasure_acknowledged.v1"

    erasure_id: str
    subject_id: str
    service: str  # campaign, consent, dispatch or inbound
    erased_at: Instant
    erased: dict[str, int]  # how many of what: {"contacts": 2}

    @property
    def key(self) -> str:
        return self.subject_id


class CopyRequested(Event, frozen=True, kw_only=True):
    """The person asks for a copy of all that is held of them (RGPD art. 15 and 20): tell it (`CopyGathered`)."""

    type: ClassVar[str] = "consent.copy_requested.v1"

    copy_id: str
    subject_id: str
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class CopyGathered(Event, frozen=True, kw_only=True):
    """What one service holds of the person, in `of` parts: this is the one at `place`, from 0."""

    type: ClassVar[str] = "consent.copy_gathered.v1"

    copy_id: str
    subject_id: str
    service: str
    place: int
    of: int
    items: str  # a JSON list of objects, each with its "kind"; sealed, context "copy:<copy_id>:<service>:<place>"
    gathered_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class RectificationRequested(Event, frozen=True, kw_only=True):
    """Put right what is held of this person (RGPD art. 16), and say so (`RectificationAcknowledged`). Either `fields`
    of them are corrected, or, with None, the number is not theirs: nothing is to be held of them under it."""

    type: ClassVar[str] = "consent.rectification_requested.v1"

    rectification_id: str
    subject_id: str
    sender_id: str | None  # whose copy of it; None: every sender's
    fields: str | None  # JSON, each with what is right, null: to be taken out; sealed, "rectification:<id>"
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class RectificationAcknowledged(Event, frozen=True, kw_only=True):
    """One service has put right what it holds."""

    type: ClassVar[str] = "consent.rectification_acknowledged.v1"

    rectification_id: str
    subject_id: str
    service: str  # campaign
    rectified_at: Instant
    rectified: dict[str, int]  # how many of what: {"contacts": 1, "messages": 2}

    @property
    def key(self) -> str:
        return self.subject_id
