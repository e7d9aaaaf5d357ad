"""Fixtures of this plugin's tests: a home without credentials, and real registries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from oci_registry import Registry, registry_with_password, running_registry


def pytest_configure(config: pytest.Config) -> None:
    # Known already where the tests of the whole project run.
    config.addinivalue_line("markers", "needs(program): needs a program that uv cannot install")
    config.addinivalue_line("markers", "slow: takes long")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        if missing := [program for program in marker.args if shutil.which(program) is None]:
            reason = f"needs {', '.join(missing)}, which is not installed"
            (pytest.fail if item.config.getoption("--no-skips", False) else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory: nobody's credentials or proxies play a part."""
    path = tmp_path / "home"
    path.mkdir()
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for everybody."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def closed_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants user name and password."""
    with registry_with_password(tmp_path_factory.mktemp("closed-registry")) as running:
        yield running
