"""Hold the metadata of campaign-svc's tables, with the tables defined by `common`."""

from datetime import datetime

from sqlalchemy import Column, DateTime

from common import division
from common.audit import store as audit
from common.db import allowances
from common.db.database import new_metadata
from common.kafka import dead_letters, outbox, publisher_keys, widening
from common.kafka.reading import offsets
from common.privacy import erasing
from common.web import idempotency

metadata = new_metadata()
allowances.define(metadata)
audit.define(metadata)
outbox.define(metadata)
widening.define(metadata)
publisher_keys.define(metadata)
offsets.define(metadata)
dead_letters.define(metadata)
division.define(metadata)
erasing.define(metadata)
idempotency.define(metadata)


def instant(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)
