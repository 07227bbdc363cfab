"""The base of all answers: read leniently, shown sparingly."""

import datetime as dt
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, PrivateAttr

T = TypeVar("T")
SHOWN = (bool, int, float, dt.datetime, dt.date, dt.time, UUID, Enum, type(None))


class Answer(BaseModel):
    """A body that a service answers.

    Unknown fields are ignored, and an enumeration takes new values: a newer service does not break an older client.
    `repr` and logs show ids, instants, counts and closed values; numbers of people and texts stay out.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", defer_build=True, hide_input_in_errors=True, populate_by_name=True
    )
    _etag: str | None = PrivateAttr(None)

    @property
    def etag(self) -> str | None:
        """The version of this answer, for `if_match` of an edit; None where the service names no version."""
        return self._etag

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name.endswith("_id") or name == "status" or _harmless(field.annotation) or isinstance(value, Answer):
                yield name, value

    __str__ = BaseModel.__repr__


def _harmless(annotation: Any) -> bool:
    """Return whether no value of the type is a free text. A text beside a `Literal` is a newer value of a service."""
    if get_origin(annotation) is Annotated:
        return _harmless(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = get_args(annotation)
        closed = any(get_origin(part) is Literal for part in parts)
        return all(_harmless(part) or (closed and part is str) for part in parts)
    return get_origin(annotation) is Literal or (isinstance(annotation, type) and issubclass(annotation, SHOWN))


class Unknown(Answer):
    """A form that this client does not know, of a newer service. `type` and all fields are kept."""

    model_config = ConfigDict(extra="allow")


def told_by(field: str, forms: Mapping[str, str]) -> Discriminator:
    """Return the rule that reads an answer of several forms by a field. `forms`: by the field's value, the tag."""

    def tag(value: Any) -> str:
        said = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
        return forms.get(str(said), Unknown.__name__)

    return Discriminator(tag)


class Page(Answer, Generic[T]):
    """A page of a list. `next`: the cursor of the next page; None at the end."""

    items: list[T]
    next: str | None = None
