"""A struct crosses a module's border, not a row and not a dictionary of anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = sorted([*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")])
ROWS = {"Row", "RowMapping"}  # of SQLAlchemy


def untyped(source: str) -> Iterator[str]:
    """Yield each `Row` and `dict[str, Any]` of a signature, of a public attribute, or of a name for a type."""
    tree = ast.parse(source)
    rows = set(_rows(tree))
    for node, name, annotation in _annotations(tree):
        for found in _forbidden(annotation, rows):
            yield f"line {node.lineno}: {name} is {found}"


def _annotations(tree: ast.Module) -> Iterator[tuple[ast.stmt, str, ast.expr]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                a = node.args
                for each in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg):
                    if each is not None and each.annotation is not None:
                        yield node, f"{each.arg} of {node.name}", each.annotation
                if node.returns is not None:
                    yield node, f"the return of {node.name}", node.returns
                for inner in ast.walk(node):
                    match inner:
                        case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=said) if _public(name):
                            yield inner, name, said
            case ast.Module(body=body) | ast.ClassDef(body=body):
                for line in body:
                    match line:
                        case ast.AnnAssign(target=ast.Name(id=name), annotation=said) if _public(name):
                            yield line, name, said
                        case ast.Assign(targets=[ast.Name(id=name)], value=said):
                            yield line, name, said  # where the value is the name of a type


def _forbidden(annotation: ast.expr, rows: set[str]) -> Iterator[str]:
    for node in ast.walk(annotation):
        match node:
            case ast.Name(id=name) if name in rows:
                yield name
            case ast.Attribute(attr=name) if name in ROWS:
                yield name
            case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, ast.Name(id="Any")])):
                yield ast.unparse(node)
            case ast.Constant(value=str(written)) if any(word in written for word in (*ROWS, "dict[")):
                yield from _forbidden_in(written, rows)


def _forbidden_in(written: str, rows: set[str]) -> Iterator[str]:
    """Look into an annotation written as a text; any other text is no annotation."""
    try:
        yield from _forbidden(ast.parse(written, mode="eval").body, rows)
    except SyntaxError:
        return


def _rows(tree: ast.Module) -> Iterator[str]:
    """Yield the names under which a module knows SQLAlchemy's rows."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == "sqlalchemy":
                yield from (each.asname or each.name for each in names if each.name in ROWS)


def _public(name: str) -> bool:
    return not name.startswith("_")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_row_and_no_dictionary_of_anything_stands_in_a_signature(path: Path) -> None:
    assert list(untyped(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "def f(row: Row[Any]) -> int: ...",
        "def f(row: Row) -> int: ...",
        "async def f() -> Sequence[Row[Any]]: ...",
        "def f(row: RowMapping) -> int: ...",
        "def f(row: 'Row[Any]') -> int: ...",
        "def f(row: other.Row[Any]) -> int: ...",
        "def f(*, body: dict[str, Any] | None = None) -> int: ...",
        "def f(**rows: Row[Any]) -> int: ...",
        "def _f(row: Row[Any]) -> int: ...",
        "class C:\n    def f(self, row: Row[Any]) -> int: ...",
        "class C:\n    body: dict[str, Any]",
        "class C:\n    def __init__(self) -> None:\n        self.body: dict[str, Any] = {}",
        "BODIES: dict[int, dict[str, Any]] = {}",
        "Rows = Sequence[Row[Any]]",
    ],
)
def test_each_kind_is_found(line: str) -> None:
    assert len(list(untyped(f"from sqlalchemy import Row, RowMapping\n{line}"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "def f(row: tuple[str, int]) -> dict[str, object]: ...",
        "def f() -> None:\n    told: dict[str, Any] = {}",
        "class C:\n    def __init__(self) -> None:\n        self._body: dict[str, Any] = {}",
        "class Row: ...\ndef f(row: Row) -> int: ...",
    ],
)
def test_what_stays_inside_and_what_is_no_row_is_let_be(line: str) -> None:
    assert list(untyped(line)) == []
