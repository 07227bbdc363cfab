"""The table `shared_record`: the part of decision records that many messages share. The caller owns the transaction."""

from sqlalchemy import Column, Index, Table, Text, Uuid

from dispatch.schema import metadata

Table(
    # Nothing of a person, some hundreds of rows for ever. The index is not unique: no decision waits for another that
    # adds the row, and a second row harms nothing.
    "shared_record",
    metadata,
    Column("id", Uuid, nullable=False),  # `shared_id`
    Column("content", Text, nullable=False),
    Index("shared_record_id_ix", "id"),
)


def adds_shared(place: int) -> str:
    """Return the SQL that adds shared parts, a query of a WITH. `place`: of the first of two parameters."""
    return (
        "shared AS (INSERT INTO shared_record (id, content) SELECT v.id, v.content"
        f" FROM unnest(${place}::uuid[], ${place + 1}::text[]) AS v(id, content)"
        " WHERE NOT EXISTS (SELECT FROM shared_record AS s WHERE s.id = v.id))"
    )
