"""Statistics: when a message of a campaign was handed off and its receipt came, and opt-outs as people said them.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE recipient ADD COLUMN handed_off_at timestamptz, ADD COLUMN receipt_at timestamptz")
    op.execute(
        "CREATE TABLE opt_out (subject_id text NOT NULL, evidence_id text NOT NULL, sender_id text NOT NULL,"
        " purpose text NOT NULL, at timestamptz NOT NULL,"
        " CONSTRAINT opt_out_pk PRIMARY KEY (subject_id, evidence_id, sender_id, purpose))"
    )
    op.execute("CREATE INDEX opt_out_at_ix ON opt_out (at)")


def downgrade() -> None:
    op.execute("DROP TABLE opt_out")
    op.execute("ALTER TABLE recipient DROP COLUMN receipt_at, DROP COLUMN handed_off_at")
