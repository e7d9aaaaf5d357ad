"""Images in files: OCI layouts and `docker save`, plain, compressed or as a directory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard
from oci_fetching import Fetching
from oci_images import RUN, Image, image, image_list, layer, tar_of
from trio_sup_oci import ImageFiles
from trio_sup_oci._errors import UnusableImage
from trio_sup_oci._platform import Platform, host_platform

from trio_sup import ArchiveTooLarge, DigestMismatch, DownloadFailed, InvalidValue, NotProven, UnsafeArchive
from trio_sup.strategies import InstallPhase, UnpackLimits

NOISE = bytes(index * 7919 % 251 for index in range(100_000))
OTHER = Platform("linux", "s390x" if host_platform().architecture != "s390x" else "amd64")
IMAGE = image({"run.sh": RUN, "old": b"1"}, layer({".wh.old": b"", "a": NOISE}, "zstd"), layer({"b": b"2"}, "plain"))
FILES = {"run.sh": RUN, "a": NOISE, "b": b"2"}
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def tarred(layout: Path, *names: str) -> bytes:
    """A directory as a tar; *names* come first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        rest = sorted(str(path.relative_to(layout)) for path in layout.rglob("*") if path.is_file())
        for name in dict.fromkeys([*names, *rest]):
            archive.add(layout / name, name)
    return buffer.getvalue()


def saved(what: Image, *, compress: bool = False, links: bool = False, **more: Any) -> dict[str, bytes | str]:
    """What `docker save` writes: names and contents; a text is a link."""
    config = what.blobs[0]
    found: dict[str, bytes | str] = {}
    names = []
    for number, blob in enumerate(what.layers):
        name = f"{number:02}/layer.tar" + (".gz" if compress else "")
        data = gzip.decompress(blob.data) if blob.media_type.endswith("gzip") else blob.data
        found[name] = gzip.compress(data) if compress else data
        names.append(name)
    if links:
        found["kept/layer.tar"] = found[names[0]]
        found[names[0]] = "../kept/layer.tar"
    entry = {"Config": f"{config.digest[7:]}.json", "RepoTags": ["test:v1"], "Layers": names, **more}
    return {**found, f"{config.digest[7:]}.json": config.data, "manifest.json": json.dumps([entry]).encode()}


def tar_with_links(pieces: Mapping[str, bytes | str]) -> bytes:
    links = []
    for name, target in pieces.items():
        if isinstance(target, str):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            links.append(link)
    return tar_of({name: data for name, data in pieces.items() if isinstance(data, bytes)}, members=links)


SAVED = image({"run.sh": RUN, "old": b"1"}, {".wh.old": b"", "a": NOISE}, layer({"b": b"2"}, "plain"))


@pytest.fixture
def fetching(tmp_path: Path) -> Callable[..., Fetching]:
    """Fetches a file with these bytes, or the path itself."""

    def fetching(what: bytes | Path, pin: str = "", **options: Any) -> Fetching:
        path = what if isinstance(what, Path) else tmp_path / "image.tar"
        if isinstance(what, bytes):
            path.write_bytes(what)
        source = options.pop("source", None) or ImageFiles()
        return Fetching(source, f"ocifile://{path}{pin}", tmp_path / "fetch", **options)

    return fetching


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return IMAGE.write(tmp_path / "layout")


# ---- what arrives


@pytest.mark.parametrize("compression", COMPRESSED)
async def test_a_layout_in_a_tar_becomes_files(
    layout: Path, fetching: Callable[..., Fetching], compression: str
) -> None:
    fetch = fetching(COMPRESSED[compression](tarred(layout)))
    fetched = await fetch.run()
    assert fetch.files == FILES
    assert (fetched.uri, fetched.digest) == (fetch.uri, IMAGE.digest)
    assert await fetch.source.digest(fetch.uri) == IMAGE.digest


