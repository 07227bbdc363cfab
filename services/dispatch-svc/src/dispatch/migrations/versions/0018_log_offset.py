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
    op.execute(
        "ALTER TABLE consumer_offset ADD COLUMN last_number bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN unseen bigint NOT NULL DEFAULT 0, ADD COLUMN topic_id text, ADD COLUMN cluster_id text,"
        " ADD COLUMN fault text, ADD COLUMN fault_at bigint, ADD COLUMN fault_since timestamptz,"
        " ADD COLUMN fault_why text, ADD COLUMN cleared_at timestamptz"
    )
    op.execute(
        "ALTER TABLE rebuild ADD COLUMN last_number bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN unseen bigint NOT NULL DEFAULT 0"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE rebuild DROP COLUMN last_number, DROP COLUMN unseen")
    op.execute(
        "ALTER TABLE consumer_offset DROP COLUMN last_number, DROP COLUMN unseen, DROP COLUMN topic_id,"
        " DROP COLUMN cluster_id, DROP COLUMN fault, DROP COLUMN fault_at, DROP COLUMN fault_since,"
        " DROP COLUMN fault_why, DROP COLUMN cleared_at"
    )
    op.execute("DROP TABLE outbox_log")
    op.execute("ALTER TABLE subject_next DROP COLUMN log_offset")
    op.execute("ALTER TABLE subject DROP COLUMN log_offset")
