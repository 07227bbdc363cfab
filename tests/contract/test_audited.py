"""Each operation of the services either has a line in the audit log, or says why not."""

import pytest

from common.audit.operations import UNWRITTEN, WRITTEN
from tests.contract.test_edge_ids import FILES, answering
from tests.contract.test_http import operations
from tests.unit.deploy.deployed import SERVICES

OF_OPERATORS = {"callbacks"}  # signed by an operator: no token, and the journal has each
ASKED_OF_WRITES = "the record that the call makes has its caller"


def ids() -> dict[str, set[str]]:
    """By service, the operations that ask for a token."""
    return {
        service: {
            said["operationId"]
            for _, said in operations(service)
            if said["operationId"].partition(".")[0] not in OF_OPERATORS
        }
        for service in SERVICES
    }


def test_of_each_operation_it_is_said_whether_it_has_a_line() -> None:
    every = set().union(*ids().values())
    assert WRITTEN.keys().isdisjoint(UNWRITTEN)
    assert every == WRITTEN.keys() | UNWRITTEN.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_an_operation_that_shows_a_person_has_a_line(service: str) -> None:
    """But those that write: the record has the caller."""
    showing = answering(service).keys() | FILES.get(service, set())
    for name, said in operations(service):
        operation = said["operationId"]
        assert name not in showing or operation in WRITTEN or UNWRITTEN[operation] == ASKED_OF_WRITES, name
