"""Encryption: https unless it is this machine or a listed one, certificates, and no way back from it."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from oci_fetching import Fetching
from oci_images import RUN, image
from oci_registry import Registry, running_registry
from oci_server import Answer, Asked, serve
from trio_sup_oci import Registries, _registry

from trio_sup import DownloadFailed

IMAGE = image({"run.sh": RUN})


@attrs.frozen
class Certificate:
    """One for 127.0.0.1, that nobody trusts unless told to."""

    path: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256())
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    made.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.write_bytes(key.private_bytes(*form))
    return made


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    return certificate


@pytest.fixture(scope="module")
def encrypted(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("encrypted")
    with running_registry(directory, tls=(certificate.path, certificate.key)) as registry:
        registry.push(IMAGE, "test/image:v1", directory)
        yield registry


@pytest.mark.needs("docker-registry", "skopeo")
async def test_a_registry_on_this_machine_may_be_encrypted(
    encrypted: Registry, trusted: Certificate, tmp_path: Path
) -> None:
    fetch = Fetching(Registries(), encrypted.reference("test/image:v1"), tmp_path)
    assert (await fetch.run()).digest == IMAGE.digest
    assert fetch.files == {"run.sh": RUN}


@pytest.mark.needs("docker-registry", "skopeo")
async def test_a_certificate_that_is_not_trusted_is_the_reason_and_no_way_round_it_is_tried(
    encrypted: Registry,
) -> None:
    source = Registries(insecure_registries=[encrypted.host])
    with pytest.raises(DownloadFailed, match=r"the certificate of 127.* is not trusted: self") as caught:
        await source.digest(encrypted.reference("test/image:v1"))
    assert not caught.value.temporary


async def test_an_encrypted_registry_may_not_lead_to_a_host_without(trusted: Certificate) -> None:
    asked: list[Asked] = []

    async def plain(request: Asked) -> Answer:
        asked.append(request)
        return Answer(body=IMAGE.top.data, headers=[("Content-Type", IMAGE.top.media_type)])

    async with serve(plain) as other:

        async def leads(request: Asked) -> Answer:
            return Answer(status=307, headers=[("Location", f"http://127.0.0.1:{other}/x")])

        async with serve(leads, tls=trusted.context()) as port:
            with pytest.raises(DownloadFailed, match="leads to a host without encryption") as caught:
                await Registries().digest(f"oci://127.0.0.1:{port}/a/b:v1")
    assert not caught.value.temporary
    assert all("authorization" not in request.headers for request in asked)


async def test_a_registry_that_does_not_know_what_encryption_is_may_just_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_registry, "TLS_PATIENCE", 0.2)
    head = f"HTTP/1.1 200 OK\r\nDocker-Content-Digest: {IMAGE.digest}\r\nContent-Length: 0\r\n\r\n"

    async def waits_for_an_empty_line(stream: trio.SocketStream) -> None:
        asked = b""
        async for data in stream:
            asked += data
            if asked.endswith(b"\r\n\r\n"):
                await stream.send_all(head.encode())

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, waits_for_an_empty_line, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with trio.fail_after(20):
            assert await Registries(retries=0).digest(f"oci://127.0.0.1:{port}/a/b:v1") == IMAGE.digest
        nursery.cancel_scope.cancel()


class HereIsEverywhere(trio.abc.HostnameResolver):
    """Every name means this machine."""

    async def getaddrinfo(self, host: Any, port: Any, family: int = 0, type: int = 0, *_: int) -> Any:  # noqa: A002
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_elsewhere_nothing_is_sent_without_encryption() -> None:
    asked: list[Asked] = []

    async def plain(request: Asked) -> Answer:
        asked.append(request)
        return Answer(body=IMAGE.top.data, headers=[("Content-Type", IMAGE.top.media_type)])

    trio.socket.set_custom_hostname_resolver(HereIsEverywhere())
    async with serve(plain) as port:
        host = f"registry.example:{port}"
        for insecure in ([], ["registry.example"], [f"registry.example:{port + 1}"], ["example"]):
            with pytest.raises(DownloadFailed, match=r"\[SSL.*`insecure_registries` lists"):
                await Registries(retries=0, insecure_registries=insecure).digest(f"oci://{host}/a/b:v1")
        assert not asked
        listed = Registries(retries=0, insecure_registries=[host.upper()])
        assert await listed.digest(f"oci://{host}/a/b:v1") == IMAGE.digest
    assert [request.method for request in asked] == ["HEAD", "GET"]
