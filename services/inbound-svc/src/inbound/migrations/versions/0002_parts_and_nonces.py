"""Parts of concatenated MOs that wait for the others; nonces, so that none is used twice.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE part (
    provider text NOT NULL,
    account text NOT NULL,
    subject_id text NOT NULL,
    short_code text NOT NULL,
    reference text NOT NULL,
    total integer NOT NULL,
    number integer NOT NULL,
    provider_message_id text NOT NULL,
    text text NOT NULL,
    received_at timestamptz NOT NULL,
    CONSTRAINT part_pk PRIMARY KEY (provider, account, subject_id, short_code, reference, total, number)
);
CREATE INDEX part_received_at_ix ON part (received_at);

CREATE TABLE nonce (
    provider text NOT NULL,
    account text NOT NULL,
    nonce text NOT NULL,
    content bytea NOT NULL,
    forget_after timestamptz NOT NULL,
    CONSTRAINT nonce_pk PRIMARY KEY (provider, account, nonce)
);
CREATE INDEX nonce_forget_after_ix ON nonce (forget_after);
"""


def upgrade() -> None:
    for statement in filter(str.strip, TABLES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("nonce", "part"):
        op.execute(f"DROP TABLE {table}")
