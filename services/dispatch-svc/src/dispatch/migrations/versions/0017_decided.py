"""What was decided lately is found without reading the ledger, as what was handed off is: a summary of its pages.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX message_decided_ix ON message USING brin (decided_at) WITH (autosummarize = on)")


def downgrade() -> None:
    op.execute("DROP INDEX message_decided_ix")
