"""Reading the configuration: what it means, and every way in which it can be wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_sup import BackendSpec, Choice, ConfigError, Liveness, LogSettings, ProcessKey, Readiness
from trio_sup.runner._config import interpret, read_config
from trio_sup.runner._settings import Config, ConfiguredBackend, Settings

PYTHON = f"[{sys.executable!r}]"


def read(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    path = tmp_path / "trio-sup.toml"
    path.write_text(text)
    return read_config(path, environ or {})


def problems(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text, environ)
    return list(raised.value.problems)


# ---- what it means


def test_a_command_is_enough(tmp_path: Path) -> None:
    config = read(tmp_path, f"[backends.chat]\ncommand = {PYTHON}")
    (backend,) = config.backends
    assert backend.process_keys() == (ProcessKey("chat", 0),)
    assert backend.spec() == BackendSpec(name="chat", command=[sys.executable], cwd=tmp_path)
    assert type(backend.spec()) is BackendSpec
    assert config.settings == Settings()


def test_friendly_forms_are_understood(tmp_path: Path) -> None:
    (tmp_path / "chat.env").write_text("A=1\n")
    config = read(
        tmp_path,
        f"""
        state_dir = "state"
        log_dir = "logs"
        shutdown_timeout = "1m"
        host = "::1"
        token = "secret"
        ports = {{ strategy = "affinity", range = "21000-21999", quarantine = "15s" }}
        install_lock = "memory"
        stop_policy = "kill"
        restart_policy = {{ strategy = "on-failure", limit = 3 }}

        [backends.chat]
        command = {PYTHON}
        model = "base.en"
        replicas = 2
        grace = "500ms"
        stop_signal = "SIGINT"
        env_file = "chat.env"
        directory = "/srv/chat"
        cwd = "."
        success_codes = [0, 143]
        success_signals = ["TERM", "SIGINT"]
        ports = {{ strategy = "fixed", ports = {{ "base.en" = 22000 }} }}
        stop_policy = "terminate"
        restart_policy = "always"
        liveness = {{ probe = "tcp", period = "20s" }}
        readiness = {{ probe = "tcp", timeout = "1m30s" }}
        logs = {{ ring_bytes = "1MiB", files = 0 }}

        [backends.other]
        command = {PYTHON}
        host = "127.0.0.1"
        """,
    )
    assert config.settings.state_dir == tmp_path / "state"
    assert config.settings.log_dir == tmp_path / "logs"
    assert config.settings.shutdown_timeout == 60
    assert config.settings.ports == Choice("affinity", range="21000-21999", quarantine="15s")
    chat, other = config.backends
    assert [str(key) for key in chat.process_keys()] == ["base.en#0", "base.en#1"]
    assert (chat.host, other.host) == ("::1", "127.0.0.1")
    assert (chat.token, other.token) == ("secret", "secret")
    assert chat.grace == 0.5
    assert chat.stop_signal is signal.SIGINT
    assert chat.ports == Choice("fixed", ports={"base.en": 22000})
    assert other.ports is None
    assert ("port strategy", chat.ports) in list(config.strategies())
    assert chat.env_file == tmp_path / "chat.env"
    assert chat.directory == Path("/srv/chat")
    assert chat.readiness.timeout == 90
    assert (chat.logs, other.logs) == (LogSettings(ring_bytes=2**20, files=0), LogSettings())
    assert config.settings.restart_policy == Choice("on-failure", limit=3)
    assert (chat.restart_policy, other.restart_policy) == (Choice("always"), None)
    assert chat.success_signals == {signal.SIGTERM, signal.SIGINT}
    assert chat.liveness == Liveness(probe="tcp", period=20)
    assert other.liveness is None


def test_every_strategy_that_is_chosen_is_known(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""
        restart_policy = {{ strategy = "on-failure", limit = 3 }}
        [backends.chat]
        command = {PYTHON}
        stop_policy = "kill"
        restart_policy = "always"
        liveness = {{ probe = "tcp" }}
        [backends.other]
        command = {PYTHON}
        """,
    )
    assert list(config.strategies()) == [
        ("port strategy", Choice("affinity")),
        ("install lock", Choice("file")),
        ("stop policy", Choice("free-then-terminate")),
        ("restart policy", Choice("on-failure", limit=3)),
        ("stop policy", Choice("kill")),
        ("restart policy", Choice("always")),
        ("probe", Choice("localai")),
        ("probe", Choice("tcp")),
        ("probe", Choice("localai")),
    ]


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    config = read(tmp_path, f"token_file = 'token'\n[backends.chat]\ncommand = {PYTHON}")
    assert config.backends[0].token == "secret"
    assert "secret" not in repr(config)


