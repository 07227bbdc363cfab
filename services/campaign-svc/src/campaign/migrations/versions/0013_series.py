"""Campaigns that recur, and their occurrences.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE campaign ADD COLUMN recurring jsonb, ADD COLUMN series_id text,"
        " ADD COLUMN missed integer NOT NULL DEFAULT 0"
    )
    op.execute("CREATE INDEX campaign_series_ix ON campaign (series_id, position) WHERE series_id IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX campaign_series_ix")
    op.execute("ALTER TABLE campaign DROP COLUMN missed, DROP COLUMN series_id, DROP COLUMN recurring")
