"""Alembic's entry for consent-svc."""

import consent.schema
import consent.service  # by way of it, every module that defines a table
from common.db.database import run_migrations

run_migrations(consent.schema.metadata)
