"""Let deliveries reach public addresses alone: an URL of a caller must open nothing inside (SSRF).

A name is resolved once for each connection, and the connection goes to an address that was looked at: an answer that
changes between the look and the connection changes nothing. An address written as such is looked at, too, since the
HTTP client does not resolve it. Redirections are not followed, and no proxy is used.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

MOST_URL_CHARS = 2000
RESOLVERS = 8  # threads: a name server that does not answer must not stop the process's other threads

_EMBEDDED: Final = ip_network("64:ff9b::/96")  # NAT64: the last four bytes are an IPv4 address (RFC 6052)
_CLOSED: Final = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10")))


class Forbidden(OSError):
    """No public address: the delivery does not begin."""


def refusal(url: str, *, private: bool) -> str | None:
    """Return why an URL is no destination, as the name of a reason, or None. `private`: as in the settings."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "not_valid"
    if len(url) > MOST_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url or not parts.hostname:
        return "not_valid"
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        return "not_https"
    if parts.username is not None or parts.password is not None:
        return "holds_credentials"
    if parts.fragment or port == 0:
        return "not_valid"
    return None if private or not _names_private(parts) else "not_public"


def _names_private(parts: SplitResult) -> bool:
    """Return whether the host is written as an address that is not public, or as a name of this machine."""
    host = (parts.hostname or "").rstrip(".")
    try:
        return not is_public(ip_address(host))
    except ValueError:
        of_machine = host == "localhost" or host.endswith((".localhost", ".local", ".internal", ".home.arpa"))
        return of_machine or _is_short_address(host)


def _is_short_address(host: str) -> bool:
    """Return whether the system reads a host as an IPv4 address in another form than four decimal numbers.

    127.1, 2130706433 and 0x7f.1 are 127.0.0.1 to the system. No such form is taken, of a public address either.
    """
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is reachable from everywhere; an address inside another is looked at, too."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in _EMBEDDED:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if address.ipv4_mapped is not None:
            return True
        if address.is_site_local:
            return False
    closed = any(address.version == net.version and address in net for net in _CLOSED)
    return address.is_global and not (address.is_multicast or address.is_reserved or closed)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses alone. `private`: to any address."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._threads = ThreadPoolExecutor(RESOLVERS, "webhook-resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        results: list[ResolveResult] = []
        for kind, _, protocol, _, at in found:
            address = str(at[0])
            if self._private or is_public(ip_address(address)):
                results.append(
                    ResolveResult(
                        hostname=host,
                        host=address,
                        port=port,
                        family=kind,
                        proto=protocol,
                        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                    )
                )
        if len(results) < len(found) or not results:  # a name of both kinds is made to reach inside
            raise Forbidden("the name has an address that is not public")
        return results

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
