"""Erasures, the answers of the services, and what this one has to erase.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE subject ADD COLUMN erased_at timestamptz;

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

CREATE TABLE erasure (
    erasure_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    subject_id text NOT NULL,
    source text NOT NULL,
    evidence_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    asked_again_at timestamptz,
    completed_at timestamptz,
    CONSTRAINT erasure_pk PRIMARY KEY (erasure_id)
);

CREATE UNIQUE INDEX erasure_position_ix ON erasure (position);
CREATE INDEX erasure_open_ix ON erasure (subject_id) WHERE completed_at IS NULL;

CREATE TABLE erasure_ack (
    erasure_id text NOT NULL,
    service text NOT NULL,
    erased_at timestamptz NOT NULL,
    acknowledged_at timestamptz NOT NULL,
    erased jsonb NOT NULL,
    CONSTRAINT erasure_ack_pk PRIMARY KEY (erasure_id, service)
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("erasure_ack", "erasure", "erasing"):
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE subject DROP COLUMN erased_at")
