"""Senders, contacts and their imports, campaigns with their audiences and accounts; outbox and offsets.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# recipient and campaign_accounts: room in their pages for the updates to come
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

CREATE TABLE sender (
    sender_id text NOT NULL,
    version integer NOT NULL,
    brand text NOT NULL,
    country text NOT NULL,
    stop_code text NOT NULL,
    purposes text[] NOT NULL,
    CONSTRAINT sender_pk PRIMARY KEY (sender_id)
);

CREATE TABLE contact (
    sender_id text NOT NULL,
    subject_id text NOT NULL,
    number text NOT NULL,
    attributes jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT contact_pk PRIMARY KEY (sender_id, subject_id)
);

CREATE TABLE contact_import (
    import_id text NOT NULL,
    sender_id text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    fingerprint text NOT NULL,
    lines integer NOT NULL,
    created integer NOT NULL,
    updated integer NOT NULL,
    duplicates integer NOT NULL,
    refused integer NOT NULL,
    reasons jsonb NOT NULL,
    CONSTRAINT contact_import_pk PRIMARY KEY (import_id)
);

CREATE TABLE import_refusal (
    import_id text NOT NULL,
    line integer NOT NULL,
    reason text NOT NULL,
    CONSTRAINT import_refusal_pk PRIMARY KEY (import_id, line)
);

CREATE TABLE campaign (
    campaign_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    sender_id text NOT NULL,
    name text NOT NULL,
    purpose text NOT NULL,
    text text NOT NULL,
    selection jsonb NOT NULL,
    send_before timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    fingerprint text NOT NULL,
    status text NOT NULL,
    control_version integer NOT NULL DEFAULT 0,
    starts_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    cursor text NOT NULL DEFAULT '',
    expanded boolean NOT NULL DEFAULT false,
    expanded_at timestamptz,
    CONSTRAINT campaign_pk PRIMARY KEY (campaign_id)
);

CREATE UNIQUE INDEX campaign_position_ix ON campaign (position);
CREATE INDEX campaign_scheduled_ix ON campaign (starts_at) WHERE status = 'scheduled';
CREATE INDEX campaign_expanding_ix ON campaign (expanded_at) WHERE status = 'running' AND NOT expanded;

CREATE TABLE campaign_accounts (
    campaign_id text NOT NULL,
    audience integer NOT NULL DEFAULT 0,
    pending integer NOT NULL DEFAULT 0,
    denied integer NOT NULL DEFAULT 0,
    deferred integer NOT NULL DEFAULT 0,
    expired integer NOT NULL DEFAULT 0,
    accepted integer NOT NULL DEFAULT 0,
    rejected integer NOT NULL DEFAULT 0,
    unknown integer NOT NULL DEFAULT 0,
    delivered integer NOT NULL DEFAULT 0,
    undelivered integer NOT NULL DEFAULT 0,
    CONSTRAINT campaign_accounts_pk PRIMARY KEY (campaign_id),
    CONSTRAINT campaign_accounts_sum_ck
        CHECK (audience = pending + denied + deferred + expired + accepted + rejected + unknown),
    CONSTRAINT campaign_accounts_counts_ck
        CHECK (least(pending, denied, deferred, expired, accepted, rejected, unknown, delivered, undelivered) >= 0)
) WITH (fillfactor = 10);

CREATE TABLE campaign_reason (
    campaign_id text NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    recipients integer NOT NULL,
    CONSTRAINT campaign_reason_pk PRIMARY KEY (campaign_id, kind, reason)
);

CREATE TABLE recipient (
    campaign_id text NOT NULL,
    subject_id text NOT NULL,
    status text NOT NULL,
    reasons text[] NOT NULL,
    receipt text,
    version integer NOT NULL,
    CONSTRAINT recipient_pk PRIMARY KEY (campaign_id, subject_id)
) WITH (fillfactor = 50);
"""


def upgrade() -> None:
    for statement in filter(str.strip, TABLES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "recipient", "campaign_reason", "campaign_accounts", "campaign", "import_refusal", "contact_import", "contact",
        "sender", "consumer_offset", "outbox",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table}")
