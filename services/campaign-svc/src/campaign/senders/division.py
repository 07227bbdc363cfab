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
_OWN_LINES = (
    "(SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements(coalesce(t.told -> '{0}', '[]')) AS e"
    f" WHERE e ->> 'sender_id' IS NULL OR e ->> 'sender_id' NOT IN {_SENDERS})"
)
_OWN = (
    "t.told || jsonb_build_object("
    f"'consents', {_OWN_LINES.format('consents')}, 'suppressions', {_OWN_LINES.format('suppressions')})"
)
# As `consents.apply` keeps them: a state has no line of a sender of another shard, and one that says nothing no row.
_SAYS = (
    "(own @> '{\"erased\": true}' OR own @> '{\"held\": true}' OR own @> '{\"unreadable\": true}'"
    " OR own -> 'consents' <> '[]' OR own -> 'suppressions' <> '[]')"
)
_STANDING = (
    f"WITH page AS MATERIALIZED (SELECT t.subject_id, t.told, {_OWN} AS own FROM standing AS t"
    " WHERE t.subject_id > $2 ORDER BY t.subject_id LIMIT $3),"
    " gone AS (DELETE FROM standing AS t"
    f" WHERE t.subject_id = ANY(ARRAY(SELECT subject_id FROM page WHERE NOT {_SAYS})) RETURNING 1),"
    f" stripped AS (UPDATE standing AS t SET told = {_OWN}"
    f" WHERE t.subject_id = ANY(ARRAY(SELECT subject_id FROM page WHERE {_SAYS} AND own <> told)) RETURNING 1)"
    " SELECT (SELECT max(subject_id) FROM page), (SELECT count(*) FROM gone) + (SELECT count(*) FROM stripped)"
)


def _deleted(table: str, where: str) -> str:
    return (
        f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT t.ctid FROM {table} AS t WHERE {where}"
        f" LIMIT {AT_ONCE})) RETURNING 1) SELECT count(*) FROM gone"
    )


TABLES = Divided(
    "campaign",
    of_people=(),
    by_place={table: _deleted(table, where) for table, where in _WHERE.items()},
    walked={"standing": _STANDING},
    owners="SELECT organisation_id FROM sender UNION SELECT organisation_id FROM event_feed"
    " UNION SELECT organisation_id FROM webhook UNION SELECT split_part(caller, chr(31), 1) FROM keyed_request",
    left={
        "the count of wide partitions changes: let the relay end the change first": "SELECT 1 FROM widening"
        " WHERE packed <> published"
    },
)
