"""The journal of callbacks, the review queue; outbox, offsets, dead letters.

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
    "callback",
    "callback_item",
    "consumer_offset",
    "dead_letter",
    "erasing",
    "nonce",
    "outbox",
    "outbox_log",
    "part",
    "receipt",
    "review",
    "sender",
    "sender_code",
    "shard",
    "subject_key",
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
CREATE TABLE callback (
    id uuid NOT NULL,
    provider text NOT NULL,
    account text NOT NULL,
    kind text NOT NULL,
    received_at timestamptz NOT NULL,
    body text,
    outbox_ids bigint[] NOT NULL,
    receipts uuid[]
)
    """,
    """
ALTER TABLE ONLY callback ALTER COLUMN receipts SET STORAGE EXTERNAL
    """,
    """
CREATE TABLE callback_item (
    provider text NOT NULL,
    account text NOT NULL,
    provider_message_id text NOT NULL,
    callback_id uuid NOT NULL,
    subject_id text,
    intent text,
    rule text,
    score double precision,
    said_at timestamptz,
    short_code text
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
CREATE TABLE nonce (
    provider text NOT NULL,
    account text NOT NULL,
    nonce text NOT NULL,
    content bytea NOT NULL,
    forget_after timestamptz NOT NULL
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
CREATE TABLE receipt (
    id uuid NOT NULL,
    callback_id uuid NOT NULL
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
CREATE TABLE subject_key (
    key_id text NOT NULL,
    fingerprint text NOT NULL
)
    """,
    """
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
    received_at timestamptz NOT NULL
)
    """,
    """
CREATE TABLE sender (
    sender_id text NOT NULL,
    organisation_id text NOT NULL,
    controller text NOT NULL
)
    """,
    """
CREATE TABLE sender_code (
    code text NOT NULL,
    controller text NOT NULL,
    since timestamptz NOT NULL
)
    """,
    """
ALTER TABLE allowance ADD CONSTRAINT allowance_pk PRIMARY KEY (name, holder)
    """,
    """
ALTER TABLE sender ADD CONSTRAINT sender_pk PRIMARY KEY (sender_id)
    """,
    """
ALTER TABLE sender_code ADD CONSTRAINT sender_code_pk PRIMARY KEY (code, controller)
    """,
    """
CREATE TABLE review (
    id bigint NOT NULL,
    mo_id text NOT NULL,
    event text NOT NULL,
    intent text,
    note text,
    decided_by text,
    decided_at timestamptz,
    subject_id text NOT NULL,
    takes_effect_at timestamptz,
    told_at timestamptz
)
    """,
    """
ALTER TABLE review ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME review_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
)
    """,
    """
ALTER TABLE callback_item ADD CONSTRAINT callback_item_pk PRIMARY KEY (provider, account, provider_message_id)
    """,
    """
ALTER TABLE callback ADD CONSTRAINT callback_pk PRIMARY KEY (id)
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
ALTER TABLE erasing ADD CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
    """,
    """
ALTER TABLE nonce ADD CONSTRAINT nonce_pk PRIMARY KEY (provider, account, nonce)
    """,
    """
ALTER TABLE outbox_log ADD CONSTRAINT outbox_log_pk PRIMARY KEY (topic, partition)
    """,
    """
ALTER TABLE shard ADD CONSTRAINT shard_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE subject_key ADD CONSTRAINT subject_key_pk PRIMARY KEY (key_id)
    """,
    """
ALTER TABLE outbox ADD CONSTRAINT outbox_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE part ADD CONSTRAINT part_pk PRIMARY KEY (provider, account, subject_id, short_code, reference,
    total, number)
    """,
    """
ALTER TABLE receipt ADD CONSTRAINT receipt_pk PRIMARY KEY (id)
    """,
    """
ALTER TABLE review ADD CONSTRAINT review_mo_id_uq UNIQUE (mo_id)
    """,
    """
ALTER TABLE review ADD CONSTRAINT review_pk PRIMARY KEY (id)
    """,
    """
CREATE INDEX allowance_since_ix ON allowance (since)
    """,
    """
CREATE INDEX callback_bare_ix ON callback (received_at) WHERE ((kind = 'messages'::text) AND (body IS NULL))
    """,
    """
CREATE INDEX callback_item_callback_ix ON callback_item (callback_id)
    """,
    """
CREATE INDEX callback_item_code_ix ON callback_item (short_code, callback_id) WHERE (short_code IS NOT NULL)
    """,
    """
CREATE INDEX callback_item_start_ix ON callback_item (subject_id) WHERE (intent = 'start'::text)
    """,
    """
CREATE INDEX callback_item_subject_ix ON callback_item (subject_id) WHERE (subject_id IS NOT NULL)
    """,
    """
CREATE INDEX callback_raw_ix ON callback (received_at) WHERE ((kind = 'messages'::text) AND (body IS NOT NULL))
    """,
    """
CREATE INDEX callback_receipts_ix ON callback (received_at) WHERE (kind = 'receipts'::text)
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
CREATE INDEX nonce_forget_after_ix ON nonce (forget_after)
    """,
    """
CREATE INDEX part_received_at_ix ON part (received_at)
    """,
    """
CREATE INDEX review_decided_ix ON review (decided_at) WHERE (decided_at IS NOT NULL)
    """,
    """
CREATE INDEX review_untold_ix ON review (takes_effect_at) WHERE (decided_at IS NOT NULL AND told_at IS NULL)
    """,
    """
CREATE INDEX review_open_ix ON review (id) WHERE (decided_at IS NULL)
    """,
    """
CREATE INDEX review_subject_ix ON review (subject_id)
    """,
    """
CREATE INDEX sender_controller_ix ON sender (controller)
    """,
    """
CREATE INDEX sender_organisation_ix ON sender (organisation_id)
    """,
    """
ALTER TABLE callback_item ADD CONSTRAINT callback_item_callback_id_fk FOREIGN KEY (callback_id) REFERENCES
    callback(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
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
    """
