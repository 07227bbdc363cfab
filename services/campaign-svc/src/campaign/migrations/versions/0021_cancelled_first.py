"""Cancelled campaigns with somebody left to be denied are found without reading the others.

Revision ID: 0021
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX campaign_cancelled_ix ON campaign (sender_id) WHERE status = 'cancelled' AND NOT expanded")


def downgrade() -> None:
    op.execute("DROP INDEX campaign_cancelled_ix")
