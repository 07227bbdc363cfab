"""Define the events for a person's rights: erasure, copy and rectification.

Personal values are encrypted; a service finds its data by the subject id alone.
"""

from typing import ClassVar

from common.contracts.envelope import Event, Instant


class ErasureRequested(Event, frozen=True, kw_only=True):
    """The request to erase what a service holds of a person, and to confirm with `ErasureAcknowledged`.

    `controller_id`: only the data of this controller's senders; `None`: everything, as the person or the end of all
    retention asks. A service also erases data of before `requested_at` that arrives later. consent-svc records the
    opt-out from every sender concerned earlier in the same transaction.
    """

    type: ClassVar[str] = "consent.erasure_requested.v1"

    erasure_id: str
    subject_id: str
    controller_id: str | None
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class ErasureLifted(Event, frozen=True, kw_only=True):
    """The person has returned to a controller, by evidence newer than every erasure up to `lifted_at`.

    Services may hold the person's data again for the senders of this controller, and of no other.
    """

    type: ClassVar[str] = "consent.erasure_lifted.v1"

    subject_id: str
    controller_id: str
    lifted_at: Instant
    evidence_id: str

    @property
    def key(self) -> str:
        return self.subject_id


class ErasureAcknowledged(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A service has erased the person's data, apart from the data listed as kept in the certificate.

    `shard`, `shards`: of a service that holds a person in several databases, the database and how many answer.
    """

    type: ClassVar[str] = "consent.erasure_acknowledged.v1"

    erasure_id: str
    subject_id: str
    service: str  # campaign, consent, dispatch or inbound
    erased_at: Instant
    erased: dict[str, int]  # count by kind: {"contacts": 2}
    shard: str = ""
    shards: int = 1

    @property
    def key(self) -> str:
        return self.subject_id


class ErasureFinished(Event, frozen=True, kw_only=True):
    """Every service has acknowledged the erasure. `controller_id`: as in `ErasureRequested`."""

    type: ClassVar[str] = "consent.erasure_finished.v1"

    notice_id: str  # the erasure's id
    subject_id: str
    controller_id: str | None
    finished_at: Instant

    @property
    def key(self) -> str:
        return self.notice_id


class CopyRequested(Event, frozen=True, kw_only=True):
    """A person's request for a copy of all data a controller holds (RGPD art. 15, 20); answered by `CopyGathered`."""

    type: ClassVar[str] = "consent.copy_requested.v1"

    copy_id: str
    subject_id: str
    controller_id: str
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class CopyGathered(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the data that a service holds of the person. `place`: index of the part, from 0; `of`: the count.

    `shard`, `shards`: as of `ErasureAcknowledged`; place and count are then of the shard.
    """

    type: ClassVar[str] = "consent.copy_gathered.v1"

    copy_id: str
    subject_id: str
    service: str
    place: int
    of: int
    items: str  # JSON list of objects with a "kind"; encrypted, context "copy:<copy_id>:<service>:<place><shard>"
    gathered_at: Instant
    shard: str = ""
    shards: int = 1

    @property
    def key(self) -> str:
        return self.subject_id


class RectificationRequested(Event, frozen=True, kw_only=True):
    """The request to correct a person's data (RGPD art. 16), and to confirm with `RectificationAcknowledged`.

    With `fields`, the service corrects those fields. Without, the number is not the person's: the service deletes the
    data held under the number.
    """

    type: ClassVar[str] = "consent.rectification_requested.v1"

    rectification_id: str
    subject_id: str
    controller_id: str  # whose data is wrong
    sender_id: str | None  # the sender whose data is wrong; `None`: every sender of the controller
    fields: str | None  # JSON, correct value by field, null: remove; encrypted, context "rectification:<id>"
    requested_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class RectificationAcknowledged(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A service has corrected its data. `shard`, `shards`: as of `ErasureAcknowledged`."""

    type: ClassVar[str] = "consent.rectification_acknowledged.v1"

    rectification_id: str
    subject_id: str
    service: str  # campaign
    rectified_at: Instant
    rectified: dict[str, int]  # count by kind: {"contacts": 1, "messages": 2}
    shard: str = ""
    shards: int = 1

    @property
    def key(self) -> str:
        return self.subject_id
