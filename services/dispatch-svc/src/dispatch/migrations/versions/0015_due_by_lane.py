"""What is due is found by its lane: a code that is due does not wait for all marketing that is to be passed over.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create("message_due_marketing_ix", "due_at IS NOT NULL AND category = 'marketing'")
    _create("message_due_codes_ix", "due_at IS NOT NULL AND category <> 'marketing'")
    op.execute("DROP INDEX message_due_ix")


def downgrade() -> None:
    _create("message_due_ix", "due_at IS NOT NULL")
    op.execute("DROP INDEX message_due_marketing_ix, message_due_codes_ix")


def _create(name: str, where: str) -> None:
    op.execute(f"CREATE INDEX {name} ON message (partition, due_at) WHERE {where}")
