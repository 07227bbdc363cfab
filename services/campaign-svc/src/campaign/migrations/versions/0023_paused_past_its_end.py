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
    op.execute("CREATE INDEX campaign_failing_ix ON campaign (retry_at) WHERE failures > 1")


def downgrade() -> None:
    op.execute("DROP INDEX campaign_failing_ix")
    op.execute("DROP INDEX campaign_paused_ix")
