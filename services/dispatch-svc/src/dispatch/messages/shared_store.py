"""The table `shared_record`: the part of decision records that many messages share. The caller owns the transaction."""

from collections.abc import Sequence
from uuid import UUID

from msgspec import structs
from sqlalchemy import Column, Index, Table, Text, Uuid

from dispatch.messages.row import MessageRow, parted, shared_id
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


def parted_rows(rows: Sequence[MessageRow]) -> tuple[list[MessageRow], tuple[list[UUID], list[str]]]:
    """Return the rows with their own parts of the decision records, and the values of `with_shared`."""
    found: list[MessageRow] = []
    contents: dict[UUID, str] = {}
    for row in rows:
        shared, own = parted(row.facts)
        named = shared_id(shared) if shared else None
        if shared and named:
            contents[named] = shared
        found.append(structs.replace(row, facts=own, shared_id=named))
    return found, (list(contents), list(contents.values()))


def with_shared(place: int) -> str:
    """Return the SQL that adds shared parts, to stand before a statement. `place`: of the first of two parameters."""
    return (
        "WITH shared AS (INSERT INTO shared_record (id, content) SELECT v.id, v.content"
        f" FROM unnest(${place}::uuid[], ${place + 1}::text[]) AS v(id, content)"
        " WHERE NOT EXISTS (SELECT FROM shared_record AS s WHERE s.id = v.id))"
    )
