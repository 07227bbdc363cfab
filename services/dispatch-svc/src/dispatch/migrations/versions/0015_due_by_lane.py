"""What is due is found by its lane: a code that is due does not wait for all marketing that is to be passed over. The
index that both had is the version's before, and goes with the next one's.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, lane in (("marketing", "category = 'marketing'"), ("codes", "category <> 'marketing'")):
        op.execute(
            f"CREATE INDEX message_due_{name}_ix ON message (partition, due_at) WHERE due_at IS NOT NULL AND {lane}"
        )


def downgrade() -> None:
    op.execute("DROP INDEX message_due_marketing_ix, message_due_codes_ix")
