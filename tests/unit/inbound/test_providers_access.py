"""Who may call where nothing is signed: a secret in the path, a password, a network."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs

from inbound.providers import Account, Callback, NotGenuine, genuine

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
SECRET, OTHER = "2f1c9f3e5b7a4d60", "9a8b7c6d5e4f3a2b"
CALLBACK = Callback("/", {}, b"{}", address="192.0.2.7")
PATH = Account("brevo", "main", path_secrets=(OTHER, SECRET))
BASIC = Account("brevo", "main", basic=("brevo:a password of sixteen", "brevo:the password before"))
NETWORK = Account("brevo", "main", addresses=("192.0.2.0/24", "2001:db8::/32"))


def with_password(pair: str, scheme: str = "Basic") -> Callback:
    return structs.replace(CALLBACK, headers={"authorization": f"{scheme} {base64.b64encode(pair.encode()).decode()}"})


@pytest.mark.parametrize(
    ("account", "callback"),
    [
        (PATH, structs.replace(CALLBACK, path_secret=SECRET)),
        (PATH, structs.replace(CALLBACK, path_secret=OTHER)),
        (BASIC, with_password("brevo:a password of sixteen")),
        (BASIC, with_password("brevo:the password before", "basic")),
        (NETWORK, CALLBACK),
        (NETWORK, structs.replace(CALLBACK, address="2001:db8::1")),
        (NETWORK, structs.replace(CALLBACK, address="::ffff:192.0.2.9")),
    ],
)
def test_who_knows_is_let_in(account: Account, callback: Callback) -> None:
    assert genuine(callback, account, NOW) is None


@pytest.mark.parametrize(
    ("account", "callback", "reason"),
    [
        (PATH, CALLBACK, "path_secret_wrong"),
        (PATH, structs.replace(CALLBACK, path_secret=SECRET[:-1]), "path_secret_wrong"),
        (PATH, structs.replace(CALLBACK, path_secret="é"), "path_secret_wrong"),
        (NETWORK, structs.replace(CALLBACK, path_secret=SECRET), "path_secret_wrong"),
        (BASIC, CALLBACK, "basic_authentication_wrong"),
        (BASIC, with_password("brevo:"), "basic_authentication_wrong"),
        (BASIC, with_password("brevo:a password of sixteen", "Bearer"), "basic_authentication_wrong"),
        (BASIC, structs.replace(CALLBACK, headers={"authorization": "Basic é"}), "basic_authentication_wrong"),
        (NETWORK, structs.replace(CALLBACK, address="192.0.3.7"), "address_not_allowed"),
        (NETWORK, structs.replace(CALLBACK, address="testclient"), "address_not_allowed"),
        (Account("brevo", "main"), CALLBACK, "nothing_to_check"),
    ],
)
def test_who_does_not_is_not(account: Account, callback: Callback, reason: str) -> None:
    with pytest.raises(NotGenuine, match=reason):
        genuine(callback, account, NOW)


def test_all_fences_must_hold() -> None:
    fenced = replace(PATH, addresses=NETWORK.addresses)

    genuine(structs.replace(CALLBACK, path_secret=SECRET), fenced, NOW)
    with pytest.raises(NotGenuine, match="address_not_allowed"):
        genuine(structs.replace(CALLBACK, path_secret=SECRET, address="198.51.100.1"), fenced, NOW)


def test_a_fence_does_not_stand_in_for_a_signature() -> None:
    account = Account("sinch", "main", (SECRET,), path_secrets=(SECRET,))

    with pytest.raises(NotGenuine, match="signature_missing"):
        genuine(structs.replace(CALLBACK, path_secret=SECRET), account, NOW)


def test_no_secret_is_in_a_representation() -> None:
    assert not any(word in repr((PATH, BASIC)) for word in (SECRET, OTHER, "password"))