# ---- what is wrong


def test_all_problems_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        f"""
        shutdown_timeout = "-20s"
        nonsense = 3
        ports = {{ strategy = "affinity", range = "9-1" }}
        install_lock = "fiel"
        stop_policy = {{ strategy = "terminate", x = 1 }}
        restart_policy = "alwas"
        host = 3
        token_file = "missing"

        [backends.chat]
        command = ["/nonexistent/program"]
        replicas = 0
        grace = "soon"
        replica = 1
        stop_policy = "kil"
        restart_policy = {{ strategy = "on-failure", delay = "1m", limits = 3 }}
        success_signals = ["SIGFOO"]
        ports = {{ strategy = "fixed", port = 1 }}
        readiness = {{ probe = "tpc", timeout = 0, interval = "x" }}
        logs = {{ ring_bytes = "16", file = 3 }}

        [backends.chat.liveness]
        probe = "lokalai"
        period = 0
        perod = 1

        [backends.third]
        name = "x"
        model = "same"
        command = {PYTHON}
        aliases = ["shared"]

        [backends.fourth]
        model = "same"
        command = {PYTHON}
        aliases = ["shared", "third"]
        env_file = "missing.env"

        [backends.fifth]
        command = "python3"

        [backends.sixth]
        grace = 1

        [backends."not a name"]
        command = []

        [backends.seventh]
        command = {PYTHON}
        cwd = "missing"

        [backends]
        eighth = 5
        """,
    )
    assert len(found) == len(set(found))
    starts = [
        "shutdown_timeout: a duration must not be negative",
        "nonsense: unknown key",
        "ports.range: ",
        "install_lock: unknown install lock 'fiel': known are file, memory; did you mean 'file'?",
        "stop_policy.x: unknown key",
        "restart_policy: unknown restart policy 'alwas': known are always, never, on-failure; did you mean 'always'?",
        "host: expected a host name",
        "token_file: cannot be read: No such file",
        "backends.chat.command: cannot run '/nonexistent/program'",
        "backends.chat.replicas: expected a whole number from 1 to 1000",
        "backends.chat.grace: expected a duration",
        "backends.chat.replica: unknown key; did you mean 'replicas'?",
        "backends.chat.ports.port: unknown key; did you mean 'ports'?",
        "backends.chat.ports.ports: missing",
        "backends.chat.stop_policy: unknown stop policy 'kil'",
        "backends.chat.restart_policy.limits: unknown key; did you mean 'limit'?",
        "backends.chat.success_signals: expected a signal",
        "backends.chat.liveness.period: must be longer than 0 seconds",
        "backends.chat.liveness.perod: unknown key; did you mean 'period'?",
        "backends.chat.liveness.probe: unknown probe 'lokalai'",
        "backends.chat.readiness.probe: unknown probe 'tpc'",
        "backends.chat.readiness.timeout: must be longer than 0 seconds",
        "backends.chat.readiness.interval: expected a duration",
        "backends.chat.logs.ring_bytes: expected a size",
        "backends.chat.logs.file: unknown key; did you mean 'files'?",
        "backends.third.name: its name is that of the table",
        "backends.fourth.model: 'third' serves the model 'same' already",
        "backends.fourth: the name 'shared' means the backend 'third' already",
        "backends.fourth: the name 'third' means the backend 'third' already",
        "backends.fourth: env_file cannot be read",
        "backends.fifth.command: a command is a list",
        "backends.sixth.command: missing",
        "backends['not a name'].name: a backend name starts with",
        "backends['not a name'].command: a command must not be empty",
        "backends.seventh.command: cannot run",
        "backends.eighth: expected a table",
    ]
    unseen = [start for start in starts if not any(problem.startswith(start) for problem in found)]
    assert unseen == []
    assert len(found) == len(starts)


@pytest.mark.parametrize("text", ["", "backends = {}", "shutdown_timeout = 3"])
def test_no_backends_are_a_problem(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == [
        "backends: there is none; add a table [backends.NAME] with at least its command"
    ]


def test_a_command_the_system_cannot_even_look_up_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f"[backends.chat]\ncommand = ['/{'x' * 300}']")
    assert problem.startswith("backends.chat.command: cannot run '/xxx")
    assert "File name too long" in problem


