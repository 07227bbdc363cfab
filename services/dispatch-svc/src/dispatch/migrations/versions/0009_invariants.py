"""What was handed off lately is found without reading the ledger: a summary of its pages, which costs a write nothing.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX message_handed_off_ix ON message USING brin (handed_off_at) WITH (autosummarize = on)")


def downgrade() -> None:
    op.execute("DROP INDEX message_handed_off_ix")
