"""Signatures as cosign makes them with a key pair: a payload, and a manifest that carries it, at a tag of its own."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from oci_images import Blob, manifest_blob
from oci_registry import Registry

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: PrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form).decode()


def payload(digest: str, repository: str, **critical: Any) -> bytes:
    claim = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
        **critical,
    }
    return json.dumps({"critical": claim, "optional": None}).encode()


def sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def signature(key: PrivateKey, data: bytes) -> Blob:
    """The payload *data* as a layer with its signature."""
    signed = base64.b64encode(sign(key, data)).decode()
    return Blob(media_type=PAYLOAD, data=data, extra={"annotations": {"dev.cosignproject.cosign/signature": signed}})


def push_signatures(registry: Registry, repository: str, digest: str, signatures: list[Blob]) -> None:
    """Put *signatures* where those of the image with *digest* are looked for."""
    config = Blob(media_type="application/vnd.oci.image.config.v1+json", data=b'{"rootfs": {"type": "layers"}}')
    name = f"{repository}:{digest.replace(':', '-')}.sig"
    registry.put(manifest_blob(config, signatures), [config, *signatures], name)


def push_signature(registry: Registry, repository: str, digest: str, key: PrivateKey) -> None:
    """Sign as cosign does by default."""
    push_signatures(registry, repository, digest, [signature(key, payload(digest, f"{registry.host}/{repository}"))])
