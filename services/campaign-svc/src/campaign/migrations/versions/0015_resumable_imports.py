"""Files of contacts arrive in parts that go on where they broke, and are recorded some lines at a time.

What is there has arrived and is recorded; so has what the release before this one writes beside it.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE contact_import ADD COLUMN received_bytes bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN pieces integer NOT NULL DEFAULT 0,"
        " ADD COLUMN complete boolean NOT NULL DEFAULT true,"
        " ADD COLUMN line integer NOT NULL DEFAULT 0,"
        " ADD COLUMN finished boolean NOT NULL DEFAULT true"
    )
    op.execute("CREATE INDEX contact_import_waiting_ix ON contact_import (import_id) WHERE complete AND NOT finished")
    op.execute(
        "CREATE TABLE import_piece (import_id text NOT NULL, position integer NOT NULL, body bytea NOT NULL,"
        " CONSTRAINT import_piece_pk PRIMARY KEY (import_id, position))"
    )
    op.execute("ALTER TABLE import_piece ALTER COLUMN body SET STORAGE EXTERNAL")  # what is sealed does not compress


def downgrade() -> None:
    op.execute("DROP TABLE import_piece")
    op.execute("DELETE FROM contact_import WHERE NOT finished")
    op.execute("DROP INDEX contact_import_waiting_ix")
    op.execute(
        "ALTER TABLE contact_import DROP COLUMN finished, DROP COLUMN line, DROP COLUMN complete,"
        " DROP COLUMN pieces, DROP COLUMN received_bytes"
    )
