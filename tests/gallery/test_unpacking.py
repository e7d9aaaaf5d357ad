"""Archives of strangers: what is honest is unpacked, and what is not writes nothing outside of its directory."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import itertools
import lzma
import os
import random
import stat
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.conftest import descriptors
from tests.gallery.tars import RUN, Member, member, tar
from trio_sup._gallery_errors import ArchiveTooLarge, InstallFailed, UnsafeArchive
from trio_sup._releases import UnpackLimits
from trio_sup.gallery import Unpacker, _member_writer, _unpacking, unpack
from trio_sup.gallery._decompressing import BadStream, Content

Members = Sequence[Member]


class Ground:
    """A directory to unpack into, with something precious beside it."""

    def __init__(self, folder: Path) -> None:
        self.into = folder / "outer" / "into"
        self.into.mkdir(parents=True)
        self.precious = folder / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_text("mine")
        (folder / "outer" / "beside").write_text("mine")
        self.folder = folder
        self.before = self.outside()

    def outside(self) -> dict[str, tuple[int, str]]:
        """Everything that is not in the directory, with its mode and content."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_relative_to(self.into) and path != self.into:
                continue
            text = path.read_text() if path.is_file() and not path.is_symlink() else ""
            found[str(path)] = (path.lstat().st_mode, text)
        return found

    def check(self) -> None:
        """Nothing outside was touched; nothing inside is what must not be."""
        assert self.outside() == self.before
        root = self.into.resolve()
        for path in self.into.rglob("*"):
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), path
            if not stat.S_ISLNK(mode):
                assert not mode & 0o7022, path
                continue
            assert not os.readlink(path).startswith("/"), path
            try:
                path.stat()
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue  # it leads nowhere, and what `resolve` says of it has no meaning
            resolved = path.resolve()
            assert resolved.is_relative_to(root), path

    def unpack(self, *archives: bytes, layer: bool = False, **limits: Any) -> None:
        unpacker = Unpacker(self.into, "the archive", UnpackLimits(**limits))
        for archive in archives:
            unpacker.unpack(io.BytesIO(archive), layer=layer)
        unpacker.finish(lift=not layer)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.into)) for path in self.into.rglob("*"))


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


