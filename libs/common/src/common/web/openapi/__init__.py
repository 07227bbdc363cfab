"""The OpenAPI document of a service: FastAPI's, with the parts of a route that FastAPI does not know.

Every operation gets its scopes from the dependency that checks the scopes (`auth.Required`), each problem that the
operation answers, its tag from its id (`consents.create`), and its summary from the first line of the docstring. A
route names only problems of its own (`refuses`); the others follow from its dependencies, parameters and body.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.types import ASGIApp, Receive, Scope, Send

from common.web import deprecation, idempotency
from common.web.auth import PLATFORM, Required, required_of
from common.web.auth.rates import LimitReached
from common.web.openapi import meanings
from common.web.openapi.examples import BY_NAME, NOTHING, Examples, Schema, alternatives
from common.web.problems import (
    MEDIA_TYPE,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    PreconditionFailed,
    Problem,
    TooLarge,
    Unauthorised,
    Unavailable,
    type_of,
)
from common.web.upload import UploadRoute

MODELS = "#/components/schemas/"
PAGE = re.compile(r"Page_(\w+)_")
SCHEME = "bearer"
SCHEMES: Mapping[str, object] = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A JWT of the issuer, with the claims `organisation`, `scope` and `senders`. An operation names"
        " the scopes of which the token needs one; `platform:admin` is needed beside it where it is named too.",
    }
}
HEADERS: Mapping[str, str] = {
    "Allow": "The methods of the path.",
    "Deprecation": "Since when the operation, or a field of it, is deprecated (RFC 9745).",
    "ETag": "The version of the content: send it as `If-Match` with a change.",
    "Link": 'With `rel="deprecation"`: the page that says how to go on.',
    "Location": "The path of what the request made.",
    "RateLimit": "What is left of each limit: `r` calls in the next `t` seconds.",
    "RateLimit-Policy": "The limits of calls: each with `q` calls in `w` seconds.",
    "Retry-After": "Seconds to wait.",
    "Sunset": "When the operation, or the field, ends (RFC 8594).",
    "Upload-Length": "Bytes of the whole file, once known.",
    "Upload-Offset": "Bytes of the file that are here.",
    "WWW-Authenticate": "The scheme to authenticate by.",
}
UNSAID = "A problem"  # until every kind of the answer is known
UNNAMED = "Successful Response"  # FastAPI's word for any answer
UNCOUNTED = ("401", "500", "503")  # the answer may come before the call is counted


SCHEMAS: Mapping[str, object] = {
    "Problem": {
        "description": "A refusal or a fault (RFC 9457). No problem repeats a value of the request.",
        "type": "object",
        "required": ["type", "title", "status", "detail", "reasons", "trace_id"],
        "properties": {
            "type": {
                "description": "The kind, a stable URL relative to the service. Its page says what the problem means"
                " and what to do.",
                "type": "string",
                "format": "uri-reference",
            },
            "title": {"description": "The kind, in words.", "type": "string"},
            "status": {"description": "The HTTP status.", "type": "integer"},
            "detail": {"description": "The refusal of this request, in words.", "type": "string"},
            "reasons": {
                "description": "The field and the reason of each refusal.",
                "type": "array",
                "items": {"$ref": f"{MODELS}ProblemReason"},
            },
            "trace_id": {
                "description": "The trace under which the platform's log has the request.",
                "type": ["string", "null"],
            },
        },
    },
    "ProblemReason": {
        "description": "A reason of a problem.",
        "type": "object",
        "required": ["field", "reason", "detail"],
        "properties": {
            "field": {
                "description": "The path of the field, as the request has it; null for no field.",
                "type": ["string", "null"],
            },
            "reason": {"description": "A stable word for programs.", "type": "string"},
            "detail": {"description": "A sentence for people.", "type": ["string", "null"]},
        },
    },
}


class Document(dict[str, Any]):
    """An OpenAPI document, or a part of one."""


def refuses(*kinds: type[Problem]) -> dict[int | str, dict[str, object]]:
    """Return the `responses` of a route that raises these problems, for FastAPI."""
    found = Document()
    for kind in kinds:
        _add(found, kind)
    return {int(status): answer for status, answer in found.items()}


def tells(status: int, *headers: str) -> dict[int | str, dict[str, object]]:
    """Return the `responses` of a route whose answer of this status has these headers, for FastAPI."""
    return {status: {"headers": _headers(*headers)}}


def _headers(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _add(responses: Document, kind: type[Problem]) -> None:
    entry = responses.setdefault(str(kind.status), {"description": UNSAID})
    schema = {"$ref": f"{MODELS}Problem"}
    entry.setdefault("content", {}).setdefault(MEDIA_TYPE, {"schema": schema, "examples": {}})
    if kind.tells:
        entry.setdefault("headers", {}).update(_headers(*kind.tells))
    entry["content"][MEDIA_TYPE]["examples"][kind.slug] = {"$ref": f"#/components/examples/{kind.slug}"}


def _example(kind: type[Problem]) -> dict[str, object]:
    meaning, _ = meaning_of(kind)
    return {
        "type": type_of(kind),
        "title": kind.title,
        "status": kind.status,
        "detail": meaning.partition(". ")[0].removesuffix("."),
        "reasons": [],
        "trace_id": BY_NAME["trace_id"][0],
    }


def kinds() -> dict[str, type[Problem]]:
    """Return every kind of problem of this process by its slug."""
    return {kind.slug: kind for kind in sorted(_kinds(Problem), key=lambda kind: kind.slug)}


def _kinds(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def meaning_of(kind: type[Problem]) -> tuple[str, str]:
    """Return the meaning of a problem, and what to do: the two parts of its docstring."""
    meaning, _, remedy = (" ".join(part.split()) for part in inspect.cleandoc(kind.__doc__ or "").partition("\n\n"))
    return meaning, remedy


class App(FastAPI):
    """A FastAPI application whose document is whole."""

    _document: Document | None = None
    _outermost: ASGIApp | None = None

    def put_around(self, layer: Callable[[ASGIApp], ASGIApp]) -> None:
        """Put a layer around everything, which answers or passes on."""
        self._outermost = layer(self._outermost or super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._outermost or super().__call__)(scope, receive, send)

    def openapi(self) -> Document:
        if self._document is None:
            self._document = _completed(Document(super().openapi()), list(iter_route_contexts(self.routes)))
        return self._document


def _completed(document: Document, routes: Sequence[RouteContext]) -> Document:
    tags: dict[str, str] = {}
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors: no route answers them
        schemas.pop(name, None)
    assert not schemas.keys() & SCHEMAS.keys(), "a model has the name of a problem's"
    schemas |= SCHEMAS
    components["securitySchemes"] = dict(SCHEMES)
    for route in routes:
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None and route.endpoint is not None:
                _complete(operation, route)
                module = inspect.getmodule(route.endpoint)
                tags.setdefault(operation["tags"][0], _paragraph(inspect.getdoc(module) or ""))
    _name(document)
    referred = _referred(document["paths"])
    components["examples"] = {
        slug: {"summary": kind.title, "value": _example(kind)}
        for slug, kind in kinds().items()
        if f"#/components/examples/{slug}" in referred
    }
    components["headers"] = {
        name: {"description": said, "schema": {"type": "string"}}
        for name, said in HEADERS.items()
        if f"#/components/headers/{name}" in referred
    }
    _describe(document)
    _exemplify(document)
    components["responses"] = _shared(document["paths"])
    document["tags"] = [{"name": name, "description": said} for name, said in sorted(tags.items())]
    return document


def _name(document: Document) -> None:
    """Name a page by its items, title each model by its name, and drop other titles: generated clients name by them."""
    schemas = document["components"]["schemas"]
    names = {name: PAGE.sub(r"\1Page", name) for name in schemas}
    rename(document["paths"], names)
    rename(schemas, names)
    document["components"]["schemas"] = {
        names[name]: schema | {"title": names[name]} for name, schema in sorted(schemas.items())
    }


def rename(part: object, names: Mapping[str, str]) -> None:
    """Rename the models that a part of a document refers to, and drop its titles."""
    match part:
        case dict():
            if isinstance(part.get("title"), str):
                del part["title"]
            for key, each in part.items():
                if key in ("default", "example", "examples"):
                    continue
                if isinstance(each, str) and each.startswith(MODELS):
                    part[key] = MODELS + names[each.removeprefix(MODELS)]
                rename(each, names)
        case list():
            for each in part:
                rename(each, names)


def _shared(paths: Document) -> Document:
    """Move the problems of operations to the components, and return these: most operations answer the same."""
    found, every = Document(), kinds()
    for operation in (each for methods in paths.values() for each in methods.values()):
        for status, answer in operation["responses"].items():
            examples = answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples")
            if examples is None or answer["description"] != UNSAID:
                continue
            answer["description"] = "; ".join(every[slug].title for slug in sorted(examples))
            name = "-or-".join(sorted(examples))
            if status not in UNCOUNTED and "RateLimit" not in answer.get("headers", {}):
                name += "-uncounted"
            if "Deprecation" in answer.get("headers", {}):
                name += "-deprecated"
            assert found.setdefault(name, answer) == answer
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    return Document(sorted(found.items()))


def _referred(part: object) -> set[str]:
    """Return every reference of a part of a document."""
    match part:
        case {"$ref": str(target)}:
            return {target}
        case dict():
            return {found for each in part.values() for found in _referred(each)}
        case list():
            return {found for each in part for found in _referred(each)}
    return set()


def _describe(document: Document) -> None:
    """Give each field and parameter without a description that of its type, or the meaning of its name.

    A field of a model has the description of the model, and so has an answer: its first sentence.
    """
    models = document["components"]["schemas"]
    for schema in models.values():
        for name, field in schema.get("properties", {}).items():
            every = list(alternatives(field))
            if "$ref" not in field and not (len(every) == 1 and "$ref" in every[0]):
                _say(name, field, every)
    for methods in document["paths"].values():
        for operation in methods.values():
            for each in operation.get("parameters", ()):
                _say(each["name"], each, [each["schema"]])
            for status, answer in operation["responses"].items():
                if answer["description"] == UNNAMED:
                    answer["description"] = _answered(status, answer, models)


def _answered(status: str, answer: Document, models: Document) -> str:
    """Return the description of an answer without one."""
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    model = models.get(str(schema.get("$ref", "")).removeprefix(MODELS), {})
    if "description" in model:
        return f"{_paragraph(model['description']).partition('. ')[0].removesuffix('.')}."
    return "Done, without a body." if status == "204" else "The answer, as the operation says."


def _say(name: str, part: Document, types: Sequence[Schema]) -> None:
    told = [each["description"] for each in types if "description" in each]
    if "description" not in part and (said := next(iter(told), meanings.BY_NAME.get(name))) is not None:
        part["description"] = said


def _exemplify(document: Document) -> None:
    """Give each field, parameter and body an example."""
    schemas = document["components"]["schemas"]
    examples = Examples(schemas)
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if not field.get("examples") and (found := examples.field(name, field)) is not NOTHING:
                field["examples"] = [found]
    for path in document["paths"].values():
        for operation in path.values():
            for each in operation.get("parameters", ()):
                if "example" not in each and (found := examples.value(each["name"], each["schema"])) is not NOTHING:
                    each["example"] = found
            for body in (operation.get("requestBody", {}), *operation["responses"].values()):
                for content in body.get("content", {}).values():
                    if not content.keys() & {"example", "examples"}:
                        found = examples.value("", content.get("schema", {}))
                        content |= {} if found is NOTHING else {"example": found}


def _complete(operation: Document, route: RouteContext) -> None:
    said = inspect.getdoc(route.endpoint) or operation.get("description", "")
    operation["tags"] = [operation["operationId"].partition(".")[0]]
    if not route.summary:
        operation["summary"] = _paragraph(said).removesuffix(".")
    operation["description"] = said.partition("\n\n")[2] or _paragraph(said)
    # absent, and never null: openapi-python-client sends neither
    for each in (*operation.get("parameters", ()), *operation.get("requestBody", {}).get("content", {}).values()):
        each["schema"] = _without_null(each["schema"])
    required = next(required_of(route.dependant), None)
    operation["security"] = [] if required is None else security_of(required)
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for kind in _implied(operation, route, required):
        _add(responses, kind)
    marks = list(deprecation.deprecated_of(route.dependant))
    if any(not mark.fields for mark in marks):
        operation["deprecated"] = True
    for status, answer in responses.items():
        if required is not None and required.limited and status not in UNCOUNTED:
            answer.setdefault("headers", {}).update(_headers("RateLimit", "RateLimit-Policy"))
        if marks:
            answer.setdefault("headers", {}).update(_headers(*deprecation.FIELDS))
    operation["responses"] = dict(sorted(responses.items()))


def _without_null(schema: Document) -> Document:
    alternatives = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(alternatives) != 1:
        return schema
    return Document({name: said for name, said in schema.items() if name != "anyOf"} | alternatives[0])


def _paragraph(said: str) -> str:
    return " ".join(said.partition("\n\n")[0].split())


def security_of(required: Required) -> list[dict[str, list[str]]]:
    """Return the security requirement: one alternative for each scope of which the token needs one."""
    more = [PLATFORM] if required.platform else []
    return [{SCHEME: [scope, *more]} for scope in required.scopes]


def _implied(operation: Mapping[str, Any], route: RouteContext, required: Required | None) -> Iterator[type[Problem]]:
    """Yield the problems that follow from the route's dependencies, parameters and body."""
    named = {(each["in"], each["name"]) for each in operation.get("parameters", ())}
    yield Invalid  # an unknown parameter, unless the route is never limited
    yield Unavailable
    yield Problem
    if required is not None:
        yield Unauthorised
        yield Forbidden
        if required.limited:
            yield LimitReached
    if any(place == "path" for place, _ in named) or ("query", "sender_id") in named:
        yield NotFound
    if isinstance(route.original_route, UploadRoute):
        yield PreconditionFailed
    if ("header", idempotency.HEADER) in named:
        yield idempotency.KeyReused
    if "requestBody" in operation:
        yield Malformed
        yield TooLarge
