"""Settings: roles as one writes them, a way to authenticate or no start, and no secret in a repr."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.kafka.broker import connection
from common.keyring import FieldKeys, Unreadable
from common.settings import HoursSettings, PricedSettings, ServiceSettings
from tests.support.builders import subject_keys
from tests.support.running import KEY_RING, SUBJECT_RING

OF_FIELDS = '{"current": "k1", "keys": {"k1": "AAAA"}}'
OF_SUBJECTS = f'{OF_FIELDS[:-1]}, "outer": {OF_FIELDS.replace("k1", "o1")}}}'
REQUIRED: dict[str, Any] = {
    "development": True,
    "database_url": "postgresql://consent:secret@127.0.0.1/consent",
    "kafka_bootstrap": "127.0.0.1:9092",
    "subject_keys": SUBJECT_RING,
    "field_keys": KEY_RING,
}
KEY = "a key of thirty-two bytes or more, for tests"


@pytest.mark.parametrize(
    ("written", "roles"),
    [
        ("all", {"api", "worker", "projection", "relay"}),
        ("api", {"api"}),
        ("api,relay", {"api", "relay"}),
        (" worker , relay ", {"worker", "relay"}),
        ("worker,worker,", {"worker"}),
        (["relay"], {"relay"}),
    ],
)
def test_roles_are_read_as_written(written: object, roles: set[str]) -> None:
    assert ServiceSettings(**REQUIRED, roles=written, auth_key=KEY).roles == roles


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValidationError, match="roles"):
        ServiceSettings(**REQUIRED, roles="api,workers", auth_key=KEY)


def test_an_api_that_anybody_may_call_does_not_start() -> None:
    with pytest.raises(ValidationError, match="no call is anonymous"):
        ServiceSettings(**REQUIRED)
    with pytest.raises(ValidationError, match="no call is anonymous"):
        ServiceSettings(**REQUIRED, roles="api", auth_key="")
    ServiceSettings(**REQUIRED, roles="worker,relay")
    ServiceSettings(**REQUIRED, auth_jwks_url="https://issuer.example/jwks")


PRODUCTION = {**REQUIRED, "development": False, "kafka_tls": True}
ISSUER = "https://issuer.example/jwks"


def test_a_key_that_signs_tokens_is_long_and_of_development_alone() -> None:
    with pytest.raises(ValidationError, match="PLACET_DEVELOPMENT=true alone"):
        ServiceSettings(**PRODUCTION, auth_key=KEY)
    with pytest.raises(ValidationError, match="fewer than 32 bytes"):
        ServiceSettings(**REQUIRED, auth_key="s" * 31)
    ServiceSettings(**REQUIRED, auth_key="s" * 32)


def test_outside_development_nothing_is_plain_text_unless_a_setting_says_so() -> None:
    ServiceSettings(**PRODUCTION, auth_jwks_url=ISSUER)
    with pytest.raises(ValidationError, match="PLACET_KAFKA_TLS=true, or PLACET_PLAIN_TEXT=kafka"):
        ServiceSettings(**{**PRODUCTION, "kafka_tls": False}, auth_jwks_url=ISSUER)
    with pytest.raises(ValidationError, match="is no https"):
        ServiceSettings(**PRODUCTION, auth_jwks_url="http://issuer.example/jwks")
    inside = {**PRODUCTION, "kafka_tls": False, "plain_text": "kafka, issuer"}
    ServiceSettings(**inside, auth_jwks_url="http://issuer.example/jwks")
    with pytest.raises(ValidationError, match="plain_text"):
        ServiceSettings(**{**inside, "plain_text": "kafka,postgresql"}, auth_jwks_url=ISSUER)


def test_the_environment_speaks_with_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_DATABASE_URL", "postgresql://dispatch@127.0.0.1/dispatch")
    monkeypatch.setenv("PLACET_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    monkeypatch.setenv("PLACET_ROLES", "relay")
    monkeypatch.setenv("PLACET_DEVELOPMENT", "true")
    monkeypatch.setenv("PLACET_SUBJECT_KEYS", OF_SUBJECTS)
    monkeypatch.setenv("PLACET_FIELD_KEYS", OF_FIELDS)
    found = ServiceSettings()
    assert found.roles == {"relay"}
    assert found.subject_keys.current == "k1"
    assert (found.partitions, found.kafka_replication, found.fictional_numbers) == (12, 3, False)


def test_a_relay_alone_needs_no_key_and_makes_nothing_that_another_reads() -> None:
    told = {name: value for name, value in REQUIRED.items() if name not in ("subject_keys", "field_keys")}
    relay, other = ServiceSettings(**told, roles="relay"), ServiceSettings(**told, roles="relay")
    assert relay.keyless
    sealed = FieldKeys(relay.field_keys, subject_keys).seal("a text", "text:1")
    with pytest.raises(Unreadable):
        FieldKeys(other.field_keys, subject_keys).unseal(sealed, "text:1")
    assert not ServiceSettings(**REQUIRED, roles="relay").keyless
    for roles in ("api", "worker", "projection", "worker,relay", "all"):
        with pytest.raises(ValidationError) as refused:
            ServiceSettings(**told, roles=roles, auth_key=KEY)
        assert {each["loc"]: each["type"] for each in refused.value.errors()} == {
            ("subject_keys",): "missing",
            ("field_keys",): "missing",
        }


def test_settings_do_not_change_once_built() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ServiceSettings(**REQUIRED, auth_key=KEY).partitions = 3  # type: ignore[misc]


def test_no_key_shows() -> None:
    shown = repr(ServiceSettings(**REQUIRED, auth_key=KEY))
    assert KEY not in shown
    assert KEY_RING["keys"]["t1"] not in shown


@pytest.mark.parametrize(
    "wrong",
    [{"partitions": 0}, {"relay_batch": 0}, {"watermark_every_s": 0}, {"max_clock_skew_s": -1}, {"port": 70000}],
)
def test_a_setting_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ServiceSettings(**REQUIRED, auth_key=KEY, **wrong)


SASL: dict[str, Any] = {"kafka_sasl": "SCRAM-SHA-512", "kafka_user": "consent", "kafka_password": "a word of passage"}


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (SASL, "TLS"),  # no password in the clear
        ({"kafka_ca_file": __file__}, "TLS"),
        ({"kafka_tls": True, "kafka_sasl": "PLAIN", "kafka_user": "consent"}, "go together"),
        ({"kafka_tls": True, "kafka_password": "a word of passage"}, "go together"),
        ({"kafka_tls": True, "kafka_cert_file": __file__}, "go together"),
        ({"kafka_tls": True, "kafka_ca_file": "/nowhere/ca.pem"}, "kafka_ca_file"),
        ({"kafka_tls": True, **SASL, "kafka_sasl": "GSSAPI"}, "kafka_sasl"),
    ],
)
def test_a_broker_half_told_who_we_are_is_not_asked(told: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        ServiceSettings(**REQUIRED, auth_key=KEY, **told)


def test_every_client_reaches_the_brokers_in_the_same_way() -> None:
    plain = ServiceSettings(**REQUIRED, auth_key=KEY)
    assert connection(plain) == {"bootstrap_servers": "127.0.0.1:9092"}
    secure = ServiceSettings(**REQUIRED, auth_key=KEY, kafka_tls=True)
    told = connection(secure)
    assert told["security_protocol"] == "SSL"
    assert (told["ssl_context"].check_hostname, told["ssl_context"].verify_mode) == (True, ssl.CERT_REQUIRED)
    named = ServiceSettings(**REQUIRED, auth_key=KEY, kafka_tls=True, **SASL)
    assert connection(named) | {"ssl_context": None} == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "SASL_SSL",
        "ssl_context": None,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "consent",
        "sasl_plain_password": "a word of passage",
    }
    assert "a word of passage" not in repr(named)


def test_rules_that_cannot_be_read_start_nothing(tmp_path: Path) -> None:
    house = tmp_path / "house.json"
    with pytest.raises(ValidationError, match="No such file"):
        HoursSettings(**REQUIRED, auth_key=KEY, house_rules=house)
    house.write_text(
        '{"version": "acme-1", "about": "Ours", "rules": [{"id": "a", "layer": "house", "opens": "09:00"}]}'
    )
    with pytest.raises(ValidationError, match="missing required field `source`"):
        HoursSettings(**REQUIRED, auth_key=KEY, house_rules=house)
    house.write_text(house.read_text().replace('"layer"', '"source": "us", "layer"'))
    assert HoursSettings(**REQUIRED, auth_key=KEY, house_rules=house).policy.version.startswith("france-3+acme-1:")


def test_prices_that_cannot_be_read_start_nothing(tmp_path: Path) -> None:
    table = tmp_path / "prices.json"
    with pytest.raises(ValidationError, match="No such file"):
        PricedSettings(**REQUIRED, auth_key=KEY, prices=table)
    table.write_text('{"version": "acme-1", "editions": []}')
    with pytest.raises(ValidationError, match="editions"):
        PricedSettings(**REQUIRED, auth_key=KEY, prices=table)
    table.write_text('{"version": "acme-1", "editions": [{"valid_from": "2026-01-01", "prices": []}]}')
    assert PricedSettings(**REQUIRED, auth_key=KEY, prices=table).price_table.version == "acme-1"
    assert PricedSettings(**REQUIRED, auth_key=KEY).price_table.version == "none"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As an engine mounts secrets: a file each."""
    (tmp_path / "placet_subject_keys").write_text(f"{OF_SUBJECTS}\n")
    (tmp_path / "placet_field_keys").write_text(f"{OF_FIELDS}\n")
    (tmp_path / "placet_database_url").write_text("postgresql://consent:secret@127.0.0.1/consent\n")
    (tmp_path / "placet_auth_key").write_text(KEY + "\n")
    monkeypatch.setenv("PLACET_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
    monkeypatch.setenv("PLACET_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PLACET_DEVELOPMENT", "true")
    return tmp_path


def test_secrets_may_be_files_without_their_last_line_end(folder: Path) -> None:
    found = ServiceSettings()
    assert found.database_url == "postgresql://consent:secret@127.0.0.1/consent"
    assert found.auth_key is not None
    assert found.auth_key.get_secret_value() == KEY
    assert found.subject_keys.current == "k1"


def test_the_environment_goes_before_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_DATABASE_URL", "postgresql://other@127.0.0.1/other")
    assert ServiceSettings().database_url == "postgresql://other@127.0.0.1/other"


def test_a_folder_of_secrets_that_is_none_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_SECRETS_DIR", str(folder / "nothing"))
    with pytest.raises(ValidationError, match=r"(?s)secrets_dir.*not point to a directory"):
        ServiceSettings()
