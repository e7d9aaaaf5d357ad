"""`trio-sup gallery`, `install`, `upgrade`, `delete` and `backends`, as real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.gallery.http_server import HttpServer, Page, http_server
from tests.gallery.releases import write_release
from tests.runner.galleries import Place, archive, columns, lines
from tests.runner.running import TRIO_SUP, running
from trio_sup.gallery._store import Store

pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")

CHAT = {
    "name": "chat",
    "alias": "chatter",
    "description": "Answers.\n\nAt length.",
    "tags": ["text"],
    "capabilities": {"default": "cpu-chat", "nvidia-cuda-12": "cuda12-chat"},
}
CUDA = {"name": "cuda12-chat", "uri": "https://gallery.example/cuda12-chat.tar"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With a meta, the build that it means here, one that does not fit, and another backend."""
    place = Place.make(tmp_path)
    place.offer(
        CHAT,
        place.entry("cpu-chat", "1", alias="chatter"),
        CUDA,
        place.entry("other", "5", description="Something else."),
    )
    return place


@contextmanager
def held(directory: Path) -> Iterator[str]:
    """Hold a release as a running backend does; gives what is said of the holder."""
    with Store(directory.parent).hold(directory):
        (holder,) = Store(directory.parent).holders(directory)
        yield str(holder)


# ---- what galleries have


def test_the_list_has_what_fits_with_its_build_and_what_is_installed(place: Place) -> None:
    assert place.call("install", "chat").returncode == 0
    done = place.call("gallery", "list")
    assert done.returncode == 0
    assert columns(done.stdout) == [
        {"NAME": "chat", "BUILD": "cpu-chat", "VERSION": "1", "INSTALLED": "1", "DESCRIPTION": "Answers."},
        {"NAME": "other", "BUILD": "-", "VERSION": "5", "INSTALLED": "-", "DESCRIPTION": "Something else."},
    ]
    assert done.stderr == (
        "trio-sup: 2 of the 4 backends of the galleries, for this machine (default); "
        "--all lists those for others, and all builds\n"
    )


def test_all_of_them_are_listed_when_asked_for(place: Place) -> None:
    rows = {row["NAME"]: row["BUILD"] for row in columns(place.call("gallery", "list", "--all").stdout)}
    assert rows == {"chat": "cpu-chat", "cpu-chat": "-", "other": "-", "cuda12-chat": "for other machines"}


def test_the_list_as_a_document(place: Place) -> None:
    document = json.loads(place.call("gallery", "list", "--json").stdout)
    assert document["capability"] == "default"
    assert document["problems"] == []
    assert [backend["name"] for backend in document["backends"]] == ["chat", "cpu-chat", "other"]
    chat, cpu_chat, _ = document["backends"]
    assert (chat["meta"], chat["build"], chat["version"], chat["installed"]) == (True, "cpu-chat", "1", False)
    assert chat["capabilities"] == CHAT["capabilities"]
    assert cpu_chat["uri"].endswith("cpu-chat-1.tar.gz")


def test_words_and_tags_are_searched_for(place: Place) -> None:
    assert [row["NAME"] for row in columns(place.call("gallery", "search", "ELSE", "some").stdout)] == ["other"]
    assert [row["NAME"] for row in columns(place.call("gallery", "search", "cpu-chat").stdout)] == ["cpu-chat"]
    assert [row["NAME"] for row in columns(place.call("gallery", "list", "--tag", "text").stdout)] == ["chat"]
    nothing = place.call("gallery", "search", "nonsense")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr.startswith("trio-sup: 0 of the 4 backends")


def test_one_backend_is_shown_with_what_it_comes_to(place: Place) -> None:
    shown = place.call("gallery", "show", "Chat").stdout
    assert shown.startswith("ours@chat\n  Answers.\n  At length.\n  this machine    cpu-chat, its build for default\n")
    assert "  installed       no; `trio-sup install chat` does it\n" in shown
    assert "  builds          cpu-chat (default)\n                  cuda12-chat (nvidia-cuda-12)\n" in shown
    (document,) = json.loads(place.call("gallery", "show", "ours@chat", "--json").stdout)["backends"]
    assert document["installs"]["name"] == "cpu-chat"
    assert document["why_not"] is None


def test_one_that_does_not_fit_is_shown_with_the_reason(place: Place) -> None:
    (document,) = json.loads(place.call("gallery", "show", "cuda12-chat", "--json").stdout)["backends"]
    assert document["installs"] is None
    assert "it is a build for nvidia, and this machine is 'default'; 'chat' means the build that fits" in str(document)


