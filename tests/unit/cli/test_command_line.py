"""The command line: help everywhere, exit codes, the stored login, the device flow, the doctor's findings."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from placet_cli import oidc, profile
from placet_cli.commands import doctor, imports, login
from placet_cli.main import app, exit_code
from placet_cli.screen import printable
from placet_client import (
    Forbidden,
    Invalid,
    NotConfigured,
    NotFound,
    PlacetError,
    ServiceError,
    Unauthenticated,
    Unreachable,
)
from tests.unit.deploy.deployed import text

ISSUER = "https://id.example"
DISCOVERED = {"device_authorization_endpoint": f"{ISSUER}/device", "token_endpoint": f"{ISSUER}/token"}
DEVICE = {
    "device_code": "d",
    "user_code": "WDJB-MJHT",
    "verification_uri": f"{ISSUER}/go",
    "expires_in": 20,
    "interval": 2,
}


@pytest.fixture(autouse=True)
def _own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_PROFILE", str(tmp_path / "placet" / "profile.json"))
    for name in ("TOKEN", "CONSENT_URL", "CAMPAIGN_URL", "DISPATCH_URL", "INBOUND_URL"):
        monkeypatch.delenv(f"PLACET_{name}", raising=False)


def commands(command: Any, path: str = "placet") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def test_every_command_and_every_option_has_a_help_and_a_list_has_json() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 40
    assert [path for path, command in found.items() if not command.help] == []
    options = [
        f"{path} {option.name}"
        for path, command in found.items()
        for option in command.params
        if option.param_type_name == "option"
        if not option.help
    ]
    assert options == []
    named = {path.split()[-1] for path, command in found.items() if any("--json" in o.opts for o in command.params)}
    assert {f"placet {of} list" for of in ("contacts", "imports", "messages", "replies", "campaigns")} <= found.keys()
    assert {"list", "show", "check", "verify", "watch", "doctor", "subject"} <= named


def test_the_readme_names_every_command() -> None:
    readme = text("clients/cli/README.md")
    for path, _ in commands(typer.main.get_command(app)):
        assert path.split()[-1] in readme, path


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("c", 422, {}, {}), 1),
        (PlacetError("x"), 1),
        (Unreachable("c", "ReadTimeout", None), 3),
        (ServiceError("c", 503, {}, {}), 3),
        (NotConfigured("x"), 4),
        (Unauthenticated("c", 401, {}, {}), 4),
        (Forbidden("c", 403, {}, {}), 4),
        (NotFound("c", 404, {}, {}), 5),
    ],
)
def test_each_error_has_its_exit_code(error: PlacetError, code: int) -> None:
    assert exit_code(error) == code


def test_a_login_is_stored_for_the_user_alone_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tmp_path / "stack.env"
    env.write_text("CONSENT_URL=http://c\nexport INBOUND_URL='http://i'\nTOKEN=t-secret\n")
    login.login(env_file=env, campaign_url="http://k")
    assert stat.S_IMODE(profile.path().stat().st_mode) == 0o600
    stored = profile.load()
    assert (stored.token, stored.urls) == (
        "t-secret",
        {"consent": "http://c", "campaign": "http://k", "inbound": "http://i"},
    )
    assert "t-secret" not in repr(stored)
    assert profile.urls(stored, {"PLACET_CONSENT_URL": "http://other"})["consent"] == "http://other"
    login.logout()
    with pytest.raises(NotConfigured, match="placet login"), profile.client():
        pass
    monkeypatch.setenv("PLACET_TOKEN", "t")
    with profile.client() as placet:
        assert repr(placet) == "Placet()"


def test_an_unreadable_login_says_what_to_do() -> None:
    profile.path().parent.mkdir()
    profile.path().write_text("{")
    with pytest.raises(NotConfigured, match="remove the file"):
        profile.load()


def issuer(*said: dict[str, Any]) -> tuple[list[dict[str, str]], httpx.Client]:
    """An issuer that gives these answers at its token endpoint."""
    asked: list[dict[str, str]] = []
    coming = iter(said)

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=DISCOVERED)
        asked.append(dict(httpx.QueryParams(request.content.decode())))
        return (
            httpx.Response(200, json=DEVICE)
            if request.url.path == "/device"
            else httpx.Response(400, json=next(coming))
        )

    return asked, httpx.Client(transport=httpx.MockTransport(handle))


def test_the_device_flow_waits_as_the_issuer_says() -> None:
    waits: list[float] = []
    shown: list[tuple[str, str]] = []
    asked, http = issuer(
        {"error": "authorization_pending"},
        {"error": "slow_down"},
        {"access_token": "a", "refresh_token": "r", "expires_in": 60},
    )
    found = oidc.logged_in(ISSUER, "placet-cli", "openid", lambda *told: shown.append(told), http, waits.append)
    assert (found.access_token, found.refresh_token, found.expires_in_s) == ("a", "r", 60)
    assert waits == [2, 2, 7]
    assert shown == [(f"{ISSUER}/go", "WDJB-MJHT")]
    assert [each.get("device_code") for each in asked] == [None, "d", "d", "d"]


@pytest.mark.parametrize(
    ("said", "why"),
    [([{"error": "access_denied"}], "access_denied"), ([{"error": "authorization_pending"}] * 20, "in time")],
)
def test_a_login_that_is_refused_or_forgotten_says_so(said: list[dict[str, Any]], why: str) -> None:
    _, http = issuer(*said)
    with pytest.raises(NotConfigured, match=why):
        oidc.logged_in(ISSUER, "placet-cli", "openid", lambda *told: None, http, lambda s: None)


def test_a_token_near_its_end_is_renewed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = profile.Profile("old", {}, ISSUER, "placet-cli", "r", expires_at=1000.0)
    assert stored.present_token(900.0) == "old"
    monkeypatch.setattr(oidc, "refreshed", lambda *told: oidc.Tokens("new", None, 300))
    assert stored.present_token(950.0) == "new"
    kept = profile.load()
    assert (kept.token, kept.refresh_token, kept.expires_at) == ("new", "r", 1250.0)
    with pytest.raises(NotConfigured, match="past its time"):
        profile.Profile("old", {}, expires_at=1000.0).present_token(1000.0)


def test_the_doctor_says_what_is_wrong_and_what_to_do() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        match request.url.host:
            case "c":
                date = {"Date": "Mon, 02 Mar 2020 14:05:00 GMT"}
                return httpx.Response(
                    200, json={"ready": True, "why": [], "remarks": ["the disk is full"]}, headers=date
                )
            case "k":
                return httpx.Response(503, json={"ready": False, "why": ["the consents are 9 s old"], "remarks": []})
            case "d":
                return httpx.Response(200, html="<p>nginx</p>")
        raise httpx.ConnectError("refused")

    http = httpx.Client(transport=httpx.MockTransport(handle))
    known: Any = {"consent": "http://c", "campaign": "http://k", "dispatch": "http://d", "inbound": "http://i"}
    found = list(doctor.examined(profile.Profile(), known, http))
    told = [(finding.of, finding.check, finding.good) for finding in found]
    assert told == [
        ("login", "token", False),
        ("consent-svc", "ready", True),
        ("consent-svc", "remark", None),
        ("consent-svc", "clock", False),
        ("campaign-svc", "ready", False),
        ("dispatch-svc", "ready", False),
        ("inbound-svc", "reachable", False),
    ]
    assert "the consents are 9 s old" in found[4].says
    assert next(doctor.examined(profile.Profile(token="t"), {}, http)).check == "url"


def test_an_import_s_key_is_of_its_terms_and_its_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("number\n")
    two.write_text("number\n")
    assert imports.key_of(one, False, "contacts", "a") == imports.key_of(two, False, "contacts", "a")
    two.write_text("number\n\n")
    keys = [
        imports.key_of(*told)
        for told in ((one, False, "contacts", "a"), (one, False, "contacts", "b"), (two, False, "contacts", "a"))
    ]
    assert len({*keys, imports.key_of(one, True, "contacts", "a"), imports.key_of(one, True, "contacts", "a")}) == 5


@pytest.mark.parametrize("charset", ["utf-8", "utf-16-le"])
def test_a_dry_run_of_a_long_file_sends_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charset: str
) -> None:
    file = tmp_path / "long.csv"
    file.write_bytes("number;city\n0639981234;Nîmes\n0639981235;Lyon\n".encode(charset))
    assert imports.beginning_of(file) == file.read_bytes()
    monkeypatch.setattr(imports, "DRY_RUN_BYTES", file.stat().st_size - 3)
    assert imports.beginning_of(file).decode(charset) == "number;city\n0639981234;Nîmes\n"


def test_a_stored_text_does_not_steer_a_terminal() -> None:
    assert printable("a\x1b[2J\u202eb\nc") == "a\ufffd[2J\ufffdb\nc"
