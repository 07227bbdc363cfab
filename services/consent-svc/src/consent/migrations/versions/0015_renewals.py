"""The one question at the end of a consent: when to ask it, what was asked, and how many days before a sender wants to.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE sender ADD COLUMN renewal_days integer;
ALTER TABLE retention_due ADD COLUMN ask_at timestamptz;
ALTER TABLE retention_due ADD COLUMN question text;
ALTER TABLE retention_due ADD COLUMN asked_at timestamptz;
ALTER TABLE retention_due ADD COLUMN answer_before timestamptz;
ALTER TABLE retention_due ADD COLUMN open boolean NOT NULL DEFAULT true
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for column in ("open", "answer_before", "asked_at", "question", "ask_at"):
        op.execute(f"ALTER TABLE retention_due DROP COLUMN {column}")
    op.execute("ALTER TABLE sender DROP COLUMN renewal_days")
