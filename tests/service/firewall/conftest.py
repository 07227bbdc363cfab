"""The databases of the firewall suite live as long as its module: its tests change nothing of our organisation."""

import pytest


@pytest.fixture(autouse=True)
def databases_go_with_their_test() -> None:
    """In place of the fixture for all service tests, which would drop the databases after the first test."""
