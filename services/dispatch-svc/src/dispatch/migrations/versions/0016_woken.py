"""What a pause held is woken in pages once the campaign goes on: `woken` says for which version of its control that is
done. The index takes the place of one by the campaign alone, for whatever used that.

Who is deciding has locked rows of `message` and then asks for its campaign: nothing here holds `campaign` and waits for
`message`. The ledger is written meanwhile.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE campaign ADD COLUMN IF NOT EXISTS woken integer NOT NULL DEFAULT 0")
    op.execute("UPDATE campaign SET woken = version")  # the version before wakes at once
    op.execute(
        "CREATE INDEX IF NOT EXISTS campaign_to_wake_ix ON campaign (campaign_id)"
        " WHERE woken < version AND control <> 'paused'"
    )
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_waiting_ix")  # of one that was interrupted
        op.execute(
            "CREATE INDEX CONCURRENTLY message_waiting_ix ON message (campaign_id, due_at) WHERE due_at IS NOT NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_waiting_campaign_ix")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_waiting_campaign_ix")
        op.execute(
            "CREATE INDEX CONCURRENTLY message_waiting_campaign_ix ON message (campaign_id) WHERE due_at IS NOT NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_waiting_ix")
    op.execute("DROP INDEX campaign_to_wake_ix")
    op.execute("ALTER TABLE campaign DROP COLUMN woken")
