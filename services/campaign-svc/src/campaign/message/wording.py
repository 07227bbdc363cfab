"""Hold a campaign's text in each language, folded as the author chose. Pure.

A contact's attribute `language` chooses, where the text exists in that language.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from campaign.message import folding, text
from campaign.message.folding import Folding
from campaign.message.short_link import Token
from campaign.message.text import Field, Fold, Part, Template

LANGUAGE_FIELD = "language"


@dataclass(frozen=True, slots=True)
class Wording:
    """`templates`: by language, the campaign's own first."""

    language: str
    templates: Mapping[str, Template]
    fold: Fold | None  # for the contact's values

    @property
    def required(self) -> tuple[str, ...]:
        """Return the attributes required in every language."""
        own, *others = self.templates.values()
        return tuple(name for name in own.required if all(name in template.required for template in others))

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every attribute used in some language."""
        return tuple(dict.fromkeys(name for template in self.templates.values() for name in template.fields))

    def language_of(self, attributes: Mapping[str, str]) -> str:
        """Return the contact's language: `fr` for fr, FR, fr-CA, fr_FR."""
        if (named := attributes.get(LANGUAGE_FIELD)) is None:
            return self.language
        asked = named.strip()[:2].lower()
        return asked if asked in self.templates else self.language

    def missing(self, attributes: Mapping[str, str]) -> str | None:
        """Return the first attribute missing for this contact's text."""
        return self.templates[self.language_of(attributes)].missing(attributes)

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the link targets in every language."""
        links = (link for template in self.templates.values() for link in template.links)
        return tuple(dict.fromkeys(link.target for link in links))

    @property
    def stops_by_link(self) -> bool:
        """Return whether the text has a stop link or a preference link in some language: both need the stop page."""
        return any(template.stop_links for template in self.templates.values())

    def with_links_in_full(self) -> "Wording":
        """Return the wording with full targets instead of short links."""
        return replace(self, templates={name: each.with_links_on(None) for name, each in self.templates.items()})

    def render(self, attributes: Mapping[str, str], stop_code: str, token: Token) -> str:
        """Return the text for a contact. Raises Missing."""
        return self.templates[self.language_of(attributes)].render(attributes, stop_code, self.fold, token)


def wording(
    source: str,
    language: str,
    translations: Mapping[str, str],
    chosen: str,
    link_host: str | None = None,
    stop_page: str | None = None,
) -> Wording:
    """Parse a text and its translations. Raises TextRefused."""
    how = Folding(chosen)
    author, contact = _fold(folding.of_author(how)), _fold(folding.of_contact(how))
    templates = {
        name: _author(text.parse(each), author).with_links_on(link_host).with_stop_page(stop_page)
        for name, each in {language: source, **translations}.items()
    }
    return Wording(language, templates, contact)


def required(wordings: Iterable[Wording]) -> tuple[str, ...]:
    """Return the attributes required in all of these wordings."""
    first, *others = wordings
    return tuple(name for name in first.required if all(name in each.required for each in others))


def _fold(replacing: Callable[[str], str] | None) -> Fold | None:
    return None if replacing is None else partial(folding.folded, replace=replacing)


def _author(template: Template, fold: Fold | None) -> Template:
    """Fold the author's words, not conditions and targets."""
    if fold is None:
        return template

    def part(each: Part) -> Part:
        if isinstance(each, str):
            return fold(each)
        if isinstance(each, Field) and each.default is not None:
            return Field(each.name, fold(each.default))
        return each

    return template.each(part)
