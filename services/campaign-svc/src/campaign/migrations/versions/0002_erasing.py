"""The erasures asked for.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
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
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE erasing")
