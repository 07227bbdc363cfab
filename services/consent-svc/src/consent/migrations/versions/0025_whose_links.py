"""Which preference links may do more than stop, and who was given them; when a STOP arrived, and by whose clock it is
timed.

Revision ID: 0025
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # constant defaults: no row is rewritten, and a link that an old version makes meanwhile only stops
    op.execute("ALTER TABLE preference_link ADD COLUMN whole boolean NOT NULL DEFAULT false, ADD COLUMN given_to text")
    op.execute("ALTER TABLE evidence ADD COLUMN arrived_at timestamptz, ADD COLUMN clock text")


def downgrade() -> None:
    op.execute("ALTER TABLE evidence DROP COLUMN arrived_at, DROP COLUMN clock")
    op.execute("ALTER TABLE preference_link DROP COLUMN whole, DROP COLUMN given_to")
