"""Set how long consent-svc keeps each table, the ledger aside. docs/retention.md gives each period's reason and source.

The ledger has its own clocks.
"""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.privacy.pruning import ALLOWANCES, AUDIT, DEAD_LETTERS, Policy, Pruned
from consent.ledger.ended_store import YOUNGEST

KAFKA_DAYS = 7  # Kafka may deliver an event again
MARGIN = timedelta(hours=1)  # for clocks that differ


class Periods(BaseModel):
    """The periods, in days. A row must outlast every possible repeat of its request or event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys_days: int = Field(35, ge=1)
    answers_days: int = Field(35, ge=KAFKA_DAYS)
    attributed_stops_days: int = Field(35, ge=KAFKA_DAYS)
    reviews_days: int = Field(35, ge=KAFKA_DAYS)
    rectifications_days: int = Field(396, ge=1)  # 13 months, as a raw message
    imports_days: int = Field(396, ge=1)  # 13 months
    handed_off_days: int = Field(1826, ge=KAFKA_DAYS)  # 5 years: the limit for a suit over a message (DOMAIN 1.4)
    ledger_days: int = Field(1826, ge=YOUNGEST.days)  # an erased entry, from the erasure on: as the messages

    @model_validator(mode="after")
    def _messages_can_be_proven(self) -> "Periods":
        if self.ledger_days < self.handed_off_days:
            raise ValueError("ledger_days is below handed_off_days: a message is proven by the ledger, so raise it")
        return self

    @property
    def handed_off(self) -> timedelta:
        return timedelta(days=self.handed_off_days)

    @property
    def ledger(self) -> timedelta:
        return timedelta(days=self.ledger_days)


def policy(periods: Periods) -> Policy:
    imports = timedelta(days=periods.imports_days)
    return Policy(
        pruned=(
            DEAD_LETTERS,
            ALLOWANCES,
            AUDIT,
            Pruned("idempotency keys", "keyed_request", "created_at", timedelta(days=periods.keys_days)),
            Pruned("answers", "answer", "asked_at", timedelta(days=periods.answers_days)),
            Pruned("attributed", "attributed_stop", "arrived_at", timedelta(days=periods.attributed_stops_days)),
            Pruned("closed reviews", "review", "since", timedelta(days=periods.reviews_days), where="NOT open"),
            Pruned(
                "rectifications",
                "rectification",
                "requested_at",
                timedelta(days=periods.rectifications_days),
                where="asked IS NOT NULL AND completed_at IS NOT NULL",
                strips=("asked",),
            ),
            Pruned("links", "preference_link", "expires_at", MARGIN),
            Pruned("handed off", "handed_off", "handed_off_at", periods.handed_off),
            Pruned("after a STOP", "retroactive_message", "handed_off_at", periods.handed_off),
            Pruned(
                "import pieces",
                "import_piece",
                "p.touched_at",
                imports,
                where="p.complete AND t.recorded_at IS NOT NULL",
                join="JOIN import_file AS p USING (import_id)",
            ),
            Pruned("import shares", "import_share", "recorded_at", imports),
            Pruned(
                "imports",
                "import_file",
                "touched_at",
                imports,
                where="complete AND NOT EXISTS (SELECT FROM import_piece AS p WHERE p.import_id = t.import_id)",
            ),
        ),
        kept={
            "controller": "nothing of a person",
            "organisation": "nothing of a person",
            "owned_name": "nothing of a person",
            "sender": "nothing of a person",
            "sender_version": "nothing of a person",
            "shard": "nothing of a person",
            "reopening_rule": "ledger entries name the rule",
            "subject": "the ledger's",
            "evidence": "the ledger's: 1826 days after the erasure of everything, but opt-outs (ledger_end.py)",
            "ended_entry": "the ledger's stubs, for the seals",
            "moved_entry": "the places of other shards' entries, for the seals",
            "listed": "the ledger's",
            "seal": "the ledger's",
            "states_sum": "nothing of a person",
            "retroactive_cursor": "nothing of a person",
            "retention_due": "the ledger's",
            "retention_recount": "nothing of a person",
            "erasure": "the certificate stays",
            "erasure_ack": "the certificate stays",
            "double_opt_in": "400 days, then gone (double_opt_ins.py)",
            "double_opt_in_pace": "a month, then gone (double_opt_ins.py)",
            "copy": "a week, then gone (copies.py)",
            "copy_part": "goes with its copy",
        },
    )
