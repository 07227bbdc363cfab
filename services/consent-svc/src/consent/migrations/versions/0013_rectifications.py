"""Rectifications, and the line of the ledger that puts another right.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE rectification (
    rectification_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
    subject_id text NOT NULL,
    kind text NOT NULL,
    sender_id text,
    source text NOT NULL,
    asked text,
    evidence_id text,
    annulled boolean NOT NULL,
    requested_at timestamptz NOT NULL,
    completed_at timestamptz,
    rectified jsonb NOT NULL,
    CONSTRAINT rectification_pk PRIMARY KEY (rectification_id)
);

CREATE UNIQUE INDEX rectification_position_ix ON rectification (position);
CREATE INDEX rectification_subject_ix ON rectification (subject_id);
"""

KINDS = ("opt_in", "opt_out", "request", "expiry", "contact")
CONSTRAINTS = {
    "evidence_evidence_kind_ck_ck": "kind IN ({kinds})",
    "evidence_evidence_scope_ck_ck": (
        "(sender_id IS NOT NULL OR (kind IN ({wide}) AND purpose IS NULL))"
        " AND (purpose IS NOT NULL OR kind IN ({open}))"
    ),
}


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)
    _replace((*KINDS, "correction"), ("opt_out", "correction"), ("opt_out", "contact", "correction"))


def downgrade() -> None:
    _replace(KINDS, ("opt_out",), ("opt_out", "contact"))
    op.execute("DROP TABLE rectification")


def _replace(*kinds: tuple[str, ...]) -> None:
    named = [", ".join(f"'{kind}'" for kind in each) for each in kinds]
    written = dict(zip(("kinds", "wide", "open"), named, strict=True))
    for name, condition in CONSTRAINTS.items():
        op.execute(f"ALTER TABLE evidence DROP CONSTRAINT {name}")
        op.execute(f"ALTER TABLE evidence ADD CONSTRAINT {name} CHECK ({condition.format(**written)}) NOT VALID")
        op.execute(f"ALTER TABLE evidence VALIDATE CONSTRAINT {name}")
