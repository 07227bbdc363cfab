"""Codes by which a receipt says what `Misconfigured` says of a submit: it was taken, and came to nothing because of our
account, its money or our sender; so will the next, until somebody acts. Pure.

    whole account   Infobip, OVHcloud: no credit (DOMAIN 4.4). Plivo 900, 910: no credit, switched off; Twilio 30002:
                    suspended, for money too (their lists of error codes)
    one sender      Infobip: its source, its sender; SMSFactor 6: its sender (DOMAIN 3.4, 4.4)

Only what a provider documents for receipts: in the answer to a submit a number may mean something else (Vonage 9, 15).
Not here: SMSFactor 7, no route, as one may lack to one place; and what is said of a text.
"""

from collections.abc import Mapping

OF_ACCOUNT: Mapping[str, frozenset[str]] = {
    "infobip": frozenset(("REJECTED_NOT_ENOUGH_CREDITS",)),
    "ovh": frozenset(("21",)),
    "plivo": frozenset(("900", "910")),
    "twilio": frozenset(("30002",)),
}
OF_SENDER: Mapping[str, frozenset[str]] = {
    "infobip": frozenset(("REJECTED_SOURCE", "REJECTED_SENDER")),
    "smsfactor": frozenset(("6",)),
}


def needs_somebody(provider: str, code: str | None) -> bool:
    return code in OF_ACCOUNT.get(provider, ()) or is_of_sender(provider, code)


def is_of_sender(provider: str, code: str | None) -> bool:
    return code in OF_SENDER.get(provider, ())
