"""Manifests, lists and configurations: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_images import Blob, Image, image, image_list, layer, manifest_blob
from trio_sup_oci._choosing import Chosen, choose_image
from trio_sup_oci._documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    LARGEST_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Document,
    check_layers,
    digest_of,
    parse_configuration,
    parse_document,
)
from trio_sup_oci._errors import UnusableImage
from trio_sup_oci._platform import Platform, to_platform

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
IMAGE = image({"run.sh": b"1"}, layer({"a": b"2"}, "zstd"), layer({"b": b"3"}, "plain"), platform=AMD)


def document(data: Any, media_type: str = "") -> Document:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Document(data=raw, media_type=media_type, digest=digest_of(raw))


def refusal_of(data: Any, media_type: str = "") -> str:
    with pytest.raises(UnusableImage) as caught:
        parse_document(document(data, media_type), "quay.io/a/b:v1")
    assert caught.value.what == "quay.io/a/b:v1"
    return caught.value.why


async def chosen(top: Image, wanted: str = "linux/amd64") -> Chosen:
    blobs: Mapping[str, Blob] = {blob.digest: blob for blob in top.blobs}

    async def read(descriptor: Descriptor) -> Document:
        blob = blobs[descriptor.digest]
        assert descriptor.size == len(blob.data)
        return document(blob.data, blob.media_type)

    return await choose_image(document(top.top.data, top.top.media_type), read, to_platform(wanted), "x")


async def test_an_image_is_read() -> None:
    found = await chosen(IMAGE)
    assert found.top == found.digest == IMAGE.digest
    assert [each.digest for each in found.manifest.layers] == [each.digest for each in IMAGE.layers]
    assert [each.size for each in found.manifest.layers] == [len(each.data) for each in IMAGE.layers]


async def test_the_image_of_a_list_is_chosen_by_platform() -> None:
    other = image({"run.sh": b"arm"}, platform=ARM)
    images = image_list({"linux/arm64/v8": other, "linux/amd64": IMAGE})
    found = await chosen(images)
    assert (found.top, found.digest) == (images.digest, IMAGE.digest)
    found = await chosen(images, "linux/arm64")
    assert (found.top, found.digest) == (images.digest, other.digest)


async def test_lists_may_lie_in_lists_but_not_without_end() -> None:
    nested = image_list({"linux/amd64": IMAGE})
    for _ in range(2):
        nested = image_list({"linux/amd64": nested})
    assert (await chosen(nested)).digest == IMAGE.digest
    with pytest.raises(UnusableImage, match="more than 3 lists"):
        await chosen(image_list({"linux/amd64": nested}))


async def test_an_image_for_another_platform_is_refused() -> None:
    with pytest.raises(UnusableImage, match="it is for linux/amd64, and wanted is linux/arm64"):
        await chosen(IMAGE, "linux/arm64")


async def test_the_list_is_believed_about_the_platform() -> None:
    assert (await chosen(image_list({"linux/arm64": IMAGE}), "linux/arm64")).digest == IMAGE.digest


async def test_an_image_that_says_nothing_about_its_platform_is_taken() -> None:
    config = Blob(media_type="application/vnd.oci.image.config.v1+json", data=b"{}")
    top = manifest_blob(config, IMAGE.layers)
    assert (await chosen(Image(top=top, blobs=[config]))).digest == top.digest


def test_the_docker_forms_are_read_the_same() -> None:
    manifest = {**json.loads(IMAGE.top.data), "mediaType": DOCKER_MANIFEST}
    manifest["layers"] = [
        {**each, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"} for each in manifest["layers"]
    ]
    parsed = parse_document(document(manifest), "x")
    check_layers(parsed, "x")  # type: ignore[arg-type]  # it would fail
    images = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [IMAGE.top.descriptor]}
    assert [each.digest for each in parse_document(document(images), "x").entries] == [IMAGE.digest]  # type: ignore[union-attr]  # it would fail


def test_schema_1_is_refused_by_its_name() -> None:
    assert "schema 1" in refusal_of({"schemaVersion": 1, "name": "a/b", "fsLayers": []})
    assert "schema 1" in refusal_of({}, "application/vnd.docker.distribution.manifest.v1+prettyjws")


def test_what_could_be_taken_for_two_things_is_refused() -> None:
    both = {**json.loads(IMAGE.top.data), "manifests": []}
    assert "at once" in refusal_of(both)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers": 5}, "'layers' in its manifest is no list"),
        ({"layers": [5]}, "no description: 5"),
        ({"layers": [{"digest": "md5:x", "size": 1}]}, "no sha256: 'md5:x'"),
        ({"layers": [{"digest": "sha256:" + "A" * 64, "size": 1}]}, "no sha256"),
        ({"layers": [{"digest": "sha256:../../" + "a" * 58, "size": 1}]}, "no sha256"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": -1}]}, "a size that is none: -1"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 1.5}]}, "a size that is none"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": True}]}, "a size that is none"),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 2**60}]}, "a size that is none"),
        ({"layers": [{"digest": "sha256:" + "a" * 64}]}, "a size that is none: None"),
        ({"layers": [IMAGE.layers[0].descriptor] * 1001}, "it has 1001 layers"),
        ({"config": "x"}, "no description: 'x'"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal_of({**json.loads(IMAGE.top.data), **change})


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no JSON: b''"),
        (b"<html>not found</html>", "no JSON: b'<html>"),
        (b"[]", "no JSON object"),
        (b"{}", "neither an image nor a list"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b" " * (LARGEST_DOCUMENT + 1), "larger than"),
        (b'{"size": 1' + b"0" * 5000 + b"}", "no JSON"),
        ({"schemaVersion": 2, "mediaType": "application/vnd.example+json"}, "(application/vnd.example+json)"),
        ({"schemaVersion": 2, "manifests": {}}, "'manifests' in its manifest is no list"),
    ],
)
def test_what_is_no_manifest_is_refused(data: Any, complaint: str) -> None:
    assert complaint in refusal_of(data)


@pytest.mark.parametrize(
    ("media_type", "complaint"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "layer 2 is a foreign one"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "layer 2 is a foreign one"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "layer 2 is of kind"),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "layer 2 is of kind"),
        ("", "layer 2 is of kind ''"),
    ],
)
def test_layers_that_cannot_be_had_are_refused(media_type: str, complaint: str) -> None:
    table = json.loads(IMAGE.top.data)
    table["layers"][1]["mediaType"] = media_type
    with pytest.raises(UnusableImage, match=complaint):
        check_layers(parse_document(document(table), "x"), "x")  # type: ignore[arg-type]  # it would fail


async def test_an_image_without_layers_is_refused() -> None:
    with pytest.raises(UnusableImage, match="it has no layers"):
        await chosen(image(platform=AMD))


def test_a_configuration_is_read() -> None:
    data = {"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {"diff_ids": ["sha256:a", 5]}}
    found = parse_configuration(json.dumps(data).encode(), "x")
    assert (str(found.platform), found.diff_ids) == ("linux/arm/v7", ("sha256:a", ""))
    odd: Mapping[str, Any]
    for odd in ({}, {"os": 5, "architecture": "a"}, {"rootfs": []}, {"rootfs": {"diff_ids": {}}}):
        assert parse_configuration(json.dumps(odd).encode(), "x").platform is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["mediaType", "schemaVersion", "manifests", "layers", "config", "digest", "size", "platform"])
TABLES = st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON)))


@settings(max_examples=50)
@given(TABLES)
def test_anything_is_read_or_refused(table: dict[str, Any]) -> None:
    for data in (table, {**json.loads(IMAGE.top.data), **table}, {"manifests": [table], "mediaType": OCI_INDEX}):
        try:
            parse_document(document(data), "x")
            parse_configuration(document(data).data, "x")
        except UnusableImage:
            pass
