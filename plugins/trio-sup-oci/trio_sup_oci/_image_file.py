"""Images in files: OCI layouts, and what ``docker save`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import attrs

from trio_sup import DigestMismatch

from ._boxes import Box
from ._choosing import check_platform, choose_image, images_of
from ._documents import (
    LARGEST_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Document,
    ImageList,
    digest_of,
    parse_configuration,
    parse_document,
)
from ._errors import UnusableImage
from ._platform import Platform, in_words

NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
INDEXES = ("index.json", "manifest.json")
"""All that `digest_in` looks at."""
_NOTHING = "it has neither an index.json (an OCI layout) nor a manifest.json (of `docker save`)"
_CONFIG_NAME = re.compile(r"(?:.*[/:])?([0-9a-f]{64})(?:\.json)?", re.DOTALL)


@attrs.frozen(kw_only=True)
class Part:
    """A layer in a file.

    Attributes:
        name: In the box.
        size: Bytes there.
        digest: ``sha256:…`` of it, or of what it decompresses to if `unpacked`.
    """

    name: str
    size: int
    digest: str
    unpacked: bool = False


@attrs.frozen(kw_only=True)
class ImageFile:
    """An image that was found in a box.

    Attributes:
        digest: Of its manifest or list; of its configuration (the image ID) where there is no manifest.
        parts: Its layers, the lowest one first.
    """

    digest: str
    parts: tuple[Part, ...]


async def find_image(box: Box, wanted: Platform, pin: str | None, what: str) -> ImageFile:
    """Find the image in *box*; everything but the layers is proven by its digest.

    Args:
        pin: The digest that the image must have; tells which one is meant where there are several.

    Raises:
        UnusableImage: There is none, there are several, or it cannot be unpacked here.
        DigestMismatch: It is not the one that is pinned, or a part of it is not what it should be.
    """
    if box.has("index.json"):
        return await _in_layout(box, wanted, pin, what)
    if box.has("manifest.json"):
        return _saved(box, wanted, pin, what)
    raise UnusableImage(what, _NOTHING)


def digest_in(box: Box, wanted: Platform, pin: str | None, what: str) -> str:
    """The digest that `find_image` would say, from the index alone. Raises the same."""
    if box.has("index.json"):
        return _entry(box, wanted, pin, what).digest
    if box.has("manifest.json"):
        return _saved_entry(box, pin, what).digest
    raise UnusableImage(what, _NOTHING)


# ---- OCI layout


async def _in_layout(box: Box, wanted: Platform, pin: str | None, what: str) -> ImageFile:
    async def read(descriptor: Descriptor) -> Document:
        return _read_blob(box, descriptor, what)

    chosen = await choose_image(_read_blob(box, _entry(box, wanted, pin, what), what), read, wanted, what)
    parts = []
    for layer in chosen.manifest.layers:
        name = _blob(layer.digest)
        try:
            size = box.size(name)
        except FileNotFoundError:
            raise UnusableImage(what, f"the layer {layer.digest} is missing in it") from None
        if size != layer.size:
            raise DigestMismatch(
                what, f"{name} has another size", expected=f"{layer.size} bytes", found=f"{size} bytes"
            )
        parts.append(Part(name=name, size=size, digest=layer.digest))
    return ImageFile(digest=chosen.top, parts=tuple(parts))


def _entry(box: Box, wanted: Platform, pin: str | None, what: str) -> Descriptor:
    data = _read(box, "index.json", what)
    index = parse_document(Document(data=data, media_type=OCI_INDEX, digest=digest_of(data)), what)
    if not isinstance(index, ImageList):
        raise UnusableImage(what, "its index.json is no list of images")
    by_digest = {entry.digest: entry for entry in images_of(index)}
    if pin is not None:
        if pin not in by_digest:
            raise DigestMismatch(what, "the image is not in it", expected=pin, found=", ".join(by_digest) or "none")
        return by_digest[pin]
    entries = tuple(by_digest.values())
    if len(entries) > 1:
        fitting = [each for each in entries if each.platform is not None and wanted.distance(each.platform) is not None]
        if len(fitting) != 1 or any(entry.platform is None for entry in entries):
            names = ", ".join(_name(entry) for entry in entries)
            raise UnusableImage(
                what, f"there are several images in it ({names}). Export one alone, or say which: @ and its digest"
            )
        return fitting[0]
    if not entries:
        raise UnusableImage(what, "there is no image in it")
    return entries[0]


def _name(entry: Descriptor) -> str:
    name = (
        entry.annotations.get(FULL_NAME)
        or entry.annotations.get(NAME)
        or (in_words([entry.platform]) if entry.platform else "")
    )
    return f"{name[:200]} {entry.digest}".strip()


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _read_blob(box: Box, descriptor: Descriptor, what: str) -> Document:
    data = _read(box, _blob(descriptor.digest), what)
    if (found := digest_of(data)) != descriptor.digest:
        raise DigestMismatch(what, "a document in it is damaged", expected=descriptor.digest, found=found)
    return Document(data=data, media_type=descriptor.media_type, digest=found)


def _read(box: Box, name: str, what: str) -> bytes:
    try:
        with box.open(name) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
    except FileNotFoundError:
        raise UnusableImage(what, f"{name} is missing in it") from None
    if len(data) > LARGEST_DOCUMENT:
        raise UnusableImage(what, f"{name} in it is larger than {LARGEST_DOCUMENT} bytes")
    return data


# ---- docker save


def _saved(box: Box, wanted: Platform, pin: str | None, what: str) -> ImageFile:
    """What has no manifest: the configuration has the digests of the unpacked layers, and its own is in its name."""
    image = _saved_entry(box, pin, what)
    data = _read(box, image.config, what)
    if digest_of(data) != image.digest:
        raise DigestMismatch(what, "its configuration is damaged", expected=image.digest, found=digest_of(data))
    configuration = parse_configuration(data, what)
    check_platform(configuration, wanted, what)
    if len(configuration.diff_ids) != len(image.layers) or not image.layers:
        raise UnusableImage(
            what, f"it has {len(image.layers)} layers, and its configuration says {len(configuration.diff_ids)}"
        )
    parts = []
    for name, diff_id in zip(image.layers, configuration.diff_ids, strict=True):
        if not box.has(name):
            raise UnusableImage(what, f"the layer {name} is missing in it")
        parts.append(Part(name=name, size=box.size(name), digest=diff_id, unpacked=True))
    return ImageFile(digest=image.digest, parts=tuple(parts))


def _saved_entry(box: Box, pin: str | None, what: str) -> _Saved:
    try:
        found = [_Saved.of(image) for image in json.loads(_read(box, "manifest.json", what))]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise UnusableImage(what, "its manifest.json is none of `docker save`") from None
    if pin is not None:
        there = ", ".join(image.digest for image in found) or "none"
        found = [image for image in found if image.digest == pin]
        if not found:
            raise DigestMismatch(what, "the image is not in it", expected=pin, found=there)
    if len({image.digest for image in found}) != 1:
        names = ", ".join(name for image in found for name in image.names) or "none"
        raise UnusableImage(
            what, f"there must be one image in it, or an @ and a digest say which; there are: {names[:1000]}"
        )
    return found[0]


@attrs.frozen
class _Saved:
    """One entry of manifest.json."""

    config: str
    layers: Sequence[str]
    names: Sequence[str]

    @classmethod
    def of(cls, table: object) -> _Saved:
        if not isinstance(table, dict):
            raise TypeError
        config, layers = table["Config"], table["Layers"]
        names = table.get("RepoTags") or ["an image without a name"]
        if not isinstance(config, str) or not isinstance(layers, list) or not isinstance(names, list):
            raise TypeError
        if not _CONFIG_NAME.fullmatch(config) or not all(isinstance(layer, str) for layer in layers):
            raise ValueError
        return cls(config, tuple(layers), tuple(map(str, names)))

    @property
    def digest(self) -> str:
        match = _CONFIG_NAME.fullmatch(self.config)
        assert match is not None
        return f"sha256:{match[1]}"
