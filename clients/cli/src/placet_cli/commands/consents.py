"""`placet consents`: record an opt-in or an opt-out, ask who may be written to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, fields, rows
from placet_client import OMITTED

app = typer.Typer(help="Consents and opt-outs of people.", no_args_is_help=True)
SHOWN = ("subject_id", "evidence_id", "state", "changed", "effective", "held_by", "reopens_with")
AT_ONCE = 10_000  # numbers of one call
Source = Annotated[str, typer.Option(help="The channel of the proof, such as shop or desk.")]
Form = Annotated[str | None, typer.Option(help="The form, such as checkout; needs --form-version.")]
Version = Annotated[str | None, typer.Option(help="The version of the form.")]
Shown = Annotated[str | None, typer.Option(help="The words that the person agreed to.")]
Actor = Annotated[str | None, typer.Option(help="The agent who recorded the choice.")]


@app.command()
def give(
    sender: ask.Sender,
    purpose: ask.Purpose,
    source: Source,
    number: ask.Number = None,
    occurred_at: Annotated[datetime | None, typer.Option(help="When the person agreed. Default: now.")] = None,
    form_id: Form = None,
    form_version: Version = None,
    text_shown: Shown = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Record an opt-in with its proof: form and version, or the text shown."""
    at = (occurred_at or datetime.now(UTC)).astimezone(UTC)
    with profile.client() as placet:
        found = placet.consents.create(
            sender_id=sender,
            purpose=purpose,
            number=ask.number(number),
            occurred_at=at,
            evidence={
                "source": source,
                "form_id": form_id,
                "form_version": form_version,
                "text_shown": text_shown,
                "actor": actor,
            },
        )
    fields(found, SHOWN, as_json)


@app.command()
def stop(
    sender: Annotated[str, typer.Option("--sender", help="The sender that the opt-out is for.")],
    source: Source,
    number: ask.Number = None,
    purpose: Annotated[str | None, typer.Option(help="One purpose. Default: every purpose.")] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Record an opt-out."""
    with profile.client() as placet:
        found = placet.opt_outs.create(
            sender_id=sender, purpose=purpose, number=ask.number(number), evidence={"source": source, "actor": actor}
        )
    fields(found, SHOWN, as_json)


@app.command("opt-outs")
def opt_outs(
    sender: ask.Sender,
    purpose: Annotated[str | None, typer.Option(help="Only opt-outs that close this purpose.")] = None,
    since: ask.Since = None,
    until: ask.Until = None,
    as_json: AsJson = False,
) -> None:
    """List the opt-outs that reach a sender, the newest first."""
    with profile.client() as placet:
        found = placet.opt_outs.list(
            sender_id=sender,
            purpose=OMITTED if purpose is None else purpose,
            since=ask.instant(since),
            until=ask.instant(until),
        )
        rows(found, ("recorded_at", "subject_id", "reach", "purpose", "source", "in_force"), as_json)


@app.command()
def check(
    sender: ask.Sender,
    purpose: ask.Purpose,
    file: Annotated[Path, typer.Argument(help="Numbers, one a line; - for stdin.")] = Path("-"),
    as_json: AsJson = False,
) -> None:
    """Say for each number of a file, in its order, whether the sender may write, and why not."""
    numbers = ask.lines(file)
    with profile.client() as placet:
        found = [
            result
            for start in range(0, len(numbers), AT_ONCE)
            for result in placet.consents.check(
                sender_id=sender, purpose=purpose, numbers=numbers[start : start + AT_ONCE]
            ).results
        ]
    rows(found, ("subject_id", "state", "allowed", "reasons"), as_json)
