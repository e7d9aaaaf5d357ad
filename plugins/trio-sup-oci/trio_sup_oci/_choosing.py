"""Which image of a list is the one for a platform."""

from __future__ import annotations

from collections.abc import Sequence

from ._documents import LISTS, MANIFESTS, Configuration, Descriptor, ImageList
from ._errors import UnusableImage
from ._platform import Platform, in_words

DEEPEST_LIST = 3
"""How many lists may lie inside one another."""
_ACCOMPANIES = "vnd.docker.reference.type"


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
