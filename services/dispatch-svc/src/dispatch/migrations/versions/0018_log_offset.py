"""Where in the log what is known of a person's consent was read: of two records that could not be, the older one,
handled again, does not make readable who said something since. What is there has none, and the version before writes
none: it is as it was until the next state.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE subject ADD COLUMN IF NOT EXISTS log_offset bigint")
    op.execute("ALTER TABLE subject_next ADD COLUMN IF NOT EXISTS log_offset bigint")
    op.execute(
        "CREATE TABLE outbox_log (topic text NOT NULL, partition integer NOT NULL, last_number bigint NOT NULL,"
        " CONSTRAINT outbox_log_pk PRIMARY KEY (topic, partition))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE outbox_log")
    op.execute("ALTER TABLE subject_next DROP COLUMN log_offset")
    op.execute("ALTER TABLE subject DROP COLUMN log_offset")
