"""The ledger of messages, the projections that the gate reads, enforcements; outbox, offsets, dead letters.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FUNCTIONS = ("empty_subject_next()", "swap_subject()")
TABLES = (
    "allowance",
    "audit_line",
    "begun",
    "bind_lease",
    "campaign",
    "comparison",
    "consumer_offset",
    "dead_letter",
    "early_receipt",
    "enforcement",
    "erasing",
    "hold",
    "keyed_request",
    "message",
    "mo_name",
    "outbox",
    "outbox_log",
    "provider_block",
    "rebuild",
    "sender",
    "sending",
    "shard",
    "shared_record",
    "subject",
    "subject_key",
    "subject_next",
    "template",
    "text_audit",
    "widening",
)
# Of an update in its page the WAL holds what lies between the first and the last byte that differ. So in a message the
# columns that an outcome changes stand at the end, and among them those that a DLR changes stand together, before those
# that only the outcome changes. Columns of fixed width come first: none needs padding.
SCHEMA = (
    """
CREATE TABLE allowance (
    name text NOT NULL,
    holder text NOT NULL,
    since timestamptz NOT NULL,
    taken bigint NOT NULL,
    granted bigint NOT NULL
)
    """,
    """
CREATE TABLE begun (
    partition smallint NOT NULL,
    decided_at timestamptz NOT NULL,
    message_ids uuid[] NOT NULL
)
    """,
    """
CREATE TABLE bind_lease (
    gateway text NOT NULL,
    holder text NOT NULL,
    number bigint NOT NULL,
    codes boolean NOT NULL,
    wants bigint NOT NULL,
    holds bigint NOT NULL,
    ends_at timestamptz NOT NULL
)
    """,
    """
ALTER TABLE ONLY begun ALTER COLUMN message_ids SET STORAGE EXTERNAL
    """,
    """
CREATE TABLE campaign (
    campaign_id text NOT NULL,
    control text NOT NULL,
    version integer NOT NULL,
    woken integer DEFAULT 0 NOT NULL
)
    """,
    """
CREATE TABLE comparison (
    id smallint NOT NULL,
    sums text NOT NULL,
    begun_at timestamptz NOT NULL,
    seen_until timestamptz NOT NULL,
    compared_at timestamptz,
    compared integer DEFAULT 0 NOT NULL,
    moving integer DEFAULT 0 NOT NULL,
    differing text[] DEFAULT '{}'::text[] NOT NULL
)
    """,
    """
CREATE TABLE consumer_offset (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    as_of timestamptz,
    updated_at timestamptz DEFAULT now() NOT NULL,
    last_number bigint DEFAULT 0 NOT NULL,
    unseen bigint DEFAULT 0 NOT NULL,
    topic_id text,
    cluster_id text,
    fault text,
    fault_at bigint,
    fault_since timestamptz,
    fault_why text,
    cleared_at timestamptz
)
    """,
    """
CREATE TABLE dead_letter (
    id bigint NOT NULL,
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    at_offset bigint NOT NULL,
    type text,
    shape text NOT NULL,
    reason text NOT NULL,
    buried_at timestamptz DEFAULT now() NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    decided_by text,
    decided_at timestamptz,
    CONSTRAINT dead_letter_state_ck CHECK ((state = ANY (ARRAY['open'::text, 'asked'::text,
        'replayed'::text, 'discarded'::text, 'gone'::text])))
)
    """,
    """
ALTER TABLE dead_letter ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE early_receipt (
    gateway text NOT NULL,
    gateway_message_id text NOT NULL,
    receipt text NOT NULL,
    code text,
    received_at timestamptz NOT NULL,
    occurred_at timestamptz,
    blocked boolean DEFAULT false NOT NULL
)
    """,
    """
CREATE TABLE enforcement (
    id bigint NOT NULL,
    subject_id text NOT NULL,
    partition smallint NOT NULL,
    consent_version integer NOT NULL,
    source text NOT NULL,
    reference text,
    received_at timestamptz NOT NULL,
    applied_at timestamptz NOT NULL,
    enforced_at timestamptz
)
    """,
    """
ALTER TABLE enforcement ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME enforcement_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE erasing (
    erasure_id text NOT NULL,
    subject_id text NOT NULL,
    controller_id text,
    requested_at timestamptz NOT NULL,
    after_xid bigint,
    erased_at timestamptz,
    lifted_for text[] DEFAULT '{}'::text[] NOT NULL
)
    """,
    """
CREATE TABLE hold (
    category text NOT NULL,
    version integer NOT NULL,
    since timestamptz,
    ended_at timestamptz,
    otherwise_since timestamptz
)
    """,
    """
CREATE TABLE keyed_request (
    caller text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    answer bytea
)
    """,
    """
