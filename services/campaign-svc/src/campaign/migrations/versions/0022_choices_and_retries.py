"""When the best text of a trial is chosen, what that waits for, and why it was that text; and when a campaign is tried
again that failed to start or to go on.

Revision ID: 0022
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE campaign ADD COLUMN choice jsonb,"
        " ADD COLUMN failures integer NOT NULL DEFAULT 0, ADD COLUMN retry_at timestamptz"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE campaign DROP COLUMN retry_at, DROP COLUMN failures, DROP COLUMN choice")
