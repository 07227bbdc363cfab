"""`placet campaigns`: list, check, approve, start and watch campaigns."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from placet_cli import ask, profile
from placet_cli.screen import FAULTY, AsJson, fields, note, out, rows, write_json
from placet_client import OMITTED, Placet

app = typer.Typer(help="Campaigns: one text, sent to one audience.", no_args_is_help=True)
SHOWN = ("campaign_id", "sender_id", "name", "purpose", "status", "starts_at", "started_at", "ended_at", "waiting_for")
CHECKED = (
    "audience", "would_get", "would_not", "reasons", "cost", "opens_at", "finishes_at", "compliance", "approval",
    "digest",
)  # fmt: skip
FUNNEL = ("audience", "pending", "denied", "deferred", "expired", "handed_off", "accepted", "delivered", "undelivered")
ENDED = ("finished", "cancelled")
BAR = 40
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
When = Annotated[
    str | None, typer.Option("--at", help="The start, with a zone: 2026-03-07T10:00:00+01:00. Default: now.")
]


@app.command("list")
def list_(
    limit: ask.Limit = 20,
    series: Annotated[str | None, typer.Option(help="The occurrences of a recurring campaign.")] = None,
    sender: Annotated[str | None, typer.Option(help="The campaigns of one sender.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="The archived campaigns instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List campaigns, the newest first."""
    with profile.client() as placet:
        found = placet.campaigns.list(
            series_id=OMITTED if series is None else series,
            sender_id=OMITTED if sender is None else sender,
            archived=archived,
            limit=min(limit, ask.MOST_A_PAGE),
        )
        rows(found, SHOWN[:6], as_json, limit)


@app.command()
def show(campaign_id: str, as_json: AsJson = False) -> None:
    """Show a campaign."""
    with profile.client() as placet:
        fields(placet.campaigns.get(campaign_id), SHOWN, as_json)


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="The campaign as JSON, as the API takes a campaign; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Write a draft."""
    with profile.client() as placet:
        fields(placet.campaigns.create(**ask.body(file)), SHOWN, as_json)


@app.command()
def preflight(campaign_id: str, at: When = None, as_json: AsJson = False) -> None:
    """Forecast reach, cost and end. Exits with 6 where an error prevents the start."""
    with profile.client() as placet:
        found = placet.pre_flights.create(campaign_id, **_at(at))
    _told(found, as_json)
    if any(each.severity == "error" for each in found.findings):
        raise typer.Exit(FAULTY)


@app.command()
def approve(campaign_id: str, at: When = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Show the pre-flight, ask, and approve what it shows."""
    with profile.client() as placet:
        found = placet.pre_flights.create(campaign_id, **_at(at))
        if not yes:
            _told(found, as_json=False)
            typer.confirm("Approve?", abort=True, err=True)
        approved = placet.approvals.create(campaign_id, digest=found.digest, **_at(at))
    if as_json:
        write_json(approved)
    else:
        note("approved")


@app.command()
def schedule(
    campaign_id: str,
    at: When = None,
    acknowledge: Annotated[list[str] | None, typer.Option(help="The id of a warning; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a campaign now, or at an instant."""
    more: Any = _at(at) | ({"acknowledge": acknowledge} if acknowledge else {})
    with profile.client() as placet:
        fields(placet.campaigns.schedule(campaign_id, **more), SHOWN, as_json)


@app.command()
def pause(campaign_id: str) -> None:
    """Pause a campaign: no further message is handed off."""
    with profile.client() as placet:
        note(f"{campaign_id} is {placet.campaigns.pause(campaign_id).status}")


@app.command()
def resume(campaign_id: str) -> None:
    """Resume a paused campaign."""
    with profile.client() as placet:
        note(f"{campaign_id} is {placet.campaigns.resume(campaign_id).status}")


@app.command()
def cancel(campaign_id: str, yes: Yes = False) -> None:
    """Cancel a campaign for good."""
    if not yes:
        typer.confirm(f"Cancel {campaign_id} for good?", abort=True, err=True)
    with profile.client() as placet:
        note(f"{campaign_id} is {placet.campaigns.cancel(campaign_id).status}")


@app.command()
def archive(campaign_id: str) -> None:
    """Archive a draft or an ended campaign: lists leave it out."""
    with profile.client() as placet:
        placet.campaigns.archive(campaign_id)
    note(f"{campaign_id} is archived")


@app.command()
def unarchive(campaign_id: str) -> None:
    """Bring an archived campaign back to the lists."""
    with profile.client() as placet:
        placet.campaigns.unarchive(campaign_id)
    note(f"{campaign_id} is back")


@app.command()
def watch(
    campaign_id: str,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Follow a campaign live until its end."""
    with profile.client() as placet:
        if as_json or not out().is_terminal:
            _written(placet, campaign_id, every, as_json)
            return
        with Live(console=out(), auto_refresh=False) as live:
            while True:
                found = placet.campaigns.get(campaign_id)
                live.update(funnel(found), refresh=True)
                if found.status in ENDED:
                    return
                time.sleep(every)


def _written(placet: Placet, campaign_id: str, every: float, as_json: bool) -> None:
    """Write a line for each change."""
    before: Any = None
    while True:
        found = placet.campaigns.get(campaign_id)
        now = (found.status, found.statistics)
        if now != before:
            if as_json:
                write_json(found)
            else:
                told = {name: getattr(found.statistics, name) for name in FUNNEL} if found.statistics else {}
                out().print(found.status, *(f"{name}={value}" for name, value in told.items()))
        before = now
        if found.status in ENDED:
            return
        time.sleep(every)


def funnel(campaign: Any) -> Table:
    """Return the bars of a campaign: what has become of its audience."""
    table = Table(box=None, show_header=False, title=f"{campaign.name}: {campaign.status}", title_justify="left")
    told = campaign.statistics
    if told is None:
        return table
    for name in FUNNEL:
        many = getattr(told, name)
        table.add_row(name.replace("_", " "), f"{many:>10,}", "█" * round(BAR * many / max(told.audience, 1)))
    for reason, many in sorted(told.denied_reasons.items(), key=lambda each: -each[1])[:5]:
        table.add_row(f"  {reason}", f"{many:>10,}", "")
    return table


def _told(found: Any, as_json: bool) -> None:
    fields(found, CHECKED, as_json)
    if not as_json and found.findings:
        rows(found.findings, ("severity", "rule", "says", "found", "id"), as_json)


def _at(at: str | None) -> dict[str, Any]:
    return {} if at is None else {"at": at}
