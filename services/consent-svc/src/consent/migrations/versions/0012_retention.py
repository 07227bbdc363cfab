"""Until when each open consent holds, and what is due of it when.

Those on record are gone through by the recount of their senders, which reads this table: so it begins with a row for
each opt-in on record, due at once, and the first look at each finds out what holds.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE retention_due (
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    last_contact timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT retention_due_pk PRIMARY KEY (subject_id, sender_id, purpose)
);

CREATE INDEX retention_due_due_at_ix ON retention_due (due_at);
CREATE INDEX retention_due_sender_ix ON retention_due (sender_id, expires_at, subject_id);

CREATE TABLE retention_recount (
    sender_id text NOT NULL,
    after_xid bigint,
    cursor_at timestamptz,
    cursor_subject text,
    CONSTRAINT retention_recount_pk PRIMARY KEY (sender_id)
);

INSERT INTO retention_due
SELECT s.subject_id, m.mark ->> 'sender_id', m.mark ->> 'purpose', CAST(m.mark ->> 'at' AS timestamptz),
       CAST(m.mark ->> 'at' AS timestamptz), CAST(m.mark ->> 'at' AS timestamptz)
FROM subject AS s, jsonb_array_elements(s.state -> 'marks') AS m(mark)
WHERE m.mark ->> 'kind' = 'opt_in'
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("retention_recount", "retention_due"):
        op.execute(f"DROP TABLE {table}")
