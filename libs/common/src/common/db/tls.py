"""TLS of connections to PostgreSQL: one spelling, libpq's `sslmode`, for every connection.

    disable                            plain text
    verify-full, require, or none      TLS, and the certificate is checked for the host
    verify-ca                          TLS, and the certificate is checked, for any host

Without `sslmode` only a server of this machine is reached in plain text. `require` checks the certificate too: without
the check anyone between could answer. `allow` and `prefer` fall back to plain text, and are refused.
`sslrootcert` names the authorities (default, and `system`: the machine's), `sslcert` and `sslkey` the client's own.
"""

import ipaddress
import ssl

from sqlalchemy.engine import URL, make_url

CHECKED = ("verify-full", "require", "verify-ca")
OURS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "ssl")
LOCAL = frozenset(("localhost", ""))


def without_tls_of(url: str) -> tuple[URL, ssl.SSLContext | bool]:
    """Return the URL without its parts about TLS, and asyncpg's `ssl`. Raises ValueError, never with the password.

    `channel_binding` is dropped: asyncpg has none, and the certificate is checked.
    """
    found = make_url(url)
    told = {name: str(found.query[name]) for name in OURS if name in found.query}
    if "ssl" in told:
        raise ValueError("the database's URL has `ssl`: write `sslmode=verify-full`, or `sslmode=disable`")
    plain = found.difference_update_query(OURS)
    mode = told.get("sslmode") or ("disable" if _is_local(found) else "verify-full")
    if mode == "disable":
        return plain, False
    if mode not in CHECKED:
        raise ValueError(
            f"`sslmode={mode}` may fall back to plain text: write `sslmode=verify-full`, or `sslmode=disable`"
        )
    authorities = told.get("sslrootcert")
    try:
        checked = ssl.create_default_context(cafile=None if authorities in (None, "system") else authorities)
        if "sslcert" in told:
            checked.load_cert_chain(told["sslcert"], told.get("sslkey"))
    except OSError as error:
        raise ValueError(
            f"a certificate of the database's URL cannot be read: {error.strerror or 'it is no PEM'}"
        ) from error
    checked.check_hostname = mode != "verify-ca"
    return plain, checked


def _is_local(url: URL) -> bool:
    """Return whether the server is on this machine: a loopback address, or a socket."""
    host = url.host or str(url.query.get("host", ""))
    if host in LOCAL or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
