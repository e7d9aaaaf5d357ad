"""Settings from environment variables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trio_sup import Choice, ConfigError, Liveness, LogSettings
from trio_sup.runner._config import interpret
from trio_sup.runner._settings import Config

COMMAND = [sys.executable]


def with_environment(tmp_path: Path, table: dict[str, Any], **variables: str) -> Config:
    environ = {f"TRIO_SUP_{name}": value for name, value in variables.items()}
    return interpret(table, tmp_path / "trio-sup.toml", environ)


def problems(tmp_path: Path, table: dict[str, Any], **variables: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        with_environment(tmp_path, table, **variables)
    return list(raised.value.problems)


def test_values_are_toml_or_else_text(tmp_path: Path) -> None:
    config = with_environment(
        tmp_path,
        {"backends": {"chat": {"command": ["nothing"]}}},
        SHUTDOWN_TIMEOUT="12.5",
        BACKENDS__CHAT__REPLICAS="2",
        BACKENDS__CHAT__GRACE="3s",
        BACKENDS__CHAT__COMMAND=f"[{sys.executable!r}]",
    )
    assert config.settings.shutdown_timeout == 12.5
    assert config.backends[0].replicas == 2
    assert config.backends[0].grace == 3
    assert config.backends[0].command == (sys.executable,)


def test_texts_stay_texts_even_if_they_look_like_numbers(tmp_path: Path) -> None:
    config = with_environment(
        tmp_path,
        {"backends": {"chat": {"command": COMMAND}}},
        TOKEN="123456",
        BACKENDS__CHAT__MODEL="7",
        BACKENDS__CHAT__ENV__HTTP_Port="8080",
    )
    (backend,) = config.backends
    assert (backend.token, backend.model, backend.env) == ("123456", "7", {"HTTP_Port": "8080"})


@pytest.mark.parametrize("name", ["BACKENDS__MY_MODEL_2__REPLICAS", "BACKENDS__my_model_2__replicas"])
def test_names_of_backends_are_matched_without_regard_to_case_and_punctuation(tmp_path: Path, name: str) -> None:
    config = with_environment(tmp_path, {"backends": {"My-Model.2": {"command": COMMAND}}}, **{name: "3"})
    assert config.backends[0].replicas == 3


def test_a_name_with_two_underscores_is_not_cut_apart(tmp_path: Path) -> None:
    table = {"backends": {"a": {"command": COMMAND}, "a__b": {"command": COMMAND}}}
    config = with_environment(tmp_path, table, BACKENDS__A__B__REPLICAS="3")
    assert [backend.replicas for backend in config.backends] == [1, 3]


def test_an_option_is_added_to_the_strategy_that_is_chosen(tmp_path: Path) -> None:
    table = {"ports": "lifo", "backends": {"chat": {"command": COMMAND, "readiness": {"probe": "http"}}}}
    config = with_environment(
        tmp_path, table, PORTS__RANGE="30000-30010", BACKENDS__CHAT__READINESS__PROBE__STATUS="204"
    )
    assert config.settings.ports == Choice("lifo", range="30000-30010")
    assert config.backends[0].readiness.probe == Choice("http", status=204)


def test_options_of_restart_policies_and_liveness_can_be_given(tmp_path: Path) -> None:
    table = {"restart_policy": "on-failure", "backends": {"chat": {"command": COMMAND, "restart_policy": "always"}}}
    config = with_environment(
        tmp_path,
        table,
        RESTART_POLICY__LIMIT="3",
        BACKENDS__CHAT__RESTART_POLICY__PERIOD="1m",
        BACKENDS__CHAT__LIVENESS__PROBE__SERVICE="x",
        BACKENDS__CHAT__LIVENESS__PROBE__STRATEGY="grpc-health",
        BACKENDS__CHAT__LIVENESS__PERIOD="3s",
    )
    assert config.settings.restart_policy == Choice("on-failure", limit=3)
    (chat,) = config.backends
    assert chat.restart_policy == Choice("always", period="1m")
    assert chat.liveness == Liveness(probe=Choice("grpc-health", service="x"), period=3)


def test_log_files_can_be_asked_for(tmp_path: Path) -> None:
    config = with_environment(
        tmp_path,
        {"backends": {"chat": {"command": COMMAND}}},
        LOG_DIR="logs",
        BACKENDS__CHAT__LOGS__MAX_BYTES="64KiB",
        BACKENDS__CHAT__LOGS__FILES="0",
    )
    assert config.settings.log_dir == tmp_path / "logs"
    assert config.backends[0].logs == LogSettings(max_bytes=65536, files=0)


def test_an_option_is_added_to_the_default_strategy(tmp_path: Path) -> None:
    config = with_environment(tmp_path, {"backends": {"chat": {"command": COMMAND}}}, PORTS__QUARANTINE="3s")
    assert config.settings.ports == Choice("affinity", quarantine="3s")


def test_what_names_nothing_is_a_problem(tmp_path: Path) -> None:
    table = {"backends": {"chat": {"command": COMMAND}, "a-b": {"command": COMMAND}, "a.b": {"command": COMMAND}}}
    found = problems(
        tmp_path,
        table,
        NONSENSE="1",
        HOST__DEEPER="1",
        BACKENDS__OTHER__REPLICAS="2",
        BACKENDS__CHAT__REPLICA="2",
        BACKENDS__CHAT__NAME="x",
        BACKENDS__A_B__REPLICAS="2",
        BACKENDS__CHAT="2",
        HOST="127.0.0.1",
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "TRIO_SUP_BACKENDS__A_B__REPLICAS",
        "TRIO_SUP_BACKENDS__CHAT",
        "TRIO_SUP_BACKENDS__CHAT__NAME",
        "TRIO_SUP_BACKENDS__CHAT__REPLICA",
        "TRIO_SUP_BACKENDS__OTHER__REPLICAS",
        "TRIO_SUP_HOST__DEEPER",
        "TRIO_SUP_NONSENSE",
    ]
    assert found[0].endswith("it could mean each of the backends a-b, a.b")


def test_a_wrong_value_is_told_with_the_variable_it_came_from(tmp_path: Path) -> None:
    found = problems(tmp_path, {"backends": {"chat": {"command": COMMAND}}}, BACKENDS__CHAT__REPLICAS="many")
    assert found == [
        "backends.chat.replicas: expected a whole number from 1 to 1000 (got 'many')"
        " (from TRIO_SUP_BACKENDS__CHAT__REPLICAS)"
    ]


def test_variables_of_the_engine_are_no_settings(tmp_path: Path) -> None:
    table = {"backends": {"chat": {"command": COMMAND}}}
    assert with_environment(tmp_path, table, TREE="x/1", DISABLE_PLUGIN_AUTOLOAD="1").backends
