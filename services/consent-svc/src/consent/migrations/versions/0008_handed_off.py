"""The marketing messages that were handed off, and the consent each was decided on."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "handed_off",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=True),
        sa.Column("handed_off_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("consent_version", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", name="handed_off_pk"),
    )
    op.create_index("handed_off_campaign_ix", "handed_off", ["campaign_id", "subject_id"])
    op.create_index("handed_off_subject_ix", "handed_off", ["subject_id", "handed_off_at"])


def downgrade() -> None:
    op.drop_table("handed_off")
