"""Dead letters: what was stepped over, for a person to decide about. And when an MO was said.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    at_offset bigint NOT NULL,
    type text,
    shape text NOT NULL,
    reason text NOT NULL,
    buried_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'open',
    decided_by text,
    decided_at timestamptz,
    CONSTRAINT dead_letter_state_ck CHECK (state IN ('open', 'asked', 'replayed', 'discarded', 'gone')),
    CONSTRAINT dead_letter_record_uq UNIQUE (consumer_group, topic, partition, at_offset)
)
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute("CREATE INDEX dead_letter_buried_ix ON dead_letter (buried_at)")
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
    op.execute("ALTER TABLE callback_item ADD COLUMN said_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE callback_item DROP COLUMN said_at")
    op.execute(
        "ALTER TABLE consumer_offset DROP COLUMN last_number, DROP COLUMN unseen, DROP COLUMN topic_id,"
        " DROP COLUMN cluster_id, DROP COLUMN fault, DROP COLUMN fault_at, DROP COLUMN fault_since,"
        " DROP COLUMN fault_why, DROP COLUMN cleared_at"
    )
    op.execute("DROP TABLE outbox_log")
    op.execute("DROP TABLE dead_letter")
