"""Alembic's entry for consent-svc."""

from common.database import run_migrations
from consent import erasures  # noqa: F401 it defines tables
from consent.store import metadata

run_migrations(metadata)