async def test_a_layout_in_a_directory_becomes_files(layout: Path, fetching: Callable[..., Fetching]) -> None:
    fetch = fetching(layout)
    assert (await fetch.run()).digest == IMAGE.digest == await fetch.source.digest(fetch.uri)
    assert fetch.files == FILES


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"links": True}])
@pytest.mark.parametrize("compression", ["plain", "gzip"])
async def test_a_saved_image_becomes_files(
    fetching: Callable[..., Fetching], options: dict[str, bool], compression: str
) -> None:
    fetch = fetching(COMPRESSED[compression](tar_with_links(saved(SAVED, **options))))
    fetched = await fetch.run()
    assert fetch.files == FILES
    assert fetched.digest == SAVED.blobs[0].digest == await fetch.source.digest(fetch.uri)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
async def test_what_skopeo_writes_becomes_files(tmp_path: Path, fetching: Callable[..., Fetching], form: str) -> None:
    layout = SAVED.write(tmp_path / "saved")
    target = f"{form}:{tmp_path}/out.tar:docker.io/library/test:v1"
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layout}:v1", target]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr
    fetch = fetching(tmp_path / "out.tar")
    assert (await fetch.run()).digest == await fetch.source.digest(fetch.uri)
    assert fetch.files == FILES


async def test_phases_and_progress(layout: Path, fetching: Callable[..., Fetching]) -> None:
    fetch = fetching(tarred(layout))
    await fetch.run()
    assert fetch.phases == [InstallPhase.VERIFYING, InstallPhase.UNPACKING]
    total = sum(len(each.data) for each in IMAGE.layers)
    for phase in fetch.phases:
        told = [done for each, done, of in fetch.told if each is phase and of is not None]
        assert told == sorted(told)
        assert told[-1] == total


