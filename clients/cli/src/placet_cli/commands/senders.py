"""`placet senders`: the registry of senders."""

from pathlib import Path
from typing import Annotated

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, fields, rows

app = typer.Typer(help="Senders: a brand with its legal entity, its name and its STOP code.", no_args_is_help=True)
SHOWN = (
    "sender_id", "version", "brand", "legal_name", "contact", "country", "oadc", "stop_code", "stop_code_class",
    "controller", "stop_scope", "reachable_in",
)  # fmt: skip
File = Annotated[Path, typer.Argument(help="The sender as JSON, as the API takes a sender; - for stdin.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the senders of the login, by id."""
    with profile.client() as placet:
        rows(placet.senders.list(), ("sender_id", "version", "brand", "legal_name", "oadc", "stop_code"), as_json)


@app.command()
def show(sender_id: str, as_json: AsJson = False) -> None:
    """Show a sender."""
    with profile.client() as placet:
        fields(placet.senders.get(sender_id), SHOWN, as_json)


@app.command()
def create(file: File, as_json: AsJson = False) -> None:
    """Register a sender."""
    with profile.client() as placet:
        fields(placet.senders.create(**ask.body(file)), SHOWN, as_json)


@app.command()
def update(sender_id: str, file: File, as_json: AsJson = False) -> None:
    """Replace a sender's registration; each version stays on record."""
    with profile.client() as placet:
        fields(placet.senders.update(sender_id, **{**ask.body(file), "sender_id": sender_id}), SHOWN, as_json)


@app.command()
def versions(sender_id: str, as_json: AsJson = False) -> None:
    """List the versions of a sender."""
    with profile.client() as placet:
        rows(placet.senders.list_versions(sender_id), ("version", "brand", "legal_name", "oadc", "stop_code"), as_json)
