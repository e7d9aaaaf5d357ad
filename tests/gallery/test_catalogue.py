"""The catalogue against a real server: what is asked when, what is served when nobody answers, what a name means."""

from __future__ import annotations

import gc
import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import descriptors
from tests.gallery._index_server import Answer, IndexServer, index_server
from tests.gallery._official_index import official_index
from trio_sup._gallery_errors import GalleryUnavailable, UnknownEntry
from trio_sup.gallery import _catalogue, _fetching, _gallery_reader
from trio_sup.gallery._catalogue import MAX_AGE, MAX_AGE_OF_A_MISS, Catalogue
from trio_sup.gallery._cool_down import COOL_DOWN
from trio_sup.gallery._gallery import Gallery
from trio_sup.gallery._index import IndexEntry, parse_index
from trio_sup.gallery._looking_up import Shelves

HTML = Answer(b"<html>Sign in first</html>")
DOWN = Answer(b"out of order", 503)


def index(*names: str) -> Answer:
    return Answer("\n".join(f"- {{name: {name}, uri: x}}" for name in names).encode())


@attrs.define
class Clock:
    at: float = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@attrs.define
class Site:
    """A server, a clock, and catalogues that know both."""

    server: IndexServer
    directory: Path
    clock: Clock = attrs.field(factory=Clock)

    def gallery(self, name: str = "g", *paths: str, **fields: Any) -> Gallery:
        first, *mirrors = map(self.server.url, paths or (f"/{name}",))
        return Gallery(name=name, url=first, mirrors=mirrors, **fields)

    def catalogue(self, *galleries: Gallery, **options: Any) -> Catalogue:
        return Catalogue(
            galleries or [self.gallery()],
            **{
                "capability": "default",
                "cache_dir": self.directory / "cache",
                "timeout": 10.0,
                "now": self.clock,
                "github": self.server.url("/github"),
                **options,
            },
        )


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("NO_PROXY", "*")
    async with index_server() as server:
        with trio.fail_after(30):
            yield Site(server, tmp_path)


def names(entries: Sequence[IndexEntry]) -> list[str]:
    return [entry.name for entry in entries]


# ---- which source is asked


async def test_galleries_are_read_beside_one_another_in_their_order(site: Site) -> None:
    gate = trio.Event()
    site.server.answers = {
        "/a": attrs.evolve(index("one", "two"), gate=gate),
        "/b": attrs.evolve(index("two", "three"), gate=gate),
    }
    catalogue = site.catalogue(site.gallery("a"), site.gallery("b"))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def open_the_gate() -> None:
            await site.server.wait_asked("/a", "/b")  # before either was answered
            gate.set()

        entries = await catalogue.entries()
    assert [entry.full_name for entry in entries] == ["a@one", "a@two", "b@two", "b@three"]
    assert catalogue.problems == ()


async def test_a_gallery_that_cannot_be_read_hides_only_itself(site: Site) -> None:
    site.server.answers = {"/a": DOWN, "/b": index("one")}
    catalogue = site.catalogue(site.gallery("a"), site.gallery("b"))
    assert names(await catalogue.entries()) == ["one"]
    (problem,) = catalogue.problems
    assert problem == (
        f"gallery 'a': it could not be read: {site.server.url('/a')}: the server answered 503 Service Unavailable"
    )
    assert (await catalogue.find("one")).entry.name == "one"
    with pytest.raises(UnknownEntry, match="a could not be read"):
        await catalogue.find("two")
    with pytest.raises(GalleryUnavailable, match="'a' cannot be read"):
        await catalogue.find("a@one")


async def test_if_no_gallery_can_be_read_all_reasons_are_told(site: Site) -> None:
    site.server.answers = {"/a": DOWN, "/b": HTML}
    catalogue = site.catalogue(site.gallery("a"), site.gallery("b"))
    for ask in (catalogue.entries, catalogue.search):
        with pytest.raises(GalleryUnavailable) as caught:
            await ask()
        assert "503" in str(caught.value)
        assert "web page" in str(caught.value)


