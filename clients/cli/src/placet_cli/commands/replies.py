"""`placet replies`: what people wrote to a sender's codes, by meaning."""

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, rows

app = typer.Typer(help="Replies: texts of people to a sender's codes, without the words.", no_args_is_help=True)


@app.command("list")
def list_(
    sender: ask.Sender,
    since: ask.Since = None,
    until: ask.Until = None,
    limit: ask.Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the replies to a sender's codes, the newest first; without --since, of the last week."""
    with profile.client() as placet:
        found = placet.replies.list(
            sender_id=sender,
            since=ask.instant(since),
            until=ask.instant(until),
            limit=min(limit, ask.MOST_A_PAGE),
        )
        rows(found, ("received_at", "short_code", "subject_id", "intent", "state", "decided_at"), as_json, limit)