CREATE FUNCTION is_any_used(providers text[], accounts text[], nonces text[]) RETURNS boolean
    LANGUAGE plpgsql -- planned within the functions below
    AS $$
BEGIN
  RETURN EXISTS (SELECT FROM unnest(providers, accounts, nonces) AS u(provider, account, nonce)
    WHERE (SELECT true FROM nonce AS k
      WHERE k.provider = u.provider AND k.account = u.account AND k.nonce = u.nonce LIMIT 1));
END $$
    """,
    """
CREATE FUNCTION keep_nonces(
    providers text[], accounts text[], nonces text[], contents bytea[], kept_until timestamptz[], earliest timestamptz
) RETURNS void
    LANGUAGE plpgsql -- planned within the functions below
    AS $$
BEGIN
  DELETE FROM nonce AS k WHERE k.ctid = ANY(ARRAY(SELECT o.ctid
    FROM nonce AS o WHERE o.forget_after < earliest ORDER BY o.forget_after LIMIT 2 * cardinality(nonces)
    FOR UPDATE SKIP LOCKED));
  INSERT INTO nonce (provider, account, nonce, content, forget_after)
  SELECT * FROM unnest(providers, accounts, nonces, contents, kept_until)
    AS u(provider, account, nonce, content, forget_after)
  ORDER BY u.provider COLLATE "C", u.account COLLATE "C", u.nonce COLLATE "C";
END $$
    """,
    """
CREATE FUNCTION journal_messages(
    ids uuid[], providers text[], accounts text[], names text[], subjects text[], codes text[],
    intents text[], rules text[], scores double precision[], said timestamptz[], received timestamptz[],
    bodies text[], stops boolean[], stopped text[],
    events uuid[], keys bytea[], payloads bytea[], traces text[], its_topic text, its_type text, channel text,
    reviewed text[], reviewed_subjects text[], reviews text[],
    nonce_providers text[], nonce_accounts text[], nonces text[], contents bytea[], kept_until timestamptz[],
    earliest timestamptz
) RETURNS bigint[]
    LANGUAGE plpgsql
    SET enable_seqscan = off -- a plan of an empty table would read the whole table for ever
    AS $$
