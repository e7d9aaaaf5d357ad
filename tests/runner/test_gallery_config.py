"""`[galleries]` and `release` in the configuration: what they mean, and every way in which they can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.runner.running import TRIO_SUP, environment
from trio_sup import Choice, ConfigError, Galleries, Gallery, UnpackLimits
from trio_sup.engine._plugins import Plugins
from trio_sup.gallery._gallery import DEFAULT_GALLERY
from trio_sup.runner._config import read_config
from trio_sup.runner._gallery_setup import GallerySetup, read_setup
from trio_sup.runner._settings import Config

BACKEND = f"[backends.chat]\ncommand = [{sys.executable!r}]\n"
RELEASE = '[backends.chat]\nrelease = "chat"\n'
OURS = json.dumps([{"name": "ours", "url": "https://gallery.example/index.yaml", "newer": 1}])


def read(folder: Path, text: str, **environ: str) -> Config:
    path = folder / "trio-sup.toml"
    path.write_text(text)
    return read_config(path, environ)


def galleries(folder: Path, text: str, **environ: str) -> Galleries:
    found = read(folder, f"{text}\n{BACKEND}", **environ).galleries
    assert found is not None
    return found


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(folder, text, **environ)
    return list(raised.value.problems)


def install(folder: Path, name: str, **metadata: str) -> Path:
    """Make a release in *folder*, as an installation leaves it."""
    directory = folder / name
    directory.mkdir(parents=True)
    if "meta_backend_for" not in metadata:
        script = directory / "run.sh"
        script.write_text("#!/bin/sh\nexec sleep 60\n")
        script.chmod(0o755)
    (directory / "metadata.json").write_text(json.dumps({"name": name, **metadata}))
    return directory


# ---- what it means


def test_without_the_table_and_without_releases_there_are_no_galleries(tmp_path: Path) -> None:
    assert read(tmp_path, BACKEND).galleries is None


def test_everything_can_be_said(tmp_path: Path) -> None:
    assert galleries(
        tmp_path,
        """
        [galleries]
        backends_dir = "backends"
        system_dir = "/usr/lib/backends"
        auto_install = true
        require_integrity = true
        capability = "nvidia-cuda-12"

        [[galleries.index]]
        name = "ours"
        url = "https://gallery.example/index.yaml"
        mirrors = ["github:example/gallery/index.yaml@main"]
        verification = { key = "x" }

        [[galleries.index]]
        name = "theirs"
        url = "file:///srv/index.yaml"

        [galleries.limits]
        max_bytes = "1GiB"
        max_files = 1000

        [galleries.sources.https]
        """,
    ) == Galleries(
        backends_dir=tmp_path / "backends",
        system_dir=Path("/usr/lib/backends"),
        auto_install=True,
        require_integrity=True,
        capability="nvidia-cuda-12",
        index=(
            Gallery(
                name="ours",
                url="https://gallery.example/index.yaml",
                mirrors=("github:example/gallery/index.yaml@main",),
                verification={"key": "x"},
            ),
            Gallery(name="theirs", url="file:///srv/index.yaml"),
        ),
        limits=UnpackLimits(max_bytes=2**30, max_files=1000),
        sources={"https": {}},
    )


def test_what_is_left_out_is_as_usual(tmp_path: Path) -> None:
    found = galleries(tmp_path, "[galleries]", XDG_DATA_HOME="/data")
    assert found == Galleries(backends_dir=Path("/data/trio-sup/backends"))
    assert found.index == (DEFAULT_GALLERY,)


@pytest.mark.parametrize("environ", [{}, {"XDG_DATA_HOME": "relative"}])
def test_releases_are_below_the_home_directory(
    tmp_path: Path, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somewhere/home")
    found = galleries(tmp_path, "[galleries]", **environ)
    assert found.backends_dir == Path("/somewhere/home/.local/share/trio-sup/backends")
    found = galleries(tmp_path, '[galleries]\nbackends_dir = "~/x"\nsystem_dir = "~/y"')
    assert (found.backends_dir, found.system_dir) == (Path("/somewhere/home/x"), Path("/somewhere/home/y"))


@pytest.mark.parametrize("variable", ["LOCALAI_BACKEND_GALLERIES", "BACKEND_GALLERIES"])
def test_the_environment_may_list_the_galleries(tmp_path: Path, variable: str) -> None:
    (gallery,) = galleries(tmp_path, "[galleries]", **{variable: OURS}).index
    assert gallery.name == "ours"
    (gallery,) = galleries(tmp_path, f"[galleries]\nindex_json = '{OURS}'", **{variable: "nonsense"}).index
    assert gallery.name == "ours"
    assert galleries(tmp_path, "[galleries]\nindex = []", **{variable: OURS}).index == ()
    assert galleries(tmp_path, "[galleries]", **{variable: "[]"}).index == ()
    assert galleries(tmp_path, "[galleries]", **{variable: " "}).index == (DEFAULT_GALLERY,)


def test_of_two_lists_in_the_environment_the_first_counts(tmp_path: Path) -> None:
    (gallery,) = galleries(
        tmp_path, "[galleries]", LOCALAI_BACKEND_GALLERIES=OURS, BACKEND_GALLERIES=OURS.replace("ours", "theirs")
    ).index
    assert gallery.name == "ours"


def test_the_list_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "galleries.json").write_text(OURS)
    (gallery,) = galleries(tmp_path, '[galleries]\nindex_json = "galleries.json"').index
    assert gallery.name == "ours"


def test_environment_variables_override_the_table(tmp_path: Path) -> None:
    found = galleries(
        tmp_path,
        '[galleries]\nbackends_dir = "x"',
        TRIO_SUP_GALLERIES__BACKENDS_DIR="/srv/7",
        TRIO_SUP_GALLERIES__AUTO_INSTALL="true",
        TRIO_SUP_GALLERIES__LIMITS__MAX_BYTES="1MiB",
        TRIO_SUP_GALLERIES__INDEX='[{ name = "ours", url = "https://gallery.example/x" }]',
    )
    assert found == Galleries(
        backends_dir=Path("/srv/7"),
        auto_install=True,
        limits=UnpackLimits(max_bytes=2**20),
        index=(Gallery(name="ours", url="https://gallery.example/x"),),
    )


def test_options_of_sources_are_among_the_strategies(tmp_path: Path) -> None:
    config = read(tmp_path, f"[galleries.sources.https]\n{BACKEND}")
    assert ("gallery source", Choice("https")) in list(config.strategies())


def test_a_release_alone_makes_galleries(tmp_path: Path) -> None:
    install(tmp_path / "data/trio-sup/backends", "chat")
    config = read(tmp_path, RELEASE, XDG_DATA_HOME=str(tmp_path / "data"))
    assert config.galleries == Galleries(backends_dir=tmp_path / "data/trio-sup/backends")


def test_a_release_is_run_in_its_own_directory_unless_told_otherwise(tmp_path: Path) -> None:
    install(tmp_path / "x", "chat")
    head = '[galleries]\nbackends_dir = "x"\n'
    assert read(tmp_path, f"{head}{RELEASE}").backends[0].cwd is None
    assert read(tmp_path, f'{head}{RELEASE}cwd = "x"').backends[0].cwd == tmp_path / "x"


# ---- what is wrong with it


def test_all_problems_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [galleries]
        backends_dir = 5
        backend_dir = "x"
        auto_install = "yes"
        capability = ""

        [[galleries.index]]
        name = "a"
        url = "https://gallery.example/x"

        [[galleries.index]]
        name = "a@b"
        url = "ftp://gallery.example/x"

        [galleries.limits]
        max_bytes = "many"
        max_file = 1

        [galleries.sources.https]
        nonsense = 1

        [galleries.sources.ftp]

        [backends.chat]
        grace = -1
        """,
    )
    starts = [
        "backends.chat.command: missing",
        "backends.chat.grace: a duration must not be negative",
        "galleries.backends_dir: expected a path",
        "galleries.backend_dir: unknown key; did you mean 'backends_dir'?",
        "galleries.auto_install: expected true or false",
        "galleries.capability: expected a capability",
        "galleries.index[1].name: a gallery's name has no @",
        "galleries.index[1].url: expected https://",
        "galleries.limits.max_bytes: expected a size",
        "galleries.limits.max_file: unknown key; did you mean 'max_files'?",
        "galleries.sources.https.nonsense: unknown key",
        "galleries.sources.ftp: unknown gallery source 'ftp'",
    ]
    assert [start for start in starts if not any(problem.startswith(start) for problem in found)] == []
    assert len(found) == len(starts)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("galleries = 5", "galleries: expected a table"),
        ("[galleries]\nindex = 'x'", "galleries.index: expected a list"),
        ("[galleries]\nindex = [{ name = 'a' }]", "galleries.index[0].url: missing"),
        (
            "[galleries]\nindex_json = 'missing.json'",
            "galleries.index_json: 'missing.json' cannot be read: No such file",
        ),
        ("[galleries]\nindex_json = '[{'", "galleries.index_json: a list of galleries must be JSON"),
        ("[galleries]\nindex_json = '{}'", "galleries.index_json: a list of galleries must be a JSON list"),
        ('[galleries]\nindex_json = \'[{"name": "a"}]\'', "galleries.index_json[0].url: missing"),
        (
            "[galleries]\nindex = []\nindex_json = '[]'",
            "galleries.index_json: there is an index already; give only one",
        ),
        ("[galleries]\nbackends_dir = '~nobody-is-called-so/x'", "galleries.backends_dir: Could not determine home"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, table: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"{table}\n{BACKEND}")
    assert found.startswith(problem)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff")
    (found,) = problems(tmp_path, f"[galleries]\nindex_json = 'x.json'\n{BACKEND}")
    assert found == "galleries.index_json: 'x.json' is not UTF-8 text"


