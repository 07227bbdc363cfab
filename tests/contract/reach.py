"""The kinds of problems that the code of a route can raise, read from the code."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.web.auth import Caller, require
from common.web.problems import NotFound, Problem
from tests.contract.test_callers import named

OURS = ("common", "consent", "campaign", "dispatch", "inbound")
NOT_FOUND_BY = ("may_use", "theirs")  # of `Caller`


def raised(endpoint: Callable[..., Any]) -> set[type[Problem]]:
    """Return each kind that is named by the function, by the functions and classes of ours that it names, and so on."""
    found: set[type[Problem]] = set()
    seen: set[Callable[..., Any]] = set()
    waiting = [endpoint]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            names = list(named(one))
        except (OSError, SyntaxError, TypeError):  # no source: a lambda in an expression, a generated method
            continue
        for each in names:
            if each in NOT_FOUND_BY:
                found.add(NotFound)
            for inner in _inside(each):
                if inspect.isclass(inner) and issubclass(inner, Problem):
                    found.add(inner)
                elif inspect.isclass(inner) and inner is not Caller:
                    waiting += _methods(inner)
                elif inspect.isfunction(inner) and inner is not require:  # an annotation: `openapi.py` reads it
                    waiting.append(inspect.unwrap(inner))
    return found


def _inside(each: Any) -> Iterator[Any]:
    """Yield functions and classes of ours: the thing itself, the values of a table, the parts of an object."""
    if inspect.isfunction(each) or inspect.isclass(each):
        if each.__module__.partition(".")[0] in OURS:
            yield each
    elif isinstance(each, Mapping):
        for value in each.values():
            yield from _inside(value)
    elif type(each).__module__ == "common.batch":
        for value in vars(each).values():
            yield from _inside(value)


def _methods(of: type) -> Iterator[Callable[..., Any]]:
    for value in vars(of).values():
        method = getattr(value, "__func__", value)
        if inspect.isfunction(method):
            yield method
