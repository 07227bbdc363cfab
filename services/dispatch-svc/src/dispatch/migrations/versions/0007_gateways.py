"""Which gateways are closed to a person is asked for each of their messages.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX provider_block_subject_ix ON provider_block (subject_id)")


def downgrade() -> None:
    op.execute("DROP INDEX provider_block_subject_ix")
