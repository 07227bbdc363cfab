"""The scalers of production add and remove replicas by lag and by the age of consents, on a cluster with KEDA.

The pods' metrics are the services' own, in a Prometheus; the replicas are those a Deployment asks for. A cluster waits
10 minutes before it removes a replica: this one does not.
"""

import copy
import logging
import time
from collections.abc import Iterator, Mapping

import pytest

from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_MESSAGES, INBOUND_MESSAGES, STATES, Topic
from tests.contract.manifests import rendered
from tests.kubernetes.cluster import Cluster, Json
from tests.kubernetes.scaling import Scaling
from tests.support.eventually import eventually
from tests.unit.deploy.overlays import of

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(900)

WITHIN_S = 240.0  # a scaler doubles, or adds 4 pods, in 15 s
STABILIZATION_S = 600  # of production's scalers
LEAST, MOST, WITHOUT_METRICS = 2, 12, 4
SCALED = ("consent-worker", "campaign-worker", "dispatch-worker", "dispatch-projection")
RESTING = dict.fromkeys(SCALED, LEAST)
READ = (INBOUND_MESSAGES, DISPATCH_MESSAGES, CAMPAIGN_REQUESTS, STATES)
FRESH_S = 0.6


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaling]:
    """A cluster with production's Deployments and scalers, and no backlog."""
    cluster = Cluster(tmp_path_factory.mktemp("scaled"))
    cluster.start()
    started = Scaling(cluster)
    try:
        show(started)
        started.start()
        cluster.kubectl(
            "apply", "--filename=-", given=[hurried(each, started.address) for each in rendered("production")]
        )
        yield started
    finally:
        started.stop()
        cluster.stop()


def hurried(each: Json, prometheus: str) -> Json:
    """Return an object as the test applies it: a scaler asks the test's Prometheus, and removes replicas at once."""
    if each["kind"] != "ScaledObject":
        return each
    changed = copy.deepcopy(each)
    for trigger in changed["spec"]["triggers"]:
        trigger["metadata"]["serverAddress"] = prometheus
    down = changed["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] == STABILIZATION_S
    down["stabilizationWindowSeconds"] = 0
    return changed


def show(scaling: Scaling, topic: Topic | None = None, records: float = 0, age_s: float = FRESH_S) -> None:
    """Have each of the two pods show this lag of a topic, and this age of consents."""
    none = {each.name: 0.0 for each in READ}
    scaling.pods.show(none if topic is None else none | {topic.name: records}, age_s)


async def become(scaling: Scaling, wanted: Mapping[str, int]) -> None:
    """Wait until the Deployments ask for these replicas."""
    begun = time.monotonic()
    seen: dict[str, int] = {}

    async def looks() -> bool:
        nonlocal seen
        if (found := scaling.replicas()) != seen:
            changed = [f"{name} {each}" for name, each in found.items() if seen.get(name) != each]
            log.info("after %.0f s: %s", time.monotonic() - begun, ", ".join(changed))
            seen = found
        assert found == wanted, scaling.state()
        return True

    await eventually(looks, WITHIN_S)


def test_each_scaler_of_production_is_tried() -> None:
    assert {each["metadata"]["name"] for each in of(rendered("production"), "ScaledObject")} == set(SCALED)


@pytest.mark.parametrize(
    ("topic", "records", "name", "replicas"),
    [
        (INBOUND_MESSAGES, 1_000, "consent-worker", 4),
        (DISPATCH_MESSAGES, 60_000, "campaign-worker", 6),
        (CAMPAIGN_REQUESTS, 30_000, "dispatch-worker", 3),
        (CAMPAIGN_REQUESTS, 1_000_000, "dispatch-worker", MOST),
        (STATES, 5_000, "dispatch-projection", 5),
    ],
    ids=["MOs", "outcomes", "requests", "a great campaign", "consents"],
)
async def test_lag_adds_replicas_and_its_end_removes_them(
    scaling: Scaling, topic: Topic, records: float, name: str, replicas: int
) -> None:
    await become(scaling, RESTING)
    show(scaling, topic, records)
    try:
        await become(scaling, RESTING | {name: replicas})
    finally:
        show(scaling)
    await become(scaling, RESTING)


async def test_the_age_of_consents_adds_replicas_and_fresh_ones_remove_them(scaling: Scaling) -> None:
    await become(scaling, RESTING)
    show(scaling, age_s=3.5)
    try:
        await become(scaling, RESTING | {"dispatch-projection": 4})
    finally:
        show(scaling)
    await become(scaling, RESTING)


async def test_consents_as_old_as_marketing_takes_add_no_replica(scaling: Scaling) -> None:
    """Marketing is held above 2 s."""
    await become(scaling, RESTING)
    show(scaling, age_s=2.0)

    async def counted() -> bool:
        return "1" in scaling.averages("dispatch-projection")

    try:
        await eventually(counted, WITHIN_S)
        assert scaling.replicas() == RESTING
    finally:
        show(scaling)


async def test_without_prometheus_each_has_the_replicas_of_the_fallback(scaling: Scaling) -> None:
    await become(scaling, RESTING)
    with scaling.without_prometheus():
        await become(scaling, dict.fromkeys(SCALED, WITHOUT_METRICS))
    await become(scaling, RESTING)
