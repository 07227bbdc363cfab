"""Alembic's entry for dispatch-svc."""

from common.db.database import run_migrations
from dispatch.store import metadata

run_migrations(metadata)
