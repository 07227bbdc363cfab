"""The gateways by the name of their provider, which is inbound-svc's for its callbacks. A new one is a module here, and
a line below."""

from collections.abc import Mapping

from dispatch.gateways import (
    brevo,
    cm,
    infobip,
    jasmin,
    kannel,
    octopush,
    ovh,
    plivo,
    simulator,
    sinch,
    smsfactor,
    telnyx,
    twilio,
    vonage,
)
from dispatch.gateways.gateway import (
    Capabilities,
    Gateway,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    Unanswered,
    Unreachable,
    gateway_name,
)
from dispatch.gateways.over_http import HttpGateway
from dispatch.gateways.provider import Account, HttpProvider

HTTP_PROVIDERS: Mapping[str, HttpProvider] = {
    "brevo": brevo,
    "cm": cm,
    "infobip": infobip,
    "jasmin": jasmin,
    "kannel": kannel,
    "octopush": octopush,
    "ovh": ovh,
    "plivo": plivo,
    "simulator": simulator,
    "sinch": sinch,
    "smsfactor": smsfactor,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
}

__all__ = [
    "HTTP_PROVIDERS",
    "Account",
    "Capabilities",
    "Gateway",
    "HttpGateway",
    "HttpProvider",
    "Misconfigured",
    "Refused",
    "Result",
    "SendError",
    "Submit",
    "Throttled",
    "Unanswered",
    "Unreachable",
    "gateway_name",
]
