"""What is past its time is found by indexes that grow at their end.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = {
    "message_content_ix": "message (requested_at) WHERE number IS NOT NULL OR text IS NOT NULL",
    "message_bare_ix": "message (requested_at) WHERE number IS NULL AND text IS NULL",
    "early_receipt_received_ix": "early_receipt (received_at)",
    "enforcement_enforced_ix": "enforcement (enforced_at) WHERE enforced_at IS NOT NULL",
}


def upgrade() -> None:
    for name, what in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {what}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
