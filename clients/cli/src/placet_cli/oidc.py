"""Log in at an OIDC issuer by the device flow (RFC 8628): the person opens a page, and the command waits."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from placet_client import NotConfigured

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SLOWER_S = 5


@dataclass(frozen=True)
class Tokens:
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_s: float | None


def logged_in(
    issuer: str,
    client_id: str,
    scope: str,
    show: Callable[[str, str], None],
    http: httpx.Client | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Tokens:
    """Return the tokens once the person has agreed. Raises NotConfigured.

    `show` takes the address of the page and the code to type there.
    """
    with http or httpx.Client() as calls:
        endpoints = _discovered(calls, issuer)
        device = _posted(calls, _named(endpoints, "device_authorization_endpoint"), client_id=client_id, scope=scope)
        show(device.get("verification_uri_complete") or device["verification_uri"], device["user_code"])
        interval_s, left_s = float(device.get("interval", 5)), float(device["expires_in"])
        while left_s > 0:
            sleep(interval_s)
            left_s -= interval_s
            said = _posted(
                calls,
                _named(endpoints, "token_endpoint"),
                grant_type=GRANT,
                device_code=device["device_code"],
                client_id=client_id,
            )
            match said.get("error"):
                case None:
                    return _tokens(said)
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval_s += SLOWER_S
                case other:
                    raise NotConfigured(f"the issuer refused the login: {other}; run `placet login` again")
    raise NotConfigured("the login was not confirmed in time: run `placet login` again")


def refreshed(issuer: str, client_id: str, refresh_token: str, http: httpx.Client | None = None) -> Tokens:
    """Return new tokens for a refresh token. Raises NotConfigured."""
    with http or httpx.Client() as calls:
        said = _posted(
            calls,
            _named(_discovered(calls, issuer), "token_endpoint"),
            grant_type="refresh_token",
            refresh_token=refresh_token,
            client_id=client_id,
        )
    if "error" in said:
        raise NotConfigured(f"the login cannot be renewed ({said['error']}): run `placet login`")
    return _tokens(said)


def _discovered(calls: httpx.Client, issuer: str) -> Mapping[str, Any]:
    try:
        answer = calls.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        found: Mapping[str, Any] = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise NotConfigured(f"{issuer} is no OIDC issuer ({type(error).__name__}): check --issuer") from error
    return found


def _named(endpoints: Mapping[str, Any], name: str) -> str:
    if name not in endpoints:
        raise NotConfigured(f"the issuer names no {name}: ask its operator for the device flow, or pass a token")
    return str(endpoints[name])


def _posted(calls: httpx.Client, url: str, **fields: str) -> Mapping[str, Any]:
    try:
        said: Mapping[str, Any] = calls.post(url, data=fields).json()
    except (httpx.HTTPError, ValueError) as error:
        raise NotConfigured(f"the issuer does not answer as OIDC says ({type(error).__name__})") from error
    return said


def _tokens(said: Mapping[str, Any]) -> Tokens:
    return Tokens(said["access_token"], said.get("refresh_token"), said.get("expires_in"))
