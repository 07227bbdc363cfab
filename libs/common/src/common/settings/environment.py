"""Read a service's settings, or say in a sentence for each wrong variable what to do.

Every variable that begins with PLACET_ is a setting of the process: a misspelt variable would leave the default in
force. Never shows a value: a wrong value may be a secret.
"""

import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

PREFIX = "PLACET_"
FOLDER = f"{PREFIX}SECRETS_DIR"
PAGE = "docs/settings.md"
UNDECODED = re.compile(r'field "(\w+)"')

S = TypeVar("S", bound=BaseSettings)


class WrongSettings(ValueError):
    """The process cannot start: a line for each variable, with what to do about it."""


def read(kind: type[S]) -> S:
    """Return the settings. Raises WrongSettings for a wrong, missing or unknown variable."""
    folder = os.environ.get(FOLDER, "")
    mounted = Path(folder).iterdir() if folder and Path(folder).is_dir() else ()
    given = {*os.environ, *(path.name for path in mounted)}
    lines = list(_unknown(kind, given))
    try:
        settings = kind()
    except ValidationError as error:
        lines += [_line(each["type"], each["loc"], each["msg"]) for each in error.errors(include_input=False)]
    except SettingsError as error:  # pydantic names the first such setting, and keeps the value in the cause
        found = UNDECODED.search(str(error))
        name = found[1].upper() if found else "…"
        lines.append(f"{PREFIX}{name} holds no JSON. Correct it ({PAGE})")
    else:
        if not lines:
            return settings
    raise WrongSettings("\n".join(lines))


def _unknown(kind: type[BaseSettings], given: Iterable[str]) -> Iterator[str]:
    known = [f"{PREFIX}{name.upper()}" for name in kind.model_fields]
    for name in sorted(name for name in given if name.upper().startswith(PREFIX) and name.upper() not in known):
        alike = get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        meant = f"write {alike[0]}, or unset it" if alike else "unset it"
        yield f"{name} is no setting of this service: {meant} ({PAGE})"


def _line(kind: str, place: tuple[int | str, ...], message: str) -> str:
    """Return the sentence of one error of pydantic."""
    if not place:  # of several settings together: our own sentence
        return message.removeprefix("Value error, ")
    name, *inner = place
    variable = f"{PREFIX}{str(name).upper()}"
    if kind == "missing" and not inner:
        return f"{variable} is required: set it, or mount {variable.lower()} in the folder of {FOLDER} ({PAGE})"
    within = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in inner)
    said = message.removeprefix("Value error, ")
    return f"{variable}{within} is wrong: {said[:1].lower()}{said[1:]}. Correct it ({PAGE})"
