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
EVENTS = "services/dispatch-svc/src/dispatch/messages/events.py"
ENFORCEMENT = "services/dispatch-svc/src/dispatch/messages/enforcement.py"
PROJECTION_STORE = "services/dispatch-svc/src/dispatch/projection/store.py"
SENDING_STORE = "services/dispatch-svc/src/dispatch/sending/store.py"
GATE_STORE = "services/dispatch-svc/src/dispatch/gate/store.py"
CANDIDATE = "services/dispatch-svc/src/dispatch/gate/candidate.py"
CLEARANCE = "services/dispatch-svc/src/dispatch/gate/clearance.py"
PLANNING_STORE = "services/campaign-svc/src/campaign/planning/store.py"
RECIPIENTS = "services/campaign-svc/src/campaign/campaigns/recipients.py"
REPORTS = "tests/service/campaign/test_reports.py"
PIPELINE = "services/dispatch-svc/src/dispatch/sending/pipeline.py"
CONNECTIONS = "services/dispatch-svc/src/dispatch/gateways/connections.py"
CONNECTION_TESTS = "tests/unit/dispatch/test_connections.py"
PROJECTION = "services/dispatch-svc/src/dispatch/projection/apply.py"
TIMERS = "services/dispatch-svc/src/dispatch/sending/timers.py"
LEDGER_RULES = "services/consent-svc/src/consent/ledger/rules.py"
RECORDER = "services/consent-svc/src/consent/ledger/recorder.py"
STATEMENT = "services/consent-svc/src/consent/ledger/statement.py"
CONSENT_STORE = "services/consent-svc/src/consent/ledger/store.py"
REPLIES = "services/consent-svc/src/consent/answers/replies.py"
QUESTIONS = "services/consent-svc/src/consent/double_opt_in/requests.py"
GATE_STORE = "services/dispatch-svc/src/dispatch/gate/store.py"
DECIDING = "services/dispatch-svc/src/dispatch/gate/deciding.py"
GATE_RULES = "services/dispatch-svc/src/dispatch/gate/rules.py"
ALLOWANCES = "libs/common/src/common/db/allowances.py"
DATABASE = "libs/common/src/common/db/database.py"
OUTBOX = "libs/common/src/common/kafka/outbox.py"
QUICK = "libs/common/src/common/web/edge/quick.py"
OFFSETS = "libs/common/src/common/kafka/reading/offsets.py"
BATCHES = "libs/common/src/common/kafka/reading/batches.py"
SUBSCRIPTION = "libs/common/src/common/kafka/subscription.py"
CONSUMER = "libs/common/src/common/kafka/consumer.py"
POLLING = "libs/common/src/common/kafka/reading/polling.py"
READING = "services/dispatch-svc/src/dispatch/sending/reading.py"
HEAVY = "tests/service/common/test_heavy_records.py"
TOGETHER = "tests/property/test_requests_together.py"
BROKEN_LOGS = "libs/common/src/common/kafka/reading/broken_logs.py"
ORGANISATIONS = "libs/common/src/common/web/auth/organisations.py"
EDGE_ID = "libs/common/src/common/web/edge_id.py"
RETOLD = "services/consent-svc/src/consent/proof/retold.py"
SHARED_CODES = "services/consent-svc/src/consent/inbound/shared_codes.py"
RECEIPTS = "services/consent-svc/src/consent/inbound/opt_out_receipts.py"
LAW = "libs/common/src/common/law/__init__.py"
STOP_LINK = "libs/common/src/common/privacy/stop_link.py"
PAGING = "libs/common/src/common/web/pagination.py"
AUDIT = "tests/service/common/test_audit.py"
LEDGER_AUDIT = "services/consent-svc/src/consent/proof/audit.py"
LEDGER_END = "tests/service/consent/test_ledger_end.py"
FIELD_KEYS = "tests/service/rights/test_field_keys.py"
OUTER_KEYS = "tests/service/consent/test_outer_keys.py"
JOURNALLED = "services/inbound-svc/src/inbound/migrations/versions/0001_first.py"
JOURNAL = "services/inbound-svc/src/inbound/journal.py"
CAMPAIGN_SHARDS = "tests/service/campaign/test_shards.py"
PARTS_OF_SHARDS = "tests/service/rights/test_parts_of_shards.py"
INBOUND_SHARDS = "tests/service/inbound/test_shards.py"
CONSENT_SHARDS = "tests/service/consent/test_shards.py"
CONSENT_CALLS = "services/consent-svc/src/consent/calls.py"
REGISTRY_COPIES_APART = "tests/service/consent/test_shards_copies.py"
REGISTRY_COPIES = "services/consent-svc/src/consent/senders/copying.py"
REGISTRY_SHARDS = "tests/service/consent/test_shards_registry.py"
KEYWORDS = "services/inbound-svc/src/inbound/keywords"
TABLE = "tests/unit/inbound/test_keyword_table.py"
WIDENING = "tests/service/common/test_widening.py"
DISPATCH = "tests/service/dispatch/test_interleavings.py"
PARTS = "tests/unit/inbound/test_keyword_parts.py"
CONSENT = "tests/service/consent/test_interleavings.py"
COMMON = "tests/service/common/test_interleavings.py"
IN_HAND = "tests/service/dispatch/test_in_hand.py"
LIMITS = "tests/service/dispatch/test_limits.py"
STORE_TESTS = "tests/service/dispatch/test_dispatch_store.py"
RELAY = "tests/service/common/test_relay.py"
ACCEPTING = "services/dispatch-svc/src/dispatch/accepting/api.py"
ACCEPTING_RULES = "services/dispatch-svc/src/dispatch/accepting/rules.py"
OWN_WORDS = "services/consent-svc/src/consent/answers/own_words.py"
NAMES = "services/consent-svc/src/consent/senders/names.py"
TEXTED = "services/consent-svc/src/consent/inbound/messages.py"
FEED_STORE = "services/campaign-svc/src/campaign/feed/store.py"
TELLING = "services/campaign-svc/src/campaign/feed/telling.py"
WEBHOOK_STORE = "services/campaign-svc/src/campaign/webhooks/store.py"
DESTINATIONS = "services/campaign-svc/src/campaign/webhooks/destinations.py"
OPT_OUTS = "services/consent-svc/src/consent/opt_outs/store.py"
BY_SMPP = "services/dispatch-svc/src/dispatch/gateways/by_smpp"
CONVERSIONS = "services/campaign-svc/src/campaign/conversions/store.py"
HOSTILE = "tests/service/callers/test_hostile_caller.py"


class Mutant(NamedTuple):
    name: str
    file: str
    was: str  # occurs once
    becomes: str
    tests: str  # arguments of pytest
    also: tuple[str, str] = ("", "")  # a second change of the file


