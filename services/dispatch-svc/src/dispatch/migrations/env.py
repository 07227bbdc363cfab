"""Alembic's entry for dispatch-svc."""

from common.db.database import run_migrations
from dispatch import service  # noqa: F401 - its imports define every table
from dispatch.schema import metadata

run_migrations(metadata)
