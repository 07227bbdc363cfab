"""The legal entity behind a sender, what a STOP to it shuts, its replies; and all that a sender ever was."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("sender", sa.Column("controller", sa.Text(), nullable=True))
    op.execute("UPDATE sender SET controller = sender_id")
    op.alter_column("sender", "controller", nullable=False)
    for name, kind, default in (("stop_scope", sa.Text(), "controller"), ("replies", postgresql.JSONB(), "{}")):
        op.add_column("sender", sa.Column(name, kind, nullable=False, server_default=default))
        op.alter_column("sender", name, server_default=None)
    op.create_table(
        "sender_version",
        sa.Column("sender_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("content", postgresql.JSONB(), nullable=False),
        sa.Column("in_force_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sender_id", "version", name="sender_version_pk"),
    )
    op.execute(
        "INSERT INTO sender_version SELECT sender_id, version,"
        " to_jsonb(s) - ARRAY['stop_codes', 'purpose_ids', 'created_at', 'updated_at'], updated_at FROM sender s"
    )


def downgrade() -> None:
    op.drop_table("sender_version")
    for column in ("replies", "stop_scope", "controller"):
        op.drop_column("sender", column)
