"""Each transaction on a message's way has its points in `tests/service/dispatch/test_fail_points.py`, where a process
is killed in it and right after it, or a reason why not; and the docstring of each module names its points.

Read from the source: an `async with … as tx` is a transaction, and so is what a subscription is given to handle. What
is given the database instead is one statement: a process is killed before it and after it. A point belongs to the one
that calls its function: where several do, to the one that it is `within`.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from tests.service.dispatch.test_fail_points import POINTS

DISPATCH = Path(__file__).parents[2] / "services" / "dispatch-svc" / "src" / "dispatch"
MODULES = ("accepting/api", "api", "sending/pipeline", "projection/apply", "sending/receipts", "sending/timers")
OTHERS = (
    "audit/invariants",
    "audit/replay",
    "gateways/by_smpp/leases",
    "gateways/by_smpp/names",
    "projection/checksum",
    "projection/freshness",
    "projection/rebuild",
    "timeline",
)  # on no message's way
READS = "it writes nothing"
REASONS = {
    "accepting/api:_known": "it is `accepting/api:send` that it is opened for",
    "accepting/api:_claim": "a claim alone holds back no repeat, which finds messages on record by their ids",
    "accepting/api:_keep": "the answer alone: without it a repeat finds the messages on record by their ids",
    "api:get_message": READS,
    "api:list_messages": READS,
    "api:search_messages": READS,
    "api:remove_provider_block": "one statement, which is on no message's way; asked again, it answers 404",
    "projection/apply:mark_unreadable": "an upsert in the transaction that steps over the record, as a control's",
    "projection/apply:apply_templates": "an upsert guarded by its version, as a control's",
    "projection/apply:mark_template_unreadable": "an update in the transaction that steps over the record",
    "projection/apply:apply_senders": "an upsert guarded by its version, as a control's",
    "sending/pipeline:Handoff._enforce: any_open": READS,
    "sending/timers:Timers._due": READS,
    "sending/timers:Timers._resolve_left_sending": READS,
    "sending/timers:Timers.wake_controlled: campaigns_to_wake": READS,
    "sending/timers:Timers._look_up": READS,
}
NAMED = re.compile(r"\[([a-z]+-[a-z,\s-]+)\]")


@dataclass(frozen=True)
class Transaction:
    """`names`: who opens it or is given it, and whom these give it on to, of the same module. `calls`: of modules of
    dispatch, as "dispatch.messages.store:accept"."""

    names: tuple[str, ...]
    calls: frozenset[str]
    points: frozenset[str] = frozenset({"after", "committed"})

    @property
    def name(self) -> str:
        return self.names[0]


def transactions(module: str, source: str) -> Iterator[Transaction]:
    functions, imported = dict(_functions(ast.parse(source).body)), _imported(source)
    for name, function in functions.items():
        for block in _own(function):
            if isinstance(block, ast.AsyncWith) and any(_binds_tx(item.optional_vars) for item in block.items):
                yield _transaction(module, name, block.body, functions, imported)
            match block:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=owner), attr=called),
                    args=[ast.Name(id="database") | ast.Attribute(attr="database" | "_database"), *_],
                ) if owner in imported:
                    calls = frozenset({f"{imported[owner]}:{called}"})
                    yield Transaction((f"{module}:{name}",), calls, frozenset({"before", "after"}))
    for handler in _handlers(source):
        [name] = [each for each in functions if each.rpartition(".")[2] == handler]
        yield _transaction(module, name, functions[name].body, functions, imported)


def _imported(source: str) -> dict[str, str]:
    """Return the modules and functions of dispatch by their names in this source: `{"messages":
    "dispatch.messages.store"}`."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dispatch"
        for alias in node.names
    }


def _functions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, ast.AsyncFunctionDef | ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef | ast.FunctionDef):
            if not isinstance(node, ast.ClassDef):
                yield inside + node.name, node
            yield from _functions(node.body, f"{inside}{node.name}.")


def _own(function: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[ast.AST]:
    """What is in it, and in no function that it defines."""
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop(0)
        if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            yield node
            left += ast.iter_child_nodes(node)


def _binds_tx(target: ast.expr | None) -> bool:
    return target is not None and any(isinstance(each, ast.Name) and each.id == "tx" for each in ast.walk(target))


def _handlers(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="Subscription"), args=[_, _, handler], keywords=more):
                for given in [handler, *(keyword.value for keyword in more if keyword.arg == "on_poison")]:
                    yield given.attr if isinstance(given, ast.Attribute) else ast.unparse(given)


