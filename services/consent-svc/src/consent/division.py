"""Tell `divide` the tables of consent-svc: a shard holds the ledger and the rights of its people.

The registry of senders is in each shard.
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

TABLES = Divided(
    "consent",
    of_people=(
        "answer",
        "attributed_stop",
        "double_opt_in",
        "erasing",
        "evidence",
        "handed_off",
        "listed",
        "preference_link",
        "rectification",
        "retention_due",
        "retroactive_message",
        "review",
        "subject",
    ),
    emptied={"copy": COPIES, "erasure": ERASURES},
    of_all=("allowance",),
)
