"""Messages of unknown outcome are looked up with their gateway: they are found without reading the ledger.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX message_unknown_ix ON message (decided_at) WHERE status = 'unknown'")


def downgrade() -> None:
    op.execute("DROP INDEX message_unknown_ix")
