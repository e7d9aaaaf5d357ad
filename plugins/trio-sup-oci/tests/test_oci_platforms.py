"""Platforms: which of those that an image is built for is taken."""

from __future__ import annotations

import pytest
from trio_sup_oci._choosing import choose
from trio_sup_oci._documents import OCI_INDEX, OCI_MANIFEST, Descriptor, ImageList
from trio_sup_oci._errors import UnusableImage
from trio_sup_oci._platform import Platform, host_platform, to_platform

from trio_sup import InvalidValue


def entry(number: int, platform: str | None, media_type: str = OCI_MANIFEST, **annotations: str) -> Descriptor:
    return Descriptor(
        media_type=media_type,
        digest=f"sha256:{number:064x}",
        size=1,
        platform=None if platform is None else Platform(*platform.split("/")),
        annotations=annotations,
    )


def chosen(wanted: str, *platforms: str | None) -> str | None:
    entries = [entry(number, platform) for number, platform in enumerate(platforms)]
    found = choose(ImageList(entries=tuple(entries)), to_platform(wanted), "x")
    return platforms[entries.index(found)]


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v1"], "linux/amd64/v1"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64", "linux/arm64/v8.2"], "linux/arm64/v8.2"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm", ["linux/arm/v7"], "linux/arm/v7"),
        ("linux/riscv64", ["linux/riscv64"], "linux/riscv64"),
        ("linux/amd64", [None], None),
        ("linux/amd64", [None, "linux/amd64"], "linux/amd64"),
    ],
)
def test_the_best_that_runs_is_chosen(wanted: str, there: list[str | None], expected: str | None) -> None:
    assert chosen(wanted, *there) == expected


@pytest.mark.parametrize(
    ("wanted", "there", "named"),
    [
        ("linux/amd64", ["linux/arm64/v8", "windows/amd64"], "linux/arm64/v8, windows/amd64"),
        ("linux/amd64", ["linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/amd64", [], "no platform at all"),
        ("linux/amd64", [None, None], "no platform at all"),
        ("linux/amd64", [None, "linux/s390x"], "linux/s390x"),
    ],
)
def test_where_none_runs_those_that_there_are_are_named(wanted: str, there: list[str | None], named: str) -> None:
    with pytest.raises(UnusableImage) as caught:
        chosen(wanted, *there)
    assert f"there is no image for {wanted} in it; it is there for {named}" in caught.value.why


def test_what_only_accompanies_an_image_is_not_chosen() -> None:
    entries = [
        entry(0, "unknown/unknown"),
        entry(1, "linux/amd64", **{"vnd.docker.reference.type": "attestation-manifest"}),
        entry(2, "linux/amd64", media_type="application/vnd.example+json"),
        entry(3, None, media_type=OCI_INDEX),
    ]
    assert choose(ImageList(entries=tuple(entries)), to_platform("linux/amd64"), "x") is entries[3]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("ppc64le", "linux/ppc64le"),
    ],
)
def test_the_platform_of_a_machine(machine: str, expected: str) -> None:
    assert str(host_platform(machine)) == expected


@pytest.mark.parametrize("value", ["", "linux", "linux/", "linux/arm/v7/x", "Linux/amd64", 5, None])
def test_what_is_no_platform_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue, match="expected a platform"):
        to_platform(value)
