"""Links to the preference page."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "preference_link",
        sa.Column("link_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=True),
        sa.Column("browser", sa.Text(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("link_id", name="preference_link_pk"),
    )
    op.create_index("preference_link_expires_at_ix", "preference_link", ["expires_at"])
    op.create_index("preference_link_subject_id_ix", "preference_link", ["subject_id"])


def downgrade() -> None:
    op.drop_table("preference_link")
