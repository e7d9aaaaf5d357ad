"""References: what is meant by them, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_sup_oci._reference import Reference, may_be_plain, parse_reference, registry_name

from trio_sup import InvalidValue

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "registry", "host", "repository", "tag", "digest"),
    [
        ("oci://quay.io/org/name:v1", "quay.io", "quay.io", "org/name", "v1", None),
        ("quay.io/go-skynet/local-ai-backends:x", "quay.io", "quay.io", "go-skynet/local-ai-backends", "x", None),
        ("oci://Quay.IO/org/name", "quay.io", "quay.io", "org/name", "latest", None),
        ("localai/localai-backends:t", "docker.io", "registry-1.docker.io", "localai/localai-backends", "t", None),
        ("debian", "docker.io", "registry-1.docker.io", "library/debian", "latest", None),
        ("docker.io/debian:12", "docker.io", "registry-1.docker.io", "library/debian", "12", None),
        ("index.docker.io/a/b", "docker.io", "registry-1.docker.io", "a/b", "latest", None),
        ("localhost/a", "localhost", "localhost", "a", "latest", None),
        ("oci://localhost:5000/a:b", "localhost:5000", "localhost:5000", "a", "b", None),
        ("oci://127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "127.0.0.1:5000", "a/b/c", "latest", None),
        ("oci://[::1]:5000/a:b", "[::1]:5000", "[::1]:5000", "a", "b", None),
        ("oci://[::1]/a", "[::1]", "[::1]", "a", "latest", None),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", "ghcr.io", "a/b", None, DIGEST),
        (f"ghcr.io/a/b:v1@{DIGEST}", "ghcr.io", "ghcr.io", "a/b", "v1", DIGEST),
        ("ghcr.io/a__b/c--d.e:_V-1.x", "ghcr.io", "ghcr.io", "a__b/c--d.e", "_V-1.x", None),
    ],
)
def test_a_reference_is_read(
    text: str, registry: str, host: str, repository: str, tag: str | None, digest: str | None
) -> None:
    reference = parse_reference(text)
    assert reference == Reference(registry=registry, repository=repository, tag=tag, digest=digest)
    assert reference.host == host
    assert reference.target == (digest or tag)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected oci://"),
        ("oci://", "expected oci://"),
        ("https://quay.io/a/b", "expected oci://"),
        ("oci://oci://quay.io/a", "expected oci://"),
        ("quay.io", "quay.io is a registry; name a repository in it"),
        ("quay.io:443", "name a repository"),
        ("localhost", "name a repository"),
        ("quay.io/a/B", "it must be in lower case"),
        ("quay.io/a//b", "'' cannot be part"),
        ("quay.io/a/../b", "'..' cannot be part"),
        ("quay.io/a/b?c=d", "cannot be part"),
        ("quay.io/a/b#c", "cannot be part"),
        ("quay.io/a/%2e%2e", "cannot be part"),
        ("quay.io/a b", "cannot be part"),
        ("quay.io/a\nb", "cannot be part"),
        ("quay.io/" + "a" * 256, "at most 255"),
        ("quay.io/a:", "a tag has at most 128"),
        ("quay.io/a:-x", "a tag has"),
        ("quay.io/a:" + "x" * 129, "a tag has"),
        ("quay.io/a:x\n", "a tag has"),
        ("quay.io/a@sha256:abc", "64 hex digits"),
        ("quay.io/a@sha256:" + "AB" * 32, "in lower case"),
        ("quay.io/a@sha512:" + "ab" * 64, "sha256:"),
        ("quay.io:0/a", "no host"),
        ("quay.io:65536/a", "no host"),
        ("-quay.io/a", "no host"),
        ("[::1/a", "no host"),
        ("[:::1]/a", "no IPv6 address"),
        ("quay.io\r\nX: y/a", "no host"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_reference(text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "oci://user:s3cret@quay.io/a/b",
        "user:s3cret@quay.io/a/b:v1",
        f"oci://user:s3cret@quay.io/a/b@{DIGEST}",
        f"oci://user:s3c/ret@quay.io/a/b@{DIGEST}",
        "oci://user:s3cret@x@quay.io/a/b",
        "oci://user:oci://s3cret@quay.io/a/b",
    ],
)
def test_a_password_in_a_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_reference(text)
    assert "docker login" in str(caught.value)
    assert "s3c" not in repr(caught.value) + str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"[a-z./:@\[\]]{0,30}"))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidValue:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"])
def test_this_machine_may_be_talked_to_without_encryption(host: str) -> None:
    assert may_be_plain(host, ())


@pytest.mark.parametrize(
    "host", ["quay.io", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "128.0.0.1", "[::1"]
)
def test_others_only_if_they_are_listed(host: str) -> None:
    assert not may_be_plain(host, ())
    assert not may_be_plain(host, ("registry.lan",))
    assert may_be_plain(host, (host,))


def test_a_registry_is_compared_in_one_form() -> None:
    assert registry_name("Registry.LAN:5000") == "registry.lan:5000"
    assert registry_name("index.docker.io") == "docker.io"
    for wrong in ("https://quay.io", "quay.io/a", "", 5, None):
        with pytest.raises(InvalidValue):
            registry_name(wrong)