BAD_ANSWERS: Mapping[str, Answer] = {
    "500": Answer(index("bad").body, 500),
    "404": Answer(index("bad").body, 404),
    "403": Answer(index("bad").body, 403),
    "no content": Answer(b"", 200),
    "202": Answer(index("bad").body, 202),
    "not modified, unasked": Answer(status=304),
    "html": HTML,
    "empty list": Answer(b"[]"),
    "table": Answer(b"error: none"),
    "only broken entries": Answer(b"- {name: ../x, uri: y}"),
    "hangs": Answer(hangs=True),
    "stalls": attrs.evolve(index("bad"), stalls=True),
    "redirects in a circle": Answer(status=302, headers={"Location": "/g"}),
    "redirects to a file": Answer(status=302, headers={"Location": "file:///etc/hostname"}),
    "not gzip": Answer(b"nonsense", headers={"Content-Encoding": "gzip"}),
    "other compression": Answer(index("bad").body, headers={"Content-Encoding": "zstd"}),
    "gzip, cut": Answer(gzip.compress(index("bad").body)[:-9], headers={"Content-Encoding": "gzip"}),
    "gzip twice": Answer(gzip.compress(gzip.compress(index("bad").body)), headers={"Content-Encoding": "gzip, gzip"}),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
async def test_the_mirror_is_asked_when_the_primary_fails(site: Site, bad: str) -> None:
    site.server.answers = {"/g": BAD_ANSWERS[bad], "/mirror": index("good")}
    catalogue = site.catalogue(site.gallery("g", "/g", "/mirror"), timeout=0.5)
    assert names(await catalogue.entries()) == ["good"]
    assert set(site.server.paths) == {"/g", "/mirror"}
    (problem,) = catalogue.problems
    assert problem.startswith(f"gallery 'g': {site.server.url('/g')}: ")
    assert problem.endswith(f"(read from {site.server.url('/mirror')} instead)")


async def test_a_mirror_is_asked_when_nobody_listens_at_the_primary(site: Site) -> None:
    site.server.answers["/mirror"] = index("good")
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        gallery = Gallery(name="g", url=f"http://127.0.0.1:{port}/", mirrors=[site.server.url("/mirror")])
        assert names(await site.catalogue(gallery).entries()) == ["good"]


async def test_the_primary_is_first_and_each_source_is_asked_once(site: Site) -> None:
    site.server.answers = {"/b": DOWN, "/c": index("good"), "/d": index("other")}
    catalogue = site.catalogue(site.gallery("g", "/a", "/b", "/a", "/b", "/c", "/d"))
    assert names(await catalogue.entries()) == ["good"]
    assert site.server.paths == ["/a", "/b", "/c"]


async def test_what_is_too_large_is_refused(site: Site) -> None:
    fetcher = _fetching.IndexFetcher(most_bytes=1000)
    large = b"- " + b"x" * 2_000_000
    site.server.answers = {
        "/plain": Answer(large),
        "/gzip": Answer(gzip.compress(large), headers={"Content-Encoding": "gzip"}),
        "/fits": Answer(b"x" * 1000),
    }
    for path in ("/plain", "/gzip"):
        with pytest.raises(_fetching.NotFetched, match="larger than 1000 bytes"):
            await fetcher.fetch(site.server.url(path))
    gc.collect()  # an iterator that was left to it would be told here
    assert (await fetcher.fetch(site.server.url("/fits"))).content == b"x" * 1000


async def test_gzip_and_redirects_are_understood(site: Site) -> None:
    site.server.answers = {
        "/g": Answer(status=307, headers={"Location": "/elsewhere"}),
        "/elsewhere": Answer(gzip.compress(index("good").body), headers={"Content-Encoding": "gzip"}),
    }
    assert names(await site.catalogue().entries()) == ["good"]


async def test_references_and_github_addresses_are_followed(site: Site) -> None:
    site.server.answers = {
        "/x/latest.ref": Answer(b"index-7.yaml\n"),
        "/x/index-7.yaml": index("seven"),
        "/github/o/r/main/backend/index.yaml": index("github"),
        "/evil/latest.ref": Answer(b"../x/index-7.yaml"),
        "/twice/a.ref": Answer(b"b.ref"),
        "/twice/b.ref": Answer(b"index-7.yaml"),
    }
    catalogue = site.catalogue(
        site.gallery("ref", "/x/latest.ref"),
        Gallery(name="hub", url="github:o/r/backend/index.yaml"),
        site.gallery("evil", "/evil/latest.ref"),
        site.gallery("twice", "/twice/a.ref"),
    )
    assert [entry.full_name for entry in await catalogue.entries()] == ["ref@seven", "hub@github"]
    problems = "\n".join(catalogue.problems)
    assert "gallery 'evil': it could not be read" in problems
    assert "gallery 'twice': it could not be read" in problems
    assert "/x/index-7.yaml" in site.server.paths


async def test_a_proxy_that_cannot_be_used_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(GalleryUnavailable, match="SOCKS"):
        await site.catalogue().entries()


async def test_user_and_password_are_sent_and_not_told(site: Site) -> None:
    site.server.answers["/g"] = DOWN
    url = site.server.url("/g?token=secret").replace("//", "//user:secret@")
    catalogue = site.catalogue(Gallery(name="g", url=url))
    with pytest.raises(GalleryUnavailable) as caught:
        await catalogue.entries()
    assert "secret" not in f"{caught.value} {caught.value.reasons} {catalogue.problems}"
    assert site.server.asked[0].headers["authorization"].startswith("Basic ")
    assert site.server.asked[0].path == "/g?token=secret"


# ---- files


async def test_a_file_is_read_only_inside_its_directory(site: Site, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    outside = tmp_path / "outside.yaml"
    outside.write_bytes(index("outside").body)
    (inside / "a b.yaml").write_bytes(index("inside").body)
    (inside / "link.yaml").symlink_to(outside)
    (inside / "inner.yaml").symlink_to("a b.yaml")
    (inside / "latest.ref").write_text("a b.yaml")
    (inside / "other.ref").write_text("inner.yaml")
    (inside / "circle").symlink_to("circle")
    os.mkfifo(inside / "pipe")

    async def read(path: str, below: Path | None = inside) -> str:
        gallery = Gallery(name="g", url=f"file://{path}")
        try:
            return ",".join(names(await site.catalogue(gallery, cache_dir=None, files_below=below).entries()))
        except GalleryUnavailable as error:
            return error.reasons[0].removeprefix(f"file://{path}: ")

    assert await read(f"{inside}/a%20b.yaml") == "inside"
    assert await read(f"localhost{inside}/inner.yaml") == "inside"
    assert await read(f"{inside}/other.ref") == "inside"
    assert "a file beside it" in await read(f"{inside}/latest.ref")  # for names with blanks there is no reference
    for path in (outside, inside / "link.yaml", inside / "../outside.yaml", f"{inside}/..%2foutside.yaml"):
        assert "it is not inside" in await read(str(path))
    assert await read(f"{inside}/none.yaml") == "No such file or directory"
    assert "null" in await read(f"{inside}/a%00b.yaml")
    assert await read(str(inside)) == "Is a directory"
    assert "not a file" in await read(f"{inside}/pipe")
    assert "link" in await read(f"{inside}/circle")  # too many of them, in the words of this Python's version
    assert "not read from files here" in await read(f"{inside}/a%20b.yaml", None)
    assert await read(str(outside), Path("/")) == "outside"


async def test_a_file_that_changes_is_seen_at_once(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "index.yaml"
    path.write_bytes(index("one").body)
    catalogue = site.catalogue(Gallery(name="g", url=f"file://{path}"), files_below=tmp_path)
    (first,) = await catalogue.entries()
    (again,) = await catalogue.entries()
    assert again is first  # not parsed anew
    path.write_bytes(index("two").body)
    assert (await catalogue.find("two")).entry.name == "two"
    path.unlink()
    assert names(await catalogue.entries()) == ["two"]
    assert "What is known of it is" in catalogue.problems[0]
    path.write_bytes(index("three").body)
    assert names(await catalogue.entries()) == ["three"]
    assert catalogue.problems == ()


# ---- cool-down


async def test_a_source_that_failed_is_left_alone_for_a_while(site: Site) -> None:
    site.server.answers = {"/g": DOWN, "/mirror": index("good")}
    catalogue = site.catalogue(site.gallery("g", "/g", "/mirror"), cache_dir=None)

    async def asked() -> list[str]:
        await catalogue.entries(refresh=True)
        return site.server.paths

    assert await asked() == ["/g", "/mirror"]
    site.clock.at += COOL_DOWN - 1
    assert await asked() == ["/mirror"]
    site.clock.at += 1
    assert await asked() == ["/g", "/mirror"]
    site.server.answers["/g"] = index("good")
    site.clock.at += COOL_DOWN
    assert await asked() == ["/g"]
    assert await asked() == ["/g"]  # success has cleared it
    site.clock.at += 1
    site.server.answers["/g"] = DOWN
    assert await asked() == ["/g", "/mirror"]
    site.clock.at -= 100_000  # the clock was set back: nobody knows how long ago that was
    assert await asked() == ["/g", "/mirror"]


async def test_success_clears_the_cool_down_for_all_galleries(site: Site) -> None:
    site.server.answers = {"/g": DOWN, "/mirror": index("good")}
    catalogue = site.catalogue(site.gallery("one", "/g", "/mirror"), site.gallery("two", "/g"), cache_dir=None)
    await catalogue.find("one@good")
    site.server.answers["/g"] = index("good")
    await catalogue.find("two@good")  # has no other source, so asks it all the same
    site.server.asked.clear()
    site.clock.at += MAX_AGE_OF_A_MISS + 1
    with pytest.raises(UnknownEntry):
        await catalogue.find("one@none")
    assert site.server.paths == ["/g"]


async def test_the_cool_down_does_not_count_when_all_are_cooling(site: Site) -> None:
    site.server.answers = {"/g": DOWN, "/mirror": DOWN}
    catalogue = site.catalogue(site.gallery("g", "/g", "/mirror"))
    for _ in range(3):
        with pytest.raises(GalleryUnavailable):
            await catalogue.entries()
        assert site.server.paths == ["/g", "/mirror"]


async def test_a_dead_gallery_does_not_hold_up_the_others_every_time(site: Site) -> None:
    site.server.answers = {"/dead": DOWN, "/alive": index("one")}
    catalogue = site.catalogue(site.gallery("dead"), site.gallery("alive"))
    await catalogue.find("one")
    site.server.asked.clear()
    assert (await catalogue.find("one")).entry.name == "one"
    assert names(await catalogue.entries()) == ["one"]
    assert site.server.paths == []
    assert "503" in catalogue.problems[0]
    with pytest.raises(GalleryUnavailable, match="503"):
        await catalogue.find("dead@two")  # nobody else could have it
    assert site.server.paths == ["/dead"]
    site.server.answers["/dead"] = index("two")
    assert (await catalogue.find("two")).entry.name == "two"  # it might have come back
    assert site.server.paths == ["/dead"]
    assert catalogue.problems == ()


@pytest.mark.parametrize("how", ["refresh", "later"])
async def test_a_dead_gallery_is_asked_again_when_told_and_after_a_while(site: Site, how: str) -> None:
    site.server.answers = {"/dead": DOWN, "/alive": index("one")}
    catalogue = site.catalogue(site.gallery("dead"), site.gallery("alive"))
    await catalogue.entries()
    site.server.answers["/dead"] = index("two")
    site.clock.at += COOL_DOWN if how == "later" else 1
    assert names(await catalogue.entries(refresh=how == "refresh")) == ["two", "one"]


async def test_with_nothing_to_serve_even_one_that_failed_lately_is_asked(site: Site) -> None:
    site.server.answers = {"/a": DOWN, "/mirror": index("good"), "/b": DOWN}
    # Both galleries have the same mirror, so that it is known to be good when it fails for the second one.
    one = site.gallery("one", "/a", "/mirror")
    two = site.gallery("two", "/a", "/mirror")
    catalogue = site.catalogue(one, two, cache_dir=None)
    await catalogue.find("one@good")
    site.server.answers = {"/a": index("back"), "/mirror": DOWN}
    site.server.asked.clear()
    assert (await catalogue.find("two@back")).entry.name == "back"
    assert site.server.paths == ["/mirror", "/a"]


async def test_ones_own_cancellation_is_no_failure_of_the_source(site: Site) -> None:
    site.server.answers = {"/g": Answer(hangs=True), "/mirror": index("mirror")}
    catalogue = site.catalogue(site.gallery("g", "/g", "/mirror"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalogue.entries)
        await site.server.wait_asked("/g")
        nursery.cancel_scope.cancel()
    site.server.answers["/g"] = index("primary")
    assert names(await catalogue.entries()) == ["primary"]


# ---- many callers


async def test_many_callers_share_one_request(site: Site) -> None:
    gate = trio.Event()
    site.server.answers["/g"] = attrs.evolve(index("one"), gate=gate)
    catalogue = site.catalogue()
    results = []

    async def ask() -> None:
        results.append(names(await catalogue.entries(refresh=True)))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
        await site.server.wait_asked("/g")
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert results == [["one"]] * 10
    assert site.server.paths == ["/g"]


async def test_a_cancelled_caller_takes_nobody_along(site: Site) -> None:
    site.server.answers["/g"] = Answer(hangs=True)
    catalogue = site.catalogue()
    results = []

    async def ask() -> None:
        results.append(names(await catalogue.entries()))

    async with trio.open_nursery() as others, trio.open_nursery() as first:
        first.start_soon(ask)
        await site.server.wait_asked("/g")
        for _ in range(5):
            others.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        site.server.answers["/g"] = index("one")
        first.cancel_scope.cancel()
    assert results == [["one"]] * 5
    assert site.server.paths == ["/g", "/g"]


async def test_a_failure_is_shared_as_well(site: Site) -> None:
    gate = trio.Event()
    site.server.answers["/g"] = attrs.evolve(DOWN, gate=gate)
    catalogue = site.catalogue()
    failures = []

    async def ask() -> None:
        try:
            await catalogue.entries()
        except GalleryUnavailable as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await site.server.wait_asked("/g")
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert len(failures) == 5
    assert len(set(map(id, failures))) == 5  # one exception raised in five tasks would collect their tracebacks
    assert site.server.paths == ["/g"]


async def test_parsing_ends_with_its_caller(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.server.answers["/g"] = index("one")
    parsing = threading.Event()

    def endless(content: bytes, gallery: Gallery, *, checkpoint: Callable[[], None]) -> None:
        while True:
            checkpoint()
            parsing.set()

    monkeypatch.setattr(_gallery_reader, "parse_index", endless)
    catalogue = site.catalogue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalogue.entries)
        assert await trio.to_thread.run_sync(parsing.wait, 10)
        nursery.cancel_scope.cancel()
    monkeypatch.undo()
    assert names(await catalogue.entries()) == ["one"]


async def test_nothing_stays_open_after_cancellation(site: Site) -> None:
    site.server.answers = {"/a": Answer(hangs=True), "/b": attrs.evolve(index("one"), stalls=True), "/c": index("one")}
    catalogue = site.catalogue(*(site.gallery(name) for name in "abc"))
    await site.catalogue(site.gallery("c")).entries(refresh=True)  # what is loaded once stays
    before = descriptors()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalogue.entries)
        await site.server.wait_asked("/a", "/b", "/c")
        nursery.cancel_scope.cancel()
    while len(descriptors()) > len(before):  # the server closes its ends a moment later
        await trio.sleep(0.01)


# ---- memory and disk


async def test_an_index_is_remembered_for_an_hour(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    catalogue = site.catalogue()
    await catalogue.entries()
    site.clock.at += MAX_AGE
    await catalogue.entries()
    assert site.server.paths == ["/g"]
    site.clock.at += 1
    await catalogue.entries()
    assert site.server.paths == ["/g"]
    await catalogue.entries(refresh=True)
    assert site.server.paths == ["/g"]
    site.clock.at -= 100_000  # set back
    await catalogue.entries()
    assert site.server.paths == ["/g"]


async def test_a_new_process_needs_no_server_within_the_hour(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    await site.catalogue().entries()
    site.server.asked.clear()
    site.clock.at += MAX_AGE - 1
    fresh = site.catalogue()
    assert names(await fresh.entries()) == ["one"]
    assert site.server.paths == []
    site.clock.at += 2
    assert names(await site.catalogue().entries()) == ["one"]
    assert site.server.paths == ["/g"]


@pytest.mark.parametrize("how", ["DOWN", "HTML", "[]", "hangs"])
async def test_an_earlier_copy_is_served_when_every_source_fails(site: Site, how: str) -> None:
    site.server.answers["/g"] = index("one")
    await site.catalogue().entries()
    site.server.answers["/g"] = {"DOWN": DOWN, "HTML": HTML, "[]": Answer(b"[]"), "hangs": Answer(hangs=True)}[how]
    site.server.asked.clear()
    site.clock.at += 3 * 3600
    for _ in range(2):  # the second shows that what came did not replace the copy
        catalogue = site.catalogue(timeout=0.3)
        assert names(await catalogue.entries()) == ["one"]
        assert site.server.paths == ["/g"]
        (problem,) = catalogue.problems
        assert "What is known of it is 3 h" in problem
        assert site.server.url("/g") in problem
        assert names(await catalogue.entries()) == ["one"]
        assert site.server.paths == []  # it is left alone
        site.clock.at += 1
    await catalogue.entries(refresh=True)
    assert site.server.paths == ["/g"]
    site.clock.at += COOL_DOWN
    site.server.answers["/g"] = index("two")
    assert names(await catalogue.entries()) == ["two"]
    assert catalogue.problems == ()


async def test_what_has_not_changed_is_not_sent_again(site: Site) -> None:
    site.server.answers["/g"] = attrs.evolve(index("one"), headers={"ETag": '"1"', "Last-Modified": "today"})
    catalogue = site.catalogue()
    (first,) = await catalogue.entries()
    site.clock.at += MAX_AGE + 1
    (second,) = await catalogue.entries()
    assert second is first
    asked = site.server.asked[-1].headers
    assert (asked["if-none-match"], asked["if-modified-since"]) == ('"1"', "today")
    assert len(site.server.paths) == 2
    site.clock.at += MAX_AGE  # counted from when it was confirmed, also for another process
    assert names(await site.catalogue().entries()) == ["one"]
    assert site.server.paths == []
    site.clock.at += 1
    site.server.answers["/g"] = attrs.evolve(index("two"), headers={"ETag": '"2"'})
    assert names(await site.catalogue().entries()) == ["two"]


async def test_what_a_server_would_not_understand_is_not_sent_to_it(site: Site) -> None:
    site.server.answers["/g"] = attrs.evolve(index("one"), headers={"ETag": '"\xe4"', "Last-Modified": "x" * 5000})
    catalogue = site.catalogue()
    await catalogue.entries()
    assert names(await catalogue.entries(refresh=True)) == ["one"]
    assert catalogue.problems == ()
    assert not {"if-none-match", "if-modified-since"} & set(site.server.asked[-1].headers)


async def test_what_belongs_to_one_source_is_not_sent_to_another(site: Site) -> None:
    site.server.answers = {
        "/g": attrs.evolve(index("one"), headers={"ETag": '"1"'}),
        "/mirror": attrs.evolve(index("two"), headers={"ETag": '"1"'}),
    }
    catalogue = site.catalogue(site.gallery("g", "/g", "/mirror"))
    await catalogue.entries()
    site.server.answers["/g"] = DOWN
    assert names(await catalogue.entries(refresh=True)) == ["two"]


async def test_a_damaged_copy_is_replaced(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    await site.catalogue().entries()
    for path in (site.directory / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:7])
    site.server.asked.clear()
    assert names(await site.catalogue().entries()) == ["one"]
    assert site.server.paths == ["/g"]
    assert names(await site.catalogue().entries()) == ["one"]
    assert site.server.paths == []


async def test_without_a_place_for_copies_it_works_and_says_so(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    (site.directory / "file").touch()
    catalogue = site.catalogue(cache_dir=site.directory / "file" / "cache")
    assert names(await catalogue.entries()) == ["one"]
    assert "no copy of it could be kept" in catalogue.problems[0]
    assert names(await site.catalogue(cache_dir=None).entries()) == ["one"]


async def test_broken_entries_are_told_also_by_a_new_process(site: Site) -> None:
    site.server.answers["/g"] = Answer(b"- {name: one, uri: x}\n- {name: ../x, uri: y}\n")
    for _ in range(2):
        catalogue = site.catalogue()
        assert names(await catalogue.entries()) == ["one"]
        (problem,) = catalogue.problems
        assert problem.startswith("gallery 'g': entry 2 (line 2) is left out: name: ")


# ---- names

ENGINES = b"""
- &llama
  name: llama-cpp
  alias: llama-cpp
  tags: [LLM, CPU]
  description: Inference in C++.
  capabilities: {default: cpu-llama-cpp, nvidia: cuda12-llama-cpp, metal: metal-llama-cpp}
- {<<: *llama, name: llama-cpp-development, capabilities: {default: cpu-llama-cpp-development}}
- {<<: *llama, name: cpu-llama-cpp-development, uri: "quay.io/a/b:master-cpu-llama-cpp"}
- {<<: *llama, name: cpu-llama-cpp, uri: "quay.io/a/b:latest-cpu-llama-cpp"}
- {<<: *llama, name: cuda12-llama-cpp, uri: "quay.io/a/b:latest-gpu-nvidia-cuda-12-llama-cpp"}
- {name: whisper, tags: [STT], description: "Hears, like llama.cpp talks.", capabilities: {nvidia: cuda12-whisper}}
- {name: cuda12-whisper, uri: "quay.io/a/b:c", alias: whisper-engine}
- {name: vulkan-whisper, uri: "quay.io/a/b:d", alias: whisper-engine}
- {name: org__thing, uri: "quay.io/a/b:e"}
- {name: lost, capabilities: {default: nowhere}}
- {name: circle, capabilities: {default: circle}}
- {name: unfit, capabilities: {default: cuda12-whisper}}
"""


async def found(site: Site, name: str, capability: str = "default") -> str:
    site.server.answers["/g"] = Answer(ENGINES)
    catalogue = site.catalogue(capability=capability)
    found = await catalogue.find(name)
    return f"{found.meta.name} -> {found.entry.name}" if found.meta else found.entry.name


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [
        ("llama-cpp", "default", "llama-cpp -> cpu-llama-cpp"),
        ("llama-cpp", "nvidia", "llama-cpp -> cuda12-llama-cpp"),
        ("llama-cpp", "amd", "llama-cpp -> cpu-llama-cpp"),
        ("LLAMA-cpp", "default", "llama-cpp -> cpu-llama-cpp"),
        (" g@Llama-CPP ", "default", "llama-cpp -> cpu-llama-cpp"),
        ("G@cpu-llama-cpp", "default", "cpu-llama-cpp"),
        ("cuda12-llama-cpp", "nvidia-cuda-13", "cuda12-llama-cpp"),
        ("cuda12-llama-cpp", "disable", "cuda12-llama-cpp"),
        ("vulkan-whisper", "default", "vulkan-whisper"),
        ("org/thing", "default", "org__thing"),
        ("g@org/Thing", "default", "org__thing"),
    ],
)
async def test_what_a_name_means(site: Site, name: str, capability: str, expected: str) -> None:
    assert await found(site, name, capability) == expected


@pytest.mark.parametrize(
    ("name", "capability", "why"),
    [
        ("lama-cpp", "default", "did you mean 'llama-cpp'?"),
        ("zzz", "default", "gallery list"),
        ("cuda12-llama-cpp", "default", "it is a build for nvidia, and this machine is 'default'; 'llama-cpp' means"),
        ("cuda12-whisper", "amd", "it is a build for nvidia, and this machine is 'amd'"),
        ("whisper", "default", "it has builds for nvidia, and this machine is 'default'"),
        ("llama-cpp", "metal", "its build for 'metal' is 'metal-llama-cpp', which is missing"),
        ("lost", "default", "its build for 'default' is 'nowhere', which is missing"),
        ("circle", "default", "its build for 'default' is 'circle', which is missing"),
        ("unfit", "default", "its build for 'default' is 'cuda12-whisper'; it is a build for nvidia"),
        ("whisper-engine", "default", "it is an alias of vulkan-whisper; name one of them"),
        ("whisper-engine", "nvidia", "it is an alias of cuda12-whisper, vulkan-whisper; name one of them"),
        ("other@llama-cpp", "default", "there is no gallery 'other'; configured are g"),
        ("../llama-cpp", "default", "no gallery has a backend '../llama-cpp'"),
        ("", "default", "no gallery has"),
        ("@", "default", "there is no gallery ''"),
    ],
)
async def test_why_there_is_no_such_backend(site: Site, name: str, capability: str, why: str) -> None:
    with pytest.raises(UnknownEntry) as caught:
        await found(site, name, capability)
    assert why in str(caught.value)


async def test_of_several_galleries_the_first_that_fits_is_meant(site: Site) -> None:
    site.server.answers = {
        "/a": Answer(b"- {name: x, uri: a-cuda}\n- {name: m, capabilities: {default: build}}\n- {name: o, uri: a}"),
        "/b": Answer(b"- {name: x, uri: b}\n- {name: build, uri: b}\n- {name: o, uri: b}"),
    }
    catalogue = site.catalogue(site.gallery("a"), site.gallery("b"))
    assert (await catalogue.find("o")).entry.full_name == "a@o"
    assert (await catalogue.find("b@o")).entry.full_name == "b@o"
    assert (await catalogue.find("x")).entry.full_name == "b@x"  # a's is for other machines
    assert (await catalogue.find("m")).entry.full_name == "b@build"
    assert [entry.full_name for entry in await catalogue.called("X")] == ["a@x", "b@x"]
    assert await catalogue.called("y") == []


async def test_a_meta_prefers_the_build_of_its_own_gallery(site: Site) -> None:
    site.server.answers = {
        "/a": Answer(b"- {name: build, uri: a}"),
        "/b": Answer(b"- {name: m, capabilities: {default: build}}\n- {name: build, uri: b}"),
    }
    catalogue = site.catalogue(site.gallery("a"), site.gallery("b"))
    assert (await catalogue.find("m")).entry.full_name == "b@build"


async def test_an_unknown_name_is_looked_for_once_more_in_what_is_new(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    catalogue = site.catalogue()
    await catalogue.entries()
    site.server.answers["/g"] = index("one", "two")
    site.clock.at += 61
    site.server.asked.clear()
    assert (await catalogue.find("one")).entry.name == "one"
    assert site.server.paths == []
    assert (await catalogue.find("two")).entry.name == "two"
    assert site.server.paths == ["/g"]
    for _ in range(2):
        with pytest.raises(UnknownEntry):
            await catalogue.find("three")
    assert site.server.paths == []  # it was asked a moment ago


async def test_another_look_is_taken_soon_after_a_failure_that_is_over(site: Site) -> None:
    site.server.answers["/g"] = index("one")
    catalogue = site.catalogue()
    await catalogue.entries()
    site.server.answers["/g"] = DOWN
    await catalogue.entries(refresh=True)
    site.server.answers["/g"] = index("one")
    await catalogue.entries(refresh=True)
    site.clock.at += MAX_AGE_OF_A_MISS + 1
    site.server.answers["/g"] = index("one", "two")
    assert (await catalogue.find("two")).entry.name == "two"


async def test_another_look_does_not_take_long(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_catalogue, "SECOND_LOOK", 0.1)
    site.server.answers["/g"] = index("one")
    catalogue = site.catalogue()
    await catalogue.entries()
    site.server.answers["/g"] = Answer(hangs=True)
    site.clock.at += MAX_AGE_OF_A_MISS + 1
    with trio.fail_after(5), pytest.raises(UnknownEntry):
        await catalogue.find("two")
    assert catalogue.problems == ()


async def test_without_galleries_everything_is_unknown(site: Site) -> None:
    catalogue = Catalogue([], capability="default", cache_dir=None)
    assert await catalogue.entries() == ()
    with pytest.raises(UnknownEntry, match="no gallery is configured"):
        await catalogue.find("x")


async def test_a_second_gallery_of_one_name_is_left_out(site: Site) -> None:
    site.server.answers = {"/a": index("one"), "/b": index("two")}
    catalogue = site.catalogue(site.gallery("g", "/a"), site.gallery("G", "/b"))
    assert names(await catalogue.entries()) == ["one"]
    assert catalogue.problems == ("a second gallery called 'G' is left out: give it another name",)
    assert [gallery.name for gallery in catalogue.galleries] == ["g"]


_G = Gallery(name="g", url="https://example.com/")
_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,5}(__[a-z]{1,3})?", fullmatch=True)


@given(st.sets(_NAMES, min_size=1, max_size=5), st.data())
def test_every_entry_is_found_however_its_name_is_written(given_names: set[str], data: st.DataObject) -> None:
    unique = list({name.lower(): name for name in sorted(given_names)}.values())
    entries = [IndexEntry(gallery=_G, name=name, uri="x") for name in unique]
    shelves = Shelves(galleries=("g",), entries={"g": entries}, capability="disable")
    name = data.draw(st.sampled_from(unique))
    written = data.draw(st.sampled_from([name, name.upper(), name.lower(), name.replace("__", "/")]))
    prefix = data.draw(st.sampled_from(["", "g@", "G@"]))
    assert shelves.find(prefix + written).entry.name == name


# ---- search


async def test_what_is_found_comes_in_a_useful_order(site: Site) -> None:
    site.server.answers["/g"] = Answer(ENGINES)
    catalogue = site.catalogue()
    assert names(await catalogue.search("Llama-CPP")) == [
        "llama-cpp",
        "cpu-llama-cpp",
        "cuda12-llama-cpp",
        "llama-cpp-development",
        "cpu-llama-cpp-development",
    ]
    assert names(await catalogue.search("llama-cpp-development"))[0] == "llama-cpp-development"
    assert names(await catalogue.search("llama"))[:2] == ["llama-cpp", "llama-cpp-development"]
    assert names(await catalogue.search("llama"))[2:4] == ["whisper", "cpu-llama-cpp"]
    assert len(await catalogue.search("")) == 12
    assert len(await catalogue.search("g@")) == 12
    assert names(await catalogue.search("g@cuda12-whisper")) == ["cuda12-whisper"]
    assert await catalogue.search("h@cuda12-whisper") == ()
    assert names(await catalogue.search("talks hears")) == ["whisper"]
    assert await catalogue.search("talks deaf") == ()


async def test_search_by_tag_and_capability(site: Site) -> None:
    site.server.answers["/g"] = Answer(ENGINES)
    catalogue = site.catalogue()
    assert names(await catalogue.search(tag="stt")) == ["whisper"]
    assert await catalogue.search(tag="ST") == ()
    assert len(await catalogue.search(tag="llm")) == 5
    assert names(await catalogue.search("whisper", capability="default")) == ["vulkan-whisper"]
    assert names(await catalogue.search("whisper", capability="nvidia")) == [
        "whisper",
        "cuda12-whisper",
        "vulkan-whisper",
    ]


# ---- cost


def test_what_is_heavy_is_loaded_only_on_use() -> None:
    code = "import sys, trio_sup.gallery._catalogue; print({'httpx2', 'yaml', 'zstandard', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"


def test_builds_of_the_official_index_are_found_quickly() -> None:
    entries = parse_index(official_index(), _G).entries
    shelves = Shelves(galleries=("g",), entries={"g": entries}, capability="nvidia-cuda-12")
    started = time.perf_counter()
    assert shelves.find("engine-139").entry.name == "cuda12-engine-139"
    with pytest.raises(UnknownEntry):
        shelves.find("cuda12-engin-13")
    assert time.perf_counter() - started < 1
