"""Names and addresses of backends, as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trio_sup import InvalidValue
from trio_sup.gallery._planning import other_tags
from trio_sup.gallery._uris import Address, address_of, default_name, in_words, to_record, to_sha256, uri_of_path

DIGEST = "sha256:" + "0a" * 32


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine.tar.gz").touch()
    (tmp_path / "sub" / "a b%20c").mkdir(parents=True)
    (tmp_path / "sub" / "x.tar").touch()
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["llama-cpp", "localai@llama-cpp", "engine", "owner/name", "gallery@a/b", "name:tag", "own.gallery@x", "UPPER/x:1"],
)
def test_what_has_no_form_of_an_address_is_a_name(here: Path, name: str) -> None:
    assert address_of(name, here=here) is None


@pytest.mark.parametrize(
    ("written", "scheme", "path"),
    [
        ("./engine", "dir", "engine"),
        ("sub/a b%20c", "dir", "sub/a b%20c"),
        (".", "dir", "."),
        ("{here}/engine", "dir", "engine"),
        ("dir://{here}/engine", "dir", "engine"),
        ("dir://engine", "dir", "engine"),
        ("engine.tar.gz", "file", "engine.tar.gz"),
        ("sub/x.tar", "file", "sub/x.tar"),
        ("file://{here}/sub/x.tar", "file", "sub/x.tar"),
        ("FILE://localhost{here}/sub/x.tar", "file", "sub/x.tar"),
        ("file://{here}/sub/a%20b", "file", "sub/a b"),
        ("ocifile://{here}/sub/a%20b", "ocifile", "sub/a%20b"),
        ("ocifile://image.tar", "ocifile", "image.tar"),
    ],
)
def test_local_ones(here: Path, written: str, scheme: str, path: str) -> None:
    assert address_of(written.format(here=here), here=here) == Address(scheme, uri_of_path(scheme, here / path))


def test_a_path_in_an_address_is_read_back_as_it_was(here: Path) -> None:
    address = address_of("sub/a b%20c", here=here)
    assert address is not None
    assert " " not in address.uri
    assert to_record(address.uri) == in_words(address.uri) == str(here / "sub" / "a b%20c")
    assert address_of(to_record(address.uri)) == address


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("quay.io/go-skynet/local-ai-backends:latest-cpu", "oci://quay.io/go-skynet/local-ai-backends:latest-cpu"),
        ("ghcr.io/a/b", "oci://ghcr.io/a/b"),
        ("docker.io/debian", "oci://docker.io/debian"),
        ("localai/localai-backends:latest-cpu", "oci://docker.io/localai/localai-backends:latest-cpu"),
        (f"owner/name@{DIGEST}", f"oci://docker.io/owner/name@{DIGEST}"),
        (f"owner/name:tag@{DIGEST}", f"oci://docker.io/owner/name:tag@{DIGEST}"),
        ("registry.example.com/x", "oci://registry.example.com/x"),
        ("registry:5000/x/y:z", "oci://registry:5000/x/y:z"),
        ("localhost/x", "oci://localhost/x"),
        ("oci://localhost:5000/x:1", "oci://localhost:5000/x:1"),
        ("OCI://quay.io/x/y", "oci://quay.io/x/y"),
    ],
)
def test_images(here: Path, written: str, uri: str) -> None:
    assert address_of(written, here=here) == address_of(written) == Address("oci", uri)


@pytest.mark.parametrize(
    ("written", "scheme", "uri"),
    [
        ("https://example.com/x.tar.gz?y=1", "https", "https://example.com/x.tar.gz?y=1"),
        ("HTTP://example.com/x", "http", "http://example.com/x"),
        ("github:o/r/a/b.tar@v1", "https", "https://raw.githubusercontent.com/o/r/v1/a/b.tar"),
        ("github://o/r/b.tar", "https", "https://raw.githubusercontent.com/o/r/main/b.tar"),
        ("gopher://x/y", "gopher", "gopher://x/y"),
    ],
)
def test_others(written: str, scheme: str, uri: str) -> None:
    assert address_of(written) == Address(scheme, uri)


def test_what_is_no_text_is_no_address(here: Path) -> None:
    what: Any = here
    with pytest.raises(InvalidValue, match="expected the name of a backend, or the address of one"):
        address_of(what, here=here)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "expected the name of a backend"),
        (" x", "expected the name of a backend"),
        ("a\nb", "expected the name of a backend"),
        ("./missing", "no such file or directory"),
        ("/missing/x", "no such file or directory"),
        ("missing.tar.gz", "no such file"),
        ("https://", "ends where it should begin"),
        ("~nobody-of-this-name/x", "no home directory"),
        ("github:o/r", "github:owner/repository"),
    ],
)
def test_what_cannot_be_meant_says_what_would_be(here: Path, written: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        address_of(written, here=here)


@pytest.mark.parametrize("written", ["./engine", "~/engine", "dir://engine", "ocifile://x.tar"])
def test_a_gallery_cannot_name_what_lies_beside_whoever_reads_it(written: str) -> None:
    with pytest.raises(InvalidValue, match="absolute"):
        address_of(written)


# ---- what it is called then


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("dir:///srv/my-engine", "my-engine"),
        ("dir:///srv/my-engine/", "my-engine"),
        ("dir:///srv/engine.tar.gz", "engine.tar.gz"),
        ("file:///srv/engine-1.2.tar.gz", "engine-1.2"),
        ("file:///srv/engine.tgz", "engine"),
        ("https://example.com/a/engine.tar.zst?token=x", "engine"),
        ("https://example.com/a/engine", "engine"),
        ("ocifile:///srv/engine.tar", "engine"),
        ("ocifile:///srv/engine.v1.img", "engine.v1"),
        (f"ocifile:///srv/engine.tar@{DIGEST}", "engine"),
    ],
)
def test_an_address_gives_a_name(uri: str, name: str) -> None:
    assert default_name(Address(uri.partition(":")[0], uri)) == name


@pytest.mark.parametrize(
    "uri",
    ["oci://quay.io/a/b:c", "https://example.com/", "file:///srv/.tar", "https://e/%2e%2e", "dir:///", "file:///a/b c"],
)
def test_or_asks_for_one(uri: str) -> None:
    with pytest.raises(InvalidValue, match="say what it is to be called"):
        default_name(Address(uri.partition(":")[0], uri))


def test_what_is_recorded_has_no_secrets() -> None:
    assert to_record("https://user:secret@example.com/x") == "https://example.com/x"
    assert to_record("oci://quay.io/a/b@sha256:00") == "oci://quay.io/a/b@sha256:00"


def test_digests() -> None:
    assert to_sha256(None) is None
    assert to_sha256(DIGEST.upper()) == "0a" * 32
    for wrong in ("", "0a", "z" * 64, "md5:" + "0" * 64):
        with pytest.raises(InvalidValue, match="64 hex digits"):
            to_sha256(wrong)


def test_where_else_an_image_may_be() -> None:
    assert other_tags("quay.io/a/b:latest-cpu-x") == (
        "quay.io/a/b:master-cpu-x",
        "quay.io/a/b:master-cpu-x-development",
    )
    assert other_tags("oci://a.b/c:latest-x-development") == ("oci://a.b/c:master-x-development",)
    for other in ("quay.io/a/b:v1", "quay.io/a/latest-b:v1", f"quay.io/a/b:latest-x@{DIGEST}", "https://e/latest-x"):
        assert other_tags(other) == ()
