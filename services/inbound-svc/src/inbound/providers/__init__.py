"""The providers we take callbacks from, by the name in the URL. A new one is a module here and a line below."""

from collections.abc import Mapping

from inbound.providers import simulator, twilio
from inbound.providers.provider import (
    Account,
    Answer,
    Callback,
    Kind,
    Message,
    NotGenuine,
    Provider,
    Receipt,
    Unreadable,
    WrongField,
)

PROVIDERS: Mapping[str, Provider] = {"simulator": simulator, "twilio": twilio}

__all__ = [
    "PROVIDERS",
    "Account",
    "Answer",
    "Callback",
    "Kind",
    "Message",
    "NotGenuine",
    "Provider",
    "Receipt",
    "Unreadable",
    "WrongField",
]
