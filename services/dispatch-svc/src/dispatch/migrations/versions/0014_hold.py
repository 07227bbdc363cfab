"""What was told of marketing being held.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE hold (category text NOT NULL, version integer NOT NULL, since timestamptz, ended_at timestamptz,"
        " otherwise_since timestamptz, CONSTRAINT hold_pk PRIMARY KEY (category))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE hold")
