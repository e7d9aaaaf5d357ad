"""What plugins add to the configuration: sections, and preparations of launches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_sup import BackendSpec, ConfigError, InvalidValue, hookimpl
from trio_sup.engine._plugins import LoadedPlugin, PluginError, Plugins
from trio_sup.runner._config import interpret
from trio_sup.runner._settings import Config
from trio_sup.strategies import Launch


@attrs.frozen(kw_only=True)
class Exporter:
    port: int = 9100
    labels: tuple[str, ...] = ()


@attrs.frozen
class Demanding:
    url: str


@attrs.frozen
class Nice:
    by: int = 1

    def check(self, spec: BackendSpec) -> None:
        if self.by > 19:
            raise InvalidValue(self.by, f"nobody is as nice as {spec.name}")
        if self.by < 0:
            raise OSError("no such device")

    def prepare(self, launch: Launch) -> Launch:
        return launch


@attrs.frozen
class Between(Nice):
    low: int = 0
    high: int = 19

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not exceed high")


class Plugin:
    @hookimpl
    def trio_sup_config_sections(self) -> Any:
        return {"exporter": Exporter, "demanding": Demanding}

    @hookimpl
    def trio_sup_launch_preparations(self) -> Any:
        return {"nice": Nice, "between": Between}


def read(tmp_path: Path, table: dict[str, Any], *, launch: Any = (), **variables: str) -> Config:
    backends = {"chat": {"command": [sys.executable], "launch": list(launch)}}
    environ = {f"TRIO_SUP_{name}": value for name, value in variables.items()}
    plugins = Plugins([LoadedPlugin("nice", Plugin(), "trio-sup-nice", "1.2")])
    return interpret({**table, "backends": backends}, tmp_path / "trio-sup.toml", environ, plugins)


def problems(tmp_path: Path, table: dict[str, Any], *, launch: Any = (), **variables: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, table, launch=launch, **variables)
    return list(raised.value.problems)


def test_a_section_becomes_the_plugins_class(tmp_path: Path) -> None:
    sections = read(tmp_path, {"exporter": {"port": 1}, "demanding": {"url": "x"}}).sections
    assert sections == {"exporter": Exporter(port=1), "demanding": Demanding("x")}


def test_a_section_left_out_has_its_defaults_if_it_can(tmp_path: Path) -> None:
    assert read(tmp_path, {}).sections == {"exporter": Exporter()}


def test_environment_variables_reach_into_sections(tmp_path: Path) -> None:
    assert read(tmp_path, {}, EXPORTER__PORT="7").sections["exporter"] == Exporter(port=7)
    (problem,) = problems(tmp_path, {}, EXPORTER__PROT="7")
    assert "known here are port, labels" in problem


def test_wrong_sections_are_told_among_all_the_others(tmp_path: Path) -> None:
    found = problems(
        tmp_path, {"exporter": {"port": "x", "prot": 1}, "demanding": {}, "host": 3, "exportr": {}, "backend": {}}
    )
    for start in [
        "exporter.port: expected a whole number (got 'x')",
        "exporter.prot: unknown key; did you mean 'port'?",
        "demanding.url: missing",
        "host: expected a host name",
        "exportr: unknown key; did you mean 'exporter'?",
        "backend: unknown key; did you mean 'backends'?",
    ]:
        assert [problem for problem in found if problem.startswith(start)], (start, found)
    assert len(found) == 6


def test_a_section_that_is_no_table_is_told(tmp_path: Path) -> None:
    assert problems(tmp_path, {"exporter": 3}) == ["exporter: expected a table"]


def test_a_section_whose_class_exits_is_told_with_its_plugin() -> None:
    class Exits:
        @hookimpl
        def trio_sup_config_sections(self) -> Any:
            return {"exits": attrs.make_class("Section", {"port": attrs.field(default=0, converter=sys.exit)})}

    with pytest.raises(ConfigError) as raised:
        interpret({"exits": {}}, Path("trio-sup.toml"), {}, Plugins([Exits()]))
    assert "Exits: its configuration section 'exits' cannot be made: SystemExit(0)" in str(raised.value)


def test_preparations_are_checked_with_their_place(tmp_path: Path) -> None:
    launch = ["nice", "nise", {"strategy": "nice", "by": "x"}, {"strategy": "nice", "by": 20}]
    assert problems(tmp_path, {}, launch=launch) == [
        "backends.chat.launch[1]: unknown launch preparation 'nise': known are between, nice; did you mean 'nice'?",
        "backends.chat.launch[2].by: expected a whole number (got 'x')",
        "backends.chat.launch[3]: nobody is as nice as chat (got 20)",
    ]


def test_a_complaint_about_several_options_has_the_place_of_all_of_them(tmp_path: Path) -> None:
    assert problems(tmp_path, {}, launch=["nice", {"strategy": "between", "low": 3, "high": 2}]) == [
        "backends.chat.launch[1]: low must not exceed high"
    ]


def test_a_preparation_whose_check_breaks_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {}, launch=[{"strategy": "nice", "by": -1}])
    assert problem.startswith("backends.chat.launch[0]: plugin nice (trio-sup-nice 1.2): its check() raised OSError(")


def test_a_section_must_be_made_by_an_attrs_class() -> None:
    class Loose:
        @hookimpl
        def trio_sup_config_sections(self) -> Any:
            return {"loose": dict}

    with pytest.raises(PluginError, match="section 'loose' is made by no attrs class"):
        Plugins([Loose()])


def test_plugins_whose_observers_fail_are_left_out_if_somebody_is_told() -> None:
    class Fails:
        @hookimpl
        def trio_sup_observers(self) -> Any:
            raise SystemExit(3)

    class Watches:
        @hookimpl
        def trio_sup_observers(self) -> Any:
            return [print]

    told: list[PluginError] = []
    observers = Plugins([Fails(), Watches()], on_problem=told.append).observers({})
    assert [observer for _, observer in observers] == [print]
    assert ["trio_sup_observers raised SystemExit(3)" in str(error) for error in told] == [True]
    with pytest.raises(PluginError, match="Fails"):
        Plugins([Fails(), Watches()]).observers({})
