"""A chain that holds though what is personal is erased: it is hashed as a salted digest.

The hash of an entry is another one from here on. No release wrote the ledger of before: a database that holds one is of
a developer, and is made anew.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

NEW_LEDGER = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM evidence) THEN
    RAISE EXCEPTION 'evidence was recorded by an unreleased version: its hashes are of another form';
  END IF;
END $$
"""
ONLY_ERASED = """
CREATE FUNCTION evidence_is_only_erased() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE erased evidence := OLD;
BEGIN
  erased.form_id := NULL; erased.form_version := NULL; erased.text_shown := NULL; erased.actor := NULL;
  erased.sale_reference := NULL; erased.reference := NULL; erased.salt := NULL;
  IF NEW IS DISTINCT FROM erased THEN
    RAISE EXCEPTION 'evidence is append-only: an update may erase what is personal, all of it, and no more';
  END IF;
  RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute(NEW_LEDGER)
    op.alter_column("subject", "number", nullable=True)
    op.add_column("evidence", sa.Column("controller", sa.Text(), nullable=True))
    op.add_column("evidence", sa.Column("salt", sa.Text(), nullable=True))
    op.add_column("evidence", sa.Column("sealed", sa.Text(), nullable=False))
    op.execute(ONLY_ERASED)
    op.execute("DROP TRIGGER append_only ON evidence")
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON evidence"
        " FOR EACH STATEMENT EXECUTE FUNCTION evidence_is_append_only()"
    )
    op.execute(
        "CREATE TRIGGER only_erased BEFORE UPDATE ON evidence FOR EACH ROW EXECUTE FUNCTION evidence_is_only_erased()"
    )


def downgrade() -> None:
    op.execute(NEW_LEDGER)
    op.execute("DROP TRIGGER only_erased ON evidence")
    op.execute("DROP FUNCTION evidence_is_only_erased()")
    op.execute("DROP TRIGGER append_only ON evidence")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON evidence"
        " FOR EACH STATEMENT EXECUTE FUNCTION evidence_is_append_only()"
    )
    for column in ("sealed", "salt", "controller"):
        op.drop_column("evidence", column)
    op.execute("UPDATE subject SET number = '' WHERE number IS NULL")
    op.alter_column("subject", "number", nullable=False)
