"""The check of promise 4 at its writer: no message is sent twice.

No other check finds a second SMS, because the row keeps the first hand-off.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import once_committed
from dispatch.gateways import Gateway
from dispatch.messages import store as messages
from dispatch.messages.events import Changed
from dispatch.messages.row import Outcome
from dispatch.messages.status import Status
from dispatch.sending import outcomes, store

log = logging.getLogger(__name__)

ACCEPTED_TWICE = "accepted_twice"  # beside the rules of `audit/invariants.py`


async def look_for_second_sms(
    tx: AsyncConnection, settled: Sequence[Outcome], changes: Sequence[Changed], gateways: Mapping[str, Gateway]
) -> None:
    """Report a broken promise where a message left a second time.

    The candidates are accepted outcomes which change no row, or come twice.
    """
    changed = {event.message_id for _, event in changes}
    if len(changed) == len(settled):
        return
    many = Counter(o.message_id for o in settled)
    unclear = [
        o
        for o in settled
        if o.status is Status.ACCEPTED
        and o.handed_off_at is not None
        and (str(o.message_id) not in changed or many[o.message_id] > 1)
    ]
    if not unclear:
        return
    rows = await store.left_already(tx, [o.message_id for o in unclear])
    for one in unclear:
        row, by = rows.get(one.message_id), gateways.get(one.asked)
        idempotent = by is not None and by.capabilities.idempotent
        if row is not None and outcomes.is_a_second(one, row, idempotent=idempotent):
            told = {"rule": ACCEPTED_TWICE, "messages": str(one.message_id), "gateway": one.gateway}
            once_committed(tx, partial(log.critical, "a promise is broken", extra=told))
            once_committed(tx, messages.VIOLATIONS.labels(ACCEPTED_TWICE).inc)
