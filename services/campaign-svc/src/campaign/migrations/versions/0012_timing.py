"""When each message of a campaign is due: its pace, who waits, and whose turn it is.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE campaign ADD COLUMN timing jsonb NOT NULL DEFAULT '{}'::jsonb,"
        " ADD COLUMN priority text NOT NULL DEFAULT 'normal', ADD COLUMN at timestamptz,"
        " ADD COLUMN look_at timestamptz, ADD COLUMN next_slot timestamptz,"
        " ADD COLUMN turn bigint NOT NULL DEFAULT 0"
    )
    op.execute("UPDATE campaign SET at = starts_at")
    op.execute("ALTER TABLE recipient ADD COLUMN waits_until timestamptz")
    op.execute(
        "CREATE INDEX recipient_waiting_ix ON recipient (campaign_id, waits_until, subject_id)"
        " WHERE waits_until IS NOT NULL"
    )
    op.execute("DROP INDEX campaign_expanding_ix")
    op.execute("CREATE INDEX campaign_expanding_ix ON campaign (turn) WHERE status = 'running' AND NOT expanded")
    op.execute("ALTER TABLE campaign DROP COLUMN expanded_at")


def downgrade() -> None:
    op.execute("ALTER TABLE campaign ADD COLUMN expanded_at timestamptz")
    op.execute("DROP INDEX campaign_expanding_ix")
    op.execute("CREATE INDEX campaign_expanding_ix ON campaign (expanded_at) WHERE status = 'running' AND NOT expanded")
    op.execute("DROP INDEX recipient_waiting_ix")
    op.execute("ALTER TABLE recipient DROP COLUMN waits_until")
    op.execute(
        "ALTER TABLE campaign DROP COLUMN turn, DROP COLUMN next_slot, DROP COLUMN look_at, DROP COLUMN at,"
        " DROP COLUMN priority, DROP COLUMN timing"
    )
