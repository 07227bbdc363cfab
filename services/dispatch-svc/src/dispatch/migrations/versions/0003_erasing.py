"""The erasures asked for; messages without number and text, found by their subject.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE erasing (
    erasure_id text NOT NULL,
    subject_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    after_xid bigint,
    erased_at timestamptz,
    lifted_at timestamptz,
    CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
);

CREATE INDEX erasing_subject_ix ON erasing (subject_id);
CREATE INDEX erasing_open_ix ON erasing (requested_at) WHERE erased_at IS NULL;

ALTER TABLE message
    ALTER COLUMN number DROP NOT NULL,
    ALTER COLUMN text DROP NOT NULL;

CREATE INDEX message_subject_ix ON message (subject_id);
CREATE INDEX enforcement_subject_ix ON enforcement (subject_id);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX enforcement_subject_ix")
    op.execute("DROP INDEX message_subject_ix")
    op.execute("UPDATE message SET number = coalesce(number, ''), text = coalesce(text, '')")
    op.execute("ALTER TABLE message ALTER COLUMN number SET NOT NULL, ALTER COLUMN text SET NOT NULL")
    op.execute("DROP TABLE erasing")
