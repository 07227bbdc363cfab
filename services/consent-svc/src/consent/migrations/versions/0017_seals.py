"""Seals over the whole ledger, and the place of each entry in it.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

CHANGES = (
    "ALTER TABLE evidence ADD COLUMN ordinal bigint GENERATED ALWAYS AS IDENTITY NOT NULL",
    "CREATE UNIQUE INDEX evidence_ordinal_ix ON evidence (ordinal)",
    """
    CREATE TABLE seal (
        number bigint NOT NULL,
        previous text NOT NULL,
        entries integer NOT NULL,
        first bigint NOT NULL,
        last bigint NOT NULL,
        root text NOT NULL,
        sealed_at timestamptz NOT NULL,
        hash text NOT NULL,
        CONSTRAINT seal_pk PRIMARY KEY (number)
    )
    """,
    "CREATE FUNCTION seal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'seals are append-only'; END $$",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seal"
    " FOR EACH STATEMENT EXECUTE FUNCTION seal_is_append_only()",
)


def upgrade() -> None:
    for statement in CHANGES:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE seal")
    op.execute("DROP FUNCTION seal_is_append_only()")
    op.execute("ALTER TABLE evidence DROP COLUMN ordinal")
