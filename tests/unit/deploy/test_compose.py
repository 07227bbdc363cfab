"""docker-compose.yml says what the services read: each variable is a setting, each address is somebody's."""

import ast
import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.engine import make_url

import consent.service
import dispatch.service
import inbound.service
import stack.environment
import stack.simulator
from common.contracts import TOPICS
from common.web.auth import PLATFORM
from common.web.server import ARRIVAL_S, GRACE_S
from tests.unit.deploy.conftest import Started
from tests.unit.deploy.deployed import KEEPING_HOURS, PREFIX, ROOT, SERVICES, compose, text, unknown

CONTAINERS: dict[str, Any] = compose()["services"]
SECRETS: dict[str, dict[str, str]] = compose()["secrets"]
OURS = (*SERVICES, "simulator")

Told = Callable[[str], dict[str, str]]


def migration(service: str) -> dict[str, Any]:
    return cast(dict[str, Any], CONTAINERS[f"{service}-migrate"])


def secret(name: str) -> str:
    return text(SECRETS[name]["file"].removeprefix("./")).strip()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """The variables of a container, its secrets mounted where they say."""

    def of(name: str) -> dict[str, str]:
        container, mounted = CONTAINERS[name], tmp_path / name
        mounted.mkdir(exist_ok=True)
        for each in container["secrets"]:
            (mounted / each["target"]).write_text(secret(each["source"]) + "\n")
        assert container["environment"]["PLACET_SECRETS_DIR"] == "/run/secrets"
        return {**container["environment"], "PLACET_SECRETS_DIR": str(mounted)}

    return of


def test_it_holds_the_servers_the_services_their_migrations_and_the_simulator() -> None:
    assert set(CONTAINERS) == {
        *("postgres", "kafka", "dispatch-projection"),
        *OURS,
        *(f"{name}-migrate" for name in SERVICES),
    }
    assert CONTAINERS["postgres"]["image"] == "postgres:17"
    assert CONTAINERS["kafka"]["image"].startswith("apache/kafka:4.")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_it_is_told_and_ignores_none_of_it(
    service: str, started: Started, told: Told
) -> None:
    assert unknown(service, CONTAINERS[service]["environment"]) == set()
    assert unknown(service, [each["target"].upper() for each in CONTAINERS[service]["secrets"]]) == set()
    settings = started(service, told(service))
    assert settings.roles == {"api", "worker", "relay"} | ({"projection"} if service != "dispatch" else set())
    assert settings.fictional_numbers
    assert settings.kafka_replication == 1


def test_the_services_agree_on_partitions_keys_and_who_calls(started: Started, told: Told) -> None:
    settings = [started(name, told(name)) for name in SERVICES]
    for shared in ("partitions", "subject_keys", "field_keys", "kafka_bootstrap", "auth_key", "auth_issuer"):
        assert len({repr(getattr(s, shared)) for s in settings}) == 1, shared
    assert all(s.auth_key == settings[0].auth_key for s in settings)


def test_marketing_keeps_french_hours_unless_told_otherwise(started: Started) -> None:
    assert {CONTAINERS[service]["environment"]["PLACET_HOURS"] for service in KEEPING_HOURS} == {"france"}
    assert text("docker-compose.yml").count("${PLACET_HOURS:-france}") == 1


