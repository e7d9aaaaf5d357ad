"""From what a reference means to the one image for a platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from ._documents import (
    CONFIGURATIONS,
    LISTS,
    MANIFESTS,
    Configuration,
    Descriptor,
    Document,
    ImageList,
    Manifest,
    check_layers,
    parse_configuration,
    parse_document,
)
from ._errors import UnusableImage
from ._platform import Platform, in_words

DEEPEST_LIST = 3
"""How many lists may lie inside one another."""
_ACCOMPANIES = "vnd.docker.reference.type"


@attrs.frozen(kw_only=True)
class Chosen:
    """The image that was chosen.

    Attributes:
        top: Digest of what the reference means: a manifest, or a list of them.
        digest: Of the manifest; the same, if there is no list.
    """

    top: str
    digest: str
    manifest: Manifest


async def choose_image(
    top: Document, read: Callable[[Descriptor], Awaitable[Document]], wanted: Platform, what: str
) -> Chosen:
    """Go from *top* through the lists to the image for *wanted*.

    Args:
        read: Gets what a descriptor points to, and proves its digest.

    Raises:
        UnusableImage: There is no such image, or it cannot be unpacked here. Also what *read* raises.
    """
    document, depth, listed = top, 0, False
    while isinstance(parsed := parse_document(document, what), ImageList):
        depth += 1
        if depth > DEEPEST_LIST:
            raise UnusableImage(what, f"more than {DEEPEST_LIST} lists of images lie inside one another")
        entry = choose(parsed, wanted, what)
        listed = entry.platform is not None
        document = await read(entry)
    check_layers(parsed, what)
    # A list has said for whom it is.
    if not listed and parsed.config.media_type in CONFIGURATIONS:
        check_platform(parse_configuration((await read(parsed.config)).data, what), wanted, what)
    return Chosen(top=top.digest, digest=document.digest, manifest=parsed)


def images_of(images: ImageList) -> Sequence[Descriptor]:
    """The entries that are images or lists of images, without what only accompanies them, such as attestations."""
    return [
        entry
        for entry in images.entries
        if entry.media_type in LISTS | MANIFESTS
        and _ACCOMPANIES not in entry.annotations
        and (entry.platform is None or entry.platform.is_known)
    ]


def choose(images: ImageList, wanted: Platform, what: str) -> Descriptor:
    """The entry that fits *wanted* best. One without a platform is taken if it is the only image there is.

    Raises:
        UnusableImage: None fits; the text names the platforms there are.
    """
    candidates = images_of(images)
    distances = [
        (distance, number)
        for number, entry in enumerate(candidates)
        if entry.platform is not None and (distance := wanted.distance(entry.platform)) is not None
    ]
    if distances:
        return candidates[min(distances)[1]]
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    there = in_words(entry.platform for entry in candidates if entry.platform is not None)
    raise UnusableImage(what, f"there is no image for {wanted} in it; it is there for {there}")


def check_platform(configuration: Configuration, wanted: Platform, what: str) -> None:
    """Refuse an image that says itself that it is for another platform.

    Raises:
        UnusableImage: It does.
    """
    own = configuration.platform
    if own is not None and wanted.distance(own) is None:
        raise UnusableImage(
            what, f"it is for {own}, and wanted is {wanted}. The option `platform` says if another one is meant."
        )
