"""What a gallery says about signatures, and what one signature proves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from oci_signing import PAYLOAD, PrivateKey, new_key, payload, public_pem, signature
from trio_sup_oci._documents import Descriptor
from trio_sup_oci._policy import load_key, policy_of
from trio_sup_oci._signature import SIGNATURE, what_is_wrong

from trio_sup import InvalidValue

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
REPOSITORY = "quay.io/org/name"
KEY = new_key()


def judge(
    data: bytes, *, signer: PrivateKey = KEY, key: PrivateKey = KEY, annotations: dict[str, str] | None = None
) -> str | None:
    blob = signature(signer, data)
    descriptor = Descriptor(
        media_type=PAYLOAD,
        digest=blob.digest,
        size=len(data),
        annotations=blob.extra["annotations"] if annotations is None else annotations,
    )
    trusted = load_key(policy_of({"public_key": public_pem(key)}))
    return what_is_wrong(data, descriptor, digest=DIGEST, key=trusted, repositories={REPOSITORY})


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_a_good_signature_is_good(key: PrivateKey) -> None:
    assert judge(payload(DIGEST, REPOSITORY), signer=key, key=key) is None


@pytest.mark.parametrize("name", [REPOSITORY, f"{REPOSITORY}:v1", f"{REPOSITORY}@{DIGEST}", f"{REPOSITORY}:v1@{OTHER}"])
def test_the_name_may_have_a_tag_or_digest(name: str) -> None:
    assert judge(payload(DIGEST, name)) is None


def test_a_signature_with_another_key_proves_nothing() -> None:
    assert judge(payload(DIGEST, REPOSITORY), signer=new_key()) == (
        f"a signature of {DIGEST} was not made with the key of the gallery"
    )


@pytest.mark.parametrize("text", ["", "?", "AAAA", "ö"])
def test_what_is_no_signature_proves_nothing(text: str) -> None:
    for noted in ({SIGNATURE: text}, {}):
        assert "not made with the key" in str(judge(payload(DIGEST, REPOSITORY), annotations=noted))


def test_one_changed_byte_is_seen() -> None:
    data = payload(OTHER, REPOSITORY)
    descriptor = Descriptor(media_type=PAYLOAD, digest=DIGEST, size=1, **signature(KEY, data).extra)
    trusted = load_key(policy_of({"public_key": public_pem(KEY)}))
    changed = payload(DIGEST, REPOSITORY)
    wrong = what_is_wrong(changed, descriptor, digest=DIGEST, key=trusted, repositories={REPOSITORY})
    assert "not made with the key" in str(wrong)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (payload(OTHER, REPOSITORY), f"it is for '{OTHER}', not for {DIGEST}"),
        (payload(DIGEST, "quay.io/org/other"), "for the repository 'quay.io/org/other', not for quay.io/org/name"),
        (payload(DIGEST, "evil.example/org/name"), "for the repository 'evil.example/org/name'"),
        (payload(DIGEST, "!"), "for the repository '!'"),
        (payload(DIGEST, REPOSITORY, type="something"), "for something else: 'something'"),
        (payload(DIGEST, REPOSITORY, type=["a"]), "for something else"),
        (payload(DIGEST, REPOSITORY, image={}), "not in the form of cosign"),
        (payload(DIGEST, REPOSITORY, identity={"docker-reference": 5}), "for the repository '5'"),
        (json.dumps({"critical": None}).encode(), "not in the form of cosign"),
        (b"[]", "not in the form of cosign"),
        (b"\xff", "not in the form of cosign"),
        (DIGEST.encode(), "not in the form of cosign"),
    ],
)
def test_what_is_signed_must_be_this_image(data: bytes, complaint: str) -> None:
    assert complaint in str(judge(data))


# ---- policies


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(key.public_key().public_bytes(*form).decode())


PRIVATE = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


@pytest.mark.parametrize(
    ("verification", "complaint"),
    [
        ({"issuer": "https://accounts.example", "identity": "x"}, "only public_key and repositories are supported"),
        ({"public_key": pem(KEY), "issuer": "x"}, "only public_key and repositories"),
        ({"not_before": "2024-01-01T00:00:00Z"}, "only public_key"),
        ({"repositories": ["quay.io/a/b"]}, "public_key: expected"),
        ({"public_key": ""}, "public_key: expected"),
        ({"public_key": 5}, "public_key: expected"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "no public key in PEM form"),
        ({"public_key": PRIVATE}, "this is a private key"),
        ({"public_key": pem(x25519.X25519PrivateKey.generate())}, "expected an ECDSA, Ed25519 or RSA key"),
        ({"public_key": pem(rsa.generate_private_key(65537, 1024))}, "at least 2048 bits"),
        ({"public_key": pem(KEY), "repositories": "quay.io/a/b"}, "repositories: expected a list"),
        ({"public_key": pem(KEY), "repositories": [5]}, "repositories: expected a list"),
        ({"public_key": pem(KEY), "repositories": ["quay.io/A"]}, "in lower case"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(verification: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        policy_of(verification)
    assert complaint in str(caught.value)
    assert PRIVATE.splitlines()[1] not in repr(caught.value)


def test_a_key_may_be_in_a_file(tmp_path: Path, home: Path) -> None:
    (tmp_path / "cosign.pub").write_text(pem(KEY))
    (home / "cosign.pub").write_text(pem(KEY))
    for name in (str(tmp_path / "cosign.pub"), "~/cosign.pub"):
        assert load_key(policy_of({"public_key": name})) == KEY.public_key()


def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "cosign.pub")
    with pytest.raises(InvalidValue, match="the file cannot be read: No such file") as caught:
        load_key(policy_of({"public_key": path}))
    assert caught.value.value == path
    (tmp_path / "cosign.pub").write_text("nonsense")
    with pytest.raises(InvalidValue, match="no public key in PEM form") as caught:
        load_key(policy_of({"public_key": path}))
    assert caught.value.value == path
