"""Each bound of a test outlasts a machine that stands still for ten seconds, as busy ones do: only a failure waits.

No bound is above a minute where a lock is held: the server ends a transaction that has stood idle for so long, and the
test would see what waits for the lock go on.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
AT_LEAST_S = 30
NO_WAIT_S = 1  # a shorter one is what the test wants to see end, or a pause


def _bound(call: ast.Call) -> ast.expr | None:
    """Return the seconds that a call waits at most, where the call says so."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    match _name(call):
        case "timeout" | "wait_for":
            return given.get("timeout") or (call.args[-1] if call.args else None)
        case "wait":
            return given.get("timeout")
        case "eventually" | "soon" | "answered":
            return given.get("within_s") or (call.args[1] if len(call.args) > 1 else None)
        case "AsyncClient" if not given.keys() & {"timeout", "transport"}:
            return ast.Constant(5)
    return None


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def _hasty(source: str) -> Iterator[int]:
    """Yield the lines of calls that give up too soon."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        bound = _bound(node)
        seconds = bound.value if isinstance(bound, ast.Constant) else None
        if isinstance(seconds, int | float) and NO_WAIT_S <= seconds < AT_LEAST_S:
            yield node.lineno


def test_no_bound_is_shorter_than_a_machine_may_stand_still() -> None:
    files = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    found = [f"{path.relative_to(TESTS)}:{line}" for path in files for line in _hasty(path.read_text())]
    assert len(files) > 100
    assert found == []


def test_a_hasty_call_is_found() -> None:
    hasty = ("asyncio.timeout(10)", "asyncio.wait_for(it, 20)", "eventually(it, within_s=5.0)", "httpx.AsyncClient()")
    assert [[*_hasty(one)] for one in hasty] == [[1]] * len(hasty)
    calm = ("asyncio.timeout(30)", "asyncio.wait_for(it, 0.1)", "eventually(it)", "httpx.AsyncClient(timeout=60)")
    assert [[*_hasty(one)] for one in calm] == [[]] * len(calm)
