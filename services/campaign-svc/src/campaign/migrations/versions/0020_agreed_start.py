"""What a campaign is held to when it starts: the start that an approval is of, and whether it needed one; and for which
start the last pre-flight looked at it. And of a test, which text it was.

Revision ID: 0020
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE campaign ADD COLUMN agreed_start timestamptz,"
        " ADD COLUMN approval_needed boolean NOT NULL DEFAULT false"
    )
    op.execute("ALTER TABLE campaign_pre_flight ADD COLUMN at timestamptz")
    op.execute("ALTER TABLE test_send ADD COLUMN fingerprint text")
    op.execute("UPDATE campaign SET agreed_start = at WHERE status = 'scheduled'")  # what was at once has begun


def downgrade() -> None:
    op.execute("ALTER TABLE test_send DROP COLUMN fingerprint")
    op.execute("ALTER TABLE campaign_pre_flight DROP COLUMN at")
    op.execute("ALTER TABLE campaign DROP COLUMN agreed_start, DROP COLUMN approval_needed")
