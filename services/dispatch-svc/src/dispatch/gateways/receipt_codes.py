"""DLR codes with the meaning of `Misconfigured`: accepted, then failed until a person acts. Pure.

    whole account   Infobip, OVHcloud: no credit (DOMAIN 4.4). Plivo 900, 910: no credit, switched off; Twilio 30002:
                    suspended, for money too (their lists of error codes)
    one sender      Infobip: source, sender; SMSFactor 6: sender (DOMAIN 3.4, 4.4)

In the answer to a submit a number may mean something else (Vonage 9, 15). Absent on purpose: SMSFactor 7, no route,
since a route may lack for a single place; and codes about a text.
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
