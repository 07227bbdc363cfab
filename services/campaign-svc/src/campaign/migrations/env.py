"""Alembic's entry for campaign-svc."""

import campaign.schema
import campaign.service  # by way of it, every module that defines a table
from common.db.database import run_migrations

run_migrations(campaign.schema.metadata)