def test_two_tokens_are_a_problem(tmp_path: Path) -> None:
    found = problems(tmp_path, f"token = 'a'\ntoken_file = 'b'\n[backends.chat]\ncommand = {PYTHON}")
    assert found == ["token_file: there is a token already; give only one of them"]


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff"])
def test_a_token_file_with_anything_but_a_token_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    (problem,) = problems(tmp_path, f"token_file = 'token'\n[backends.chat]\ncommand = {PYTHON}")
    assert problem.startswith("token_file: ")
    assert "two" not in problem


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a = 1\nb = [\n", "is not valid TOML"),
        (b"a = 1\na = 2\n", "is not valid TOML"),
        (b"a = \xff", "is not UTF-8 text: byte 4 is 0xff"),
        (b"a = " + b"[" * 10_000, "is nested too deeply"),
        (b"a = " + b"9" * 10_000, "is not valid TOML"),
    ],
)
def test_what_is_not_toml_is_told_as_such(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "trio-sup.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        read_config(path, {})


def test_malformed_toml_is_told_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "trio-sup.toml"
    path.write_text("a = 1\nb == 2\n")
    with pytest.raises(ConfigError) as raised:
        read_config(path, {})
    assert str(raised.value).startswith(f"{path}:2: ")


def test_a_missing_file_is_told_with_one_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file(.|\n)*\[backends.vectors\]"):
        read_config(tmp_path / "none.toml", {})


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config(tmp_path, {})


# ---- anything at all

KEYS = [
    *(field.name for cls in (Settings, ConfiguredBackend, Readiness, Liveness) for field in attrs.fields(cls)),
    *("backends", "strategy", "range", "delay", "max_delay", "factor", "jitter", "limit", "healthy_after"),
]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.sampled_from(["affinity", "file", "kill", "always", "tcp", "exec", "http", "1s", "-1s", "/", "python3"]),
    st.sampled_from(["\0", "a#1"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
BACKENDS = st.dictionaries(
    st.text(max_size=4) | st.sampled_from(["chat", "chat-2"]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5) | VALUES,
    max_size=3,
)
TABLES = st.builds(
    lambda table, backends: {**table, "backends": backends},
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), VALUES, max_size=4),
    BACKENDS | VALUES,
)
NAMES = st.sampled_from(["PORTS", "PORTS__RANGE", "HOST__X", "BACKENDS__CHAT__ENV__A", "BACKENDS__CHAT_2__GRACE", "__"])
ENVIRON = st.dictionaries(NAMES.map("TRIO_SUP_".__add__), st.text(max_size=8), max_size=3)


@settings(max_examples=300, deadline=None)
@given(table=TABLES, environ=ENVIRON)
def test_a_random_table_is_read_or_refused_but_never_crashes(table: dict[str, Any], environ: dict[str, str]) -> None:
    try:
        interpret(table, Path("/nonexistent") / "trio-sup.toml", environ)
    except ConfigError as error:
        _ = str(error)


@given(content=st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_read_or_refused_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(path, {})


def test_nothing_of_this_is_read_from_the_real_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TRIO_SUP_NONSENSE", "1")
    assert read(tmp_path, f"[backends.chat]\ncommand = {PYTHON}").backends


def test_the_warm_ups_of_a_backend_are_checked_before_anything_starts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""
        [backends.chat]
        command = {PYTHON}
        [[backends.chat.warm_up]]
        strategy = "load-model"
        model = "tiny.gguf"
        options = {{ ContextSize = 4096 }}
        [[backends.chat.warm_up]]
        strategy = "call"
        rpc = "Predict"
        """,
    )
    (backend,) = config.backends
    load_model = Choice("load-model", model="tiny.gguf", options={"ContextSize": 4096})
    assert backend.spec().warm_up == (load_model, Choice("call", rpc="Predict"))
    assert [choice for kind, choice in config.strategies() if kind == "warm-up"] == list(backend.warm_up)
    wrong = f"""
        [backends.chat]
        command = {PYTHON}
        warm_up = [
            "load-model",
            {{ strategy = "call", rpc = "LoadModel", request = {{ ContextSize = "4096", Proxy = {{ Mode = "x" }} }} }},
            {{ strategy = "call", rpc = "LoadModell" }},
            "lode-model",
        ]
        """
    assert problems(tmp_path, wrong) == [
        "backends.chat.warm_up[0].model: missing",
        "backends.chat.warm_up[1].request.ContextSize: expected a whole number (got '4096')",
        "backends.chat.warm_up[1].request.Proxy.Mode: ProxyOptions has no such field; did you mean 'mode'?",
        "backends.chat.warm_up[2].rpc: backend.Backend has no such RPC; did you mean 'LoadModel'? (got 'LoadModell')",
        "backends.chat.warm_up[3]: unknown warm-up 'lode-model': known are call, load-model; "
        "did you mean 'load-model'?",
    ]
