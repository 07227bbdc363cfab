"""What people are told in answer to what they wrote: in the sender's own words where it has some, else in ours, in
French. Pure.

    stopped   once, no advertising, the brand named (DOMAIN 1.8, 2.5)
    contact   who edits the service: legal name, how to reach it, how to stop
    preferences   a link to the page where they see and choose
    started   that it was heard, and how to stop again
    question  of a double opt-in: who asks, what for, how to say yes, and that nothing is the other answer
    renewal   the one question at the end of a consent: whether it shall go on

Where several senders of a shared code answer at once, it is in ours. These are in the letters of GSM 03.38, so that
an answer is one SMS where the names are short: "ê", "ç" or a curly apostrophe would halve what fits.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.contracts.consent import Replies
from common.sms.sms_length import GSM7_BASIC, GSM7_EXTENSION, length

Kind = Literal["stopped", "contact", "started"]

IN_OUR_WORDS = Replies()
BRANDS_NAMED = 3  # of a shared code; more are "nos marques"
QUESTION_SEGMENTS = 2  # the wording is cut to fit
QUESTION_FIELDS = ("brand", "purpose", "stop_code")  # each of them, and {link} where there is one
FIELD = re.compile(r"\{([^{}]*)\}")
TYPED = {
    "\u2019": "'",
    "\u2018": "'",
    "\u201c": '"',
    "\u201d": '"',
    "«": '"',
    "»": '"',
    "…": "...",
    "œ": "oe",
    "Œ": "OE",
}
SHORTEST = 20  # letters of a wording that is one long word
CONTACT_SEGMENTS = 4  # of a shared code: as many legal names as fit


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks: a sender as people are told of it."""

    legal_name: str
    brand: str
    contact: str
    own: Replies = IN_OUR_WORDS


def stopped(senders: Sequence[Identity], *, everyone: bool = False) -> str:
    """The confirmation of a STOP to these senders, or to everyone."""
    if not everyone and (own := _alone(senders).stop):
        return own
    heard = "votre STOP est pris en compte"
    if everyone:
        return f"{_brands(senders)} : {heard} pour toutes les marques, vous ne recevrez plus de SMS commerciaux."
    return f"{_brands(senders)} : {heard}, vous ne recevrez plus nos SMS commerciaux."


def started(senders: Sequence[Identity], stop_code: str) -> str:
    if own := _alone(senders).start:
        return own
    return f"{_brands(senders)} : vous recevrez de nouveau nos SMS. Pour ne plus en recevoir, STOP au {stop_code}."


def contact(senders: Sequence[Identity], stop_code: str) -> str:
    """At least the first of them; one that does not fit is left out."""
    if own := _alone(senders).contact:
        return own
    for last in range(len(senders), 0, -1):
        names = " ; ".join(f"{s.legal_name}, {s.contact}" for s in senders[:last])
        text = f"Service SMS de {names}. Pour ne plus recevoir nos SMS : STOP au {stop_code}."
        if length(text).segments <= CONTACT_SEGMENTS:
            break
    return text


def preferences(sender: Identity, url: str, until: datetime) -> str:
    """A link to the preference page. `until`: in the person's time."""
    said = f"{sender.brand} : vos choix pour nos SMS et vos données : {url}"
    return f"{said} Lien personnel, jusqu'au {until:%d/%m}."


def question(sender: Identity, wording: str, stop_code: str, *, reply: bool = True, url: str | None = None) -> str:
    """What asks for a double opt-in. `wording`: of the purpose. `reply`: by OUI; `url`: by a link, or both."""
    own = sender.own.double_opt_in
    if own is None or not reply or ("{link}" in own) is not (url is not None):
        ways = ["répondez OUI"] * reply + [f"confirmez ici : {url}"] * (url is not None)
        own = f'{{brand}} : pour recevoir par SMS "{{purpose}}", {" ou ".join(ways)}'
        own += (" Sinon" if url else ". Sinon") + ", ne faites rien. STOP au {stop_code}."
    fields = {"brand": sender.brand, "stop_code": stop_code, "link": url or ""}
    words = _in_gsm(wording).split() or [wording]
    for last in range(len(words), 0, -1):
        text = _filled(own, fields | {"purpose": " ".join(words[:last]) + "..." * (last < len(words))})
        if length(text).segments <= QUESTION_SEGMENTS:
            return text
    return _filled(own, fields | {"purpose": words[0][:SHORTEST] + "..."})


def question_flaws(own: str) -> Iterator[str]:
    """What is wrong with a sender's own question."""
    found = FIELD.findall(own)
    if unknown := [name for name in found if name not in (*QUESTION_FIELDS, "link")]:
        yield f"{len(unknown)} unknown field(s)"
    if "{" in FIELD.sub("", own) or "}" in FIELD.sub("", own):
        yield "a brace that is no field"
    for name in QUESTION_FIELDS:
        if name not in found:
            yield f"{{{name}}} is missing"
    if not re.search(r"\bOUI\b", own):
        yield "it does not tell of OUI"
    if not re.search(r"\bSTOP\b", own):
        yield "it does not tell of STOP"


def _filled(own: str, fields: Mapping[str, str]) -> str:
    """Once over: what is filled in is text, whatever it looks like."""
    return FIELD.sub(lambda found: fields.get(found[1], found[0]), own)


def _in_gsm(wording: str) -> str:
    """Without the accents that GSM 03.38 lacks; what has no such form stays as it is."""
    letters = []
    for letter in wording:
        if letter not in GSM7_BASIC + GSM7_EXTENSION:
            letter = TYPED.get(letter) or unicodedata.normalize("NFKD", letter)
            letter = "".join(part for part in letter if not unicodedata.combining(part))
        letters.append(letter)
    return "".join(letters)


def renewal(sender: Identity, stop_code: str, until: datetime, *, ended: bool) -> str:
    """Whether a consent shall go on. `until`: in the person's time; it ends then, or, where it has `ended`, the answer
    counts until then."""
    if ended:
        said = f"{sender.brand} : sans nouvelles de vous, nos SMS ont pris fin. Pour les recevoir de nouveau, envoyez"
        return f"{said} OUI au {stop_code} avant le {until:%d/%m/%Y}. Sinon, rien à faire."
    said = (
        f"{sender.brand} : sans nouvelles de vous, nos SMS prendront fin le {until:%d/%m/%Y}. Pour les garder, envoyez"
    )
    return f"{said} OUI au {stop_code}. Sinon, rien à faire."


def _alone(senders: Sequence[Identity]) -> Replies:
    """The words of the one sender who answers."""
    return senders[0].own if len(senders) == 1 else IN_OUR_WORDS


def _brands(senders: Sequence[Identity]) -> str:
    brands = list(dict.fromkeys(sender.brand for sender in senders))
    return _and(brands) if len(brands) <= BRANDS_NAMED else "Nos marques"


def _and(names: Sequence[str]) -> str:
    return " et ".join(filter(None, (", ".join(names[:-1]), names[-1])))
