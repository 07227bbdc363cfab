"""Tell `divide` the tables of consent-svc: a shard holds the ledger and the rights of its people.

The registry of senders is in each shard. Recounts, cursors and the shares of files say nothing of a person, and are in
each shard too. Files are in the shard of partition 0.

The seals stay in each part. Of an entry of another part's people the place stays. The place has the hash that is under
a seal. The place names nobody. So each part verifies every seal.
"""

from common.division import Divided

COPIES = """
WITH gone AS (
    DELETE FROM copy
    WHERE subject_id = ANY($1::text[])
    RETURNING copy_id
),
parts AS (
    DELETE FROM copy_part
    WHERE copy_id IN (SELECT copy_id FROM gone)
)
SELECT count(*) FROM gone
"""
ERASURES = """
WITH gone AS (
    DELETE FROM erasure
    WHERE subject_id = ANY($1::text[])
    RETURNING erasure_id
),
acknowledged AS (
    DELETE FROM erasure_ack
    WHERE erasure_id IN (SELECT erasure_id FROM gone)
)
SELECT count(*) FROM gone
"""


def moved(table: str) -> str:
    """Return the statement that leaves the bare places of the people's entries, or stubs, in the ledger."""
    return f"""
    WITH moved AS (
        INSERT INTO moved_entry (ordinal, recorded_at, hash)
        SELECT ordinal, recorded_at, hash FROM {table} WHERE subject_id = ANY($1::text[])
        RETURNING ordinal
    ),
    gone AS (
        DELETE FROM {table} AS e USING moved AS m WHERE e.ordinal = m.ordinal
        RETURNING 1
    )
    SELECT count(*) FROM gone
    """


TABLES = Divided(
    "consent",
    of_people=(
        "answer",
        "attributed_stop",
        "double_opt_in",
        "erasing",
        "handed_off",
        "listed",
        "preference_link",
        "rectification",
        "retention_due",
        "retroactive_message",
        "review",
        "subject",
    ),
    emptied={
        "copy": COPIES,
        "erasure": ERASURES,
        "evidence": moved("evidence"),
        "ended_entry": moved("ended_entry"),
    },
    of_all=("allowance", "import_file", "import_piece", "states_sum"),
)
