"""`make mutants`: small changes of the order of two statements, of a clock, of a lock, each of which some test must catch.

Each is made in a copy of the repository, where the tests named beside it run until one fails. Not a part of `.ci/run`: a
mutant that no longer applies is told, and is to be written anew or to go.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STORE = "services/dispatch-svc/src/dispatch/store.py"
CLEARANCE = "services/dispatch-svc/src/dispatch/clearance.py"
PIPELINE = "services/dispatch-svc/src/dispatch/pipeline.py"
PROJECTION = "services/dispatch-svc/src/dispatch/projection.py"
TIMERS = "services/dispatch-svc/src/dispatch/timers.py"
RECORDER = "services/consent-svc/src/consent/recorder.py"
CONSENT_STORE = "services/consent-svc/src/consent/store.py"
DATABASE = "libs/common/src/common/database.py"
OUTBOX = "libs/common/src/common/outbox.py"
CONSUMER = "libs/common/src/common/consumer.py"
PAGING = "libs/common/src/common/paging.py"
DISPATCH = "tests/service/dispatch/test_interleavings.py"
CONSENT = "tests/service/consent/test_interleavings.py"
COMMON = "tests/service/common/test_interleavings.py"
IN_HAND = "tests/service/dispatch/test_in_hand.py"
RELAY = "tests/service/common/test_relay.py"


class Mutant(NamedTuple):
    name: str
    file: str
    was: str  # occurs once
    becomes: str
    tests: str  # arguments of pytest


MUTANTS = (
    Mutant(
        "enforce closes what it has not read",
        STORE,
        'AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE) AS f"',
        "AND subject_id IN (SELECT o.subject_id FROM enforcement AS o WHERE o.id = ANY(CAST(:ids AS bigint[])))"
        ' ORDER BY id FOR UPDATE) AS f"',
        DISPATCH,
    ),
    Mutant(
        "enforce reads what is sending before the open opt-outs",
        STORE,
        """    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
""",
        """    early = await fetch_many(
        tx,
        "SELECT m.subject_id FROM message AS m WHERE m.status = 'sending' AND m.subject_id = ANY($1::text[])",
        list(subject_ids),
    )
    fetch_many_ = fetch_many

    async def fetch_many_(tx, sql, *values, of=fetch_many):
        return early if sql.startswith("SELECT m.subject_id FROM sending") else await of(tx, sql, *values)

    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
""",
        DISPATCH,
    ),
    Mutant(
        "the clock of an enforcement is read before what is sending",
        STORE,
        """    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
""",
        """    early = datetime.now(UTC)
    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
""",
        DISPATCH,
    ),
    Mutant(
        "a permit counts from after the watermark was read",
        CLEARANCE,
        "        subjects = await store.subjects(tx, [c.subject_id for c in candidates])\n",
        "        subjects = await store.subjects(tx, [c.subject_id for c in candidates])\n"
        "        until = uptime_s() + self.permit_ttl_s\n",
        f"{IN_HAND} -k counts_from_before",
    ),
    Mutant(
        "a gateway remembers from the last decision",
        TIMERS,
        "since: datetime = row.sending_since",
        "since: datetime = row.decided_at",
        f"{IN_HAND} -k first_have_had",
    ),
    Mutant(
        "an opt-out takes the campaigns' lock alone",
        STORE,
        "for lane in (True, False))  # in this order",
        "for lane in (True,))  # in this order",
        DISPATCH,
    ),
)
