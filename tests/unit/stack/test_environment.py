"""What the local stack tells the services is what the services ask for."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest

from campaign.service import Settings as CampaignSettings
from common.limits import read
from common.settings import ServiceSettings
from consent.service import Settings as ConsentSettings
from dispatch.service import Settings as DispatchSettings
from inbound.service import Settings as InboundSettings
from stack.demo.hostile import PER_HOUR
from stack.environment import (
    ISSUER,
    NEIGHBOUR,
    SCOPES,
    SERVICES,
    Environment,
    Hours,
    Operators,
    operators_asked,
    outer_ring,
    refuse_settings,
    ring_of_current,
    ring_under,
    ring_with,
)
from stack.processes import DidNotStart

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


def test_a_migration_has_the_owner_and_no_key_and_no_service_has_the_owner() -> None:
    environment = Environment()
    told = environment.of_migration("postgresql://r:p@h/d", "postgresql://o:p@h/d")
    assert {name for name in told if name.startswith("PLACET_")} == {"PLACET_DATABASE_URL", "PLACET_OWNER_URL"}
    for service in SERVICES:
        assert "PLACET_OWNER_URL" not in environment.of_service(service, "postgresql://r:p@h/d", "127.0.0.1:2")


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


@pytest.mark.parametrize("service", SETTINGS)
def test_a_setting_of_a_service_in_the_shell_is_refused_and_none_is_dropped(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in type(settings_of(service, Environment(), monkeypatch)).model_fields:
        variable = f"PLACET_{name.upper()}"
        with pytest.raises(DidNotStart, match=f"unset {variable}: .* GATEWAYS=file and ACCOUNTS=file"):
            refuse_settings({variable: "x"})


def test_variables_of_clients_and_tests_are_no_settings() -> None:
    of_clients = ["PLACET_TOKEN", "PLACET_PROFILE", *(f"PLACET_{name.upper()}_URL" for name in SERVICES)]
    refuse_settings(dict.fromkeys([*of_clients, "PLACET_TEST_KAFKA", "HOURS", "PATH"], "x"))


def test_the_operators_of_two_files_are_those_of_the_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateways, accounts = tmp_path / "gateways.json", tmp_path / "accounts.json"
    gateways.write_text('[{"provider": "brevo", "secret": "a-key"}]')
    mine = '{"provider": "brevo", "account": "main", "path_secrets": ["0123456789abcdef"]}'
    instead = '{"provider": "simulator", "account": "main", "secrets": ["0123456789abcdef"]}'
    accounts.write_text(f"[{mine}, {instead}]")
    environment = Environment(operators=operators_asked({"GATEWAYS": str(gateways), "ACCOUNTS": str(accounts)}))
    assert [each.name for each in settings_of("dispatch", environment, monkeypatch).every_gateway] == ["brevo"]
    received = settings_of("inbound", environment, monkeypatch).provider_accounts
    assert sorted(each.provider for each in received) == ["brevo", "simulator", "twilio"]
    [simulator] = [each for each in received if each.provider == "simulator"]
    assert [each.get_secret_value() for each in simulator.secrets] == ["0123456789abcdef"]
    for missing in ("GATEWAYS", "ACCOUNTS"):
        assert "a-key" not in repr(operators_asked({missing: str(gateways)}))


def test_a_gateway_may_name_the_url_of_inbound_svc_that_the_stack_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"provider": "kannel", "user": "u", "secret": "s", "url": "http://127.0.0.1:1", "segments": 2}
    environment = Environment(operators=Operators(gateways=[{**there, "callback_url": "{inbound}/v1/receipts"}]))
    [gateway] = settings_of("dispatch", environment, monkeypatch).every_gateway
    assert gateway.callback_url is not None
    assert gateway.callback_url.get_secret_value() == f"{environment.urls['inbound']}/v1/receipts"


@pytest.mark.parametrize("variable", ["GATEWAYS", "ACCOUNTS"])
def test_a_file_without_operators_is_refused(variable: str, tmp_path: Path) -> None:
    with pytest.raises(DidNotStart, match=f"{variable}: .*cannot be read"):
        operators_asked({variable: str(tmp_path / "none")})
    for wrong, why in (("[", "is no JSON"), ("{}", "no JSON list of objects"), ("[1]", "no JSON list of objects")):
        (tmp_path / "file").write_text(wrong)
        with pytest.raises(DidNotStart, match=f"{variable}: .*{why}"):
            operators_asked({variable: str(tmp_path / "file")})


def test_the_token_covers_every_scope_and_sender() -> None:
    environment = Environment()
    claims = jwt.decode(environment.token(), environment.auth_key, ["HS256"], audience=ISSUER, issuer=ISSUER)
    assert (claims["scope"], claims["senders"]) == (SCOPES, "*")


def test_the_neighbours_token_is_of_another_organisation_which_operates_nothing() -> None:
    environment = Environment()
    tokens = {
        name: jwt.decode(token, environment.auth_key, ["HS256"], audience=ISSUER, issuer=ISSUER)
        for name, token in environment.tokens().items()
    }
    assert len({claims["sub"] + claims["organisation"] for claims in tokens.values()}) == len(tokens) == 4
    for name, claims in tokens.items():
        assert (claims["organisation"] != tokens["TOKEN"]["organisation"]) == name.startswith("NEIGHBOUR")
    for name in ("NEIGHBOUR_TOKEN", "NEIGHBOUR_COLLEAGUE_TOKEN"):
        lacking = {"platform:admin", "message:send:override"}
        assert set(tokens[name]["scope"].split()) == set(SCOPES.split()) - lacking


def test_both_organisations_may_use_the_shared_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of("consent", Environment(), monkeypatch).shared_codes == {"36111"}


def test_the_hostile_caller_knows_the_limit_of_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = settings_of("dispatch", Environment(), monkeypatch).limits
    assert limits is not None
    assert read(limits.read_bytes()).of(NEIGHBOUR).per_number_hour == PER_HOUR


def test_the_stack_file_is_for_its_owner_and_holds_urls_and_token(tmp_path: Path) -> None:
    environment = Environment()
    environment.write(tmp_path / "stack.env")
    assert (tmp_path / "stack.env").stat().st_mode & 0o777 == 0o600
    told = dict(line.split("=", 1) for line in (tmp_path / "stack.env").read_text().splitlines())
    assert told["CONSENT_URL"] == environment.urls["consent"]
    assert told.keys() >= {"CAMPAIGN_URL", "DISPATCH_URL", "INBOUND_URL", "SIMULATOR_URL", "TOKEN", "SIMULATOR_SECRET"}
    assert told.keys() >= set(environment.tokens())
    assert os.listdir(tmp_path) == ["stack.env"]


def test_two_stacks_share_no_key_and_no_port() -> None:
    one, other = Environment(), Environment()
    assert one.auth_key != other.auth_key
    assert one.subject_keys != other.subject_keys
    assert not set(one.urls.values()) & set(other.urls.values())


@pytest.mark.parametrize(
    ("kind", "gateway", "topics"),
    [("kafka", "kafka.demo", ("demo",)), ("smpp", "smpp.demo", ("demo",)), ("kannel", "kannel.demo", ())],
)
def test_an_operator_of_another_kind_stands_before_the_simulator(
    kind: str, gateway: str, topics: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment(operators=operators_asked({"OPERATOR": kind}))
    assert [each.name for each in settings_of("dispatch", environment, monkeypatch).every_gateway] == [gateway]
    inbound = settings_of("inbound", environment, monkeypatch)
    assert inbound.kafka_operators == topics
    assert ("kannel" in {each.provider for each in inbound.provider_accounts}) == (kind == "kannel")
    simulator = environment.of_simulator(Path("log"))
    assert (simulator["PLACET_INBOUND_URL"], simulator["PLACET_SIM_IDEMPOTENT"]) == (environment.bridge_url, "1")


def test_an_operator_of_no_known_kind_and_two_gateways_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DidNotStart, match="OPERATOR is one of kafka, smpp, kannel"):
        operators_asked({"OPERATOR": "carrier pigeon"})
    with pytest.raises(DidNotStart, match="leave out GATEWAYS or OPERATOR"):
        operators_asked({"OPERATOR": "smpp", "GATEWAYS": str(tmp_path / "gateways.json")})


def test_a_ring_gets_a_key_and_a_new_current_one_and_loses_the_old_one() -> None:
    before = Environment().field_keys
    wider = ring_with(before, "f2")
    told = json.loads(wider)
    assert (told["current"], sorted(told["keys"])) == ("f1", ["f1", "f2"])
    assert told["keys"]["f1"] == json.loads(before)["keys"]["f1"] != told["keys"]["f2"]
    assert json.loads(ring_under(wider, "f2")) == {**told, "current": "f2"}
    assert json.loads(ring_of_current(ring_under(wider, "f2"))) == {
        "current": "f2",
        "keys": {"f2": told["keys"]["f2"]},
    }


def test_an_outer_key_is_replaced_beside_a_subject_key_that_stays() -> None:
    before = Environment().subject_keys
    wider = outer_ring(before, partial(ring_with, key_id="o2"))
    after = outer_ring(outer_ring(wider, partial(ring_under, key_id="o2")), ring_of_current)
    told, left = json.loads(wider), json.loads(after)
    assert {**told, "outer": {}} == {**left, "outer": {}} == {**json.loads(before), "outer": {}}
    assert (told["outer"]["current"], sorted(told["outer"]["keys"])) == ("o1", ["o1", "o2"])
    assert left["outer"] == {"current": "o2", "keys": {"o2": told["outer"]["keys"]["o2"]}}


def test_links_are_signed_under_the_field_keys_until_they_have_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment()
    assert settings_of("campaign", environment, monkeypatch).link_keys is None
    links = replace(environment, link_keys=ring_with(environment.field_keys, "l1"))
    assert sorted(settings_of("campaign", links, monkeypatch).link_keys.keys) == ["f1", "l1"]
    retired = replace(environment, retired_signing_keys={"p0": "x"})
    assert settings_of("consent", retired, monkeypatch).retired_signing_keys == {"p0": "x"}
