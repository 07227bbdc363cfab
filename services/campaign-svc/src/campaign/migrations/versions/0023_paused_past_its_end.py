"""Campaigns that are paused with somebody left to be asked for, and those that fail, are found without reading the
others.

Revision ID: 0023
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX campaign_paused_ix ON campaign (sender_id)"
        " WHERE status = 'paused' AND started_at IS NOT NULL AND NOT expanded"
    )
    op.execute(
        "CREATE TABLE outbox_log (topic text NOT NULL, partition integer NOT NULL, last_number bigint NOT NULL,"
        " CONSTRAINT outbox_log_pk PRIMARY KEY (topic, partition))"
    )
    op.execute(
        "ALTER TABLE consumer_offset ADD COLUMN last_number bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN unseen bigint NOT NULL DEFAULT 0, ADD COLUMN topic_id text, ADD COLUMN cluster_id text,"
        " ADD COLUMN fault text, ADD COLUMN fault_at bigint, ADD COLUMN fault_since timestamptz,"
        " ADD COLUMN fault_why text, ADD COLUMN cleared_at timestamptz"
    )
    op.execute("CREATE INDEX campaign_failing_ix ON campaign (retry_at) WHERE failures > 1")


def downgrade() -> None:
    op.execute("DROP INDEX campaign_failing_ix")
    op.execute(
        "ALTER TABLE consumer_offset DROP COLUMN last_number, DROP COLUMN unseen, DROP COLUMN topic_id,"
        " DROP COLUMN cluster_id, DROP COLUMN fault, DROP COLUMN fault_at, DROP COLUMN fault_since,"
        " DROP COLUMN fault_why, DROP COLUMN cleared_at"
    )
    op.execute("DROP TABLE outbox_log")
    op.execute("DROP INDEX campaign_paused_ix")
