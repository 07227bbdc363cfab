"""Where deliveries may go: to public addresses over TLS, whatever the URL or the name server says."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from ipaddress import ip_address

import aiohttp
import pytest

from campaign.webhooks.destinations import Forbidden, PublicResolver, is_public, refusal

INSIDE = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
)
SHORT = (  # forms of 127.0.0.1 that the system reads and `ip_address` does not
    "127.1",
    "127.0.1",
    "127.1.",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.01",
    "0x7f.1",
    "0X7F.0.0.1",
    "0x7f000001",
    "127.0x0.1",
)
OUTSIDE = ("93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8")


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused_in_every_spelling(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    assert refusal(f"https://{host}/hook", private=False) == "not_public"


@pytest.mark.parametrize("host", [*SHORT, "0", "1.0x7f", "8.8.2056"])
def test_an_address_in_a_form_of_its_own_is_refused(host: str) -> None:
    assert refusal(f"https://{host}/hook", private=False) == "not_public"


def test_a_name_of_digits_is_taken() -> None:
    assert refusal("https://118.example/hook", private=False) is None
    assert refusal("https://0x7f.example/hook", private=False) is None


def test_a_delivery_reaches_no_server_of_this_machine_by_any_form_of_its_address() -> None:
    """Without the look at the URL: the HTTP client reads some forms itself, and asks the resolver about the others."""
    assert asyncio.run(_reached([*SHORT, "localhost", "LOCALHOST."])) == []


async def _reached(hosts: Sequence[str]) -> list[str]:
    """Return the hosts by which the HTTP client of deliveries reaches a server on 127.0.0.1."""
    connections = 0

    def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    reached: list[str] = []
    connector = aiohttp.TCPConnector(resolver=PublicResolver(private=False))
    async with (
        await asyncio.start_server(count, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        port = server.sockets[0].getsockname()[1]
        for host in hosts:
            before = connections
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.post(f"http://{host}:{port}/hook", allow_redirects=False):
                    pass
            if connections > before:
                reached.append(host)
    return reached


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_public_address_is_taken(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://shop.example/hook", "not_https"),
        ("ftp://shop.example/hook", "not_https"),
        ("file:///etc/passwd", "not_valid"),
        ("https://", "not_valid"),
        ("https:///hook", "not_valid"),
        ("https://user:secret@shop.example/hook", "holds_credentials"),
        ("https://shop.example@127.0.0.1/hook", "holds_credentials"),
        ("https://shop.example:99999/hook", "not_valid"),
        ("https://shop.example/a b", "not_valid"),
        ("https://shop.example/\r\nHost: inside", "not_valid"),
        ("https://shop.example/hook#part", "not_valid"),
        ("https://[::1", "not_valid"),
        ("https://localhost/hook", "not_public"),
        ("https://LOCALHOST./hook", "not_public"),
        ("https://db.internal/hook", "not_public"),
        ("https://shop.example/" + "a" * 2000, "not_valid"),
        ("https://shop.example/hook?key=1", None),
        ("https://shop.example:8443/hook", None),
    ],
)
def test_an_url_is_refused_by_its_form(url: str, why: str | None) -> None:
    assert refusal(url, private=False) == why


def test_development_may_name_this_machine() -> None:
    assert refusal("http://127.0.0.1:8080/hook", private=True) is None
    assert refusal("ftp://127.0.0.1/hook", private=True) == "not_https"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.1.2.3", "8.8.8.8"], ["8.8.8.8", "::1"], ["169.254.169.254"]])
def test_a_name_with_an_address_inside_is_not_connected_to(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the name has a public one besides: each look at it could answer the other."""
    with pytest.raises(Forbidden):
        asyncio.run(_resolved(addresses, monkeypatch))


def test_a_connection_goes_to_the_addresses_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(_resolved(["8.8.8.8", "8.8.4.4"], monkeypatch)) == ["8.8.8.8", "8.8.4.4"]


async def _resolved(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = PublicResolver(private=False)
    try:
        return [found["host"] for found in await resolver.resolve("shop.example", 443)]
    finally:
        await resolver.close()
