"""A token server, as registries with Bearer authentication have one; its tokens are good for docker-registry."""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from oci_registry import PASSWORD, USER
from oci_server import Answer, Asked, serve

ISSUER, SERVICE = "token-server", "registry.test"
IDENTITY_TOKEN = "1d3ntity"


class Signer:
    """Makes tokens that a registry believes that has its certificate."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    def write_certificate(self, path: Path) -> Path:
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def token(self, access: list[dict[str, Any]], *, life: float) -> str:
        certificate = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate).decode()]}
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "",
            "jti": secrets.token_hex(8),
            "access": access,
        }
        claims |= {"iat": now - 10, "nbf": now - 10, "exp": now + max(int(life), 1)}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@attrs.define
class TokenServer:
    """What it gives, and what it was asked.

    Attributes:
        closed: Whether it wants user name and password; pushing always needs them.
        life: Seconds that a token is said to be good for.
        key: In which field of the answer the token is.
        failures: Statuses of the next answers.
    """

    signer: Signer
    port: int = 0
    closed: bool = False
    life: float | None = 300
    key: str = "token"
    failures: list[int] = attrs.field(factory=list)
    asked: list[Asked] = attrs.field(factory=list)

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token?fixed=1"

    @property
    def scopes(self) -> list[list[str]]:
        return [
            parse_qs(asked.target.partition("?")[2] or asked.body.decode()).get("scope", []) for asked in self.asked
        ]

    async def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if self.failures:
            return Answer(status=self.failures.pop(0), body=b'{"errors": [{"message": "not now"}]}')
        known = asked.headers.get("authorization") == _basic(USER, PASSWORD)
        if asked.method == "POST":
            form = dict(parse_qsl(asked.body.decode()))
            known = form.get("refresh_token") == IDENTITY_TOKEN and form.get("grant_type") == "refresh_token"
            parameters = [("scope", form["scope"]), ("service", form["service"])]
        else:
            parameters = parse_qsl(asked.target.partition("?")[2])
            assert ("fixed", "1") in parameters
        assert ("service", SERVICE) in parameters
        if (self.closed or "authorization" in asked.headers or asked.method == "POST") and not known:
            return Answer(status=401, body=b'{"errors": [{"message": "who are you?"}]}')
        access = []
        for scope in " ".join(value for name, value in parameters if name == "scope").split():
            kind, name, actions = scope.split(":")
            allowed = [each for each in actions.split(",") if known or each == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        life = 60 if self.life is None else self.life
        table: dict[str, Any] = {self.key: self.signer.token(access, life=life)}
        if self.life is not None:
            table["expires_in"] = self.life
        return Answer(headers=[("Content-Type", "application/json")], body=json.dumps(table).encode())


@asynccontextmanager
async def token_server(server: TokenServer) -> AsyncIterator[TokenServer]:
    """Let *server* answer for the length of the block, on its port if it has one."""
    async with serve(server.answer, server.port) as port:
        server.port = port
        yield server


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
