"""Copies of what is held of a person, while they wait to be fetched.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE copy (
    copy_id text NOT NULL,
    subject_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    completed_at timestamptz,
    expires_at timestamptz NOT NULL,
    CONSTRAINT copy_pk PRIMARY KEY (copy_id)
);

CREATE INDEX copy_subject_ix ON copy (subject_id);
CREATE INDEX copy_expires_ix ON copy (expires_at);

CREATE TABLE copy_part (
    copy_id text NOT NULL,
    service text NOT NULL,
    place integer NOT NULL,
    parts integer NOT NULL,
    items text NOT NULL,
    gathered_at timestamptz NOT NULL,
    CONSTRAINT copy_part_pk PRIMARY KEY (copy_id, service, place)
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("copy_part", "copy"):
        op.execute(f"DROP TABLE {table}")
