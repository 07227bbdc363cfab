"""API servers of the suite: one that nothing is written to, and one for each test that applies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(scratch: Path) -> Iterator[Cluster]:
    """An API server for dry runs."""
    started = Cluster(scratch / "kubernetes")
    started.start()
    yield started
    started.stop()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cluster]:
    """An API server that knows no object of an overlay."""
    started = Cluster(tmp_path / "kubernetes")
    started.start()
    yield started
    started.stop()