def _transaction(
    module: str,
    name: str,
    body: list[ast.stmt],
    functions: dict[str, ast.AsyncFunctionDef | ast.FunctionDef],
    imported: dict[str, str],
) -> Transaction:
    names, calls, left = [f"{module}:{name}"], set(), list[ast.AST](body)
    while left:
        node = left.pop()
        left += ast.iter_child_nodes(node)
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=called), args=[ast.Name(id="tx"), *_]) if (
                owner in imported
            ):
                calls.add(f"{imported[owner]}:{called}")
            case ast.Call(func=ast.Name(id=called), args=[ast.Name(id="tx"), *_]) if called in imported:
                calls.add(":".join(imported[called].rsplit(".", 1)))
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(value=ast.Name(id="self"), attr=called),
                args=[ast.Name(id="tx"), *_],
            ):
                for given_it in functions:
                    if given_it.rpartition(".")[2] == called and f"{module}:{given_it}" not in names:
                        names.append(f"{module}:{given_it}")
                        left += functions[given_it].body
    return Transaction(tuple(names), frozenset(calls))


def _as_named(function: str | None) -> str:
    """`dispatch.sending.timers:Timers.x` as `sending/timers:Timers.x`."""
    module, _, name = (function or "").removeprefix("dispatch.").partition(":")
    return f"{module.replace('.', '/')}:{name}"


def without_a_point(of: list[Transaction]) -> list[str]:
    """The transactions that no process is killed in, or after."""
    callers = Counter(call for each in of for call in each.calls)
    points = [at.point for at in POINTS.values() if at.point is not None]
    bare = []
    for each in of:
        tried = {
            point.when
            for point in points
            for call in each.calls
            if point.function == call and (callers[call] == 1 or _as_named(point.within) in each.names)
        }
        if not each.points <= tried:
            bare.append(each.name)
            if [other.name for other in of].count(each.name) > 1:
                bare[-1] += ": " + ", ".join(sorted(call.rpartition(":")[2] for call in each.calls))
    return sorted(bare)


ALL = [each for module in MODULES for each in transactions(module, (DISPATCH / f"{module}.py").read_text())]


def test_every_module_that_opens_a_transaction_is_looked_at_or_on_no_messages_way() -> None:
    paths = [path for path in sorted(DISPATCH.rglob("*.py")) if path.name != "store.py"]
    named = {str(path.relative_to(DISPATCH).with_suffix("")): path.read_text() for path in paths}
    opens = [name for name, source in named.items() if any(transactions(name, source))]
    assert opens == sorted((*MODULES, *OTHERS))


def test_a_process_is_killed_in_each_transaction_and_after_it_or_there_is_a_reason() -> None:
    assert without_a_point(ALL) == sorted(REASONS)


@pytest.mark.parametrize(
    "more",
    [
        "async def new(self):\n async with self.database.begin() as tx:\n  await messages.accept(tx, [])",
        "async def new(self):\n async with self.database.begin() as tx:\n  await messages.of_its_own(tx)",
        "async def new(self):\n async with self.database.begin() as tx:\n  await store.claim_due(tx, 0)",
        "async def new(tx, batch):\n await messages.settle(tx, [])\nSubscription('a', A_TOPIC, new)",
        "async def new(self):\n return await messages.settle_at_once(self.database, [])",
    ],
    ids=["of what others call", "of a function that is new", "of its own package", "a handler", "one statement"],
)
def test_the_look_finds_one_that_is_new(more: str) -> None:
    imports = "from dispatch.messages import store as messages\nfrom dispatch.sending import store\n"
    assert "new:new" in without_a_point([*ALL, *transactions("new", imports + more)])


def test_a_call_is_known_by_the_module_of_its_function() -> None:
    source = """
from dispatch.messages import store as messages
from dispatch.messages.enforcement import enforce
from dispatch.sending import store
async def new(self):
    async with self.database.begin() as tx:
        await messages.settle(tx, [])
        await store.claim_due(tx, 0)
        await enforce(tx, [])
        await others.accept(tx, [])
"""
    [found] = transactions("new", source)
    assert found.calls == {
        "dispatch.messages.store:settle",
        "dispatch.sending.store:claim_due",
        "dispatch.messages.enforcement:enforce",
    }


def test_each_point_names_a_function() -> None:
    for at in POINTS.values():
        for function in (at.point.function, at.point.within) if at.point else ():
            if function is not None:
                module, _, path = function.partition(":")
                assert attrgetter(path)(import_module(module)), function


def test_each_point_is_named_where_the_code_is() -> None:
    named = Counter[str]()
    for path in DISPATCH.rglob("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        named.update(name for points in NAMED.findall(said) for name in re.split(r",\s+", points))
    assert named == Counter(POINTS.keys())
