"""Which galleries there are: from TOML tables, and from LocalAI's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trio_sup import InvalidValue
from trio_sup._structuring import InvalidTable, structure
from trio_sup.gallery._addresses import beside, located, shown
from trio_sup.gallery._gallery import DEFAULT_GALLERY, Gallery, InvalidGalleries, galleries_from_json

URL = "https://example.com/index.yaml"


@pytest.mark.parametrize("text", ["", " \n\t", "[]", "null"])
def test_blank_text_is_an_empty_list(text: str) -> None:
    assert galleries_from_json(text) == ()


def test_what_localai_writes_is_read_and_what_is_unknown_in_it_passed_over() -> None:
    written = [
        {"url": URL, "name": "one", "mirrors": ["github:a/b/c.yaml@main"], "verification": {"issuer": "i"}, "new": 1},
        {"name": "two", "url": URL, "mirrors": None, "verification": None},
    ]
    assert galleries_from_json(json.dumps(written)) == (
        Gallery(name="one", url=URL, mirrors=("github:a/b/c.yaml@main",), verification={"issuer": "i"}),
        Gallery(name="two", url=URL),
    )


@pytest.mark.parametrize("text", ["{", "{}", '"x"', "1", "[" * 100_000, "[{]"])
def test_what_is_no_json_list_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="must be"):
        galleries_from_json(text)


def test_every_problem_is_named_with_its_place() -> None:
    written = [{"name": "a", "url": URL}, {"name": "b@c", "url": "ftp://x", "mirrors": "x"}, 1, {"name": "d"}]
    with pytest.raises(InvalidGalleries) as caught:
        galleries_from_json(json.dumps(written))
    places = [problem.split(": ")[0] for problem in caught.value.problems]
    assert places == ["[1].name", "[1].url", "[1].mirrors", "[2]", "[3].url"]
    assert "[1].mirrors: expected a list of addresses" in str(caught.value)


def test_a_table_of_toml_is_read_strictly() -> None:
    assert structure(Gallery, {"name": "x", "url": URL, "mirrors": [URL]}) == Gallery(name="x", url=URL, mirrors=(URL,))
    with pytest.raises(InvalidTable, match=r"galleries\.index\[0\]\.mirors: unknown key; did you mean 'mirrors'"):
        structure(Gallery, {"name": "x", "url": URL, "mirors": []}, "galleries.index[0]")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": ""}, "name: "),
        ({"name": " x"}, "name: "),
        ({"name": "a/b"}, "name: "),
        ({"name": "a\nb"}, "name: "),
        ({"name": 1}, "name: "),
        ({"name": "x" * 129}, "name: "),
        ({"url": "example.com/x"}, "url: "),
        ({"url": "https://example.com/a b"}, "url: "),
        ({"url": "https://"}, "url: "),
        ({"url": "https://x:99999/"}, "url: "),
        ({"url": "file://host/x"}, "url: "),
        ({"url": "github:owner/repository"}, "url: "),
        ({"url": "github:owner/../x/y"}, "url: "),
        ({"mirrors": [URL, "nonsense"]}, r"mirrors: \[1\]: "),
        ({"verification": ["x"]}, "verification: "),
    ],
)
def test_a_complaint_names_its_field(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint):
        Gallery(**{"name": "x", "url": URL, **fields})


def test_secrets_in_addresses_are_not_shown() -> None:
    gallery = Gallery(name="x", url="https://user:secret@example.com/i?token=secret", mirrors=("https://secret@b.c/",))
    assert "secret" not in repr(gallery)
    assert shown(gallery.url) == "https://example.com/i?…"
    with pytest.raises(InvalidValue) as caught:
        Gallery(name="x", url="ftp://user:secret@example.com/")
    assert "secret" not in str(caught.value)


def test_galleries_can_be_keys() -> None:
    assert {DEFAULT_GALLERY: 1}[DEFAULT_GALLERY] == 1


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("github:o/r/backend/index.yaml@master", "https://raw.githubusercontent.com/o/r/master/backend/index.yaml"),
        ("github://o/r/index.yaml", "https://raw.githubusercontent.com/o/r/main/index.yaml"),
        ("github:o/r/a#b.yaml@feature/x", "https://raw.githubusercontent.com/o/r/feature/x/a%23b.yaml"),
        (URL, URL),
        ("HTTP://example.com/x?y", "HTTP://example.com/x?y"),
        ("file:///srv/index.yaml", "file:///srv/index.yaml"),
    ],
)
def test_forms_of_addresses(address: str, meant: str) -> None:
    assert located(address) == meant


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        (b"index-7.yaml\n", "https://user@e.com/g/index-7.yaml"),
        (b"v2/index.yaml", "https://user@e.com/g/v2/index.yaml"),
        (b"what?#.yaml", "https://user@e.com/g/what%3F%23.yaml"),
        (b"%2e%2e/x", "https://user@e.com/g/%252e%252e/x"),
    ],
)
def test_a_reference_names_a_file_beside_it(content: bytes, meant: str) -> None:
    assert beside("https://user@e.com/g/latest.ref?token=x", content) == meant


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"/etc/passwd",
        b"../x",
        b"a/../../x",
        b"./x",
        b"a\\..\\b",
        b"https://evil.example/x",
        b"//evil.example/x",
        b"file:x",
        b"a b",
        b"a\nb",
        b"a\0b",
        b"<html>no such file</html>\n",
        b"x" * 1025,
    ],
)
def test_a_reference_cannot_lead_elsewhere(content: bytes) -> None:
    with pytest.raises(InvalidValue, match="a file beside it"):
        beside("https://e.com/g/latest.ref", content)
