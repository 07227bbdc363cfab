"""A second generation of what is known of consents, made beside the one that serves; and whether it is what consent-svc
says.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE subject ADD COLUMN published_at timestamptz")
    op.execute(
        "CREATE TABLE subject_next (subject_id text NOT NULL, version integer NOT NULL, consents jsonb NOT NULL,"
        " suppressions jsonb NOT NULL, erased boolean NOT NULL, unreadable boolean NOT NULL DEFAULT false,"
        " held_since timestamptz, published_at timestamptz, CONSTRAINT subject_next_pk PRIMARY KEY (subject_id))"
    )
    op.execute(
        "CREATE TABLE rebuild (partition smallint NOT NULL, next_offset bigint NOT NULL, until bigint NOT NULL,"
        " begun_at timestamptz NOT NULL, CONSTRAINT rebuild_pk PRIMARY KEY (partition))"
    )
    op.execute(
        "CREATE TABLE comparison (id smallint NOT NULL, sums text NOT NULL, begun_at timestamptz NOT NULL,"
        " seen_until timestamptz NOT NULL, compared_at timestamptz, compared integer NOT NULL DEFAULT 0,"
        " moving integer NOT NULL DEFAULT 0, differing text[] NOT NULL DEFAULT '{}'::text[],"
        " CONSTRAINT comparison_pk PRIMARY KEY (id))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE comparison, rebuild, subject_next")
    op.execute("ALTER TABLE subject DROP COLUMN published_at")
