"""Alembic's entry for consent-svc."""

import consent.service  # by way of it, every module that defines a table
import consent.store
from common.db.database import run_migrations

run_migrations(consent.store.metadata)
