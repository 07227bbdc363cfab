"""TLS to PostgreSQL: one spelling for pool, LISTEN and migrations, and a certificate that is checked."""

import asyncio
import datetime
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.db.database import Database, migrate
from common.db.notify import Listener
from common.db.tls import without_tls_of
from stack.postgres import Postgres
from tests.support.eventually import eventually

pytestmark = pytest.mark.brokerless


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of the tests")])
        made = _dated(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key, made.sign(key, hashes.SHA256()))

    def server(self, *names: x509.GeneralName) -> bytes:
        """Return a key and a certificate for these names, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A server of the tests")])
        made = _dated(name, self.certificate.subject, key).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return secret + made.sign(self.key, hashes.SHA256()).public_bytes(pem)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _dated(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )


def _write_for_owner(pem: Path, content: bytes) -> None:
    """Write a file that the owner of its folder alone can read."""
    pem.touch(mode=0o600)
    pem.write_bytes(content)
    owner = pem.parent.stat()
    os.chown(pem, owner.st_uid, owner.st_gid)


@dataclass(frozen=True)
class Sure:
    """A server whose certificate is of 127.0.0.1 alone. `url`: of its database, without a word on TLS."""

    url: str
    by_name: str
    ours: Path
    another: Path


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sure]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority.new()
    postgres = Postgres(folder / "postgres", durable=False)
    await asyncio.to_thread(postgres.start)
    try:
        url = await postgres.create_service_database("inbound", "for tests only")
        admin = await asyncpg.connect(postgres.admin_dsn)
        try:
            data = Path(await admin.fetchval("SHOW data_directory"))
            of_this = authority.server(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
            await asyncio.to_thread(_write_for_owner, data / "server.pem", of_this)
            for name, value in (("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.pem"), ("ssl", "on")):
                await admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            await admin.execute("SELECT pg_reload_conf()")

            async def on() -> bool:
                fresh = await asyncpg.connect(postgres.admin_dsn, ssl="prefer")
                try:
                    return bool(await fresh.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
                finally:
                    await fresh.close()

            await eventually(on)
        finally:
            await admin.close()
        yield Sure(
            url,
            url.replace("@127.0.0.1:", "@localhost:"),
            authority.write(folder / "ours.pem"),
            Authority.new().write(folder / "another.pem"),
        )
    finally:
        await asyncio.to_thread(postgres.stop)


IS_SURE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("mode", ["verify-full", "require", "verify-ca"])
async def test_one_spelling_works_for_the_pool_for_listen_and_for_migrations(server: Sure, mode: str) -> None:
    url = f"{server.url}?sslmode={mode}&sslrootcert={server.ours}&channel_binding=require"
    database = Database(url)
    heard: list[str] = []
    try:
        assert [row[0] for row in await database.read(IS_SURE)] == [True]
        raw = await database.connect()
        assert await raw.fetchval(IS_SURE)
        await raw.close()
        async with Listener(database, "told", heard.append):

            async def told() -> bool:
                await database.run("SELECT pg_notify('told', 'a STOP')")
                return "a STOP" in heard

            await eventually(told)
    finally:
        await database.close()
    await asyncio.to_thread(migrate, url, "inbound")


async def test_an_unknown_authority_and_another_host_are_refused_by_every_connection(server: Sure) -> None:
    for url in (
        f"{server.url}?sslmode=verify-full&sslrootcert={server.another}",
        f"{server.url}?sslmode=require&sslrootcert={server.another}",
        f"{server.url}?sslmode=verify-ca&sslrootcert={server.another}",
        f"{server.url}?sslmode=verify-full",
        f"{server.by_name}?sslmode=verify-full&sslrootcert={server.ours}",
        f"{server.by_name}?sslmode=require&sslrootcert={server.ours}",
    ):
        database = Database(url)
        try:
            for connect in (
                database.ping,
                database.connect,
                lambda url=url: asyncio.to_thread(migrate, url, "inbound"),
            ):
                with pytest.raises(ssl.SSLCertVerificationError):
                    await connect()
        finally:
            await database.close()
    of_any_host = Database(f"{server.by_name}?sslmode=verify-ca&sslrootcert={server.ours}")
    try:
        await of_any_host.ping()
    finally:
        await of_any_host.close()


async def test_plain_text_is_asked_for_by_name(server: Sure) -> None:
    database = Database(f"{server.url}?sslmode=disable")
    try:
        assert [row[0] for row in await database.read(IS_SURE)] == [False]
    finally:
        await database.close()


def test_only_this_machine_is_reached_in_plain_text_without_a_word() -> None:
    for host in ("127.0.0.1", "[::1]", "localhost"):
        assert without_tls_of(f"postgresql://a:b@{host}:5432/a")[1] is False
    assert without_tls_of("postgresql://a@/a?host=/run/postgresql")[1] is False
    for host in ("db.example", "10.0.0.1", "localhost.example"):
        _, checked = without_tls_of(f"postgresql://a:b@{host}:5432/a")
        assert isinstance(checked, ssl.SSLContext)
        assert checked.check_hostname
        assert checked.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("more", ["sslmode=prefer", "sslmode=allow", "sslmode=on", "ssl=true", "sslrootcert=/nothing"])
def test_what_may_fall_back_is_refused_and_the_password_is_not_told(more: str) -> None:
    with pytest.raises(ValueError, match=r"sslmode|cannot be read") as refused:
        without_tls_of(f"postgresql://a:secret@db.example/a?{more}")
    assert "secret" not in str(refused.value)
