"""Questions of double opt-in, how often they may be asked, and how long a sender's wait.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CHANGES = """
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
    confirmed boolean NOT NULL DEFAULT false,
    withheld text,
    closed_at timestamptz,
    CONSTRAINT double_opt_in_pk PRIMARY KEY (evidence_id),
    CONSTRAINT double_opt_in_link_id_uq UNIQUE (link_id),
    CONSTRAINT double_opt_in_withheld_ck CHECK (withheld IS NULL OR (number IS NULL AND closed_at IS NOT NULL))
);

CREATE INDEX double_opt_in_subject_ix ON double_opt_in (subject_id, asked_at);
CREATE INDEX double_opt_in_due_ix ON double_opt_in (expires_at) WHERE closed_at IS NULL;
CREATE INDEX double_opt_in_asked_at_ix ON double_opt_in (asked_at);

CREATE TABLE double_opt_in_pace (
    key text NOT NULL,
    full_at timestamptz NOT NULL,
    CONSTRAINT double_opt_in_pace_pk PRIMARY KEY (key)
);

CREATE INDEX double_opt_in_pace_full_at_ix ON double_opt_in_pace (full_at);

ALTER TABLE sender ADD COLUMN double_opt_in_hours integer NOT NULL DEFAULT 24;
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE sender DROP COLUMN double_opt_in_hours")
    for table in ("double_opt_in_pace", "double_opt_in"):
        op.execute(f"DROP TABLE {table}")
