"""What a campaign says: its text in each language it has, with characters replaced as its author chose. Pure.

A contact is written to in the language of its attribute `language`, and in the campaign's own where it has none, or one
the campaign does not speak.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from campaign.message import folding, text
from campaign.message.folding import Folding
from campaign.message.short_link import Token
from campaign.message.text import Field, Fold, Link, Part, Template

LANGUAGE_FIELD = "language"


@dataclass(frozen=True, slots=True)
class Wording:
    """`templates`: by language (two small letters), the campaign's own first."""

    language: str
    templates: Mapping[str, Template]
    fold: Fold | None  # done to what comes from the contact

    @property
    def required(self) -> tuple[str, ...]:
        """What every contact must have, whatever its language."""
        own, *others = self.templates.values()
        return tuple(name for name in own.required if all(name in template.required for template in others))

    @property
    def fields(self) -> tuple[str, ...]:
        """Every attribute that the text is made of in some language."""
        return tuple(dict.fromkeys(name for template in self.templates.values() for name in template.fields))

    def language_of(self, attributes: Mapping[str, str]) -> str:
        """`fr` of fr, FR, fr-CA, fr_FR."""
        if (named := attributes.get(LANGUAGE_FIELD)) is None:
            return self.language
        asked = named.strip()[:2].lower()
        return asked if asked in self.templates else self.language

    def missing(self, attributes: Mapping[str, str]) -> str | None:
        """The first attribute that this contact's text needs and that is absent or blank."""
        return self.templates[self.language_of(attributes)].missing(attributes)

    @property
    def targets(self) -> tuple[str, ...]:
        """Where its links lead, in every language; each once."""
        links = (link for template in self.templates.values() for link in template.links)
        return tuple(dict.fromkeys(link.target for link in links))

    def with_links_in_full(self) -> "Wording":
        """Each as its target, which needs no token."""
        return replace(self, templates={name: each.with_links_on(None) for name, each in self.templates.items()})

    def render(self, attributes: Mapping[str, str], stop_code: str, token: Token) -> str:
        """The text for one contact; `token`: of their links (`short_link.any_token`, where it is not sent). Raises
        Missing."""
        return self.templates[self.language_of(attributes)].render(attributes, stop_code, self.fold, token)


def wording(
    source: str, language: str, translations: Mapping[str, str], chosen: str, link_host: str | None = None
) -> Wording:
    """`chosen` is a Folding; `link_host` the sender's. Raises TextRefused, as `text.parse` does."""
    how = Folding(chosen)
    author, contact = _fold(folding.of_author(how)), _fold(folding.of_contact(how))
    templates = {
        name: _author(text.parse(each), author).with_links_on(link_host)
        for name, each in {language: source, **translations}.items()
    }
    return Wording(language, templates, contact)


def required(wordings: Iterable[Wording]) -> tuple[str, ...]:
    """What every contact must have, whichever of these it is written to in."""
    first, *others = wordings
    return tuple(name for name in first.required if all(name in each.required for each in others))


def _fold(replacing: Callable[[str], str] | None) -> Fold | None:
    return None if replacing is None else partial(folding.folded, replace=replacing)


def _author(template: Template, fold: Fold | None) -> Template:
    """The author's words replaced; what conditions compare with is not, nor where links lead."""
    if fold is None:
        return template

    def part(each: Part) -> Part:
        if isinstance(each, str):
            return fold(each)
        if isinstance(each, Link) or each.default is None:
            return each
        return Field(each.name, fold(each.default))

    return template.each(part)
