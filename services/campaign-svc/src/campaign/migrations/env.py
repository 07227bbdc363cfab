"""Alembic's entry for campaign-svc."""

import campaign.service  # by way of it, every module that defines a table
import campaign.store
from common.db.database import run_migrations

run_migrations(campaign.store.metadata)
