"""Reviews, and the hold they put on a subject."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("subject", sa.Column("held_since", INSTANT, nullable=True))
    op.create_table(
        "review",
        sa.Column("mo_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("mo_id", name="review_pk"),
    )
    op.create_index("review_open_ix", "review", ["subject_id"], postgresql_where=sa.text("open"))


def downgrade() -> None:
    op.drop_table("review")
    op.drop_column("subject", "held_since")
