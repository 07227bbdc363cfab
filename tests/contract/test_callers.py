"""Each route compares its caller with what is asked for: a route that forgets to fails here before it ships.

Looked at is the code: the route's function, and the functions of our packages that it names, and so on.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from common.audit import api as audit
from common.kafka import dead_letters
from common.web.auth import required_of
from consent import calls
from tests.contract.test_http import built

COMPARES = {"may_use", "seen", "theirs", "covered", "may_operate"}  # of `Caller`
OPEN = {  # the answer is for all, or an operator of a network calls
    "GET /.well-known/jwks.json",
    "OPTIONS /v1/imports",
}
ELSEWHERE = {
    "GET /v1/audit",  # a line is of an organisation: `common.audit.api._readable`
    "GET /v1/audit.jsonl",
    "POST /v1/consents",  # `consent.api._record_together`, many calls at once
    "POST /v1/opt-outs",
    "POST /v1/senders",  # the sender is new: `may_name`, and the registry's owners
}
SIGNED = ("/v1/callbacks/", "/p/", "/c/", "/l/", "/s/", "/m/")  # operators, and people with a link
SERVICES = ("consent", "campaign", "dispatch", "inbound")


def routes(service: str) -> list[APIRoute]:
    routers = (*built(service).routers, dead_letters.router, audit.router)
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def named(function: Callable[..., Any]) -> Iterator[str | Callable[..., Any]]:
    """The attributes that a function reads, and the functions of our packages that it names."""
    function = inspect.unwrap(function)
    scope = {**getattr(function, "__globals__", {}), **inspect.getclosurevars(function).nonlocals}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.value, ast.Name) and inspect.ismodule(module := scope.get(node.value.id)):
                yield getattr(module, node.attr, "")
        elif isinstance(node, ast.Name):
            yield node.id
            yield scope.get(node.id, "")


def compares(function: Callable[..., Any], by: Collection[str] = frozenset(COMPARES)) -> bool:
    seen: set[object] = set()
    waiting: list[Callable[..., Any]] = [function]
    while waiting:
        one = waiting.pop()
        seen.add(one)
        for found in named(one):
            if (found is calls.purposes_of and "seen" in by) or (isinstance(found, str) and found in by):
                return True
            if inspect.isfunction(found) and found not in seen and found.__module__.partition(".")[0] in SERVICES:
                waiting.append(found)
    return False


def compared(route: APIRoute, by: Collection[str] = frozenset(COMPARES)) -> bool:
    """Return whether a route compares, in its function or in the dependency that names its caller."""
    by_dependency = any(required.platform for required in required_of(route.dependant))
    return compares(route.endpoint, by) or ("may_operate" in by and by_dependency)


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_compares_its_caller_with_what_is_asked_for(service: str) -> None:
    asked = {f"{method} {route.path}": route for route in routes(service) for method in route.methods or ()}
    apart = {name for name in asked if name.partition(" ")[2].startswith(SIGNED)} | OPEN | ELSEWHERE
    forgotten = {name for name, route in asked.items() if not compared(route)}
    assert asked
    assert forgotten <= apart


def test_a_route_that_forgets_its_caller_is_found() -> None:
    async def forgets(campaign_id: str, caller: Any) -> str:
        return campaign_id

    async def minds(campaign_id: str, caller: Any) -> str:
        return str(await caller.theirs(None, None, campaign_id))

    assert not compares(forgets)
    assert compares(minds)


AWAITED = {"may_use", "seen", "theirs", "covered", "controllers", "controller_of"}
SOURCES = sorted((Path(__file__).parents[2] / "services").glob("*/src/**/*.py"))


def mistaken(source: str) -> list[int]:
    """Lines where a comparison is not awaited, and so never made, or where a module compares by itself."""
    tree = ast.parse(source)
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in AWAITED
            and isinstance(node.func.value, ast.Name | ast.Attribute)
            and ast.unparse(node.func.value).endswith("caller")
            and id(node) not in awaited
        )
        or (isinstance(node, ast.Attribute) and node.attr == "senders" and ast.unparse(node.value).endswith("caller"))
    ]


def test_a_comparison_is_awaited_and_made_by_the_caller_alone() -> None:
    found = {str(path): lines for path in SOURCES if (lines := mistaken(path.read_text(encoding="utf-8")))}
    assert found == {}
    assert mistaken("caller.may_use(sender_id)\n") == mistaken("call.caller.senders is None\n") == [1]
    assert mistaken("async def f():\n    await self.caller.may_use(sender_id)\n") == []
