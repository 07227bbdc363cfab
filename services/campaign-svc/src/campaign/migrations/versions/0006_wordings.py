"""A campaign speaks several languages, and has characters replaced as its author chose.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = {
    "language": "text NOT NULL DEFAULT 'fr'",
    "translations": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "folding": "text NOT NULL DEFAULT 'none'",
}


def upgrade() -> None:
    op.execute(f"ALTER TABLE campaign {', '.join(f'ADD COLUMN {name} {kind}' for name, kind in COLUMNS.items())}")


def downgrade() -> None:
    op.execute(f"ALTER TABLE campaign {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
