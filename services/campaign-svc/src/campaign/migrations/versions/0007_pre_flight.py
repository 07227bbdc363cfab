"""Pre-flight and approval: what is known of consents, what a sender asks of its campaigns, who agreed to what.

Senders are read again from the beginning (a consumer group of a new name), for the name that recipients see.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = {
    "sectors": "text[] NOT NULL DEFAULT '{}'",
    "edited_by": "text[] NOT NULL DEFAULT '{}'",
    "agreed": "text",
    "acknowledged": "text[] NOT NULL DEFAULT '{}'",
}
TABLES = {
    "sender_rule": "sender_id text NOT NULL, approval boolean NOT NULL, changed_by text NOT NULL,"
    " changed_at timestamptz NOT NULL, CONSTRAINT sender_rule_pk PRIMARY KEY (sender_id)",
    "standing": "subject_id text NOT NULL, version integer NOT NULL, told jsonb NOT NULL,"
    " CONSTRAINT standing_pk PRIMARY KEY (subject_id)",
    "campaign_approval": "campaign_id text NOT NULL, digest text NOT NULL, approved_by text NOT NULL,"
    " approved_at timestamptz NOT NULL,"
    " CONSTRAINT campaign_approval_pk PRIMARY KEY (campaign_id, digest, approved_by)",
    "campaign_pre_flight": "campaign_id text NOT NULL, digest text NOT NULL, findings text[] NOT NULL,"
    " made_at timestamptz NOT NULL, CONSTRAINT campaign_pre_flight_pk PRIMARY KEY (campaign_id)",
}


def upgrade() -> None:
    op.execute(f"ALTER TABLE campaign {', '.join(f'ADD COLUMN {name} {kind}' for name, kind in COLUMNS.items())}")
    op.execute("ALTER TABLE sender ADD COLUMN oadc text NOT NULL DEFAULT ''")
    for name, columns in TABLES.items():
        op.execute(f"CREATE TABLE {name} ({columns})")


def downgrade() -> None:
    for name in TABLES:
        op.execute(f"DROP TABLE {name}")
    op.execute("ALTER TABLE sender DROP COLUMN oadc")
    op.execute(f"ALTER TABLE campaign {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