def test_galleries_of_one_name_are_told_where_they_are_listed(tmp_path: Path) -> None:
    twice = json.dumps([*json.loads(OURS), *json.loads(OURS)])
    why = "two galleries must not have the same name (got 'ours')"
    assert problems(tmp_path, f"[galleries]\n{BACKEND}", BACKEND_GALLERIES=twice) == [f"BACKEND_GALLERIES: {why}"]
    text = f"[galleries]\nindex_json = '{twice}'\n{BACKEND}"
    assert problems(tmp_path, text) == [f"galleries.index_json: {why}"]


def test_a_list_in_the_environment_that_nobody_needs_is_not_read(tmp_path: Path) -> None:
    assert read(tmp_path, BACKEND, BACKEND_GALLERIES="nonsense").galleries is None
    (found,) = problems(tmp_path, f"[galleries]\n{BACKEND}", BACKEND_GALLERIES="nonsense")
    assert found.startswith("BACKEND_GALLERIES: a list of galleries must be JSON")


def test_a_wrong_value_is_told_with_the_variable_it_came_from(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, BACKEND, TRIO_SUP_GALLERIES__LIMITS__MAX_BYTES="many")
    assert found.endswith("(got 'many') (from TRIO_SUP_GALLERIES__LIMITS__MAX_BYTES)")
    (found,) = problems(tmp_path, BACKEND, TRIO_SUP_GALLERIES__LIMIT="1")
    assert "TRIO_SUP_GALLERIES__LIMIT: there is no such setting; known here are backends_dir" in found


