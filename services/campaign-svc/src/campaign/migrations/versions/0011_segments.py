"""Segments, what attributes hold, and the territory of a contact.

Attributes that contacts have by now are texts: nobody said otherwise. The territory of a contact is known from the next
time that something brings its number, which is sealed.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = {
    "contact_attribute": "sender_id text NOT NULL, name text NOT NULL, kind text NOT NULL, declared_by text,"
    " changed_at timestamptz NOT NULL, CONSTRAINT contact_attribute_pk PRIMARY KEY (sender_id, name)",
    "segment": "segment_id text NOT NULL, position bigint GENERATED ALWAYS AS IDENTITY, sender_id text NOT NULL,"
    " name text NOT NULL, latest integer NOT NULL, created_by text NOT NULL, created_at timestamptz NOT NULL,"
    " fingerprint text NOT NULL, CONSTRAINT segment_pk PRIMARY KEY (segment_id)",
    "segment_version": "segment_id text NOT NULL, version integer NOT NULL, expression jsonb NOT NULL,"
    " kinds jsonb NOT NULL, created_by text NOT NULL, created_at timestamptz NOT NULL,"
    " CONSTRAINT segment_version_pk PRIMARY KEY (segment_id, version)",
}


def upgrade() -> None:
    for name, columns in TABLES.items():
        op.execute(f"CREATE TABLE {name} ({columns})")
    op.execute("CREATE UNIQUE INDEX segment_position_ix ON segment (position)")
    op.execute("ALTER TABLE contact ADD COLUMN territory text")
    op.execute("ALTER TABLE campaign ADD COLUMN sent_back text")
    op.execute("ALTER TABLE contact_import ADD COLUMN read_as jsonb NOT NULL DEFAULT 'null'::jsonb")
    op.execute(
        "INSERT INTO contact_attribute (sender_id, name, kind, changed_at)"
        " SELECT DISTINCT sender_id, jsonb_object_keys(attributes), 'text', now() FROM contact"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE contact_import DROP COLUMN read_as")
    op.execute("ALTER TABLE campaign DROP COLUMN sent_back")
    op.execute("ALTER TABLE contact DROP COLUMN territory")
    for name in TABLES:
        op.execute(f"DROP TABLE {name}")
