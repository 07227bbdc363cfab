"""HTTP: preview a text: rendering, cost, costly characters, and the effect of each folding.

The service stores no preview.
"""

import unicodedata
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from campaign.message import folding as foldings
from campaign.message import text as texts
from campaign.message.folding import Folding
from campaign.message.short_link import any_token
from campaign.message.wording import Wording, wording
from campaign.senders import registry
from campaign.senders.caller import of_caller
from campaign.senders.store import Sender
from common.service import Resources
from common.settings import ServiceSettings
from common.sms.sms_length import Encoding, length, parts
from common.web.auth import Caller, require
from common.web.fields import NumberFree, Storable
from common.web.openapi import refuses
from common.web.problems import Invalid, NotFound, Reason

router = APIRouter(prefix="/v1", tags=["texts"])

MAX_LANGUAGES = 20

Attribute = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$"), NumberFree]
Value = Annotated[Storable, Field(max_length=200)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]
Text = Annotated[
    Storable,
    Field(
        max_length=texts.MAX_TEMPLATE_CHARS,
        description="{attribute}, {attribute|default}, {if attribute = value}…{else}…{end}, {link https://…} for a"
        " short link with counted clicks, {stop} for « STOP au » with the sender's code, and {preferences} for a"
        " personal link to the preference page.",
    ),
]
Translations = Annotated[
    dict[Language, Text],
    Field(
        max_length=MAX_LANGUAGES,
        description="The text in other languages, for contacts with that `language`.",
    ),
]


class Costly(BaseModel):
    """A character outside GSM-7: with it, an SMS holds 70 characters instead of 160."""

    character: str = Field(description="The character.")
    name: str | None = Field(description="Unicode's.")
    at: int = Field(description="The character's position in the typed text, from 1; an emoji is a single character.")
    instead: str | None = Field(description="A similar GSM-7 character; null without a similar character.")
    folding: Folding | None = Field(description="The least `folding` that replaces the character.")


class Length(BaseModel):
    """The cost of a text."""

    encoding: Encoding = Field(description="GSM-7 holds 160 characters in an SMS; UCS-2 holds 70.")
    units: int = Field(
        description="Septets (GSM-7: characters such as € and [ count as two) or UTF-16 units (UCS-2: an emoji"
        " counts as two)."
    )
    segments: int = Field(description="Segments sent, each charged.")


