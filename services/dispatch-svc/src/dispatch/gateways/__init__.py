"""The gateways, by provider name.

inbound-svc uses the same names. A new provider needs a module here and an entry in the tables below.
"""

from collections.abc import Mapping

from common.settings import ServiceSettings
from dispatch.gateways import (
    allmysms,
    brevo,
    cm,
    contact_everyone,
    esendex,
    infobip,
    jasmin,
    kannel,
    mailjet,
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
)
from dispatch.gateways.by_kafka import gateway as by_kafka
from dispatch.gateways.by_kafka.publisher import Publisher
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.connections import Bounds
from dispatch.gateways.gateway import (
    Capabilities,
    Gateway,
    Late,
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
from dispatch.gateways.provider import Account, Described, Explains, HttpProvider, LooksUp, NotNow, ThrottledUntil

HTTP_PROVIDERS: Mapping[str, HttpProvider] = {
    "allmysms": allmysms,
    "brevo": brevo,
    "cm": cm,
    "contact-everyone": contact_everyone,
    "esendex": esendex,
    "infobip": infobip,
    "jasmin": jasmin,
    "kannel": kannel,
    "mailjet": mailjet,
    "messagebird": messagebird,
    "octopush": octopush,
    "ovh": ovh,
    "plivo": plivo,
    "simulator": simulator,
    "sinch": sinch,
    "smsfactor": smsfactor,
    "smsmode": smsmode,
    "standard": standard,
    "sweego": sweego,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
}

EXPLAINING: Mapping[str, Explains] = {"ovh": ovh}
LOOK_UPS: Mapping[str, LooksUp] = {"infobip": infobip, "sinch": sinch}
PROVIDERS: Mapping[str, Described] = {**HTTP_PROVIDERS, "kafka": by_kafka, "smpp": by_smpp}


def open_gateway(
    account: Account,
    settings: ServiceSettings,
    *,
    binds: by_smpp.Shared,
    timeout_s: float,
    submits: int,
    batch: int | None,
    capabilities: Capabilities,
    bounds: Bounds,
) -> Gateway:
    """Open the gateway of this account, for `submits` at once; the caller closes the gateway.

    `binds`: where a gateway over SMPP finds its binds, or leaves them for the other lane. `bounds`: of a gateway over
    HTTP.
    """
    name = gateway_name(account.provider, account.account)
    if account.provider == "kafka":
        return by_kafka.KafkaGateway(
            name, account.account, settings, timeout_s=timeout_s, batch=batch, capabilities=capabilities
        )
    if account.provider == "smpp":
        link = binds.link(name, account, Publisher(settings, "dispatch"))
        return by_smpp.SmppGateway(name, account, link, timeout_s=timeout_s, submits=submits, capabilities=capabilities)
    provider = HTTP_PROVIDERS[account.provider]
    return HttpGateway(
        name,
        provider,
        account,
        timeout_s=timeout_s,
        batch=batch,
        capabilities=capabilities,
        looks_up=LOOK_UPS.get(account.provider),
        explains=EXPLAINING.get(account.provider),
        bounds=bounds,
    )


__all__ = [
    "HTTP_PROVIDERS",
    "PROVIDERS",
    "Account",
    "Bounds",
    "Capabilities",
    "Gateway",
    "HttpGateway",
    "HttpProvider",
    "Late",
    "Misconfigured",
    "NotNow",
    "Refused",
    "Result",
    "SendError",
    "Submit",
    "Throttled",
    "ThrottledUntil",
    "Unanswered",
    "Unreachable",
    "gateway_name",
    "open_gateway",
]
