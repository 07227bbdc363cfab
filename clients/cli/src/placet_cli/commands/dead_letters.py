"""`placet dead-letters`: records that a service set aside."""

import os
from typing import Annotated, Literal

import typer

from placet_cli import profile
from placet_cli.screen import AsJson, note, out, rows, write_json
from placet_client.request import Service

app = typer.Typer(help="Records set aside by a service, because no version can read them.", no_args_is_help=True)
SHOWN = ("id", "topic", "partition", "offset", "type", "reason", "state", "buried_at")
At = Annotated[Service, typer.Option("--service", help="The service.")]


@app.command("list")
def list_(
    service: Annotated[Service | None, typer.Option(help="One service. Default: all of which a URL is known.")] = None,
    state: Annotated[
        Literal["open", "asked", "replayed", "discarded", "gone"], typer.Option(help="Letters in this state.")
    ] = "open",
    as_json: AsJson = False,
) -> None:
    """List dead letters."""
    with profile.client() as placet:
        for each in [service] if service else profile.urls(profile.load(), os.environ):
            letters = placet.dead_letters.list(each, state=state)
            if as_json:
                for letter in letters:
                    write_json({"service": each, **letter.model_dump(mode="json")})
            else:
                out().print(f"{each}-svc")
                rows(letters, SHOWN, as_json)


@app.command()
def replay(service: At, letter_id: int) -> None:
    """Have a worker handle the record again."""
    with profile.client() as placet:
        note(f"{letter_id} is {placet.dead_letters.decide(service, letter_id, 'replay').state}")


@app.command()
def discard(
    service: At, letter_id: int, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Give a record up for good."""
    if not yes:
        typer.confirm(f"Give up record {letter_id} of {service}-svc for good?", abort=True, err=True)
    with profile.client() as placet:
        note(f"{letter_id} is {placet.dead_letters.decide(service, letter_id, 'discard').state}")
