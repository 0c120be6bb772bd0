"""Mutual TLS with a real member: the right authority and a client certificate, or nothing."""

from __future__ import annotations

import asyncio
import datetime
import io
import ipaddress
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import docker
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from goud_node.agreement.channels import TlsFiles
from goud_node.agreement.etcd import EtcdKv
from goud_node.agreement.kv import Put
from goud_node.errors import OutcomeUnknown, Unavailable

from .etcd_cluster import image

pytestmark = pytest.mark.etcd
KEY_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass
class Authority:
    """A certificate authority that lives as long as the test."""

    name: str

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self._key, None)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, address: str | None = None) -> tuple[bytes, bytes]:
        """PEM certificate and key for a DNS name, and an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if address is not None:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        certificate = self._sign(name, key, names)
        pem_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), pem_key

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName] | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        )
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(KEY_USAGES), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("goud test authority")


@pytest.fixture(scope="module")
def endpoint(authority: Authority) -> Iterator[str]:
    """One member that demands client certificates; its own carries its address."""
    client = docker.from_env()
    name = f"goud-test-etcd-tls-{uuid.uuid4().hex[:8]}"
    command = (
        "until [ -f /tmp/tls/ready ]; do sleep 0.05; done; exec etcd --data-dir=/tmp/etcd"
        " --listen-client-urls=https://0.0.0.0:2379 --advertise-client-urls=https://127.0.0.1:2379"
        " --cert-file=/tmp/tls/member.pem --key-file=/tmp/tls/member.key"
        " --trusted-ca-file=/tmp/tls/authority.pem --client-cert-auth"
    )
    container = client.containers.run(
        image(client),
        [command],
        entrypoint=["/bin/sh", "-c"],
        name=name,
        detach=True,
        labels={"io.goud-chain.test": "etcd"},
    )
    try:
        container.reload()
        address = container.attrs["NetworkSettings"]["IPAddress"]
        certificate, key = authority.issue("member", address)
        files = {"member.pem": certificate, "member.key": key, "authority.pem": authority.pem, "ready": b""}
        container.put_archive("/tmp", archive(files))  # noqa: S108  # inside the container
        yield f"{address}:2379"
    finally:
        container.remove(force=True)
        client.close()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directory = tarfile.TarInfo("tls")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"tls/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def write(endpoint: str, tls: TlsFiles | None) -> bool:
    kv = EtcdKv([endpoint], tls)
    try:
        return (await kv.txn([], [Put(b"/tls", b"1")])).succeeded
    finally:
        await kv.close()


async def test_only_the_right_certificates_are_taken(authority: Authority, endpoint: str) -> None:
    certificate, key = authority.issue("node1")
    good = TlsFiles(authority.pem, certificate, key)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert await write(endpoint, good)
            break
        except Unavailable:
            assert time.monotonic() < deadline, "the member never answered"

    stranger = Authority("a stranger")
    foreign_certificate, foreign_key = stranger.issue("node1")
    for tls in (
        TlsFiles(stranger.pem, certificate, key),  # the member's certificate is not of this authority
        TlsFiles(authority.pem, foreign_certificate, foreign_key),  # ours is not of the member's
        None,
    ):
        with pytest.raises((Unavailable, OutcomeUnknown), match="etcd"):
            await write(endpoint, tls)
    assert await write(endpoint, good)


async def test_a_member_under_another_name_is_refused(authority: Authority, endpoint: str) -> None:
    certificate, key = authority.issue("node1")
    # The very same member, reached through a relay whose address is not in its certificate.
    host, port = endpoint.rsplit(":", 1)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        relayed = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unavailable):
            await write(relayed, TlsFiles(authority.pem, certificate, key))
    finally:
        server.close()
