"""When the best text of a trial is chosen, what that waits for, and why it was that text.

Revision ID: 0020
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE campaign ADD COLUMN choice jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE campaign DROP COLUMN choice")
