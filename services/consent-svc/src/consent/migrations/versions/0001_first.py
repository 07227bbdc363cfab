"""Senders, the ledger and its seals, consents, imports, rights, links, answers; outbox, offsets, dead letters.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "allowance",
    "answer",
    "attributed_stop",
    "audit_line",
    "consumer_offset",
    "controller",
    "copy",
    "copy_part",
    "dead_letter",
    "double_opt_in",
    "double_opt_in_pace",
    "ended_entry",
    "erasing",
    "erasure",
    "erasure_ack",
    "evidence",
    "handed_off",
    "import_file",
    "import_piece",
    "import_share",
    "keyed_request",
    "listed",
    "moved_entry",
    "organisation",
    "outbox",
    "outbox_log",
    "owned_name",
    "preference_link",
    "rectification",
    "reopening_rule",
    "retention_due",
    "retention_recount",
    "retroactive_cursor",
    "retroactive_message",
    "review",
    "seal",
    "sender",
    "sender_version",
    "shard",
    "states_sum",
    "subject",
    "subject_key",
)
FUNCTIONS = (
    "audit_line_is_append_only()",
    "ended_entry_is_append_only()",
    "evidence_is_append_only()",
    "evidence_is_only_ended()",
    "evidence_is_only_erased()",
    "moved_entry_is_append_only()",
    "seal_is_append_only()",
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
CREATE TABLE answer (
    message_id uuid NOT NULL,
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    kind text NOT NULL,
    asked_at timestamptz NOT NULL,
    handed_off_at timestamptz,
    version integer
)
    """,
    """
CREATE TABLE attributed_stop (
    mo_id text NOT NULL,
    subject_id text NOT NULL,
    short_code text NOT NULL,
    written_at timestamptz NOT NULL,
    arrived_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    reference text,
    actor text,
    clock text,
    behind_start boolean NOT NULL,
    named text[] NOT NULL
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
CREATE TABLE copy (
    copy_id text NOT NULL,
    subject_id text NOT NULL,
    controller_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    completed_at timestamptz,
    expires_at timestamptz NOT NULL,
    bare boolean NOT NULL
)
    """,
    """
CREATE TABLE copy_part (
    copy_id text NOT NULL,
    service text NOT NULL,
    place integer NOT NULL,
    parts integer NOT NULL,
    items text NOT NULL,
    gathered_at timestamptz NOT NULL,
    shard text DEFAULT ''::text NOT NULL,
    shards integer DEFAULT 1 NOT NULL
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
CREATE TABLE double_opt_in (
    evidence_id text NOT NULL,
    subject_id text NOT NULL,
    number text,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    short_code text NOT NULL,
    by_reply boolean NOT NULL,
    link_id text,
    asked_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    confirmed boolean DEFAULT false NOT NULL,
    after_stop boolean NOT NULL,
    withheld text,
    closed_at timestamptz,
    CONSTRAINT double_opt_in_withheld_ck CHECK (((withheld IS NULL) OR ((number IS NULL) AND (closed_at IS NOT NULL))))
)
    """,
    """
CREATE TABLE double_opt_in_pace (
    key text NOT NULL,
    full_at timestamptz NOT NULL
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
CREATE TABLE erasure (
    erasure_id text NOT NULL,
    "position" bigint NOT NULL,
    subject_id text NOT NULL,
    controller_id text,
    source text NOT NULL,
    evidence_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    asked_again_at timestamptz,
    completed_at timestamptz
)
    """,
    """
CREATE TABLE erasure_ack (
    erasure_id text NOT NULL,
    service text NOT NULL,
    erased_at timestamptz NOT NULL,
    acknowledged_at timestamptz NOT NULL,
    erased jsonb NOT NULL,
    shard text DEFAULT ''::text NOT NULL,
    shards integer DEFAULT 1 NOT NULL
)
    """,
    """
ALTER TABLE erasure ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME erasure_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE evidence (
    evidence_id text NOT NULL,
    subject_id text NOT NULL,
    "position" integer NOT NULL,
    kind text NOT NULL,
    sender_id text,
    purpose text,
    basis text,
    source text NOT NULL,
    form_id text,
    form_version text,
    text_shown text,
    actor text,
    sale_reference text,
    reference text,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    hash text NOT NULL,
    answers text,
    controller text,
    salt text,
    sealed text NOT NULL,
    ordinal bigint NOT NULL,
    arrived_at timestamptz,
    clock text,
    reopening_rule text,
    CONSTRAINT evidence_evidence_kind_ck_ck CHECK ((kind = ANY (ARRAY['opt_in'::text, 'opt_out'::text,
        'request'::text, 'expiry'::text, 'contact'::text, 'correction'::text]))),
    CONSTRAINT evidence_evidence_opt_in_ck_ck CHECK (((kind <> 'opt_in'::text) OR (basis IS NOT NULL))),
    CONSTRAINT evidence_evidence_scope_ck_ck CHECK ((((sender_id IS NOT NULL) OR ((kind = ANY
        (ARRAY['opt_out'::text, 'correction'::text])) AND (purpose IS NULL))) AND ((purpose IS NOT NULL)
        OR (kind = ANY (ARRAY['opt_out'::text, 'contact'::text, 'correction'::text])))))
)
    """,
    """
ALTER TABLE evidence ALTER COLUMN ordinal ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME evidence_ordinal_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE handed_off (
    ordinal bigint NOT NULL,
    handed_off_at timestamptz NOT NULL,
    version integer NOT NULL,
    message_id text NOT NULL,
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    campaign_id text,
    status text NOT NULL
)
    """,
    """
ALTER TABLE handed_off ALTER COLUMN ordinal ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME handed_off_ordinal_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE import_file (
    import_id text NOT NULL,
    created_by text NOT NULL,
    fingerprint text NOT NULL,
    sender_id text,
    kind text NOT NULL,
    format text NOT NULL,
    terms jsonb NOT NULL,
    delimiter text,
    columns text[],
    line_end text,
    wide text,
    seen integer NOT NULL,
    bytes bigint,
    received_bytes bigint NOT NULL,
    rest bytea,
    pieces integer NOT NULL,
    next_line bigint NOT NULL,
    complete boolean NOT NULL,
    created_at timestamptz NOT NULL,
    touched_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE import_piece (
    import_id text NOT NULL,
    "position" integer NOT NULL,
    first_line bigint NOT NULL,
    lines integer NOT NULL,
    body bytea,
    received_at timestamptz NOT NULL,
    recorded_at timestamptz,
    created integer DEFAULT 0 NOT NULL,
    unchanged integer DEFAULT 0 NOT NULL,
    outvoted integer DEFAULT 0 NOT NULL,
    refused integer DEFAULT 0 NOT NULL,
    reasons jsonb DEFAULT '{}'::jsonb NOT NULL,
    verdicts bytea
)
    """,
    """
ALTER TABLE ONLY import_piece ALTER COLUMN body SET STORAGE EXTERNAL
    """,
    """
CREATE TABLE import_share (
    import_id text NOT NULL,
    "position" integer NOT NULL,
    verdicts bytea,
    recorded_at timestamptz NOT NULL
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
CREATE TABLE listed (
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    by_person boolean NOT NULL,
    evidence_id text NOT NULL,
    source text NOT NULL,
    reference text,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE moved_entry (
    ordinal bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    hash text NOT NULL
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
CREATE TABLE preference_link (
    link_id text NOT NULL,
    subject_id text NOT NULL,
    number text NOT NULL,
    sender_id text,
    browser text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    whole boolean DEFAULT false NOT NULL,
    given_to text
)
    """,
    """
CREATE TABLE rectification (
    rectification_id text NOT NULL,
    "position" bigint NOT NULL,
    subject_id text NOT NULL,
    controller_id text NOT NULL,
    kind text NOT NULL,
    sender_id text,
    source text NOT NULL,
    asked text,
    evidence_id text,
    annulled boolean NOT NULL,
    requested_at timestamptz NOT NULL,
    completed_at timestamptz,
    rectified jsonb NOT NULL,
    parts jsonb DEFAULT '{}'::jsonb NOT NULL
)
    """,
    """
ALTER TABLE rectification ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME rectification_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE reopening_rule (
    rule_id text NOT NULL,
    "position" bigint NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    begun_by text NOT NULL,
    begun_at timestamptz NOT NULL,
    reason text NOT NULL,
    ended_by text,
    ended_at timestamptz,
    end_reason text,
    CONSTRAINT reopening_rule_ended_ck CHECK ((num_nulls(ended_by, ended_at, end_reason) = ANY (ARRAY[0, 3])))
)
    """,
    """
ALTER TABLE reopening_rule ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME reopening_rule_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE retention_due (
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    last_contact timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    ask_at timestamptz,
    question text,
    asked_at timestamptz,
    answer_before timestamptz,
    open boolean DEFAULT true NOT NULL
)
    """,
    """
CREATE TABLE retention_recount (
    sender_id text NOT NULL,
    after_xid bigint,
    cursor_at timestamptz,
    cursor_subject text
)
    """,
    """
CREATE TABLE retroactive_cursor (
    of_table text NOT NULL,
    ordinal bigint NOT NULL
)
    """,
    """
CREATE TABLE retroactive_message (
    message_id text NOT NULL,
    "position" bigint NOT NULL,
    subject_id text NOT NULL,
    sender_id text NOT NULL,
    purpose text NOT NULL,
    campaign_id text,
    handed_off_at timestamptz NOT NULL,
    evidence_id text NOT NULL,
    stopped_at timestamptz NOT NULL,
    known_at timestamptz NOT NULL,
    in_doubt boolean NOT NULL,
    found_at timestamptz NOT NULL
)
    """,
    """
ALTER TABLE retroactive_message ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME retroactive_message_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
CREATE TABLE review (
    mo_id text NOT NULL,
    subject_id text NOT NULL,
    since timestamptz NOT NULL,
    revision integer NOT NULL,
    open boolean NOT NULL
)
    """,
    """
CREATE TABLE ended_entry (
    ordinal bigint NOT NULL,
    evidence_id text NOT NULL,
    subject_id text NOT NULL,
    "position" integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    hash text NOT NULL,
    ended_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE seal (
    number bigint NOT NULL,
    previous text NOT NULL,
    entries integer NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    root text NOT NULL,
    sealed_at timestamptz NOT NULL,
    hash text NOT NULL
)
    """,
    """
CREATE TABLE organisation (
    organisation_id text NOT NULL,
    created_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE controller (
    controller_id text NOT NULL,
    organisation_id text NOT NULL,
    legal_name text NOT NULL,
    created_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE owned_name (
    skeleton text NOT NULL,
    name text NOT NULL,
    organisation_id text NOT NULL,
    controller_id text,
    since timestamptz NOT NULL
)
    """,
    """
CREATE TABLE sender (
    sender_id text NOT NULL,
    organisation_id text NOT NULL,
    version bigint NOT NULL,
    legal_name text NOT NULL,
    brand text NOT NULL,
    contact text NOT NULL,
    country text NOT NULL,
    oadc text NOT NULL,
    stop_code text NOT NULL,
    purposes jsonb NOT NULL,
    stop_codes text[] NOT NULL,
    purpose_ids text[] NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    controller text NOT NULL,
    stop_scope text NOT NULL,
    replies jsonb NOT NULL,
    double_opt_in_hours integer DEFAULT 24 NOT NULL,
    renewal_days integer,
    abroad text[] DEFAULT '{}'::text[] NOT NULL,
    authorisation text,
    reachable_in jsonb DEFAULT '[]'::jsonb NOT NULL,
    stop_page text,
    countries text[] GENERATED ALWAYS AS (ARRAY[country] || abroad) STORED NOT NULL
)
    """,
    """
CREATE TABLE sender_version (
    sender_id text NOT NULL,
    version bigint NOT NULL,
    content jsonb NOT NULL,
    in_force_from timestamptz NOT NULL
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
CREATE TABLE states_sum (
    id smallint NOT NULL,
    begun_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE subject (
    subject_id text NOT NULL,
    number text,
    version bigint DEFAULT 0 NOT NULL,
    state jsonb DEFAULT '{}'::jsonb NOT NULL,
    entries integer DEFAULT 0 NOT NULL,
    head text DEFAULT '0000000000000000000000000000000000000000000000000000000000000000'::text NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    held_since timestamptz,
    erased_at timestamptz
)
    """,
    """
CREATE FUNCTION evidence_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'evidence is append-only'; END $$
    """,
    """
CREATE FUNCTION ended_entry_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM shard WHERE division = 'begun')
      AND EXISTS (SELECT FROM moved_entry AS m WHERE m.ordinal = OLD.ordinal AND m.hash = OLD.hash) THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'ended entries are append-only';
END $$
    """,
    """
CREATE FUNCTION moved_entry_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM shard WHERE division = 'begun') THEN
    RETURN NULL;
  END IF;
  RAISE EXCEPTION 'moved entries are append-only: only `divide` adds to them';
END $$
    """,
    """
CREATE FUNCTION evidence_is_only_ended() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF EXISTS (SELECT FROM shard WHERE division = 'begun')
      AND EXISTS (SELECT FROM moved_entry AS m WHERE m.ordinal = OLD.ordinal AND m.hash = OLD.hash) THEN
    RETURN OLD;
  END IF;
  IF OLD.salt IS NOT NULL OR OLD.kind = 'opt_out' OR OLD.recorded_at > now() - interval '1096 days'
      OR NOT EXISTS (SELECT FROM ended_entry AS s WHERE s.ordinal = OLD.ordinal AND s.evidence_id = OLD.evidence_id
        AND s.subject_id = OLD.subject_id AND s.position = OLD.position AND s.hash = OLD.hash) THEN
    RAISE EXCEPTION 'evidence is append-only: only an erased entry past its term goes, and leaves its stub';
  END IF;
  RETURN OLD;
END $$
    """,
    """
CREATE FUNCTION evidence_is_only_erased() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE erased evidence := OLD;
BEGIN
  erased.form_id := NULL; erased.form_version := NULL; erased.text_shown := NULL; erased.actor := NULL;
  erased.sale_reference := NULL; erased.reference := NULL; erased.salt := NULL;
  IF NEW IS DISTINCT FROM erased THEN
    RAISE EXCEPTION 'evidence is append-only: an update may erase what is personal, all of it, and no more';
  END IF;
  RETURN NEW;
END $$
    """,
    """
CREATE FUNCTION seal_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'seals are append-only'; END $$
    """,
    """
ALTER TABLE allowance ADD CONSTRAINT allowance_pk PRIMARY KEY (name, holder)
    """,
    """
ALTER TABLE answer ADD CONSTRAINT answer_pk PRIMARY KEY (message_id)
    """,
    """
ALTER TABLE consumer_offset ADD CONSTRAINT consumer_offset_pk PRIMARY KEY (consumer_group, topic, partition)
    """,
    """
ALTER TABLE copy_part ADD CONSTRAINT copy_part_pk PRIMARY KEY (copy_id, service, shards, shard, place)
    """,
    """
ALTER TABLE copy ADD CONSTRAINT copy_pk PRIMARY KEY (copy_id)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id)
    """,
    """
ALTER TABLE dead_letter ADD CONSTRAINT dead_letter_record_uq UNIQUE (consumer_group, topic, partition, at_offset)
    """,
    """
ALTER TABLE double_opt_in ADD CONSTRAINT double_opt_in_link_id_uq UNIQUE (link_id)
    """,
    """
ALTER TABLE double_opt_in_pace ADD CONSTRAINT double_opt_in_pace_pk PRIMARY KEY (key)
    """,
    """
ALTER TABLE double_opt_in ADD CONSTRAINT double_opt_in_pk PRIMARY KEY (evidence_id)
    """,
    """
ALTER TABLE erasing ADD CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
    """,
    """
ALTER TABLE erasure_ack ADD CONSTRAINT erasure_ack_pk PRIMARY KEY (erasure_id, service, shards, shard)
    """,
    """
ALTER TABLE erasure ADD CONSTRAINT erasure_pk PRIMARY KEY (erasure_id)
    """,
    """
ALTER TABLE evidence ADD CONSTRAINT evidence_pk PRIMARY KEY (evidence_id)
    """,
    """
ALTER TABLE evidence ADD CONSTRAINT evidence_subject_id_position_uq UNIQUE (subject_id, "position")
    """,
    """
CREATE UNIQUE INDEX handed_off_message_ix ON handed_off (hashtext(subject_id), hashtextextended(message_id, 0::bigint))
    """,
    """
ALTER TABLE import_file ADD CONSTRAINT import_file_pk PRIMARY KEY (import_id)
    """,
    """
ALTER TABLE import_piece ADD CONSTRAINT import_piece_pk PRIMARY KEY (import_id, "position")
    """,
    """
ALTER TABLE import_share ADD CONSTRAINT import_share_pk PRIMARY KEY (import_id, "position")
    """,
    """
ALTER TABLE keyed_request ADD CONSTRAINT keyed_request_pk PRIMARY KEY (caller, key)
    """,
    """
ALTER TABLE listed ADD CONSTRAINT listed_pk PRIMARY KEY (subject_id, sender_id, purpose, by_person)
    """,
    """
ALTER TABLE moved_entry ADD CONSTRAINT moved_entry_pk PRIMARY KEY (ordinal)
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
ALTER TABLE preference_link ADD CONSTRAINT preference_link_pk PRIMARY KEY (link_id)
    """,
    """
ALTER TABLE rectification ADD CONSTRAINT rectification_pk PRIMARY KEY (rectification_id)
    """,
    """
ALTER TABLE reopening_rule ADD CONSTRAINT reopening_rule_pk PRIMARY KEY (rule_id)
    """,
    """
ALTER TABLE retention_due ADD CONSTRAINT retention_due_pk PRIMARY KEY (subject_id, sender_id, purpose)
    """,
    """
ALTER TABLE retention_recount ADD CONSTRAINT retention_recount_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE retroactive_cursor ADD CONSTRAINT retroactive_cursor_pk PRIMARY KEY (of_table)
    """,
    """
ALTER TABLE retroactive_message ADD CONSTRAINT retroactive_message_pk PRIMARY KEY (message_id)
    """,
    """
ALTER TABLE review ADD CONSTRAINT review_pk PRIMARY KEY (mo_id)
    """,
    """
ALTER TABLE ended_entry ADD CONSTRAINT ended_entry_pk PRIMARY KEY (ordinal)
    """,
    """
ALTER TABLE ended_entry ADD CONSTRAINT ended_entry_evidence_id_uq UNIQUE (evidence_id)
    """,
    """
ALTER TABLE ended_entry ADD CONSTRAINT ended_entry_subject_id_position_uq UNIQUE (subject_id, "position")
    """,
    """
ALTER TABLE seal ADD CONSTRAINT seal_pk PRIMARY KEY (number)
    """,
    """
ALTER TABLE attributed_stop ADD CONSTRAINT attributed_stop_pk PRIMARY KEY (mo_id)
    """,
    """
ALTER TABLE organisation ADD CONSTRAINT organisation_pk PRIMARY KEY (organisation_id)
    """,
    """
ALTER TABLE controller ADD CONSTRAINT controller_pk PRIMARY KEY (controller_id)
    """,
    """
ALTER TABLE owned_name ADD CONSTRAINT owned_name_pk PRIMARY KEY (skeleton)
    """,
    """
ALTER TABLE sender ADD CONSTRAINT sender_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE sender_version ADD CONSTRAINT sender_version_pk PRIMARY KEY (sender_id, version)
    """,
    """
ALTER TABLE shard ADD CONSTRAINT shard_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE states_sum ADD CONSTRAINT states_sum_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE subject ADD CONSTRAINT subject_pk PRIMARY KEY (subject_id)
    """,
    """
CREATE INDEX allowance_since_ix ON allowance (since)
    """,
    """
CREATE INDEX answer_asked_at_ix ON answer (asked_at)
    """,
    """
CREATE INDEX answer_subject_id_asked_at_ix ON answer (subject_id, asked_at)
    """,
    """
CREATE INDEX attributed_stop_arrived_ix ON attributed_stop (arrived_at)
    """,
    """
CREATE INDEX attributed_stop_subject_ix ON attributed_stop (subject_id)
    """,
    """
CREATE INDEX controller_organisation_ix ON controller (organisation_id)
    """,
    """
CREATE INDEX copy_expires_ix ON copy (expires_at)
    """,
    """
CREATE INDEX copy_subject_ix ON copy (subject_id)
    """,
    """
CREATE INDEX dead_letter_buried_ix ON dead_letter (buried_at)
    """,
    """
CREATE INDEX double_opt_in_asked_at_ix ON double_opt_in (asked_at)
    """,
    """
CREATE INDEX double_opt_in_due_ix ON double_opt_in (expires_at) WHERE (closed_at IS NULL)
    """,
    """
CREATE INDEX double_opt_in_pace_full_at_ix ON double_opt_in_pace (full_at)
    """,
    """
CREATE INDEX double_opt_in_subject_ix ON double_opt_in (subject_id, asked_at)
    """,
    """
CREATE INDEX erasing_open_ix ON erasing (requested_at) WHERE (erased_at IS NULL)
    """,
    """
CREATE INDEX erasing_subject_ix ON erasing (subject_id)
    """,
    """
CREATE INDEX erasure_open_ix ON erasure (subject_id) WHERE (completed_at IS NULL)
    """,
    """
CREATE UNIQUE INDEX erasure_position_ix ON erasure ("position")
    """,
    """
CREATE INDEX evidence_opt_out_ix ON evidence (sender_id, recorded_at) WHERE (kind = 'opt_out'::text)
    """,
    """
CREATE UNIQUE INDEX evidence_ordinal_ix ON evidence (ordinal)
    """,
    """
CREATE INDEX evidence_wide_opt_out_ix ON evidence (controller, recorded_at) WHERE ((kind = 'opt_out'::text) AND
    (controller IS NOT NULL))
    """,
    """
CREATE INDEX handed_off_at_ix ON handed_off (handed_off_at)
    """,
    """
CREATE INDEX handed_off_campaign_ix ON handed_off (hashtext(campaign_id), hashtext(subject_id))
    """,
    """
CREATE UNIQUE INDEX handed_off_ordinal_ix ON handed_off (ordinal)
    """,
    """
CREATE INDEX import_file_complete_ix ON import_file (touched_at) WHERE complete
    """,
    """
CREATE INDEX import_file_sender_ix ON import_file (sender_id, created_at)
    """,
    """
CREATE INDEX import_file_waiting_ix ON import_file (touched_at) WHERE (NOT complete)
    """,
    """
CREATE INDEX import_piece_waiting_ix ON import_piece (import_id, "position") WHERE (recorded_at IS NULL)
    """,
    """
CREATE INDEX import_share_at_ix ON import_share (recorded_at)
    """,
    """
CREATE INDEX keyed_request_created_at_ix ON keyed_request (created_at)
    """,
    """
CREATE INDEX preference_link_expires_at_ix ON preference_link (expires_at)
    """,
    """
CREATE INDEX preference_link_subject_id_ix ON preference_link (subject_id)
    """,
    """
CREATE INDEX rectification_asked_ix ON rectification (requested_at) WHERE (asked IS NOT NULL)
    """,
    """
CREATE UNIQUE INDEX rectification_position_ix ON rectification ("position")
    """,
    """
CREATE INDEX rectification_subject_ix ON rectification (subject_id)
    """,
    """
CREATE UNIQUE INDEX reopening_rule_in_force_ix ON reopening_rule (sender_id, purpose) WHERE (ended_at IS NULL)
    """,
    """
CREATE INDEX reopening_rule_position_ix ON reopening_rule (sender_id, "position")
    """,
    """
CREATE INDEX retention_due_due_at_ix ON retention_due (due_at)
    """,
    """
CREATE INDEX retention_due_sender_ix ON retention_due (sender_id, expires_at, subject_id)
    """,
    """
CREATE INDEX retroactive_message_at_ix ON retroactive_message (handed_off_at)
    """,
    """
CREATE UNIQUE INDEX retroactive_message_position_ix ON retroactive_message ("position")
    """,
    """
CREATE INDEX retroactive_message_sender_ix ON retroactive_message (sender_id, "position")
    """,
    """
CREATE INDEX review_closed_ix ON review (since) WHERE (NOT open)
    """,
    """
CREATE INDEX review_open_ix ON review (subject_id) WHERE open
    """,
    """
CREATE INDEX sender_organisation_ix ON sender (organisation_id)
    """,
    """
CREATE TRIGGER append_only BEFORE TRUNCATE ON evidence FOR EACH STATEMENT EXECUTE FUNCTION
    evidence_is_append_only()
    """,
    """
CREATE TRIGGER only_ended BEFORE DELETE ON evidence FOR EACH ROW EXECUTE FUNCTION evidence_is_only_ended()
    """,
    """
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON ended_entry FOR EACH STATEMENT EXECUTE FUNCTION
    ended_entry_is_append_only()
    """,
    """
CREATE TRIGGER only_moved BEFORE DELETE ON ended_entry FOR EACH ROW EXECUTE FUNCTION ended_entry_is_append_only()
    """,
    """
CREATE TRIGGER append_only BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON moved_entry FOR EACH STATEMENT
    EXECUTE FUNCTION moved_entry_is_append_only()
    """,
    """
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON seal FOR EACH STATEMENT EXECUTE FUNCTION
    seal_is_append_only()
    """,
    """
CREATE TRIGGER only_erased BEFORE UPDATE ON evidence FOR EACH ROW EXECUTE FUNCTION evidence_is_only_erased()
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
    op.execute("INSERT INTO retroactive_cursor VALUES ('evidence', 0), ('handed_off', 0)")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table} CASCADE")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
