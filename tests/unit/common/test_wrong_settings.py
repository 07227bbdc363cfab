"""A process that is told a wrong or an unknown variable ends with a sentence for each, and shows no value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.settings import ServiceSettings
from common.settings.environment import WrongSettings, read
from consent.page.routes import PageSettings
from inbound.service import Settings
from tests.unit.deploy.deployed import PREFIX

RING = '{"current": "k1", "keys": {"k1": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}'
SUBJECT_RING = f'{RING[:-1]}, "outer": {RING.replace("k1", "o1")}}}'
TOLD = {
    "PLACET_DATABASE_URL": "postgresql://inbound:a-word-of-passage@127.0.0.1/inbound",
    "PLACET_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
    "PLACET_SUBJECT_KEYS": SUBJECT_RING,
    "PLACET_FIELD_KEYS": RING,
    "PLACET_AUTH_JWKS_URL": "https://identity.example.internal/jwks",
    "PLACET_PLAIN_TEXT": "kafka",
}
SECRET = "a-secret-nobody-may-see"


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables above and no others."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refused(kind: type[ServiceSettings] = ServiceSettings) -> list[str]:
    with pytest.raises(WrongSettings) as error:
        read(kind)
    return str(error.value).splitlines()


def test_right_settings_are_read() -> None:
    assert read(ServiceSettings).partitions == 12


def test_work_is_dealt_to_a_multiple_of_the_partitions_of_people(told: pytest.MonkeyPatch) -> None:
    assert read(ServiceSettings).wide_partitions == 12
    told.setenv("PLACET_WORK_PARTITIONS", "24")
    assert read(ServiceSettings).wide_partitions == 24
    told.setenv("PLACET_WORK_PARTITIONS", "18")
    assert any("set a multiple of PLACET_PARTITIONS, which is 12" in line for line in refused())


def test_a_misspelt_variable_is_refused_and_the_right_one_named(told: pytest.MonkeyPatch) -> None:
    told.setenv("PLACET_PARTITONS", "24")
    assert refused() == [
        "PLACET_PARTITONS is no setting of this service: write PLACET_PARTITIONS, or unset it (docs/settings.md)"
    ]


def test_a_variable_of_another_service_is_refused(told: pytest.MonkeyPatch) -> None:
    told.setenv("PLACET_GATEWAYS", "[]")
    assert refused() == ["PLACET_GATEWAYS is no setting of this service: unset it (docs/settings.md)"]


def test_a_variable_may_be_written_in_lower_case_as_pydantic_reads_it(told: pytest.MonkeyPatch) -> None:
    told.setenv("placet_partitions", "24")
    assert read(ServiceSettings).partitions == 24


def test_an_unknown_file_among_the_secrets_is_refused(told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "placet_feld_keys").write_text(RING)
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a Secret
    told.setenv("PLACET_SECRETS_DIR", str(tmp_path))
    assert refused() == [
        "placet_feld_keys is no setting of this service: write PLACET_FIELD_KEYS, or unset it (docs/settings.md)"
    ]


def test_every_wrong_variable_is_told_at_once(told: pytest.MonkeyPatch) -> None:
    told.delenv("PLACET_DATABASE_URL")
    told.setenv("PLACET_PARTITIONS", "0")
    told.setenv("PLACET_ROLE", "api")
    assert refused() == [
        "PLACET_ROLE is no setting of this service: write PLACET_ROLES, or unset it (docs/settings.md)",
        "PLACET_DATABASE_URL is required: set it, or mount placet_database_url in the folder of PLACET_SECRETS_DIR"
        " (docs/settings.md)",
        "PLACET_PARTITIONS is wrong: input should be greater than or equal to 1. Correct it (docs/settings.md)",
    ]


def test_settings_that_do_not_go_together_say_so_in_their_own_words(told: pytest.MonkeyPatch) -> None:
    told.setenv("PLACET_KAFKA_USER", "inbound")
    assert refused() == ["PLACET_KAFKA_SASL, PLACET_KAFKA_USER and PLACET_KAFKA_PASSWORD go together"]


def test_a_place_inside_a_setting_is_named(told: pytest.MonkeyPatch) -> None:
    told.setenv("PLACET_PROVIDER_ACCOUNTS", f'[{{"provider": "twilio", "account": "Main", "secrets": ["{SECRET}"]}}]')
    [line] = refused(Settings)
    assert line.startswith("PLACET_PROVIDER_ACCOUNTS[0].account is wrong: string should match pattern")


@pytest.mark.parametrize("value", [f'[{{"secrets": "{SECRET}"', f'["{SECRET}"]', f'[{{"secrets": "{SECRET}"}}]'])
def test_no_value_is_shown(told: pytest.MonkeyPatch, value: str) -> None:
    told.setenv("PLACET_PROVIDER_ACCOUNTS", value)
    lines = refused(Settings)
    assert lines
    assert all(line.startswith("PLACET_PROVIDER_ACCOUNTS") and SECRET not in line for line in lines)


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inbound", *arguments]
    return subprocess.run(command, env={**TOLD, **more}, capture_output=True, text=True, timeout=60)


def test_the_process_ends_with_the_sentence_and_nothing_else() -> None:
    done = run(PLACET_PARTITONS="24")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "PLACET_PARTITONS is no setting of this service: write PLACET_PARTITIONS, or unset it (docs/settings.md)"
    ]


def test_the_check_starts_nothing_and_tells_what_would_start() -> None:
    done = run("settings", "--check", PLACET_ROLES="worker,relay")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "inbound-svc would start with these settings, in the roles relay, worker\n"


def test_the_check_finds_a_key_that_is_too_short() -> None:
    done = run("settings", "--check", PLACET_FIELD_KEYS='{"current": "k1", "keys": {"k1": "AAAA"}}')
    assert done.returncode == 1
    assert done.stderr.startswith("PLACET_FIELD_KEYS is wrong: ")
    assert "AAAA" not in done.stderr


def test_a_page_without_tls_is_refused_outside_development(told: pytest.MonkeyPatch) -> None:
    told.setenv("PLACET_PAGE_URL", "http://p.example")
    assert refused(PageSettings) == ["PLACET_PAGE_URL is no https: browsers keep the page's cookie over https alone"]
    told.setenv("PLACET_DEVELOPMENT", "true")
    assert not read(PageSettings).page_over_tls
    told.setenv("PLACET_DEVELOPMENT", "false")
    told.setenv("PLACET_PAGE_URL", "https://p.example")
    assert read(PageSettings).page_over_tls
