"""Alembic's entry for consent-svc."""

from common.database import run_migrations
from consent.store import metadata

run_migrations(metadata)
