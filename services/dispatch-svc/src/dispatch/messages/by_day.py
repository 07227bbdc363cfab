"""Find the messages of people by the ledger's index of days and people. Pure.

A subject id is random: in an index that begins with the subject id, each message touches another page, and a large
ledger leaves the buffers. The index `message_subject_ix` begins with the message's day, so inserts touch the part of
one day. A reader looks day by day, through the days that the ledger has.

The day is that of the last decision, or of the request before the first decision. A statement that changes
`decided_at` changes `due_at` too, so the day costs the usual outcome nothing (ADR 0044). The index has a hash of the
subject id: a third of the bytes.
"""


def day_of(row: str) -> str:
    """Return the SQL of a message's day, as in the index."""
    return f"((coalesce({row}decided_at, {row}requested_at) AT TIME ZONE 'UTC')::date)"


def person_of(subject_id: str) -> str:
    """Return the SQL of a person's hash, as in the index. Two people may share a hash."""
    return f"hashtext({subject_id})"


def hashes_of(people: str) -> str:
    """Return the SQL of an array with the hash of each person of the array `people`, in the same order."""
    return f"ARRAY(SELECT {person_of('w.who')} FROM unnest({people}) WITH ORDINALITY AS w(who, place) ORDER BY w.place)"


def of_people(people: str, *, since: str | None = None) -> str:
    """Return the SQL condition that the message `m` is of one of these people. `people`: SQL of an array.

    `since`: SQL of an instant. The condition then holds of every message requested or handed off at the instant or
    later, and of some older ones: a day is never more than a day before the request or the hand-off, because a hand-off
    follows its decision within a permit, and a decision its request. A list of days, not a range of them: one request
    of a wrong clock would make the range long.

    The conditions on `m` apply afterwards, so no other index tempts the planner. A transaction that knew the ledger
    empty plans anew (`plan_now`).
    """
    begins = f" WHERE {day_of('f.')} >= (CAST({since} AS timestamptz) AT TIME ZONE 'UTC')::date - 1" if since else ""
    return (
        "m.message_id = ANY(ARRAY(WITH RECURSIVE kept(day) AS ("
        f"(SELECT {day_of('f.')} FROM message AS f{begins} ORDER BY {day_of('f.')} LIMIT 1)"
        f" UNION ALL SELECT (SELECT {day_of('f.')} FROM message AS f WHERE {day_of('f.')} > kept.day"
        f" ORDER BY {day_of('f.')} LIMIT 1) FROM kept WHERE kept.day IS NOT NULL)"
        f" SELECT theirs.message_id FROM kept CROSS JOIN unnest({people}) AS person(subject_id) CROSS JOIN LATERAL"
        f" (SELECT t.message_id FROM message AS t WHERE {day_of('t.')} = kept.day"
        f" AND {person_of('t.subject_id')} = {person_of('person.subject_id')}"
        " AND t.subject_id = person.subject_id OFFSET 0) AS theirs))"
    )
