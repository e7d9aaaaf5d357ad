"""What a gallery says about the signatures of its images: the public key that made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from trio_sup import InvalidValue

from ._reference import parse_reference

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
KEYS = ("public_key", "repositories")
LEAST_RSA_BITS = 2048
LARGEST_KEY_FILE = 64 * 2**10


@attrs.frozen(kw_only=True)
class Policy:
    """How the images of a gallery are signed.

    Attributes:
        public_key: A key as PEM text, or the path of a file with one.
        repositories: Those that a signature may be for, besides the one that is asked: an image that was copied to
            a mirror together with its signature names the original.
    """

    public_key: str
    repositories: tuple[str, ...] = ()


def policy_of(verification: Mapping[str, Any]) -> Policy:
    """Read the ``verification`` of a gallery.

    Raises:
        InvalidValue: It asks for something else than a signature by one key pair, or a value is wrong.
    """
    if unknown := sorted(set(verification) - set(KEYS)):
        raise InvalidValue(
            unknown[0], f"signatures are verified with a key: only {' and '.join(KEYS)} are supported in `verification`"
        )
    key, repositories = verification.get("public_key"), verification.get("repositories", ())
    if not isinstance(key, str) or not key.strip():
        raise InvalidValue(key, "public_key: expected a public key as PEM text, or the path of a file with one")
    if not isinstance(repositories, (list, tuple)) or not all(isinstance(name, str) for name in repositories):
        raise InvalidValue(repositories, "repositories: expected a list of repositories")
    policy = Policy(public_key=key, repositories=tuple(parse_reference(name).name for name in repositories))
    if _is_pem(key):
        _key(key.encode())
    return policy


def load_key(policy: Policy) -> PublicKey:
    """The public key; from its file, if it is in one.

    Raises:
        InvalidValue: It cannot be read, or is none that is supported.
    """
    if _is_pem(policy.public_key):
        return _key(policy.public_key.encode())
    try:
        with open(Path(policy.public_key).expanduser(), "rb") as file:
            return _key(file.read(LARGEST_KEY_FILE))
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidValue(policy.public_key, f"public_key: the file cannot be read: {why}") from error
    except InvalidValue as error:
        raise InvalidValue(policy.public_key, error.why) from error


def signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether *signature* of *data* was made with the private half of *key*; over SHA-256, as cosign does."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _is_pem(text: str) -> bool:
    return "-----BEGIN" in text


def _key(pem: bytes) -> PublicKey:
    if b"PRIVATE KEY" in pem:
        raise InvalidValue("(a private key)", "public_key: this is a private key; it should not be here at all")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValue("(not a key)", "public_key: this is no public key in PEM form") from None
    if not isinstance(key, PublicKey):
        raise InvalidValue(type(key).__name__, "public_key: expected an ECDSA, Ed25519 or RSA key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise InvalidValue(key.key_size, f"public_key: an RSA key needs at least {LEAST_RSA_BITS} bits")
    return key
