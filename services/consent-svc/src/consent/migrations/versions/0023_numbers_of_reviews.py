"""Of whom there is no evidence no number is held: nothing would ever erase it.

Revision ID: 0023
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE subject SET number = NULL WHERE entries = 0 AND number IS NOT NULL")


def downgrade() -> None:
    pass
