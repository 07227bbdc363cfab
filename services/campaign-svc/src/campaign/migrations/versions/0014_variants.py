"""Campaigns of several texts, and messages to named numbers before they go.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE campaign ADD COLUMN trial jsonb, ADD COLUMN winner text")
    op.execute("ALTER TABLE recipient ADD COLUMN variant text")
    op.execute(
        "CREATE TABLE test_send (campaign_id text NOT NULL, message_id text NOT NULL, subject_id text NOT NULL,"
        " variant text NOT NULL, asked_by text NOT NULL, asked_at timestamptz NOT NULL,"
        " CONSTRAINT test_send_pk PRIMARY KEY (campaign_id, message_id))"
    )
    op.execute("CREATE INDEX test_send_asked_ix ON test_send (asked_at)")


def downgrade() -> None:
    op.execute("DROP TABLE test_send")
    op.execute("ALTER TABLE recipient DROP COLUMN variant")
    op.execute("ALTER TABLE campaign DROP COLUMN winner, DROP COLUMN trial")
