"""Contacts, segments, campaigns and their recipients, links, imports, templates; outbox, offsets, dead letters.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "allowance",
    "audit_line",
    "campaign",
    "campaign_accounts",
    "campaign_approval",
    "campaign_link",
    "campaign_pre_flight",
    "campaign_reason",
    "consumer_offset",
    "contact",
    "contact_attribute",
    "contact_import",
    "conversion",
    "dead_letter",
    "erasing",
    "event",
    "event_feed",
    "hold",
    "import_piece",
    "import_refusal",
    "keyed_request",
    "link",
    "opt_out",
    "outbox",
    "outbox_log",
    "recipient",
    "segment",
    "segment_version",
    "sender",
    "sender_rule",
    "shard",
    "standing",
    "subject_key",
    "template",
    "template_version",
    "test_send",
    "webhook",
    "webhook_delivery",
    "widening",
)
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
CREATE TABLE campaign (
    campaign_id text NOT NULL,
    "position" bigint NOT NULL,
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
    control_version integer DEFAULT 0 NOT NULL,
    starts_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    archived_at timestamptz,
    cursor text DEFAULT ''::text NOT NULL,
    expanded boolean DEFAULT false NOT NULL,
    language text DEFAULT 'fr'::text NOT NULL,
    translations jsonb DEFAULT '{}'::jsonb NOT NULL,
    folding text DEFAULT 'none'::text NOT NULL,
    sectors text[] DEFAULT '{}'::text[] NOT NULL,
    edited_by text[] DEFAULT '{}'::text[] NOT NULL,
    agreed text,
    acknowledged text[] DEFAULT '{}'::text[] NOT NULL,
    rest_days integer,
    sent_back text,
    timing jsonb DEFAULT '{}'::jsonb NOT NULL,
    priority text DEFAULT 'normal'::text NOT NULL,
    at timestamptz,
    look_at timestamptz,
    next_slot timestamptz,
    turn bigint DEFAULT 0 NOT NULL,
    recurring jsonb,
    series_id text,
    missed integer DEFAULT 0 NOT NULL,
    trial jsonb,
    winner text,
    agreed_start timestamptz,
    approval_needed boolean DEFAULT false NOT NULL,
    choice jsonb,
    repeat_at timestamptz,
    repeats integer DEFAULT 0 NOT NULL,
    page_at timestamptz,
    page_size integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    retry_at timestamptz
)
    """,
    """
CREATE TABLE campaign_accounts (
    campaign_id text NOT NULL,
    partition smallint DEFAULT '-1' NOT NULL,
    audience integer DEFAULT 0 NOT NULL,
    pending integer DEFAULT 0 NOT NULL,
    denied integer DEFAULT 0 NOT NULL,
    deferred integer DEFAULT 0 NOT NULL,
    expired integer DEFAULT 0 NOT NULL,
    accepted integer DEFAULT 0 NOT NULL,
    rejected integer DEFAULT 0 NOT NULL,
    unknown integer DEFAULT 0 NOT NULL,
    delivered integer DEFAULT 0 NOT NULL,
    undelivered integer DEFAULT 0 NOT NULL,
    CONSTRAINT campaign_accounts_sum_ck CHECK ((audience = ((((((pending + denied) + deferred) + expired)
        + accepted) + rejected) + unknown)))
)
WITH (fillfactor='10')
    """,
    """
CREATE TABLE campaign_approval (
    campaign_id text NOT NULL,
    digest text NOT NULL,
    approved_by text NOT NULL,
    approved_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE campaign_link (
    campaign_id text NOT NULL,
    place integer NOT NULL,
    target text NOT NULL
)
    """,
    """
ALTER TABLE campaign ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME campaign_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE campaign_pre_flight (
    campaign_id text NOT NULL,
    digest text NOT NULL,
    findings text[] NOT NULL,
    made_at timestamptz NOT NULL,
    at timestamptz
)
    """,
    """
CREATE TABLE campaign_reason (
    campaign_id text NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    partition smallint NOT NULL,
    recipients integer NOT NULL
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
CREATE TABLE contact (
    sender_id text NOT NULL,
    subject_id text NOT NULL,
    number text NOT NULL,
    attributes jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    corrected jsonb DEFAULT '{}'::jsonb NOT NULL,
    territory text
)
    """,
    """
CREATE TABLE contact_attribute (
    sender_id text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    declared_by text,
    changed_at timestamptz NOT NULL
)
    """,
    """
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
    read_as jsonb DEFAULT 'null'::jsonb NOT NULL,
    bytes bigint,
    received_bytes bigint DEFAULT 0 NOT NULL,
    pieces integer DEFAULT 0 NOT NULL,
    complete boolean DEFAULT true NOT NULL,
    line integer DEFAULT 0 NOT NULL,
    finished boolean DEFAULT true NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamptz DEFAULT now() NOT NULL,
    failed boolean DEFAULT false NOT NULL,
    country text
)
    """,
    """
CREATE TABLE conversion (
    sender_id text NOT NULL,
    reference text NOT NULL,
    subject_id text NOT NULL,
    value numeric(14,2),
    currency text,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL
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
CREATE TABLE event (
    organisation_id text NOT NULL,
    "position" bigint NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    sender_id text,
    controller text,
    subject_id text,
    about text NOT NULL,
    version integer,
    webhook_id text,
    data text NOT NULL,
    at timestamptz NOT NULL,
    stored_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE event_feed (
    organisation_id text NOT NULL,
    last_position bigint NOT NULL,
    begun_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE hold (
    category text NOT NULL,
    version integer NOT NULL,
    since timestamptz NOT NULL,
    consents_as_of timestamptz,
    ended_at timestamptz
)
    """,
    """
CREATE TABLE import_piece (
    import_id text NOT NULL,
    "position" integer NOT NULL,
    body bytea NOT NULL
)
    """,
    """
ALTER TABLE ONLY import_piece ALTER COLUMN body SET STORAGE EXTERNAL
    """,
    """
CREATE TABLE import_refusal (
    import_id text NOT NULL,
    line integer NOT NULL,
    reason text NOT NULL
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
CREATE TABLE link (
    campaign_id text NOT NULL,
    subject_id text NOT NULL,
    place integer NOT NULL,
    token text NOT NULL,
    clicks integer DEFAULT 0 NOT NULL,
    first_clicked_at timestamptz,
    last_clicked_at timestamptz
)
    """,
    """
CREATE TABLE opt_out (
    subject_id text NOT NULL,
    evidence_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    at timestamptz NOT NULL
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
CREATE TABLE recipient (
    campaign_id text NOT NULL,
    subject_id text NOT NULL,
    reasons text[] NOT NULL,
    waits_until timestamptz,
    variant text,
    repeated_at timestamptz,
    handed_off_at timestamptz,
    cost integer,
    segments smallint,
    status text NOT NULL,
    version integer NOT NULL,
    receipt text,
    receipt_at timestamptz
)
WITH (fillfactor='35')
    """,
    """
CREATE TABLE segment (
    segment_id text NOT NULL,
    "position" bigint NOT NULL,
    sender_id text NOT NULL,
    name text NOT NULL,
    latest integer NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
ALTER TABLE segment ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME segment_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE segment_version (
    segment_id text NOT NULL,
    version integer NOT NULL,
    expression jsonb NOT NULL,
    kinds jsonb NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE sender (
    sender_id text NOT NULL,
    organisation_id text NOT NULL,
    controller text NOT NULL,
    version integer NOT NULL,
    brand text NOT NULL,
    country text NOT NULL,
    stop_code text NOT NULL,
    purposes text[] NOT NULL,
    oadc text DEFAULT ''::text NOT NULL,
    reachable_in text[] DEFAULT '{}'::text[] NOT NULL,
    stop_page text,
    countries text[] DEFAULT '{}'::text[] NOT NULL
)
    """,
    """
CREATE TABLE sender_rule (
    sender_id text NOT NULL,
    approval boolean NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL,
    cap_messages integer,
    cap_days integer,
    link_host text,
    stop_added text
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
CREATE TABLE standing (
    subject_id text NOT NULL,
    version integer NOT NULL,
    told jsonb NOT NULL
)
    """,
    """
CREATE TABLE template (
    template_id text NOT NULL,
    "position" bigint NOT NULL,
    sender_id text NOT NULL,
    name text NOT NULL,
    category text NOT NULL,
    language text NOT NULL,
    latest integer NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
ALTER TABLE template ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME template_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE template_version (
    template_id text NOT NULL,
    number integer NOT NULL,
    text text NOT NULL,
    fields jsonb NOT NULL,
    findings jsonb NOT NULL,
    written_by text NOT NULL,
    written_at timestamptz NOT NULL,
    approved_by text,
    approved_at timestamptz,
    acknowledged text[],
    signs text,
    retired_by text,
    retired_at timestamptz
)
    """,
    """
CREATE TABLE test_send (
    campaign_id text NOT NULL,
    message_id text NOT NULL,
    subject_id text NOT NULL,
    variant text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL,
    call text NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
CREATE TABLE webhook (
    webhook_id text NOT NULL,
    "position" bigint NOT NULL,
    organisation_id text NOT NULL,
    url text NOT NULL,
    types text[],
    senders text[],
    description text NOT NULL,
    secrets text NOT NULL,
    enabled text NOT NULL,
    disabled_at timestamptz,
    cursor bigint NOT NULL,
    failures integer NOT NULL,
    failing_since timestamptz,
    rests_until timestamptz,
    accepted_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
ALTER TABLE webhook ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME webhook_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE webhook_delivery (
    webhook_id text NOT NULL,
    "position" bigint NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    about text NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL,
    due_at timestamptz NOT NULL,
    first_at timestamptz,
    last_at timestamptz,
    code integer,
    error text,
    took_ms integer,
    created_at timestamptz NOT NULL
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
ALTER TABLE allowance ADD CONSTRAINT allowance_pk PRIMARY KEY (name, holder)
    """,
    """
ALTER TABLE campaign_accounts ADD CONSTRAINT campaign_accounts_pk PRIMARY KEY (campaign_id, partition)
    """,
    """
ALTER TABLE campaign_approval ADD CONSTRAINT campaign_approval_pk PRIMARY KEY (campaign_id, digest, approved_by)
    """,
    """
ALTER TABLE campaign_link ADD CONSTRAINT campaign_link_pk PRIMARY KEY (campaign_id, place)
    """,
    """
ALTER TABLE campaign ADD CONSTRAINT campaign_pk PRIMARY KEY (campaign_id)
    """,
    """
ALTER TABLE campaign_pre_flight ADD CONSTRAINT campaign_pre_flight_pk PRIMARY KEY (campaign_id)
    """,
    """
ALTER TABLE campaign_reason ADD CONSTRAINT campaign_reason_pk PRIMARY KEY (campaign_id, kind, reason, partition)
    """,
    """
ALTER TABLE consumer_offset ADD CONSTRAINT consumer_offset_pk PRIMARY KEY (consumer_group, topic, partition)
    """,
    """
ALTER TABLE contact_attribute ADD CONSTRAINT contact_attribute_pk PRIMARY KEY (sender_id, name)
    """,
    """
ALTER TABLE contact_import ADD CONSTRAINT contact_import_pk PRIMARY KEY (import_id)
    """,
    """
ALTER TABLE contact ADD CONSTRAINT contact_pk PRIMARY KEY (sender_id, subject_id)
    """,
    """
ALTER TABLE conversion ADD CONSTRAINT conversion_pk PRIMARY KEY (sender_id, reference)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_record_uq UNIQUE (consumer_group, topic, partition, at_offset)
    """,
    """
ALTER TABLE erasing ADD CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
    """,
    """
ALTER TABLE event ADD CONSTRAINT event_organisation_id_event_id_uq UNIQUE (organisation_id, event_id)
    """,
    """
ALTER TABLE event_feed ADD CONSTRAINT event_feed_pk PRIMARY KEY (organisation_id)
    """,
    """
ALTER TABLE event ADD CONSTRAINT event_pk PRIMARY KEY (organisation_id, "position")
    """,
    """
ALTER TABLE hold ADD CONSTRAINT hold_pk PRIMARY KEY (category)
    """,
    """
ALTER TABLE import_piece ADD CONSTRAINT import_piece_pk PRIMARY KEY (import_id, "position")
    """,
    """
ALTER TABLE import_refusal ADD CONSTRAINT import_refusal_pk PRIMARY KEY (import_id, line)
    """,
    """
ALTER TABLE keyed_request ADD CONSTRAINT keyed_request_pk PRIMARY KEY (caller, key)
    """,
    """
ALTER TABLE link ADD CONSTRAINT link_pk PRIMARY KEY (campaign_id, subject_id, place)
    """,
    """
ALTER TABLE opt_out ADD CONSTRAINT opt_out_pk PRIMARY KEY (subject_id, evidence_id, sender_id, purpose)
    """,
    """
ALTER TABLE outbox_log ADD CONSTRAINT outbox_log_pk PRIMARY KEY (topic, partition)
    """,
    """
ALTER TABLE subject_key ADD CONSTRAINT subject_key_pk PRIMARY KEY (key_id)
    """,
    """
ALTER TABLE outbox ADD CONSTRAINT outbox_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE recipient ADD CONSTRAINT recipient_pk PRIMARY KEY (campaign_id, subject_id)
    """,
    """
ALTER TABLE segment ADD CONSTRAINT segment_pk PRIMARY KEY (segment_id)
    """,
    """
ALTER TABLE segment_version ADD CONSTRAINT segment_version_pk PRIMARY KEY (segment_id, version)
    """,
    """
ALTER TABLE sender ADD CONSTRAINT sender_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE sender_rule ADD CONSTRAINT sender_rule_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE shard ADD CONSTRAINT shard_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE standing ADD CONSTRAINT standing_pk PRIMARY KEY (subject_id)
    """,
    """
ALTER TABLE template ADD CONSTRAINT template_pk PRIMARY KEY (template_id)
    """,
    """
ALTER TABLE template_version ADD CONSTRAINT template_version_pk PRIMARY KEY (template_id, number)
    """,
    """
ALTER TABLE test_send ADD CONSTRAINT test_send_pk PRIMARY KEY (campaign_id, message_id)
    """,
    """
ALTER TABLE webhook_delivery ADD CONSTRAINT webhook_delivery_pk PRIMARY KEY (webhook_id, "position")
    """,
    """
ALTER TABLE webhook ADD CONSTRAINT webhook_pk PRIMARY KEY (webhook_id)
    """,
    """
ALTER TABLE widening ADD CONSTRAINT widening_pk PRIMARY KEY (id)
    """,
    """
CREATE INDEX allowance_since_ix ON allowance (since)
    """,
    """
CREATE INDEX campaign_begun_ix ON campaign (sender_id, ended_at) WHERE (started_at IS NOT NULL)
    """,
    """
CREATE INDEX campaign_cancelled_ix ON campaign (sender_id) WHERE ((status = 'cancelled'::text) AND (NOT expanded))
    """,
    """
CREATE INDEX campaign_ended_ix ON campaign (ended_at) WHERE (ended_at IS NOT NULL)
    """,
    """
CREATE INDEX campaign_expanding_ix ON campaign (turn) WHERE ((status = 'running'::text) AND (NOT expanded))
    """,
    """
CREATE INDEX campaign_failing_ix ON campaign (retry_at) WHERE (failures > 1)
    """,
    """
CREATE INDEX campaign_paused_ix ON campaign (sender_id) WHERE ((status = 'paused'::text) AND (started_at IS
    NOT NULL) AND (NOT expanded))
    """,
    """
CREATE UNIQUE INDEX campaign_position_ix ON campaign ("position")
    """,
    """
CREATE INDEX campaign_repeat_ix ON campaign (repeat_at) WHERE ((repeat_at IS NOT NULL) AND (status <> 'finished'::text))
    """,
    """
CREATE INDEX campaign_scheduled_ix ON campaign (starts_at) WHERE (status = 'scheduled'::text)
    """,
    """
CREATE INDEX campaign_sender_ix ON campaign (sender_id, "position")
    """,
    """
CREATE INDEX campaign_series_ix ON campaign (series_id, "position") WHERE (series_id IS NOT NULL)
    """,
    """
CREATE INDEX contact_import_created_ix ON contact_import (created_at)
    """,
    """
CREATE INDEX contact_import_sender_ix ON contact_import (sender_id, created_at)
    """,
    """
CREATE INDEX contact_import_waiting_ix ON contact_import (import_id) WHERE (complete AND (NOT finished))
    """,
    """
CREATE INDEX contact_updated_ix ON contact (updated_at)
    """,
    """
CREATE INDEX conversion_occurred_ix ON conversion (sender_id, occurred_at)
    """,
    """
CREATE INDEX conversion_recorded_ix ON conversion (recorded_at)
    """,
    """
CREATE INDEX conversion_subject_ix ON conversion (subject_id)
    """,
    """
CREATE INDEX dead_letter_buried_ix ON dead_letter (buried_at)
    """,
    """
CREATE INDEX erasing_open_ix ON erasing (requested_at) WHERE (erased_at IS NULL)
    """,
    """
CREATE INDEX erasing_subject_ix ON erasing (subject_id)
    """,
    """
CREATE INDEX event_opted_out_ix ON event (subject_id, version) WHERE (type = 'consent.opted_out'::text)
    """,
    """
CREATE INDEX event_stored_ix ON event (stored_at)
    """,
    """
CREATE INDEX keyed_request_created_at_ix ON keyed_request (created_at)
    """,
    """
CREATE UNIQUE INDEX link_token_ix ON link (token)
    """,
    """
CREATE INDEX opt_out_at_ix ON opt_out (at)
    """,
    """
CREATE INDEX recipient_repeated_ix ON recipient (campaign_id, repeated_at) WHERE (repeated_at IS NOT NULL)
    """,
    """
CREATE INDEX recipient_waiting_ix ON recipient (campaign_id, waits_until, subject_id) WHERE (waits_until IS NOT NULL)
    """,
    """
CREATE UNIQUE INDEX segment_position_ix ON segment ("position")
    """,
    """
CREATE INDEX segment_sender_ix ON segment (sender_id, "position")
    """,
    """
CREATE INDEX sender_organisation_ix ON sender (organisation_id)
    """,
    """
CREATE UNIQUE INDEX template_position_ix ON template ("position")
    """,
    """
CREATE INDEX template_sender_ix ON template (sender_id, "position")
    """,
    """
CREATE INDEX test_send_asked_ix ON test_send (asked_at)
    """,
    """
CREATE INDEX test_send_subject_ix ON test_send (subject_id)
    """,
    """
CREATE INDEX webhook_delivery_created_ix ON webhook_delivery (created_at)
    """,
    """
CREATE INDEX webhook_delivery_due_ix ON webhook_delivery (webhook_id, due_at) WHERE (state = 'waiting'::text)
    """,
    """
CREATE INDEX webhook_delivery_order_ix ON webhook_delivery (webhook_id, about, "position")
    WHERE (state = 'waiting'::text)
    """,
    """
CREATE INDEX webhook_organisation_ix ON webhook (organisation_id, "position")
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
)


def upgrade() -> None:
    for statement in SCHEMA:
        op.execute(statement)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("DROP FUNCTION audit_line_is_append_only()")
