"""The metadata of every table of consent-svc, with the tables that `common` defines.

The module imports no package of the service; `service.py` imports every store.
"""

from common import division
from common.audit import store as audit
from common.db import allowances
from common.db.database import new_metadata
from common.kafka import dead_letters, outbox, publisher_keys
from common.kafka.reading import offsets
from common.privacy import erasing
from common.web import idempotency

metadata = new_metadata()

allowances.define(metadata)
audit.define(metadata)
outbox.define(metadata)
publisher_keys.define(metadata)
offsets.define(metadata)
dead_letters.define(metadata)
erasing.define(metadata)
division.define(metadata)
idempotency.define(metadata)
