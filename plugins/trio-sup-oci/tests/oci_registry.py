"""A real registry for tests: Debian's docker-registry on a free port, and ways to fill it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
from oci_images import Blob, Image

USER, PASSWORD = "user", "s3cret"
HTPASSWD = "user:$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG\n"
"""The same two, with bcrypt."""


@attrs.frozen(kw_only=True)
class Registry:
    """A registry that runs.

    Attributes:
        host: ``127.0.0.1:port``.
        credentials: What it takes; None if it takes everybody.
    """

    host: str
    credentials: tuple[str, str] | None = None

    def reference(self, image: str) -> str:
        return f"oci://{self.host}/{image}"

    def push(self, image: Image, name: str, directory: Path) -> Image:
        """Push with skopeo, as ``repository:tag``; what arrives is byte for byte what was made."""
        layout = image.write(directory / f"layout-{image.digest[7:19]}")
        command = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]
        if self.credentials:
            command += ["--dest-creds", ":".join(self.credentials)]
        command += [f"oci:{layout}:v1", f"docker://{self.host}/{name}"]
        # It would look for credentials of the user.
        environment = {**os.environ, "REGISTRY_AUTH_FILE": str(directory / "nobody.json"), "TMPDIR": str(directory)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return image

    def put(self, top: Blob, blobs: list[Blob], name: str) -> None:
        """Push over HTTP, for what skopeo would not: under ``repository:tag``."""
        repository, _, tag = name.rpartition(":")
        base = f"http://{self.host}/v2/{repository}"
        with httpx2.Client(auth=self.credentials, trust_env=False) as client:
            for blob in blobs:
                begun = client.post(f"{base}/blobs/uploads/")
                begun.raise_for_status()
                url = httpx2.URL(begun.headers["location"]).copy_merge_params({"digest": blob.digest})
                headers = {"Content-Type": "application/octet-stream"}
                client.put(url, content=blob.data, headers=headers).raise_for_status()
            answer = client.put(f"{base}/manifests/{tag}", content=top.data, headers={"Content-Type": top.media_type})
            assert answer.is_success, answer.text


@contextmanager
def running_registry(
    directory: Path,
    *,
    auth: dict[str, Any] | None = None,
    credentials: tuple[str, str] | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[Registry]:
    """A registry that keeps everything below *directory* and runs for the length of the block.

    Args:
        tls: Certificate and key.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth is not None:
        configuration["auth"] = auth
    if tls is not None:
        configuration["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    file = directory / "registry.yml"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    log = directory / "registry.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", str(file)], stdout=output, stderr=output)
    try:
        _wait_until_it_answers(port, process, log)
        yield Registry(host=f"127.0.0.1:{port}", credentials=credentials)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def registry_with_password(directory: Path) -> Iterator[Registry]:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    with running_registry(directory, auth=auth, credentials=(USER, PASSWORD)) as registry:
        yield registry


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.02)
    raise AssertionError(f"the registry did not answer: {log.read_text()}")
