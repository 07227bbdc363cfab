"""The erasures asked for; callbacks without a body, items and reviews found by their subject.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE erasing (
    erasure_id text NOT NULL,
    subject_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    after_xid bigint,
    erased_at timestamptz,
    lifted_at timestamptz,
    CONSTRAINT erasing_pk PRIMARY KEY (erasure_id)
);

CREATE INDEX erasing_subject_ix ON erasing (subject_id);
CREATE INDEX erasing_open_ix ON erasing (requested_at) WHERE erased_at IS NULL;

ALTER TABLE callback ALTER COLUMN body DROP NOT NULL;

CREATE INDEX callback_item_subject_ix ON callback_item (subject_id) WHERE subject_id IS NOT NULL;

ALTER TABLE review ADD COLUMN subject_id text;
UPDATE review SET subject_id = CAST(event AS jsonb) ->> 'subject_id';
ALTER TABLE review ALTER COLUMN subject_id SET NOT NULL;
CREATE INDEX review_subject_ix ON review (subject_id);
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE review DROP COLUMN subject_id")
    op.execute("DROP INDEX callback_item_subject_ix")
    op.execute("UPDATE callback SET body = coalesce(body, '')")
    op.execute("ALTER TABLE callback ALTER COLUMN body SET NOT NULL")
    op.execute("DROP TABLE erasing")