def test_whoever_publishes_or_reads_a_topic_is_there() -> None:
    assert {t.owner for t in TOPICS} | {c for t in TOPICS for c in t.consumers} <= set(CONTAINERS)
    assert CONTAINERS["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_opt_outs_reach_the_gate_in_a_process_of_their_own(started: Started, told: Told) -> None:
    apart, dispatch = CONTAINERS["dispatch-projection"], CONTAINERS["dispatch"]
    assert started("dispatch", told("dispatch-projection")).roles == {"projection"}
    for same in ("image", "healthcheck", "depends_on", "secrets"):
        assert apart[same] == dispatch[same]
    others = {"PLACET_ROLES": None}
    assert apart["environment"] | others == dispatch["environment"] | others


@pytest.mark.parametrize("service", SERVICES)
def test_two_roles_and_a_database_are_made_for_each_service(service: str) -> None:
    """The owner's, for migrations, and the service's. Each password is taken from the address that is told."""
    made = text("deploy/compose/postgres/roles.sql")
    (taken,) = re.findall(r"'\^postgresql:.*@'", made)
    for role, kept in ((service, f"{service}_database_url"), (f"{service}_owner", f"{service}_owner_url")):
        url = make_url(secret(kept))
        assert (url.username, url.host, url.port, url.database) == (role, "postgres", 5432, service)
        assert url.password
        assert re.match(taken.strip("'"), url.render_as_string(hide_password=False)).groups() == (role, url.password)  # type: ignore[union-attr]
        assert f"\\set {role} `cat /run/secrets/{kept}`" in made
        assert f"(:'{role}')" in made
        assert kept in CONTAINERS["postgres"]["secrets"]
    assert f"CREATE DATABASE {service} OWNER {service}_owner;" in made
    assert f"GRANT CONNECT ON DATABASE {service} TO {service};" in made
    (closed,) = re.findall(r"REVOKE ALL ON DATABASE (.*) FROM PUBLIC;", made)
    assert {service, "postgres", "template1"} <= set(closed.split(", "))


@pytest.mark.parametrize("service", SERVICES)
def test_the_owner_is_told_to_the_migration_alone_which_has_no_key(service: str) -> None:
    addresses = [(f"{service}_database_url", "placet_database_url"), (f"{service}_owner_url", "placet_owner_url")]
    assert [(each["source"], each["target"]) for each in migration(service)["secrets"]] == addresses
    for name in OURS:
        assert not [each for each in CONTAINERS[name]["secrets"] if each["source"].endswith("_owner_url")]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_after_its_migration_which_runs_once_in_the_same_image(service: str) -> None:
    job = migration(service)
    assert job["image"] == CONTAINERS[service]["image"]
    assert (job["command"], job["restart"]) == (["migrate"], "no")
    assert job["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert CONTAINERS[service]["depends_on"] == {
        f"{service}-migrate": {"condition": "service_completed_successfully"},
        "kafka": {"condition": "service_healthy"},
    }


def test_the_simulator_and_the_services_know_each_other(
    started: Started, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = cast(dispatch.service.Settings, started("dispatch", told("dispatch")))
    receiving = cast(inbound.service.Settings, started("inbound", told("inbound")))
    for name, value in {**told("simulator"), "PLACET_SIM_PORT": "8000", "PLACET_SIM_LOG": os.devnull}.items():
        monkeypatch.setenv(name, value)
    simulated = stack.simulator.Settings.from_environment()
    assert str(sending.gateway_url) == "http://simulator:8000/"
    assert sending.gateway_token.get_secret_value() == simulated.token
    [account] = receiving.provider_accounts
    assert (account.provider, account.account) == ("simulator", simulated.account)
    assert [each.get_secret_value() for each in account.secrets] == [simulated.secret]
    assert simulated.inbound_url == "http://inbound:8000"


def test_no_secret_is_in_the_environment_and_none_is_mounted_where_it_is_not_needed() -> None:
    """A variable is shown to whoever may look at a container; a file is not."""
    values = {line for name in SECRETS for line in (secret(name), *_inner(secret(name)))}
    shown = json.dumps([container.get("environment", {}) for container in CONTAINERS.values()])
    assert [value for value in values if value in shown] == []
    for service in SERVICES:
        mounted = {each["source"] for each in CONTAINERS[service]["secrets"]}
        assert not mounted & {"postgres_password", *(f"{other}_database_url" for other in SERVICES if other != service)}
    assert CONTAINERS["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"


def _inner(value: str) -> list[str]:
    """Keys within a ring, passwords within an address."""
    return re.findall(r"[A-Za-z0-9+/]{30,}=*", value) + re.findall(r":(development-\w+)@", value)


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
def test_a_service_is_given_the_time_it_takes_to_stop(service: str, started: Started, told: Told) -> None:
    grace_s = int(CONTAINERS[service]["stop_grace_period"].removesuffix("s"))
    settings = started(service, told(service))
    assert grace_s > settings.leave_s + ARRIVAL_S + GRACE_S + settings.drain_s


def test_that_its_keys_are_public_is_said_first() -> None:
    opening = text("docker-compose.yml").partition("\nservices:")[0]
    assert "EVERY KEY, PASSWORD AND TOKEN IN deploy/compose/secrets IS PUBLIC" in opening


def test_the_token_is_made_of_what_the_services_are_told() -> None:
    program = text("deploy/compose/token.py")
    read = set(re.findall(rf'"({PREFIX}\w+)"', program))
    assert read == {"PLACET_SECRETS_DIR", "PLACET_AUTH_ISSUER", "PLACET_AUTH_AUDIENCE"}
    assert read <= set(CONTAINERS["consent"]["environment"])
    assert set(re.findall(r'"(placet_\w+)"', program)) <= {each["target"] for each in CONTAINERS["consent"]["secrets"]}


def test_the_token_is_good_for_all_that_is_asked_for() -> None:
    """As the one of `make up` is; it is made in a container that has no `stack`, so its scopes are written out."""
    (written,) = re.findall(r"^SCOPES = (\(.*?^\))", text("deploy/compose/token.py"), re.MULTILINE | re.DOTALL)
    scopes = set(ast.literal_eval(written).split())
    code = [path.read_text() for folder in ("libs", "services") for path in (ROOT / folder).glob("**/src/**/*.py")]
    checked = [arguments for each in code for arguments in re.findall(r"(?:require|\.may)\(([^()]*)\)", each)]
    asked = {scope for arguments in checked for scope in re.findall(r'"([a-z:_-]+)"', arguments)}
    assert scopes == set(stack.environment.SCOPES.split()) == asked | {PLATFORM}


def test_the_demos_second_organisation_is_there_too(started: Started, told: Told) -> None:
    line = re.compile(r"^TENANT_SCOPES = .*$", re.MULTILINE)
    program = text("deploy/compose/token.py")
    assert line.findall(program) == line.findall(inspect.getsource(stack.environment)) != []
    assert set(re.findall(r"(\w*TOKEN)=", program)) == set(stack.environment.Environment().tokens())
    assert stack.environment.NEIGHBOUR in program
    assert cast(consent.service.Settings, started("consent", told("consent"))).shared_codes == set(
        stack.environment.SHARED_CODES
    )


def test_what_says_where_to_call_says_where_the_containers_are() -> None:
    (names,) = re.findall(r"enumerate\(\((.*)\), start=8001\)", text("deploy/compose/token.py"))
    assert [name.strip('" ').lower() for name in names.split(",")] == list(OURS)
    for n, name in enumerate(OURS):
        assert CONTAINERS[name]["ports"] == [f"127.0.0.1:{8001 + n}:8000"]
