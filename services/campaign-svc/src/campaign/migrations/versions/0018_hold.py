"""What dispatch-svc tells of marketing being held.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE hold (category text NOT NULL, version integer NOT NULL, since timestamptz NOT NULL,"
        " consents_as_of timestamptz, ended_at timestamptz, CONSTRAINT hold_pk PRIMARY KEY (category))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE hold")
