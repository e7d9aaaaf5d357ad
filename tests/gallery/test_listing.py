"""What is installed, by all the names that mean it; a broken release hides nothing but itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from trio_sup._releases import RESERVED_SUFFIXES, Metadata, Release
from trio_sup.gallery._identity import meant_by
from trio_sup.gallery._listing import take_inventory
from trio_sup.gallery._metadata_file import MOST_BYTES, read_metadata, write_metadata


def release(root: Path, name: str, metadata: object = None, *, script: bool = True) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    if script:
        (directory / "run.sh").touch()
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        (directory / "metadata.json").write_text(text)
    return directory


def rows(*args: Path, prefer: tuple[str, ...] = ()) -> dict[str, Release]:
    found = take_inventory(*args, prefer=prefer).releases
    assert [each.name for each in found] == sorted(each.name for each in found)
    return {each.name: each for each in found}


@contextmanager
def nobody_in_particular(tmp_path: Path) -> Iterator[None]:
    """Work in *tmp_path* for the length of the block, and not as root, who may read everything."""
    user = os.geteuid()
    with chdir(tmp_path):
        if user == 0:
            os.chown(tmp_path, 65534, -1)
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)


def test_lists_what_has_a_run_script_under_the_name_of_its_directory(tmp_path: Path) -> None:
    release(tmp_path, "plain")
    release(tmp_path, "recorded", {"name": "other", "version": "2"})
    release(tmp_path, "junk", script=False)
    (tmp_path / "file").touch()
    found = rows(tmp_path)
    assert list(found) == ["plain", "recorded"]
    assert found["plain"] == Release(name="plain", concrete="plain", directory=tmp_path / "plain")
    assert found["recorded"].metadata == Metadata(name="other", version="2")
    assert found["recorded"].runnable


@pytest.mark.parametrize("name", [".hidden", ".trio-sup", *(f"one{suffix}" for suffix in RESERVED_SUFFIXES), "a\nb"])
def test_leaves_out_what_is_no_release(tmp_path: Path, name: str) -> None:
    release(tmp_path, name, {"alias": "one"})
    assert rows(tmp_path) == {}


def test_a_link_to_a_directory_is_no_release(tmp_path: Path) -> None:
    target = release(tmp_path, "elsewhere/one")
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "one").symlink_to(target)
    assert rows(tmp_path / "backends") == {}


def test_a_missing_directory_holds_nothing(tmp_path: Path) -> None:
    assert rows(tmp_path / "none", tmp_path / "no system") == {}


def test_a_directory_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with nobody_in_particular(tmp_path), pytest.raises(PermissionError, match="closed"):
        rows(Path("closed"))


def test_a_release_that_one_may_not_look_into_hides_only_itself(tmp_path: Path) -> None:
    release(tmp_path, "one")
    for name in ("closed", "lost+found", "one.install-backup"):
        release(tmp_path, name).chmod(0o000)
    with nobody_in_particular(tmp_path):
        found = rows(Path(), Path())
    assert {each.name: each.problem for each in found.values()} == {
        "one": None,
        "closed": "metadata.json cannot be read: Permission denied",
    }
    assert not found["closed"].runnable


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        rows(tmp_path / "file")


def test_what_came_with_the_machine_has_no_metadata_and_gives_way_to_what_was_installed(tmp_path: Path) -> None:
    release(tmp_path / "system", "one", {"alias": "nick"})
    release(tmp_path / "system", "two")
    release(tmp_path / "user", "two", {"version": "3"})
    found = rows(tmp_path / "user", tmp_path / "system")
    assert list(found) == ["one", "two"]
    assert (found["one"].system, found["one"].metadata) == (True, Metadata())
    assert (found["two"].system, found["two"].metadata.version) == (False, "3")


# ---- broken ones

BROKEN = {
    "not JSON": ("{", "is not JSON"),
    "not text": (b"\xff\xfe\xff".decode("latin-1"), "is not JSON"),
    "no table": ("[1, 2]", "holds no table"),
    "endlessly deep": ("[" * 100_000, "is not JSON"),
    "a wrong type": ('{"version": 3}', "version: expected text"),
    "an alias that leads out": ('{"alias": "../../etc"}', "alias: a backend's name"),
    "a meta that leads out": ('{"meta_backend_for": "/etc"}', "meta_backend_for: a backend's name"),
    "control characters": ('{"version": "\\u001b[31m"}', "version: it has characters"),
    "too large": (" " * (MOST_BYTES + 1), "larger than"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("script", [True, False])
def test_broken_metadata_hides_only_itself(tmp_path: Path, kind: str, script: bool) -> None:
    content, said = BROKEN[kind]
    release(tmp_path, "broken", content, script=script)
    release(tmp_path, "whole", {"version": "1"})
    found = rows(tmp_path)
    assert list(found) == ["broken", "whole"]
    assert said in str(found["broken"].problem)
    assert found["broken"].runnable is script
    assert found["whole"].problem is None


def test_metadata_that_is_no_file_is_a_problem_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(release(tmp_path, "pipe") / "metadata.json")
    (release(tmp_path, "link") / "metadata.json").symlink_to("/etc/hostname")
    (release(tmp_path, "directory") / "metadata.json").mkdir()
    assert all("cannot be read" in str(each.problem) for each in rows(tmp_path).values())


def test_good_fields_beside_a_bad_one_are_read_and_unknown_and_empty_ones_passed_over(tmp_path: Path) -> None:
    content: dict[str, object] = {"name": "one", "version": [], "alias": None, "uri": "", "digest": "sha256:00"}
    content["surprise"] = {"x": 1}
    recorded = read_metadata(release(tmp_path, "one", content))
    assert recorded.metadata == Metadata(name="one", digest="sha256:00")
    assert recorded.problem == "metadata.json: version: expected text"


def test_an_installed_release_without_a_run_script_is_listed_with_its_problem(tmp_path: Path) -> None:
    release(tmp_path, "one", {"name": "one", "alias": "nick"}, script=False)
    found = rows(tmp_path)
    assert list(found) == ["one"]
    assert "no run.sh" in str(found["one"].problem)
    assert not found["one"].runnable


def test_a_directory_that_may_not_be_called_so_says_so(tmp_path: Path) -> None:
    release(tmp_path, "with blanks")
    assert "must be called otherwise" in str(rows(tmp_path)["with blanks"].problem)


# ---- metas and aliases


def test_a_meta_is_listed_with_the_files_of_what_it_stands_for(tmp_path: Path) -> None:
    release(tmp_path, "cpu-engine", {"version": "1"})
    release(tmp_path, "engine", {"name": "engine", "meta_backend_for": "cpu-engine"}, script=False)
    meta = rows(tmp_path)["engine"]
    assert (meta.kind, meta.concrete, meta.directory) == ("meta", "cpu-engine", tmp_path / "cpu-engine")
    assert meta.runnable
    assert meta.metadata.meta_backend_for == "cpu-engine"


def test_a_meta_whose_release_is_gone_is_listed_and_not_runnable(tmp_path: Path) -> None:
    release(tmp_path, "engine", {"name": "engine", "meta_backend_for": "cpu-engine"}, script=False)
    (meta,) = rows(tmp_path).values()
    assert (meta.concrete, meta.directory, meta.runnable) == (None, None, False)
    assert "cpu-engine, which it stands for, is not installed" in str(meta.problem)


def test_a_meta_of_a_meta_stands_for_nothing(tmp_path: Path) -> None:
    release(tmp_path, "a", {"meta_backend_for": "b"}, script=False)
    release(tmp_path, "b", {"meta_backend_for": "a"}, script=False)
    assert all(each.concrete is None for each in rows(tmp_path).values())


def test_a_meta_that_claims_anothers_name_goes_by_that_of_its_directory(tmp_path: Path) -> None:
    for name in ("one", "two"):
        release(tmp_path, name)
    release(tmp_path, "a", {"name": "one", "meta_backend_for": "two"}, script=False)
    for name in ("b", "c"):
        release(tmp_path, name, {"name": "free", "meta_backend_for": "two"}, script=False)
    inventory = take_inventory(tmp_path)
    assert [(each.name, each.concrete) for each in inventory.releases] == [
        ("a", "two"),
        ("c", "two"),
        ("free", "two"),
        ("one", "one"),
        ("two", "two"),
    ]
    assert {name: meta.path.name for name, meta in inventory.metas.items()} == {"a": "a", "free": "b", "c": "c"}
    assert meant_by(inventory, "one") == ("one",)


@pytest.mark.parametrize(
    ("prefer", "meant"),
    [((), "cpu-engine"), (("cpu",), "cpu-engine"), (("cuda", "cpu"), "cuda12-engine"), (("rocm",), "cpu-engine")],
)
def test_an_alias_means_the_preferred_build(tmp_path: Path, prefer: tuple[str, ...], meant: str) -> None:
    for name in ("vulkan-engine", "cuda12-engine", "cpu-engine"):
        release(tmp_path, name, {"name": name, "alias": "engine"})
    alias = rows(tmp_path, prefer=prefer)["engine"]
    assert (alias.kind, alias.concrete, alias.directory) == ("alias", meant, tmp_path / meant)
    assert alias.metadata.name == meant


def test_only_what_can_be_run_is_meant_by_an_alias(tmp_path: Path) -> None:
    release(tmp_path, "a-engine", {"alias": "engine"}, script=False)
    release(tmp_path, "b-engine.install-backup", {"alias": "engine"})
    release(tmp_path, "c-engine", {"alias": "engine"})
    assert rows(tmp_path)["engine"].concrete == "c-engine"


def test_an_alias_takes_the_row_of_a_meta_and_of_the_machine_but_not_of_files(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    release(user, "build", {"alias": "engine"})
    release(user, "engine", {"meta_backend_for": "other"}, script=False)
    release(system, "engine")
    assert rows(user, system)["engine"].kind == "alias"
    release(user, "own", {"alias": "build"})
    assert rows(user)["build"].kind == "concrete"


# ---- writing


def test_metadata_is_written_as_localai_writes_it(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_metadata(tmp_path, Metadata(name="one", version="", uri="quay.io/a/b:c", digest=None))
    finally:
        os.umask(old)
    path = tmp_path / "metadata.json"
    assert path.read_text() == '{\n  "name": "one",\n  "uri": "quay.io/a/b:c"\n}'
    assert path.stat().st_mode & 0o777 == 0o644
    assert read_metadata(tmp_path).metadata == Metadata(name="one", uri="quay.io/a/b:c")


@pytest.mark.parametrize("there", ["link", "directory", "file", "pipe"])
def test_what_an_archive_called_metadata_is_replaced_and_never_written_through(tmp_path: Path, there: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "one" / "metadata.json"
    victim.write_text("untouched")
    path.parent.mkdir()
    match there:
        case "link":
            path.symlink_to(victim)
        case "directory":
            (path / "deep").mkdir(parents=True)
        case "file":
            os.link(victim, path)
        case "pipe":
            os.mkfifo(path)
    write_metadata(tmp_path / "one", Metadata(name="one"))
    assert read_metadata(tmp_path / "one").metadata == Metadata(name="one")
    assert victim.read_text() == "untouched"