CREATE TABLE message (
    message_id uuid NOT NULL,
    shared_id uuid,
    requested_at timestamptz NOT NULL,
    send_before timestamptz NOT NULL,
    as_of timestamptz,
    decided_at timestamptz,
    due_at timestamptz,
    consent_version integer,
    cost integer,
    segments smallint,
    partition smallint NOT NULL,
    charged boolean NOT NULL,
    campaign_id text,
    sender_id text NOT NULL,
    purpose text,
    category text NOT NULL,
    subject_id text NOT NULL,
    number text,
    text text,
    policy_version text NOT NULL,
    gateway text,
    region text,
    facts text,
    template text,
    prices text,
    reasons text[] NOT NULL,
    handed_off_at timestamptz,
    receipt_at timestamptz,
    unknown_since timestamptz,
    version integer NOT NULL,
    receipt text,
    code text,
    status text NOT NULL,
    known_as text,
    gateway_message_id text,
    CONSTRAINT message_waiting_is_due_ck CHECK (((due_at IS NOT NULL) OR (status <> ALL
        (ARRAY['pending'::text, 'deferred'::text]))))
)
WITH (fillfactor='30')
    """,
    """
CREATE TABLE mo_name (
    gateway text NOT NULL,
    fingerprint text NOT NULL,
    name text NOT NULL,
    repeats_until timestamptz NOT NULL
)
    """,
    """
CREATE TABLE outbox (
    id bigint NOT NULL,
    event_id uuid NOT NULL,
    topic text NOT NULL,
    key bytea,
    type text NOT NULL,
    payload bytea,
    traceparent text,
    created_at timestamptz DEFAULT now() NOT NULL
)
    """,
    """
ALTER TABLE ONLY outbox ALTER COLUMN payload SET STORAGE EXTERNAL
    """,
    """
ALTER TABLE outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE outbox_log (
    topic text NOT NULL,
    partition integer NOT NULL,
    last_number bigint NOT NULL
)
    """,
    """
