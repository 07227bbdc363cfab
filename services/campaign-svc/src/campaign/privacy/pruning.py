"""Own campaign-svc's retention periods. docs/retention.md gives the reason and source of each.

Tallies outlive the recipients; a report for a pruned recipient changes nothing.
"""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from common.privacy.pruning import ALLOWANCES, AUDIT, DEAD_LETTERS, Policy, Pruned

ABANDONED = timedelta(days=2)  # partial files hold personal data too
_OF_IMPORT = "JOIN contact_import AS p USING (import_id)"
LATE_DAYS = 35  # DLRs and operators' answers arrive within these days


class Periods(BaseModel):
    """Retention periods, in days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contacts_days: int = Field(1096, ge=1)  # 3 years: DOMAIN 1.4
    recipients_days: int = Field(396, ge=LATE_DAYS)
    test_sends_days: int = Field(396, ge=1)
    imports_days: int = Field(396, ge=1)
    keys_days: int = Field(35, ge=1)
    events_days: int = Field(7, ge=7)  # as long as Kafka keeps the records behind the events

    @property
    def recipients(self) -> timedelta:
        return timedelta(days=self.recipients_days)


def policy(periods: Periods) -> Policy:
    imports = timedelta(days=periods.imports_days)
    return Policy(
        pruned=(
            DEAD_LETTERS,
            ALLOWANCES,
            AUDIT,
            Pruned("idempotency keys", "keyed_request", "created_at", timedelta(days=periods.keys_days)),
            Pruned("contacts", "contact", "updated_at", timedelta(days=periods.contacts_days)),
            Pruned(
                "recipients",
                "recipient",
                "p.ended_at",
                periods.recipients,
                where="p.ended_at IS NOT NULL",
                join="JOIN campaign AS p USING (campaign_id)",
            ),
            Pruned("opt-outs", "opt_out", "at", periods.recipients),
            Pruned("conversions", "conversion", "recorded_at", periods.recipients),
            Pruned("events", "event", "stored_at", timedelta(days=periods.events_days)),
            Pruned("deliveries", "webhook_delivery", "created_at", timedelta(days=periods.events_days)),
            Pruned("test sends", "test_send", "asked_at", timedelta(days=periods.test_sends_days)),
            Pruned(
                "links",
                "link",
                "p.ended_at",
                periods.recipients,
                where="p.ended_at IS NOT NULL",
                join="JOIN campaign AS p USING (campaign_id)",
            ),
            Pruned(
                "unfinished files", "import_piece", "p.created_at", ABANDONED, where="NOT p.complete", join=_OF_IMPORT
            ),
            Pruned(
                "unfinished uploads",
                "contact_import",
                "created_at",
                ABANDONED,
                where="NOT complete AND NOT EXISTS (SELECT FROM import_piece AS i WHERE i.import_id = t.import_id)",
            ),
            Pruned(
                "refused lines",
                "import_refusal",
                "p.created_at",
                imports,
                join=_OF_IMPORT,
            ),
            Pruned(
                "imports",
                "contact_import",
                "created_at",
                imports,
                where="NOT EXISTS (SELECT FROM import_refusal AS r WHERE r.import_id = t.import_id)",
            ),
        ),
        kept={
            "widening": "two counts of partitions",
            "shard": "nothing of a person",
            "sender": "nothing of a person",
            "sender_rule": "nothing of a person",
            "hold": "nothing of a person",
            "event_feed": "nothing of a person: a counter of each organisation",
            "contact_attribute": "nothing of a person",
            "segment": "nothing of a person",
            "segment_version": "nothing of a person",
            "standing": "the newest of what consent-svc tells, which tells when there is nothing left to know",
            "campaign": "nothing of a person",
            "campaign_accounts": "nothing of a person",
            "campaign_reason": "nothing of a person",
            "campaign_link": "nothing of a person",
            "campaign_approval": "nothing of a recipient: who agreed to what",
            "template": "nothing of a person",
            "template_version": "nothing of a recipient: who wrote, approved and retired what",
            "webhook": "nothing of a recipient: where an organisation is told of events, and who asked for it",
            "campaign_pre_flight": "nothing of a person: the last one's findings",
        },
    )
