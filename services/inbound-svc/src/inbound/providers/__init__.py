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
    sweego,
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
    "sweego": sweego,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
    "vonage-messages": vonage_messages,
}
SCHEMES: Mapping[str, tuple[str, ...]] = {"plivo": plivo.SCHEMES, "vonage": vonage.SCHEMES}  # the usual one first
UNDOCUMENTED: Mapping[str, str] = {"bird": messagebird.BIRD_GAP, "smsmode": smsmode.GAP}
# The headers without which no callback of the provider is genuine: asked for before the body is read. Not of those that
# sign in the body, or by one of two headers
SIGNED_BY: Mapping[str, tuple[str, ...]] = {
    "messagebird": ("messagebird-signature-jwt",),
    "simulator": ("placet-timestamp", "placet-signature"),
    "sinch": ("x-sinch-webhook-signature",),
    "standard": ("webhook-id", "webhook-timestamp", "webhook-signature"),
    "sweego": ("webhook-id", "webhook-timestamp", "webhook-signature"),
    "telnyx": ("telnyx-signature-ed25519", "telnyx-timestamp"),
    "twilio": ("x-twilio-signature",),
    "vonage-messages": ("authorization",),
}


def look_at_head(head: Callback, account: Account) -> None:
    """Refuse what cannot be genuine whatever its body is: before the body is read. Raises NotGenuine."""
    if not (account.secrets or account.path_secrets or account.basic or account.addresses):
        raise NotGenuine("nothing_to_check")
    access.check(head, account)
    if account.secrets:
        for name in SIGNED_BY.get(account.provider, ()):
            if not head.headers.get(name):
                raise NotGenuine("signature_missing")


def genuine(callback: Callback, account: Account, now: datetime) -> Once | None:
    """Authenticate a callback; return its nonce to remember, if any.

    Raises NotGenuine, or Unreadable where the signature is in the body. An account with neither secret nor fence gets
    no callbacks.
    """
    look_at_head(callback, account)
    return signed(callback, account, now)


def signed(callback: Callback, account: Account, now: datetime) -> Once | None:
    """Authenticate a callback as `genuine` does, once `look_at_head` has let its head in."""
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
    "look_at_head",
    "signed",
]