CREATE TABLE subject_key (
    key_id text NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
CREATE TABLE provider_block (
    id bigint NOT NULL,
    gateway text NOT NULL,
    subject_id text NOT NULL,
    code text,
    since timestamptz NOT NULL
)
    """,
    """
ALTER TABLE provider_block ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provider_block_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE rebuild (
    partition smallint NOT NULL,
    next_offset bigint NOT NULL,
    until bigint NOT NULL,
    begun_at timestamptz NOT NULL,
    last_number bigint DEFAULT 0 NOT NULL,
    unseen bigint DEFAULT 0 NOT NULL
)
    """,
    """
CREATE TABLE sender (
    sender_id text NOT NULL,
    organisation_id text NOT NULL,
    version integer NOT NULL,
    oadc text NOT NULL,
    stop_code text NOT NULL,
    purposes text[] NOT NULL,
    countries text[] DEFAULT '{}'::text[] NOT NULL,
    reachable_in text[] DEFAULT '{}'::text[] NOT NULL,
    stop_page text,
    controller text NOT NULL,
    stop_scope text DEFAULT 'controller'::text NOT NULL
)
    """,
    """
CREATE TABLE sending (
    id bigint NOT NULL,
    partition smallint NOT NULL,
    since timestamptz DEFAULT clock_timestamp() NOT NULL,
    decided_at timestamptz NOT NULL,
    closed boolean DEFAULT false NOT NULL,
    message_ids uuid[] NOT NULL,
    people integer[] NOT NULL
)
    """,
    """
ALTER TABLE ONLY sending ALTER COLUMN message_ids SET STORAGE EXTERNAL
    """,
    """
ALTER TABLE ONLY sending ALTER COLUMN people SET STORAGE EXTERNAL
    """,
    """
ALTER TABLE sending ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sending_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE shard (
    id smallint NOT NULL,
    partitions smallint[] NOT NULL,
    "of" integer NOT NULL,
    division text DEFAULT 'none'::text NOT NULL,
    taken smallint[] DEFAULT '{}'::smallint[] NOT NULL
)
    """,
    """
CREATE TABLE shared_record (
    id uuid NOT NULL,
    content text NOT NULL
)
    """,
    """
CREATE TABLE subject (
    subject_id text NOT NULL,
    version integer NOT NULL,
    consents jsonb NOT NULL,
    suppressions jsonb NOT NULL,
    erased boolean NOT NULL,
    unreadable boolean DEFAULT false NOT NULL,
    held_since timestamptz,
    published_at timestamptz,
    log_offset bigint
)
    """,
    """
CREATE TABLE subject_next (
    subject_id text NOT NULL,
    version integer NOT NULL,
    consents jsonb NOT NULL,
    suppressions jsonb NOT NULL,
    erased boolean NOT NULL,
    unreadable boolean DEFAULT false NOT NULL,
    held_since timestamptz,
    published_at timestamptz,
    log_offset bigint
)
    """,
    """
CREATE TABLE template (
    template_id text NOT NULL,
    number integer NOT NULL,
    sender_id text NOT NULL,
    category text NOT NULL,
    text text NOT NULL,
    fields jsonb NOT NULL,
    state text NOT NULL,
    version integer NOT NULL
)
    """,
    """
CREATE TABLE text_audit (
    id bigint NOT NULL,
    at timestamptz NOT NULL,
    caller text NOT NULL,
    sender_id text NOT NULL,
    category text NOT NULL,
    template text NOT NULL,
    result text NOT NULL,
    reasons text[] NOT NULL,
    message_id uuid,
    override_reason text
)
    """,
    """
ALTER TABLE text_audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME text_audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE widening (
    id smallint NOT NULL,
    packed integer NOT NULL,
    published integer NOT NULL
)
    """,
    """
ALTER TABLE bind_lease ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME bind_lease_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
ALTER TABLE allowance ADD CONSTRAINT allowance_pk PRIMARY KEY (name, holder)
    """,
    """
ALTER TABLE bind_lease ADD CONSTRAINT bind_lease_pk PRIMARY KEY (gateway, holder)
    """,
    """
ALTER TABLE campaign ADD CONSTRAINT campaign_pk PRIMARY KEY (campaign_id)
    """,
    """
ALTER TABLE comparison ADD CONSTRAINT comparison_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE consumer_offset ADD CONSTRAINT consumer_offset_pk PRIMARY KEY (consumer_group, topic, partition)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_record_uq UNIQUE (consumer_group, topic, partition, at_offset)
    """,
    """
ALTER TABLE early_receipt ADD CONSTRAINT early_receipt_pk PRIMARY KEY (gateway, gateway_message_id, receipt)
    """,
    """
ALTER TABLE enforcement ADD CONSTRAINT enforcement_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE erasing ADD CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
    """,
    """
ALTER TABLE hold ADD CONSTRAINT hold_pk PRIMARY KEY (category)
    """,
    """
ALTER TABLE keyed_request ADD CONSTRAINT keyed_request_pk PRIMARY KEY (caller, key)
    """,
    """
ALTER TABLE message ADD CONSTRAINT message_pk PRIMARY KEY (message_id)
    """,
    """
ALTER TABLE outbox_log ADD CONSTRAINT outbox_log_pk PRIMARY KEY (topic, partition)
    """,
    """
ALTER TABLE subject_key ADD CONSTRAINT subject_key_pk PRIMARY KEY (key_id)
    """,
    """
ALTER TABLE mo_name ADD CONSTRAINT mo_name_pk PRIMARY KEY (gateway, fingerprint)
    """,
    """
ALTER TABLE outbox ADD CONSTRAINT outbox_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE provider_block ADD CONSTRAINT provider_block_gateway_subject_id_uq UNIQUE (gateway, subject_id)
    """,
    """
ALTER TABLE provider_block ADD CONSTRAINT provider_block_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE rebuild ADD CONSTRAINT rebuild_pk PRIMARY KEY (partition)
    """,
    """
ALTER TABLE sender ADD CONSTRAINT sender_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE sending ADD CONSTRAINT sending_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE shard ADD CONSTRAINT shard_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE subject_next ADD CONSTRAINT subject_next_pk PRIMARY KEY (subject_id)
    """,
    """
ALTER TABLE subject ADD CONSTRAINT subject_pk PRIMARY KEY (subject_id)
    """,
    """
ALTER TABLE template ADD CONSTRAINT template_pk PRIMARY KEY (template_id, number)
    """,
    """
ALTER TABLE text_audit ADD CONSTRAINT text_audit_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE widening ADD CONSTRAINT widening_pk PRIMARY KEY (id)
    """,
    """
CREATE INDEX allowance_since_ix ON allowance (since)
    """,
    """
CREATE INDEX begun_decided_ix ON begun (decided_at)
    """,
    """
CREATE INDEX campaign_to_wake_ix ON campaign (campaign_id) WHERE ((woken < version) AND (control <> 'paused'::text))
    """,
    """
CREATE INDEX dead_letter_buried_ix ON dead_letter (buried_at)
    """,
    """
CREATE INDEX early_receipt_received_ix ON early_receipt (received_at)
    """,
    """
CREATE INDEX enforcement_enforced_ix ON enforcement (enforced_at) WHERE (enforced_at IS NOT NULL)
    """,
    """
CREATE INDEX enforcement_open_ix ON enforcement (subject_id) WHERE (enforced_at IS NULL)
    """,
    """
CREATE INDEX enforcement_subject_ix ON enforcement (subject_id)
    """,
    """
CREATE INDEX erasing_open_ix ON erasing (requested_at) WHERE (erased_at IS NULL)
    """,
    """
CREATE INDEX erasing_subject_ix ON erasing (subject_id)
    """,
    """
CREATE INDEX keyed_request_created_at_ix ON keyed_request (created_at)
    """,
    """
CREATE INDEX message_bare_ix ON message (requested_at) WHERE ((number IS NULL) AND (text IS NULL))
    """,
    """
CREATE INDEX message_content_ix ON message (requested_at) WHERE ((number IS NOT NULL) OR (text IS NOT NULL))
    """,
    """
CREATE INDEX message_decided_ix ON message USING brin (decided_at) WITH (autosummarize='on')
    """,
    """
CREATE INDEX message_due_codes_ix ON message (partition, due_at) WHERE ((due_at IS NOT NULL) AND (category <>
    'marketing'::text) AND ((category <> 'service'::text) OR (purpose IS NULL)))
    """,
    """
CREATE INDEX message_due_marketing_ix ON message (partition, due_at) WHERE ((due_at IS NOT NULL) AND (category
    = 'marketing'::text))
    """,
    """
CREATE INDEX message_due_questions_ix ON message (partition, due_at) WHERE ((due_at IS NOT NULL) AND (category
    = 'service'::text) AND (purpose IS NOT NULL))
    """,
    """
CREATE INDEX message_handed_off_ix ON message USING brin (handed_off_at) WITH (autosummarize='on')
    """,
    """
CREATE INDEX message_known_as_ix ON message (gateway, known_as) WHERE (known_as IS NOT NULL)
    """,
    """
CREATE INDEX message_sender_ix ON message (sender_id, requested_at)
    """,
    """
CREATE INDEX message_subject_ix ON message (((coalesce(decided_at, requested_at) AT TIME ZONE 'UTC')::date),
    hashtext(subject_id))
    """,
    """
CREATE INDEX message_unknown_ix ON message (unknown_since) WHERE (unknown_since IS NOT NULL)
    """,
    """
CREATE INDEX message_waiting_ix ON message (campaign_id, due_at) WHERE (due_at IS NOT NULL)
    """,
    """
CREATE INDEX mo_name_repeats_until_ix ON mo_name (repeats_until)
    """,
    """
CREATE INDEX shared_record_id_ix ON shared_record (id)
    """,
    """
CREATE INDEX provider_block_subject_ix ON provider_block (subject_id)
    """,
    """
CREATE INDEX sender_organisation_ix ON sender (organisation_id)
    """,
    """
CREATE INDEX sending_decided_ix ON sending (decided_at)
    """,
    """
CREATE INDEX text_audit_overridden_ix ON text_audit (at) WHERE (result = 'overridden'::text)
    """,
    """
CREATE INDEX text_audit_refused_ix ON text_audit (at) WHERE (result = 'refused'::text)
    """,
    """
CREATE TABLE audit_line (
    "position" bigint NOT NULL,
    at timestamptz NOT NULL,
    organisation text NOT NULL,
    caller text NOT NULL,
    scope text NOT NULL,
    method text NOT NULL,
    route text NOT NULL,
    kind text NOT NULL,
    subject_id text,
    people integer,
    verdict text NOT NULL,
    trace_id text,
    previous text NOT NULL,
    hash text NOT NULL
)
    """,
    """
ALTER TABLE audit_line ADD CONSTRAINT audit_line_pk PRIMARY KEY ("position")
    """,
    """
CREATE INDEX audit_line_at_ix ON audit_line (at)
    """,
    """
CREATE INDEX audit_line_organisation_ix ON audit_line (organisation, "position")
    """,
    """
CREATE FUNCTION audit_line_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
    """,
    """
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON audit_line FOR EACH STATEMENT EXECUTE FUNCTION
    audit_line_is_append_only()
    """,
    """
CREATE TRIGGER only_old_go BEFORE DELETE ON audit_line FOR EACH ROW WHEN (OLD.at > now() - interval '180 days')
    EXECUTE FUNCTION audit_line_is_append_only()
    """,
    # The service's role owns no table: these two, and no other, change hands by the owner's right.
    """
CREATE FUNCTION empty_subject_next() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$ BEGIN
    TRUNCATE subject_next;
END $$
    """,
    """
CREATE FUNCTION swap_subject() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$ BEGIN
    ALTER TABLE subject RENAME TO subject_was;
    ALTER INDEX subject_pk RENAME TO subject_was_pk;
    ALTER TABLE subject_next RENAME TO subject;
    ALTER INDEX subject_next_pk RENAME TO subject_pk;
    ALTER TABLE subject_was RENAME TO subject_next;
    ALTER INDEX subject_was_pk RENAME TO subject_next_pk;
END $$
    """,
)


def upgrade() -> None:
    for statement in SCHEMA:
        op.execute(statement)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("DROP FUNCTION audit_line_is_append_only()")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
