"""`placet login` and `placet logout`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from placet_cli import oidc, profile
from placet_cli.screen import note
from placet_client import NotConfigured

Url = Annotated[str | None, typer.Option(help="The address of the service.")]


def login(
    env_file: Annotated[
        Path | None,
        typer.Option(help="Take URLs and the token of `make up` from this file: .placet/stack.env.", exists=True),
    ] = None,
    consent_url: Url = None,
    campaign_url: Url = None,
    dispatch_url: Url = None,
    inbound_url: Url = None,
    issuer: Annotated[str | None, typer.Option(help="Log in at this OIDC issuer by the device flow.")] = None,
    client_id: Annotated[str, typer.Option(help="The client's id at the issuer.")] = "placet-cli",
    scope: Annotated[str, typer.Option(help="The scopes to ask the issuer for.")] = "openid offline_access",
) -> None:
    """Store URLs and a token. Without --issuer and --env-file the token is asked for hidden, or read from stdin."""
    stored = profile.load()
    told = {
        "consent": consent_url,
        "campaign": campaign_url,
        "dispatch": dispatch_url,
        "inbound": inbound_url,
    }
    token = None
    if env_file is not None:
        named = _read(env_file)
        told = {service: url or named.get(f"{service.upper()}_URL") for service, url in told.items()}
        token = named.get("TOKEN")
    stored.urls |= {service: url for service, url in told.items() if url}
    if not stored.urls:
        raise typer.BadParameter("no URL: pass --consent-url, … or --env-file")
    if issuer is not None:
        stored.issuer, stored.client_id = issuer, client_id
        stored.take(oidc.logged_in(issuer, client_id, scope, _show), time.time())
    else:
        stored.issuer = stored.client_id = stored.refresh_token = stored.expires_at = None
        stored.token = token or _asked()
    profile.store(stored)
    note(f"logged in; stored in {profile.path()}. `placet doctor` checks the deployment.")


def logout() -> None:
    """Remove the stored login."""
    profile.path().unlink(missing_ok=True)


def _asked() -> str:
    found = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not found.strip():
        raise NotConfigured("no token on stdin: pass one, or log in with --issuer")
    return str(found).strip()


def _read(env_file: Path) -> dict[str, str]:
    """Return the settings of a file of `NAME=value` lines, with or without `export` and quotes."""
    pairs = (line.removeprefix("export ").partition("=") for line in env_file.read_text(encoding="utf-8").splitlines())
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs if value}


def _show(page: str, code: str) -> None:
    note(f"Open {page}\nand confirm the code {code}")
