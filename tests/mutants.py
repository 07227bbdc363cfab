"""`make mutants`: small changes (the order of two statements, a clock, a lock), each of which some test must catch.

Each is made in a copy of the repository, where the tests named beside it run until one fails. It is no part of
`.ci/run`. A mutant that does not apply any more is told: write it anew, or remove it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MESSAGES = "services/dispatch-svc/src/dispatch/messages/store.py"
ENFORCEMENT = "services/dispatch-svc/src/dispatch/messages/enforcement.py"
PROJECTION_STORE = "services/dispatch-svc/src/dispatch/projection/store.py"
SENDING_STORE = "services/dispatch-svc/src/dispatch/sending/store.py"
GATE_STORE = "services/dispatch-svc/src/dispatch/gate/store.py"
CLEARANCE = "services/dispatch-svc/src/dispatch/gate/clearance.py"
PLANNING_STORE = "services/campaign-svc/src/campaign/planning/store.py"
PIPELINE = "services/dispatch-svc/src/dispatch/sending/pipeline.py"
PROJECTION = "services/dispatch-svc/src/dispatch/projection/apply.py"
TIMERS = "services/dispatch-svc/src/dispatch/sending/timers.py"
LEDGER_RULES = "services/consent-svc/src/consent/ledger/rules.py"
RECORDER = "services/consent-svc/src/consent/ledger/recorder.py"
CONSENT_STORE = "services/consent-svc/src/consent/ledger/store.py"
REPLIES = "services/consent-svc/src/consent/answers/replies.py"
QUESTIONS = "services/consent-svc/src/consent/double_opt_in/requests.py"
GATE_RULES = "services/dispatch-svc/src/dispatch/gate/rules.py"
DATABASE = "libs/common/src/common/db/database.py"
OUTBOX = "libs/common/src/common/kafka/outbox.py"
OFFSETS = "libs/common/src/common/kafka/reading/offsets.py"
BATCHES = "libs/common/src/common/kafka/reading/batches.py"
BROKEN_LOGS = "libs/common/src/common/kafka/reading/broken_logs.py"
LAW = "libs/common/src/common/law/__init__.py"
STOP_LINK = "libs/common/src/common/privacy/stop_link.py"
PAGING = "libs/common/src/common/web/pagination.py"
DISPATCH = "tests/service/dispatch/test_interleavings.py"
CONSENT = "tests/service/consent/test_interleavings.py"
COMMON = "tests/service/common/test_interleavings.py"
IN_HAND = "tests/service/dispatch/test_in_hand.py"
STORE_TESTS = "tests/service/dispatch/test_dispatch_store.py"
RELAY = "tests/service/common/test_relay.py"


class Mutant(NamedTuple):
    name: str
    file: str
    was: str  # occurs once
    becomes: str
    tests: str  # arguments of pytest
    also: tuple[str, str] = ("", "")  # a second change of the file


MUTANTS = (
    # --- enforcement
    Mutant(
        "enforce closes what it has not read",
        ENFORCEMENT,
        " AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE) AS f",
        " AND subject_id IN (SELECT o.subject_id FROM enforcement AS o WHERE o.id = ANY(CAST(:ids AS bigint[])))"
        " ORDER BY id FOR UPDATE) AS f",
        f"{DISPATCH} -k being_enforced",
    ),
    Mutant(
        "enforce reads what is sending before the open opt-outs",
        ENFORCEMENT,
        """    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
        " WHERE enforced_at IS NULL AND subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    if not waiting:
        return []
    held_back = await fetch_many(
""",
        """    held_back = await fetch_many(
        tx, "SELECT subject_id FROM message WHERE status = 'sending' AND subject_id = ANY($1::text[])", subject_ids
    )
    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
        " WHERE enforced_at IS NULL AND subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    if not waiting:
        return []
    await fetch_many(
""",
        f"{DISPATCH} -k being_enforced",
    ),
    Mutant(
        "the clock of an enforcement is read before what is sending",
        ENFORCEMENT,
        '    waiting = await fetch_many(\n        tx,\n        "SELECT id, partition, subject_id FROM enforcement"\n',
        "    early = datetime.now(UTC)\n    waiting = await fetch_many(\n        tx,\n"
        '        "SELECT id, partition, subject_id FROM enforcement"\n',
        f"{STORE_TESTS} -k clock_of_an_enforcement",
        ("    now, kept = datetime.now(UTC), {", "    now, kept = early, {"),
    ),
    Mutant(
        "who stores an outcome enforces before the commit",
        PIPELINE,
        "        await until_stored(lambda: self._enforce([o.subject_id for o in settled]))\n",
        "            await enforcement.enforce(tx, [o.subject_id for o in settled])\n",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "what is being handed off is forgotten with its batch",
        MESSAGES,
        "AND m.status = 'sending' LIMIT 1) IS NULL",
        "AND m.status = 'denied' LIMIT 1) IS NULL",
        f"{STORE_TESTS} -k nothing_of_the_person",
    ),
    # --- deciding
    Mutant(
        "a permit counts from after the watermark was read",
        CLEARANCE,
        "        subjects = await store.subjects(tx, [c.subject_id for c in candidates])\n",
        "        subjects = await store.subjects(tx, [c.subject_id for c in candidates])\n"
        "        until = uptime_s() + self.permit_ttl_s\n",
        f"{IN_HAND} -k counts_from_before",
    ),
    Mutant(
        "an opt-out takes the campaigns' lock alone",
        MESSAGES,
        "for lane in LANES)",
        "for lane in (Lane.MARKETING,))",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "an opt-out keeps no decision out",
        MESSAGES,
        "f\"pg_advisory_xact_lock(hashtext('{LANES[lane]}'), $1)\"",
        "f\"pg_advisory_xact_lock_shared(hashtext('{LANES[lane]}'), $1)\"",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "a decision takes no lock",
        CLEARANCE,
        "        if not locked:\n            await messages.lock_partition",
        "        if not candidates:\n            await messages.lock_partition",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "a decision reads consents before its lock",
        CLEARANCE,
        "        subjects = await store.subjects(tx, [c.subject_id for c in candidates])\n",
        "        subjects = early\n",
        f"{DISPATCH} -k on_its_way",
        (
            "        if not locked:\n            await messages.lock_partition",
            "        early = await store.subjects(tx, [c.subject_id for c in candidates])\n"
            "        if not locked:\n            await messages.lock_partition",
        ),
    ),
    Mutant(
        "a decision reads controls before its campaigns' lock",
        CLEARANCE,
        "        controls = await store.controls(tx, campaigns)\n",
        "        controls = early\n",
        f"{DISPATCH} -k paused",
        (
            "        as_of = await projection.watermark(tx, partition, campaigns)\n",
            "        early = await store.controls(tx, campaigns)\n"
            "        as_of = await projection.watermark(tx, partition, campaigns)\n",
        ),
    ),
    Mutant(
        "a control waits for nobody who decides",
        PROJECTION_STORE,
        "    await fetch_many(tx, f\"SELECT pg_advisory_xact_lock({_A_CAMPAIGN.format('$1')})\", event.campaign_id)\n",
        "",
        f"{DISPATCH} -k paused",
    ),
    Mutant(
        "who counts what people had waits for nobody who counts",
        GATE_STORE,
        "pg_advisory_xact_lock(hashtext('placet.counts'), :partition)",
        "pg_advisory_xact_lock_shared(hashtext('placet.counts'), :partition)",
        f"{DISPATCH} -k most_that",
    ),
    # --- whose a message is
    Mutant(
        "a gateway remembers from the last decision",
        TIMERS,
        "return now - left.since <",
        "return now - (left.row.decided_at or left.since) <",
        f"{IN_HAND} -k first_have_had",
    ),
    Mutant(
        "the sweep takes what its owner has just decided again",
        SENDING_STORE,
        " WHERE s.decided_at = m.decided_at AND s.partition = m.partition AND NOT s.closed)",
        " WHERE s.decided_at = m.decided_at AND s.partition = m.partition AND s.closed IS NULL)",
        f"{DISPATCH} -k lapsed",
    ),
    Mutant(
        "an owner decides again without the lock",
        PIPELINE,
        "            await messages.lock_partition(tx, partition, permits[0].candidate.lane)\n",
        "",
        f"{DISPATCH} -k lapsed",
    ),
    Mutant(
        "a submit is marked although recovery has closed its decision",
        MESSAGES,
        '        " AND NOT s.closed FOR SHARE SKIP LOCKED)"',
        '        " FOR SHARE SKIP LOCKED)"',
        f"{DISPATCH} -k sweep_and_an_owner",
    ),
    Mutant(
        "recovery reads the marks before it closes the decisions",
        TIMERS,
        "            await messages.close_sending(tx, partition, self._sending_timeout)\n"
        "            found = await store.claim_left_sending(tx, partition, self._batch)\n",
        "            found = await store.claim_left_sending(tx, partition, self._batch)\n"
        "            await messages.close_sending(tx, partition, self._sending_timeout)\n",
        f"{IN_HAND} -k restored",
    ),
    Mutant(
        "an owner takes another's decision for its own",
        SENDING_STORE,
        'f" AND decided_at = ANY(CAST(:decisions AS timestamptz[])) AND {messages.NO_OUTCOME}"',
        'f" AND :decisions IS NOT NULL AND {messages.NO_OUTCOME}"',
        f"{STORE_TESTS} -k begun",
    ),
    Mutant(
        "an outcome is stored over what has changed since",
        MESSAGES,
        " WHERE m.message_id = v.message_id AND m.version = v.version AND m.status = 'sending'",
        " WHERE m.message_id = v.message_id AND m.version >= v.version AND m.status = 'sending'",
        f"{STORE_TESTS} -k overtook",
    ),
    # --- repeated requests
    Mutant(
        "a repeated request has no answer from the ledger",
        PIPELINE,
        "        answers = [events.changed(row) for row in known if row.status is not Status.SENDING]\n",
        "        answers: list[events.Changed] = []\n",
        "tests/service/dispatch/test_repeated_requests.py",
    ),
    Mutant(
        "the next page of repeats waits for no report",
        PLANNING_STORE,
        "AND page_at IS NOT NULL AND 2 * {_SILENT}",
        "AND page_at IS NOT NULL AND 0 * {_SILENT}",
        "tests/service/campaign/test_repeated_requests.py",
    ),
    # --- consent's recorder
    Mutant(
        "a person is decided on without being locked",
        CONSENT_STORE,
        '            " ORDER BY subject_id FOR UPDATE"\n',
        '            " ORDER BY subject_id"\n',
        CONSENT,
    ),
    Mutant(
        "what is on record is read before the lock",
        RECORDER,
        "    locked = await store.lock_subjects(tx, dict.fromkeys(ids) if reviews else {}, ids)\n",
        "    early = await store.known(tx, evidence=[s.evidence.evidence_id for s in taken.values()])\n"
        "    locked = await store.lock_subjects(tx, dict.fromkeys(ids) if reviews else {}, ids)\n",
        f"{CONSENT} -k twice",
        (
            "        senders=senders | senders_of(locked.values()),\n    )\n    for place",
            "        senders=senders | senders_of(locked.values()),\n    )\n"
            "    known = known._replace(evidence=early.evidence)\n    for place",
        ),
    ),
    Mutant(
        "what lists say is read before the lock",
        RECORDER,
        "    locked = await store.lock_subjects(tx, dict.fromkeys(ids) if reviews else {}, ids)\n",
        "    early = await store.listed_of(tx, [s.subject_id for s in taken.values()])\n"
        "    locked = await store.lock_subjects(tx, dict.fromkeys(ids) if reviews else {}, ids)\n",
        f"{CONSENT} -k list",
        (
            "    kept = await _terms_without_number(tx, locked.values())\n",
            "    listed = early\n    kept = await _terms_without_number(tx, locked.values())\n",
        ),
    ),
    Mutant(
        "who was never seen is written over who was written meanwhile",
        CONSENT_STORE,
        '        " ORDER BY s.place ON CONFLICT DO NOTHING RETURNING subject_id",\n',
        '        " ORDER BY s.place ON CONFLICT (subject_id) DO UPDATE SET state = excluded.state"\n'
        '        " RETURNING subject_id",\n',
        f"{CONSENT} -k newer_stop",
    ),
    # --- answers and questions to people
    Mutant(
        "own words that do not pass are sent",
        REPLIES,
        "        return None if self.flaws(field) else own\n",
        "        return own\n",
        "tests/unit/consent/test_own_words.py",
    ),
    Mutant(
        "a question on its way is compared with the STOP's own clock",
        GATE_RULES,
        "(consent.stopped_at or consent.occurred_at) >= request.requested_at",
        "consent.occurred_at >= request.requested_at",
        "tests/unit/dispatch/test_gate.py -k slow",
    ),
    Mutant(
        "two controllers ask a number at once",
        QUESTIONS,
        'await _lock(tx, [*paces, f"number/{statement.subject_id}"], now)',
        "await _lock(tx, paces, now)",
        "tests/service/consent/test_double_opt_ins.py -k twice_at_once",
    ),
    # --- outbox
    Mutant(
        "two relays lead",
        DATABASE,
        "SELECT pg_try_advisory_lock(hashtext($1))",
        "SELECT pg_try_advisory_lock_shared(hashtext($1))",
        f"{COMMON} -k standby",
    ),
    Mutant(
        "the clock of a watermark is read after the rows",
        OUTBOX,
        "            _tell_oldest([row.created_at for row in rows])\n",
        "            as_of = datetime.now(UTC) - self._skew\n"
        "            _tell_oldest([row.created_at for row in rows])\n",
        f"{COMMON} -k two_who_write",
    ),
    Mutant(
        "what a watermark stands on is read after the rows",
        OUTBOX,
        "            _tell_oldest([row.created_at for row in rows])\n",
        "            ceiling = await self._ceiling(session) if self._ceiling else None\n"
        "            _tell_oldest([row.created_at for row in rows])\n",
        f"{COMMON} -k stands_on",
    ),
    Mutant(
        "a watermark does not wait for the rest of the rows",
        OUTBOX,
        "        if reached >= read.newest:\n",
        "        if reached >= 0:\n",
        f"{RELAY} -k waits_until_all",
    ),
    Mutant(
        "the relay deletes what it has not read",
        OUTBOX,
        '"WITH gone AS (DELETE FROM outbox WHERE id = ANY($1::bigint[]))',
        '"WITH gone AS (DELETE FROM outbox WHERE id <= (SELECT max(i) FROM unnest($1::bigint[]) AS i))',
        f"{COMMON} -k two_who_write",
    ),
    # --- consumer
    Mutant(
        "an owner does not lock its offset",
        BROKEN_LOGS,
        "fault, cleared_at FROM consumer_offset WHERE {_ROW} FOR UPDATE",
        "fault, cleared_at FROM consumer_offset WHERE {_ROW}",
        f"{COMMON} -k batch_and_a_second",
    ),
    Mutant(
        "watermarks are stepped over without the lock",
        OFFSETS,
        '" ORDER BY partition FOR UPDATE"',
        '" ORDER BY partition"',
        f"{COMMON} -k watermarks_of_a_partition",
    ),
    Mutant(
        "a record is handled again by who comes second",
        BATCHES,
        "fresh = [record for record in records if record.offset >= reading.seen.next_offset]",
        "fresh = list(records)",
        f"{COMMON} -k batch_and_a_second",
    ),
    Mutant(
        "a watermark goes back",
        OFFSETS,
        'BELIEVED = "greatest({known}, CASE WHEN {said} <= now() + {skew}::interval THEN {said} END)"',
        'BELIEVED = "coalesce(CASE WHEN {said} <= now() + {skew}::interval THEN {said} END, {known})"',
        f"{COMMON} -k goes_back",
    ),
    # --- who takes back a STOP
    Mutant(
        "an asserted opt-in takes back a STOP of the person's own",
        LEDGER_RULES,
        "return asserted.reopening_rule is None or self.sender_id is None",
        "return False",
        "tests/property/test_reopening_properties.py",
    ),
    Mutant(
        "a provider's list waits beside the ledger while an opt-in is asserted",
        RECORDER,
        "        if said.at >= given.at or (said.by_person and not given.by_person):\n",
        "        if said.at >= given.at:\n",
        "tests/service/consent/test_reopening.py -k provider_s_list",
    ),
    # --- database
    Mutant(
        "a transaction runs at the level of its database",
        DATABASE,
        'ISOLATION = {"default_transaction_isolation": "read committed"}',
        "ISOLATION: dict[str, str] = {}",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "a page tells a cursor while a lower key is being written",
        PAGING,
        "        await _until_writers_ended(tx, table)\n",
        "",
        "tests/service/dispatch/test_lists.py",
    ),
    # --- places abroad
    Mutant(
        "a means works in every place",
        LAW,
        "        if link and place.link_works:\n",
        "        if link or place.link_works:\n",
        "tests/property/test_abroad_properties.py",
    ),
    Mutant(
        "a caller's newer opt-out replaces the annulment of the person's own opt-in",
        LEDGER_RULES,
        'else self.annuls or ""',
        'else ""',
        "tests/unit/consent/test_consent_ledger.py -k not_the_persons",
    ),
    Mutant(
        "a stop link of anybody is a means to stop",
        STOP_LINK,
        "found is not None and found.person == _person(subject_id) and",
        "found is not None and",
        "tests/service/dispatch/test_decision_records.py -k stop_link",
    ),
    # --- lanes
    Mutant(
        "a value is looked at without the text around the value",
        "libs/common/src/common/texts/template.py",
        "if start < span[1] and span[0] < end]",
        "if start <= span[0] and span[1] <= end]",
        "tests/unit/common/test_text_templates.py tests/property/test_text_findings_properties.py",
    ),
    Mutant(
        "a retired template sends what waits",
        CLEARANCE,
        "            elif candidate.template in retired:",
        "            elif candidate.template in retired and not candidate.version:",
        "tests/service/dispatch/test_dispatch.py -k notice_waits",
    ),
)


def main(wanted: str) -> int:
    """Those whose name holds `wanted`; the exit code."""
    survived = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", ".placet", ".kafka"))
        for mutant in MUTANTS:
            if wanted in mutant.name:
                fate = _fate(mutant, copy)
                survived += fate != "caught"
                sys.stdout.write(f"{fate:>14}  {mutant.name}  ({mutant.tests.removeprefix('tests/')})\n")
                sys.stdout.flush()
    return 1 if survived else 0


def _fate(mutant: Mutant, copy: Path) -> str:
    file = copy / mutant.file
    source = changed = file.read_text()
    for was, becomes in ((mutant.was, mutant.becomes), mutant.also):
        if was and changed.count(was) != 1:
            return "does not apply"
        changed = changed.replace(was, becomes) if was else changed
    ours = os.pathsep.join(str(folder) for folder in (copy, *copy.glob("*/*/src"), *copy.glob("*/src")))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
    file.write_text(changed)
    try:
        ended = subprocess.run(
            command, cwd=copy, env={**os.environ, "PYTHONPATH": ours}, capture_output=True, text=True, check=False
        )
    finally:
        file.write_text(source)
    return {0: "SURVIVED", 1: "caught"}.get(ended.returncode, "no test ran")


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
