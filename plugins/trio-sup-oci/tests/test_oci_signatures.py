"""Signed images from a real registry: what is good is installed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from oci_fetching import Fetching
from oci_images import RUN, Blob, Image, image, image_list, manifest_blob
from oci_registry import Registry
from oci_signing import new_key, payload, public_pem, push_signature, push_signatures, signature
from trio_sup_oci import Registries
from trio_sup_oci._platform import host_platform

from trio_sup import NotProven
from trio_sup.strategies import InstallPhase

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

KEY = new_key()
POLICY = {"public_key": public_pem(KEY)}


@attrs.frozen
class Signed:
    """An image in a repository of its own."""

    registry: Registry
    repository: str
    what: Image
    fetch: Fetching

    @property
    def full_name(self) -> str:
        return f"{self.registry.host}/{self.repository}"

    def sign(self, *signatures: Blob, digest: str | None = None) -> None:
        push_signatures(self.registry, self.repository, digest or self.what.digest, list(signatures))

    async def refused(self) -> str:
        """Why it is not installed; nothing was downloaded."""
        with pytest.raises(NotProven) as caught:
            await self.fetch.run()
        assert caught.value.what == self.fetch.uri
        assert not self.fetch.files
        assert not list(self.fetch.scratch.iterdir())
        assert InstallPhase.DOWNLOADING not in self.fetch.phases
        return caught.value.why

    async def accepted(self) -> None:
        assert (await self.fetch.run()).digest == self.what.digest
        assert self.fetch.files == {"run.sh": RUN}
        assert self.fetch.phases[:3] == [InstallPhase.RESOLVING, InstallPhase.VERIFYING, InstallPhase.DOWNLOADING]


@pytest.fixture
def signed(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Signed]:
    def signed(what: Image | None = None, verification: Mapping[str, Any] = POLICY) -> Signed:
        repository = f"signed/{abs(hash(request.node.nodeid))}"
        # Different in each test: a registry keeps a blob once for all repositories.
        pushed = registry.push(what or image({"run.sh": RUN}, comment=repository), f"{repository}:v1", tmp_path)
        uri = registry.reference(f"{repository}:v1")
        fetch = Fetching(Registries(), uri, tmp_path / "fetch", verification=verification)
        return Signed(registry, repository, pushed, fetch)

    return signed


async def test_a_signed_image_is_installed(signed: Callable[..., Signed]) -> None:
    found = signed()
    push_signature(found.registry, found.repository, found.what.digest, KEY)
    assert found.fetch.source.proof(found.fetch.uri, sha256=None, verification=POLICY) == (
        "a signature by the key of the gallery"
    )
    await found.accepted()


async def test_the_key_may_be_in_a_file(signed: Callable[..., Signed], tmp_path: Path) -> None:
    (tmp_path / "cosign.pub").write_text(public_pem(KEY))
    found = signed(verification={"public_key": str(tmp_path / "cosign.pub")})
    push_signature(found.registry, found.repository, found.what.digest, KEY)
    await found.accepted()


@pytest.mark.parametrize("which", ["list", "image"])
async def test_the_list_or_the_image_in_it_may_be_signed(signed: Callable[..., Signed], which: str) -> None:
    own = image({"run.sh": RUN}, comment=which)
    found = signed(image_list({str(host_platform()): own}))
    digest = found.what.digest if which == "list" else own.digest
    push_signature(found.registry, found.repository, digest, KEY)
    await found.accepted()


async def test_one_good_signature_among_others_is_enough(signed: Callable[..., Signed]) -> None:
    found = signed()
    good = payload(found.what.digest, found.full_name)
    found.sign(signature(new_key(), good), signature(KEY, b"{}"), signature(KEY, good))
    await found.accepted()


async def test_a_copy_on_a_mirror_keeps_the_name_of_the_original(signed: Callable[..., Signed]) -> None:
    found = signed(verification={**POLICY, "repositories": ["quay.io/org/original"]})
    found.sign(signature(KEY, payload(found.what.digest, "quay.io/org/original")))
    await found.accepted()


async def test_an_image_without_a_signature_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    tag = found.what.digest.replace(":", "-") + ".sig"
    assert await found.refused() == f"there is no signature of {found.what.digest} (tag {tag})"


async def test_a_signature_with_another_key_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    push_signature(found.registry, found.repository, found.what.digest, new_key())
    assert "was not made with the key of the gallery" in await found.refused()


async def test_a_signature_of_another_image_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    found.sign(signature(KEY, payload("sha256:" + "0" * 64, found.full_name)))
    assert "a signature was moved here" in await found.refused()


async def test_a_signature_for_another_repository_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    found.sign(signature(KEY, payload(found.what.digest, "quay.io/org/original")))
    assert "for the repository 'quay.io/org/original'" in await found.refused()


async def test_a_tag_that_has_no_signatures_in_it_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    other = image({"a": b"1"})
    name = f"{found.repository}:{found.what.digest.replace(':', '-')}.sig"
    found.registry.put(manifest_blob(other.blobs[0], other.layers), list(other.blobs), name)
    assert "has no signature in it" in await found.refused()


async def test_a_payload_that_is_too_large_is_refused(signed: Callable[..., Signed]) -> None:
    found = signed()
    found.sign(signature(KEY, payload(found.what.digest, found.full_name) + b" " * 100_000))
    assert "at most 65536 are read" in await found.refused()


@pytest.mark.parametrize(
    ("verification", "complaint"),
    [
        ({"issuer": "https://accounts.example", "identity": "me@example"}, "only public_key and repositories"),
        ({"issuer": "https://accounts.example"}, "only public_key and repositories"),
        ({"public_key": "/not/there.pub"}, "cannot be read: No such file"),
        ({"public_key": "-----BEGIN nonsense"}, "no public key"),
        ({"repositories": []}, "public_key: expected"),
    ],
)
async def test_a_policy_that_cannot_be_used_is_never_skipped(
    signed: Callable[..., Signed], verification: Mapping[str, Any], complaint: str
) -> None:
    found = signed(verification=verification)
    push_signature(found.registry, found.repository, found.what.digest, KEY)
    promised = found.fetch.source.proof(
        f"{found.fetch.uri}@{found.what.digest}", sha256="0" * 64, verification=verification
    )
    assert promised is None or verification["public_key"] == "/not/there.pub"
    assert complaint in await found.refused()


async def test_a_signature_does_not_replace_a_pin(signed: Callable[..., Signed]) -> None:
    found = signed()
    push_signature(found.registry, found.repository, found.what.digest, KEY)
    found.fetch.uri = f"{found.fetch.uri}@sha256:{'0' * 64}"
    with pytest.raises(Exception, match="no digest"):
        await found.fetch.run()
