"""Access checks before any signature: path secret, basic authentication, network.

Pure. Every configured check must hold; a provider which signs nothing has no other check (DOMAIN 3.2).
"""

import base64
import binascii
import hmac
import ipaddress

from inbound.providers.provider import Account, Callback, NotGenuine


def check(callback: Callback, account: Account) -> None:
    """Check the fences of the account, in constant time over secrets. Raises NotGenuine."""
    if account.path_secrets or callback.path_secret is not None:
        given = (callback.path_secret or "").encode("utf-8", "surrogateescape")
        if not _one_of(given, account.path_secrets):
            raise NotGenuine("path_secret_wrong")
    if account.basic and not _one_of(_credentials(callback.headers.get("authorization", "")), account.basic):
        raise NotGenuine("basic_authentication_wrong")
    if account.addresses and not _within(callback.address, account.addresses):
        raise NotGenuine("address_not_allowed")


def _one_of(given: bytes, secrets: tuple[str, ...]) -> bool:
    return any(hmac.compare_digest(given, secret.encode()) for secret in secrets)


def _credentials(header: str) -> bytes:
    """Return the credentials of "Basic <base64>", decoded; else empty."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    return any(caller in ipaddress.ip_network(network) for network in networks)