async def test_the_image_for_this_machine_is_taken(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    own, other = image({"run.sh": b"#!own"}), image({"run.sh": b"#!other"}, platform=OTHER)
    images = image_list({str(OTHER): other, str(host_platform()): own})
    fetch = fetching(images.write(tmp_path / "list"))
    assert (await fetch.run()).digest == images.digest
    assert fetch.files == {"run.sh": b"#!own"}
    fetch = fetching(tmp_path / "list", source=ImageFiles(platform=OTHER))
    fetch.tries = 1
    await fetch.run()
    assert fetch.files == {"run.sh": b"#!other"}


# ---- which image


async def test_of_several_images_the_pinned_one_is_taken(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    image({"run.sh": b"#!other"}).write(IMAGE.write(tmp_path / "two"), "v2")
    fetch = fetching(tmp_path / "two", f"@{IMAGE.digest}")
    assert fetch.source.proof(fetch.uri, sha256=None, verification={}) == f"the digest in its address, {IMAGE.digest}"
    assert (await fetch.run()).digest == IMAGE.digest == await fetch.source.digest(fetch.uri)
    assert fetch.files == FILES


async def test_several_images_are_refused_by_their_names(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    other = image({"run.sh": b"#!other"})
    other.write(IMAGE.write(tmp_path / "two"), "v2")
    fetch = fetching(tmp_path / "two")
    for attempt in (fetch.run, lambda: fetch.source.digest(fetch.uri)):
        with pytest.raises(UnusableImage) as caught:
            await attempt()
        assert f"v1 {IMAGE.digest}, v2 {other.digest}" in caught.value.why


async def test_another_pin_is_refused(layout: Path, fetching: Callable[..., Fetching]) -> None:
    for what in (layout, tar_with_links(saved(SAVED))):
        fetch = fetching(what, f"@sha256:{'0' * 64}")
        with pytest.raises(DigestMismatch, match="expected was sha256:0000"):
            await fetch.source.digest(fetch.uri)
        with pytest.raises(DigestMismatch, match="expected was sha256:0000"):
            await fetch.run()
        shutil.rmtree(fetch.directory)


async def test_the_digest_of_the_gallery_is_that_of_the_file(layout: Path, fetching: Callable[..., Fetching]) -> None:
    data = tarred(layout)
    digest = hashlib.sha256(data).hexdigest()
    fetch = fetching(data, sha256=digest)
    assert fetch.source.proof(fetch.uri, sha256=digest, verification={}) is not None
    await fetch.run()
    fetch.sha256 = IMAGE.digest[7:]
    with pytest.raises(DigestMismatch) as caught:
        await fetch.run()
    assert (caught.value.expected, caught.value.found) == (IMAGE.digest, f"sha256:{digest}")


async def test_for_a_directory_it_is_that_of_the_image(layout: Path, fetching: Callable[..., Fetching]) -> None:
    fetch = fetching(layout, sha256=IMAGE.digest[7:])
    await fetch.run()
    fetch.sha256 = "0" * 64
    with pytest.raises(DigestMismatch):
        await fetch.run()


async def test_a_gallery_that_signs_gets_no_image_files(layout: Path, fetching: Callable[..., Fetching]) -> None:
    policy = {"public_key": "/x"}
    fetch = fetching(layout, f"@{IMAGE.digest}", verification=policy)
    assert fetch.source.proof(fetch.uri, sha256="0" * 64, verification=policy) is None
    with pytest.raises(NotProven, match="those of image files cannot be verified"):
        await fetch.run()


# ---- what is refused


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("number", range(len(IMAGE.layers)))
async def test_a_damaged_layer_is_refused_before_anything_is_unpacked(
    layout: Path, fetching: Callable[..., Fetching], number: int
) -> None:
    blob = IMAGE.layers[number].digest[7:]
    changed(layout / "blobs" / "sha256" / blob, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    fetch = fetching(tarred(layout))
    with pytest.raises(DigestMismatch):
        await fetch.run()
    assert not list(fetch.into.iterdir())


@pytest.mark.parametrize("which", [IMAGE.digest, IMAGE.blobs[0].digest])
async def test_a_damaged_document_is_refused(layout: Path, fetching: Callable[..., Fetching], which: str) -> None:
    changed(layout / "blobs" / "sha256" / which[7:], lambda data: data.replace(b"2", b"3", 1))
    with pytest.raises(DigestMismatch):
        await fetching(layout).run()


@pytest.mark.parametrize("which", [IMAGE.digest, IMAGE.blobs[0].digest, IMAGE.layers[1].digest])
async def test_a_missing_blob_is_named(layout: Path, fetching: Callable[..., Fetching], which: str) -> None:
    (layout / "blobs" / "sha256" / which[7:]).unlink()
    with pytest.raises(UnusableImage, match=f"{which[7:]} is missing in it"):
        await fetching(tarred(layout)).run()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: [], "there must be one image in it"),
        (lambda table: {}, "there must be one image in it"),
        (lambda table: 5, "none of `docker save`"),
        (lambda table: [5], "none of `docker save`"),
        (lambda table: [{**table[0], "Config": "../../etc/passwd"}], "none of `docker save`"),
        (lambda table: [{**table[0], "Layers": [5]}], "none of `docker save`"),
        (lambda table: [{**table[0], "Layers": []}], "it has 0 layers, and its configuration says 3"),
        (lambda table: [{**table[0], "Layers": ["x"] * 3}], "the layer x is missing in it"),
        (lambda table: [table[0], {**table[0], "Config": "0" * 64, "RepoTags": ["b:v2"]}], "test:v1, b:v2"),
    ],
)
async def test_a_saved_image_that_makes_no_sense_is_refused(
    fetching: Callable[..., Fetching], change: Callable[[Any], Any], complaint: str
) -> None:
    pieces = saved(SAVED)
    table = pieces["manifest.json"]
    assert isinstance(table, bytes)
    pieces["manifest.json"] = json.dumps(change(json.loads(table))).encode()
    with pytest.raises(UnusableImage, match=complaint):
        await fetching(tar_with_links(pieces)).run()


@pytest.mark.parametrize("name", ["00/layer.tar", f"{SAVED.blobs[0].digest[7:]}.json"])
async def test_a_damaged_saved_image_is_refused(fetching: Callable[..., Fetching], name: str) -> None:
    pieces = saved(SAVED)
    data = pieces[name]
    assert isinstance(data, bytes)
    pieces[name] = data[:-2] + b" " + data[-1:] if name.endswith("json") else data + b"x"
    fetch = fetching(tar_with_links(pieces))
    with pytest.raises(DigestMismatch):
        await fetch.run()
    assert not list(fetch.into.iterdir())


def pax_bomb() -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 50_000_000
    return header.tobuf(tarfile.USTAR_FORMAT) + bytes(50_000_000)


def loop() -> bytes:
    return tar_with_links({"index.json": "other", "other": "index.json"})


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"nonsense" * 1000, id="nonsense"),
        pytest.param(bytes(10_240), id="zeros"),
        pytest.param(b"\x1f\x8b" + b"x" * 100, id="no gzip"),
        pytest.param(b"\x28\xb5\x2f\xfd" + b"x" * 100, id="no zstd"),
        pytest.param(gzip.compress(b"x" * 10_000)[:-10], id="cut gzip"),
        pytest.param(loop(), id="loop"),
    ],
)
async def test_what_is_no_image_is_refused(fetching: Callable[..., Fetching], data: bytes) -> None:
    fetch = fetching(data)
    with pytest.raises(UnusableImage):
        await fetch.run()
    with pytest.raises(UnusableImage):
        await fetch.source.digest(fetch.uri)
    assert not list(fetch.into.iterdir())


