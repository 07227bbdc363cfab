"""`placet messages`: the messages of a sender, and what became of each."""

from typing import Annotated, Literal
from uuid import UUID

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, fields, rows
from placet_client import OMITTED

app = typer.Typer(help="Messages: of campaigns, codes and notices, each with its decision.", no_args_is_help=True)
LISTED = ("requested_at", "message_id", "category", "status", "receipt", "campaign_id", "subject_id")
SHOWN = ("message_id", "status", "reasons", "requested_at", "decided_at", "handed_off_at", "receipt", "receipt_at")
Status = Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"]


@app.command("list")
def list_(
    sender: ask.Sender,
    campaign: Annotated[str | None, typer.Option(help="The messages of one campaign.")] = None,
    status: Annotated[Status | None, typer.Option(help="Messages in this state.")] = None,
    since: ask.Since = None,
    until: ask.Until = None,
    limit: ask.Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the messages of a sender, the newest first; without --since, of the last week."""
    with profile.client() as placet:
        found = placet.messages.list(
            sender_id=sender,
            campaign_id=OMITTED if campaign is None else campaign,
            status=OMITTED if status is None else status,
            since=ask.instant(since),
            until=ask.instant(until),
            limit=min(limit, ask.MOST_A_PAGE),
        )
        rows(found, LISTED, as_json, limit)


@app.command()
def show(message_id: UUID, as_json: AsJson = False) -> None:
    """Show a message with its decision."""
    with profile.client() as placet:
        fields(placet.messages.get(message_id), SHOWN, as_json)
