"""Downloads from a real server that does what servers and networks do."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import random
import threading
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import descriptors
from tests.gallery.http_server import HttpServer, Page, http_server
from trio_sup._gallery_errors import ArchiveTooLarge, DigestMismatch, DownloadFailed
from trio_sup.gallery import Downloaded, _download, _download_try, download, http_client
from trio_sup.testing import cancel_at_every_step

BODY = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.01)


async def fetch(server: HttpServer, to: Path, path: str = "/file", **options: Any) -> Downloaded:
    with trio.fail_after(30):
        async with http_client() as client:
            return await download(client, server.url + path, to, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        done = await fetch(
            server, tmp_path / "f", sha256=SHA256, size=len(BODY), report=lambda *count: told.append(count)
        )
    assert (tmp_path / "f").read_bytes() == BODY
    assert (done.path, done.sha256, done.size, done.url) == (tmp_path / "f", SHA256, len(BODY), f"{server.url}/file")
    assert told[0] == (0, len(BODY))
    assert told[-1] == (len(BODY), len(BODY))
    assert told == sorted(told)
    assert left(tmp_path) == ["f"]


async def test_a_file_of_unknown_length_is_taken_until_its_end(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, length=False)
        assert (await fetch(server, tmp_path / "f")).sha256 == SHA256


async def test_a_connection_that_breaks_is_gone_on_from(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[1_200_000, 700_000])
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.ranges() == [None, "bytes=1200000-", "bytes=1900000-"]
        assert server.sent == len(BODY)


async def test_tries_are_counted_anew_when_bytes_arrive(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[400_000] * 5)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256, retries=1)).size == len(BODY)


async def test_it_gives_up_and_keeps_what_has_arrived(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[1_000_000, 0, 0, 0])
        with pytest.raises(DownloadFailed, match="3 times in a row") as caught:
            await fetch(server, tmp_path / "f", retries=2)
        assert caught.value.temporary
        assert left(tmp_path) == ["f.partial", "f.partial.json"]
        server.requests.clear()
        server.pages["/file"] = Page(body=BODY)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.ranges() == ["bytes=1000000-"]
    assert left(tmp_path) == ["f"]


async def test_one_that_was_cancelled_goes_on_where_it_was(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, stall_after=[2_000_000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: fetch(server, tmp_path / "f"))
            await server.stalled.wait()
            while not (tmp_path / "f.partial").exists() or (tmp_path / "f.partial").stat().st_size < 1_000_000:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        kept = (tmp_path / "f.partial").stat().st_size
        assert 1_000_000 <= kept <= 2_000_000
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.ranges()[-1] == f"bytes={kept}-"


async def test_a_stall_ends_the_try(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, stall_after=[500_000])
        assert (await fetch(server, tmp_path / "f", sha256=SHA256, stall_timeout=0.2)).size == len(BODY)
        server.pages["/file"] = Page(body=BODY, stall_after=[0] * 9)
        with pytest.raises(DownloadFailed, match=r"nothing arrived for 0\.2 s"):
            await fetch(server, tmp_path / "g", stall_timeout=0.2, retries=1)


async def test_another_version_of_the_file_is_begun_anew(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=b"old" * 500_000, cut_after=[600_000])
        with pytest.raises(DownloadFailed):
            await fetch(server, tmp_path / "f", retries=0)
        server.pages["/file"] = Page(body=BODY)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)


@pytest.mark.parametrize("how", [{"ranges": False}, {"etag": ""}, {"etag": 'W/"weak"'}], ids=str)
async def test_without_ranges_or_a_validator_it_begins_anew(tmp_path: Path, how: Any) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[1_500_000], **how)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.sent == 1_500_000 + len(BODY)


async def test_an_address_that_always_means_the_same_needs_no_validator(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, etag="", cut_after=[1_500_000])
        assert (await fetch(server, tmp_path / "f", sha256=SHA256, immutable=True)).size == len(BODY)
        assert server.sent == len(BODY)


async def test_a_partial_that_is_complete_is_finished(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        (tmp_path / "f.partial").write_bytes(BODY)
        (tmp_path / "f.partial.json").write_text(json.dumps({"validator": server.pages["/file"].validator()}))
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.sent == 0


@pytest.mark.parametrize("note", ["", "nonsense", "[]", '{"validator": 7}'])
async def test_a_partial_of_unknown_origin_is_not_gone_on_from(tmp_path: Path, note: str) -> None:
    (tmp_path / "f.partial").write_bytes(b"?" * 1000)
    if note:
        (tmp_path / "f.partial.json").write_text(note)
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)


async def test_another_file_than_the_one_that_was_meant_is_thrown_away(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        with pytest.raises(DigestMismatch) as caught:
            await fetch(server, tmp_path / "f", sha256="0" * 64)
        assert (caught.value.expected, caught.value.found) == (f"sha256:{'0' * 64}", f"sha256:{SHA256}")
    assert left(tmp_path) == []


@pytest.mark.parametrize("length", [True, False])
async def test_a_size_that_was_not_meant_is_refused(tmp_path: Path, length: bool) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, length=length)
        with pytest.raises(DownloadFailed) as caught:
            await fetch(server, tmp_path / "f", size=5)
        assert not caught.value.temporary
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("length", [True, False])
async def test_more_than_is_wanted_is_not_even_taken_in(tmp_path: Path, length: bool) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, length=length)
        with pytest.raises(ArchiveTooLarge, match="1000"):
            await fetch(server, tmp_path / "f", most=1000)
        gc.collect()  # what is not ended properly would be complained of now
    assert not (tmp_path / "f").exists()
    assert (tmp_path / "f.partial").stat().st_size < len(BODY)


@pytest.mark.parametrize("digest", [SHA256, SHA256.upper(), None])
async def test_one_that_is_there_is_taken_again_if_it_is_still_the_same(tmp_path: Path, digest: str | None) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        for _ in range(3):
            assert (await fetch(server, tmp_path / "f", sha256=digest, again=True)).sha256 == SHA256
        assert server.sent == len(BODY)
        # By its digest it is known without asking.
        assert len(server.requests) == (3 if digest is None else 1)
        server.pages["/file"] = Page(body=b"another" * 1000)
        if digest is None:
            assert (await fetch(server, tmp_path / "f", again=True)).size == 7000


async def test_what_was_damaged_here_is_fetched_anew(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[2_000_000])
        with pytest.raises(DownloadFailed):
            await fetch(server, tmp_path / "f", retries=0)
        with (tmp_path / "f.partial").open("r+b") as file:
            file.write(b"\0" * 1000)
        assert (await fetch(server, tmp_path / "f", sha256=SHA256)).size == len(BODY)
        assert server.ranges()[-2:] == ["bytes=2000000-", None]


async def test_no_secret_of_an_address_is_shown(tmp_path: Path) -> None:
    async with http_server() as server:
        url = server.url.replace("//", "//user:s3cret@")
        async with http_client() as client:
            for path in ("/none", "/none?token=s3cret", "/\0"):
                with pytest.raises(DownloadFailed) as caught:
                    await download(client, url + path, tmp_path / "f", retries=0)
                assert "s3cret" not in str(caught.value)
            with pytest.raises(DownloadFailed) as caught:
                await download(client, url, tmp_path / "f", headers={"X-Token": "s3cret\n"}, retries=0)
            assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("header", ["content-range", "content-length"])
async def test_a_number_without_end_is_no_number(tmp_path: Path, header: str) -> None:
    digits = "9" * 5000
    value = f"bytes 0-{digits}/{digits}" if header == "content-range" else digits

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            status = "206 Partial Content" if header == "content-range" else "200 OK"
            await stream.send_all(f"HTTP/1.1 {status}\r\n{header}: {value}\r\n\r\nbody".encode())

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(DownloadFailed):
            async with http_client() as client:
                await download(client, f"http://127.0.0.1:{port}/", tmp_path / "f", retries=1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(tmp_path: Path, status: int) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, statuses=[status, (status, "0")])
        assert (await fetch(server, tmp_path / "f")).size == len(BODY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_what_does_not_pass_is_not(tmp_path: Path, status: int) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(statuses=[status])
        with pytest.raises(DownloadFailed, match=f"the server said {status}") as caught:
            await fetch(server, tmp_path / "f")
        assert not caught.value.temporary
        assert len(server.requests) == 1


async def test_a_server_is_waited_for_as_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "MOST_PATIENCE", 0.3)
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, statuses=[(503, "86400")])
        before = trio.current_time()
        await fetch(server, tmp_path / "f")
        assert trio.current_time() - before >= 0.3


async def test_redirects_are_followed(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(redirect="/elsewhere")
        server.pages["/elsewhere"] = Page(body=BODY)
        server.pages["/round"] = Page(redirect="/round")
        assert (await fetch(server, tmp_path / "f")).url == f"{server.url}/elsewhere"
        with pytest.raises(DownloadFailed):
            await fetch(server, tmp_path / "g", "/round")


async def test_nobody_there_is_tried_again_and_said(tmp_path: Path) -> None:
    async with http_client() as client:
        with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1.*2 times in a row"):
            await download(client, "http://127.0.0.1:1/file", tmp_path / "f", retries=1)


async def test_a_server_without_encryption_is_said_to_be_none_that_has_it(tmp_path: Path) -> None:
    async with http_server() as server, http_client() as client:
        with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1: \[SSL"):
            await download(client, server.url.replace("http", "https"), tmp_path / "f", retries=0)


@pytest.mark.parametrize("url", ["gopher://127.0.0.1/file", "http://[nonsense/file", "http:///file"])
async def test_an_address_that_cannot_be_is_said(tmp_path: Path, url: str) -> None:
    async with http_client() as client:
        with pytest.raises(DownloadFailed):
            await download(client, url, tmp_path / "f", retries=0)


async def test_a_full_disk_is_said_and_what_arrived_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(file: int, data: Any) -> int:
        if os.fstat(file).st_size > 1_000_000 and os.readlink(f"/proc/self/fd/{file}").endswith(".partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        with pytest.raises(DownloadFailed, match="no space is left"):
            await fetch(server, tmp_path / "f")
    assert (tmp_path / "f.partial").stat().st_size > 1_000_000


async def test_a_link_in_the_place_of_the_partial_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "f.partial").symlink_to(tmp_path / "precious")
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY)
        with pytest.raises(OSError, match=r"f\.partial"):
            await fetch(server, tmp_path / "f")
    assert (tmp_path / "precious").read_text() == "mine"


async def test_what_several_tries_made_and_is_wrong_is_fetched_once_more_and_then_refused(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[1_000_000])
        with pytest.raises(DigestMismatch):
            await fetch(server, tmp_path / "f", sha256="0" * 64)
        assert server.ranges() == [None, "bytes=1000000-", None]
    assert left(tmp_path) == []


async def test_a_cache_that_does_not_heed_if_range_mixes_no_two_versions(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=b"old" * 1_000_000, cut_after=[600_000])
        with pytest.raises(DownloadFailed):
            await fetch(server, tmp_path / "f", retries=0)
        server.pages["/file"] = Page(body=BODY, heeds_if_range=False)
        await fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


async def test_another_range_than_the_one_asked_for_is_not_taken(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[600_000], shift=100)
        await fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


async def test_a_range_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, always_partial=True, cut_after=[1000] * 9)
        with pytest.raises(DownloadFailed, match="the server said 206"):
            await fetch(server, tmp_path / "f")


async def test_a_file_that_has_become_shorter_is_not_taken_for_complete(tmp_path: Path) -> None:
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, cut_after=[600_000], etag='"same"')
        with pytest.raises(DownloadFailed):
            await fetch(server, tmp_path / "f", retries=0)
        server.pages["/file"] = Page(body=BODY[:600_000], etag='"same"')
        with pytest.raises(DownloadFailed, match="has 600000 bytes"):
            await fetch(server, tmp_path / "f", size=len(BODY))
    assert not (tmp_path / "f").exists()


async def test_one_that_begins_anew_each_time_ends(tmp_path: Path) -> None:
    cuts = [400_000, 500_000, *[300_000, 500_000] * 50]
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, ranges=False, cut_after=cuts)
        with pytest.raises(DownloadFailed, match="in a row"):
            await fetch(server, tmp_path / "f", retries=4)
        assert len(server.requests) == 2 + 4


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download_try, "HEADER_TIMEOUT", 0.2)
    async with http_server() as server:
        server.pages["/file"] = Page(body=BODY, silent=[True])
        assert (await fetch(server, tmp_path / "f")).size == len(BODY)
        server.pages["/file"] = Page(body=BODY, silent=[True, True])
        with pytest.raises(DownloadFailed, match=r"did not answer within 0\.2 s, 2 times in a row"):
            await fetch(server, tmp_path / "g", retries=1)


async def test_proxies_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_server() as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        server.pages["http://somewhere.invalid/file"] = Page(body=BODY)
        with trio.fail_after(30):
            async with http_client() as client:
                await download(client, "http://somewhere.invalid/file", tmp_path / "f", sha256=SHA256)


async def test_a_disk_that_is_slow_holds_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, at_work, seen = os.write, threading.Event(), threading.Event()

    def slowly(file: int, data: Any) -> int:
        if os.readlink(f"/proc/self/fd/{file}").endswith(".partial") and not at_work.is_set():
            at_work.set()
            assert seen.wait(20), "Trio stood still while the disk was written to"
        return write(file, data)

    monkeypatch.setattr(os, "write", slowly)
    async with http_server() as server, trio.open_nursery() as nursery:
        server.pages["/file"] = Page(body=BODY)
        nursery.start_soon(lambda: fetch(server, tmp_path / "f"))
        with trio.fail_after(20):
            while not at_work.is_set():
                await trio.sleep(0.005)
        seen.set()


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    body = bytes(64 * 2**20)
    async with http_server() as server:
        server.pages["/file"] = Page(body=body)
        async with http_client() as client:
            tracemalloc.start()
            try:
                await download(client, f"{server.url}/file", tmp_path / "f")
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert peak < 12 * 2**20


async def test_cancelled_at_any_step_it_keeps_a_beginning_that_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download_try, "TELL_EVERY", 0.0)
    body = BODY[:3000]
    before = descriptors()
    async with http_server() as server:
        server.pages["/file"] = Page(body=body, piece_bytes=1000)
        to = tmp_path / "f"

        async def operation() -> None:
            to.unlink(missing_ok=True)
            async with http_client() as client:
                await download(client, f"{server.url}/file", to)

        async def check() -> None:
            partial = to.with_name("f.partial")
            if partial.exists():
                assert body.startswith(partial.read_bytes())
            else:
                assert not to.exists() or to.read_bytes() == body

        with trio.fail_after(60):
            assert await cancel_at_every_step(operation, check) > 20
    assert to.read_bytes() == body
    assert descriptors() == before
