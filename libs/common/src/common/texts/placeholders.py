"""Find the placeholders of other products in a text, and say how each is written here. Pure.

A text copied from another product would reach people with its placeholders unfilled.

    {{ first_name }}, {{contact.FIRSTNAME | default: "x"}}    Liquid, Handlebars, Jinja
    ${first_name}, #{first_name}                              scripts
    %FIRSTNAME%, %%first_name%%                               sending tools
    ((first name)), ((first name??Hello))                     GOV.UK Notify
    *|FNAME|*                                                 Mailchimp
    [FIRSTNAME], [[first_name]]                               mail merges

Square brackets and a percent sign may be plain text: `[PROMO]` and `-20%PUIS30%` are no placeholders.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_WORD = r"[A-Za-zÀ-ÿ][0-9A-Za-zÀ-ÿ]*(?:[._-]+[0-9A-Za-zÀ-ÿ]+)*"  # read in one way only: no text takes long
_NAME = rf"{_WORD}(?: {_WORD})*"  # of products whose names have spaces
_FORMS: Mapping[str, re.Pattern[str]] = {
    "{{…}}": re.compile(
        rf"\{{\{{\{{?\s*(?P<name>{_WORD})\s*(?:\|\s*default\s*:?\s*[\"'(]*(?P<default>[^\"'(){{}}|]*)[^{{}}]*)?"
        r"(?:\|[^{}]*)?\}\}\}?"
    ),
    "${…}": re.compile(rf"[$#]\{{\s*(?P<name>{_NAME})\s*\}}"),
    "%…%": re.compile(r"(?<![\d%])%%?(?P<name>[A-Za-z][A-Za-z_]{2,39})%%?"),
    "((…))": re.compile(rf"\(\(\s*(?P<name>{_NAME})\s*(?:\?\?[^()]*)?\)\)"),
    "*|…|*": re.compile(rf"\*\|\s*(?P<name>{_NAME})\s*\|\*"),
    "[[…]]": re.compile(rf"\[\[\s*(?P<name>{_NAME})\s*\]\]"),
    "[…]": re.compile(rf"\[\s*(?P<name>{_NAME})\s*\]"),
}
_KNOWN: Mapping[str, str] = {  # as other products call what imports here usually call so
    **dict.fromkeys(("firstname", "fname", "givenname", "forename", "prenom", "prénom"), "first_name"),
    **dict.fromkeys(("lastname", "lname", "surname", "familyname", "nom"), "last_name"),
    **dict.fromkeys(("name", "fullname", "customername", "username"), "name"),
    **dict.fromkeys(("email", "mail", "courriel"), "email"),
    **dict.fromkeys(("phone", "mobile", "telephone", "téléphone", "sms"), "phone"),
    **dict.fromkeys(("city", "ville"), "city"),
    **dict.fromkeys(("company", "société", "societe"), "company"),
    **dict.fromkeys(("unsubscribe", "optout", "stop", "stopcode"), "stop"),
    **dict.fromkeys(("link", "url", "lien"), "link https://…"),
}


class Placeholder(NamedTuple):
    """A placeholder of another product. `at`: its place, from 1; `instead`: the field written here."""

    form: str
    found: str
    at: int
    instead: str


def placeholders(text: str) -> Iterator[Placeholder]:
    """Yield the placeholders of other products, form by form."""
    for form, pattern in _FORMS.items():
        for match in pattern.finditer(text):
            name, default = match["name"], match.groupdict().get("default")
            if _is_meant(form, match[0], name):
                yield Placeholder(form, match[0], match.start() + 1, _written(name, (default or "").strip()))


def _is_meant(form: str, found: str, name: str) -> bool:
    """Return whether the text is a placeholder: brackets and percent signs are plain text around other words."""
    if form == "[…]":
        return _key(name) in _KNOWN
    if form == "%…%":
        return found.startswith("%%") or name.isupper() or _key(name) in _KNOWN
    return True


def _written(name: str, default: str) -> str:
    known = _KNOWN.get(_key(name))
    field = known or re.sub(r"[^a-z0-9]+", "_", name.rpartition(".")[2].lower()).strip("_") or "name"
    return f"{{{field}|{default}}}" if default else f"{{{field}}}"


def _key(name: str) -> str:
    return re.sub(r"[ _-]", "", name.rpartition(".")[2].lower())
