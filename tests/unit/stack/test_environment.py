"""What the local stack tells the services is what the services ask for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest

from campaign.service import Settings as CampaignSettings
from common.settings import ServiceSettings
from consent.service import Settings as ConsentSettings
from dispatch.service import Settings as DispatchSettings
from inbound.service import Settings as InboundSettings
from stack.environment import ISSUER, SCOPES, Environment, Hours

SETTINGS: dict[str, Callable[[], ServiceSettings]] = {
    "consent": ConsentSettings,
    "campaign": CampaignSettings,
    "dispatch": DispatchSettings,
    "inbound": InboundSettings,
}


def settings_of(service: str, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in environment.of_service(service, "postgresql://r:p@127.0.0.1:1/d", "127.0.0.1:2").items():
        monkeypatch.setenv(name, value)
    return SETTINGS[service]()


@pytest.mark.parametrize("service", SETTINGS)
def test_every_service_reads_its_settings_from_it(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment()
    settings = settings_of(service, environment, monkeypatch)
    assert environment.urls[service] == f"http://127.0.0.1:{settings.port}"
    assert settings.fictional_numbers
    assert not settings.kafka_idempotence
    assert not settings.kafka_groups
    assert settings.kafka_replication == 1


@pytest.mark.parametrize("brokers", [1, 3])
def test_on_apache_kafka_producers_are_idempotent_groups_are_joined_and_every_broker_has_a_replica(
    brokers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("consent", Environment(kafka=brokers), monkeypatch)
    assert (settings.kafka_idempotence, settings.kafka_groups, settings.kafka_replication) == (True, True, brokers)


@pytest.mark.parametrize("service", ["consent", "campaign", "dispatch"])
def test_who_asks_for_hours_is_told_the_same(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for hours in get_args(Hours):
        assert settings_of(service, Environment(hours=hours), monkeypatch).hours == hours


def test_dispatch_calls_the_simulator_in_the_hours_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(hours="france", more={"dispatch": {"PLACET_GATEWAY_BATCH": "7"}})
    settings = settings_of("dispatch", environment, monkeypatch)
    assert settings.hours == "france"
    assert str(settings.gateway_url).rstrip("/") == environment.urls["simulator"]
    assert settings.gateway_batch == 7


def test_a_stray_setting_of_the_shell_reaches_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_MAX_STALENESS_S", "3600")
    assert "PLACET_MAX_STALENESS_S" not in Environment().of_service("dispatch", "postgresql://", "")


def test_the_token_covers_every_scope_and_sender() -> None:
    environment = Environment()
    claims = jwt.decode(environment.token(), environment.auth_key, ["HS256"], audience=ISSUER, issuer=ISSUER)
    assert (claims["scope"], claims["senders"]) == (SCOPES, "*")


def test_the_stack_file_is_for_its_owner_and_holds_urls_and_token(tmp_path: Path) -> None:
    environment = Environment()
    environment.write(tmp_path / "stack.env")
    assert (tmp_path / "stack.env").stat().st_mode & 0o777 == 0o600
    told = dict(line.split("=", 1) for line in (tmp_path / "stack.env").read_text().splitlines())
    assert told["CONSENT_URL"] == environment.urls["consent"]
    assert told.keys() >= {"CAMPAIGN_URL", "DISPATCH_URL", "INBOUND_URL", "SIMULATOR_URL", "TOKEN", "SIMULATOR_SECRET"}
    assert os.listdir(tmp_path) == ["stack.env"]


def test_two_stacks_share_no_key_and_no_port() -> None:
    one, other = Environment(), Environment()
    assert one.auth_key != other.auth_key
    assert one.subject_keys != other.subject_keys
    assert not set(one.urls.values()) & set(other.urls.values())
