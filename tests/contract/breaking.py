"""What changes between two OpenAPI documents that breaks a client written for the first. Pure.

oasdiff knows more kinds, and is a Go program that no Python wheel holds. The kinds here are those that a generated
client, or a caller that sends what the first document allows, would notice.

A request may be widened and never narrowed; an answer may be narrowed and never widened. Operations refuse unknown
parameters and fields, so a parameter or a field that goes breaks its senders.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Schema = Mapping[str, Any]
Way = Literal["request", "answer"]

UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
BOUNDS = {*UPPER, *LOWER}
ANY = "any"


def breaking(old: Schema, new: Schema) -> Iterator[str]:
    """Yield each change that breaks, as "operation: what"."""
    for path, methods in old["paths"].items():
        for method, before in methods.items():
            name = f"{method.upper()} {path}"
            after = new["paths"].get(path, {}).get(method)
            if after is None:
                yield f"{name}: is gone"
                continue
            for change in _Change(old, new).of_operation(before, after):
                yield f"{name}: {change}"


class _Change:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._seen: set[tuple[str, str, Way]] = set()  # models compared before, or being compared

    def of_operation(self, before: Schema, after: Schema) -> Iterator[str]:
        if before["operationId"] != after["operationId"]:
            yield f"operationId was {before['operationId']}, is {after['operationId']}"
        yield from _of_security(before.get("security", ()), after.get("security", ()))
        yield from self._of_parameters(_named(before), _named(after))
        yield from self._of_body(before.get("requestBody"), after.get("requestBody"))
        for status, answer in before["responses"].items():
            if int(status) >= 400:
                continue
            if status not in after["responses"]:
                yield f"answer {status} is gone"
                continue
            contents = after["responses"][status].get("content", {})
            for media_type, content in answer.get("content", {}).items():
                at = f"answer {status}"
                if media_type not in contents:
                    yield f"{at}: {media_type} is gone"
                else:
                    yield from self.of_schema(
                        content.get("schema", {}), contents[media_type].get("schema", {}), "answer", at
                    )

    def _of_parameters(self, before: Mapping[str, Schema], after: Mapping[str, Schema]) -> Iterator[str]:
        for name, parameter in before.items():
            if name not in after:
                yield f"parameter {name} is gone"
                continue
            if after[name]["required"] and not parameter["required"]:
                yield f"parameter {name} is required"
            yield from self.of_schema(parameter["schema"], after[name]["schema"], "request", f"parameter {name}")
        for name in after.keys() - before.keys():
            if after[name]["required"]:
                yield f"parameter {name} is new and required"

    def _of_body(self, before: Schema | None, after: Schema | None) -> Iterator[str]:
        if before is None or after is None:
            if before is not None:
                yield "body is gone"
            elif after is not None and after.get("required"):
                yield "body is new and required"
            return
        if after.get("required") and not before.get("required"):
            yield "body is required"
        for media_type, content in before["content"].items():
            if media_type not in after["content"]:
                yield f"body: {media_type} is gone"
            else:
                yield from self.of_schema(content["schema"], after["content"][media_type]["schema"], "request", "body")

    def of_schema(self, old: Schema, new: Schema, way: Way, at: str) -> Iterator[str]:
        models = (str(old.get("$ref", "")), str(new.get("$ref", "")), way)
        if models[0] and models[1]:
            if models in self._seen:
                return
            self._seen.add(models)
        old, new = _resolved(self._old, old), _resolved(self._new, new)
        before, after = _types(self._old, old), _types(self._new, new)
        old, new = _without_null(self._old, old), _without_null(self._new, new)
        narrow, wide = (before, after) if way == "request" else (after, before)
        if ANY not in wide:
            for gone in sorted(narrow - wide):
                yield f"{at}: {gone} is {'no longer taken' if way == 'request' else 'new'}"
        if way == "request":
            yield from _of_bounds(old, new, at)
        yield from self._of_fields(old, new, way, at)
        for inner in ("items", "additionalProperties"):
            if isinstance(old.get(inner), Mapping) and isinstance(new.get(inner), Mapping):
                yield from self.of_schema(old[inner], new[inner], way, f"{at}[]")
        yield from self._of_alternatives(old, new, way, at)

    def _of_fields(self, old: Schema, new: Schema, way: Way, at: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, field in before.items():
            if name in after:
                yield from self.of_schema(field, after[name], way, f"{at}.{name}")
            elif after:
                yield f"{at}.{name} is gone"
        needed, still = {*old.get("required", ())}, {*new.get("required", ())}
        if way == "request":
            for name in sorted(still - needed):
                yield f"{at}.{name} is required"
        else:
            for name in sorted((needed - still) & after.keys()):
                yield f"{at}.{name} may be missing"

    def _of_alternatives(self, old: Schema, new: Schema, way: Way, at: str) -> Iterator[str]:
        """Compare the models among the alternatives by name: each of the old has to be there, or each of the new."""
        before, after = _alternatives(old), _alternatives(new)
        for name in before.keys() & after.keys():
            yield from self.of_schema(before[name], after[name], way, at)
        for name in sorted(before.keys() - after.keys() if way == "request" else after.keys() - before.keys()):
            if before and after:
                yield f"{at}: {name} is {'no longer taken' if way == 'request' else 'new'}"


def _of_security(before: Sequence[Schema], after: Sequence[Schema]) -> Iterator[str]:
    """Yield a change if a token that sufficed no longer does."""
    suffices = [{scope for scopes in each.values() for scope in scopes} for each in after]
    for each in before or [{}]:
        held = {scope for scopes in each.values() for scope in scopes}
        if suffices and not any(needed <= held for needed in suffices):
            yield f"a token with {' and '.join(sorted(held)) or 'no scope'} no longer suffices"


def _of_bounds(old: Schema, new: Schema, at: str) -> Iterator[str]:
    """Yield each bound of a request that is tighter. A client reads a longer text, and a larger number."""
    for word in (*UPPER, *LOWER, "pattern", "additionalProperties"):
        before, after = old.get(word), new.get(word)
        if before == after or after is None:
            continue
        tighter = before is None or (after < before if word in UPPER else after > before) if word in BOUNDS else True
        if word == "additionalProperties":
            tighter = after is False
        if tighter:
            yield f"{at}: {word} was {before}, is {after}"


def _named(operation: Schema) -> dict[str, Schema]:
    return {f"{each['name']} ({each['in']})": each for each in operation.get("parameters", ())}


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][str(schema["$ref"]).rpartition("/")[2]]
    return schema


def _without_null(document: Schema, schema: Schema) -> Schema:
    """Return the only alternative beside null, if there is one."""
    every = [each for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())) if each.get("type") != "null"]
    return _resolved(document, every[0]) if len(every) == 1 else schema


def _types(document: Schema, schema: Schema) -> set[str]:
    """Return what a schema takes: its types, or the values of an enum."""
    schema = _resolved(document, schema)
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if inner:
        return {each for one in inner for each in _types(document, one)}
    if "const" in schema or "enum" in schema:
        return {repr(each) for each in ([schema["const"]] if "const" in schema else schema["enum"])}
    stated = schema.get("type", ANY)
    kinds = [stated] if isinstance(stated, str) else [*stated]
    form = f" ({schema['format']})" if "format" in schema else ""
    return {kind + (form if kind == "string" else "") for kind in kinds}


def _alternatives(schema: Schema) -> dict[str, Schema]:
    every = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return {str(each["$ref"]).rpartition("/")[2]: each for each in every if "$ref" in each}
