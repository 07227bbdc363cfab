"""Accounts of providers that sign, may sign, or sign nothing: an account that could not be verified is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from inbound.providers import Account, Capabilities, capabilities
from inbound.service import AccountSettings

KEY = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
PATH_SECRET = "2f1c9f3e5b7a4d60"
SECRET = "a secret of thirty-two characters"


def account(provider: str, **more: Any) -> Account:
    return AccountSettings(provider=provider, account="main", **more).account_with_secrets()


def test_a_provider_that_signs_nothing_has_a_fence() -> None:
    fenced = account(
        "kannel", path_secrets=[PATH_SECRET], basic=["kannel:a password of sixteen"], addresses=["10.1.0.0/16"]
    )

    assert fenced == Account(
        "kannel",
        "main",
        path_secrets=(PATH_SECRET,),
        basic=("kannel:a password of sixteen",),
        addresses=("10.1.0.0/16",),
    )


@pytest.mark.parametrize("fence", [{"path_secrets": [PATH_SECRET]}, {"addresses": ["192.0.2.1"]}])
def test_one_fence_is_enough(fence: dict[str, Any]) -> None:
    account("brevo", **fence)


@pytest.mark.parametrize(
    ("provider", "more", "why"),
    [
        ("brevo", {}, "nothing would be checked"),
        ("vonage", {}, "nothing would be checked"),
        ("brevo", {"secrets": [SECRET]}, "brevo signs nothing"),
        ("telnyx", {"path_secrets": [PATH_SECRET]}, "telnyx signs its callbacks"),
        ("telnyx", {"secrets": [SECRET]}, "public key"),
        ("standard", {"secrets": ["whsec_MDEyMzQ1Njc4OWFiY2RlZg=="]}, "24 to 64 bytes"),
        ("standard", {"secrets": [SECRET]}, "base64"),
        ("plivo", {"secrets": [SECRET]}, "set public_url"),
        ("messagebird", {"secrets": [SECRET]}, "set public_url"),
        ("cm", {"path_secrets": ["short"]}, "at least 16 characters"),
        ("cm", {"path_secrets": ["with/a slash of its own"]}, "letters, digits"),
        ("cm", {"basic": ["user:short"]}, "at least 16 characters"),
        ("cm", {"basic": ["a name without any password"]}, "at least 16 characters"),
        ("cm", {"addresses": ["here"]}, "addresses"),
        ("cm", {"path_secrets": [PATH_SECRET], "capabilities": {"signs": True}}, "signs"),
        ("smsmode", {"path_secrets": [PATH_SECRET]}, "dev.smsmode.com"),
        ("bird", {"secrets": [SECRET]}, "bird.com"),
    ],
)
def test_what_could_not_be_verified_is_refused(provider: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        account(provider, **more)


def test_who_may_sign_signs_once_it_has_a_secret() -> None:
    assert capabilities(account("vonage", secrets=[SECRET])).signs
    assert not capabilities(account("vonage", path_secrets=[PATH_SECRET])).signs


def test_an_account_may_do_otherwise_than_its_provider() -> None:
    usual = account("octopush", path_secrets=[PATH_SECRET])
    other = account("octopush", path_secrets=[PATH_SECRET], capabilities={"adds_stop_clause": False})

    assert capabilities(usual) == Capabilities(adds_stop_clause=True, keeps_blacklist=True, idempotent_submit=True)
    assert capabilities(other) == Capabilities(keeps_blacklist=True, idempotent_submit=True)


def test_the_secrets_of_telnyx_and_standard_are_keys() -> None:
    account("telnyx", secrets=[KEY])
    account("standard", secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
