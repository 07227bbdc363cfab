"""The providers we take callbacks from, by the name in the URL. A new one is a module here and a line below.

genuine(callback, account, now)   who called, and its signature
PROVIDERS[name]                   its formats
UNDOCUMENTED[name]                why there is no such provider yet
"""

from collections.abc import Mapping
from datetime import datetime

from inbound.providers import (
    access,
    brevo,
    cm,
    esendex,
    infobip,
    jasmin,
    kannel,
    messagebird,
    octopush,
    ovh,
    plivo,
    simulator,
    sinch,
    smsfactor,
    smsmode,
    standard,
    telnyx,
    twilio,
    vonage,
    vonage_messages,
)
from inbound.providers.provider import (
    RETRIES_FOR,
    Account,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    NotGenuine,
    Once,
    Part,
    Provider,
    Receipt,
    Undocumented,
    Unreadable,
    WrongField,
)

PROVIDERS: Mapping[str, Provider] = {
    "brevo": brevo,
    "cm": cm,
    "esendex": esendex,
    "infobip": infobip,
    "jasmin": jasmin,
    "kannel": kannel,
    "messagebird": messagebird,
    "octopush": octopush,
    "ovh": ovh,
    "plivo": plivo,
    "simulator": simulator,
    "sinch": sinch,
    "smsfactor": smsfactor,
    "standard": standard,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
    "vonage-messages": vonage_messages,
}
UNDOCUMENTED: Mapping[str, str] = {"bird": messagebird.BIRD_GAP, "smsmode": smsmode.GAP}


def genuine(callback: Callback, account: Account, now: datetime) -> Once | None:
    """Raises NotGenuine (or Unreadable, where the signature is in the body). What is to be remembered, if anything.

    Nobody is let in unchecked: an account with neither a secret nor a fence has no callbacks.
    """
    if not (account.secrets or account.path_secrets or account.basic or account.addresses):
        raise NotGenuine("nothing_to_check")
    access.check(callback, account)
    return PROVIDERS[account.provider].verify(callback, account, now) if account.secrets else None


def capabilities(account: Account) -> Capabilities:
    """What the provider does on its own for this account."""
    return account.capabilities or PROVIDERS[account.provider].capabilities


def ambiguous(receipt: Receipt) -> bool:
    """The provider will not deliver to this number, and does not say whether the person asked for that: nothing to
    prove an opt-out with, a reason to send there no marketing, and nothing through this provider (DOMAIN 4.3)."""
    return receipt.blocked


__all__ = [
    "PROVIDERS",
    "RETRIES_FOR",
    "UNDOCUMENTED",
    "Account",
    "Answer",
    "Callback",
    "Capabilities",
    "Kind",
    "Message",
    "NotGenuine",
    "Once",
    "Part",
    "Provider",
    "Receipt",
    "Undocumented",
    "Unreadable",
    "WrongField",
    "ambiguous",
    "capabilities",
    "genuine",
]