@pytest.mark.parametrize("compression", ["plain", "gzip"])
async def test_a_header_that_would_fill_the_memory_is_not_read(
    fetching: Callable[..., Fetching], compression: str
) -> None:
    fetch = fetching(COMPRESSED[compression](pax_bomb()))
    for attempt in (fetch.run, lambda: fetch.source.digest(fetch.uri)):
        with pytest.raises(UnusableImage, match="a header is too large"):
            await attempt()


async def test_a_file_that_is_cut_is_refused(layout: Path, fetching: Callable[..., Fetching]) -> None:
    data = tarred(layout, "index.json")
    # The padding at the end is not missed.
    for length in range(0, len(data) - 15_000, len(data) // 20):
        fetch = fetching(data[:length])
        with pytest.raises((UnusableImage, DigestMismatch)):
            await fetch.run()
        assert not list(fetch.into.iterdir())
        shutil.rmtree(fetch.directory)


@pytest.mark.parametrize("cut", [0, 100], ids=["whole", "cut"])
async def test_nothing_of_a_compressed_file_is_left(layout: Path, fetching: Callable[..., Fetching], cut: int) -> None:
    packed = gzip.compress(tarred(layout))
    fetch = fetching(packed[: len(packed) - cut])
    if cut:
        with pytest.raises(UnusableImage, match="damaged"):
            await fetch.run()
    else:
        await fetch.run()
    assert list(fetch.scratch.iterdir()) == []


async def test_a_file_that_is_not_there_is_named(fetching: Callable[..., Fetching], tmp_path: Path) -> None:
    fetch = fetching(tmp_path / "nothing.tar")
    for attempt in (fetch.run, lambda: fetch.source.digest(fetch.uri)):
        with pytest.raises(DownloadFailed, match="it cannot be read: No such file") as caught:
            await attempt()
        assert not caught.value.temporary


async def test_a_pipe_is_refused_instead_of_waited_for(fetching: Callable[..., Fetching], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    fetch = fetching(tmp_path / "pipe")
    for attempt in (fetch.run, lambda: fetch.source.digest(fetch.uri)):
        with trio.fail_after(20), pytest.raises(DownloadFailed, match="neither a file nor a directory"):
            await attempt()


async def test_a_directory_that_is_no_layout_is_refused(fetching: Callable[..., Fetching], tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="neither an index"):
        await fetching(tmp_path).run()


@pytest.mark.parametrize(
    "uri", ["ocifile://", "ocifile://a/b.tar", "ocifile://./b.tar", "ocifile:///a@sha256:abc", "ocifile:///a\0b"]
)
async def test_an_address_that_is_none_is_refused(uri: str) -> None:
    source = ImageFiles()
    with pytest.raises(InvalidValue):
        source.proof(uri, sha256=None, verification={})
    with pytest.raises(InvalidValue):
        await source.digest(uri)


async def test_a_path_may_have_an_at_in_it(layout: Path, fetching: Callable[..., Fetching], tmp_path: Path) -> None:
    path = layout.rename(tmp_path / "a@b c%20:d")
    assert await fetching(path).source.digest(f"ocifile://{path}") == IMAGE.digest


async def test_a_hostile_layer_writes_nothing_outside(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    hostile = image({"run.sh": RUN}, layer({"../../evil": b"1"}))
    fetch = fetching(tarred(hostile.write(tmp_path / "hostile")))
    with pytest.raises(UnsafeArchive):
        await fetch.run()
    assert not list(tmp_path.rglob("evil"))


async def test_a_bomb_is_refused(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    limits = UnpackLimits(max_bytes="1MB")
    zeros = image({"run.sh": RUN, "zeros": bytes(5_000_000)})
    fetch = fetching(tarred(zeros.write(tmp_path / "zeros")), limits=limits)
    with pytest.raises(ArchiveTooLarge):
        await fetch.run()
    fetch = fetching(gzip.compress(bytes(5_000_000)), limits=limits)
    fetch.tries = 1
    with pytest.raises((ArchiveTooLarge, UnusableImage)):
        await fetch.run()
    assert sum(path.stat().st_size for path in fetch.scratch.iterdir()) < 5_000_000


@pytest.mark.parametrize(
    ("form", "phase"),
    [
        ("tar", InstallPhase.VERIFYING),
        ("tar", InstallPhase.UNPACKING),
        ("gzip", InstallPhase.VERIFYING),
        ("directory", InstallPhase.VERIFYING),
        ("directory", InstallPhase.UNPACKING),
    ],
)
async def test_what_is_written_to_meanwhile_is_refused(
    layout: Path, fetching: Callable[..., Fetching], tmp_path: Path, form: str, phase: InstallPhase
) -> None:
    data = COMPRESSED["gzip" if form == "gzip" else "plain"](tarred(layout))
    path = layout / "blobs" / "sha256" / IMAGE.layers[0].digest[7:] if form == "directory" else tmp_path / "image.tar"
    sha256 = None if form == "directory" else hashlib.sha256(data).hexdigest()
    fetch = fetching(layout if form == "directory" else data, sha256=sha256)

    class Meddles(list[Any]):
        def append(self, told: Any) -> None:
            # While the file as a whole, or a layer in it, is looked at; then, while it is unpacked.
            if told[0] is phase and told[2] is not None:
                status = path.stat()
                with open(path, "rb+") as file:
                    first = file.read(1)
                    file.seek(0)
                    file.write(first)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    fetch.told = Meddles()
    with pytest.raises(UnusableImage, match="it was changed while"):
        await fetch.run()


async def test_cancellation_ends_the_work_of_the_thread(tmp_path: Path, fetching: Callable[..., Fetching]) -> None:
    big = image({"run.sh": RUN, **{f"f{number}": NOISE for number in range(200)}})
    fetch = fetching(gzip.compress(tarred(big.write(tmp_path / "big")), 1))

    with trio.fail_after(20), trio.CancelScope() as scope:

        class Cancels(list[Any]):
            def append(self, told: Any) -> None:
                if told[0] is InstallPhase.UNPACKING and told[1]:
                    trio.from_thread.run_sync(scope.cancel)

        fetch.told = Cancels()
        await fetch.run()
    assert scope.cancelled_caught
