"""The JSON Schema of each event, checked in under docs/schemas, and what may change in it within a version.

`python -m tests.contract.schemas` (`make schemas`) writes those whose change is additive, and refuses the others. The
comment behind a field of `common.contracts` is the field's description.

Additive is what neither side notices: a new field with a default, new words in a description. Everything else breaks
somebody, and is a v2 beside the v1. A new value of a Literal breaks too: a consumer of yesterday cannot decode it, so a
new intent would make it bury the record, and a buried record may be a STOP.
"""

import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from common.contracts import EVENTS, Event

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "schemas"
CONTRACTS = ROOT / "libs" / "common" / "src" / "common" / "contracts"
DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
PROSE = {"$schema", "title", "description", "examples"}

Schema = dict[str, Any]


def schema_of(event: type[Event]) -> Schema:
    """The same from any Python: from 3.13 on a docstring has no indentation, and before it had."""
    found: Schema = json.loads(  # defaults as JSON has them
        msgspec.json.encode(msgspec.json.schema(event)), object_hook=_without_indentation
    )
    for name, struct in found["$defs"].items():
        for field, schema in struct.get("properties", {}).items():
            if told := comments().get((name, field)):
                schema["description"] = told
    return DIALECT | found


@cache
def comments() -> dict[tuple[str, str], str]:
    """Return the comment behind each field of a struct, by struct and field."""
    found = {}
    for path in CONTRACTS.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        behind = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        for struct in ast.walk(ast.parse(source)):
            if not isinstance(struct, ast.ClassDef):
                continue
            for field in struct.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.lineno in behind:
                    told = behind[field.lineno]
                    found[struct.name, field.target.id] = told[0].upper() + told[1:] + "."
    return found


def _without_indentation(schema: Schema) -> Schema:
    told = schema.get("description")
    return schema | {"description": cleandoc(told)} if isinstance(told, str) else schema


def path_of(event_type: str) -> Path:
    return FOLDER / f"{event_type}.json"


def checked_in(event_type: str) -> Schema | None:
    path = path_of(event_type)
    if not path.exists():
        return None
    found: Schema = json.loads(path.read_text())
    return found


def breaking(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """What changed from `old` to `new` that is not additive, as "path: what"."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield f"{at or '/'}: was {old!r}, is {new!r}"
        return
    for word in sorted((old.keys() | new.keys()) - PROSE - {"properties", "required", "$defs", "enum"}):
        if word not in old or word not in new:
            yield f"{at}/{word}: was {old.get(word)!r}, is {new.get(word)!r}"
        else:
            yield from _breaking_within(old[word], new[word], f"{at}/{word}")
    yield from _unequal_sets(old, new, "enum", at)
    yield from _unequal_sets(old, new, "required", at)
    for group in ("properties", "$defs"):
        before, after = old.get(group, {}), new.get(group, {})
        for name, schema in before.items():
            if name not in after:
                yield f"{at}/{group}/{name}: is gone"
            else:
                yield from breaking(schema, after[name], f"{at}/{group}/{name}")


def _breaking_within(old: Any, new: Any, at: str) -> Iterator[str]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from breaking(before, after, f"{at}/{place}")
    else:
        yield from breaking(old, new, at)


def _unequal_sets(old: Mapping[str, Any], new: Mapping[str, Any], word: str, at: str) -> Iterator[str]:
    before, after = set(old.get(word, ())), set(new.get(word, ()))
    for gone in sorted(map(str, before - after)):
        yield f"{at}/{word}: {gone} is gone"
    for added in sorted(map(str, after - before)):
        yield f"{at}/{word}: {added} is new"


def write() -> int:
    """Write the schemas anew; returns how many were refused."""
    refused = 0
    for event_type, event in EVENTS.items():
        old, new = checked_in(event_type), schema_of(event)
        why = [] if old is None else list(breaking(old, new))
        if why:
            refused += 1
            print(f"{event_type} is not additive: publish a new version beside it\n  " + "\n  ".join(why))  # noqa: T201
        elif old != new:
            path_of(event_type).write_text(json.dumps(new, indent=2, ensure_ascii=False) + "\n")
            print(f"{event_type} written")  # noqa: T201
    return refused


if __name__ == "__main__":
    sys.exit(1 if write() else 0)