DECLARE rows bigint[];
BEGIN
  IF (cardinality(nonces) > 0 AND is_any_used(nonce_providers, nonce_accounts, nonces))
    OR EXISTS (SELECT FROM unnest(providers, accounts, names) AS u(provider, account, name)
      WHERE (SELECT true FROM callback_item AS k
        WHERE k.provider = u.provider AND k.account = u.account AND k.provider_message_id = u.name LIMIT 1))
    OR EXISTS (SELECT FROM unnest(ids, providers, accounts, subjects, said, stops)
        AS s(id, provider, account, subject_id, said_at, is_stop)
      WHERE s.is_stop AND (SELECT true FROM callback_item AS i
        WHERE i.subject_id = s.subject_id AND i.intent = 'start' AND i.said_at > s.said_at AND i.callback_id < s.id
          -- no index by these: a plan of an empty journal would take the primary key's, and read the account's MOs
          AND (i.provider, i.account) IS NOT DISTINCT FROM (s.provider, s.account) LIMIT 1))
    OR (EXISTS (SELECT FROM sender_code)
      AND EXISTS (SELECT FROM unnest(stopped) AS s(code)
        WHERE NOT EXISTS (SELECT FROM sender_code AS k WHERE k.code = s.code)))
    OR EXISTS (SELECT FROM erasing AS e WHERE e.subject_id = ANY(subjects))
  THEN
    RETURN NULL;
  END IF;
  IF cardinality(nonces) > 0 THEN
    PERFORM keep_nonces(nonce_providers, nonce_accounts, nonces, contents, kept_until, earliest);
  END IF;
  INSERT INTO callback_item (provider, account, provider_message_id, callback_id, subject_id, intent, rule, score,
    said_at, short_code)
  SELECT * FROM unnest(providers, accounts, names, ids, subjects, intents, rules, scores, said, codes)
    AS u(provider, account, name, id, subject_id, intent, rule, score, said_at, short_code)
  ORDER BY u.provider COLLATE "C", u.account COLLATE "C", u.name COLLATE "C";
  IF EXISTS (SELECT FROM erasing AS e WHERE e.subject_id = ANY(subjects)) THEN
    RAISE EXCEPTION 'an erasure of a person is known meanwhile';
  END IF;
  WITH added AS (
    INSERT INTO outbox (event_id, topic, key, type, payload, traceparent)
    SELECT u.id, its_topic, u.key, its_type, u.payload, u.trace
    FROM unnest(events, keys, payloads, traces) WITH ORDINALITY AS u(id, key, payload, trace, place)
    ORDER BY u.place
    RETURNING id
  )
  SELECT array_agg(added.id ORDER BY added.id) INTO rows FROM added;
  INSERT INTO callback (id, provider, account, kind, received_at, body, outbox_ids)
  SELECT u.id, u.provider, u.account, 'messages', u.received_at, u.body, ARRAY[u.outbox_id]
  FROM unnest(ids, providers, accounts, received, bodies, rows)
    AS u(id, provider, account, received_at, body, outbox_id);
  IF cardinality(reviewed) > 0 THEN
    INSERT INTO review (mo_id, subject_id, event)
    SELECT * FROM unnest(reviewed, reviewed_subjects, reviews) ON CONFLICT DO NOTHING;
  END IF;
  PERFORM pg_notify(channel, '');
  RETURN rows;
END $$
    """,
    """
CREATE FUNCTION journal_receipts(
    receipts text, brought uuid[],
    ids uuid[], providers text[], accounts text[], received timestamptz[], listed text[], told text[],
    events uuid[], its_topic text, keys bytea[], types text[], payloads bytea[], traces text[], channel text,
    nonce_providers text[], nonce_accounts text[], nonces text[], contents bytea[], kept_until timestamptz[],
    earliest timestamptz
) RETURNS bigint[]
    LANGUAGE plpgsql
    SET enable_seqscan = off -- a plan of an empty table would read the whole table for ever
    AS $$
DECLARE
  few uuid[] := receipts::uuid[];
  rows bigint[];
BEGIN
  IF (cardinality(nonces) > 0 AND is_any_used(nonce_providers, nonce_accounts, nonces))
    OR EXISTS (SELECT FROM unnest(few) AS u(id) WHERE (SELECT true FROM receipt AS k WHERE k.id = u.id LIMIT 1))
  THEN
    RETURN NULL;
  END IF;
  IF cardinality(nonces) > 0 THEN
    PERFORM keep_nonces(nonce_providers, nonce_accounts, nonces, contents, kept_until, earliest);
  END IF;
  INSERT INTO receipt (id, callback_id) SELECT * FROM unnest(few, brought);
  WITH added AS (
    INSERT INTO outbox (event_id, topic, key, type, payload, traceparent)
    SELECT u.id, its_topic, u.key, u.type, u.payload, u.trace
    FROM unnest(events, keys, types, payloads, traces) WITH ORDINALITY AS u(id, key, type, payload, trace, place)
    ORDER BY u.place ASC
    RETURNING id
  )
  SELECT array_agg(added.id ORDER BY added.id) INTO rows FROM added;
  INSERT INTO callback (id, provider, account, kind, received_at, outbox_ids, receipts)
  SELECT u.id, u.provider, u.account, 'receipts', u.received_at,
    ARRAY(SELECT rows[t.place] FROM unnest(u.told::int[]) AS t(place)), u.listed::uuid[]
  FROM unnest(ids, providers, accounts, received, listed, told)
    AS u(id, provider, account, received_at, listed, told);
  PERFORM pg_notify(channel, '');
  RETURN rows;
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
    op.execute("DROP FUNCTION journal_messages")
    op.execute("DROP FUNCTION journal_receipts")
    op.execute("DROP FUNCTION is_any_used")
    op.execute("DROP FUNCTION keep_nonces")
