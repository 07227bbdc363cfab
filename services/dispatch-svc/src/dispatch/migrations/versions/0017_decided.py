"""What was decided lately is found without reading the ledger, as what was handed off is: a summary of its pages.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_decided_ix")  # of one that was interrupted
        op.execute(
            "CREATE INDEX CONCURRENTLY message_decided_ix ON message USING brin (decided_at) WITH (autosummarize = on)"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS message_decided_ix")
