"""Cases that share what they run in: for refusals, which leave nothing behind. A service and its database take ten
times as long to set up as a refusal takes to be answered."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

Test = Callable[..., Awaitable[None]]
NAME_LENGTH = 60


def each_of(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize`, with the fixtures set up once: each case is a subtest, told of by itself.

    Only where no case leaves behind what another would find.
    """
    parameters = [names] if isinstance(names, str) else list(names)
    listed = [(case,) if isinstance(names, str) else case for case in cases]
    assert listed, "nothing would be tested"

    def of(test: Test) -> Test:
        wanted = inspect.signature(test)

        @functools.wraps(test)
        async def all_of_them(subtests: pytest.Subtests, **fixtures: Any) -> None:
            for case in listed:
                with subtests.test(", ".join(map(repr, case))[:NAME_LENGTH]):
                    await test(**fixtures, **dict(zip(parameters, case, strict=True)))

        fixtures = [each for name, each in wanted.parameters.items() if name not in parameters]
        subtests = inspect.Parameter("subtests", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        all_of_them.__signature__ = wanted.replace(parameters=[subtests, *fixtures])  # type: ignore[attr-defined]
        return all_of_them

    return of
