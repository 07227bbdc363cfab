"""What is past its time is found by indexes that grow at their end; the items of a callback go with it.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CHANGES = """
CREATE INDEX callback_raw_ix ON callback (received_at) WHERE kind = 'messages' AND body IS NOT NULL;
CREATE INDEX callback_bare_ix ON callback (received_at) WHERE kind = 'messages' AND body IS NULL;
CREATE INDEX callback_receipts_ix ON callback (received_at) WHERE kind = 'receipts';
CREATE INDEX callback_item_callback_ix ON callback_item (callback_id);

ALTER TABLE callback_item
    DROP CONSTRAINT callback_item_callback_id_fk,
    ADD CONSTRAINT callback_item_callback_id_fk FOREIGN KEY (callback_id) REFERENCES callback (id)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;

CREATE INDEX review_decided_ix ON review (decided_at) WHERE decided_at IS NOT NULL;
"""


def upgrade() -> None:
    for statement in filter(str.strip, CHANGES.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX review_decided_ix")
    op.execute("""
        ALTER TABLE callback_item
            DROP CONSTRAINT callback_item_callback_id_fk,
            ADD CONSTRAINT callback_item_callback_id_fk FOREIGN KEY (callback_id) REFERENCES callback (id)
                DEFERRABLE INITIALLY DEFERRED
    """)
    for index in ("callback_item_callback_ix", "callback_receipts_ix", "callback_bare_ix", "callback_raw_ix"):
        op.execute(f"DROP INDEX {index}")
