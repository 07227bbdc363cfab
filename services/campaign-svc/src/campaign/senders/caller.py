"""Hand a route the database of the caller's organisation: any `api` process takes any call."""

from typing import Any

from fastapi import Request

from common.service import Resources


async def of_caller(request: Request) -> Any:
    """Return the Resources with the database of the caller's organisation, where shards are of organisations."""
    held: Resources[Any] = request.state.resources
    if not held.shards.divided:
        return held
    known = getattr(request.state, "authenticated", None)  # where the route has asked for its caller first
    caller = known.caller if known else await request.state.authenticator.caller(request.headers.get("authorization"))
    return held.of_shard(held.shard_of(caller.organisation))
