"""The hold of a review, provider blocks, and the time of a receipt.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE subject ADD COLUMN held_since timestamptz;

ALTER TABLE message ADD COLUMN receipt_at timestamptz;

CREATE INDEX message_held_ix ON message (subject_id) WHERE status = 'deferred' AND 'under_review' = ANY (reasons);

ALTER TABLE early_receipt
    ADD COLUMN occurred_at timestamptz,
    ADD COLUMN blocked boolean NOT NULL DEFAULT false;

CREATE TABLE provider_block (
    id bigint GENERATED ALWAYS AS IDENTITY,
    gateway text NOT NULL,
    subject_id text NOT NULL,
    code text,
    since timestamptz NOT NULL,
    CONSTRAINT provider_block_pk PRIMARY KEY (id),
    CONSTRAINT provider_block_gateway_subject_id_uq UNIQUE (gateway, subject_id)
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE provider_block")
    op.execute("DROP INDEX message_held_ix")
    for table, column in (
        ("early_receipt", "blocked"),
        ("early_receipt", "occurred_at"),
        ("message", "receipt_at"),
        ("subject", "held_since"),
    ):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
