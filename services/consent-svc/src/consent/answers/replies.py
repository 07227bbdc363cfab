"""The texts of service SMS: a sender's own wording if registered and without flaw, else Placet's, in French. Pure.

    stopped   confirms a STOP once, without advertising, with the brand (DOMAIN 1.8, 2.5)
    contact   names the editors, « édité par » (DOMAIN 1.8)
    question  brand, purpose, how to say yes, and that no answer means no

An answer ends with the person's link to the preference page where the sender has a page and the link fits.

Placet's wording keeps to the letters of GSM 03.38: "ê", "ç" or a curly apostrophe would halve the room.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.contracts.consent import Replies
from common.sms.sms_length import GSM7_BASIC, GSM7_EXTENSION, STOP_ANSWER_SEGMENTS, length
from consent.answers.own_words import Author, Field, Flaw, flaws_of

Kind = Literal["stopped", "contact", "started"]

FIELD_OF: Mapping[Kind, Field] = {"stopped": "stop", "contact": "contact", "started": "start"}
LINK_SEGMENTS: Mapping[Kind, int] = {"stopped": 1, "started": 1, "contact": 2}  # an answer may grow to, for the link
IN_OUR_WORDS = Replies()
BRANDS_NAMED = 3  # above, OUR_BRANDS
OUR_BRANDS = "Nos marques"
QUESTION_SEGMENTS = 2  # `question` cuts the purpose's wording to fit
QUESTION_FIELDS = ("brand", "purpose", "stop_code")  # {link} is optional
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
SHORTEST = 20  # letters of the first word, if no whole word fits
CONTACT_SEGMENTS = 4  # of a shared code


@dataclass(frozen=True, slots=True)
class Identity:
    """A sender's identity in a text. `own` is the sender's wording."""

    legal_name: str
    brand: str
    contact: str
    stop_code: str = ""
    own: Replies = IN_OUR_WORDS

    def words(self, field: Field) -> str | None:
        """Return the sender's own words if they have no flaw."""
        own: str | None = getattr(self.own, field)
        return None if self.flaws(field) else own

    def flaws(self, field: Field) -> tuple[Flaw, ...]:
        """Return the flaws for which the sender's own words are not sent."""
        own: str | None = getattr(self.own, field)
        author = Author(self.legal_name, self.brand, self.contact, self.stop_code)
        return () if own is None else flaws_of(field, own, author)


def flaws(senders: Sequence[Identity], kind: Kind, *, everyone: bool = False) -> tuple[Flaw, ...]:
    """Return the flaws for which an answer has Placet's words instead of the sender's."""
    return senders[0].flaws(FIELD_OF[kind]) if len(senders) == 1 and not everyone else ()


def with_link(text: str, kind: Kind, url: str) -> str:
    """Return the answer with the link to the preference page, or without where the link does not fit.

    The link costs no SMS more, unless the answer stays within LINK_SEGMENTS.
    """
    longer = f"{text} Vos choix : {url}"
    return longer if length(longer).segments <= max(LINK_SEGMENTS[kind], length(text).segments) else text


def stopped(senders: Sequence[Identity], *, everyone: bool = False) -> str:
    """Return the confirmation of a STOP, which names the brands of `senders`; without a brand, none.

    Every gateway for answers takes STOP_ANSWER_SEGMENTS: longer brands lose their letters outside GSM 03.38, then their
    place.
    """
    if not everyone and (own := _alone(senders, "stop")):
        return own
    heard = "votre STOP est pris en compte"
    if everyone:
        heard += " pour toutes les marques, vous ne recevrez plus de SMS commerciaux."
    else:
        heard += ", vous ne recevrez plus nos SMS commerciaux."
    brands = _brands(senders)
    texts = (f"{named} : {heard}" for named in (brands, _in_gsm(brands), OUR_BRANDS))
    return next(text for text in texts if length(text).segments <= STOP_ANSWER_SEGMENTS)


def started(senders: Sequence[Identity], stop_code: str) -> str:
    if own := _alone(senders, "start"):
        return own
    return f"{_brands(senders)} : vous recevrez de nouveau nos SMS. Pour ne plus en recevoir, STOP au {stop_code}."


def contact(senders: Sequence[Identity], stop_code: str) -> str:
    """Return the contact text of as many senders as fit in CONTACT_SEGMENTS; without a sender, no name."""
    if own := _alone(senders, "contact"):
        return own
    text = f"Service SMS de plusieurs marques. Pour ne plus recevoir nos SMS : STOP au {stop_code}."
    for last in range(len(senders), 0, -1):
        names = " ; ".join(f"{s.legal_name}, {s.contact}" for s in senders[:last])
        text = f"Service SMS édité par {names}. Pour ne plus recevoir nos SMS : STOP au {stop_code}."
        if length(text).segments <= CONTACT_SEGMENTS:
            break
    return text


def preferences(sender: Identity, url: str, until: datetime) -> str:
    """Return the text with a link to the preference page. `until` is local."""
    said = f"{sender.brand} : vos choix pour nos SMS et vos données : {url}"
    return f"{said} Lien personnel, jusqu'au {until:%d/%m}."


def question(sender: Identity, wording: str, stop_code: str, *, reply: bool = True, url: str | None = None) -> str:
    """Return the question of a double opt-in, to answer by OUI (`reply`), by a link (`url`), or both.

    The sender's own question needs `reply`, and {link} exactly with `url`.
    """
    own = sender.words("double_opt_in")
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
    """Yield every flaw of a sender's own question."""
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
    """Fill the fields in a single pass: a value like a field stays text."""
    return FIELD.sub(lambda found: fields.get(found[1], found[0]), own)


def _in_gsm(wording: str) -> str:
    """Replace letters that GSM 03.38 lacks by a plain form, if any."""
    letters = []
    for letter in wording:
        if letter not in GSM7_BASIC + GSM7_EXTENSION:
            letter = TYPED.get(letter) or unicodedata.normalize("NFKD", letter)
            letter = "".join(part for part in letter if not unicodedata.combining(part))
        letters.append(letter)
    return "".join(letters)


def renewal(sender: Identity, stop_code: str, until: datetime, *, ended: bool) -> str:
    """Return the question whether a consent shall go on. `until`: the end of the consent, or of the answer time."""
    if ended:
        said = f"{sender.brand} : sans nouvelles de vous, nos SMS ont pris fin. Pour les recevoir de nouveau, envoyez"
        return f"{said} OUI au {stop_code} avant le {until:%d/%m/%Y}. Sinon, rien à faire."
    said = (
        f"{sender.brand} : sans nouvelles de vous, nos SMS prendront fin le {until:%d/%m/%Y}. Pour les garder, envoyez"
    )
    return f"{said} OUI au {stop_code}. Sinon, rien à faire."


def _alone(senders: Sequence[Identity], field: Field) -> str | None:
    """Return the words of a single sender."""
    return senders[0].words(field) if len(senders) == 1 else None


def _brands(senders: Sequence[Identity]) -> str:
    brands = list(dict.fromkeys(sender.brand for sender in senders))
    return _and(brands) if 0 < len(brands) <= BRANDS_NAMED else OUR_BRANDS


def _and(names: Sequence[str]) -> str:
    return " et ".join(filter(None, (", ".join(names[:-1]), names[-1])))
