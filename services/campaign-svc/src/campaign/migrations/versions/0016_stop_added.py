"""What an operator adds to a sender's texts by itself.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sender_rule ADD COLUMN stop_added text")


def downgrade() -> None:
    op.execute("ALTER TABLE sender_rule DROP COLUMN stop_added")
