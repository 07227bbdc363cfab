"""An import whose recording fails waits for its turn again, and is given up after some attempts.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE contact_import ADD COLUMN attempts integer NOT NULL DEFAULT 0,"
        " ADD COLUMN due_at timestamptz NOT NULL DEFAULT now(),"
        " ADD COLUMN failed boolean NOT NULL DEFAULT false"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE contact_import DROP COLUMN failed, DROP COLUMN due_at, DROP COLUMN attempts")
