"""Alembic's entry for campaign-svc."""

from campaign.store import metadata
from common.database import run_migrations

run_migrations(metadata)
