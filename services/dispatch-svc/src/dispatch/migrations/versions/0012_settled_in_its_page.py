"""What an outcome changes is in no index, so that a message is settled within its page; what is being handed off is
found by the batches that began it (ADR 0044).

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BEFORE = {
    "message_due_ix": "message (partition, due_at) WHERE status IN ('pending', 'deferred')",
    "message_unknown_ix": "message (decided_at) WHERE status = 'unknown'",
    "message_sending_ix": "message (subject_id) WHERE status = 'sending'",
    "message_gateway_ix": "message (gateway, gateway_message_id) WHERE gateway_message_id IS NOT NULL",
    "message_waiting_campaign_ix": "message (campaign_id) WHERE status = 'deferred'",
    "message_held_ix": "message (subject_id) WHERE status = 'deferred' AND 'under_review' = ANY (reasons)",
}
AFTER = {
    "message_due_ix": "message (partition, due_at) WHERE due_at IS NOT NULL",
    "message_unknown_ix": "message (unknown_since) WHERE unknown_since IS NOT NULL",
    "message_known_as_ix": "message (gateway, known_as) WHERE known_as IS NOT NULL",
    "message_waiting_campaign_ix": "message (campaign_id) WHERE due_at IS NOT NULL",
}


def upgrade() -> None:
    op.execute(
        "CREATE TABLE sending (id bigint GENERATED ALWAYS AS IDENTITY, partition smallint NOT NULL,"
        " since timestamptz NOT NULL DEFAULT now(), message_ids uuid[] NOT NULL, subject_ids text[] NOT NULL,"
        " CONSTRAINT sending_pk PRIMARY KEY (id))"
    )
    for column in ("message_ids", "subject_ids"):  # compressing what lives for a second costs more than writing it
        op.execute(f"ALTER TABLE sending ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.execute(
        "INSERT INTO sending (partition, message_ids, subject_ids)"
        " SELECT partition, array_agg(message_id), array_agg(subject_id) FROM message WHERE status = 'sending'"
        " GROUP BY partition"
    )
    op.execute("ALTER TABLE message ADD COLUMN unknown_since timestamptz, ADD COLUMN known_as text")
    op.execute("UPDATE message SET known_as = gateway_message_id WHERE gateway_message_id IS NOT NULL")
    op.execute("UPDATE message SET unknown_since = coalesce(decided_at, requested_at) WHERE status = 'unknown'")
    op.execute("UPDATE message SET due_at = now() WHERE status IN ('pending', 'deferred') AND due_at IS NULL")
    op.execute("UPDATE message SET due_at = NULL WHERE status NOT IN ('pending', 'deferred') AND due_at IS NOT NULL")
    op.execute(
        "ALTER TABLE message ADD CONSTRAINT message_waiting_is_due_ck"
        " CHECK (due_at IS NOT NULL OR status NOT IN ('pending', 'deferred'))"
    )
    op.execute("ALTER TABLE message SET (fillfactor = 40)")  # at 50, one in six found no room in its page
    _replace(BEFORE, AFTER)


def downgrade() -> None:
    _replace(AFTER, BEFORE)
    op.execute("ALTER TABLE message SET (fillfactor = 50)")
    op.execute("ALTER TABLE message DROP CONSTRAINT message_waiting_is_due_ck")
    op.execute("ALTER TABLE message DROP COLUMN unknown_since, DROP COLUMN known_as")
    op.execute("DROP TABLE sending")


def _replace(these: dict[str, str], by: dict[str, str]) -> None:
    for name in these:
        op.execute(f"DROP INDEX {name}")
    for name, what in by.items():
        op.execute(f"CREATE INDEX {name} ON {what}")
