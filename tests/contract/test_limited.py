"""Every route that names its caller is limited, but for those that stop messages: shown by the routes."""

import pytest

from common.web.auth import required_of
from tests.contract.test_callers import SERVICES, SIGNED, routes
from tests.contract.test_http import operations

NEVER_LIMITED = {  # each may record that a person stops, or stops messages
    "consent": {
        "POST /v1/opt-outs",
        "POST /v1/erasures",
        "POST /v1/imports",
        "POST /v1/reconciliations",
        "OPTIONS /v1/imports",
        "HEAD /v1/imports/{import_id}",
        "PATCH /v1/imports/{import_id}",
        "POST /v1/senders/{sender_id}/reopening-rules/{rule_id}/end",
    },
    "inbound": {"POST /v1/reviews/{mo_id}/decision", "POST /v1/reviews/decisions"},
    "campaign": {
        "POST /v1/campaigns/{campaign_id}/pause",
        "POST /v1/campaigns/{campaign_id}/cancel",
        "POST /v1/templates/{template_id}/retire",
    },
    "dispatch": set(),
}
OF_ALL = {"POST /v1/dead-letters/{letter_id}/{decision}"}  # the record may be a STOP
ANONYMOUS = {"GET /.well-known/jwks.json"}  # besides operators' callbacks and people's pages (SIGNED), without a token


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_is_limited_but_for_those_that_stop_messages(service: str) -> None:
    found: dict[str, list[bool]] = {}
    for route in routes(service):
        for method in route.methods or ():
            found[f"{method} {route.path}"] = [required.limited for required in required_of(route.dependant)]
    documented = {name for name, _ in operations(service)}
    assert documented <= {*found, *(name for name in documented if name.split()[1].startswith(SIGNED))}
    assert {name for name, counted in found.items() if False in counted} == NEVER_LIMITED[service] | OF_ALL
    unnamed = {name for name, counted in found.items() if not counted}
    assert {name for name in unnamed if not name.split()[1].startswith(SIGNED)} <= ANONYMOUS
