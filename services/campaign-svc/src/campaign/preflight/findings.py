"""Find rule violations in a campaign's text, each with the rule and its source. Pure.

A warning must be acknowledged by its id, always the same for the same finding. The rules are data
(`compliance/france-3.json`): a file in use is never edited; a change is a new version.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal, get_args

from campaign.message import short_link
from common.sms.sms_length import length
from common.texts.findings import HOST, STOP, Finding, premium_numbers, premium_short_codes
from common.texts.reading import read

Severity = Literal["error", "warning"]
Sector = Literal["energy", "alcohol", "gambling", "tobacco", "credit"]

MANY_PARTS = 6
OF_A_START = frozenset(
    {"nobody", "too_slow", "begins_with", "over_daily_limit", "over_monthly_spend", "price_unknown"}
)  # valid for one start


@dataclass(frozen=True, slots=True)
class Rule:
    severity: Severity
    says: str
    source: str
    needs_approval: bool = False


@dataclass(frozen=True, slots=True)
class Compliance:
    """One version of the rules."""

    version: str
    rules: Mapping[str, Rule]
    shorteners: frozenset[str]
    sectors: Mapping[str, re.Pattern[str]]


def of_field(rule: str, name: str, people: int) -> Finding:
    """Return the finding in a field's values, named as in a text: `{name}`."""
    return Finding(rule, f"{{{name}}}", people=people)


@lru_cache
def load(version: str = "france-3") -> Compliance:
    """Load a version of the rules.

    Raises FileNotFoundError, and ValueError where the file names another version.
    """
    data = json.loads(
        (resources.files(__name__.rpartition(".")[0]) / "compliance" / f"{version}.json").read_text("utf-8")
    )
    if data["version"] != version:
        raise ValueError(f"{version}.json calls itself {data['version']}")
    assert set(data["sectors"]) == set(get_args(Sector))
    return Compliance(
        version=version,
        rules={name: Rule(**rule) for name, rule in data["rules"].items()},
        shorteners=frozenset(data["shorteners"]),
        sectors={
            name: re.compile(rf"\b(?:{'|'.join(re.escape(word) for word in words)})\b")
            for name, words in data["sectors"].items()
        },
    )


def of_texts(
    texts: Sequence[str], brand: str, oadc: str, stop_code: str, sectors: Iterable[str], compliance: Compliance
) -> tuple[Finding, ...]:
    """Return the findings in any of these texts, each once."""
    found = {Finding(f"sector_{sector}"): None for sector in sectors}
    for text in texts:
        found |= dict.fromkeys(_of_text(text, brand, oadc, stop_code, compliance))
    return tuple(found)


def of_targets(targets: Iterable[str], compliance: Compliance) -> tuple[Finding, ...]:
    """Return the public shorteners among link targets: a shortener there hides the real site as well."""
    found: dict[Finding, None] = {}
    for target in targets:
        host = short_link.host_of(target)
        if host is not None and host.removeprefix("www.") in compliance.shorteners:
            found[Finding("public_shortener", host)] = None
    return tuple(found)


def _of_text(text: str, brand: str, oadc: str, stop_code: str, compliance: Compliance) -> Iterator[Finding]:
    if not _says_who(text, brand, oadc):
        yield Finding("identity")
    yield from (Finding("foreign_stop_code", code) for code in STOP.findall(text) if code != stop_code)
    reading = read(text)
    yield from (Finding("premium_number", number) for number in premium_numbers(reading))
    yield from (Finding("premium_short_code", code) for code in premium_short_codes(reading) if code != stop_code)
    for host in HOST.findall(text):
        if host.lower().removeprefix("www.") in compliance.shorteners:
            yield Finding("public_shortener", host.lower())
    if length(text).segments > MANY_PARTS:
        yield Finding("many_parts")
    said = _plain(text)
    yield from (Finding(f"sector_{name}") for name, words in compliance.sectors.items() if words.search(said))


def _says_who(text: str, brand: str, oadc: str) -> bool:
    """Return whether the brand shows in the text or OADC.

    An OADC of three letters or more counts where either name begins with the other: an OADC has 11 characters at most
    (DOMAIN 1.11).
    """
    name = _letters(brand)
    if not name or name in _letters(text):
        return True
    shown = _letters(oadc)
    return len(shown) >= 3 and (shown.startswith(name) or name.startswith(shown))


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", _plain(text))


def _plain(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in apart if not unicodedata.combining(c)).casefold()