async def test_what_a_terminal_cannot_show_is_escaped(place: Place) -> None:
    place.offer({"name": "one", "uri": "test://one", "description": "\u00fcbersetzt \u2014 \u65e5"})
    environment = {**place.environment, "PYTHONIOENCODING": "latin-1"}
    with trio.fail_after(30):
        listed = await trio.run_process(
            [*TRIO_SUP, "gallery", "list"], cwd=place.folder, env=environment, capture_stdout=True, capture_stderr=True
        )
    assert listed.stdout.decode("latin-1").splitlines()[1].endswith("\u00fcbersetzt \\u2014 \\u65e5")


def test_a_name_that_there_is_not_is_told_with_what_was_meant(place: Place) -> None:
    for command in (["gallery", "show", "chta"], ["install", "chta"]):
        done = place.call(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no gallery has a backend 'chta': did you mean 'chat'?\n" in done.stderr


async def test_what_cannot_be_read_hides_only_itself_and_copies_are_used_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    with trio.fail_after(60):
        async with http_server() as server:
            place = Place.make(tmp_path, f"{server.url}/a", f"{server.url}/b")
            failed = await place.process("gallery", "list")
            assert failed.returncode == 1
            for path in ("/a", "/b"):
                assert f"{server.url}{path}: the server answered 404" in failed.stderr.decode()
            assert len(failed.stderr.splitlines()) == 1
            server.pages["/a"] = Page(body=json.dumps([CUDA]).encode())
            # One that failed is asked again when all have failed.
            listed = await place.process("gallery", "list", "--all")
            assert listed.returncode == 0
            assert [row["NAME"] for row in columns(listed.stdout.decode())] == ["cuda12-chat"]
            assert b"trio-sup: warning: gallery 'other1': " in listed.stderr
            server.pages["/a"] = Page(body=json.dumps([{**CUDA, "name": "newer"}]).encode())
            assert (await place.process("gallery", "list", "--all")).stdout == listed.stdout
            newer = await place.process("gallery", "list", "--all", "--refresh")
            assert [row["NAME"] for row in columns(newer.stdout.decode())] == ["newer"]
            del server.pages["/a"]
            stale = await place.process("gallery", "list", "--all", "--refresh")
            assert stale.returncode == 0
            assert stale.stdout == newer.stdout
            assert b"trio-sup: warning: gallery 'ours': " in stale.stderr


# ---- installing


def test_a_backend_is_installed_by_its_name_once(place: Place) -> None:
    first = place.call("install", "chat")
    assert (first.returncode, first.stdout) == (0, f"chat 1 (cpu-chat) is installed: {place.backends / 'cpu-chat'}\n")
    assert place.version_of("cpu-chat") == "1"
    assert place.leftovers() == []
    assert "trio-sup: chat: resolving\n" in first.stderr
    assert "trio-sup: chat: unpacking" in first.stderr
    again = place.call("install", "chat")
    assert (again.returncode, again.stdout, again.stderr) == (0, "chat 1 (cpu-chat) is installed already\n", "")
    forced = place.call("install", "chat", "--force")
    assert forced.stdout.startswith("chat 1 (cpu-chat) is installed, in place of cpu-chat 1: ")
    assert place.leftovers() == []


def test_programs_are_told_of_progress_and_result_line_by_line(place: Place) -> None:
    *progress, result = lines(place.call("install", "chat", "--json").stdout)
    assert {line["type"] for line in progress} == {"progress"}
    assert {"resolving", "unpacking"} <= {line["phase"] for line in progress}
    assert progress[0].keys() == {"type", "backend", "phase", "done_bytes", "total_bytes", "rate", "detail"}
    assert (result["type"], result["changed"], result["replaced"]) == ("installed", True, None)
    assert (result["release"]["name"], result["release"]["concrete"]) == ("chat", "cpu-chat")
    assert result["release"]["directory"] == str(place.backends / "cpu-chat")
    (again,) = lines(place.call("install", "chat", "--json").stdout)
    assert (again["type"], again["changed"]) == ("installed", False)


def test_a_file_and_a_directory_are_installed_under_the_names_that_are_given(place: Place) -> None:
    path = place.archived("mine", "7")
    done = place.call("install", f"./{path.name}", "--name", "mine", "--alias", "me")
    assert (done.returncode, place.version_of("mine")) == (0, "7"), done.stderr
    (place.folder / "folder").mkdir()
    (place.folder / "folder/version").write_text("8")
    (place.folder / "folder/run.sh").write_text("#!/bin/sh\n")
    done = place.call("install", "./folder", "--backends-dir", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert (place.folder / "elsewhere/folder/version").read_text() == "8"
    assert [row["NAME"] for row in columns(place.call("backends").stdout)] == ["me", "mine"]


def test_what_is_not_what_was_meant_is_refused_and_changes_nothing(place: Place) -> None:
    path = place.archived("mine", "7")
    assert place.call("install", str(path), "--name", "mine").returncode == 0
    place.archived("mine", "7", size=4096)
    wrong = place.call("install", str(path), "--name", "mine", "--sha256", "0" * 64, "--json")
    assert wrong.returncode == 1
    *_, error = lines(wrong.stdout)
    assert (error["type"], error["error"], error["backend"]) == ("error", "DigestMismatch", str(path))
    assert "its digest is" in error["message"]
    assert wrong.stderr == f"trio-sup: {error['message']}\n"
    unproven = place.call("install", str(path), "--name", "mine", "--require-integrity")
    assert unproven.returncode == 1
    assert "trio-sup: strict integrity: " in unproven.stderr
    assert (place.version_of("mine"), place.leftovers()) == ("7", [])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    proven = place.call("install", str(path), "--name", "mine", "--require-integrity", "--sha256", digest)
    assert proven.returncode == 0, proven.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["install"], 2, "requires an argument"),
        (["install", "chat", "--name", "x"], 2, "name: only for an address"),
        (["install", "chat", "--sha256", "0" * 64], 2, "sha256: only for an address"),
        (["install", "./trio-sup.toml", "--name", "../x"], 2, "a backend's name starts with"),
        (["install", "ftp://gallery.example/x", "--name", "x"], 1, "nothing here fetches 'ftp' addresses"),
        (["install", "chat", "-c", "missing.toml"], 2, "there is no such file"),
        (["install", "chat", "-p", "no-such-plugin"], 2, "no-such-plugin"),
        (["install", "chat", "--backends-dir", "trio-sup.toml"], 1, "trio-sup.toml"),
        (["upgrade"], 2, "Say what to upgrade: names of installed backends, or --all"),
        (["upgrade", "chat", "--all"], 2, "Give names, or --all; not both."),
        (["upgrade", "missing"], 1, "'missing' is not installed: nothing is installed"),
        (["delete"], 2, "requires an argument"),
        (["delete", "missing"], 1, "'missing' is not installed: nothing is installed"),
        (["gallery", "search"], 2, "requires an argument"),
        (["gallery", "nonsense"], 2, "nonsense"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_message_and_changes_nothing(
    place: Place, arguments: list[str], status: int, text: str
) -> None:
    done = place.call(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    messages = [line for line in done.stderr.splitlines() if not line.endswith(": resolving")]
    assert messages[0].startswith("trio-sup: ")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in place.backends.iterdir() if path.name not in (".trio-sup", "index.yaml")]


# ---- broken off


def big(server: HttpServer, place: Place) -> None:
    """Offer a release that stalls after two thirds of its download, once."""
    body = archive("9", size=2 << 20)
    server.pages["/big.tar.gz"] = Page(body=body, stall_after=[len(body) * 2 // 3])
    place.offer({"name": "big", "version": "9", "uri": f"{server.url}/big.tar.gz"})


async def downloaded(place: Place) -> int:
    """Wait until something of a download is on disk, and tell how much."""
    while not (size := sum(path.stat().st_size for path in place.backends.glob(".trio-sup/downloads/*/*.partial"))):
        await trio.sleep(0.01)
    return size


async def test_ctrl_c_leaves_only_what_was_downloaded_and_the_next_try_goes_on_from_there(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            big(server, place)
            async with running("install", "big", "--json", env=place.environment, cwd=tmp_path) as run:
                await downloaded(place)
                run.process.send_signal(signal.SIGINT)
                assert await run.process.wait() == 130
                await run.says("stdout", '"type": "error"')
            *_, last = lines(run.stdout)
            told = "big was not installed: interrupted; what was downloaded is kept for the next try"
            assert (last["type"], last["error"], last["message"]) == ("error", "Cancelled", told)
            assert run.stderr.decode() == f"trio-sup: {told}\n"
            assert not (place.backends / "big").exists()
            assert [left.partition("/")[0] for left in place.leftovers()] == [".trio-sup"]
            kept = await downloaded(place)
            done = await place.process("install", "big")
            assert done.returncode == 0, done.stderr
            assert server.ranges()[-1] == f"bytes={kept}-"
    assert (place.version_of("big"), place.leftovers()) == ("9", [])


async def test_a_polite_end_is_told_by_its_status(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            big(server, place)
            async with running("install", "big", env=place.environment, cwd=tmp_path) as run:
                await server.stalled.wait()
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 143
    assert not (place.backends / "big").exists()


async def test_what_a_killed_one_leaves_is_put_in_order_by_the_next(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            big(server, place)
            async with running("install", "big", env=place.environment, cwd=tmp_path) as run:
                await server.stalled.wait()
                run.process.kill()
                await run.process.wait()
            assert list((place.backends / ".trio-sup/work").iterdir())
            done = await place.process("install", "big")
            assert done.returncode == 0, done.stderr
    assert (place.version_of("big"), place.leftovers()) == ("9", [])


async def test_the_second_of_two_waits_and_says_for_whom(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            big(server, place)
            async with running("install", "big", env=place.environment, cwd=tmp_path) as first:
                await server.stalled.wait()
                async with running("install", "big", "--json", env=place.environment, cwd=tmp_path) as second:
                    line = json.loads(await second.says("stdout", f"(pid {first.process.pid})"))
                    assert line["phase"] == "waiting"
                    first.process.send_signal(signal.SIGINT)
                    assert await second.process.wait() == 0, second.stderr
    assert place.version_of("big") == "9"


# ---- upgrading


def test_what_is_newer_is_told_and_only_then_installed(place: Place) -> None:
    place.call("install", "chat")
    place.call("install", "other")
    assert place.call("upgrade", "--all", "--check").stdout == "nothing newer is known\n"
    assert place.call("upgrade", "chat").stdout == "chat 1 (cpu-chat) is up to date\n"
    place.offer(CHAT, place.entry("cpu-chat", "2"), place.entry("other", "5"))
    checked = place.call("upgrade", "chat", "other", "--check")
    assert checked.returncode == 0
    assert columns(checked.stdout) == [
        {"NAME": "cpu-chat", "INSTALLED": "1", "AVAILABLE": "2", "WHY": "version 2 instead of 1"}
    ]
    document = json.loads(place.call("upgrade", "--all", "--check", "--json").stdout)
    assert document["upgrades"] == [
        {"name": "cpu-chat", "installed": "1", "available": "2", "why": "version 2 instead of 1"}
    ]
    assert place.version_of("cpu-chat") == "1"
    done = place.call("upgrade", "--all", "--json")
    assert done.returncode == 0
    (result,) = [line for line in lines(done.stdout) if line["type"] != "progress"]
    assert (result["release"]["version"], result["replaced"]["version"]) == ("2", "1")
    assert (place.version_of("cpu-chat"), place.leftovers()) == ("2", [])


def test_one_that_fails_keeps_no_other_from_it(place: Place) -> None:
    place.call("install", "chat")
    place.call("install", "other")
    broken = {**place.entry("cpu-chat", "2"), "sha256": "0" * 64}
    place.offer(CHAT, broken, place.entry("other", "6"))
    done = place.call("upgrade", "--all")
    assert done.returncode == 1
    assert "its digest is" in done.stderr
    assert (place.version_of("cpu-chat"), place.version_of("other")) == ("1", "6")


def test_one_that_cannot_be_asked_about_keeps_no_other_from_it(place: Place) -> None:
    place.call("install", "chat")
    mine = place.archived("mine", "7")
    place.call("install", str(mine), "--name", "mine")
    mine.unlink()
    place.offer(CHAT, place.entry("cpu-chat", "2"))
    checked = place.call("upgrade", "mine", "chat", "--check", "--json")
    assert checked.returncode == 1
    document = json.loads(checked.stdout)
    assert [upgrade["name"] for upgrade in document["upgrades"]] == ["cpu-chat"]
    (problem,) = document["problems"]
    assert problem.startswith("mine: ")
    done = place.call("upgrade", "mine", "chat", "--json")
    assert done.returncode == 1
    assert [line["type"] for line in lines(done.stdout) if line["type"] != "progress"] == ["installed", "error"]
    assert (place.version_of("cpu-chat"), place.version_of("mine")) == ("2", "7")
    everything = place.call("upgrade", "--all")
    assert everything.returncode == 0
    assert "trio-sup: warning: whether there is a newer mine cannot be told: " in everything.stderr
    checked = place.call("upgrade", "--all", "--check", "--json")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert json.loads(checked.stdout)["problems"] == [problem]


def test_what_nobody_can_tell_is_not_said_to_be_up_to_date(place: Place) -> None:
    folder = write_release(place.folder / "mine")
    place.call("install", str(folder))
    done = place.call("upgrade", "mine")
    told = f"{folder} does not tell whether there is a newer one; install it from there anew"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"trio-sup: {told}\n")
    (line,) = lines(place.call("upgrade", "mine", "--json").stdout)
    assert (line["type"], line["backend"], line["message"]) == ("error", "mine", told)
    everything = place.call("upgrade", "--all")
    assert (everything.returncode, everything.stdout, everything.stderr) == (0, "nothing newer is known\n", "")


def test_programs_are_told_what_keeps_all_from_being_upgraded(place: Place) -> None:
    place.call("install", "chat")
    done = place.call("upgrade", "chat", "missing", "--json")
    (line,) = lines(done.stdout)
    assert (done.returncode, line["type"], line["backend"], line["error"]) == (1, "error", None, "UnknownRelease")
    assert done.stderr == f"trio-sup: {line['message']}\n"


def test_who_runs_on_from_the_old_release_is_named(place: Place) -> None:
    place.call("install", "chat")
    place.offer(CHAT, place.entry("cpu-chat", "2"))
    with held(place.backends / "cpu-chat") as holder:
        done = place.call("upgrade", "chat")
    assert done.returncode == 0
    assert f"keeps running from the old release in {holder} until it is restarted" in done.stderr
    assert place.version_of("cpu-chat") == "2"


# ---- deleting


def test_a_release_is_deleted_by_any_of_its_names(place: Place) -> None:
    place.call("install", "chat")
    place.call("install", "other")
    done = place.call("delete", "chat", "cpu-chat")
    assert (done.returncode, done.stdout, done.stderr) == (0, "chat 1 (cpu-chat) is deleted\n", "")
    assert columns(place.call("backends").stdout)[0]["NAME"] == "other"
    document = json.loads(place.call("delete", "other", "--json").stdout)
    assert [release["name"] for release in document["deleted"]] == ["other"]
    assert [path.name for path in place.backends.iterdir() if path.is_dir()] == [".trio-sup"]


def test_one_that_somebody_runs_or_nobody_knows_keeps_all_from_being_deleted(place: Place) -> None:
    place.call("install", "chat")
    place.call("install", "other")
    with held(place.backends / "cpu-chat") as holder:
        for names in (["other", "chat"], ["other", "cpu-chat"]):
            done = place.call("delete", *names)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"trio-sup: {names[1]} is in use by {holder}. Stop it there first.\n"
    assert place.call("delete", "other", "missing").returncode == 1
    assert (place.version_of("cpu-chat"), place.version_of("other")) == ("1", "5")
    assert place.call("delete", "other", "chat").returncode == 0


# ---- what is installed


def test_installed_ones_are_listed_with_size_origin_users_and_problems(place: Place) -> None:
    place.call("install", "chat")
    (place.backends / "cpu-chat/large").write_bytes(os.urandom(1 << 20))
    broken = place.backends / "broken"
    broken.mkdir()
    (broken / "run.sh").write_text("")
    (broken / "metadata.json").write_text("{")
    with held(place.backends / "cpu-chat") as holder:
        done = place.call("backends")
        rows = {row["NAME"]: row for row in columns(done.stdout)}
        documents = {each["name"]: each for each in json.loads(place.call("backends", "--json").stdout)["backends"]}
    assert list(rows) == ["broken", "chat", "chatter", "cpu-chat"]
    assert rows["chat"]["KIND"] == "meta of cpu-chat"
    assert rows["chatter"]["KIND"] == "alias of cpu-chat"
    assert (rows["cpu-chat"]["VERSION"], rows["cpu-chat"]["IN USE BY"]) == ("1", holder)
    assert rows["cpu-chat"]["FROM"].endswith("cpu-chat-1.tar.gz")
    assert documents["cpu-chat"]["size_bytes"] >= 1 << 20
    assert documents["cpu-chat"]["in_use_by"] == [holder]
    assert documents["broken"]["problem"]
    assert f"trio-sup: warning: broken: {documents['broken']['problem']}\n" in done.stderr


def test_the_home_directory_may_be_meant_by_a_tilde_that_the_shell_left(place: Place) -> None:
    home = str(Path.home() / "no such directory")
    assert place.call("backends", "--backends-dir=~/no such directory").stdout == f"nothing is installed in {home}\n"


def test_nothing_installed_is_said(place: Place) -> None:
    done = place.call("backends")
    assert (done.returncode, done.stdout) == (0, f"nothing is installed in {place.backends}\n")
    assert json.loads(place.call("backends", "--json").stdout)["backends"] == []
