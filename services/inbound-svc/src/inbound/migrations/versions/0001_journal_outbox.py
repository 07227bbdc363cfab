"""The journal of callbacks; outbox and offsets.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL,
    topic text NOT NULL,
    key bytea,
    type text NOT NULL,
    payload bytea,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_pk PRIMARY KEY (id)
);

CREATE TABLE consumer_offset (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    as_of timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT consumer_offset_pk PRIMARY KEY (consumer_group, topic, partition)
);

CREATE TABLE callback (
    id uuid NOT NULL,
    provider text NOT NULL,
    account text NOT NULL,
    kind text NOT NULL,
    received_at timestamptz NOT NULL,
    body text NOT NULL,
    outbox_ids bigint[] NOT NULL,
    CONSTRAINT callback_pk PRIMARY KEY (id)
);

CREATE TABLE callback_item (
    provider text NOT NULL,
    account text NOT NULL,
    kind text NOT NULL,
    provider_message_id text NOT NULL,
    state text NOT NULL,
    callback_id uuid NOT NULL,
    subject_id text,
    intent text,
    rule text,
    score double precision,
    CONSTRAINT callback_item_pk PRIMARY KEY (provider, account, kind, provider_message_id, state),
    CONSTRAINT callback_item_callback_id_fk FOREIGN KEY (callback_id) REFERENCES callback (id)
        DEFERRABLE INITIALLY DEFERRED
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, TABLES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("callback_item", "callback", "consumer_offset", "outbox"):
        op.execute(f"DROP TABLE {table}")
