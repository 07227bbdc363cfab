"""Tracked links: where those of a campaign lead, and one token a person and link.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sender_rule ADD COLUMN link_host text")
    op.execute(
        "CREATE TABLE campaign_link (campaign_id text NOT NULL, place integer NOT NULL, target text NOT NULL,"
        " CONSTRAINT campaign_link_pk PRIMARY KEY (campaign_id, place))"
    )
    op.execute(
        "CREATE TABLE link (campaign_id text NOT NULL, subject_id text NOT NULL, place integer NOT NULL,"
        " token text NOT NULL, clicks integer NOT NULL DEFAULT 0, first_clicked_at timestamptz,"
        " last_clicked_at timestamptz, CONSTRAINT link_pk PRIMARY KEY (campaign_id, subject_id, place))"
    )
    op.execute("CREATE UNIQUE INDEX link_token_ix ON link (token)")


def downgrade() -> None:
    op.execute("DROP TABLE link")
    op.execute("DROP TABLE campaign_link")
    op.execute("ALTER TABLE sender_rule DROP COLUMN link_host")
