"""Alembic's entry for consent-svc."""

import consent.answers
import consent.double_opt_ins
import consent.import_files
import consent.retroactive
import consent.sealing  # noqa: F401  (their tables are of the same metadata)
from common.database import run_migrations
from consent import copies  # noqa: F401 by way of it, all the modules that define tables
from consent.store import metadata

run_migrations(metadata)