def test_a_release_that_is_missing_is_told_with_what_installs_it(tmp_path: Path) -> None:
    head = '[galleries]\nbackends_dir = "x"\n'
    (found,) = problems(tmp_path, f"{head}{RELEASE}")
    assert found == (
        "backends.chat.release: 'chat' is not installed: nothing is installed. Install it with `trio-sup install chat "
        f"-c {tmp_path / 'trio-sup.toml'}`, or have that done when it is started: galleries.auto_install = true"
    )
    assert read(tmp_path, f"{head}auto_install = true\n{RELEASE}").galleries is not None


def test_a_release_without_its_script_is_told(tmp_path: Path) -> None:
    (install(tmp_path / "x", "chat") / "run.sh").unlink()
    (found,) = problems(tmp_path, f'[galleries]\nbackends_dir = "x"\n{RELEASE}')
    assert found.startswith("backends.chat.release: 'chat' is installed, but cannot be run: there is no run.sh in it")


def test_a_directory_of_releases_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    (found,) = problems(tmp_path, f'[galleries]\nbackends_dir = "x"\n{RELEASE}')
    assert found.startswith("galleries.backends_dir: cannot be read: ")


# ---- for commands


def setup(path: Path, **options: object) -> GallerySetup:
    options = {"environ": {}, "backends_dir": None, "require_integrity": False, **options}
    return read_setup(path, plugins=Plugins(), **options)  # type: ignore[arg-type]  # whatever the test says


