"""Signatures of images in the form of cosign, made with a key pair."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from trio_sup import DigestMismatch, InvalidValue, NotProven

from ._documents import Descriptor, Manifest, parse_document
from ._errors import UnusableImage
from ._policy import PublicKey, signed_by
from ._reference import parse_reference
from ._registry import Repository

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
_TYPES = ("cosign container image signature", "atomic container signature")
"""Source: the signature specification of cosign, and the simple signing format that it builds on."""
LARGEST_PAYLOAD = 64 * 2**10
MOST_SIGNATURES = 100


async def verify_signature(
    repository: Repository, digests: Sequence[str], *, key: PublicKey, repositories: Collection[str], what: str
) -> None:
    """Make sure that one of *digests* was signed with *key*: at least one signature of it must be good.

    Args:
        digests: Of what the reference means, and of what was chosen from that.
        repositories: Those that the signature may be for.

    Raises:
        NotProven: There is no signature, or none is good; says why.
        DownloadFailed: The registry cannot be asked.
    """
    reasons: list[str] = []
    for digest in dict.fromkeys(digests):
        try:
            for signature in await _signatures(repository, digest, what):
                payload = await repository.small_blob(signature, LARGEST_PAYLOAD)
                wrong = what_is_wrong(payload, signature, digest=digest, key=key, repositories=repositories)
                if wrong is None:
                    return
                reasons.append(wrong)
        except _NoSignature as error:
            reasons.append(str(error))
        except (UnusableImage, DigestMismatch) as error:
            reasons.append(f"the signature of {digest} cannot be used: {error.why}")
    raise NotProven(what, "; ".join(dict.fromkeys(reasons)))


class _NoSignature(Exception):
    """There is none, for the reason that the text says."""


async def _signatures(repository: Repository, digest: str, what: str) -> Sequence[Descriptor]:
    tag = f"{digest.replace(':', '-')}.sig"
    document = await repository.find(tag)
    if document is None:
        raise _NoSignature(f"there is no signature of {digest} (tag {tag})")
    parsed = parse_document(document, what)
    layers = parsed.layers if isinstance(parsed, Manifest) else ()
    signatures = [layer for layer in layers if layer.media_type == PAYLOAD]
    if not signatures:
        raise _NoSignature(f"what is at the tag {tag} has no signature in it")
    return signatures[:MOST_SIGNATURES]


def what_is_wrong(
    payload: bytes, signature: Descriptor, *, digest: str, key: PublicKey, repositories: Collection[str]
) -> str | None:
    """Why this signature does not prove that *digest* is meant; None if it does."""
    try:
        raw = base64.b64decode(signature.annotations.get(SIGNATURE, ""), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not signed_by(key, raw, payload):
        return f"a signature of {digest} was not made with the key of the gallery"
    # Only now: what is not signed says nothing.
    try:
        claim = _claim(json.loads(payload))
    except (ValueError, RecursionError, KeyError, TypeError):
        return f"a signature of {digest} is not in the form of cosign"
    if claim.type not in _TYPES:
        return f"a signature of {digest} is for something else: {claim.type!r:.80}"
    if claim.digest != digest:
        return f"a signature was moved here: it is for {claim.digest!r:.80}, not for {digest}"
    if claim.repository not in repositories:
        meant = ", ".join(repositories)
        return f"a signature of {digest} is for the repository {claim.repository!r:.200}, not for {meant}"
    return None


@attrs.frozen
class _Claim:
    """What is signed: that this digest is meant by this name."""

    type: str
    digest: str
    repository: str


def _claim(table: Any) -> _Claim:
    critical = table["critical"]
    named = critical["identity"]["docker-reference"]
    try:
        name = parse_reference(named).name
    except (InvalidValue, AttributeError):
        name = str(named)
    return _Claim(type=critical["type"], digest=critical["image"]["docker-manifest-digest"], repository=name)
