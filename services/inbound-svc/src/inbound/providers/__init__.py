"""The providers whose callbacks inbound-svc takes, by the name in the URL.

A new provider is a module here and a line below.
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
SCHEMES: Mapping[str, tuple[str, ...]] = {"plivo": plivo.SCHEMES, "vonage": vonage.SCHEMES}  # the usual one first
UNDOCUMENTED: Mapping[str, str] = {"bird": messagebird.BIRD_GAP, "smsmode": smsmode.GAP}


def genuine(callback: Callback, account: Account, now: datetime) -> Once | None:
    """Authenticate a callback; return its nonce to remember, if any.

    Raises NotGenuine, or Unreadable where the signature is in the body. An account with neither secret nor fence gets
    no callbacks.
    """
    if not (account.secrets or account.path_secrets or account.basic or account.addresses):
        raise NotGenuine("nothing_to_check")
    access.check(callback, account)
    return PROVIDERS[account.provider].verify(callback, account, now) if account.secrets else None


def capabilities(account: Account) -> Capabilities:
    """Return the capabilities of the provider for this account."""
    return account.capabilities or PROVIDERS[account.provider].capabilities


def ambiguous(receipt: Receipt) -> bool:
    """Return whether the provider blocks the number without saying why.

    Such a block does not prove an opt-out, but stops marketing to the number, and all messages by this provider
    (DOMAIN 4.3).
    """
    return receipt.blocked


__all__ = [
    "PROVIDERS",
    "RETRIES_FOR",
    "SCHEMES",
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
