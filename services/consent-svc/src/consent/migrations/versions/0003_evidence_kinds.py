"""Evidence that neither opens nor shuts: requests, expiries, contacts; and what it answers."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

CONSTRAINTS = ("evidence_kind_ck", "evidence_opt_in_ck", "evidence_scope_ck")  # as 0001 says; the convention is added


def upgrade() -> None:
    op.add_column("evidence", sa.Column("answers", sa.Text(), nullable=True))
    _replace(
        "kind IN ('opt_in', 'opt_out', 'request', 'expiry', 'contact')",
        "kind <> 'opt_in' OR basis IS NOT NULL",
        "(sender_id IS NOT NULL OR (kind = 'opt_out' AND purpose IS NULL))"
        " AND (purpose IS NOT NULL OR kind IN ('opt_out', 'contact'))",
    )


def downgrade() -> None:
    _replace(
        "kind IN ('opt_in', 'opt_out')",
        "kind = 'opt_out' OR (sender_id IS NOT NULL AND purpose IS NOT NULL AND basis IS NOT NULL)",
        "sender_id IS NOT NULL OR purpose IS NULL",
    )
    op.drop_column("evidence", "answers")


def _replace(*conditions: str) -> None:
    for name, condition in zip(CONSTRAINTS, conditions, strict=True):
        op.drop_constraint(name, "evidence", type_="check")
        op.create_check_constraint(name, "evidence", condition)
