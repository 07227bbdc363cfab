"""`placet templates`: texts of transactional and service messages, approved by a second person."""

from typing import Annotated

import typer

from placet_cli import profile
from placet_cli.screen import AsJson, fields, note, out, printable, rows

app = typer.Typer(help="Templates of transactional and service messages.", no_args_is_help=True)
SHOWN = ("template_id", "sender_id", "name", "category", "language")
VERSION = ("number", "state", "written_by", "written_at", "approved_by", "approved_at")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List templates."""
    with profile.client() as placet:
        rows(placet.templates.list(), SHOWN, as_json)


@app.command()
def show(template_id: str, as_json: AsJson = False) -> None:
    """Show a template with its versions."""
    with profile.client() as placet:
        found = placet.templates.get(template_id)
    fields(found, SHOWN, as_json)
    if not as_json:
        rows(found.versions, VERSION, as_json)


@app.command()
def approve(
    template_id: str,
    number: int,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, and acknowledge every finding.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a version's text and findings, ask, and approve the version."""
    with profile.client() as placet:
        version = next((each for each in placet.templates.get(template_id).versions if each.number == number), None)
        if version is None:
            raise typer.BadParameter(f"the template has no version {number}")
        if not yes:
            out().print(printable(version.text))
            if version.findings:
                rows(version.findings, [*type(version.findings[0]).model_fields], as_json=False)
            typer.confirm("Approve, and acknowledge each finding?", abort=True, err=True)
        found = placet.templates.approve_version(
            template_id, number, acknowledge=[each.id for each in version.findings]
        )
    if as_json:
        fields(found, SHOWN, as_json)
    else:
        note(f"version {number} is approved")


@app.command()
def retire(
    template_id: str,
    version: Annotated[int | None, typer.Option(help="One version. Default: every version so far.")] = None,
) -> None:
    """Retire a version: no message leaves from it any more."""
    with profile.client() as placet:
        placet.templates.retire(template_id, version=version)
    note("retired")
