"""Provider accounts as the environment gives them: what could not be verified is refused at the start."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from inbound.providers import Account
from inbound.service import Settings
from tests.support.running import AUTH_KEY, KEY_RING, SUBJECT_RING

SIMULATOR = {"provider": "simulator", "account": "main", "secrets": ["0123456789abcdef"]}
TWILIO = {
    "provider": "twilio",
    "account": "main",
    "secrets": ["the new auth token", "the old auth token"],
    "public_url": "https://sms.example.org",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_DATABASE_URL", "postgresql://inbound@127.0.0.1/inbound")
    monkeypatch.setenv("PLACET_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    monkeypatch.setenv("PLACET_SUBJECT_KEYS", json.dumps(SUBJECT_RING))
    monkeypatch.setenv("PLACET_FIELD_KEYS", json.dumps(KEY_RING))
    monkeypatch.setenv("PLACET_DEVELOPMENT", "true")
    monkeypatch.setenv("PLACET_AUTH_KEY", AUTH_KEY)


def settings(monkeypatch: pytest.MonkeyPatch, *accounts: Any) -> Settings:
    monkeypatch.setenv("PLACET_PROVIDER_ACCOUNTS", json.dumps(accounts))
    return Settings()


def test_accounts_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator, twilio = settings(monkeypatch, SIMULATOR, TWILIO).provider_accounts

    assert simulator.account_with_secrets() == Account("simulator", "main", ("0123456789abcdef",))
    assert twilio.account_with_secrets() == Account(
        "twilio", "main", ("the new auth token", "the old auth token"), "https://sms.example.org/"
    )


def test_an_account_says_the_language_and_the_country_of_its_people(monkeypatch: pytest.MonkeyPatch) -> None:
    (account,) = settings(monkeypatch, {**SIMULATOR, "language": "en", "country": "US"}).provider_accounts
    assert (account.account_with_secrets().language, account.account_with_secrets().country) == ("en", "US")

    with pytest.raises(ValidationError):
        settings(monkeypatch, {**SIMULATOR, "country": "usa"})


def test_a_secret_is_not_in_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "auth token" not in repr(settings(monkeypatch, TWILIO))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"provider": "nobody"}, "no provider 'nobody'"),
        ({"secrets": []}, "at least 1 item"),
        ({"secrets": [""]}, "at least 16 characters"),
        ({"secrets": ["a secret long enough", "short"]}, "at least 16 characters"),
        ({"public_url": None}, "set public_url"),
        ({"public_url": "sms.example.org"}, "public_url"),
        ({"account": "Main/1"}, "account"),
        ({"scheme": "sha256"}, "twilio has no scheme sha256"),
        ({"pull": {"user": "AC01"}}, "the pull of twilio needs secret"),
        ({"secret": "a name with a slip"}, "secret"),
    ],
)
def test_an_account_that_could_not_be_verified_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        settings(monkeypatch, TWILIO | change)


def test_no_secret_is_in_the_error_that_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(monkeypatch, {"provider": "twilio", "account": "main", "secrets": TWILIO["secrets"]})

    assert "auth token" not in str(refused.value)


def test_an_account_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="given twice"):
        settings(monkeypatch, TWILIO, TWILIO)
