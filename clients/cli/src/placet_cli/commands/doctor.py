"""`placet doctor`: check a deployment from end to end, and say what is wrong and what to do."""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from placet_cli import profile
from placet_cli.probe import Probe
from placet_cli.screen import FAULTY, AsJson, out, printable, write_json
from placet_client import Forbidden, NotConfigured, Placet, PlacetError, Unauthenticated
from placet_client.request import Service

MOST_SKEW_S = 5.0
TIMEOUT_S = 10.0
# A list that each service answers a token of any organisation
ASKED: Mapping[Service, Callable[[Placet], Any]] = {
    "consent": lambda placet: placet.retroactive_messages.list(limit=1).first(),
    "campaign": lambda placet: placet.campaigns.list(limit=1).first(),
    "dispatch": lambda placet: placet.text_audits.list(limit=1).first(),
    "inbound": lambda placet: placet.reviews.list(limit=1).first(),
}


@dataclass(frozen=True)
class Finding:
    """A result. `good`: None where the check could not be made, or only warns."""

    of: str
    check: str
    good: bool | None
    says: str


def doctor(
    every: Annotated[
        float | None, typer.Option(help="Probe each so many seconds instead, with a line for a turn.")
    ] = None,
    sender: Annotated[str | None, typer.Option(help="The sender of the probe.")] = None,
    purpose: Annotated[str | None, typer.Option(help="The purpose of the probe's consent.")] = None,
    operator: Annotated[
        str | None, typer.Option(help="The URL of the simulated operator, which sends the STOP.")
    ] = None,
    turns: Annotated[int | None, typer.Option(help="End after so many turns. Default: never.", min=1)] = None,
    within: Annotated[float, typer.Option(help="Seconds that a step of the probe may take.", min=1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Check each service: reachable, ready, the clock, the token. Exits with 6 where something is wrong.

    With --every a fictional person consents, gets a message and says STOP by the simulated operator, again and again.
    """
    if every is not None:
        if sender is None or purpose is None or operator is None:
            raise typer.BadParameter("--every needs --sender, --purpose and --operator")
        with profile.client() as placet, httpx.Client(timeout=TIMEOUT_S) as http:
            probing = Probe(placet, http, operator, sender, purpose, within)
            if not probed(probing, every, turns, as_json=as_json):
                raise typer.Exit(FAULTY)
        return
    stored = profile.load()
    known = profile.urls(stored, os.environ)
    with httpx.Client(timeout=TIMEOUT_S) as http:
        found = list(examined(stored, known, http))
    if as_json:
        for finding in found:
            write_json(asdict(finding))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in found:
            sign = {True: "ok", False: "WRONG", None: "note"}[finding.good]
            table.add_row(sign, finding.of, finding.check, printable(finding.says))
        out().print(table)
    if any(finding.good is False for finding in found):
        raise typer.Exit(FAULTY)


def probed(probe: Probe, every: float, turns: int | None, *, as_json: bool) -> bool:
    """Probe until so many turns or Ctrl-C, with a line for each; return whether every turn was good."""
    good, first = True, int(time.time() // max(every, 1.0))  # the next person, also after a restart
    with contextlib.suppress(KeyboardInterrupt):
        for number in itertools.count() if turns is None else range(turns):
            begun = time.monotonic()
            turn = probe.turn(first + number)
            good = good and turn.fault is None
            if as_json:
                write_json(asdict(turn))
            else:
                out().print(printable(turn.line))
            sys.stdout.flush()
            if number + 1 != turns:
                time.sleep(max(0.0, every - (time.monotonic() - begun)))
    return good


def examined(stored: profile.Profile, known: Mapping[Service, str], http: httpx.Client) -> Iterator[Finding]:
    """Yield what is found, in the order of a caller's steps."""
    try:
        token: str | None = os.environ.get("PLACET_TOKEN") or stored.present_token(time.time()) or None
    except PlacetError as error:
        token = None
        yield Finding("login", "token", False, str(error))
    else:
        if token is None:
            yield Finding("login", "token", False, "not logged in: run `placet login`, or set PLACET_TOKEN")
    for service in profile.SERVICES:
        of = f"{service}-svc"
        if service not in known:
            yield Finding(of, "url", None, f"unknown: `placet login --{service}-url …`")
            continue
        try:
            answer = http.get(f"{known[service].rstrip('/')}/readyz")
        except httpx.HTTPError as error:
            yield Finding(of, "reachable", False, _unreachable(error))
            continue
        if answer.status_code == 404:
            yield Finding(of, "ready", None, "unknown: its health is at a port of the operator's")
        else:
            yield from _readiness(of, answer)
        if (skewed := _skew(of, answer, datetime.now(UTC))) is not None:
            yield skewed
        if token is not None:
            yield _token(of, service, token, known)


def _readiness(of: str, answer: httpx.Response) -> Iterator[Finding]:
    try:
        said = answer.json()
        why, remarks = list(map(str, said["why"])), list(map(str, said["remarks"]))
    except (ValueError, TypeError, KeyError):
        yield Finding(of, "ready", False, f"/readyz answers {answer.status_code} in another form: is this {of}'s URL?")
        return
    if answer.status_code == 200:
        yield Finding(of, "ready", True, "ready")
    else:
        yield Finding(of, "ready", False, f"{'; '.join(why)}: look at its log, and at docs/runbook.md")
    yield from (Finding(of, "remark", None, remark) for remark in remarks)


def _skew(of: str, answer: httpx.Response, now: datetime) -> Finding | None:
    """Return a finding where the clocks differ; the header has whole seconds."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        return None
    skew_s = abs((theirs - now).total_seconds())
    if skew_s <= MOST_SKEW_S:
        return None
    return Finding(of, "clock", False, f"{skew_s:.0f} s from this machine's: set one of the two by NTP")


def _token(of: str, service: Service, token: str, known: Mapping[Service, str]) -> Finding:
    urls = {f"{name}_url": url for name, url in known.items()}
    with Placet(token, timeout=TIMEOUT_S, **urls) as placet:  # type: ignore[arg-type]
        try:
            ASKED[service](placet.with_options(retries=0))
        except Unauthenticated as error:
            return Finding(of, "token", False, f"{error.detail or error.title}: run `placet login`")
        except Forbidden as error:
            return Finding(of, "token", None, f"genuine, without the scope of a list: {error.detail}")
        except (NotConfigured, PlacetError) as error:
            return Finding(of, "token", False, str(error))
    return Finding(of, "token", True, "accepted")


def _unreachable(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time: a firewall, or a wrong address"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error}): is the service up, and the URL right?"
    return f"no answer ({type(error).__name__}): look at the log of the service and of its gateway"
