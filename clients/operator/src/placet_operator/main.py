"""The command `placet-operator`."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from placet_operator import report
from placet_operator.checking import Broken, Finding, NotSeen
from placet_operator.connector import run as connector
from placet_operator.placet import run as placet
from placet_operator.placet import webhook

app = typer.Typer(
    name="placet-operator",
    help="The conformance kit of Placet for operators. Numbers are fictional; only the named addresses are called.",
    epilog="Exit codes: 0 all hold; 1 one is broken, or could not be seen; 2 usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
checks = typer.Typer(no_args_is_help=True, help="Check a connector, or a Placet.")
app.add_typer(checks, name="check")

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object a line, for programs.")]
Partial = Annotated[bool, typer.Option("--partial", help="Exit with 0 also where a check could not be made.")]
Only = Annotated[list[str] | None, typer.Option(help="Make this check alone; may be repeated.")]
Within = Annotated[float, typer.Option(min=1, max=3600, help="Seconds that one wait may take.")]

Code = Annotated[str, typer.Option(help="Short code that people answer to.")]
Secret = Annotated[str, typer.Option(envvar="PLACET_OPERATOR_SECRET", help="whsec_…, signs the callbacks.")]
Consent = Annotated[str, typer.Option(envvar="PLACET_CONSENT_URL", help="URL of consent-svc.")]
ApiToken = Annotated[str, typer.Option(envvar="PLACET_TOKEN", help="Token of Placet's API, to read back.")]
SenderId = Annotated[str, typer.Option(help="Id of the sender that has the code.")]


def _tell(text: str) -> None:
    sys.stderr.write(f"placet-operator: {text}\n")


def _listen(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter("name the address as host:port")
    return host, int(port)


@checks.command("connector")
def check_connector(
    at: Annotated[str, typer.Option(help="The connector's URL, before /v1/submits.")],
    token: Annotated[str, typer.Option(envvar="PLACET_OPERATOR_TOKEN", help="Bearer token of submits.")],
    secret: Secret,
    listen: Annotated[str, typer.Option(help="host:port where the kit takes the callbacks.")] = "127.0.0.1:8099",
    start: Annotated[str | None, typer.Option(help="Command that starts the connector; the kit kills it.")] = None,
    sender: Annotated[str, typer.Option(help="Sender's name of the messages.")] = "PLACET",
    code: Code = "36111",
    within: Within = 90.0,
    only: Only = None,
    partial: Partial = False,
    as_json: AsJson = False,
) -> None:
    """Play at an operator's connector as Placet does: submits, refused callbacks, texts of phones, restarts."""
    host, port = _listen(listen)
    _known(only, [each.name for each in connector.CHECKS])
    asked = connector.Asked(at, token, secret, host, port, start, sender, code, within, frozenset(only or ()))
    try:
        found = asyncio.run(connector.check(asked, _tell))
    except Broken as broken:
        _tell(str(broken))
        raise typer.Exit(1) from None
    _end(found, partial, as_json)


@checks.command("webhook")
def check_webhook(
    against: Annotated[str, typer.Option(help="URL of inbound-svc.")],
    secret: Secret,
    consent: Consent,
    token: ApiToken,
    sender: SenderId,
    code: Code = "36111",
    account: Annotated[str, typer.Option(help="Name of the account of `standard`.")] = "main",
    within: Within = 30.0,
    only: Only = None,
    partial: Partial = False,
    as_json: AsJson = False,
) -> None:
    """Play at a Placet as an operator with webhooks does. For a Placet without real people: STOPs are recorded."""
    _known(only, [each.name for each in webhook.CHECKS])
    asked = placet.Asked(against, consent, token, sender, code, within, frozenset(only or ()))
    _end(asyncio.run(placet.check_webhook(asked, account, secret)), partial, as_json)


@checks.command("kafka")
def check_kafka(
    against: Annotated[str, typer.Option(help="host:port of the broker.")],
    operator: Annotated[str, typer.Option(help="The operator's name, as in its topics.")],
    inbound: Annotated[str, typer.Option(envvar="PLACET_INBOUND_URL", help="URL of inbound-svc.")],
    consent: Consent,
    token: ApiToken,
    sender: SenderId,
    code: Code = "36111",
    prefix: Annotated[str, typer.Option(help="What stands before the names of this installation's topics.")] = "",
    within: Within = 30.0,
    only: Only = None,
    partial: Partial = False,
    as_json: AsJson = False,
) -> None:
    """Play at a Placet as an operator with topics does. For a Placet without real people: STOPs are recorded."""
    asked = placet.Asked(inbound, consent, token, sender, code, within, frozenset(only or ()))
    try:
        found = asyncio.run(placet.check_kafka(asked, against, operator, prefix))
    except NotSeen as missing:
        _tell(str(missing))
        raise typer.Exit(1) from None
    _end(found, partial, as_json)


def _end(found: Sequence[Finding], partial: bool, as_json: bool) -> None:
    report.write(found, as_json)
    raise typer.Exit(0 if report.passes(found, partial) else 1)


def _known(only: list[str] | None, names: list[str]) -> None:
    if unknown := sorted(set(only or ()) - set(names)):
        raise typer.BadParameter(f"no check {unknown[0]!r}: there are {', '.join(names)}")


def main() -> None:
    try:
        app()
    except OSError as error:
        _tell(f"{error.strerror}: {error.filename or 'the address'}")
        sys.exit(1)
