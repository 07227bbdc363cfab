"""The command `placet`: its groups, and what an error exits with."""

import sys

import typer

from placet_cli.commands import (
    campaigns,
    consents,
    contacts,
    dead_letters,
    doctor,
    imports,
    login,
    messages,
    proofs,
    replies,
    reviews,
    senders,
    subject,
    templates,
)
from placet_cli.screen import NO_ANSWER, NOT_ALLOWED, NOT_FOUND, REFUSED, note
from placet_client import Forbidden, NotConfigured, NotFound, PlacetError, ServiceError, Unauthenticated, Unreachable

app = typer.Typer(
    name="placet",
    help="Placet from a shell: consents, campaigns, imports, proofs. `placet login` first; `placet doctor` says what is"
    " wrong.",
    epilog="Exit codes: 0 done; 1 refused; 2 usage; 3 no answer; 4 not logged in or not allowed; 5 not found;"
    " 6 a check failed (proofs verify, campaigns preflight, doctor).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("login")(login.login)
app.command("logout")(login.logout)
app.command("doctor")(doctor.doctor)
app.command("subject")(subject.subject)
app.command("timeline")(subject.timeline)
for name, group in {
    "senders": senders.app,
    "consents": consents.app,
    "contacts": contacts.app,
    "imports": imports.app,
    "campaigns": campaigns.app,
    "messages": messages.app,
    "replies": replies.app,
    "reviews": reviews.app,
    "templates": templates.app,
    "proofs": proofs.app,
    "dead-letters": dead_letters.app,
}.items():
    app.add_typer(group, name=name)


def exit_code(error: PlacetError) -> int:
    match error:
        case NotConfigured() | Unauthenticated() | Forbidden():
            return NOT_ALLOWED
        case NotFound():
            return NOT_FOUND
        case Unreachable() | ServiceError():
            return NO_ANSWER
    return REFUSED


def main() -> None:
    try:
        app()
    except PlacetError as error:
        note(f"placet: {error}")
        sys.exit(exit_code(error))
    except OSError as error:
        note(f"placet: {error.strerror}: {error.filename}")
        sys.exit(REFUSED)
