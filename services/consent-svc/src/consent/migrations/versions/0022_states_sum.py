"""When all states were last summed.

Revision ID: 0022
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE states_sum (id smallint NOT NULL, begun_at timestamptz NOT NULL,"
        " CONSTRAINT states_sum_pk PRIMARY KEY (id))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE states_sum")
