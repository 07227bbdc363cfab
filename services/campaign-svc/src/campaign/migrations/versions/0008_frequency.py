"""How often a sender writes to a person: its cap, and the days of rest that a campaign leaves.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sender_rule ADD COLUMN cap_messages integer, ADD COLUMN cap_days integer")
    op.execute("ALTER TABLE campaign ADD COLUMN rest_days integer")
    op.execute("CREATE INDEX campaign_begun_ix ON campaign (sender_id, ended_at) WHERE started_at IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX campaign_begun_ix")
    op.execute("ALTER TABLE campaign DROP COLUMN rest_days")
    op.execute("ALTER TABLE sender_rule DROP COLUMN cap_days, DROP COLUMN cap_messages")
