"""The stored login: URLs and a token in a file of the user's own, with mode 0600. The environment wins.

A token that OIDC gave is renewed by its refresh token shortly before its end.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

import typer

from placet_cli import oidc
from placet_client import NotConfigured, Placet
from placet_client.request import Service

SERVICES: tuple[Service, ...] = get_args(Service)
RENEW_BEFORE_S = 60


@dataclass
class Profile:
    token: str = field(default="", repr=False)
    urls: dict[str, str] = field(default_factory=dict)
    issuer: str | None = None
    client_id: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None

    def present_token(self, now: float) -> str:
        """Return a token that is still good, renewed where needed. Raises NotConfigured."""
        if self.expires_at is None or now < self.expires_at - RENEW_BEFORE_S:
            return self.token
        if self.refresh_token is None or self.issuer is None or self.client_id is None:
            raise NotConfigured("the token is past its time: run `placet login`")
        self.take(oidc.refreshed(self.issuer, self.client_id, self.refresh_token), now)
        store(self)
        return self.token

    def take(self, tokens: oidc.Tokens, now: float) -> None:
        self.token = tokens.access_token
        self.refresh_token = tokens.refresh_token or self.refresh_token
        self.expires_at = None if tokens.expires_in_s is None else now + tokens.expires_in_s


def path() -> Path:
    named = os.environ.get("PLACET_PROFILE")
    return Path(named) if named else Path(typer.get_app_dir("placet")) / "profile.json"


def load() -> Profile:
    """Return the stored login, or an empty one. Raises NotConfigured for an unreadable file."""
    try:
        return Profile(**json.loads(path().read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Profile()
    except (ValueError, TypeError) as error:
        raise NotConfigured(f"{path()} is not a stored login: remove the file and run `placet login`") from error


def store(profile: Profile) -> None:
    """Write the login so that nobody else of this machine can read it."""
    to = path()
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = to.with_name(f".{to.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(profile), file)
    part.replace(to)


def urls(profile: Profile, environment: Mapping[str, str]) -> dict[Service, str]:
    """Return the known URLs of the services; the environment wins."""
    found = {name: environment.get(f"PLACET_{name.upper()}_URL") or profile.urls.get(name) for name in SERVICES}
    return {name: url for name, url in found.items() if url}


@contextmanager
def client() -> Iterator[Placet]:
    """Return the client of the environment and the stored login."""
    profile = load()
    named = {f"{service}_url": url for service, url in urls(profile, os.environ).items()}
    token = os.environ.get("PLACET_TOKEN")
    if not token and not profile.token:
        raise NotConfigured("not logged in: run `placet login`, or set PLACET_TOKEN")
    with Placet(token or (lambda: profile.present_token(time.time())), **named) as placet:  # type: ignore[arg-type]
        yield placet
