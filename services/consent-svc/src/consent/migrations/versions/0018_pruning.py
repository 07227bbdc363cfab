"""What is past its time is found by indexes that grow at their end.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEXES = {
    "review_closed_ix": "review (since) WHERE NOT open",
    "handed_off_at_ix": "handed_off (handed_off_at)",
    "keyed_request_created_at_ix": "keyed_request (created_at)",
    "answer_asked_at_ix": "answer (asked_at)",
    "rectification_asked_ix": "rectification (requested_at) WHERE asked IS NOT NULL",
    "import_file_complete_ix": "import_file (touched_at) WHERE complete",
}


def upgrade() -> None:
    for name, what in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {what}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
