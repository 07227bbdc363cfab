"""The review queue.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE review (
            id bigint GENERATED ALWAYS AS IDENTITY,
            mo_id text NOT NULL,
            event text NOT NULL,
            intent text,
            note text,
            decided_by text,
            decided_at timestamptz,
            CONSTRAINT review_pk PRIMARY KEY (id),
            CONSTRAINT review_mo_id_uq UNIQUE (mo_id)
        )
    """)
    op.execute("CREATE INDEX review_open_ix ON review (id) WHERE decided_at IS NULL")


def downgrade() -> None:
    op.execute("DROP TABLE review")
