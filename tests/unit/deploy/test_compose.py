"""docker-compose.yml says what the services read: each variable is a setting, each address is somebody's."""

import re
from typing import Any, cast

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

import dispatch.service
import inbound.service
from common.contracts import TOPICS
from tests.unit.deploy.conftest import Started
from tests.unit.deploy.deployed import HTTP_GRACE_S, PREFIX, SERVICES, compose, text, unknown

CONTAINERS: dict[str, Any] = compose()["services"]
OURS = (*SERVICES, "simulator")


def migration(service: str) -> dict[str, Any]:
    return cast(dict[str, Any], CONTAINERS[f"{service}-migrate"])


def test_it_holds_the_servers_the_services_their_migrations_and_the_simulator() -> None:
    assert set(CONTAINERS) == {
        *("postgres", "kafka", "dispatch-projection"),
        *OURS,
        *(f"{name}-migrate" for name in SERVICES),
    }
    assert CONTAINERS["postgres"]["image"] == "postgres:17"
    assert CONTAINERS["kafka"]["image"].startswith("apache/kafka:4.")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_it_is_told_and_ignores_none_of_it(service: str, started: Started) -> None:
    told = CONTAINERS[service]["environment"]
    assert unknown(service, told) == set()
    settings = started(service, told)
    assert settings.roles == {"api", "worker", "relay"} | ({"projection"} if service != "dispatch" else set())
    assert settings.fictional_numbers
    assert settings.kafka_replication == 1


def test_the_services_agree_on_partitions_keys_and_who_calls(started: Started) -> None:
    settings = [started(name, CONTAINERS[name]["environment"]) for name in SERVICES]
    for shared in ("partitions", "subject_keys", "field_keys", "kafka_bootstrap", "auth_key", "auth_issuer"):
        assert len({repr(getattr(s, shared)) for s in settings}) == 1, shared
    assert all(s.auth_key == settings[0].auth_key for s in settings)


def test_marketing_keeps_french_hours_unless_told_otherwise(started: Started) -> None:
    assert CONTAINERS["campaign"]["environment"]["PLACET_HOURS"] == "france"
    assert CONTAINERS["dispatch"]["environment"]["PLACET_HOURS"] == "france"
    assert text("docker-compose.yml").count("${PLACET_HOURS:-france}") == 1


def test_whoever_publishes_or_reads_a_topic_is_there() -> None:
    assert {t.owner for t in TOPICS} | {c for t in TOPICS for c in t.consumers} <= set(CONTAINERS)
    assert CONTAINERS["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_opt_outs_reach_the_gate_in_a_process_of_their_own(started: Started) -> None:
    apart, dispatch = CONTAINERS["dispatch-projection"], CONTAINERS["dispatch"]
    assert started("dispatch", apart["environment"]).roles == {"projection"}
    for same in ("image", "healthcheck", "depends_on"):
        assert apart[same] == dispatch[same]
    others = {"PLACET_ROLES": None}
    assert apart["environment"] | others == dispatch["environment"] | others


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_and_a_database_are_made_for_each_service(service: str) -> None:
    url = make_url(CONTAINERS[service]["environment"]["PLACET_DATABASE_URL"])
    assert (url.username, url.host, url.port, url.database) == (service, "postgres", 5432, service)
    made = text("deploy/compose/postgres/roles.sql")
    assert f"CREATE ROLE {service} LOGIN PASSWORD '{url.password}';" in made
    assert f"CREATE DATABASE {service} OWNER {service};" in made
    (closed,) = re.findall(r"REVOKE ALL ON DATABASE (.*) FROM PUBLIC;", made)
    assert {service, "postgres", "template1"} <= set(closed.split(", "))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_after_its_migration_which_runs_once_in_the_same_image(service: str) -> None:
    job = migration(service)
    assert (job["image"], job["environment"]) == (CONTAINERS[service]["image"], CONTAINERS[service]["environment"])
    assert (job["command"], job["restart"]) == (["migrate"], "no")
    assert job["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert CONTAINERS[service]["depends_on"] == {
        f"{service}-migrate": {"condition": "service_completed_successfully"},
        "kafka": {"condition": "service_healthy"},
    }


def test_the_simulator_and_the_services_know_each_other(started: Started) -> None:
    simulator = CONTAINERS["simulator"]["environment"]
    sending = cast(dispatch.service.Settings, started("dispatch", CONTAINERS["dispatch"]["environment"]))
    receiving = cast(inbound.service.Settings, started("inbound", CONTAINERS["inbound"]["environment"]))
    assert str(sending.gateway_url) == "http://simulator:8000/"
    assert sending.gateway_token.get_secret_value() == simulator["PLACET_SIM_TOKEN"]
    assert [(a.provider, a.account, a.secrets) for a in receiving.provider_accounts] == [
        ("simulator", "main", (SecretStr(simulator["PLACET_SIM_SECRET"]),))
    ]
    assert simulator["PLACET_INBOUND_URL"] == "http://inbound:8000"


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert published == [f"127.0.0.1:{8001 + n}:8000" for n in range(len(OURS))]


@pytest.mark.parametrize("name", [*OURS, *(f"{service}-migrate" for service in SERVICES)])
def test_our_containers_can_change_nothing_and_gain_nothing(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_given_the_time_it_takes_to_stop(service: str, started: Started) -> None:
    grace_s = int(CONTAINERS[service]["stop_grace_period"].removesuffix("s"))
    assert grace_s > started(service, CONTAINERS[service]["environment"]).drain_s + HTTP_GRACE_S


def test_that_its_keys_are_public_is_said_first() -> None:
    opening = text("docker-compose.yml").partition("\nservices:")[0]
    assert "EVERY KEY, PASSWORD AND TOKEN IN THIS FILE IS PUBLIC" in opening


def test_the_token_is_made_of_what_the_services_are_told() -> None:
    read = set(re.findall(rf'"({PREFIX}\w+)"', text("deploy/compose/token.py")))
    assert read == {"PLACET_AUTH_KEY", "PLACET_AUTH_ISSUER", "PLACET_AUTH_AUDIENCE"}
    assert read <= set(CONTAINERS["consent"]["environment"])
