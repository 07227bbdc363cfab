"""`placet proofs`: fetch proof bundles and their keys, and check them offline."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from placet_cli import ask, bundle, profile
from placet_cli.screen import FAULTY, AsJson, note, out, write_json

app = typer.Typer(help="Proofs of consents, to be checked on any machine.", no_args_is_help=True)
LINE_BYTES = 1024 * 1024
To = Annotated[Path, typer.Option("--to", help="The file to write.")]


@app.command()
def person(to: To, number: ask.Number = None) -> None:
    """Save all that is on record of a person."""
    with profile.client() as placet:
        placet.proofs.get(number=ask.number(number)).save(to)


@app.command()
def campaign(campaign_id: str, to: To) -> None:
    """Save the proofs of everyone to whom a message of a campaign was handed off."""
    with profile.client() as placet:
        placet.proofs.get_of_campaign(campaign_id).save(to)


@app.command()
def keys(to: To) -> None:
    """Save the published keys. Get them some other way than the bundles: a file cannot vouch for its own keys."""
    with profile.client() as placet:
        to.write_text(json.dumps(placet.keys.get()), encoding="utf-8")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The bundle.")],
    jwks: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The published keys (`placet proofs keys`).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle offline: chains, receipts, the signature over the file. Exits with 6 where it does not hold."""
    try:
        trusted = None if jwks is None else bundle.keys_of(json.loads(jwks.read_bytes()))
    except ValueError as error:
        raise typer.BadParameter(f"{jwks}: {error}") from None
    report = bundle.check(_lines(file), trusted)
    if as_json:
        write_json(
            {
                "holds": report.holds,
                "trusted_keys": trusted is not None,
                "signed_by": sorted(report.signed_by),
                "subjects": report.subjects,
                "entries": report.entries,
                "withheld": report.withheld,
                "messages": report.messages,
                "problems": [{"line": line, "why": why} for line, why in report.problems],
            }
        )
    else:
        out().print(
            f"{report.subjects} people, {report.entries} entries, {report.withheld} withheld,"
            f" {report.messages} messages; signed by {', '.join(sorted(report.signed_by)) or 'no known key'}"
        )
        for line, why in report.problems:
            out().print(f"line {line}: {why}")
        if trusted is None:
            note("checked against the keys in the file, which show no author: give --jwks")
        out().print("HOLDS" if report.holds else "DOES NOT HOLD")
    if not report.holds:
        raise typer.Exit(FAULTY)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines. A line longer than LINE_BYTES comes in pieces, and fails."""
    with path.open("rb") as file:
        while raw := file.readline(LINE_BYTES):
            yield raw