class NewPreview(BaseModel):
    """A text and the values to try."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune",
                    "text": "{if loyalty = or}-30 %{else}-20 %{end} chez Maison Lune, {first_name|cher client}… {stop}",
                    "attributes": {"first_name": "Zoé", "loyalty": "or"},
                }
            ]
        },
    )

    sender_id: Storable = Field(min_length=1, max_length=40)
    text: Text
    folding: Folding = Folding.NONE
    attributes: dict[Attribute, Value] | None = Field(
        None,
        max_length=100,
        description="A contact's attributes. Default: the preview shows the shortest possible text.",
    )


class Change(BaseModel):
    """A replacement of a character."""

    at: int = Field(description="The change's position in the typed text, from 1.")
    before: str = Field(description="The character as typed.")
    after: str = Field(description="The similar GSM-7 characters; empty for a removed character.")


class Folded(BaseModel):
    """The text with this `folding`."""

    folding: Folding
    length: Length
    changes: list[Change] = Field(description="Changes of the text. Attributes of contacts are replaced at rendering.")
    changed_attributes: dict[str, str] = Field(description="Attributes of the contact after the replacement.")


class Preview(BaseModel):
    """The text as a contact would receive it, with its cost."""

    text: str = Field(
        description="The text as received, with the operator's addition (`stop_added` of the sender's rules)."
    )
    length: Length
    parts: list[str] = Field(description="The segments of the message.")
    fields: list[str] = Field(description="The attributes named in the text.")
    missing: str | None = Field(description="The missing attribute that keeps this contact from getting the message.")
    problem: texts.TextProblem | None = Field(
        description="Any other problem that keeps this contact from getting the message."
    )
    costly: list[Costly] = Field(description="The characters outside GSM-7.")
    foldings: list[Folded] = Field(description="The text with each `folding`, with its cost.")


@router.post("/texts/preview", operation_id="texts.preview", responses=refuses(NotFound))
async def preview_text(
    body: NewPreview,
    held: Annotated[Resources[ServiceSettings], Depends(of_caller)],
    caller: Annotated[Caller, Depends(require("campaign:read"))],
) -> Preview:
    """Render the text for this contact; a short sample without `attributes`, or if an attribute is missing."""
    sender = await registry.known(held.database, caller, body.sender_id)
    spoken = checked(body.text, "fr", {}, body.folding, sender)
    template = spoken.templates[spoken.language]
    missing = None if body.attributes is None else spoken.missing(body.attributes)
    written = _written(spoken, None if missing else body.attributes, sender)
    got = written + sender.stop_added
    return Preview(
        text=got,
        length=length_of(got),
        parts=list(parts(got)),
        fields=list(template.fields),
        missing=missing,
        problem=texts.refused(written, sender.stop_code, sender.stop_added, stop_page=sender.stop_page),
        costly=costly(body.text),
        foldings=[
            _folded(body, how, sender, whose=None if missing else body.attributes)
            for how in (Folding.TYPOGRAPHIC, Folding.ACCENTS, Folding.NAMES)
        ],
    )


def checked(text: str, language: str, translations: Mapping[str, str], folding: Folding, sender: Sender) -> Wording:
    """Return a campaign's wording. Raises Invalid with the field: `text`, or `translations.en`."""
    for name, source in {language: text, **translations}.items():
        field = "text" if name == language else f"translations.{name}"
        try:
            only = wording(source, name, {}, folding, sender.link_host, sender.stop_page)
            texts.check(only.templates[name], sender.stop_code, sender.stop_added, sender.stop_page)
        except texts.TextRefused as refused:
            raise Invalid(str(refused), reasons=[Reason(field, refused.reason.value)]) from refused
    if language in translations:
        raise Invalid(
            "`text` is in that language already", reasons=[Reason(f"translations.{language}", "same_language")]
        )
    return wording(text, language, translations, folding, sender.link_host, sender.stop_page)


def length_of(text: str) -> Length:
    found = length(text)
    return Length(encoding=found.encoding, units=found.units, segments=found.segments)


def costly(source: str) -> list[Costly]:
    """Return the costly characters of the typed text."""
    found = []
    for place in texts.costly(source):
        ways = ((how, foldings.folded(place.character, foldings.of_author(how))) for how in Folding)
        how, instead = next(((how, after) for how, after in ways if after != place.character), (None, None))
        name = unicodedata.name(place.character, None)
        found.append(Costly(character=place.character, name=name, at=place.at, instead=instead, folding=how))
    return found


def _written(spoken: Wording, attributes: Mapping[str, str] | None, sender: Sender) -> str:
    if attributes is None:
        return spoken.templates[spoken.language].sample(sender.stop_code)
    return spoken.render(attributes, sender.stop_code, any_token)


def _folded(body: NewPreview, how: Folding, sender: Sender, *, whose: Mapping[str, str] | None) -> Folded:
    spoken = wording(body.text, "fr", {}, how, sender.link_host, sender.stop_page)
    named = spoken.templates["fr"].fields
    contact = foldings.of_contact(how)
    becomes = {n: foldings.folded(v, contact) for n, v in (body.attributes or {}).items() if n in named}
    return Folded(
        folding=how,
        length=length_of(_written(spoken, whose, sender) + sender.stop_added),
        changes=[
            Change(at=change.at, before=change.before, after=change.after)
            for change in foldings.changes(texts.sent(body.text), foldings.of_author(how))
        ],
        changed_attributes={n: v for n, v in becomes.items() if v != (body.attributes or {})[n]},
    )
