"""The metadata of dispatch-svc's tables, with the tables of `common` and the helpers of all stores.

The store of each package defines its tables on `metadata`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter

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
erasing.define(metadata)
division.define(metadata)
idempotency.define(metadata)


def instant(name: str, *, nullable: bool = True) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def by_column(rows: Sequence[object], columns: Iterable[str]) -> dict[str, list[object]]:
    return {column: list(map(attrgetter(column), rows)) for column in columns}
