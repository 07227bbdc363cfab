"""What a decision stood on, an address that narrows a territory, and where a sender may send.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE message ADD COLUMN region text, ADD COLUMN facts text")
    # of one that was not told since: nowhere, until its next version says where
    op.execute("ALTER TABLE sender ADD COLUMN countries text[] NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    op.execute("ALTER TABLE message DROP COLUMN region, DROP COLUMN facts")
    op.execute("ALTER TABLE sender DROP COLUMN countries")
