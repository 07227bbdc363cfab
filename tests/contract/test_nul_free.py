"""No text of a request reaches Postgres with a NUL, which it refuses: each field of a body, each part of a query."""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, ValidationError

from tests.contract.test_callers import SERVICES, SIGNED, routes

NUL = ["a\0", "a\0" * 20]
READ = {  # before any statement, by a reader that takes no NUL
    "number": "a phone number",
    "numbers": "phone numbers",
    "to": "a phone number",
    "list": "lines of numbers",
    "values": "checked against the fields of a template, with the text that they make",
    "postcode": "a region, of a table",
    "expression": "the language of segments",
    "link_host": "a host name",
    "sent_before": "an encrypted ticket",
    "cursor": "a position",
    "after": "a position",
    "time_zone": "a name of the time zone database",
}


def parts(kind: Any) -> Iterator[Any]:
    """The annotations within an annotation, itself first."""
    yield kind
    for part in get_args(kind):
        if not isinstance(part, (str, int)):
            yield from parts(part)


def models(kind: Any, seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    for part in parts(kind):
        if isinstance(part, type) and issubclass(part, BaseModel) and part not in seen:
            seen.add(part)
            for field in part.model_fields.values():
                models(field.annotation, seen)
    return seen


def with_nul(kind: Any, text: str) -> Iterator[Any]:
    """Values of this shape with this text in the place of each text."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is str:
        yield text
    elif origin is Annotated:
        yield from with_nul(args[0], text)
    elif origin in (Union, UnionType):
        for each in args:
            yield from with_nul(each, text)
    elif origin in (dict, Mapping) or origin is Mapping:
        yield from ({text: value} for value in ("x", ["x"], 1) if str in parts(args[0]))
        yield from ({"x": value} for value in with_nul(args[1], text))
    elif origin in (list, tuple, set, frozenset, Sequence):
        yield from ([value] for value in with_nul(args[0], text))


def said_by(dependant: Dependant) -> Iterator[Any]:
    """The parameters of a query, of a route and of what it depends on. No server passes a header with a NUL."""
    yield from dependant.query_params
    for each in dependant.dependencies:
        yield from said_by(each)


BODIES = sorted(
    {
        model
        for service in SERVICES
        for route in routes(service)
        if route.body_field is not None
        for model in models(route.body_field.field_info.annotation, set())
    },
    key=lambda model: (model.__module__, model.__qualname__),
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__qualname__)
def test_a_body_refuses_a_nul_in_each_text(body: type[BaseModel]) -> None:
    taken = []
    for name, field in body.model_fields.items():
        said = field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name
        for value in (value for text in NUL for value in with_nul(field.annotation, text)):
            try:
                body.model_validate({said: value})
            except ValidationError as refused:
                if any(error["loc"][:1] == (said,) for error in refused.errors()):
                    continue
            taken.append(said)
    assert not set(taken) - READ.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_a_query_refuses_a_nul_in_each_text(service: str) -> None:
    taken = []
    for route in routes(service):
        if route.path.startswith(SIGNED):
            continue  # each is compared with what is signed, by its bytes
        for param in said_by(route.dependant):
            for value in (value for text in NUL for value in with_nul(param.field_info.annotation, text)):
                _, errors = param.validate(value, {}, loc=())
                if not errors:
                    taken.append((param.alias, route.path))
    assert not [each for each in taken if each[0] not in READ]
