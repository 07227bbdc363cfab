"""Each request is observed once, under the template of its route: never under a path."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from common.db.database import Database, new_metadata
from common.service import Service, create_app
from common.settings import ServiceSettings
from common.telemetry import tracing
from common.web.problems import NotFound
from tests.support.openmetrics import families
from tests.support.running import KEY_RING, SUBJECT_RING

NAME = "sms_http_request_duration_seconds_count"
router = APIRouter(prefix="/v1")


@router.get("/people/{person}")
async def person(person: str) -> str:
    if person == "nobody":
        raise NotFound("the person is unknown")
    if person == "broken":
        raise RuntimeError("broken")
    return person


async def callback(request: Request) -> Response:
    return PlainTextResponse("taken")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    settings = ServiceSettings(
        database_url="postgresql://nobody@127.0.0.1:1/nothing",
        kafka_bootstrap="127.0.0.1:1",
        subject_keys=SUBJECT_RING,
        field_keys=KEY_RING,
        auth_key="a key of thirty-two bytes or more, for tests",
        development=True,
    )
    app = create_app(
        Service(
            name="probe",
            settings=settings,
            metadata=new_metadata(),
            routers=[router],
            quick=[Route("/v1/callbacks/{account}/{secret}", callback, methods=["POST"])],
        )
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://probe") as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/people/anna", "/v1/people/{person}", "2xx"),
        ("HEAD", "/v1/people/anna", "/v1/people/{person}", "2xx"),
        ("GET", "/v1/people/nobody", "/v1/people/{person}", "4xx"),
        ("GET", "/v1/people/broken", "/v1/people/{person}", "5xx"),
        ("POST", "/v1/callbacks/main/a-secret-of-the-path", "/v1/callbacks/{account}/{secret}", "2xx"),
        ("GET", "/livez", "/livez", "2xx"),
        ("GET", "/v1/nothing/like/this", "unmatched", "4xx"),
    ],
)
async def test_a_request_is_observed_under_its_template(
    client: httpx.AsyncClient, method: str, path: str, route: str, status: str
) -> None:
    labels = {"method": method, "route": route, "status": status}
    before = REGISTRY.get_sample_value(NAME, labels) or 0
    total = observed()
    await client.request(method, path)
    assert REGISTRY.get_sample_value(NAME, labels) == before + 1
    assert observed() == total + 1, "observed more than once"
    assert REGISTRY.get_sample_value("sms_http_in_progress_requests") == 0


def observed() -> float:
    return sum(sample.value for family in REGISTRY.collect() for sample in family.samples if sample.name == NAME)


async def test_a_request_with_a_span_is_the_exemplar_of_its_bucket_and_a_probe_of_health_is_not(
    client: httpx.AsyncClient,
) -> None:
    tracing.start_with("probe", InMemorySpanExporter(), at_once=True)
    try:
        answer = await client.get("/v1/people/exemplary")
        await client.get("/livez")
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        shown = await client.get("/metrics", headers=accept)
    finally:
        tracing.stop()
    assert shown.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    traces = {
        sample.labels["route"]: sample.exemplar.labels["trace_id"]
        for family in families(shown.text)
        for sample in family.samples
        if sample.name == "sms_http_request_duration_seconds_bucket" and sample.exemplar
    }
    assert traces["/v1/people/{person}"] == answer.headers["traceparent"].split("-")[1]
    assert not traces.keys() & {"/livez", "/metrics"}
    assert " # {" not in (await client.get("/metrics")).text


async def test_a_method_that_a_caller_invents_is_no_series_of_its_own(client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/v1/people/anna")
    methods = {
        sample.labels["method"] for family in REGISTRY.collect() for sample in family.samples if sample.name == NAME
    }
    assert "BREW" not in methods
    assert "other" in methods


async def test_the_build_names_the_service_and_its_version(client: httpx.AsyncClient) -> None:
    assert 'sms_build_info{python="' in (await client.get("/metrics")).text
    assert 'service="probe",version="0.1.0"} 1.0' in (await client.get("/metrics")).text


def test_a_pool_shows_how_many_of_its_connections_are_in_use() -> None:
    Database("postgresql://nobody@127.0.0.1:1/nothing", pool_size=7).show_pool()
    states = {
        state: REGISTRY.get_sample_value("sms_database_pool_connections", {"state": state})
        for state in ("used", "idle", "most")
    }
    assert states == {"used": 0, "idle": 0, "most": 7}
