"""What is past its time is found by indexes that grow at their end.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "contact_updated_ix": "contact (updated_at)",
    "contact_import_created_ix": "contact_import (created_at)",
    "campaign_ended_ix": "campaign (ended_at) WHERE ended_at IS NOT NULL",
}


def upgrade() -> None:
    for name, what in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {what}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
