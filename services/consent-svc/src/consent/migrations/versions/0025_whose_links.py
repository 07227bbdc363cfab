"""Which preference links may do more than stop, and who was given them; when a STOP arrived, and by whose clock it is
timed.

Revision ID: 0025
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # constant defaults: no row is rewritten, and a link that an old version makes meanwhile only stops
    op.execute("ALTER TABLE preference_link ADD COLUMN whole boolean NOT NULL DEFAULT false, ADD COLUMN given_to text")
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
    op.execute("ALTER TABLE evidence ADD COLUMN arrived_at timestamptz, ADD COLUMN clock text")


def downgrade() -> None:
    op.execute("ALTER TABLE evidence DROP COLUMN arrived_at, DROP COLUMN clock")
    op.execute(
        "ALTER TABLE consumer_offset DROP COLUMN last_number, DROP COLUMN unseen, DROP COLUMN topic_id,"
        " DROP COLUMN cluster_id, DROP COLUMN fault, DROP COLUMN fault_at, DROP COLUMN fault_since,"
        " DROP COLUMN fault_why, DROP COLUMN cleared_at"
    )
    op.execute("DROP TABLE outbox_log")
    op.execute("ALTER TABLE preference_link DROP COLUMN whole, DROP COLUMN given_to")
