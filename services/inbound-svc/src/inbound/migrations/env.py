"""Alembic's entry for inbound-svc."""

from common.db.database import run_migrations
from inbound.queue import review

run_migrations(review.metadata)  # by way of its last module that defines a table: all of them are on it
