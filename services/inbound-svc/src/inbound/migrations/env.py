"""Alembic's entry for inbound-svc."""

from common.database import run_migrations
from inbound.store import metadata

run_migrations(metadata)
