"""`placet contacts`: the contacts of a sender."""

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, rows

app = typer.Typer(help="Contacts: people of a sender's list, with their attributes.", no_args_is_help=True)


@app.command("list")
def list_(sender: ask.Sender, limit: ask.Limit = 20, as_json: AsJson = False) -> None:
    """List the contacts of a sender, without their numbers."""
    with profile.client() as placet:
        found = placet.contacts.list(sender_id=sender, limit=min(limit, ask.MOST_A_PAGE))
        rows(found, ("subject_id", "territory", "attributes", "created_at", "updated_at"), as_json, limit)
