"""Both sources keep the contract of all gallery sources."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from oci_images import Image, image, layer
from oci_registry import Registry
from trio_sup_oci import ImageFiles, Registries

from trio_sup.strategies import GallerySource
from trio_sup.testing.contracts import GallerySourceContract

pytestmark = pytest.mark.slow


def image_of(files: Mapping[str, bytes]) -> Image:
    """An image of *files* in two layers, the first of which has what the second one removes."""
    return image({"removed": b"1"}, layer({".wh.removed": b"", **files}, "zstd"))


# When a handshake of TLS is cancelled, httpcore2 leaves its socket to the garbage collector, which warns and closes it:
# TrioStream.start_tls() closes it only after an Exception, which Cancelled is not.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.needs("docker-registry", "skopeo")
class TestRegistries(GallerySourceContract):
    scheme = "oci"
    resumes = True
    registry: Registry

    @pytest.fixture(autouse=True)
    def _with_registry(self, registry: Registry) -> None:
        self.registry = registry

    def make(self) -> GallerySource:
        return Registries(retries=1)

    @asynccontextmanager
    async def offer(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        name = f"contract/offer-{len(files)}:v1"
        self.registry.push(image_of(files), name, self.directory)
        yield self.registry.reference(name)

    @asynccontextmanager
    async def offer_nothing(self) -> AsyncIterator[str]:
        yield self.registry.reference("contract/missing:v1")


class TestImageFiles(GallerySourceContract):
    scheme = "ocifile"
    records_digests = False  # a sha256 is that of the file; what is recorded is that of the image in it

    def make(self) -> GallerySource:
        return ImageFiles()

    @asynccontextmanager
    async def offer(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        layout = image_of(files).write(self.directory / f"layout-{len(files)}")
        path = self.directory / f"offer-{len(files)}.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(layout, ".")
        yield f"ocifile://{path}"

    @asynccontextmanager
    async def offer_nothing(self) -> AsyncIterator[str]:
        yield f"ocifile://{self.directory}/missing"
