"""The ledger of messages, the projections the gate reads, enforcements; outbox and offsets.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# message: half-filled pages leave room for the one update of the happy path in the same page
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

CREATE TABLE message (
    message_id uuid NOT NULL,
    campaign_id text,
    sender_id text NOT NULL,
    purpose text,
    category text NOT NULL,
    subject_id text NOT NULL,
    partition smallint NOT NULL,
    number text NOT NULL,
    text text NOT NULL,
    requested_at timestamptz NOT NULL,
    send_before timestamptz NOT NULL,
    status text NOT NULL,
    version integer NOT NULL,
    reasons text[] NOT NULL,
    due_at timestamptz,
    policy_version text NOT NULL,
    consent_version integer,
    as_of timestamptz,
    decided_at timestamptz,
    gateway text,
    gateway_message_id text,
    receipt text,
    code text,
    CONSTRAINT message_pk PRIMARY KEY (message_id)
) WITH (fillfactor = 50);

CREATE INDEX message_due_ix ON message (partition, due_at) WHERE status IN ('pending', 'deferred');
CREATE INDEX message_sending_ix ON message (subject_id) WHERE status = 'sending';
CREATE INDEX message_gateway_ix ON message (gateway, gateway_message_id) WHERE gateway_message_id IS NOT NULL;
CREATE INDEX message_waiting_campaign_ix ON message (campaign_id) WHERE status = 'deferred';

CREATE TABLE subject (
    subject_id text NOT NULL,
    version integer NOT NULL,
    consents jsonb NOT NULL,
    suppressions jsonb NOT NULL,
    erased boolean NOT NULL,
    unreadable boolean NOT NULL DEFAULT false,
    CONSTRAINT subject_pk PRIMARY KEY (subject_id)
);

CREATE TABLE sender (
    sender_id text NOT NULL,
    version integer NOT NULL,
    oadc text NOT NULL,
    stop_code text NOT NULL,
    purposes text[] NOT NULL,
    CONSTRAINT sender_pk PRIMARY KEY (sender_id)
);

CREATE TABLE campaign (
    campaign_id text NOT NULL,
    control text NOT NULL,
    version integer NOT NULL,
    CONSTRAINT campaign_pk PRIMARY KEY (campaign_id)
);

CREATE TABLE enforcement (
    id bigint GENERATED ALWAYS AS IDENTITY,
    subject_id text NOT NULL,
    partition smallint NOT NULL,
    consent_version integer NOT NULL,
    source text NOT NULL,
    reference text,
    received_at timestamptz NOT NULL,
    applied_at timestamptz NOT NULL,
    enforced_at timestamptz,
    CONSTRAINT enforcement_pk PRIMARY KEY (id)
);

CREATE INDEX enforcement_open_ix ON enforcement (subject_id) WHERE enforced_at IS NULL;

CREATE TABLE early_receipt (
    gateway text NOT NULL,
    gateway_message_id text NOT NULL,
    receipt text NOT NULL,
    code text,
    received_at timestamptz NOT NULL,
    CONSTRAINT early_receipt_pk PRIMARY KEY (gateway, gateway_message_id, receipt)
);
"""


def upgrade() -> None:
    for statement in filter(str.strip, TABLES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "early_receipt", "enforcement", "campaign", "sender", "subject", "message", "consumer_offset", "outbox",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table}")
