"""Tell `divide` the tables of inbound-svc: a shard holds the MOs, parts and reviews of its people.

DLRs and nonces stay in each part until their retention ends: the journal has a hash of each alone, which does not say
whose shard a repeat goes to, and holds nothing of a person.
"""

from common.division import Divided

# Of a callback that people of several parts share, each part loses the raw body, which names people of others.
EMPTIED = """
WITH gone AS (
    DELETE FROM callback_item
    WHERE subject_id = ANY($1::text[])
    RETURNING callback_id
),
theirs AS (
    SELECT DISTINCT g.callback_id AS id, EXISTS (
        SELECT FROM callback_item AS i
        WHERE i.callback_id = g.callback_id AND i.subject_id <> ALL($1::text[])
    ) AS is_shared
    FROM gone AS g
),
emptied AS (
    UPDATE callback SET body = NULL
    WHERE id IN (SELECT id FROM theirs WHERE is_shared)
),
ended AS (
    DELETE FROM callback
    WHERE id IN (SELECT id FROM theirs WHERE NOT is_shared)
)
SELECT count(*) FROM gone
"""

TABLES = Divided(
    "inbound",
    of_people=("part", "review", "erasing"),
    emptied={"callback_item": EMPTIED},
    of_all=("allowance",),
)
