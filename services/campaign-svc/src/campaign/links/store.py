"""Own the tables of tracked links: a campaign's targets, and each person's link."""

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint, Table, Text, text

from campaign.schema import instant, metadata

campaign_link = Table(
    "campaign_link",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("place", Integer, nullable=False),  # of the target in the texts, from 1
    Column("target", Text, nullable=False),
    PrimaryKeyConstraint("campaign_id", "place"),
)


link = Table(
    "link",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("token", Text, nullable=False),
    Column("clicks", Integer, nullable=False, server_default=text("0")),
    instant("first_clicked_at", nullable=True),
    instant("last_clicked_at", nullable=True),
    PrimaryKeyConstraint("campaign_id", "subject_id", "place"),
    Index("link_token_ix", "token", unique=True),
)
