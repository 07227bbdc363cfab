"""Keep the senders published by consent-svc and their STOP codes, to find texts to a code that no sender has.

Such a STOP waits for a person, and marketing to its author waits too: the code may be mistyped in an account, or its
sender may not be registered yet. Without any sender known here, as before the first one, no STOP waits: consent-svc
stops every sender.
"""

from collections.abc import Collection

from sqlalchemy import Column, DateTime, Index, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from common.kafka.subscription import After, Received, Subscription
from inbound.store import metadata

ARRIVE_WITHIN_S = 2.0  # a sender registered a moment ago is still on the topic

sender_code = Table(
    "sender_code",  # all ever: a STOP may answer an old message
    metadata,
    Column("code", Text, nullable=False),
    Column("controller", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),  # earlier texts to the code are not the controller's
    PrimaryKeyConstraint("code", "controller"),
)

sender = Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("organisation_id", Text, nullable=False),  # neither this nor the controller ever changes
    Column("controller", Text, nullable=False),
    Index("sender_organisation_ix", "organisation_id"),
    Index("sender_controller_ix", "controller"),
)


def subscription() -> Subscription:
    return Subscription("inbound.registry", SENDERS, apply)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Add the code of each sender's controller; the first row stays, so that a repeated event changes nothing."""
    told = [(received.event, received.published_at) for received in batch if isinstance(received.event, SenderChanged)]
    if told:
        await tx.execute(
            text(
                "WITH told AS (SELECT * FROM unnest(CAST(:senders AS text[]), CAST(:organisations AS text[]),"
                " CAST(:controllers AS text[]), CAST(:codes AS text[]), CAST(:since AS timestamptz[]))"
                " WITH ORDINALITY AS t(sender_id, organisation_id, controller, code, since, place)),"
                " known AS (INSERT INTO sender (sender_id, organisation_id, controller)"
                " SELECT sender_id, organisation_id, controller FROM told ORDER BY place ON CONFLICT DO NOTHING)"
                " INSERT INTO sender_code (code, controller, since)"
                " SELECT code, controller, since FROM told ORDER BY place ON CONFLICT DO NOTHING"
            ),
            {
                "senders": [event.sender_id for event, _ in told],
                "organisations": [event.organisation_id for event, _ in told],
                "controllers": [event.controller_id for event, _ in told],
                "codes": [event.stop_code for event, _ in told],
                "since": [published_at for _, published_at in told],
            },
        )
    return None


async def senders_of(tx: AsyncConnection, controller: str) -> frozenset[str]:
    """Return the senders of a controller."""
    rows = await tx.execute(text("SELECT sender_id FROM sender WHERE controller = :id"), {"id": controller})
    return frozenset(rows.scalars())


async def controllers_of(tx: AsyncConnection, codes: Collection[str]) -> dict[str, frozenset[str]]:
    """Return, by code, the controllers of its senders, ever."""
    rows = await tx.execute(
        text(
            "SELECT code AS c, array_agg(controller) AS controllers FROM sender_code"
            " WHERE code = ANY(CAST(:codes AS text[])) GROUP BY code"
        ),
        {"codes": sorted(codes)},
    )
    return {row.c: frozenset(row.controllers) for row in rows}
