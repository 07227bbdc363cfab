"""Settings are read from the environment, and from nothing else of ours."""

import os
from collections.abc import Callable, Mapping

import pytest

from common.settings import ServiceSettings
from tests.unit.deploy.deployed import PREFIX, SETTINGS

Started = Callable[[str, Mapping[str, str]], ServiceSettings]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The settings of a service that is told these variables and no others. Raises ValidationError."""

    def start(service: str, variables: Mapping[str, str]) -> ServiceSettings:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return SETTINGS[service]()

    return start
