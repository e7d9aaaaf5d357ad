"""The documents of an image, as values: the list by platform, the manifest, the configuration."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from ._errors import UnusableImage
from ._platform import Platform
from ._reference import DIGEST

LARGEST_DOCUMENT = 4 * 2**20
"""Bytes of a manifest or a configuration. Source: the OCI distribution specification, which lets registries refuse
larger manifests."""
MOST_LAYERS = 1000

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

LISTS = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGURATIONS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""What a registry is asked for, in this order."""

_LAYERS = frozenset(
    {
        *(f"application/vnd.oci.image.layer.v1.tar{compression}" for compression in ("", "+gzip", "+zstd")),
        *(f"application/vnd.docker.image.rootfs.diff.tar{compression}" for compression in ("", ".gzip", ".zstd")),
    }
)
_FOREIGN = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.).*", re.DOTALL
)
_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(?:prettyjws|json)")
_LARGEST_BLOB = 2**50


@attrs.frozen(kw_only=True)
class Descriptor:
    """What points to something else: its digest and size, and what it is.

    Attributes:
        digest: ``sha256:…``.
        size: Bytes.
        platform: What it was built for, if a list says so.
        annotations: Texts by name.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.removeprefix("sha256:")


@attrs.frozen(kw_only=True)
class Document:
    """A manifest, a list or a configuration as it came.

    Attributes:
        media_type: What the server, or what points to it, says it is; may be empty.
        digest: Of `data`.
    """

    data: bytes
    media_type: str
    digest: str


@attrs.frozen(kw_only=True)
class ImageList:
    """An OCI index or a Docker manifest list."""

    entries: tuple[Descriptor, ...]


@attrs.frozen(kw_only=True)
class Manifest:
    """One image: what it consists of."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@attrs.frozen(kw_only=True)
class Configuration:
    """What matters of the configuration of an image.

    Attributes:
        platform: None if it does not say.
        diff_ids: Digests of the unpacked layers.
    """

    platform: Platform | None
    diff_ids: tuple[str, ...]


def digest_of(data: bytes) -> str:
    """``sha256:…`` of *data*."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_document(document: Document, what: str) -> ImageList | Manifest:
    """Read a manifest, or a list of them. What it says itself that it is counts more than what others say.

    Args:
        what: Whose it is, for messages.

    Raises:
        UnusableImage: It is neither, or of a kind that is not supported.
    """
    table = _table(document.data, what)
    kind = _text(table.get("mediaType")) or document.media_type
    if table.get("schemaVersion") == 1 or _SCHEMA_1.fullmatch(kind):
        raise UnusableImage(what, "its manifest is of schema 1, which is outdated; push it anew with a current tool")
    if "manifests" in table and ("layers" in table or "config" in table):
        # Two readers could take it for two different things. Source: the OCI image specification on CVE-2021-41190.
        raise UnusableImage(what, "its manifest claims to be an image and a list of images at once")
    if "manifests" in table:
        entries = _list(table, "manifests", what)
        return ImageList(entries=tuple(_descriptor(entry, "manifests", what) for entry in entries))
    if "layers" in table and "config" in table:
        layers = _list(table, "layers", what)
        if len(layers) > MOST_LAYERS:
            raise UnusableImage(what, f"it has {len(layers)} layers; at most {MOST_LAYERS} are unpacked")
        return Manifest(
            config=_descriptor(table["config"], "config", what),
            layers=tuple(_descriptor(layer, "layers", what) for layer in layers),
        )
    raise UnusableImage(what, f"what is there ({kind or 'of unknown kind'}) is neither an image nor a list of images")


def parse_configuration(data: bytes, what: str) -> Configuration:
    """Read the configuration of an image.

    Raises:
        UnusableImage: It is none.
    """
    table = _table(data, what)
    rootfs = table.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return Configuration(
        platform=_platform(table),
        diff_ids=tuple(map(_text, diff_ids)) if isinstance(diff_ids, list) else (),
    )


def check_layers(manifest: Manifest, what: str) -> None:
    """Refuse layers that are no part of a file system that can be had here.

    Raises:
        UnusableImage: One is foreign (kept elsewhere), or something else than files.
    """
    for number, layer in enumerate(manifest.layers, 1):
        if _FOREIGN.fullmatch(layer.media_type):
            raise UnusableImage(
                what, f"its layer {number} is a foreign one ({layer.media_type}), which registries do not keep"
            )
        if layer.media_type not in _LAYERS:
            raise UnusableImage(
                what, f"its layer {number} is of kind {layer.media_type!r}: not a layer of files, gzip, zstd or plain"
            )
    if not manifest.layers:
        raise UnusableImage(what, "it has no layers, so there is nothing in it")


# ---- pieces


def _table(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > LARGEST_DOCUMENT:
        raise UnusableImage(what, f"its description is larger than {LARGEST_DOCUMENT} bytes")
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        raise UnusableImage(what, f"its description is no JSON: {data[:40]!r}") from None
    if not isinstance(table, dict):
        raise UnusableImage(what, "its description is no JSON object")
    return table


def _list(table: dict[str, Any], key: str, what: str) -> list[Any]:
    value = table[key]
    if not isinstance(value, list):
        raise UnusableImage(what, f"{key!r} in its manifest is no list")
    return value


def _descriptor(value: object, where: str, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise UnusableImage(what, f"{where!r} in its manifest has something that is no description: {value!r:.80}")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise UnusableImage(what, f"{where!r} in its manifest has a digest that is no sha256: {digest!r:.80}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_BLOB:
        raise UnusableImage(what, f"{where!r} in its manifest has a size that is none: {size!r:.80}")
    annotations = value.get("annotations")
    return Descriptor(
        media_type=_text(value.get("mediaType")),
        digest=digest,
        size=size,
        platform=_platform(value.get("platform")),
        annotations={name: text for name, text in annotations.items() if isinstance(text, str)}
        if isinstance(annotations, dict)
        else {},
    )


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    system, architecture = _text(value.get("os")), _text(value.get("architecture"))
    return Platform(system, architecture, _text(value.get("variant"))) if system and architecture else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