MUTANTS = (
    # --- SMPP
    Mutant(
        "records are published as they are, seven times as large",
        "libs/common/src/common/kafka/broker.py",
        "        compression_type=codec,\n",
        "",
        "tests/service/common/test_relay_leaders.py -k compressed_on_its_way",
    ),
    Mutant(
        "records are compressed at the client's level, in twice the time",
        "libs/common/src/common/kafka/broker.py",
        "compress_at(CODEC_LEVEL)\n",
        "",
        "tests/unit/common/test_kafka.py -k at_our_level",
    ),
    Mutant(
        "an operator gets Zstandard, which its client may lack",
        "services/dispatch-svc/src/dispatch/gateways/by_kafka/publisher.py",
        "    codec = None\n",
        "    codec = Outlet.codec\n",
        "tests/service/dispatch/test_by_kafka.py -k no_codec",
    ),
    Mutant(
        "the invariants pass over a message that left out of hours without a record",
        "services/dispatch-svc/src/dispatch/audit/invariants.py",
        """coalesce(split_part(split_part(m.facts, '"to":"', 2), '"', 1), '')""",
        """split_part(split_part(m.facts, '"to":"', 2), '"', 1)""",
        "tests/service/dispatch/test_dispatch_invariants.py -k nobody_knows_where",
    ),
    Mutant(
        "an MO is acknowledged whatever the log says",
        f"{BY_SMPP}/upstream.py",
        "            if safe:\n",
        "            if True:\n",
        "tests/unit/dispatch/test_smpp_session.py -k acknowledged_once",
    ),
    Mutant(
        "an answer to an earlier request proves that the SMSC read an acknowledgement",
        f"{BY_SMPP}/session.py",
        "self.unproven[0][0] < heard.number",
        "self.unproven[0][0] > 0",
        "tests/unit/dispatch/test_smpp_session.py -k proves_no_acknowledgement",
    ),
    Mutant(
        "the parts of a text leave one by one",
        f"{BY_SMPP}/binds.py",
        "        places = min(parts, self._window, total - kept)",
        "        places = 1",
        "tests/unit/dispatch/test_smpp_session.py -k leave_together",
    ),
    Mutant(
        "a campaign takes the places of codes in a shared window",
        f"{BY_SMPP}/binds.py",
        "        shared = self.users > 1 and",
        "        shared = self.users > 9 and",
        "tests/unit/dispatch/test_smpp_session.py -k share_the_binds",
    ),
    Mutant(
        "a process takes its share of the binds though others still hold theirs",
        f"{BY_SMPP}/shares.py",
        "allowed - held)",
        "allowed)",
        "tests/unit/dispatch/test_smpp_shares.py -k never_hold_too_many",
    ),
    Mutant(
        "a bind under a lease is opened again beside its last session",
        f"{BY_SMPP}/binds.py",
        "                    await asyncio.wait({leaving})",
        "                    pass",
        "tests/service/dispatch/test_smpp_leases.py -k last_session",
    ),
    # --- shards
    Mutant(
        "a partition that two shards claim is dealt to one of them",
        "libs/common/src/common/kafka/reading/dealing.py",
        "        if len(shards) != 1:\n",
        "        if not shards:\n",
        "tests/property/test_dealing_properties.py -k two_shards_claim",
        also=("        [shard] = shards\n", "        shard = min(shards, key=sorted)\n"),
    ),
    Mutant(
        "a shard reads the people of all partitions",
        "libs/common/src/common/kafka/reading/client.py",
        "range(of_topic(settings, topic)) if partition % of in own]",
        "range(of_topic(settings, topic))]",
        "tests/service/dispatch/test_shards.py -k leaves_once",
    ),
    Mutant(
        "a process starts with a database of other partitions",
        "libs/common/src/common/division.py",
        "    if (list(held.partitions), held.of) != (list(own), of):\n",
        "    if not held.partitions:\n",
        "tests/service/dispatch/test_shards.py -k starts_with_the_partitions",
    ),
    Mutant(
        "a shard keeps the DLRs of another's messages",
        "services/dispatch-svc/src/dispatch/sending/receipts.py",
        "if not (divided and _names_ours(receipt))]",
        "if receipt]",
        "tests/service/dispatch/test_shards.py -k leaves_once",
    ),
    Mutant(
        "a divided database keeps the consents of everybody",
        "libs/common/src/common/division.py",
        "            if theirs:\n",
        "            if not people:\n",
        "tests/service/dispatch/test_shards.py -k is_divided",
    ),
    Mutant(
        "a database in use is divided",
        "libs/common/src/common/division.py",
        "AND application_name = $1 LIMIT 1",
        "AND application_name = '' || $1 || 'd' LIMIT 1",
        "tests/service/dispatch/test_shards.py -k not_divided",
    ),
    Mutant(
        "a part loses its place in the partitions added for its work",
        "libs/common/src/common/division.py",
        "AND partition % $3 <> ALL($2::integer[])",
        "AND $3::integer > 0 AND partition <> ALL($2::integer[])",
        "tests/service/dispatch/test_shards.py -k keeps_the_dead_letters",
    ),
    Mutant(
        "a partition added for work is dealt by its own number",
        "libs/common/src/common/kafka/reading/dealing.py",
        "(partition if of is None else partition % of) in held",
        "partition in held",
        "tests/property/test_widening_properties.py -k shard",
    ),
    Mutant(
        "a new partition is read before what its people have in the former one",
        "libs/common/src/common/kafka/parents.py",
        "if next_offset == 0 and former:",
        "if next_offset < 0 and former:",
        f"{WIDENING} -k waits_for",
    ),
    Mutant(
        "a new partition asks again for what has gone on meanwhile, whenever its batch fails",
        "libs/common/src/common/kafka/parents.py",
        "self._waiting.discard(partition)  # the ends stay: the transaction may be rolled back",
        "self._forget(partition)",
        f"{WIDENING} -k first_batch_fails",
    ),
    Mutant(
        "a caller whose notification was missed is not asked for while others come",
        "libs/common/src/common/kafka/relayed.py",
        "if now >= waiter.since + self._look_every_s:",
        "if False:",
        "tests/unit/common/test_rests.py -k asks_for_nobody",
    ),
    Mutant(
        "the body of a callback with a known text stays behind the erasure of its person",
        "services/inbound-svc/src/inbound/journal.py",
        "not (some[0].late or some[0].has_known)",
        "not some[0].late",
        "tests/service/inbound/test_inbound_erasure.py -k somebody_else_beside",
    ),
    Mutant(
        "a new partition waits for no end of the former ones",
        "libs/common/src/common/kafka/parents.py",
        "end if begins[tp] < end else 0 for tp, end in ends.items()",
        "0 for tp in ends",
        f"{WIDENING} -k waits_for",
    ),
    Mutant(
        "a relay does not wait for what packs by the former count",
        "libs/common/src/common/kafka/widening.py",
        "        return not self._left\n",
        "        return True\n",
        f"{WIDENING} -k slow_transaction",
    ),
    Mutant(
        "rows packed by the former count are published by the new one",
        "libs/common/src/common/kafka/widening.py",
        "if row.id <= self._until]:",
        "if row.id < 0]:",
        f"{WIDENING} -k slow_transaction",
    ),
    Mutant(
        "rows packed by a former count are taken",
        "libs/common/src/common/kafka/widening.py",
        "WHERE {} % packed <> 0)",
        "WHERE {} % packed < 0)",
        f"{WIDENING} -k packs_again",
    ),
    Mutant(
        "a request is decided under the lock of the partition that brought it",
        "libs/common/src/common/kafka/reading/records.py",
        "record.partition % partitions if topic.wide else record.partition",
        "record.partition",
        "tests/service/dispatch/test_wide_requests.py -k overtaken",
    ),
    Mutant(
        "a batch that a shard did not answer is kept for repeats",
        "services/dispatch-svc/src/dispatch/accepting/api.py",
        "    if keys is not None and under is not None and complete:\n",
        "    if keys is not None and under is not None:\n",
        "tests/service/dispatch/test_shards.py -k does_not_answer",
    ),
    Mutant(
        "an empty database becomes a shard of a divided one",
        "libs/common/src/common/division.py",
        "        if theirs is not None and (theirs",
        "        if theirs is None and (theirs",
        "tests/service/dispatch/test_shards.py -k empty_database",
    ),
    Mutant(
        "a repeat charges a message on record again",
        "services/dispatch-svc/src/dispatch/accepting/api.py",
        "                each.status = there.get(each.identity)\n",
        "                each.status = None and there.get(each.identity)\n",
        "tests/service/dispatch/test_shards.py -k charges_no_message",
    ),
    Mutant(
        "a key is kept where the first person is",
        "services/dispatch-svc/src/dispatch/accepting/api.py",
        "    keys = key_shard(held, under).database if under is not None else None\n",
        "    keys = by_shard(held, asked)[0].database if under is not None else None\n",
        "tests/service/dispatch/test_shards.py -k key_used",
    ),
    Mutant(
        "a relay speaks for the partitions of all shards",
        OUTBOX,
        "        own = self._settings.own_partitions",
        "        own = range(self._settings.partitions)",
        f"{INBOUND_SHARDS} -k watermark",
    ),
    Mutant(
        "a change of the registry is left to the timer of the other shards",
        REGISTRY_COPIES,
        "        if not sender_ids:\n",
        "        if sender_ids:\n",
        f"{REGISTRY_SHARDS} -k in_both_before_the_answer",
    ),
    Mutant(
        "a copy that is ahead of a change under way is put back",
        REGISTRY_COPIES,
        "            await copy_store.lock(first, alone=True)",
        "            await copy_store.lock(first)",
        f"{REGISTRY_SHARDS} -k mending_waits",
    ),
    Mutant(
        "a restored first shard takes its senders from the others",
        "services/consent-svc/src/consent/senders/copy_store.py",
        'AHEAD_FOR = "10 minutes"',
        'AHEAD_FOR = "10 years"',
        f"{REGISTRY_COPIES_APART} -k has_lost",
    ),
    Mutant(
        "a reopening rule is copied before it is decided",
        "services/consent-svc/src/consent/senders/reopening.py",
        "    async with changing(held.shards, ()) as tx:\n        sender",
        "    async with changing(held.shards, [sender_id]) as tx:\n        sender",
        f"{REGISTRY_COPIES_APART} -k never_decided",
    ),
    Mutant(
        "texts are read by a registry that was never compared",
        REGISTRY_COPIES,
        "            if not self.compared.once:\n",
        "            if self.compared.once:\n",
        f"{REGISTRY_COPIES_APART} -k first_comparison",
    ),
    Mutant(
        "a copied change of retention counts no consent again",
        REGISTRY_COPIES,
        "        if before[each.sender_id] != rules_of(each):\n",
        "        if before[each.sender_id] == rules_of(each):\n",
        f"{REGISTRY_SHARDS} -k counted_again_in_both",
    ),
    Mutant(
        "the lines of a piece are recorded twice in another shard after a crash",
        "services/consent-svc/src/consent/imports/worker.py",
        "read_verdicts(zlib.decompress(kept)) if kept is not None else {}\n",
        "{}\n",
        f"{REGISTRY_SHARDS} -k after_a_crash",
    ),
    Mutant(
        "the files under way stay in every part of a divided ledger",
        "services/consent-svc/src/consent/division.py",
        '"import_file", "import_piece", ',
        "",
        f"{REGISTRY_SHARDS} -k each_table_goes",
    ),
    Mutant(
        "a process starts with a database whose division is broken off",
        "libs/common/src/common/division.py",
        '    if held.division == "begun":\n',
        '    if held.division == "broken":\n',
        f"{REGISTRY_SHARDS} -k broken_off",
    ),
    Mutant(
        "a part keeps the links of others' people",
        "services/consent-svc/src/consent/division.py",
        '        "preference_link",\n',
        "",
        f"{REGISTRY_SHARDS} -k broken_off",
    ),
    Mutant(
        "a full outbox of one shard stops the files of all",
        "services/consent-svc/src/consent/imports/worker.py",
        "{*self._put_off, *self._held_up}",
        "{*self._put_off}",
        f"{REGISTRY_SHARDS} -k people_alone",
    ),
    Mutant(
        "a line that reads as another shard's at the retry of its piece is lost",
        "services/consent-svc/src/consent/imports/worker.py",
        "            if not left.columns and not left.lines:\n",
        "            if kept is not None:\n",
        f"{REGISTRY_SHARDS} -k at_the_retry",
    ),
    Mutant(
        "the checksum is of the people of the first shard",
        "services/consent-svc/src/consent/proof/summing.py",
        "for shard in self.shards.each]",
        "for shard in [self.shards.first]]",
        f"{REGISTRY_SHARDS} -k checksum_is_of",
    ),
    Mutant(
        "the place of an entry of another shard is under no seal",
        "services/consent-svc/src/consent/proof/store.py",
        "false, true FROM moved_entry\n",
        "false, true FROM moved_entry WHERE false\n",
        f"{REGISTRY_SHARDS} -k under_the_seals_of_before",
    ),
    Mutant(
        "every item of a callback is kept in the first one's shard",
        JOURNAL,
        "        shard = held.shards.of(partition)\n",
        "        shard = held.shards.own if partition >= 0 else held.shards.of(partition)\n",
        f"{INBOUND_SHARDS} -k dlr_is_kept",
    ),
    Mutant(
        "a body with people of two shards is kept",
        JOURNAL,
        "    is_kept = is_whole and len(parts) == 1\n",
        "    is_kept = is_whole\n",
        f"{INBOUND_SHARDS} -k leaves_nothing",
    ),
    Mutant(
        "a body with an unreadable item is kept in the shard of another",
        JOURNAL,
        "    is_kept = is_whole and len(parts) == 1\n",
        "    is_kept = len(parts) == 1\n",
        f"{INBOUND_SHARDS} -k leaves_nothing",
    ),
    Mutant(
        "a callback is answered once one of its shards has it",
        "services/inbound-svc/src/inbound/webhooks.py",
        "    if None in done:\n",
        "    if {*done} == {None}:\n",
        f"{INBOUND_SHARDS} -k is_away_a_callback",
    ),
    Mutant(
        "a nonce is kept beside the items",
        "services/inbound-svc/src/inbound/webhooks.py",
        "        home = held.shard_of(arrival.once.nonce)\n",
        "        home = parts[0][0]\n",
        f"{INBOUND_SHARDS} -k nonce",
    ),
    Mutant(
        "an operator's record is kept in each shard",
        JOURNAL,
        "if held.shard_of(entry.event.key) is held.shards.own]",
        "if held.shards.own]",
        f"{INBOUND_SHARDS} -k operators_records",
    ),
    Mutant(
        "a divided journal keeps the body that others share",
        "services/inbound-svc/src/inbound/division.py",
        "    UPDATE callback SET body = NULL\n",
        "    UPDATE callback SET body = body\n",
        f"{INBOUND_SHARDS} -k is_divided",
    ),
    Mutant(
        "a merged page waits for no writer of a shard with few rows",
        PAGING,
        "(len(rows) < limit and not is_part)",
        "len(rows) < limit",
        f"{INBOUND_SHARDS} -k merged_page",
    ),
    Mutant(
        "a merged list ends where a row leaves a full page of a shard",
        PAGING,
        "whole_up_to >= 0 and len(rows) < limit:",
        "whole_up_to >= 0:",
        "tests/service/common/test_merged_pages.py",
    ),
    Mutant(
        "each repeat of many DLRs is written, and taken back",
        "services/inbound-svc/src/inbound/shortcut.py",
        "        REPEATING.update(_accounts(arrivals))\n",
        "        pass\n",
        "tests/service/inbound/test_shortcut.py -k tried_once",
    ),
    Mutant(
        "a person's call asks the database of the process",
        CONSENT_CALLS,
        "    return held.of_shard(held.shard_of(subject_id)) if held.shards.divided else held\n",
        "    return held if subject_id else held.of_shard(held.shard_of(subject_id))\n",
        f"{CONSENT_SHARDS} -k rights_of_a_person",
    ),
    Mutant(
        "a batch of opt-ins keeps its key in the shard of the process",
        CONSENT_CALLS,
        "    keys = _database_of_key(held, asked) if asked is not None else held.database\n",
        "    keys = held.database if asked is not None else _database_of_key(held, asked)\n",
        f"{CONSENT_SHARDS} -k a_batch",
    ),
    Mutant(
        "an opt-out of two people keeps its key though one is not stopped",
        "services/consent-svc/src/consent/api.py",
        "replace(first, keeps=failed is None)",
        "replace(first, keeps=True)",
        f"{CONSENT_SHARDS} -k is_refused_while_one_is_away",
    ),
    Mutant(
        "an opt-out waits for the shard that keeps its key",
        "services/consent-svc/src/consent/api.py",
        "                results.append(error)\n",
        "                raise error\n",
        f"{CONSENT_SHARDS} -k is_refused_while_one_is_away",
    ),
    Mutant(
        "a STOP under another's id is recorded in the shard that read it",
        "services/consent-svc/src/consent/inbound/elsewhere.py",
        "        if self.held is not None:\n",
        "        if self.held is None:\n",
        f"{CONSENT_SHARDS} -k whatever_the_event_says",
    ),
    Mutant(
        "each shard has a pace of its own for a controller's questions",
        "services/consent-svc/src/consent/double_opt_in/api.py",
        "None if here.database is held.shards.first.database else held.shards.first.database",
        "None",
        f"{CONSENT_SHARDS} -k one_pace",
    ),
    Mutant(
        "a link is looked for in the shard of the process",
        "libs/common/src/common/db/everywhere.py",
        "    if not shards.divided:\n        return shards.own, await answer(shards.own)\n",
        "    if shards.own:\n        return shards.own, await answer(shards.own)\n",
        f"{CONSENT_SHARDS} -k page_of_a_person",
    ),
    Mutant(
        "a call has the database of the process, whoever calls",
        "services/campaign-svc/src/campaign/senders/caller.py",
        "    return held.of_shard(held.shard_of(caller.organisation))\n",
        "    return held.of_shard(held.shards.own) if caller else held\n",
        f"{CAMPAIGN_SHARDS} -k asked_for",
    ),
    Mutant(
        "a short link is looked for in the own shard alone",
        "services/campaign-svc/src/campaign/links/redirects.py",
        "held, person)) for each in held.shards.each}",
        "held, person)) for each in [held.shards.own]}",
        f"{CAMPAIGN_SHARDS} -k short_link",
    ),
    Mutant(
        "a caller has the senders that the process's own shard knows",
        "libs/common/src/common/web/auth/organisations.py",
        "own if shard_of is None else",
        "own if shards.own else",
        f"{CAMPAIGN_SHARDS} -k that_the_shard_of_the_data_knows",
    ),
    Mutant(
        "a stored STOP of another shard's sender is missed for ever",
        "services/campaign-svc/src/campaign/audience/consents.py",
        "        known = await _of_own(tx, own, known)\n",
        "",
        f"{CAMPAIGN_SHARDS} -k turns_out",
    ),
    Mutant(
        "the states behind the first page are not divided",
        "libs/common/src/common/division.py",
        "        while after is not None:\n",
        "        if after is not None:\n",
        f"{CAMPAIGN_SHARDS} -k every_page",
    ),
    Mutant(
        "an erasure waits for a transaction of the server that was copied",
        "libs/common/src/common/division.py",
        "SET after_xid = NULL WHERE erased_at IS NULL",
        "SET after_xid = after_xid WHERE erased_at IS NULL",
        f"{CAMPAIGN_SHARDS} -k both_parts_go_on",
    ),
    Mutant(
        "a sender that is not known yet is a stranger",
        "services/campaign-svc/src/campaign/senders/own.py",
        "if self._is_own.get(one) is False}",
        "if not self._is_own.get(one)}",
        f"{CAMPAIGN_SHARDS} -k unknown_sender",
    ),
    Mutant(
        "a shard keeps the consents of every organisation",
        "services/campaign-svc/src/campaign/audience/consents.py",
        "    if not own.all:\n        strangers",
        "    if own.all:\n        strangers",
        f"{CAMPAIGN_SHARDS} -k unknown_sender",
    ),
    Mutant(
        "the feed of a shard waits at each opt-out of another organisation",
        "services/campaign-svc/src/campaign/audience/consents.py",
        '    opted_out = any(cause.kind == "opt_out" for cause in event.causes)\n',
        "    opted_out = False\n",
        f"{CAMPAIGN_SHARDS} -k feed_and_its_webhook",
    ),
    Mutant(
        "each part of a divided database keeps every contact",
        "services/campaign-svc/src/campaign/senders/division.py",
        '            "contact",\n',
        "",
        f"{CAMPAIGN_SHARDS} -k is_divided",
    ),
    Mutant(
        "a part of a divided database keeps the consents of others' senders",
        "services/campaign-svc/src/campaign/senders/division.py",
        "OR e ->> 'sender_id' NOT IN {_SENDERS})",
        "OR e ->> 'sender_id' IS NOT NULL)",
        f"{CAMPAIGN_SHARDS} -k both_parts_go_on",
    ),
    Mutant(
        "an erasure waits for ever for a shard that answered before another was divided",
        "services/consent-svc/src/consent/rights/erasures.py",
        "HAVING count(DISTINCT a.shard) >= max(a.shards)",
        "HAVING count(DISTINCT a.shard) > max(a.shards)",
        f"{PARTS_OF_SHARDS} -k erasure",
    ),
    Mutant(
        "a copy waits for ever for a shard that answered before another was divided",
        "services/consent-svc/src/consent/rights/copies.py",
        "HAVING count(DISTINCT s.shard) >= max(s.shards)",
        "HAVING count(DISTINCT s.shard) > max(s.shards)",
        f"{PARTS_OF_SHARDS} -k copy",
    ),
    Mutant(
        "a rectification waits for ever for a shard that answered before another was divided",
        "services/consent-svc/src/consent/rights/parts.py",
        "if latest and len(latest) >= max(count for count, _ in answers) else {}",
        "if len(latest) > max((count for count, _ in answers), default=0) else {}",
        f"{PARTS_OF_SHARDS} -k rectification",
    ),
    Mutant(
        "an erasure is complete once a shard of the service has answered",
        "services/consent-svc/src/consent/rights/erasures.py",
        "GROUP BY a.service, a.shards HAVING count(*) = a.shards)",
        "GROUP BY a.service, a.shards HAVING count(*) > 0)",
        f"{PARTS_OF_SHARDS} -k erasure",
    ),
    Mutant(
        "a copy is complete once a shard of the service has answered",
        "services/consent-svc/src/consent/rights/copies.py",
        "GROUP BY s.service, s.shards HAVING count(*) = s.shards)",
        "GROUP BY s.service, s.shards HAVING count(*) > 0)",
        f"{PARTS_OF_SHARDS} -k copy",
    ),
    Mutant(
        "an empty database takes the place of one that was in use",
        "libs/common/src/common/division.py",
        "if theirs is not None and set(theirs.taken) & set(own):",
        "if False and theirs is not None:",
        "tests/service/dispatch/test_shards.py -k in_use",
    ),
    Mutant(
        "the audit log of an organisation is scattered over the shards",
        "libs/common/src/common/service.py",
        "by_owner = shards.divided and not settings.people_are_divided",
        "by_owner = False",
        f"{CAMPAIGN_SHARDS} -k audit_log",
    ),
    Mutant(
        "a page of the audit log goes on in the log of another shard",
        "libs/common/src/common/audit/api.py",
        "    if name != shard.name:",
        "    if False:",
        f"{CAMPAIGN_SHARDS} -k audit_log",
    ),
    Mutant(
        "a worker of campaign-svc with a former count of shards answers for too few",
        "services/campaign-svc/src/campaign/service.py",
        'division.admit(held.shards, settings, {"api", "worker"})',
        'division.admit(held.shards, settings, {"api"})',
        f"{CAMPAIGN_SHARDS} -k another_count",
    ),
    Mutant(
        "a process that runs on through a division writes to what was divided",
        DATABASE,
        "        if self.check is not None:\n",
        "        if False:\n",
        "tests/service/consent/test_shards_divided.py -k writes_nothing",
    ),
    Mutant(
        "a process that runs on through a division is not seen by it",
        "libs/common/src/common/db/shards.py",
        "if shard is not self.own and shard.database.check is not None:",
        "if False:",
        "tests/service/consent/test_shards_divided.py -k nobody_calls",
    ),
    Mutant(
        "a process that runs on through a division connects as it begins",
        "libs/common/src/common/division.py",
        "        await _at_rest(tx, tables)\n        if min",
        "        if min",
        "tests/service/consent/test_shards_divided.py -k connects_while",
    ),
    Mutant(
        "a process that runs on through a division is another shard's",
        "libs/common/src/common/division.py",
        "            await _others_rest(tables, settings)\n",
        "            pass\n",
        "tests/service/consent/test_shards_divided.py -k every_shard",
    ),
    Mutant(
        "a run of divide puts back what another has divided",
        "libs/common/src/common/division.py",
        "        if not await session.fetchval(ALONE):\n",
        "        if await session.fetchval(ALONE) is None:\n",
        "tests/service/consent/test_shards_divided.py -k second_run",
    ),
    Mutant(
        "a run of divide that lost its session puts back what another has divided",
        "libs/common/src/common/division.py",
        " WHERE partitions = $1::smallint[] AND division = $2 RETURNING 1",
        " WHERE partitions = $1::smallint[] OR division <> $2 RETURNING 1",
        "tests/service/consent/test_shards_divided.py -k lost_its_session",
    ),
    Mutant(
        "an interrupted run of divide stays so once another shard has started",
        "libs/common/src/common/division.py",
        "        if not await _goes_on(database, own):\n",
        "        if own:\n",
        "tests/service/consent/test_shards_divided.py -k interrupted",
    ),
    Mutant(
        "a run of divide that died keeps the relay out for ever",
        "libs/common/src/common/division.py",
        '    if held.division != "begun" or list(held.partitions) == list(own):\n',
        "    if held.division:\n",
        "tests/service/consent/test_shards_divided.py -k died_before",
    ),
    Mutant(
        "a relay in shards of organisations begins to publish by more partitions",
        "libs/common/src/common/kafka/widening.py",
        "            if self.settings.own_shard and not self.settings.people_are_divided:",
        "            if False:",
        "tests/unit/common/test_shard_settings.py -k changes_no_count",
    ),
    # --- lists and conversions
    Mutant(
        "a sender is told of a stranger who stopped everyone",
        OPT_OUTS,
        '" AND own.sender_id = :sender_id)",',
        '" AND own.sender_id IS NOT NULL)",',
        "tests/service/consent/test_lists.py -k reach_a_sender",
    ),
    Mutant(
        "a list of messages tells what others' data explains",
        "services/dispatch-svc/src/dispatch/api.py",
        '"reasons": list(row.reasons) if caller.everywhere else disclosed(row.facts, row.reasons)[1],',
        '"reasons": list(row.reasons),',
        "tests/service/dispatch/test_message_lists.py -k explains",
    ),
    Mutant(
        "a STOP reads the whole journal by a plan of an empty one",
        "services/inbound-svc/src/inbound/store.py",
        "        WHERE (\n            SELECT true",
        "        WHERE EXISTS (\n            SELECT true",
        "tests/service/inbound/test_arrivals.py -k plan_of_an_empty_journal",
    ),
    Mutant(
        "an erasure that comes while the shortcut waits is missed",
        JOURNALLED,
        "RAISE EXCEPTION 'an erasure of a person is known meanwhile';",
        "NULL;",
        "tests/service/inbound/test_shortcut.py -k erasure_meanwhile",
    ),
    Mutant(
        "the shortcut keeps a STOP behind a START as any other",
        JOURNALLED,
        "WHERE s.is_stop AND (",
        "WHERE false AND (",
        "tests/service/inbound/test_shortcut.py -k stands_against",
    ),
    Mutant(
        "DLRs are journalled without their nonces",
        JOURNALLED,
        "earliest);\n  END IF;\n  INSERT INTO receipt",
        "earliest) WHERE false;\n  END IF;\n  INSERT INTO receipt",
        "tests/service/inbound/test_shortcut.py -k keeps_of_dlrs",
    ),
    Mutant(
        "the shortcut lists the DLRs of an account at another's callback",
        "services/inbound-svc/src/inbound/shortcut.py",
        "[store.as_array(map(bytes.hex, each.dlrs)) for each in callbacks.values()]",
        "[store.as_array(map(bytes.hex, each.dlrs)) for each in reversed(callbacks.values())]",
        "tests/service/inbound/test_shortcut.py -k keeps_of_dlrs",
    ),
    Mutant(
        "a callback of DLRs is answered before its last event is in the log",
        "services/inbound-svc/src/inbound/shortcut.py",
        "spans.append(range(before // journal.TOGETHER, -(-len(told) // journal.TOGETHER)))",
        "spans.append(range(before // journal.TOGETHER, max(1, len(told) // journal.TOGETHER)))",
        "tests/service/inbound/test_shortcut.py -k each_event_that_tells",
    ),
    Mutant(
        "many DLRs are copied with a nonce that other content has used",
        "services/inbound-svc/src/inbound/shortcut.py",
        "        if rows is not None:\n            await store",
        "        if True:\n            await store",
        "tests/service/inbound/test_shortcut.py -k dlrs_with_a_known_nonce",
    ),
    Mutant(
        "the quick reading of DLRs takes fields that it does not know",
        "services/inbound-svc/src/inbound/providers/simulator.py",
        "class _Dlr(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):",
        "class _Dlr(msgspec.Struct, frozen=True, gc=False):",
        "tests/property/test_usual_callbacks.py",
    ),
    Mutant(
        "the quick reading of a callback takes a blank id",
        "services/inbound-svc/src/inbound/providers/bodies.py",
        'return " " not in together and together.isprintable()',
        "return together.isprintable()",
        "tests/property/test_usual_callbacks.py",
    ),
    Mutant(
        "DLRs wait for a callback that Kafka holds up",
        "services/inbound-svc/src/inbound/webhooks.py",
        "async with asyncio.timeout(PATIENCE_S):",
        "async with asyncio.timeout(None):",
        "tests/unit/inbound/test_on_their_way.py -k holds_up",
    ),
    Mutant(
        "a transaction takes its items before the rest",
        "libs/common/src/common/batch.py",
        "            if self._rest is not None:\n                await self._rest()\n",
        "",
        "tests/service/common/test_batch.py -k during_the_rest",
    ),
    Mutant(
        "a transaction waits for items that only answers bring",
        "libs/common/src/common/batch.py",
        "            unasked = bool(self._waiting)\n",
        "            unasked = True\n",
        "tests/service/common/test_batch.py -k answer_has_brought",
    ),
    Mutant(
        "a notification asks for callers whom the relay of their process tells",
        "libs/common/src/common/kafka/relayed.py",
        "if not (told_here and each.knows_its_events)",
        "if True",
        "tests/unit/common/test_rests.py -k asks_for_nobody",
    ),
    Mutant(
        "a caller whose events are unknown waits for a relay that cannot tell",
        "libs/common/src/common/kafka/relayed.py",
        "        return self.events.keys() >= set(self.rows)\n",
        "        return True\n",
        "tests/unit/common/test_rests.py -k asks_for_nobody",
    ),
    Mutant(
        "a row that somebody waits for gathers",
        OUTBOX,
        "        if told != LATER:\n            woken.set()\n        elif",
        "        if",
        "tests/unit/common/test_rests.py -k wakes_at_once",
    ),
    Mutant(
        "a batch is handled before its records have settled",
        "libs/common/src/common/kafka/subscription.py",
        "newest + self.settle_s - now",
        "newest - now",
        "tests/unit/common/test_rests.py -k settled",
    ),
    Mutant(
        "as many requests as a read brings wait like a few",
        "libs/common/src/common/kafka/subscription.py",
        "WHOLE = 0.75",
        "WHOLE = 1.0",
        "tests/unit/common/test_rests.py -k settled",
    ),
    Mutant(
        "records that settle hold up the end of a process",
        "libs/common/src/common/kafka/consumer.py",
        "            await either(stop, None, settles_s)\n",
        "            await asyncio.sleep(settles_s)\n",
        "tests/service/common/test_consumer.py -k settle",
    ),
    Mutant(
        "the shortcut gives a caller another caller's event",
        JOURNALLED,
        "ORDER BY u.place\n    RETURNING id",
        "ORDER BY u.place DESC\n    RETURNING id",
        "tests/service/inbound/test_shortcut.py -k caller_waits_for",
    ),
    Mutant(
        "a meaning with words of its text is remembered",
        f"{KEYWORDS}/remembered.py",
        "            if known.named:\n",
        "            if False:\n",
        "tests/unit/inbound/test_remembered.py",
    ),
    Mutant(
        "the relay of a process takes another event for a caller's",
        "libs/common/src/common/kafka/relayed.py",
        "                if waiter.events.get(row) == event:\n",
        "                if True:\n",
        "tests/service/common/test_relay.py -k another_event_under",
    ),
    Mutant(
        "the relay of a process tells of rows before Kafka has acknowledged them",
        OUTBOX,
        "        if rows:\n            async with asyncio.timeout",
        "        if rows and self._published is not None:\n"
        "            self._published({row.id: row.event_id for row in rows})\n"
        "        if rows:\n            async with asyncio.timeout",
        "tests/service/common/test_relay.py -k before_kafka_has_acknowledged",
    ),
    Mutant(
        "an escaped NUL in a text reaches the database",
        "libs/common/src/common/kafka/broker.py",
        '(b"\\\\" in value and b"u0000" in value) or ',
        "",
        "tests/unit/common/test_kafka.py",
    ),
    Mutant(
        "a shut outlet leaves the errors of its batches behind",
        "libs/common/src/common/kafka/broker.py",
        "        batch.future.add_done_callback(functools.partial(_all_seen, batch))\n",
        "",
        "tests/service/common/test_relay_leaders.py -k leaves_no_error",
    ),
    Mutant(
        "a turn that fails leaves its acknowledgements behind",
        OUTBOX,
        "    acknowledged.add_done_callback(kafka.seen)\n",
        "",
        "tests/service/common/test_relay_leaders.py -k leaves_no_error",
    ),
    Mutant(
        "a callback's body is not counted in the memory of bodies",
        QUICK,
        '            body.take(len(message.get("body", b"")))\n',
        "",
        "tests/unit/common/test_quick.py",
    ),
    Mutant(
        "a callback that has ended keeps its place in the memory of bodies",
        QUICK,
        "            body.leave()\n",
        "",
        "tests/unit/common/test_quick.py",
    ),
    Mutant(
        "a callback is answered at the port of health",
        QUICK,
        "at is not None and at == self._health_port",
        "False",
        "tests/unit/common/test_quick.py",
    ),
    Mutant(
        "an item whose caller has been answered is written",
        "libs/common/src/common/batch.py",
        "        group = [waiting for waiting in group if not waiting.answer.done()]\n",
        "",
        "tests/service/common/test_batch.py -k given_up_on",
    ),
    Mutant(
        "an unreadable record of an operator holds nobody",
        "services/inbound-svc/src/inbound/operators.py",
        "on_unread=_holder(held, origin) if topic is messages else None,",
        "on_unread=None,",
        "tests/service/inbound/test_foreign_records.py -k holds_its_person",
    ),
    Mutant(
        "a text to a shared code is listed to each of its controllers",
        "services/inbound-svc/src/inbound/replies.py",
        "f\" AND {to_a_code_of('i.short_code', 'c.received_at')}\"",
        '" AND true"',
        "tests/service/inbound/test_replies.py",
    ),
    Mutant(
        "an archived campaign that is edited stays hidden",
        "services/campaign-svc/src/campaign/campaigns/store.py",
        "agreed = NULL, archived_at = NULL,",
        "agreed = NULL,",
        "tests/service/campaign/test_campaign_lists.py -k archived",
    ),
    Mutant(
        "a conversion sent again counts with its new value",
        CONVERSIONS,
        '" ORDER BY c.reference ON CONFLICT DO NOTHING RETURNING reference"',
        '" ORDER BY c.reference ON CONFLICT (sender_id, reference) DO UPDATE SET value = excluded.value"'
        ' " RETURNING reference"',
        "tests/service/campaign/test_conversions.py -k counts_once",
    ),
    Mutant(
        "people whose group is not drawn count as messaged",
        CONVERSIONS,
        "AND NOT (:drawn AND r.variant IS NULL",
        "AND NOT (false AND :drawn AND r.variant IS NULL",
        "tests/service/campaign/test_conversions.py -k holdout",
    ),
    Mutant(
        "the interval of a lift has the wrong end of the holdout's share",
        "services/campaign-svc/src/campaign/results/lift.py",
        "(most - held_out.rate) ** 2",
        "(held_out.rate - least) ** 2",
        "tests/property/test_lift_properties.py -k published",
    ),
    # --- events for organisations
    Mutant(
        "two transactions number a feed at once",
        FEED_STORE,
        '" ORDER BY organisation_id FOR UPDATE"',
        '" ORDER BY organisation_id"',
        "tests/service/campaign/test_feed.py -k commits_late",
    ),
    Mutant(
        "an enforcement does not wait for its opt-out",
        TELLING,
        'raise Hold("the opt-out of an enforcement is not applied here yet")',
        "pass",
        "tests/service/campaign/test_feed.py -k enforced",
    ),
    Mutant(
        "a delivery overtakes an earlier one about the same person",
        WEBHOOK_STORE,
        '" AND o.position < d.position) ORDER BY',
        '" AND o.position < d.position AND FALSE) ORDER BY',
        "tests/service/campaign/test_webhooks.py -k waits_behind",
    ),
    Mutant(
        "a late process ends another one's attempt",
        WEBHOOK_STORE,
        'n.position AND d.attempts = n.attempts"',
        'n.position"',
        "tests/service/campaign/test_webhooks.py -k late_process",
    ),
    Mutant(
        "a name with a public address may have one inside",
        DESTINATIONS,
        "if len(results) < len(found) or not results:",
        "if not results:",
        "tests/unit/campaign/test_destinations.py",
    ),
    # --- organisations
    Mutant(
        "a sender that is known is everybody's",
        ORGANISATIONS,
        "return {one: owner.controller for one, owner in known.items() if owner.organisation == organisation}",
        "return {one: owner.controller for one, owner in known.items()}",
        "tests/service/consent/test_strangers.py",
    ),
    Mutant(
        "a sender of a registration that failed is remembered",
        ORGANISATIONS,
        "remembers = not (copied and shards.divided)",
        "remembers = True",
        f"{REGISTRY_COPIES_APART} -k is_remembered_by_no_process",
    ),
    Mutant(
        "an erasure of everything is told to strangers",
        "services/consent-svc/src/consent/rights/api.py",
        "        if under_way and under_way.known:\n",
        "        if under_way:\n",
        "tests/service/rights/test_controllers.py -k told_to_a_controller",
    ),
    Mutant(
        "another controller's name is free",
        "services/consent-svc/src/consent/senders/registry.py",
        "if owners[skeleton(getattr(sender, field))].controller_id != sender.controller]",
        "if not owners]",
        "tests/service/consent/test_registry.py -k look_alike",
    ),
    Mutant(
        "an entry about every sender has one digest for all",
        RETOLD,
        "sealed=digest(who, entry.sealed)",
        "sealed=entry.sealed",
        "tests/property/test_retold_properties.py -k share_no_id",
    ),
    Mutant(
        "every controller has the same key",
        EDGE_ID,
        "info=LABEL + controller.encode()",
        "info=LABEL",
        "tests/property/test_edge_id_properties.py -k two_controllers",
    ),
    # --- a STOP on a code of several controllers
    Mutant(
        "hand-offs wait for no STOP",
        RECEIPTS,
        "            await shared_codes.lock_hand_offs(tx, people)\n",
        "",
        "tests/service/consent/test_interleavings.py -k code_of_two",
    ),
    Mutant(
        "hand-offs look at STOPs before they wait for them",
        RECEIPTS,
        """            await shared_codes.lock_hand_offs(tx, people)
            again = await shared_codes.overtaken(tx, news, missed, self.last_message_days)
""",
        """            again = await shared_codes.overtaken(tx, news, missed, self.last_message_days)
            await shared_codes.lock_hand_offs(tx, people)
""",
        "tests/service/consent/test_interleavings.py -k code_of_two",
    ),
    Mutant(
        "a STOP waits for no hand-offs",
        SHARED_CODES,
        'await _lock(tx, "pg_advisory_xact_lock", people)',
        'await _lock(tx, "pg_try_advisory_xact_lock", people)',
        "tests/service/consent/test_interleavings.py -k code_of_two",
    ),
    Mutant(
        "a state is remembered which a transaction did not store",
        RECEIPTS,
        "once_committed(tx, partial(self.recent.add, told.states()))",
        "self.recent.add(told.states())",
        "tests/service/consent/test_consent_receipts.py -k did_not_store",
    ),
    Mutant(
        "a DLR beyond the next version changes nothing",
        RECEIPTS,
        "elif known == (version - 1, status, at):",
        "elif known[1:] == (status, at):",
        "tests/service/consent/test_consent_receipts.py -k newest_state",
    ),
    Mutant(
        "rows that a failover has lost stay lost",
        RECEIPTS,
        "elif known == (version - 1, status, at):",
        "elif known[0] >= version - 1 and known[1:] == (status, at):",
        "tests/service/consent/test_consent_receipts.py -k failover",
    ),
    Mutant(
        "a message known late widens nothing",
        SHARED_CODES,
        "m.at >= a.written_at AND m.at <= a.arrived_at",
        "m.at > a.arrived_at",
        "tests/service/consent/test_consent_intake.py -k known_after",
    ),
    Mutant(
        "a message that did not arrive keeps the STOP",
        SHARED_CODES,
        "covered = {*reach.senders, *of_controllers(owners, owners.keys() & late[mo_id])}",
        "covered = of_controllers(owners, owners.keys() & late[mo_id])",
        "tests/service/consent/test_consent_intake.py -k one_before_too",
    ),
    Mutant(
        "an older state of a message wins within a batch",
        RECEIPTS,
        "if newest.version >= version:",
        "if newest.version <= version:",
        "tests/service/consent/test_consent_receipts.py -k newest_state",
    ),
    Mutant(
        "a STOP that arrives late is for who wrote last before the arrival",
        SHARED_CODES,
        "return {mo.arrived_at, min(mo.occurred_at, mo.arrived_at)}",
        "return {mo.arrived_at}",
        "tests/service/consent/test_consent_intake.py -k arrives_hours_late",
    ),
    Mutant(
        "a START on a shared code opens strangers",
        TEXTED,
        "if start.opens is not None and (sender_id, purpose) not in start.opens:",
        "if False:",
        "tests/service/consent/test_consent_intake.py -k takes_back_the_newest",
    ),
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
        "        recent = await self._recent(tx, partition, candidates)\n",
        "        recent = await self._recent(tx, partition, candidates)\n"
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
        "a batch takes one message's erasure for another's",
        DECIDING,
        "*(flaw, stop_link, gone, blocked, text.kind),",
        "*(flaw, stop_link, blocked, text.kind),",
        "tests/property/test_batch_properties.py",
    ),
    Mutant(
        "a batch takes the verdict on an unknown person for another's",
        DECIDING,
        "        if subject is not None:\n            verdict, facts",
        "        if subject is not None and not form.of_unknown:\n            verdict, facts",
        "tests/property/test_batch_properties.py",
    ),
    Mutant(
        "a batch tells one person's facts of another",
        DECIDING,
        "                facts=facts,\n            )\n        row",
        "            )\n        row",
        "tests/property/test_batch_properties.py",
    ),
    Mutant(
        "a batch takes the verdict on another number of messages",
        DECIDING,
        "(told := form.of_unknown.get(recent))",
        "(told := next(iter(form.of_unknown.values()), None))",
        "tests/property/test_batch_properties.py",
    ),
    Mutant(
        "a batch tells one row's DLR of another",
        EVENTS,
        '*("as_of", "decided_at", "gateway", "gateway_message_id", "receipt", "code", "receipt_at", "purpose"),',
        '*("as_of", "decided_at", "gateway", "gateway_message_id", "code", "receipt_at", "purpose"),',
        "tests/property/test_message_batches.py",
    ),
    Mutant(
        "a decision on what was read while fresh waits, and stands on stale consents",
        CLEARANCE,
        "if only_fresh and not is_fresh(found.as_of, datetime.now(UTC), self.limits):",
        "if only_fresh and found.as_of is None:",
        "tests/service/dispatch/test_deciding.py",
    ),
    Mutant(
        "a decision takes no lock",
        CLEARANCE,
        "await store.lock(tx, partition, None if locked else _lock_of(candidates), campaigns)",
        "await store.lock(tx, partition, None, campaigns)",
        f"{DISPATCH} -k on_its_way",
    ),
    Mutant(
        "a decision reads consents and controls before its locks",
        CLEARANCE,
        "        found = await store.knowledge(tx, partition, people, campaigns, oldest_of=self.oldest_of)\n",
        "",
        f"{DISPATCH} -k on_its_way",
        (
            "        await store.lock(tx, partition, None",
            "        found = await store.knowledge(tx, partition, people, campaigns, oldest_of=self.oldest_of)\n"
            "        await store.lock(tx, partition, None",
        ),
    ),
    Mutant(
        "a decision waits for no control",
        GATE_STORE,
        "pg_advisory_xact_lock_shared({A_CAMPAIGN",
        "length(c || {A_CAMPAIGN",
        f"{DISPATCH} -k paused",
    ),
    Mutant(
        "a control waits for nobody who decides",
        PROJECTION_STORE,
        "    await fetch_many(tx, f\"SELECT pg_advisory_xact_lock({A_CAMPAIGN.format('$1')})\", event.campaign_id)\n",
        "",
        f"{DISPATCH} -k paused",
    ),
    Mutant(
        "who counts what people had waits for nobody who counts",
        GATE_STORE,
        "pg_advisory_xact_lock(hashtext('placet.counts'), $1)",
        "pg_advisory_xact_lock_shared(hashtext('placet.counts'), $1)",
        f"{DISPATCH} -k most_that",
    ),
    Mutant(
        "a block stored while a lease is late does not count",
        CLEARANCE,
        "        if purses:  # a lease may have been late\n",
        "        if not purses:\n",
        "tests/service/dispatch/test_limits.py -k block_that",
    ),
    Mutant(
        "a code waits for the decision on another code",
        TIMERS,
        "            while len(self._deciding_told) >= TOLD_AT_ONCE:\n",
        "            while self._deciding_told:\n",
        "tests/service/dispatch/test_due.py -k another_code",
    ),
    Mutant(
        "a code waits for the decision on another code of its partition",
        TIMERS,
        "TOLD_OF_ONE = 2",
        "TOLD_OF_ONE = 1",
        "tests/service/dispatch/test_due.py -k another_code",
    ),
    Mutant(
        "a process yields within its session alone",
        "libs/common/src/common/command.py",
        "                AUTOGROUP.write_text(str(nice))\n",
        "                pass\n",
        "tests/unit/common/test_priority.py",
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
        "                await messages.lock_partition(tx, partition, permits[0].candidate.lane)\n",
        "                pass\n",
        f"{DISPATCH} -k lapsed",
    ),
    Mutant(
        "a question that is due waits for no opt-out",
        TIMERS,
        "            if due is Due.CODES:\n",
        "            if not marketing:\n",
        "tests/service/dispatch/test_decision_records.py -k being_applied",
    ),
    Mutant(
        "a question is decided among the codes",
        MESSAGES,
        "category <> 'marketing' AND (category <> 'service' OR purpose IS NULL)",
        "category <> 'marketing'",
        "tests/service/dispatch/test_due.py -k a_question_waits",
    ),
    Mutant(
        "a question is decided beside an opt-out",
        "services/dispatch-svc/src/dispatch/gate/candidate.py",
        'return self.category == "marketing" or (self.category == "service" and self.purpose is not None)',
        'return self.category == "marketing"',
        "tests/service/dispatch/test_interleavings.py -k on_its_way",
    ),
    Mutant(
        "a code that is due waits for an opt-out",
        TIMERS,
        "            if due is Due.CODES:\n",
        "            if False:\n",
        "tests/service/dispatch/test_due.py -k a_question_waits",
    ),
    Mutant(
        "a code that Kafka brings waits for an opt-out",
        CLEARANCE,
        "    lanes = {candidate.lane for candidate in candidates if candidate.is_on_consent}\n",
        "    lanes = {candidate.lane for candidate in candidates}\n",
        "tests/service/dispatch/test_deciding.py -k kafka_brings",
    ),
    Mutant(
        "a code that a search finds waits for the questions",
        TIMERS,
        "return await _any([self._wake_codes_of(partition, Due.CODES) for",
        "return await self.wake_questions() or await _any([self._wake_codes_of(partition, Due.CODES) for",
        "tests/service/dispatch/test_due.py -k a_question_waits",
    ),
    Mutant(
        "a code whose permit has lapsed waits for an opt-out",
        PIPELINE,
        "if locked := any(p.candidate.is_on_consent for p in permits):",
        "if locked := bool(permits):",
        "tests/service/dispatch/test_decision_records.py -k waits_for_no_opt_out",
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
        'await _lock(tx, [*theirs, f"number/{statement.subject_id}"], now)',
        "await _lock(tx, theirs, now)",
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
        "        _tell_oldest([row.created_at for row in rows])\n",
        "        as_of = datetime.now(UTC) - self._skew\n        _tell_oldest([row.created_at for row in rows])\n",
        f"{COMMON} -k two_who_write",
    ),
    Mutant(
        "what a watermark stands on is read after the rows",
        OUTBOX,
        "        _tell_oldest([row.created_at for row in rows])\n",
        "        ceiling = await self._known(session)\n        _tell_oldest([row.created_at for row in rows])\n",
        f"{COMMON} -k stands_on",
    ),
    Mutant(
        "a denied message keeps number and text",
        "services/dispatch-svc/src/dispatch/gate/deciding.py",
        "        is_over = status in (Status.DENIED, Status.EXPIRED)\n",
        "        is_over = Reason.ERASED in reasons\n",
        "tests/service/dispatch/test_dispatch_pruning.py -k number_and_text_go",
    ),
    Mutant(
        "a watermark stands on what is known of another partition",
        OUTBOX,
        "        known = self.ceiling.get(partition)\n",
        "        known = max(self.ceiling.values(), default=None)\n",
        f"{RELAY} -k holds_no_other",
    ),
    Mutant(
        "while ids move, a watermark speaks for one partition's messages",
        "services/consent-svc/src/consent/service.py",
        "        if is_moving:\n",
        "        if partitions == 0:\n",
        "tests/service/consent/test_consent_intake.py -k says_more_than",
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
        "ORDER BY partition FOR UPDATE",
        "ORDER BY partition",
        f"{COMMON} -k batch_and_a_second",
    ),
    Mutant(
        "a watermark is believed although the row has a fault since",
        OFFSETS,
        "            AND o.fault IS NULL AND o.cleared_at",
        "            AND o.cleared_at",
        "tests/service/common/test_consumer.py -k by_the_row_as_it_is",
    ),
    Mutant(
        "a watermark from before a person trusted the log is believed",
        OFFSETS,
        " AND o.cleared_at IS NOT DISTINCT FROM n.cleared_at\n",
        "\n",
        "tests/service/common/test_consumer.py -k by_the_row_as_it_is",
    ),
    Mutant(
        "a watermark is stepped over from where the row was",
        OFFSETS,
        "            AND (o.next_offset, o.last_number, o.unseen) = (n.was_offset, n.was_number, n.was_unseen)\n",
        "",
        "tests/service/common/test_consumer.py -k by_the_row_as_it_is",
    ),
    Mutant(
        "a database that lost commits matches a row as it was known before",
        OFFSETS,
        "            if seen.next_offset >= self.reached.get(tp, 0)",
        "            if tp in marks",
        "tests/service/common/test_consumer.py -k by_the_row_as_it_is",
    ),
    Mutant(
        "watermarks are stepped over without the lock",
        BROKEN_LOGS,
        "ORDER BY partition FOR UPDATE",
        "ORDER BY partition",
        f"{COMMON} -k watermarks_of_a_partition",
    ),
    Mutant(
        "a record is handled again by who comes second",
        BATCHES,
        "first = reading.seen.next_offset",
        "first = 0",
        f"{COMMON} -k batch_and_a_second",
    ),
    Mutant(
        "a watermark goes back",
        OFFSETS,
        'BELIEVED = "greatest({known}, CASE WHEN {said} <= now() + {skew}::interval THEN {said} END)"',
        'BELIEVED = "coalesce(CASE WHEN {said} <= now() + {skew}::interval THEN {said} END, {known})"',
        f"{COMMON} -k goes_back",
    ),
    Mutant(
        "a bad record of one partition keeps back those read with it",
        CONSUMER,
        "        except (Poison, Hold, WentBack):\n            return None\n",
        "        except (Poison, Hold, WentBack):\n            return set(parts)\n",
        "tests/service/common/test_together.py -k buried",
    ),
    Mutant(
        "a frozen owner of a partition keeps back those read with it",
        OFFSETS,
        "at_once=len(tps) > 1",
        "at_once=False",
        "tests/service/common/test_together.py -k frozen",
    ),
    Mutant(
        "nobody hears that the work after a shared batch failed",
        CONSUMER,
        "            for tp, records in parts.items():\n                self._failed(",
        "            for tp, records in ():\n                self._failed(",
        "tests/service/common/test_together.py -k follows",
    ),
    Mutant(
        "partitions handled apart wait for each other",
        CONSUMER,
        "places = asyncio.Semaphore(self.subscription.at_once)",
        "places = asyncio.Semaphore(1)",
        "tests/service/common/test_together.py -k frozen_in",
    ),
    Mutant(
        "partitions read together step as the first of them",
        BATCHES,
        "self._received(reading, parts[tp], unwanted=unwanted) for tp, reading in fresh.items()",
        "self._received(next(iter(fresh.values())), parts[tp], unwanted=unwanted) for tp in fresh",
        "tests/service/common/test_together.py -k crash",
    ),
    Mutant(
        "a broker gathers the records of a topic that somebody waits for",
        "libs/common/src/common/kafka/fetching.py",
        "        return Wait(gathered_ms, GATHERED_BYTES) if gathered_ms else Wait(IDLE_MS)\n",
        "        return Wait(gathered_ms or IDLE_MS, GATHERED_BYTES)\n",
        "tests/unit/common/test_rests.py -k waits_long",
    ),
    Mutant(
        "a record after a pause gathers",
        "libs/common/src/common/kafka/fetching.py",
        "round(self.subscription.gather_s * 1000) if any_records else 0",
        "round(self.subscription.gather_s * 1000)",
        "tests/unit/common/test_rests.py -k waits_long",
    ),
    Mutant(
        "a record does not end the calm of its topic",
        "libs/common/src/common/kafka/fetching.py",
        "        if any_records or self._awake_until is None:\n",
        "        if self._awake_until is None:\n",
        "tests/unit/common/test_rests.py -k waits_long",
    ),
    Mutant(
        "an answer with fewer bytes than it says is read",
        "libs/common/src/common/kafka/fetching.py",
        "    if len(taken) != length:\n",
        "    if length < 0:\n",
        "tests/property/test_fetching_properties.py -k too_few",
    ),
    Mutant(
        "records do not gather",
        POLLING,
        "if 0 < many < wanted:",
        "if False:",
        "tests/unit/common/test_rests.py -k gather",
    ),
    Mutant(
        "records gather although more wait",
        POLLING,
        "if 0 < many < wanted:",
        "if 0 < many:",
        "tests/unit/common/test_rests.py -k gather",
    ),
    Mutant(
        "a read that ends within a partition leaves a batch of one record",
        POLLING,
        "or many < wanted:",
        "or many >= 0:",
        "tests/unit/common/test_reads.py -k brings",
    ),
    Mutant(
        "a read brings more messages than there is room for",
        POLLING,
        "self._weights.records(self.subscription.room) - many",
        "wanted",
        "tests/unit/common/test_reads.py -k room",
    ),
    Mutant(
        "a read waits for a rebalance with records in its hand",
        POLLING,
        "if more > 0 and not client._subscription.reassignment_in_progress:",
        "if more > 0:",
        "tests/unit/common/test_reads.py -k stays",
    ),
    Mutant(
        "records are read one by one where there is no room",
        SUBSCRIPTION,
        "(self.wanted or self.max_records)",
        "self.wanted",
        "tests/unit/common/test_reads.py -k cut",
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
        "found is not None and found.person == digits_of(keys.inner(subject_id)) and",
        "found is not None and",
        "tests/service/dispatch/test_decision_records.py -k stop_link",
    ),
    # --- a hostile caller: each is found by the machine alone
    Mutant(
        "hostile: an asserted opt-in takes back a STOP",
        LEDGER_RULES,
        "return asserted.reopening_rule is None or self.sender_id is None",
        "return False",
        HOSTILE,
    ),
    Mutant(
        "hostile: a caller's source may be Placet's own",
        "services/consent-svc/src/consent/bodies.py",
        "    if read in _RESERVED or read.startswith(_PREFIXES) or parts & _WORDS:\n",
        "    if not read and parts:\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: any token begins a reopening rule",
        "services/consent-svc/src/consent/senders/reopening.py",
        "    if not caller.names([sender.controller]):\n",
        "    if not caller.names([sender.sender_id]):\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: a link given to a caller opts in",
        "services/consent-svc/src/consent/page/api.py",
        "            whole=body.send or caller.everywhere,",
        "            whole=True,",
        HOSTILE,
    ),
    Mutant(
        "hostile: a STOP reaches no other sender of the controller",
        STATEMENT,
        'or sender.stop_scope == "sender")',
        'or sender.stop_scope != "nobody")',
        HOSTILE,
    ),
    Mutant(
        "hostile: STOP TOUT is for the code alone",
        TEXTED,
        'if message.erasure or meant.reach == "everyone" or not names:',
        "if message.erasure or not names:",
        HOSTILE,
    ),
    Mutant(
        "hostile: a STOP on a shared code is for the controller that wrote first",
        SHARED_CODES,
        "newest = max(wrote, default=None)",
        "newest = min(wrote, default=None)",
        HOSTILE,
    ),
    Mutant(
        "hostile: the gate asks for no consent",
        GATE_RULES,
        "        for against in consent_rule.denials(subject, request.sender_id, request.purpose, now):",
        "        for against in ():",
        HOSTILE,
    ),
    Mutant(
        "hostile: a free text is not looked at",
        ACCEPTING,
        "    found = findings_of(free) if free is not None else []\n",
        "    found: list[Finding] = []\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: a value is looked at without the text around the value",
        "libs/common/src/common/texts/template.py",
        "if start < span[1] and span[0] < end]",
        "if start <= span[0] and span[1] <= end]",
        HOSTILE,
    ),
    Mutant(
        "hostile: an author approves its own template",
        "services/campaign-svc/src/campaign/authors.py",
        "    return _folded(person) not in map(_folded, authors)\n",
        "    return True\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: an override has no audit",
        ACCEPTING,
        "        asked.audited = tuple(rules.named(finding) for finding in asked.written.overridden)\n",
        "        asked.audited = ()\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: own words may advertise",
        OWN_WORDS,
        "    if finding.rule in ADVERTISING:\n",
        '    if finding.rule == "reading_direction":\n',
        HOSTILE,
    ),
    Mutant(
        "hostile: the question to a person who has stopped says the purpose as worded",
        "services/consent-svc/src/consent/double_opt_in/requests.py",
        "    if question.after_stop:\n",
        "    if not sender.purposes:\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: another controller's name is free",
        "services/consent-svc/src/consent/senders/registry.py",
        "if owners[skeleton(getattr(sender, field))].controller_id != sender.controller]",
        "if not owners]",
        HOSTILE,
    ),
    Mutant(
        "hostile: a name that looks like another is another",
        NAMES,
        "for letter in spelt.translate(ALIKE) if letter.isalnum())",
        "for letter in spelt if letter.isalnum())",
        HOSTILE,
    ),
    Mutant(
        "hostile: a protected name is free",
        NAMES,
        '        return None if listed == "authorised" and authorised else listed\n',
        "        return None if listed else listed\n",
        HOSTILE,
    ),
    Mutant(
        "hostile: a sender that is known is everybody's",
        ORGANISATIONS,
        "return {one: owner.controller for one, owner in known.items() if owner.organisation == organisation}",
        "return {one: owner.controller for one, owner in known.items()}",
        HOSTILE,
    ),
    Mutant(
        "hostile: the limit of a number is doubled",
        "services/dispatch-svc/src/dispatch/accepting/rules.py",
        "had.hour >= limits.per_number_hour:",
        "had.hour >= 2 * limits.per_number_hour:",
        HOSTILE,
    ),
    Mutant(
        "hostile: two requests count one number at once",
        "services/dispatch-svc/src/dispatch/accepting/limiting.py",
        "await store.lock_counts(tx, caller.organisation, locked)",
        "locked.clear()",
        HOSTILE,
    ),
    # --- lanes
    Mutant(
        "a word with a capital behind a host hides the host",
        "libs/common/src/common/texts/findings.py",
        "            labels.pop()\n",
        "            return False\n",
        "tests/property/test_text_findings_properties.py",
    ),
    Mutant(
        "a value is looked at without the text around the value",
        "libs/common/src/common/texts/template.py",
        "if start < span[1] and span[0] < end]",
        "if start <= span[0] and span[1] <= end]",
        "tests/unit/common/test_text_templates.py tests/property/test_text_findings_properties.py",
    ),
    Mutant(
        "a retired template sends what waits",
        DECIDING,
        "        if candidate.template in known.retired:",
        "        if candidate.template in known.retired and not candidate.version:",
        "tests/service/dispatch/test_dispatch.py -k notice_waits",
    ),
    # --- limits
    Mutant(
        "a lease is not counted in the row of its limit",
        ALLOWANCES,
        "THEN excluded.taken ELSE a.taken + more END,",
        "THEN excluded.taken ELSE a.taken END,",
        "tests/service/common/test_allowances.py",
    ),
    Mutant(
        "a lease is larger than what is left",
        ALLOWANCES,
        "greatest(0, least({rest}, greatest($4, least($6, ({rest}) / 8))))",
        "greatest($4, least($6, ({rest}) / 8))",
        "tests/service/common/test_allowances.py",
    ),
    Mutant(
        "a late lease counts as a refusal of the limit",
        DECIDING,
        "reason, wait = Reason.NO_LEASE, SHORT_RECHECK",
        "wait = SHORT_RECHECK",
        LIMITS,
    ),
    Mutant(
        "a failed transaction keeps its charges",
        "services/dispatch-svc/src/dispatch/quotas/budget.py",
        "once_undone(tx, lambda: self._return([Charge(*each) for each in self._paid.items()]))",
        "assert tx",
        LIMITS,
    ),
    Mutant(
        "a failed commit gives back",
        DATABASE,
        "                    yield tx\n",
        "                    yield tx\n                    await tx.commit()\n",
        "tests/service/common/test_allowances.py",
    ),
    Mutant(
        "two requests take the last place of a number",
        "services/dispatch-svc/src/dispatch/accepting/store.py",
        "pg_advisory_xact_lock(hashtext('placet.numbers')",
        "pg_advisory_xact_lock_shared(hashtext('placet.numbers')",
        LIMITS,
    ),
    Mutant(
        "a denied message counts for its number",
        "services/dispatch-svc/src/dispatch/accepting/store.py",
        "m.status NOT IN ('denied', 'expired')",
        "m.status NOT IN ('expired')",
        LIMITS,
    ),
    Mutant(
        "a repeated request of a campaign is charged again",
        PIPELINE,
        "        give_back([d for d in decisions if d.candidate.message_id not in new])\n",
        "        give_back([])\n",
        LIMITS,
    ),
    Mutant(
        "concurrent repeats are charged apart",
        "services/dispatch-svc/src/dispatch/accepting/limiting.py",
        "    if key is not None:\n",
        "    if key is None:\n",
        LIMITS,
    ),
    Mutant(
        "each decision charges the message",
        DECIDING,
        "charged=candidate.charged or charged is not None,",
        "charged=False,",
        LIMITS,
    ),
    Mutant(
        "a message that waits for the next day leaves without a charge",
        DECIDING,
        "charged=candidate.charged or charged is not None,",
        "charged=True,",
        LIMITS,
    ),
    Mutant(
        "a message is charged without the mention that a gateway may append later",
        CLEARANCE,
        "said = longest_sent(found, content, candidate.category, senders[candidate.sender_id].stop_code)",
        "said = content",
        LIMITS,
    ),
    Mutant(
        "a refusal of the day before counts as the first of this day",
        DECIDING,
        "    if over.short or over.until <= now:\n",
        "    if over.short:\n",
        LIMITS,
    ),
    Mutant(
        "a campaign goes to a place closed by the limits",
        DECIDING,
        "flaw = flaw or Reason.PLACE_NOT_ALLOWED",
        "flaw = flaw or None",
        LIMITS,
    ),
    Mutant(
        "a denied message is charged",
        DECIDING,
        "        if not _is_charged_by(verdict):\n            return verdict, None\n",
        "",
        LIMITS,
    ),
    Mutant(
        "a sender is told the reasons that others' data explain",
        "libs/common/src/common/contracts/consent_rule.py",
        "return tuple(reason for reason in every if reason not in OF_OTHERS) or every",
        "return every",
        "tests/property/test_consent_rule_properties.py",
    ),
    Mutant(
        "a message to a person erased by others waits shorter than to an unknown person",
        "services/dispatch-svc/src/dispatch/gate/rules.py",
        "open_to_cure = {reason for reason in denials if reason not in OF_OTHERS}",
        "open_to_cure = set(denials)",
        "tests/property/test_decision_record_properties.py",
    ),
    Mutant(
        "a legal name of another organisation is free",
        "services/consent-svc/src/consent/senders/registry.py",
        """["legal_name"] * (owners[legal].organisation_id != sender.organisation_id)""",
        """["legal_name"] * False""",
        "tests/service/consent/test_registry.py",
    ),
    Mutant(
        "an opt-out is limited",
        "services/consent-svc/src/consent/calls.py",
        """require("consent:write", limited=False)""",
        """require("consent:write")""",
        "tests/service/consent/test_limited_calls.py",
    ),
    Mutant(
        "a claim widens the limits of its token",
        "libs/common/src/common/limits/__init__.py",
        "return min(stated, default=None)",
        "return max(stated, default=None)",
        "tests/unit/common/test_limits.py",
    ),
    # --- costs
    Mutant(
        "a place without a price in one edition costs what the other edition says",
        "libs/common/src/common/sms/prices.py",
        "            if price is None:\n                return None\n",
        "            if price is None:\n                continue\n",
        "tests/unit/common/test_prices.py",
    ),
    Mutant(
        "the pre-flight takes the price of the start",
        "services/campaign-svc/src/campaign/preflight/forecast.py",
        "            until=self.plan.timetable.ends_by,",
        "            until=self._opening(place),",
        "tests/unit/campaign/test_forecast.py tests/property/test_prices_properties.py",
    ),
    Mutant(
        "the STOP mention that the provider adds is not counted",
        DECIDING,
        "segments(sends.as_sent(content, candidate.category, sender.stop_code))",
        "segments(content)",
        "tests/service/dispatch/test_costs.py -k mention",
    ),
    Mutant(
        "a rejected message is charged",
        "services/dispatch-svc/src/dispatch/messages/events.py",
        'cost=of["cost"] if charged else None',
        'cost=of["cost"]',
        "tests/service/dispatch/test_costs.py",
    ),
    Mutant(
        "a message that had waited has no cost",
        MESSAGES,
        '"gateway", "facts", "shared_id"),\n    *("segments", "cost", "prices", "charged"),',
        '"gateway", "facts", "shared_id"),\n    *("segments", "charged"),',
        "tests/service/dispatch/test_costs.py -k waits",
    ),
    Mutant(
        "an erasure is claimed before its person is locked",
        "libs/common/src/common/privacy/erasing.py",
        "                await self.lock(tx, set(together.values()))\n",
        "                pass\n",
        "tests/service/consent/test_forgetting.py -k one_order",
    ),
    Mutant(
        "an unpriced message is free",
        "services/campaign-svc/src/campaign/results/statistics.py",
        """columns["cost"] if columns["unpriced"] else columns["cost"] or 0""",
        """columns["cost"] or 0""",
        "tests/service/campaign/test_statistics.py -k add_up",
    ),
    Mutant(
        "connections to a provider open all at once",
        CONNECTIONS,
        " or self._opening >= self._bounds.opening",
        "",
        f"{CONNECTION_TESTS} -k more_connections",
    ),
    Mutant(
        "a value may end its header and begin another",
        "services/dispatch-svc/src/dispatch/gateways/over_http.py",
        '            raise ValueError("a header has a control character")\n',
        "            pass\n",
        "tests/unit/dispatch/test_gateway_faults.py -k header",
    ),
    Mutant(
        "a cancelled submit ends as one that took too long",
        "services/dispatch-svc/src/dispatch/gateways/over_http.py",
        "                if not deadline.passed or task.uncancel() > before:\n                    raise\n",
        "",
        "tests/unit/dispatch/test_gateway_faults.py -k cancelled",
    ),
    Mutant(
        "an interim answer counts as the answer",
        "services/dispatch-svc/src/dispatch/gateways/over_http.py",
        "            while 100 <= message.code < 200 and message.code != 101:\n",
        "            while False:\n",
        "tests/unit/dispatch/test_gateway_faults.py -k framed",
    ),
    Mutant(
        "a message is written to a connection that the provider has closed",
        CONNECTIONS,
        "        return not asked.poll(0)\n",
        "        return True\n",
        f"{CONNECTION_TESTS} -k kept_connection",
    ),
    Mutant(
        "a service that stops closes a connection on which a callback arrives",
        "libs/common/src/common/web/server.py",
        "        await self._stop_listening()\n",
        "",
        "tests/service/common/test_kept_connections.py -k arriving",
    ),
    Mutant(
        "the reader takes a sister's STOP for the person's",
        f"{KEYWORDS}/grammar.py",
        'about_life(here, known) else "another"\n',
        "about_life(here, known) else None\n",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader takes a regretted STOP for a STOP",
        f"{KEYWORDS}/grammar.py",
        '        return "regret"\n',
        "        return None\n",
        f"{TABLE} -k with_its_concern",
    ),
    Mutant(
        "the reader takes a question about STOP for a STOP",
        f"{KEYWORDS}/grammar.py",
        '        return "question"\n',
        "        return None\n",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader holds whoever speaks of a bus stop",
        f"{KEYWORDS}/grammar.py",
        'return said.has("everyday") and',
        "return False and",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader loses a STOP where the clause speaks of an order too",
        f"{KEYWORDS}/grammar.py",
        'return said.has("everyday") and not said.has("traffic")',
        'return said.has("everyday")',
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader takes a mistake of the sender for a regret",
        f"{KEYWORDS}/grammar.py",
        " and known.enrolled.isdisjoint(each.clause)",
        "",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader stops one sender for every brand",
        f"{KEYWORDS}/grammar.py",
        "                return file\n    return None\n\n\ndef erasure",
        "                return None\n    return None\n\n\ndef erasure",
        f"{TABLE} -k all_brands",
    ),
    Mutant(
        "the reader erases because of a question",
        f"{KEYWORDS}/grammar.py",
        '"perhaps" if said.question or negated',
        '"perhaps" if negated',
        f"{TABLE} -k with_its_concern",
    ),
    Mutant(
        "the reader waves through a script that it cannot read",
        f"{KEYWORDS}/classifier.py",
        "        found = UNREAD\n",
        "        pass\n",
        f"{TABLE} -k known_word",
    ),
    Mutant(
        "the reader leaves Cyrillic letters in a Latin word",
        f"{KEYWORDS}/normal.py",
        "folded = MIXED.sub(lambda word: word.group().translate(DRAWN), folded)",
        "pass",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader waves through what is spelt as it sounds",
        f"{KEYWORDS}/classifier.py",
        "        or _sounded(said, exact, content, known)\n",
        "",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader finds STOP within Christophe",
        f"{KEYWORDS}/classifier.py",
        "found and (not before or not after or (before in known.known and after in known.known))",
        "found",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "the reader's likeness stops instead of holding",
        f"{KEYWORDS}/classifier.py",
        'LIKE = Finding("review",',
        'LIKE = Finding("stop",',
        "tests/unit/inbound/test_corpus.py",
    ),
    Mutant(
        "the reader drops a wish that is aimed at the writer, for a word of work",
        f"{KEYWORDS}/classifier.py",
        " and not aimed else",
        " else",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader lets another sentence's everyday things undo a wish",
        f"{KEYWORDS}/grammar.py",
        " and not _before_life(here, known)",
        "",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader waves through a thing that has a wish beside it",
        f"{KEYWORDS}/roles.py",
        '    if here.has("traffic"):\n        return False\n',
        "",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader believes mocking praise",
        f"{KEYWORDS}/roles.py",
        " and known.mocks.isdisjoint(told)",
        "",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader answers a STOP that does not work as a question about the word",
        f"{KEYWORDS}/roles.py",
        'here.has("meanings") and known.broken.isdisjoint(told)',
        'here.has("meanings")',
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader waves through two words with a negation",
        f"{KEYWORDS}/roles.py",
        "len(told) > PAIR and",
        "",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader stops where vous tells",
        f"{KEYWORDS}/classifier.py",
        " and not _told(within, place)",
        "",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader stops for a slogan",
        f"{KEYWORDS}/classifier.py",
        "    if _against(clause, first, known):",
        "    if False:",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader drops a doubt for a thing that is far",
        f"{KEYWORDS}/grammar.py",
        "end <= at < end + THING_REACH",
        "end <= at",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader waves through words beside our text as if they stopped",
        f"{KEYWORDS}/classifier.py",
        "            opt_out = None if _advert_and_more(said, i, 0) else opt_out\n",
        "            pass\n",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader takes a rule whose words stand in any order",
        f"{KEYWORDS}/matching.py",
        "            if all(any(word in group for word in after) for group in rule.groups[1:]):",
        "            if True:",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader drops a wish of the writer for an act of the family",
        f"{KEYWORDS}/roles.py",
        "        return known.objects.isdisjoint(before)\n",
        "        return True\n",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "the reader reads words without spaces as they are spelt alone",
        f"{KEYWORDS}/classifier.py",
        "isdisjoint((joined, bare, sound(bare)))",
        "isdisjoint((joined, bare))",
        f"{PARTS} -k parts_of_a_text",
    ),
    Mutant(
        "a reviewer reads a message that left after the text",
        "services/dispatch-svc/src/dispatch/messages/lists.py",
        "        AND coalesce(m.handed_off_at, m.decided_at) <= b.received_at\n",
        "",
        "tests/service/dispatch/test_before_reviews.py -k left_after",
    ),
    Mutant(
        "a reviewer reads a message of a sender with another code",
        "services/dispatch-svc/src/dispatch/messages/lists.py",
        "            OR NOT EXISTS (SELECT FROM sender AS o WHERE o.stop_code = b.code)\n",
        "            OR TRUE\n",
        "tests/service/dispatch/test_before_reviews.py -k last_three",
    ),
    Mutant(
        "the reader ignores what a rule of several words excludes",
        f"{KEYWORDS}/matching.py",
        "rule.unless.isdisjoint(words) and",
        "True and",
        f"{TABLE} -k domain_table",
    ),
    Mutant(
        "fillers loosen",
        f"{KEYWORDS}/classifier.py",
        "    said = [clause for clause in exact if clause]\n    if said and len(said[0]) == 1:",
        "    said = [[w for w in c if w not in known.fillers or w in known.confirm] for c in exact if c]\n"
        "    if said and len(said[0]) == 1:",
        f"{PARTS} -k fillers",
    ),
    Mutant(
        "the reader takes the question where a number is from for a STOP",
        f"{KEYWORDS}/classifier.py",
        'right[1] in ("source", "access")',
        "False",
        f"{PARTS} -k where_the_number",
    ),
    Mutant(
        "the reader loses a wish in another script",
        f"{KEYWORDS}/unread.py",
        "        return 2 * read < len(said)\n",
        "        return 5 * read > len(said)\n",
        "tests/property/test_keyword_scripts.py",
    ),
    Mutant(
        "the work of the reader grows with the square of the text",
        f"{KEYWORDS}/grammar.py",
        "clause[place + 1 : place + 1 + REACH]",
        "clause[place + 1 :]",
        "tests/property/test_keywords.py -k work_grows",
    ),
    Mutant(
        "accountable: the line of a decision has its own transaction",
        "libs/common/src/common/audit/accounting.py",
        "            if decided or begun or not _writers(scope).write_to(database):\n",
        "            if True:\n",
        f"{AUDIT} -k stand_together",
    ),
    Mutant(
        "accountable: a line is written even where the decision is rolled back",
        DATABASE,
        "                    await last(self, tx)\n",
        "                    async with self.engine.begin() as other:\n"
        "                        await last(self, other)\n",
        f"{AUDIT} -k stand_together",
    ),
    Mutant(
        "accountable: a stub needs no old seal",
        LEDGER_AUDIT,
        "            if ended and (seal is None or seal.sealed_at > long_ago):\n",
        "            if ended and seal is None:\n",
        f"{LEDGER_END} -k forged",
    ),
    Mutant(
        "accountable: an ended opt-out leaves a consent open unseen",
        LEDGER_AUDIT,
        "each.evidence_id not in newer",
        "False",
        f"{LEDGER_END} -k forged",
    ),
    Mutant(
        "accountable: a stub needs no erasure",
        LEDGER_AUDIT,
        "        if asked_at is None or asked_at < stub.recorded_at:\n",
        "        if asked_at is not None and asked_at < stub.recorded_at:\n",
        f"{LEDGER_END} -k forged",
    ),
    Mutant(
        "accountable: an opt-out ends as well",
        "services/consent-svc/src/consent/ledger/ended_store.py",
        "e.salt IS NULL AND e.kind <> 'opt_out' AND e.recorded_at < $3",
        "e.salt IS NULL AND e.recorded_at < $3",
        LEDGER_END,
    ),
    Mutant(
        "accountable: an entry ends before the term after its erasure",
        "services/consent-svc/src/consent/ledger/ended_store.py",
        "a.controller_id IS NULL AND a.requested_at >= $3",
        "a.controller_id IS NULL AND a.requested_at > $3 + interval '9 years'",
        f"{LEDGER_END} -k waits",
    ),
    Mutant(
        "keys: a field within JSON keeps the old key",
        "libs/common/src/common/privacy/resealing.py",
        "                told[name] = self.keys.seal(self.keys.unseal(told[name], context), context)\n",
        "                self.keys.unseal(told[name], context)\n",
        f"{FIELD_KEYS} -k review_and",
    ),
    Mutant(
        "keys: the chain of a person is hashed under the subject id",
        "services/consent-svc/src/consent/ledger/recorder.py",
        "chained(subject.subject_id, change.inner,",
        "chained(subject.subject_id, subject.subject_id,",
        OUTER_KEYS,
    ),
    Mutant(
        "keys: the evidence of a repeat is made of the subject id",
        "services/consent-svc/src/consent/calls.py",
        "inner = keys.inner(keys.subject_id(number))",
        "inner = keys.subject_id(number)",
        OUTER_KEYS,
    ),
    Mutant(
        "keys: an event names a person by an older outer key",
        "libs/common/src/common/keyring.py",
        "return self.current(text) if is_subject_id(text) else text",
        "return text",
        "tests/service/common/test_consumer.py -k outer_key",
    ),
    Mutant(
        "imports: a number of a file is bound to no person",
        "libs/common/src/common/keyring.py",
        "[(number, (OF_A_NUMBER + inner).encode()) for",
        "[(number, OF_A_NUMBER.encode()) for",
        "tests/unit/common/test_keyring.py -k by_the_inner_id",
    ),
    Mutant(
        "imports: a full outbox holds a worker for the whole pause",
        "services/consent-svc/src/consent/imports/worker.py",
        "await asyncio.wait_for(relayed.wait(), RELAY_S)",
        "await asyncio.wait_for(asyncio.Event().wait(), RELAY_S)",
        "tests/service/consent/test_imports.py -k ends_the_pause",
    ),
    Mutant(
        "imports: of pieces stored together all begin at the first line",
        "services/consent-svc/src/consent/imports/upload.py",
        "next_line=file.next_line + piece.lines,",
        "next_line=file.next_line,",
        "tests/service/consent/test_imports.py -k goes_on_where_it_broke",
    ),
    Mutant(
        "imports: a person named twice in a piece stays in a column",
        "services/consent-svc/src/consent/imports/statements.py",
        "if len({*people}) < len(people):",
        "if len({*people}) < 0:",
        "tests/property/test_import_columns_properties.py",
    ),
    Mutant(
        "imports: a line to be refused for its time goes into a column",
        "services/consent-svc/src/consent/imports/statements.py",
        "return None if reasons or at > self._received_at else at",
        "return None if reasons else at",
        "tests/property/test_import_columns_properties.py",
    ),
    Mutant(
        "imports: the times of a column are those of other lines",
        "services/consent-svc/src/consent/imports/statements.py",
        "numbers, times = [number for number, _ in said], [at for _, at in said]",
        "numbers, times = [number for number, _ in said], sorted(at for _, at in said)",
        "tests/property/test_import_columns_properties.py",
    ),
    Mutant(
        "imports: a row with too few cells goes into a column",
        "services/consent-svc/src/consent/imports/lines.py",
        " and start not in found.short\n        ]",
        "\n        ]",
        "tests/property/test_import_columns_properties.py",
    ),
    Mutant(
        "recorder: a person on record, met by the COPY, is not looked for",
        RECORDER,
        "alike, decisions, now, together=not look)",
        "alike, decisions, now, look=False, together=False)",
        "tests/service/consent/test_recorder.py -k columns",
    ),
    Mutant(
        "requests: a bad request keeps back the others of its record",
        BATCHES,
        "            if self.subscription.handle_rest is not None:\n",
        "            if False and self.subscription.handle_rest is not None:\n",
        "tests/service/dispatch/test_requests_together.py -k bad_request",
    ),
    Mutant(
        "requests: records buried in part stop the consumer",
        BATCHES,
        "self._poison_in_a_row[tp] = before + 1 if whole else 0",
        "self._poison_in_a_row[tp] = before + 1",
        f"{HEAVY} -k do_not_stop",
    ),
    Mutant(
        "requests: the next read steps over what the last one brought",
        CONSUMER,
        "step over them\n            self.placement.rest(client, tp, records[0].offset, 0.0)",
        "step over them\n            pass",
        f"{HEAVY} -k steps_over",
    ),
    Mutant(
        "requests: a stop waits for all that a read brought",
        CONSUMER,
        "if begun and (self.leaving or stop.is_set()):\n",
        "if begun and self.leaving:\n",
        f"{HEAVY} -k at_the_stop",
    ),
    Mutant(
        "requests: a hold of a batch does not keep back those behind",
        CONSUMER,
        "if tp not in went_well or not left[tp]:",
        "if not left[tp]:",
        f"{HEAVY} -k keeps_back",
    ),
    Mutant(
        "requests: a batch counts records",
        SUBSCRIPTION,
        "(room := room - self.weight(records[end])) >= 0",
        "(room := room - 1) >= 0",
        f"{HEAVY} -k as_many_messages",
    ),
    Mutant(
        "requests: one of another partition than its record's is decided",
        READING,
        "    if home != received.partition and subject_id not in received.moved:\n",
        "    if False:\n",
        f"{TOGETHER} -k bad_request",
    ),
    Mutant(
        "requests: a person whose id moves is refused",
        "libs/common/src/common/kafka/reading/records.py",
        "moved = NOBODY if current is event else _moved(people_of(event), people_of(current))",
        "moved = NOBODY",
        f"{TOGETHER} -k older_outer_key",
    ),
    Mutant(
        "requests: the lock of a person whose id moves is not taken",
        READING,
        "    requests.partitions.add(home)\n    requests.candidates",
        "    requests.candidates",
        f"{TOGETHER} -k older_outer_key",
    ),
    Mutant(
        "requests: of two with the same id the last counts",
        READING,
        "    requests.candidates.setdefault(candidate.message_id, candidate)\n",
        "    requests.candidates[candidate.message_id] = candidate\n",
        f"{TOGETHER} -k any_cut",
    ),
    Mutant(
        "requests: long texts make a record of any size",
        "services/campaign-svc/src/campaign/planning/asking.py",
        " or chars > EVENT_CHARS)",
        ")",
        f"{TOGETHER} -k no_more_than",
    ),
    Mutant(
        "recipients counted together count once",
        "services/campaign-svc/src/campaign/accounts.py",
        "{name: n * many for name, n in change.items()}",
        "change",
        "tests/property/test_accounts_properties.py -k counted_together",
    ),
    Mutant(
        "lookups: a batch of reports reads all recipients",
        RECIPIENTS,
        "FROM known AS k\n        WHERE r.ctid = k.at AND ",
        "FROM known AS k\n        WHERE r.ctid::text = k.at::text AND ",
        "tests/service/campaign/test_lookups.py",
    ),
    Mutant(
        "unwanted: a watermark is stepped over too",
        BATCHES,
        "            if unwanted and type_of(record) != Watermark.type:\n",
        "            if unwanted:\n",
        "tests/service/common/test_together.py -k does_not_want",
    ),
    Mutant(
        "unwanted: a batch that nobody wants is decoded",
        BATCHES,
        "unwanted = self.subscription.wants is not None and not await self.subscription.wants(tx)",
        "unwanted = False",
        "tests/service/common/test_together.py -k does_not_want",
    ),
    Mutant(
        "reports: a late report takes a newer report's place",
        RECIPIENTS,
        "AND version < t.version",
        "AND version <> t.version",
        REPORTS,
    ),
    Mutant(
        "reports: of a recipient the change that was read first counts",
        "services/campaign-svc/src/campaign/campaigns/reports.py",
        "            if known.version < change.version:\n",
        "            if known.version > change.version:\n",
        REPORTS,
    ),
    Mutant(
        "reports: all changes are of the first one's state",
        "services/campaign-svc/src/campaign/campaigns/reports.py",
        "            if state != last:",
        "            if last is None:",
        REPORTS,
    ),
    Mutant(
        "reports: the recipients of a report count as one",
        "services/campaign-svc/src/campaign/planning/progress.py",
        "receipt)] += many\n",
        "receipt)] += 1\n",
        REPORTS,
    ),
    Mutant(
        "reports: the instant of a DLR loses its microseconds",
        RECIPIENTS,
        "str((at - _EPOCH) // _MICROSECOND)",
        "str(round(at.timestamp()) * 1_000_000)",
        REPORTS,
    ),
    Mutant(
        "reports: a report on a recipient that the planner changes meanwhile is lost",
        RECIPIENTS,
        "        if sum(each.recipients for each in found) == rows[0][0]:\n            return moved\n",
        "        return moved\n",
        "tests/service/campaign/test_campaigns.py -k meanwhile",
    ),
    Mutant(
        "reports: a recipient moves from where it was before the planner's change",
        RECIPIENTS,
        "WHERE r.ctid = k.at AND r.status = k.status_before AND r.version = k.version_before",
        "WHERE r.campaign_id = k.campaign_id AND r.subject_id = k.subject_id",
        "tests/service/campaign/test_campaigns.py -k meanwhile",
    ),
    Mutant(
        "begins: a session that rolls back stays in its transaction",
        DATABASE,
        "    if not tx.in_transaction():\n        return False\n",
        "",
        "tests/service/common/test_database.py -k first_statement",
    ),
    Mutant(
        "begins: who is cancelled leaves a transaction to the next user",
        DATABASE,
        "        raw.terminate()  # cancelled half-way",
        "        pass  # cancelled half-way",
        "tests/service/common/test_database.py -k cancelled_leaves",
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
