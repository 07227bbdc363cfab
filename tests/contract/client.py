"""`python -m tests.contract.client` (`make client`) writes the typed parts of the Python client."""

from clients import generate
from tests.contract.test_http import openapi
from tests.unit.deploy.deployed import SERVICES


def documents() -> generate.Documents:
    """Return the OpenAPI documents of the code."""
    return {service: openapi(service) for service in SERVICES}


if __name__ == "__main__":
    generate.write(documents())
