"""Releases from images, as a supervisor installs, upgrades and starts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_sup_oci
from oci_images import Image, image, image_list
from oci_registry import Registry
from oci_signing import new_key, public_pem, push_signature
from trio_sup_oci._platform import host_platform

import trio_sup
from trio_sup import BackendSpec, Galleries, Gallery, InstallPhase, InvalidOptions, NotProven, Readiness, Supervisor

pytestmark = [pytest.mark.needs("docker-registry", "skopeo"), pytest.mark.usefixtures("nothing_survives")]

READY = Readiness(probe={"strategy": "exec", "command": ["true"]}, timeout=20)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of this test alone."""
    return f"installed/{abs(hash(request.node.nodeid))}"


def version(number: int) -> Image:
    built = image({"run.sh": b"#!/bin/sh\nexec sleep 300\n", "version": str(number).encode()})
    return image_list({str(host_platform()): built})


def opened(directory: Path, **options: Any) -> Any:
    galleries = Galleries(**{"backends_dir": directory / "backends", "index": (), "capability": "default", **options})
    return trio_sup.open_supervisor(plugins=[trio_sup_oci], galleries=galleries)


def recorded(directory: Path, release: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "backends" / release / "metadata.json").read_text())
    return found


async def test_an_image_is_installed_started_and_upgraded(registry: Registry, tmp_path: Path, name: str) -> None:
    uri = registry.reference(f"{name}:v1")
    old = registry.push(version(1), f"{name}:v1", tmp_path)
    told: list[InstallPhase] = []
    sup: Supervisor
    with trio.fail_after(60):
        async with opened(tmp_path) as sup:
            release = await sup.install(uri, name="demo", on_progress=lambda progress: told.append(progress.phase))
            assert release.metadata.digest == recorded(tmp_path, "demo")["digest"] == old.digest
            assert recorded(tmp_path, "demo")["uri"] == uri
            assert list(dict.fromkeys(told)) == [
                InstallPhase.RESOLVING,
                InstallPhase.DOWNLOADING,
                InstallPhase.UNPACKING,
                InstallPhase.DONE,
            ]
            spec = BackendSpec(
                name="demo", release="demo", readiness=READY, stop_policy="terminate", command=["./run.sh", "{port}"]
            )
            backend = await sup.start(spec)
            assert await sup.upgrades() == ()
            new = registry.push(version(2), f"{name}:v1", tmp_path)
            (upgrade,) = await sup.upgrades()
            assert upgrade.release.name == "demo"
            assert await sup.upgrade("demo") is not None
            assert recorded(tmp_path, "demo")["digest"] == new.digest
            assert (tmp_path / "backends" / "demo" / "version").read_text() == "2"
            (again,) = sup.backends
            assert again.pid not in (None, backend.pid)
            assert await sup.upgrades() == ()


async def test_where_integrity_is_required_a_pin_or_a_signature_is_needed(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    uri = registry.reference(f"{name}:v1")
    key = new_key()
    what = registry.push(version(1), f"{name}:v1", tmp_path)
    index = tmp_path / "backends" / "index.yaml"
    index.parent.mkdir()
    index.write_text(json.dumps([{"name": "signed", "uri": uri}]))
    gallery = Gallery(name="ours", url=f"file://{index}", verification={"public_key": public_pem(key)})
    with trio.fail_after(60):
        async with opened(tmp_path, require_integrity=True, index=(gallery,)) as sup:
            with pytest.raises(NotProven, match="pin the digest in its address"):
                await sup.install(uri, name="demo")
            await sup.install(f"{uri}@{what.digest}", name="pinned")
            await sup.install(uri, name="given", sha256=what.digest)
            with pytest.raises(NotProven, match="there is no signature"):
                await sup.install("signed")
            push_signature(registry, name, what.digest, key)
            await sup.install("signed")
            assert [each.name for each in sup.installed()] == ["given", "pinned", "signed"]


async def test_an_image_file_is_installed(tmp_path: Path) -> None:
    what = version(1)
    layout = what.write(tmp_path / "layout")
    with trio.fail_after(60):
        async with opened(tmp_path) as sup:
            release = await sup.install(f"ocifile://{layout}", name="demo")
            assert release.metadata.digest == what.digest
            assert await sup.upgrades() == ()


async def test_options_reach_the_source(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="gallery source 'oci': parallel: expected a whole number"):
        async with opened(tmp_path, sources={"oci": {"parallel": 0}}) as sup:
            await sup.install("oci://127.0.0.1:1/a", name="demo")
