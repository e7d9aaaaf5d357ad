"""Images for tests, made by hand: layers, configurations, manifests, lists; as an OCI layout on disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import zstandard
from trio_sup_oci._documents import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from trio_sup_oci._platform import Platform, host_platform

RUN = b"#!/bin/sh\nexec sleep 60\n"
KINDS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("", lambda data: data),
    "gzip": ("+gzip", lambda data: gzip.compress(data, 1, mtime=0)),
    "zstd": ("+zstd", zstandard.ZstdCompressor().compress),
}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(files: Mapping[str, bytes], *, members: Sequence[tarfile.TarInfo] = ()) -> bytes:
    """A layer with these files (executable if they begin with ``#!``), then *members*."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if data.startswith(b"#!") else 0o644
            archive.addfile(member, io.BytesIO(data))
        for member in members:
            archive.addfile(member)
    return buffer.getvalue()


@attrs.frozen(kw_only=True)
class Blob:
    media_type: str
    data: bytes
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **self.extra}


def layer(files: Mapping[str, bytes] | bytes, kind: str = "gzip") -> Blob:
    """A layer of files, or of the bytes of a tar."""
    suffix, compress = KINDS[kind]
    data = files if isinstance(files, bytes) else tar_of(files)
    return Blob(media_type=f"application/vnd.oci.image.layer.v1.tar{suffix}", data=compress(data))


@attrs.frozen(kw_only=True)
class Image:
    """A manifest or a list, and all that it needs."""

    top: Blob
    blobs: Sequence[Blob]
    layers: Sequence[Blob] = ()

    @property
    def digest(self) -> str:
        return self.top.digest

    def write(self, layout: Path, tag: str = "v1") -> Path:
        """Add it to the OCI layout in the directory *layout*."""
        folder = layout / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        for blob in (*self.blobs, self.top):
            (folder / blob.digest.removeprefix("sha256:")).write_bytes(blob.data)
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        index = layout / "index.json"
        manifests = json.loads(index.read_text())["manifests"] if index.exists() else []
        entry = {**self.top.descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
        index.write_text(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*manifests, entry]}))
        return layout


def manifest_blob(config: Blob, layers: Sequence[Blob], **extra: Any) -> Blob:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [each.descriptor for each in layers],
        **extra,
    }
    return Blob(media_type=OCI_MANIFEST, data=json.dumps(document).encode())


def image(*layers: Blob | Mapping[str, bytes], platform: Platform | None = None, comment: str = "") -> Image:
    """An image of these layers, for this machine unless told otherwise."""
    blobs = [each if isinstance(each, Blob) else layer(each) for each in layers]
    platform = platform or host_platform()
    configuration = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "comment": comment,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(_plain(blob)) for blob in blobs]},
    }
    config = Blob(media_type=OCI_CONFIG, data=json.dumps(configuration).encode())
    return Image(top=manifest_blob(config, blobs), blobs=[config, *blobs], layers=blobs)


def image_list(images: Mapping[str, Image], *, more: Sequence[Mapping[str, Any]] = ()) -> Image:
    """A list of images by platform: ``"linux/arm/v7"``; *more* are further entries."""
    entries = []
    for text, each in images.items():
        system, architecture, *variant = text.split("/")
        platform = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append({**each.top.descriptor, "platform": platform})
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *more]}
    return Image(
        top=Blob(media_type=OCI_INDEX, data=json.dumps(document).encode()),
        blobs=[blob for each in images.values() for blob in (*each.blobs, each.top)],
    )


def _plain(blob: Blob) -> bytes:
    if blob.media_type.endswith("gzip"):
        return gzip.decompress(blob.data)
    if blob.media_type.endswith("zstd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob.data)
    return blob.data
