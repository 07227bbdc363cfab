"""Tables of prices, and the example that is shipped."""

import json
from pathlib import Path
from typing import Any

from common.sms.prices import Prices, read

EXAMPLE = Path(__file__).parents[2] / "examples/prices.json"  # 0.0410 EUR for maison-lune to FR since July 2026


def line(place: str = "FR", price: str = "0.045", **more: object) -> dict[str, Any]:
    return {"place": place, "price": price, "source": "us", **more}


def edition(valid_from: str, *lines: dict[str, Any]) -> dict[str, Any]:
    return {"valid_from": valid_from, "prices": lines}


def table(*editions: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"version": "t", "editions": editions, **more}).encode()


def prices(*lines: dict[str, Any]) -> Prices:
    """Return a table with one edition, in force for ever."""
    return read(table(edition("0001-01-01", *lines)))
