"""Messages that went out after a STOP we did not know of yet; and the order in which hand-offs were written.

Revision ID: 0019
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE handed_off ADD COLUMN ordinal bigint GENERATED ALWAYS AS IDENTITY NOT NULL;
CREATE UNIQUE INDEX handed_off_ordinal_ix ON handed_off (ordinal);

CREATE TABLE retroactive_message (
    message_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    campaign_id text,
    handed_off_at timestamptz NOT NULL,
    evidence_id text NOT NULL,
    stopped_at timestamptz NOT NULL,
    known_at timestamptz NOT NULL,
    in_doubt boolean NOT NULL,
    found_at timestamptz NOT NULL,
    CONSTRAINT retroactive_message_pk PRIMARY KEY (message_id)
);
CREATE UNIQUE INDEX retroactive_message_position_ix ON retroactive_message (position);
CREATE INDEX retroactive_message_at_ix ON retroactive_message (handed_off_at);
CREATE INDEX retroactive_message_sender_ix ON retroactive_message (sender_id, position);

CREATE TABLE retroactive_cursor (
    of_table text NOT NULL,
    ordinal bigint NOT NULL,
    CONSTRAINT retroactive_cursor_pk PRIMARY KEY (of_table)
);
INSERT INTO retroactive_cursor (of_table, ordinal) VALUES ('evidence', 0), ('handed_off', 0);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE retroactive_cursor")
    op.execute("DROP TABLE retroactive_message")
    op.execute("ALTER TABLE handed_off DROP COLUMN ordinal")
