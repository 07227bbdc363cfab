"""Refuse a query parameter that the route does not take: an ignored filter would answer about other things.

A route that records an opt-out or stops messages ignores such a parameter: `?utm_source=…` must lose no STOP.
"""

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from common.web.auth import required_of
from common.web.problems import NotValid, not_valid


async def only_known_parameters(request: Request) -> None:
    """Raise Invalid for an unknown query parameter, with its name (FastAPI dependency of every router).

    FastAPI solves the dependencies of a router first, so a call with an unknown parameter is authenticated and counted
    here. A route without a limit (`Required.limited`) ignores the parameter.
    """
    if not request.scope["query_string"]:
        return
    route: APIRoute = request.scope["route"]
    known = _known(route)
    unknown = sorted({*request.query_params} - known)
    if not unknown:
        return
    for required in required_of(route.dependant):
        if not required.limited:
            return
        await required(request)
    told = f"the operation takes no such parameter; it takes {', '.join(sorted(known)) or 'none'}"
    raise not_valid([NotValid(name, "unknown_parameter", told) for name in unknown])


def _known(route: APIRoute) -> frozenset[str]:
    return frozenset(each.alias for each in get_flat_params(route.dependant) if isinstance(each.field_info, Query))
