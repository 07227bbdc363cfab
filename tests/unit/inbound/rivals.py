"""How others read the same texts: their rules as DOMAIN 2.1 or their code has them, written anew.

Where a description leaves room, the reading that does better on the corpus is taken. None of them has a "review".

    Twilio      DOMAIN 2.1 (Advanced Opt-Out, default words; the French words of Twilio Proxy are added to its credit)
    AWS         DOMAIN 2.1 (End User Messaging, required words); "begins with" is taken as a whole first word
    Mautic      mautic/mautic, StopSubscriber.php: `'stop' === strtolower($message)`; no trim
    Parcelvoy   parcelvoy/platform, TextProvider.ts: `includes('stop')`, `includes('start')`; help likewise
"""

import re
from collections.abc import Callable, Mapping

TWILIO_STOP = {"STOP", "STOPALL", "UNSUBSCRIBE", "END", "QUIT", "CANCEL", "REVOKE", "OPTOUT"}
TWILIO_STOP |= {"ARRETT", "ARRET", "ARRETE"}  # Proxy
TWILIO_START = {"START", "YES", "UNSTOP"}
TWILIO_HELP = {"HELP", "INFO"}

AWS_STOP = ("ARRET", "CANCEL", "END", "OPT-OUT", "OPTOUT", "QUIT", "REMOVE", "STOP", "TD", "UNSUBSCRIBE")
AWS_HELP = ("HELP", "AIDE", "INFO")


def twilio(text: str) -> str:
    word = text.strip().upper()
    if word in TWILIO_STOP:
        return "stop"
    if word in TWILIO_START:
        return "start"
    return "contact" if word in TWILIO_HELP else "none"


def aws(text: str) -> str:
    if _begins(text, AWS_STOP):
        return "stop"
    return "contact" if _begins(text, AWS_HELP) else "none"


def mautic(text: str) -> str:
    return "stop" if text.lower() == "stop" else "none"


def parcelvoy(text: str) -> str:
    said = text.lower()
    for word, intent in (("stop", "stop"), ("start", "start"), ("help", "contact")):
        if word in said:
            return intent
    return "none"


def _begins(text: str, words: tuple[str, ...]) -> bool:
    return re.match(rf"\s*(?:{'|'.join(words)})(?!\w)", text, re.IGNORECASE) is not None


RIVALS: Mapping[str, Callable[[str], str]] = {
    "Twilio": twilio,
    "AWS": aws,
    "Mautic": mautic,
    "Parcelvoy": parcelvoy,
}