HONEST = [
    RUN,
    member("lib", kind="directory"),
    member("lib/deep/one.so", b"1" * 300_000, mtime=1_000_000_000),
    member("lib/two.so", kind="link", to="deep/one.so"),
    member("back", kind="link", to="lib/../run.sh"),
    member("hard", kind="hard", to="lib/deep/one.so"),
    member("x" * 150, b"long"),
]

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "two gzips": lambda data: gzip.compress(data[:2000]) + gzip.compress(data[2000:]),
    "gzip and zeros": lambda data: gzip.compress(data) + b"\0" * 1024,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "two zstds": lambda data: zstandard.compress(data[:2000]) + zstandard.compress(data[2000:]),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_an_honest_archive_is_unpacked(ground: Ground, packed: str, dialect: int) -> None:
    ground.unpack(PACKED[packed](tar(HONEST, dialect)))
    assert (ground.into / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert os.access(ground.into / "run.sh", os.X_OK)
    assert (ground.into / "lib" / "two.so").read_bytes() == b"1" * 300_000
    assert (ground.into / "lib" / "deep" / "one.so").stat().st_mtime == 1_000_000_000
    assert (ground.into / "hard").stat().st_ino == (ground.into / "lib" / "deep" / "one.so").stat().st_ino
    assert (ground.into / ("x" * 150)).read_text() == "long"
    ground.check()


def test_one_directory_around_everything_is_left_out(ground: Ground) -> None:
    ground.unpack(
        tar(
            [
                member("engine-1.2", kind="directory"),
                member("engine-1.2/run.sh", b"#!/bin/sh\n", mode=0o755),
                member("engine-1.2/engine-1.2", b"of the same name"),
                member("engine-1.2/lib/x", kind="link", to="../run.sh"),
            ]
        )
    )
    assert ground.names() == ["engine-1.2", "lib", "lib/x", "run.sh"]
    ground.check()


@pytest.mark.parametrize("top", ["two", "no run.sh"])
def test_otherwise_it_is_not(ground: Ground, top: str) -> None:
    more = [member("other", b"")] if top == "two" else []
    name = "engine/run.sh" if top == "two" else "engine/start.sh"
    ground.unpack(tar([member(name, b""), *more]))
    assert "engine" in ground.names()


UP = "../" * 3
UNSAFE: dict[str, Members] = {
    "an absolute name": [member("/precious/file", b"yours")],
    "a name with ..": [member(UP + "precious/file", b"yours")],
    "a name with .. in the middle": [member("a/../../beside", b"yours")],
    "a name that ends in ..": [member("a/..", b"yours")],
    "nothing but ..": [member("..", kind="directory")],
    "a directory called ..": [member("../new", kind="directory")],
    "an absolute directory": [member("/new", kind="directory")],
    "a file without a name": [member("./", b"yours"), member(".", b"yours")],
    "a link to an absolute path": [member("out", kind="link", to="/etc/passwd")],
    "a link to the root": [member("out", kind="link", to="/")],
    "a link that leads out": [member("out", kind="link", to="../beside")],
    "a link that leads far out": [member("a/out", kind="link", to=UP + "precious")],
    "a link to its own parent's parent": [member("out", kind="link", to="..")],
    "a link to nothing": [member("out", kind="link", to="")],
    "a link through a directory and out": [member("a", kind="directory"), member("out", kind="link", to="a/../..")],
    "a chain of links that leads out": [
        member("a", kind="directory"),
        member("a/top", kind="link", to=".."),
        member("out", kind="link", to="a/top/../beside"),
    ],
    "a chain of links, the last one first": [
        member("out", kind="link", to="a/top/../beside"),
        member("a", kind="directory"),
        member("a/top", kind="link", to=".."),
    ],
    "a file through a link": [member("d", kind="link", to="e"), member("d/file", b"yours")],
    "a file through a link that leads out": [member("d", kind="link", to="../../precious"), member("d/file", b"yours")],
    "a file through a link to here": [member("d", kind="link", to="."), member("d/d/file", b"yours")],
    "a directory through a link": [
        member("e", kind="directory"),
        member("d", kind="link", to="e"),
        member("d/new", kind="directory"),
    ],
    "a hard link through a link": [
        member("e/file", b""),
        member("d", kind="link", to="e"),
        member("h", kind="hard", to="d/file"),
    ],
    "a hard link to an absolute path": [member("h", kind="hard", to="/etc/passwd")],
    "a hard link that leads out": [member("h", kind="hard", to="../beside")],
    "a hard link to what is not there": [member("h", kind="hard", to="nothing")],
    "a hard link to a link": [member("l", kind="link", to="run.sh"), RUN, member("h", kind="hard", to="l")],
    "a hard link to a directory": [member("d", kind="directory"), member("h", kind="hard", to="d")],
    "a hard link to itself": [member("h", b""), member("h", kind="hard", to="h")],
    "a hard link to nothing": [member("h", kind="hard", to="./")],
    "a character device": [member("null", kind="character", devmajor=1, devminor=3)],
    "a block device": [member("sda", kind="block", devmajor=8, devminor=0)],
    "a named pipe": [member("pipe", kind="pipe")],
    "a kind that nobody knows": [member("odd", type=b"Z")],
    "set-user-id": [member("su", b"", mode=0o4755)],
    "set-group-id": [member("su", b"", mode=0o2755)],
    "a sticky file": [member("su", b"", mode=0o1755)],
    "a set-user-id hard link": [member("a", b""), member("b", kind="hard", to="a"), member("c", b"", mode=0o6711)],
    "a file in the place of a directory": [member("d/x", b""), member("d", b"")],
    "a link in the place of a directory": [member("d/x", b""), member("d", kind="link", to="run.sh")],
    "a directory in the place of a file": [member("d", b""), member("d", kind="directory")],
    "a directory in the place of a link": [member("d", kind="link", to="e"), member("d", kind="directory")],
    "a file below a file": [member("f", b""), member("f/g", b"")],
    "a part of a name that is too long": [member("x" * 300, b"")],
    "a name that is too long": [member("/".join(["x" * 100] * 60), b"")],
    "a name with a NUL": [member("ok", b"yours", pax_headers={"path": "a\0b"})],
    "a hard link with a NUL": [RUN, member("h", kind="hard", to="run.sh", pax_headers={"linkpath": "run.sh\0x"})],
    "an absolute name that only the extended header has": [member("ok", b"", pax_headers={"path": "/precious/file"})],
    "a link whose target only the extended header has": [
        member("out", kind="link", to="ok", pax_headers={"linkpath": "../beside"})
    ],
    "a link that is too long": [member("l", kind="link", to="x" * 5000)],
}


@pytest.mark.parametrize("size", [-1, -512, -(2**62)])
def test_a_size_below_zero_is_refused(ground: Ground, size: int) -> None:
    info = tarfile.TarInfo("less than nothing")
    info.size = size
    with pytest.raises(UnsafeArchive, match=f"a size of {size} bytes"):
        ground.unpack(tar([RUN])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)


@pytest.mark.parametrize("kind", UNSAFE)
def test_what_is_unsafe_is_refused_by_name_and_writes_nothing_outside(ground: Ground, kind: str) -> None:
    archive = tar([member("first", b"harmless"), *UNSAFE[kind]])
    with pytest.raises(UnsafeArchive) as caught:
        ground.unpack(archive)
    assert caught.value.what == "the archive"
    assert caught.value.member
    assert ground.outside() == ground.before


def header_claiming(size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo("big")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of these bytes, and a member."""
    padded = records + bytes(-len(records) % 512)
    return header_claiming(len(records), kind) + padded + tar([RUN])


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length += 1
    return str(length).encode() + rest


def zstd_with_window(log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=log, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(tar(HONEST)) + compressor.flush()


def xz_with_dictionary(size: int) -> bytes:
    return lzma.compress(tar(HONEST), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": size}])


BROKEN: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "it is empty"),
    "a page": (b"<!doctype html><html><body>Not found</body></html>" * 30, "a page for a browser"),
    "an XML document": (b"\n<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
    "a 7-Zip file": (b"7z\xbc\xaf\x27\x1c" + b"\0" * 2000, "a 7-Zip file"),
    "a script": (b"#!/bin/sh\nexit 0\n", "a script"),
    "a program": (b"\x7fELF" + b"\0" * 2000, "a program"),
    "a model": (b"GGUF" + b"\0" * 2000, "a model"),
    "something else that is compressed": (gzip.compress(b"hello" * 1000), "compressed, but"),
    "nothing that is compressed": (gzip.compress(b""), "compressed, but"),
    "a gzip that is cut off in its checksum": (gzip.compress(tar(HONEST))[:-3], "cut off"),
    "a zstd that is cut off in its last bytes": (zstandard.compress(tar(HONEST))[:-1], "cut off"),
    "a zstd that is damaged": (zstandard.compress(tar(HONEST))[:200] + b"\xff" * 400, "damaged"),
    "a gzip with something behind it": (gzip.compress(tar(HONEST)) + b"and more", "something else follows"),
    "a zstd with something behind it": (zstandard.compress(tar(HONEST)) + b"and more", "something else follows"),
    "an xz that wants a gigabyte": (xz_with_dictionary(2**29), "damaged"),
    "a zstd that wants half a gigabyte": (zstd_with_window(29), "damaged"),
    "a pax header with a number that never ends": (extended(record(b"comment", b"1" * 500_000)), "digits in a row"),
    "a zip file": (b"PK\x03\x04" + b"\0" * 2000, "a zip file"),
    "a JSON document": (b'{"errors": []}' * 100, "a JSON document"),
    "a bzip2 archive": (bz2.compress(tar(HONEST)), "bzip2"),
    "noise": (bytes(range(256)) * 20, "no tar archive"),
    "cut off in the middle of a file": (tar(HONEST)[:200_000], "cut off|damaged"),
    "a gzip that is cut off": (gzip.compress(tar(HONEST))[:-500], "cut off|damaged"),
    "an xz that is cut off": (lzma.compress(tar(HONEST))[:-50], "cut off|damaged"),
    "a zstd that is cut off": (zstandard.compress(tar(HONEST))[:-50], "cut off|damaged"),
    "a gzip that is damaged": (gzip.compress(tar(HONEST))[:-8] + b"\0" * 8, "damaged"),
    "an xz that is damaged": (lzma.compress(tar(HONEST))[:200] + b"\xff" * 400, "damaged|cut off"),
    "a name of a gigabyte": (header_claiming(2**30, tarfile.GNUTYPE_LONGNAME), "a header of"),
    "a header of a gigabyte": (header_claiming(2**30, tarfile.XHDTYPE), "a header of"),
    "a global header of a gigabyte": (header_claiming(2**30, tarfile.XGLTYPE), "a header of"),
    "headers without end": (header_claiming(0, tarfile.XHDTYPE) * 3000, "damaged"),
}


def globals_with(keys: int, size: int) -> bytes:
    """Global headers, each with a name of its own and so many bytes, and a file after each."""
    found = b""
    for number in range(keys):
        text = f"{number}={'x' * size}\n".encode()
        length = len(text) + 1
        length += len(str(length + len(str(length))))  # it counts its own digits
        record = f"{length} ".encode() + text
        info = tarfile.TarInfo("global")
        info.type, info.size = tarfile.XGLTYPE, len(record)
        found += info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(-(-len(record) // 512) * 512, b"\0")
        found += tar([member(f"f{number}", b"")])[:512]
    return found


def old_sparse() -> bytes:
    info = tarfile.TarInfo("hole")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024


def sparse_1_0(entries: int) -> bytes:
    """Its map is in its content, and as long as it says."""
    info, body = member("hole", f"{entries}\n".encode() + b"0\n" * 10_000)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    return tar([(info, body)])


WHOLE = tar(HONEST)
END = WHOLE.rindex(b"long") + 512
"""Where the mark of the end begins."""
BROKEN |= {
    "global headers without end": (globals_with(40, 60_000), "global headers"),
    "an old sparse file": (old_sparse(), "sparse"),
    "a sparse file with a map of its own size": (sparse_1_0(10**9), "sparse"),
    "the end of a plain one is missing": (WHOLE[: END // 512 * 512], "cut off"),
    "a plain one ends after its first file": (tar([RUN])[:1024], "cut off"),
    "what follows a file is no header": (tar([RUN])[:1024] + b"noise" * 200 + b"\0" * 1024, "damaged"),
    "a checksum that comes long after the end": (
        gzip.compress(WHOLE + b"\0" * 1_000_000)[:-8] + b"12345678",
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_is_said(ground: Ground, kind: str) -> None:
    archive, said = BROKEN[kind]
    with pytest.raises(InstallFailed, match=said):
        ground.unpack(archive)
    ground.check()


def test_a_zip_bomb_is_not_even_begun(ground: Ground) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(InstallFailed, match="a zip file"):
        ground.unpack(out.getvalue())


@pytest.mark.parametrize("packed", ["plain", "gzip", "xz", "zstd"])
def test_more_bytes_than_allowed_are_not_written(ground: Ground, packed: str) -> None:
    archive = PACKED[packed](tar([member("zeros", b"\0" * 4_000_000), member("more", b"\0" * 4_000_000)]))
    with pytest.raises(ArchiveTooLarge, match=r"more than 5000000 bytes \(max_bytes\)"):
        ground.unpack(archive, max_bytes=5_000_000)
    assert sum(path.stat().st_size for path in ground.into.rglob("*")) <= 5_000_000


def test_hard_links_that_are_copies_count(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    archive = tar([member("a", b"1" * 1_000_000), *(member(f"b{n}", kind="hard", to="a") for n in range(9))])
    with pytest.raises(ArchiveTooLarge):
        ground.unpack(archive, max_bytes=5_000_000)
    other = Ground(ground.folder / "other")
    other.unpack(tar([member("a", b"1"), member("b", kind="hard", to="a")]))
    assert (other.into / "b").read_bytes() == b"1"


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd"])
def test_a_bomb_does_not_fill_the_memory(packed: str) -> None:
    bomb = PACKED[packed](b"\0" * 200_000_000)
    tracemalloc.start()
    try:
        content = Content(io.BytesIO(bomb))
        for _ in range(100):
            assert content.read(1000) == b"\0" * 1000
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_what_follows_the_end_is_not_read_without_end(ground: Ground) -> None:
    with pytest.raises(ArchiveTooLarge, match="follow its end"):
        ground.unpack(gzip.compress(tar([RUN]) + b"\0" * 2_000_000), max_bytes=1_000_000)


@pytest.mark.parametrize("layer", [True, False])
def test_directories_inside_each_other_without_end_are_refused(ground: Ground, layer: bool) -> None:
    deep = "/".join(["d"] * 600)
    with pytest.raises(UnsafeArchive, match="more than 256 directories"):
        ground.unpack(tar([RUN, member(deep, b"")]), layer=layer)


def test_names_without_end_are_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpacking, "MOST_NAMES", 100_000)
    archive = tar(member(f"l{n}", kind="link", to="x" * 2000) for n in range(100))
    with pytest.raises(InstallFailed, match="the names in it"):
        ground.unpack(archive)


def test_a_layer_without_the_mark_of_its_end_is_taken(ground: Ground) -> None:
    ground.unpack(tar([RUN])[:1024], layer=True)
    assert ground.names() == ["run.sh"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_more_files_than_allowed_are_not_made(ground: Ground, kind: str) -> None:
    archive = tar([member(f"f{n}", kind=kind, to="x" if kind == "link" else "") for n in range(200)])
    with pytest.raises(ArchiveTooLarge, match=r"more than 100 files \(max_files\)"):
        ground.unpack(archive, max_files=100)
    assert len(ground.names()) <= 100


def test_a_sparse_file_counts_with_its_holes(ground: Ground) -> None:
    # As GNU tar writes it (0.1): 1 TiB, of which nothing is data.
    headers = {"GNU.sparse.map": "", "GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "0"}
    info = tarfile.TarInfo("hole")
    info.pax_headers = headers
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises((ArchiveTooLarge, InstallFailed)):
        ground.unpack(out.getvalue(), max_bytes=10_000_000)
    assert sum(path.stat().st_size for path in ground.into.rglob("*")) <= 10_000_000


def test_modes_and_owners_of_strangers_are_not_kept(ground: Ground) -> None:
    ground.unpack(tar([member("open", b"", mode=0o777, uid=12345), member("shut", b"", mode=0), RUN]))
    assert stat.S_IMODE((ground.into / "open").stat().st_mode) == 0o755
    assert stat.S_IMODE((ground.into / "shut").stat().st_mode) == 0o600
    assert (ground.into / "open").stat().st_uid == os.getuid()


def test_the_last_of_two_files_of_one_name_counts(ground: Ground) -> None:
    ground.unpack(
        tar([member("f", b"first"), member("f", b"second"), member("l", kind="link", to="f"), member("l", b"own")])
    )
    assert (ground.into / "f").read_bytes() == b"second"
    assert (ground.into / "l").read_bytes() == b"own"


def test_a_file_that_comes_again_is_another_one_than_its_hard_link(ground: Ground) -> None:
    ground.unpack(tar([member("f", b"first"), member("h", kind="hard", to="f"), member("f", b"second")]))
    assert (ground.into / "f").read_bytes() == b"second"
    assert (ground.into / "h").read_bytes() == b"first"


def test_times_of_the_future_become_now(ground: Ground) -> None:
    ground.unpack(tar([member("f", b"", mtime=2**33), member("g", b"", pax_headers={"mtime": "nan"}), RUN]))
    assert (ground.into / "f").stat().st_mtime <= time.time()


def test_directories_keep_no_special_bits_and_stay_ours(ground: Ground) -> None:
    ground.unpack(tar([member("d", kind="directory", mode=0o3777), member("e", kind="directory", mode=0), RUN]))
    assert stat.S_IMODE((ground.into / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((ground.into / "e").stat().st_mode) == 0o700


def test_nothing_is_left_open(ground: Ground) -> None:
    before = descriptors()
    for kind in UNSAFE:
        with pytest.raises(UnsafeArchive):
            ground.unpack(tar([member("first/second", b""), *UNSAFE[kind]]), layer=False)
    assert descriptors() == before


NAME = st.text("abc", min_size=1, max_size=2)
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)


@given(
    files=st.dictionaries(PATH, st.binary(max_size=2000), max_size=12),
    links=st.dictionaries(PATH, st.text("abc", min_size=1, max_size=2), max_size=4),
    packed=st.sampled_from(sorted(PACKED)),
)
def test_an_honest_archive_becomes_what_the_library_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], links: dict[str, str], packed: str
) -> None:
    ground = Ground(tmp_path_factory.mktemp("same"))
    paths = [*files, *links]
    assume(not any(one == other or other.startswith(f"{one}/") for one, other in itertools.permutations(paths, 2)))
    members = [*(member(path, body) for path, body in files.items())]
    members += [member(path, kind="link", to=to) for path, to in links.items()]
    archive = tar([member("top", b""), *members])
    ground.unpack(PACKED[packed](archive))
    other = ground.folder / "other"
    with tarfile.open(fileobj=io.BytesIO(archive)) as library:
        library.extractall(other, filter="data")

    def listed(root: Path) -> dict[str, object]:
        return {
            str(path.relative_to(root)): os.readlink(path)
            if path.is_symlink()
            else (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
            for path in root.rglob("*")
        }

    assert listed(ground.into) == listed(other)


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd", "zstd with checksum"])
def test_wherever_it_is_cut_off_it_is_not_taken_for_complete(packed: str) -> None:
    pack = {**PACKED, "zstd with checksum": zstandard.ZstdCompressor(write_checksum=True).compress}[packed]
    noise = random.Random(1).randbytes(150_000)
    data = noise + bytes(300_000) + noise[:70_000]
    one = pack(data)
    assert read_all(one + one) == data + data
    for cut in [*range(1, 40), *range(40, len(one) - 20, len(one) // 60)]:
        for start in (b"", one):
            with pytest.raises(BadStream):
                read_all(start + one[:-cut])


def read_all(packed: bytes) -> bytes:
    content = Content(io.BytesIO(packed))
    found = []
    while some := content.read(100_001):
        found.append(some)
    return b"".join(found)


# ---- layers


def test_a_layer_replaces_and_removes_what_earlier_ones_brought(ground: Ground) -> None:
    ground.unpack(
        tar([RUN, member("a/one", b"1"), member("a/two", b"2"), member("b/three", b"3"), member("c", b"file")]),
        tar(
            [
                member("a/.wh.one"),
                member("b/new", b"n"),
                member("b/.wh..wh..opq"),
                member("c", kind="directory"),
                member("c/in", b""),
                member(".wh.nothing"),
                member(".wh..wh.plnk"),
            ]
        ),
        layer=True,
    )
    assert ground.names() == ["a", "a/two", "b", "b/new", "c", "c/in", "run.sh"]
    ground.check()


def test_a_whiteout_is_not_about_what_its_own_layer_brings(ground: Ground) -> None:
    ground.unpack(
        tar([member("a/old", b""), member("d/old", b"")]),
        tar([member("a/new", b""), member(".wh.a"), member("d/new", b""), member("d/.wh.new"), member(".wh..wh..opq")]),
        layer=True,
    )
    assert ground.names() == ["a", "a/new", "d", "d/new"]


def test_an_absolute_link_of_a_layer_means_the_image(ground: Ground) -> None:
    ground.unpack(
        tar(
            [
                member("usr/lib/x", b"x"),
                member("lib", kind="link", to="/usr/lib"),
                member("a/b", kind="link", to="/lib/x"),
            ]
        ),
        tar([member("lib/y", b"y")]),
        layer=True,
    )
    assert os.readlink(ground.into / "lib") == "usr/lib"
    assert (ground.into / "a" / "b").read_text() == "x"
    assert (ground.into / "usr" / "lib" / "y").read_text() == "y"
    ground.check()


@pytest.mark.parametrize(
    "upper",
    [
        [member("out/file", b"yours")],
        [member("out/.wh.file")],
        [member("out/.wh..wh..opq")],
        [member("h", kind="hard", to="out/file")],
    ],
    ids=["write", "whiteout", "opaque", "hard link"],
)
@pytest.mark.parametrize("target", ["../../precious", "../../../../../../../../precious"])
def test_no_link_of_a_lower_layer_leads_a_higher_one_out(ground: Ground, upper: Members, target: str) -> None:
    # Not one that an honest archive could bring; but something else may have put it there.
    (ground.into / "out").symlink_to(target)
    ground.before = ground.outside()
    with pytest.raises(UnsafeArchive):
        ground.unpack(tar([RUN]), tar(upper), layer=True)
    assert ground.outside() == ground.before


def test_a_link_of_a_lower_layer_may_go_with_its_directory(ground: Ground) -> None:
    ground.unpack(
        tar([member("d/l", kind="link", to="x"), member("e/l", b"file")]),
        tar([member("d", kind="link", to="e")]),
        layer=True,
    )
    assert (ground.into / "d" / "l").read_bytes() == b"file"
    ground.check()


def test_links_make_no_way_deeper_than_any_name_may_lead(ground: Ground) -> None:
    way = "/".join(["d"] * 150)
    with pytest.raises(UnsafeArchive, match="more than 256 directories"):
        ground.unpack(
            tar([member(f"{way}/f", b""), member("l", kind="link", to=way), member(f"l/{way}/f", b"")]), layer=True
        )


def test_a_deep_tree_is_whited_out(ground: Ground) -> None:
    way = "/".join(["d"] * 190)
    ground.unpack(
        tar([member(f"{way}/f", b"")]),
        tar([member(f"{way}/g", b""), member(".wh..wh..opq")]),
        layer=True,
    )
    assert not (ground.into / way / "f").exists()
    assert (ground.into / way / "g").exists()


def test_set_user_id_bits_of_a_layer_are_left_out(ground: Ground) -> None:
    ground.unpack(tar([member("bin/su", b"", mode=0o4755)]), layer=True)
    assert stat.S_IMODE((ground.into / "bin" / "su").stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", ["a character device", "a name with ..", "a link that leads out", "an absolute name"])
def test_what_is_unsafe_is_refused_in_a_layer_too(ground: Ground, kind: str) -> None:
    with pytest.raises(UnsafeArchive):
        ground.unpack(tar(UNSAFE[kind]), layer=True)
    ground.check()


def test_limits_are_about_all_layers_together(ground: Ground) -> None:
    with pytest.raises(ArchiveTooLarge):
        ground.unpack(*(tar([member("same", b"1" * 400_000)]) for _ in range(3)), layer=True, max_bytes=1_000_000)


# ---- generated ones

NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "run.sh", ".wh.a", ".wh..wh..opq"]), max_size=4).map(
    "/".join
)
TARGETS = st.one_of(NAMES, NAMES.map(lambda name: "/" + name), NAMES.map(lambda name: "../" + name))
KINDS = st.sampled_from(["file", "file", "directory", "link", "link", "hard", "pipe", "character"])
ANY_MEMBER = st.builds(
    lambda name, kind, to, mode: member(name, b"x" if kind == "file" else b"", kind=kind, to=to, mode=mode),
    NAMES,
    KINDS,
    TARGETS,
    st.integers(0, 0o7777),
)


@given(archives=st.lists(st.lists(ANY_MEMBER, max_size=12), min_size=1, max_size=3), layer=st.booleans())
def test_whatever_an_archive_says_nothing_outside_is_touched(
    tmp_path_factory: pytest.TempPathFactory, archives: list[Members], layer: bool
) -> None:
    ground = Ground(tmp_path_factory.mktemp("any"))
    refused = False
    unpacker = Unpacker(ground.into, "it", UnpackLimits(max_files=30))
    try:
        for members in archives:
            unpacker.unpack(io.BytesIO(tar(members)), layer=layer)
        unpacker.finish(lift=not layer)
    except InstallFailed:
        refused = True
    if refused:
        assert ground.outside() == ground.before  # what is inside is thrown away by whoever asked for it
    else:
        ground.check()


# ---- in a thread


async def test_a_file_is_unpacked_in_a_thread_with_progress(tmp_path: Path) -> None:
    data = gzip.compress(tar(HONEST))
    (tmp_path / "a.tar.gz").write_bytes(data)
    into = tmp_path / "into"
    into.mkdir()
    told: list[int] = []
    await unpack(into, tmp_path / "a.tar.gz", "it", UnpackLimits(), report=told.append)
    assert told == sorted(told)
    assert told[-1] == len(data)


async def test_its_cancellation_ends_the_thread_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(tar(member(f"f{n}", b"x" * 1000) for n in range(500)))
    into = tmp_path / "into"
    into.mkdir()
    write, written = _member_writer._write, 0
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def slowly(to: int, data: bytes) -> None:
        nonlocal written
        written += 1
        write(to, data)
        if written == 1:
            token.run_sync_soon(begun.set)
            trio.from_thread.run(trio.testing.wait_all_tasks_blocked)

    monkeypatch.setattr(_member_writer, "_write", slowly)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unpack, into, tmp_path / "a.tar", "it", UnpackLimits())
            await begun.wait()
            nursery.cancel_scope.cancel()
    assert written < 10
