"""Tell `divide` the tables of campaign-svc: a shard holds the rows of senders of its organisations.

Senders, erasures, the hold, offsets, dead letters and counts of calls stay in each part.
"""

from common.division import AT_ONCE, Divided

_SENDERS = "(SELECT s.sender_id FROM sender AS s WHERE s.organisation_id = ANY($1::text[]))"
_OF_SENDER = f"t.sender_id IN {_SENDERS}"
_OF_ORGANISATION = "t.organisation_id = ANY($1::text[])"
_OF_CALLER = "split_part(t.caller, chr(31), 1) = ANY($1::text[])"  # `Caller.account`

# in this order: a row is found by its owner
_WHERE = {
    **dict.fromkeys(
        (
            "link",
            "campaign_link",
            "recipient",
            "campaign_accounts",
            "campaign_reason",
            "campaign_approval",
            "campaign_pre_flight",
            "test_send",
        ),
        f"t.campaign_id IN (SELECT c.campaign_id FROM campaign AS c WHERE c.sender_id IN {_SENDERS})",
    ),
    "segment_version": f"t.segment_id IN (SELECT g.segment_id FROM segment AS g WHERE g.sender_id IN {_SENDERS})",
    "template_version": f"t.template_id IN (SELECT e.template_id FROM template AS e WHERE e.sender_id IN {_SENDERS})",
    **dict.fromkeys(
        ("import_piece", "import_refusal"),
        f"t.import_id IN (SELECT i.import_id FROM contact_import AS i WHERE i.sender_id IN {_SENDERS})",
    ),
    "webhook_delivery": "t.webhook_id IN (SELECT w.webhook_id FROM webhook AS w"
    " WHERE w.organisation_id = ANY($1::text[]))",
    **dict.fromkeys(
        (
            "campaign",
            "segment",
            "template",
            "contact_import",
            "contact",
            "contact_attribute",
            "conversion",
            "opt_out",
            "sender_rule",
        ),
        _OF_SENDER,
    ),
    **dict.fromkeys(("webhook", "event", "event_feed"), _OF_ORGANISATION),
    "keyed_request": _OF_CALLER,
}
_LINES = "coalesce(t.told -> 'consents', '[]') || coalesce(t.told -> 'suppressions', '[]')"
_KEPT = (
    "(SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements(coalesce(told -> '{0}', '[]')) AS e"
    f" WHERE e ->> 'sender_id' IS NULL OR e ->> 'sender_id' NOT IN {_SENDERS})"
)
# As `consents.apply` keeps them: a state has no line of a sender of another shard, and one that says nothing no row.
_STRIPPED = (
    f"WITH found AS (SELECT t.ctid AS at FROM standing AS t WHERE EXISTS (SELECT FROM jsonb_array_elements({_LINES})"
    f" AS e WHERE e ->> 'sender_id' IN {_SENDERS}) LIMIT {AT_ONCE}),"
    " gone AS (UPDATE standing SET told = told || jsonb_build_object("
    f"'consents', {_KEPT.format('consents')}, 'suppressions', {_KEPT.format('suppressions')})"
    " WHERE ctid = ANY(ARRAY(SELECT at FROM found)) RETURNING 1) SELECT count(*) FROM gone"
)
_SAYS_NOTHING = (
    "cardinality($1::text[]) > 0 AND t.told -> 'consents' = '[]' AND t.told -> 'suppressions' = '[]'"
    " AND NOT (t.told @> '{\"erased\": true}' OR t.told @> '{\"held\": true}' OR t.told @> '{\"unreadable\": true}')"
)


def _deleted(table: str, where: str) -> str:
    return (
        f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT t.ctid FROM {table} AS t WHERE {where}"
        f" LIMIT {AT_ONCE})) RETURNING 1) SELECT count(*) FROM gone"
    )


TABLES = Divided(
    "campaign",
    of_people=(),
    by_place={
        **{table: _deleted(table, where) for table, where in _WHERE.items()},
        "lines of standing": _STRIPPED,
        "standing": _deleted("standing", _SAYS_NOTHING),
    },
    owners="SELECT organisation_id FROM sender UNION SELECT organisation_id FROM event_feed"
    " UNION SELECT organisation_id FROM webhook UNION SELECT split_part(caller, chr(31), 1) FROM keyed_request",
    left={
        "the count of wide partitions changes: let the relay end the change first": "SELECT 1 FROM widening"
        " WHERE packed <> published"
    },
)
