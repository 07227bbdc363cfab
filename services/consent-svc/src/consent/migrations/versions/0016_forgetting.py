"""Who has nothing open left is looked at when a consent of theirs would have ended.

Of everybody whose number is on record, once: the first look finds out when that is.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

CHANGES = """
INSERT INTO retention_due (subject_id, sender_id, purpose, last_contact, expires_at, due_at)
SELECT subject_id, '', '', updated_at, updated_at, updated_at FROM subject
WHERE number IS NOT NULL AND erased_at IS NULL AND state <> '{}'::jsonb
"""


def upgrade() -> None:
    op.execute(CHANGES)


def downgrade() -> None:
    op.execute("DELETE FROM retention_due WHERE sender_id = ''")
