"""What is due is found by its lane: a code that is due does not wait for all marketing that is to be passed over. The
index that both had is the version's before, and goes with the next one's. The ledger is written meanwhile.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, lane in (("marketing", "category = 'marketing'"), ("codes", "category <> 'marketing'")):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS message_due_{name}_ix")  # of one that was interrupted
            op.execute(
                f"CREATE INDEX CONCURRENTLY message_due_{name}_ix ON message (partition, due_at)"
                f" WHERE due_at IS NOT NULL AND {lane}"
            )


def downgrade() -> None:
    op.execute("DROP INDEX message_due_marketing_ix, message_due_codes_ix")