def test_other_mistakes_in_the_file_keep_nobody_from_installing(tmp_path: Path) -> None:
    path = tmp_path / "trio-sup.toml"
    path.write_text('nonsense = 1\ninstall_lock = "memory"\n[backends.chat]\n[galleries]\nbackends_dir = "x"\n')
    found = setup(path, environ={"TRIO_SUP_NONSENSE": "1", "TRIO_SUP_GALLERIES__AUTO_INSTALL": "true"})
    assert found.galleries == Galleries(backends_dir=tmp_path / "x", auto_install=True)
    assert found.install_lock == Choice("memory")


def test_mistakes_in_its_own_part_do(tmp_path: Path) -> None:
    path = tmp_path / "trio-sup.toml"
    path.write_text('install_lock = "fiel"\n[galleries]\nauto_install = 1\n[galleries.sources.ftp]\n')
    with pytest.raises(ConfigError) as raised:
        setup(path, environ={"TRIO_SUP_GALLERIES__LIMIT": "1"})
    assert [problem.split(": ")[0] for problem in raised.value.problems] == [
        "TRIO_SUP_GALLERIES__LIMIT",
        "galleries.auto_install",
        "install_lock",
        "galleries.sources.ftp",
    ]


def test_only_the_file_at_the_usual_place_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = setup(Path("trio-sup.toml"), environ={"XDG_DATA_HOME": "/data"})
    assert found.galleries == Galleries(backends_dir=Path("/data/trio-sup/backends"))
    with pytest.raises(ConfigError, match=r"other\.toml: .*\s+there is no such file"):
        setup(Path("other.toml"))


def test_options_of_the_command_come_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/trio-sup.toml").write_text('[galleries]\nbackends_dir = "x"\n')
    found = setup(Path("sub/trio-sup.toml"), backends_dir=Path("y"), require_integrity=True)
    assert found.galleries == Galleries(backends_dir=tmp_path / "y", require_integrity=True)


# ---- trio-sup check


def check(folder: Path, text: str, *arguments: str) -> str:
    (folder / "trio-sup.toml").write_text(text)
    return subprocess.run(
        [*TRIO_SUP, "check", *arguments], cwd=folder, env=environment(folder),
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip


CHECKED = """
[galleries]
backends_dir = "x"
auto_install = true
capability = "default"

[backends.there]
release = "chat"
command = ["--threads", "4"]

[backends.missing]
release = "other"
"""


def test_check_tells_which_release_a_name_comes_to(tmp_path: Path) -> None:
    directory = install(tmp_path / "x", "cpu-chat", version="1.2")
    install(tmp_path / "x", "chat", meta_backend_for="cpu-chat", version="1.2")
    document = json.loads(check(tmp_path, CHECKED, "--json"))
    there, missing = document["backends"]
    assert there["release"] == {
        "name": "chat", "installed": True, "concrete": "cpu-chat", "version": "1.2", "directory": str(directory),
    }  # fmt: skip
    assert there["command"] == [str(directory / "run.sh"), "--threads", "4"]
    assert missing["release"] == {
        "name": "other", "installed": False, "concrete": None, "version": None, "directory": None,
    }  # fmt: skip
    shown = check(tmp_path, CHECKED)
    assert "  release         chat 1.2 (cpu-chat)\n" in shown
    assert "  release         other, which is not installed; its first start installs it\n" in shown
