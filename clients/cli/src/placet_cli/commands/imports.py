"""`placet imports`: files of consents, suppressions and contacts, with a bar that goes on after a cut.

The Idempotency-Key of an import derives from its terms and its bytes: the same command opens the same import, asks how
much has arrived, and sends the rest.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from placet_cli import ask, profile
from placet_cli.screen import FAULTY, AsJson, fields, note, notes, rows
from placet_client import OMITTED

app = typer.Typer(help="Files of consents, suppression lists and contacts.", no_args_is_help=True)
CONSENTS = ("import_id", "status", "lines", "created", "unchanged", "outvoted", "refused", "reasons")
CONTACTS = ("import_id", "status", "lines", "created", "updated", "duplicates", "refused", "reasons")
TRIED = (
    "file_refused", "charset", "delimiter", "columns", "unknown_columns", "first_lines", "lines", "refused", "reasons",
    "refusals",
)  # fmt: skip
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV with a header row, or NDJSON.")]
Of = Annotated[Literal["consents", "contacts"], typer.Option(help="Which kind of import.")]
Try = Annotated[
    bool,
    typer.Option("--dry-run", help="Read the file and store nothing: the first lines as read, columns, refusals."),
]
Zone = Annotated[str | None, typer.Option(help="The zone of local dates, such as Europe/Paris.")]
DateOrder = Annotated[
    Literal["day_first", "month_first"] | None, typer.Option(help="Of dates such as 03/11/2026; else they are refused.")
]
Ignore = Annotated[bool, typer.Option("--ignore-columns", help="Leave out columns of unknown titles.")]
DRY_RUN_BYTES = 4 * 1024 * 1024
Again = Annotated[bool, typer.Option("--again", help="Import a file anew that was imported before.")]


@app.command()
def contacts(
    sender: ask.Sender, file: File, again: Again = False, dry_run: Try = False, as_json: AsJson = False
) -> None:
    """Import contacts. After a cut, run the same command again: it goes on where the file broke."""
    key = key_of(file, again, "contacts", sender)
    with profile.client() as placet:
        opened = placet.contact_imports.create(sender_id=sender, idempotency_key=key)
        if dry_run:
            _tried(placet.contact_imports.dry_run(opened.import_id, file=beginning_of(file)), as_json)
            return
        done = _followed(placet.contact_imports, opened.import_id, file)
    fields(done, CONTACTS, as_json)
    if done.status == "failed":
        raise typer.Exit(FAULTY)


@app.command()
def consents(
    sender: ask.Sender,
    purpose: ask.Purpose,
    source: Annotated[str, typer.Option(help="The channel of the proof, such as old-crm.")],
    file: File,
    form_id: Annotated[str | None, typer.Option(help="The form, for lines without one.")] = None,
    form_version: Annotated[str | None, typer.Option(help="Its version, for lines without one.")] = None,
    time_zone: Zone = None,
    date_order: DateOrder = None,
    ignore_columns: Ignore = False,
    again: Again = False,
    dry_run: Try = False,
    as_json: AsJson = False,
) -> None:
    """Import opt-ins, each with a date of its own. After a cut, run the same command again."""
    evidence = {"source": source, "form_id": form_id, "form_version": form_version}
    _imported(
        file,
        again,
        as_json,
        dry_run=dry_run,
        kind="consents",
        sender_id=sender,
        purpose=purpose,
        evidence={name: value for name, value in evidence.items() if value is not None},
        **_dated(time_zone, date_order, ignore_columns),
    )


@app.command()
def suppressions(
    source: Annotated[str, typer.Option(help="The list's origin, such as national-list.")],
    file: File,
    sender: Annotated[str | None, typer.Option(help="The sender. Default: every sender (platform operator).")] = None,
    purpose: Annotated[str | None, typer.Option(help="One purpose. Default: every purpose.")] = None,
    occurred_at: Annotated[datetime | None, typer.Option(help="The date of the list. Default: now.")] = None,
    time_zone: Zone = None,
    date_order: DateOrder = None,
    ignore_columns: Ignore = False,
    again: Again = False,
    dry_run: Try = False,
    as_json: AsJson = False,
) -> None:
    """Import a suppression list. After a cut, run the same command again."""
    more: dict[str, Any] = {"purpose": purpose} if purpose is not None else {}
    if occurred_at is not None:
        more["occurred_at"] = occurred_at.astimezone().isoformat()
    more |= _dated(time_zone, date_order, ignore_columns)
    terms = {"kind": "suppressions", "sender_id": sender, "evidence": {"source": source}}
    _imported(file, again, as_json, dry_run=dry_run, **terms, **more)


@app.command("list")
def list_(of: Of = "consents", sender: ask.OfSender = None, limit: ask.Limit = 20, as_json: AsJson = False) -> None:
    """List imports, the newest first."""
    listed = ("import_id", "created_at", "sender_id", "status", "lines", "created", "refused")
    of_sender, size = OMITTED if sender is None else sender, min(limit, ask.MOST_A_PAGE)
    with profile.client() as placet:
        if of == "contacts":
            rows(placet.contact_imports.list(sender_id=of_sender, limit=size), listed, as_json, limit)
        else:
            found = placet.consent_imports.list(sender_id=of_sender, limit=size)
            rows(found, (*listed, "kind"), as_json, limit)


@app.command()
def show(
    import_id: str,
    of: Of = "consents",
    as_json: AsJson = False,
) -> None:
    """Show how far an import is."""
    with profile.client() as placet:
        if of == "contacts":
            fields(placet.contact_imports.get(import_id), CONTACTS, as_json)
        else:
            fields(placet.consent_imports.get(import_id), CONSENTS, as_json)


@app.command()
def verdicts(
    import_id: str,
    to: Annotated[Path, typer.Option(help="The file to write.")],
    verdict: Annotated[
        Literal["created", "unchanged", "outvoted", "refused"] | None, typer.Option(help="One verdict alone.")
    ] = None,
) -> None:
    """Save the verdict of each line of an import of consents, without numbers."""
    with profile.client() as placet:
        if verdict is None:
            placet.consent_imports.get_verdicts(import_id).save(to)
        else:
            placet.consent_imports.get_verdicts(import_id, verdict=verdict).save(to)


def key_of(file: Path, again: bool, *terms: str) -> str:
    """Return the Idempotency-Key of an import: of its terms and its bytes."""
    digest = hashlib.sha256(json.dumps(terms).encode())
    with file.open("rb") as opened:
        digest.update(hashlib.file_digest(opened, "sha256").digest())
    return f"placet-cli-{uuid4()}" if again else f"placet-cli-{digest.hexdigest()}"


def beginning_of(file: Path) -> bytes:
    """Return the file, or its first lines where the file is longer than a dry run takes."""
    with file.open("rb") as opened:
        beginning = opened.read(DRY_RUN_BYTES)
        if len(beginning) < DRY_RUN_BYTES or not opened.read(1):
            return beginning
    note(f"the dry run reads the first {DRY_RUN_BYTES} bytes of the file")
    end = beginning.rfind(b"\n") + 1
    return beginning[: end + (beginning[end : end + 1] == b"\0")]  # half of a line end in UTF-16


def _dated(time_zone: str | None, date_order: str | None, ignore_columns: bool) -> dict[str, Any]:
    said = {"time_zone": time_zone, "date_order": date_order, "other_columns": "ignore" if ignore_columns else None}
    return {name: value for name, value in said.items() if value is not None}


def _tried(found: Any, as_json: bool) -> None:
    """Show what an import would read; exit with FAULTY where the whole file would be refused."""
    fields(found, TRIED, as_json)
    if found.file_refused is not None:
        raise typer.Exit(FAULTY)


def _imported(file: Path, again: bool, as_json: bool, *, dry_run: bool, **terms: Any) -> None:
    terms["format"] = "ndjson" if file.suffix in (".ndjson", ".jsonl") else "csv"
    key = key_of(file, again, json.dumps(terms, sort_keys=True))
    with profile.client() as placet:
        opened = placet.consent_imports.create(**terms, idempotency_key=key)
        if dry_run:
            _tried(placet.consent_imports.dry_run(opened.import_id, file=beginning_of(file)), as_json)
            return
        done = _followed(placet.consent_imports, opened.import_id, file)
    fields(done, CONSENTS, as_json)


def _followed(imports: Any, import_id: str, file: Path) -> Any:
    """Send the file and wait for its lines, with a bar where a person looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes(), transient=True) as progress:
        task = progress.add_task("sending", total=file.stat().st_size)
        resumed: list[int] = []

        def arrived(sent: int, whole: int) -> None:
            if not resumed:
                resumed.append(sent)
            progress.update(task, completed=sent, total=whole)

        try:
            imports.upload(import_id, file, on_progress=arrived)
        except KeyboardInterrupt:
            note("stopped: the same command goes on from here")
            raise
        progress.update(task, description="recording")
        done = imports.wait(import_id)
    if resumed and resumed[0] > 0:
        note(f"went on from byte {resumed[0]} of {file.stat().st_size}")
    return done
