"""Decide whether a version of a template may be stored, and approved. Pure."""

from collections.abc import Iterator, Sequence

from common.contracts.campaign import TemplateField
from common.sms.sms_length import MAX_SEGMENTS, length
from common.texts import template
from common.texts.findings import Finding, Signs
from common.texts.template import Flaw


def flaws(text: str, fields: Sequence[TemplateField]) -> Iterator[Flaw]:
    """Yield the reasons against storing this version."""
    found = list(template.flaws(text, fields))
    yield from found
    if not found and (parts := length(template.longest(text, fields)).segments) > MAX_SEGMENTS:
        yield Flaw("too_long", f"with its longest values the text has {parts} SMS, at most {MAX_SEGMENTS}")


def against_approval(found: Sequence[Finding], acknowledged: Sequence[str], signs: Signs) -> list[Finding]:
    """Return the findings that forbid the approval: never approvable, or not acknowledged by their ids."""
    return [each for each in found if not signs.rules[each.rule].approvable or each.id not in acknowledged]
