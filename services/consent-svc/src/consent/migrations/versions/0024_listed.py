"""What undated lists said of people who were out already.

Revision ID: 0024
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
CREATE TABLE listed (
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    evidence_id text NOT NULL,
    source text NOT NULL,
    reference text,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    CONSTRAINT listed_pk PRIMARY KEY (subject_id, sender_id, purpose)
)
"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE listed")
