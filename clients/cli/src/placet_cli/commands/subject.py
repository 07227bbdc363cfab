"""`placet subject` and `placet timeline`: all that is known of a person, over time."""

from heapq import merge
from operator import attrgetter

from placet_cli import ask, profile
from placet_cli.screen import AsJson, note, rows, write_json


def subject(number: ask.Number = None, as_json: AsJson = False) -> None:
    """Show a person's consents and opt-outs, and the evidence behind them."""
    with profile.client() as placet:
        found = placet.subjects.lookup(number=ask.number(number))
    if as_json:
        write_json(found)
        return
    for controller, subject_id in found.subject_ids.items():
        note(f"{subject_id} with {controller}")
    if found.held_since is not None:
        note(f"marketing waits since {found.held_since:%Y-%m-%d %H:%M} for the review of a text")
    if found.consents:
        rows(found.consents, ("sender_id", "purpose", "state", "basis", "occurred_at"), as_json)
    if found.suppressions:
        rows(found.suppressions, ("sender_id", "since"), as_json)
    if found.history:
        columns = ("position", "occurred_at", "kind", "sender_id", "purpose", "source", "evidence_id")
        rows(found.history, columns, as_json)
    else:
        note("no evidence is on record")


def timeline(number: ask.Number = None, as_json: AsJson = False) -> None:
    """Show a person's timeline, the newest first: consents, opt-outs, messages, contacts, clicks, erasures."""
    asked = ask.number(number)
    with profile.client() as placet:
        services = (placet.consent_timelines, placet.message_timelines, placet.contact_timelines)
        parts = [service.get(number=asked) for service in services]
    moments = merge(*(part.items for part in parts), key=attrgetter("at"), reverse=True)
    rows(moments, ("at", "kind", "sender_id", "purpose", "status", "detail", "campaign_id", "id"), as_json)
    if not all(part.whole for part in parts):
        note("older events are left out")
