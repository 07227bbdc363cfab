"""What people are told in answer to what they wrote: in the sender's own words where it has some, else in ours, in
French. Pure.

    stopped   once, no advertising, the brand named (DOMAIN 1.8, 2.5)
    contact   who edits the service: legal name, how to reach it, how to stop
    preferences   a link to the page where they see and choose
    started   that it was heard, and how to stop again

Where several senders of a shared code answer at once, it is in ours. These are in the letters of GSM 03.38, so that
an answer is one SMS where the names are short: "ê", "ç" or a curly apostrophe would halve what fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.contracts.consent import Replies
from common.sms_length import length

Kind = Literal["stopped", "contact", "started"]

IN_OUR_WORDS = Replies()
BRANDS_NAMED = 3  # of a shared code; more are "nos marques"
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


def _alone(senders: Sequence[Identity]) -> Replies:
    """The words of the one sender who answers."""
    return senders[0].own if len(senders) == 1 else IN_OUR_WORDS


def _brands(senders: Sequence[Identity]) -> str:
    brands = list(dict.fromkeys(sender.brand for sender in senders))
    return _and(brands) if len(brands) <= BRANDS_NAMED else "Nos marques"


def _and(names: Sequence[str]) -> str:
    return " et ".join(filter(None, (", ".join(names[:-1]), names[-1])))
