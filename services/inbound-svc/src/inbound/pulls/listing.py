"""The lists that providers keep of MOs and DLRs, and the interface of a list's module.

Pure. A module says where its list is published, and reads the list into the items of a callback, under the same ids: an
item that a callback told falls away as a duplicate. A provider's state that may still change is left out.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, cast
from urllib.parse import urlsplit

from common.contracts.inbound import ReceiptState
from inbound.providers import Kind, Message, Receipt, Unreadable, WrongField

FINAL: tuple[ReceiptState, ...] = ("delivered", "failed", "expired", "opted_out")


@dataclass(frozen=True, slots=True)
class Keys:
    """Our keys to a provider's API. `numbers`: our own, where the list can be asked about each."""

    user: str = ""
    secret: str = field(default="", repr=False)
    url: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """The time that a pull asks about, aware."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Ask:
    """A GET of a page. `about`: a part of the question that the answer does not repeat."""

    path: str = field(repr=False)
    about: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """An item of a list. `content`: the item as listed. `textless`: an MO whose text the provider does not keep."""

    item: Message | Receipt
    content: bytes = field(repr=False)
    textless: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """The items of a page. `unreadable`: how many items cannot be read."""

    items: Sequence[Listed]
    unreadable: int = 0
    following: Ask | None = None


class Listing(Protocol):
    """The list of one provider. Every function is pure."""

    @property
    def URL(self) -> str:  # noqa: N802 a module's constant
        """The URL of all customers, or ""."""

    @property
    def NEEDS(self) -> Sequence[str]:  # noqa: N802
        """The required fields of `Keys`: user, secret, url."""

    @property
    def OPTIONS(self) -> Mapping[str, bool]:  # noqa: N802
        """The options of `Keys.options`, and whether each is required."""

    @property
    def KINDS(self) -> Sequence[Kind]:  # noqa: N802
        """The kinds of items that the list has."""

    def headers(self, keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
        """Return the headers of a GET of `url`, which a signature may cover."""

    def asks(self, keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
        """Return the first page of each list."""

    def page(self, ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
        """Return the items of an answer. Raises Unreadable, WrongField."""


def basic(keys: Keys) -> dict[str, str]:
    """Return the headers of basic authentication."""
    known = base64.b64encode(f"{keys.user}:{keys.secret}".encode()).decode()
    return {"Authorization": f"Basic {known}", "Accept": "application/json"}


def json_of(body: bytes) -> object:
    """Return an answer as JSON. Raises Unreadable."""
    try:
        return cast(object, json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Unreadable("the answer is not JSON in UTF-8") from error


def items_at(fields: Mapping[str, object], name: str) -> list[object]:
    """Return a list, perhaps empty. Raises WrongField."""
    items = fields.get(name)
    if not isinstance(items, list):
        raise WrongField(name, "not_a_list")
    return items


def read_each(
    items: Sequence[object], read: Callable[[Mapping[str, object]], Message | Receipt | None], *, textless: bool = False
) -> tuple[list[Listed], int]:
    """Return the items that `read` takes, and how many cannot be read."""
    found: list[Listed] = []
    unreadable = 0
    for each in items:
        try:
            if not isinstance(each, dict):
                raise WrongField("item", "not_an_object")
            item = read(each)
        except WrongField:
            unreadable += 1
            continue
        if item is None or (isinstance(item, Receipt) and item.state not in FINAL):
            continue
        found.append(Listed(item, json.dumps(each).encode(), textless))
    return found, unreadable


def path_below(url: str, link: object) -> str | None:
    """Return the path and query of a link to the next page, or None without one.

    Raises WrongField for a link to another host: our keys go to the provider alone.
    """
    if link is None or link == "":
        return None
    if not isinstance(link, str):
        raise WrongField("next", "not_a_string")
    parts, ours = urlsplit(link), urlsplit(url)
    if (parts.scheme or parts.netloc) and (parts.scheme, parts.netloc) != (ours.scheme, ours.netloc):
        raise WrongField("next", "elsewhere")
    prefix = ours.path.rstrip("/")
    if prefix and not parts.path.startswith(f"{prefix}/"):
        raise WrongField("next", "elsewhere")
    return parts.path.removeprefix(prefix) + (f"?{parts.query}" if parts.query else "")


def seconds(at: datetime) -> str:
    """Return a time in UTC as YYYY-MM-DDThh:mm:ssZ."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
