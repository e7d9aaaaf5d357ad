"""Images from a real registry: chosen, pinned, downloaded, flattened; and what happens when something breaks."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from oci_faults import Fault, cut, damage, faulty, refuse, replace, stall
from oci_fetching import Fetching
from oci_images import RUN, Image, image, image_list, layer, manifest_blob, tar_of
from oci_registry import Registry
from oci_server import Answer, Asked, serve
from trio_sup_oci import Registries, _http
from trio_sup_oci._errors import UnusableImage
from trio_sup_oci._platform import Platform, host_platform

from trio_sup import ArchiveTooLarge, DigestMismatch, DownloadFailed, InvalidValue, UnsafeArchive
from trio_sup.gallery import _download
from trio_sup.strategies import InstallPhase, UnpackLimits

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

NOISE = bytes(index * 7919 % 251 for index in range(200_000))
OTHER = Platform("linux", "s390x" if host_platform().architecture != "s390x" else "amd64")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.001)


Push = Callable[[Image], str]


@pytest.fixture
def push(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Push:
    """Pushes an image into a repository of this test alone, and says its name."""
    pushed: list[Image] = []

    def push(what: Image) -> str:
        name = f"test/{abs(hash(request.node.nodeid))}:v{len(pushed)}"
        pushed.append(registry.push(what, name, tmp_path))
        return name

    return push


@pytest.fixture
def fetching(registry: Registry, push: Push, tmp_path: Path) -> Callable[..., Fetching]:
    def fetching(what: Image | str, **options: Any) -> Fetching:
        source = options.pop("source", None) or Registries()
        uri = what if isinstance(what, str) else registry.reference(push(what))
        return Fetching(source, uri, tmp_path / "fetch", **options)

    return fetching


# ---- what arrives


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
async def test_an_image_becomes_files(fetching: Callable[..., Fetching], kind: str) -> None:
    what = image(layer({"run.sh": RUN, "lib/a": NOISE}, kind))
    fetch = fetching(what)
    fetched = await fetch.run()
    assert fetch.files == {"run.sh": RUN, "lib/a": NOISE}
    assert (fetch.into / "run.sh").stat().st_mode & 0o111
    assert (fetched.uri, fetched.digest) == (fetch.uri, what.digest)
    assert await fetch.source.digest(fetch.uri) == what.digest


async def test_layers_lie_over_one_another_with_whiteouts(fetching: Callable[..., Fetching]) -> None:
    fetch = fetching(
        image(
            {"run.sh": b"#!old", "gone": b"1", "dir/gone": b"2", "dir/kept": b"3", "opaque/below": b"4"},
            layer({"run.sh": RUN, ".wh.gone": b"", "dir/.wh.gone": b""}, "zstd"),
            layer({"opaque/.wh..wh..opq": b"", "opaque/above": b"5"}, "plain"),
        )
    )
    await fetch.run()
    assert fetch.files == {"run.sh": RUN, "dir/kept": b"3", "opaque/above": b"5"}


async def test_the_image_for_this_machine_is_taken_and_the_digest_is_that_of_the_list(
    fetching: Callable[..., Fetching],
) -> None:
    own, other = image({"run.sh": b"#!own"}), image({"run.sh": b"#!other"}, platform=OTHER)
    attestation = {
        "mediaType": own.top.media_type,
        "digest": other.digest,
        "size": len(other.top.data),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    images = image_list({str(OTHER): other, str(host_platform()): own}, more=[attestation])
    fetch = fetching(images)
    fetched = await fetch.run()
    assert fetch.files == {"run.sh": b"#!own"}
    assert fetched.digest == images.digest == await fetch.source.digest(fetch.uri)
    chosen = Fetching(Registries(platform=str(OTHER)), fetch.uri, fetch.directory / "other")
    assert (await chosen.run()).digest == images.digest
    assert chosen.files == {"run.sh": b"#!other"}


async def test_an_image_without_this_platform_is_refused_by_the_names_of_those_it_has(
    fetching: Callable[..., Fetching],
) -> None:
    fetch = fetching(image_list({str(OTHER): image({"run.sh": RUN}, platform=OTHER)}))
    with pytest.raises(UnusableImage, match=f"it is there for {OTHER}"):
        await fetch.run()
    assert not list(fetch.scratch.iterdir())


async def test_an_image_for_another_platform_alone_is_refused(fetching: Callable[..., Fetching]) -> None:
    with pytest.raises(UnusableImage, match=f"it is for {OTHER}, and wanted is {host_platform()}"):
        await fetching(image({"run.sh": RUN}, platform=OTHER)).run()


async def test_the_progress_is_over_all_layers(fetching: Callable[..., Fetching]) -> None:
    what = image({"run.sh": RUN, "a": NOISE}, layer({"b": NOISE[::-1]}, "plain"), {"c": NOISE[5:]})
    fetch = fetching(what)
    await fetch.run()
    total = sum(len(each.data) for each in what.layers)
    for phase in (InstallPhase.DOWNLOADING, InstallPhase.UNPACKING):
        told = [(done, of) for each, done, of in fetch.told if each is phase]
        assert {of for _, of in told} == {total}
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[0][0] == 0
        assert told[-1][0] == total
    assert fetch.phases == [InstallPhase.RESOLVING, InstallPhase.DOWNLOADING, InstallPhase.UNPACKING]


async def test_identical_layers_are_fetched_once(registry: Registry, push: Push, tmp_path: Path) -> None:
    same = layer({"same": NOISE}, "plain")
    name = push(image({"run.sh": RUN}, same, {"other": NOISE}, same))
    async with faulty(registry) as proxy:
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch")
        await fetch.run()
        assert len(proxy.asked_for(f"/blobs/{same.digest}")) == 1
    assert fetch.files["same"] == NOISE


async def test_no_more_layers_are_fetched_at_once_than_allowed(registry: Registry, push: Push, tmp_path: Path) -> None:
    what = image(*({f"f{n}": NOISE[n:], "run.sh": RUN} for n in range(6)))
    name = push(what)
    held, release = [], trio.Event()

    async def waits(answer: Answer) -> Answer:
        held.append(answer)
        await release.wait()
        return answer

    layers = "|".join(each.digest for each in what.layers)
    async with faulty(registry, Fault(f"/blobs/({layers})", waits, times=6)) as proxy:
        fetch = Fetching(Registries(parallel=3), proxy.reference(name), tmp_path / "fetch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            with trio.fail_after(20):
                while len(held) < 3:
                    await trio.sleep(0.01)
                # A fourth one would come now.
                await trio.testing.wait_all_tasks_blocked(0.2)
            assert len(held) == 3
            release.set()
    assert len(held) == 6


async def test_small_layers_are_fetched_side_by_side(registry: Registry, push: Push, tmp_path: Path) -> None:
    """Each of four downloads waits until all have begun: one after the other, they would never end."""
    begun = 0
    all_begun = trio.Event()

    async def waits(answer: Answer) -> Answer:
        nonlocal begun
        begun += 1
        if begun == 4:
            all_begun.set()
        await all_begun.wait()
        return answer

    what = image(*({f"f{n}": NOISE[n:], "run.sh": RUN} for n in range(4)))
    name = push(what)
    layers = "|".join(each.digest for each in what.layers)
    async with faulty(registry, Fault(f"/blobs/({layers})", waits, times=4)) as proxy:
        await Fetching(Registries(), proxy.reference(name), tmp_path / "fetch").run()
    assert begun == 4


# ---- pins


async def test_a_pinned_image_is_fetched_whatever_the_tag_means(
    registry: Registry, push: Push, fetching: Callable[..., Fetching], tmp_path: Path
) -> None:
    what = image({"run.sh": RUN})
    name = push(what)
    registry.push(image({"run.sh": b"#!moved"}), name, tmp_path)
    fetch = fetching(f"{registry.reference(name)}@{what.digest}")
    assert (await fetch.run()).digest == what.digest == await fetch.source.digest(fetch.uri)
    assert fetch.files == {"run.sh": RUN}
    assert fetch.source.proof(fetch.uri, sha256=None, verification={}) == f"the digest in its address, {what.digest}"


async def test_the_gallery_may_give_the_digest_of_the_list_or_of_the_image(fetching: Callable[..., Fetching]) -> None:
    own = image({"run.sh": RUN})
    images = image_list({str(host_platform()): own})
    fetch = fetching(images)
    for digest in (own.digest, images.digest):
        fetch.sha256 = digest.removeprefix("sha256:")
        assert fetch.source.proof(fetch.uri, sha256=fetch.sha256, verification={}) is not None
        assert (await fetch.run()).digest == images.digest


async def test_another_digest_than_that_of_the_gallery_is_refused(fetching: Callable[..., Fetching]) -> None:
    what = image({"run.sh": RUN})
    fetch = fetching(what, sha256="0" * 64)
    with pytest.raises(DigestMismatch) as caught:
        await fetch.run()
    assert (caught.value.expected, caught.value.found) == (f"sha256:{'0' * 64}", what.digest)
    assert not list(fetch.scratch.iterdir())


def test_without_pin_and_policy_nothing_proves_an_image() -> None:
    source = Registries()
    assert source.proof("oci://quay.io/a/b:v1", sha256=None, verification={}) is None
    with pytest.raises(InvalidValue):
        source.proof("oci://quay.io/A", sha256="0" * 64, verification={})


async def test_a_tag_that_moves_meanwhile_changes_nothing(registry: Registry, push: Push, tmp_path: Path) -> None:
    old = image_list({str(host_platform()): image({"run.sh": RUN})})
    name = push(old)

    async def moves(answer: Answer) -> Answer:
        await trio.to_thread.run_sync(registry.push, image({"run.sh": b"#!new"}), name, tmp_path)
        return answer

    async with faulty(registry, Fault(f"/manifests/{name.partition(':')[2]}", moves)) as proxy:
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch")
        assert (await fetch.run()).digest == old.digest
    assert fetch.files == {"run.sh": RUN}


# ---- faults on the way


@pytest.mark.parametrize("fault", [lambda: cut(50_000), lambda: cut(0), lambda: refuse(503), lambda: refuse(429)])
async def test_a_layer_that_breaks_off_is_resumed(
    registry: Registry, push: Push, tmp_path: Path, fault: Callable[[], Any]
) -> None:
    big = layer({"run.sh": RUN, "big": NOISE}, "plain")
    name = push(image(big))
    async with faulty(registry, Fault(f"/blobs/{big.digest}", fault(), times=2)) as proxy:
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch")
        await fetch.run()
        asked = proxy.asked_for(f"/blobs/{big.digest}")
    assert len(asked) == 3
    assert fetch.files["big"] == NOISE


async def test_what_arrived_before_a_failure_is_not_fetched_again(
    registry: Registry, push: Push, tmp_path: Path
) -> None:
    first, big = layer({"run.sh": RUN}), layer({"big": NOISE * 5}, "plain")
    name = push(image(first, big))
    async with faulty(registry, Fault(f"/blobs/{big.digest}", cut(700_000), times=1)) as proxy:
        fetch = Fetching(Registries(retries=0, parallel=1), proxy.reference(name), tmp_path / "fetch")
        with pytest.raises(DownloadFailed) as caught:
            await fetch.run()
        assert caught.value.temporary
        assert not fetch.files
        proxy.asked.clear()
        await fetch.run()
        (again,) = proxy.asked_for(f"/blobs/{big.digest}")
    offset = int(again.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 500_000 < offset <= 700_000
    assert fetch.files == {"run.sh": RUN, "big": NOISE * 5}


async def test_a_stalled_layer_is_given_up_and_tried_again(registry: Registry, push: Push, tmp_path: Path) -> None:
    big = layer({"run.sh": RUN, "big": NOISE}, "plain")
    name = push(image(big))
    async with faulty(registry, Fault(f"/blobs/{big.digest}", stall(50_000))) as proxy:
        fetch = Fetching(Registries(stall_timeout=0.3), proxy.reference(name), tmp_path / "fetch")
        await fetch.run()
        assert len(proxy.asked_for(f"/blobs/{big.digest}")) == 2
    assert fetch.files["big"] == NOISE


async def test_a_damaged_layer_is_refused_and_nothing_of_it_is_unpacked(
    registry: Registry, push: Push, tmp_path: Path
) -> None:
    good, bad = layer({"run.sh": RUN}), layer({"big": NOISE}, "plain")
    name = push(image(good, bad))
    async with faulty(registry, Fault(f"/blobs/{bad.digest}", damage(), times=100)) as proxy:
        fetch = Fetching(Registries(retries=1), proxy.reference(name), tmp_path / "fetch")
        with pytest.raises(DigestMismatch) as caught:
            await fetch.run()
        assert caught.value.expected.removeprefix("sha256:") == bad.digest.removeprefix("sha256:")
        assert not list(fetch.into.iterdir())
        proxy.faults = ()
        await fetch.run()
    assert fetch.files["big"] == NOISE


@pytest.mark.parametrize("by_digest", [False, True])
async def test_a_manifest_that_is_not_what_was_asked_for_is_refused(
    registry: Registry, push: Push, tmp_path: Path, by_digest: bool
) -> None:
    what, other = image({"run.sh": RUN}), image({"run.sh": b"#!evil"})
    name = push(what) + (f"@{what.digest}" if by_digest else "")
    headers = [("Content-Type", other.top.media_type), ("Docker-Content-Digest", what.digest)]
    async with faulty(registry, Fault("/manifests/", replace(other.top.data, *headers), times=9)) as proxy:
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch")
        with pytest.raises(DigestMismatch) as caught:
            await fetch.run()
    assert (caught.value.expected, caught.value.found) == (what.digest, other.digest)


async def test_a_configuration_that_is_not_what_was_meant_is_refused(
    registry: Registry, push: Push, tmp_path: Path
) -> None:
    what = image({"run.sh": RUN})
    name = push(what)
    async with faulty(registry, Fault(f"/blobs/{what.blobs[0].digest}", damage(), times=9)) as proxy:
        with pytest.raises(DigestMismatch):
            await Fetching(Registries(), proxy.reference(name), tmp_path / "fetch").run()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_registry_that_is_down_for_a_while_is_asked_again(
    registry: Registry, push: Push, tmp_path: Path, status: int
) -> None:
    what = image({"run.sh": RUN})
    name = push(what)
    async with faulty(registry, Fault("/manifests/", refuse(status), times=2)) as proxy:
        source = Registries()
        assert await source.digest(proxy.reference(name)) == what.digest
        assert len(proxy.asked) == 3


async def test_a_registry_that_stays_down_is_given_up(registry: Registry, push: Push) -> None:
    name = push(image({"run.sh": RUN}))
    async with faulty(registry, Fault("/manifests/", refuse(503), times=99)) as proxy:
        with pytest.raises(DownloadFailed, match="cannot be asked: 503 Service Unavailable") as caught:
            await Registries(retries=3).digest(proxy.reference(name))
        assert caught.value.temporary
        assert len(proxy.asked) == 4


async def test_nobody_there_is_a_temporary_failure() -> None:
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1:1 cannot be asked") as caught:
        await Registries(retries=1).digest("oci://127.0.0.1:1/a/b")
    assert caught.value.temporary


async def test_where_only_get_is_answered_the_digest_is_that_of_what_comes(registry: Registry, push: Push) -> None:
    what = image({"run.sh": RUN})
    name = push(what)

    async def no_head(answer: Answer) -> Answer:
        return Answer(status=405)

    async def bare(answer: Answer) -> Answer:
        return Answer(body=answer.body)

    async with faulty(registry, Fault("/manifests/", no_head), Fault("/manifests/", bare)) as proxy:
        assert await Registries().digest(proxy.reference(name)) == what.digest
        assert [asked.method for asked in proxy.asked] == ["HEAD", "GET"]


@pytest.mark.parametrize("missing", ["tag", "digest", "repository"])
async def test_what_is_not_there_is_named(
    registry: Registry, push: Push, fetching: Callable[..., Fetching], missing: str
) -> None:
    repository, _, tag = push(image({"run.sh": RUN})).rpartition(":")
    names = {"tag": ":other", "digest": f"@sha256:{'0' * 64}", "repository": f"x:{tag}"}
    fetch = fetching(registry.reference(repository + names[missing]))
    with pytest.raises(DownloadFailed, match="or it is not for everybody to see: 404 Not Found") as caught:
        await fetch.run()
    assert not caught.value.temporary


async def test_layers_of_what_the_tag_meant_earlier_are_forgotten(
    registry: Registry, push: Push, tmp_path: Path
) -> None:
    name = push(image({"run.sh": RUN, "old": NOISE}))
    fetch = Fetching(Registries(), registry.reference(name), tmp_path / "fetch")
    await fetch.run()
    (old,) = fetch.scratch.glob("*")
    (fetch.scratch / "of somebody else").write_text("kept")
    registry.push(image({"run.sh": RUN, "new": NOISE}), name, tmp_path)
    await fetch.run()
    assert not old.exists()
    assert (fetch.scratch / "of somebody else").exists()


async def test_what_an_earlier_try_left_is_verified_again(fetching: Callable[..., Fetching]) -> None:
    what = image({"run.sh": RUN, "a": NOISE})
    fetch = fetching(what)
    await fetch.run()
    (kept,) = fetch.scratch.iterdir()
    kept.write_bytes(b"half of it, after a loss of power")
    await fetch.run()
    assert fetch.files == {"run.sh": RUN, "a": NOISE}


# ---- what must not be unpacked


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, link, mode
    return found


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("/../evil")],
        [member("a", tarfile.SYMTYPE, "../.."), member("a/evil")],
        [member("a", tarfile.LNKTYPE, "../../evil")],
        [member("dev", tarfile.CHRTYPE)],
    ],
)
async def test_a_hostile_layer_writes_nothing_outside(
    fetching: Callable[..., Fetching], members: list[tarfile.TarInfo]
) -> None:
    hostile = layer(tar_of({"run.sh": RUN}, members=members))
    fetch = fetching(image({"run.sh": RUN}, hostile))
    before = sorted(fetch.directory.parent.rglob("*evil*"))
    with pytest.raises(UnsafeArchive):
        await fetch.run()
    assert sorted(fetch.directory.parent.rglob("*evil*")) == before


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_link_of_an_earlier_layer_leads_nobody_out(
    fetching: Callable[..., Fetching], tmp_path: Path, absolute: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("a", tarfile.SYMTYPE, str(outside) if absolute else "../../outside")
    fetch = fetching(image(layer(tar_of({"run.sh": RUN}, members=[link])), layer(tar_of({"a/evil": b"1"}))))
    # An absolute path means one inside the image.
    with nullcontext() if absolute else pytest.raises(UnsafeArchive):
        await fetch.run()
    assert not list(outside.iterdir())


async def test_a_bomb_is_refused(fetching: Callable[..., Fetching]) -> None:
    fetch = fetching(image({"run.sh": RUN, "zeros": bytes(5_000_000)}), limits=UnpackLimits(max_bytes="1MB"))
    with pytest.raises(ArchiveTooLarge):
        await fetch.run()


async def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_downloaded(
    registry: Registry, push: Push, tmp_path: Path
) -> None:
    what = image({"run.sh": RUN})
    name = push(what)
    huge = json.loads(what.top.data)
    huge["layers"][0]["size"] = 10**12
    async with faulty(registry, Fault("/manifests/", replace(json.dumps(huge).encode()))) as proxy:
        limits = UnpackLimits(max_bytes="1GB")
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch", limits=limits)
        with pytest.raises(ArchiveTooLarge, match="its layers have 1000000000000 bytes"):
            await fetch.run()
        assert not proxy.asked_for(what.layers[0].digest)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"schemaVersion": 2}, "neither an image nor a list"),
        ("x" * 5_000_000, "more than 4194304 bytes"),
    ],
)
async def test_odd_manifests_are_refused(
    registry: Registry, push: Push, tmp_path: Path, document: Any, complaint: str
) -> None:
    name = push(image({"run.sh": RUN}))
    async with faulty(registry, Fault("/manifests/", replace(json.dumps(document).encode()), times=9)) as proxy:
        with pytest.raises(UnusableImage, match=complaint):
            await Fetching(Registries(), proxy.reference(name), tmp_path / "fetch").run()


async def test_an_artifact_that_is_no_image_is_refused(registry: Registry, tmp_path: Path) -> None:
    config = image().blobs[0]
    chart = image({"run.sh": RUN}).layers[0]
    chart = type(chart)(media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip", data=chart.data)
    registry.put(manifest_blob(config, [chart]), [config, chart], "test/chart:v1")
    with pytest.raises(UnusableImage, match="not a layer of files"):
        await Fetching(Registries(), registry.reference("test/chart:v1"), tmp_path / "fetch").run()


# ---- elsewhere, and cancellation


async def test_blobs_may_lie_elsewhere_and_credentials_stay_here(
    closed_registry: Registry, tmp_path: Path, home: Path
) -> None:
    what = closed_registry.push(image({"run.sh": RUN, "big": NOISE}), "test/elsewhere:v1", tmp_path)
    (home / ".docker").mkdir()
    seen: list[Asked] = []

    async def storage(asked: Asked) -> Answer:
        seen.append(asked)
        return Answer(body=what.layers[0].data)

    async with serve(storage) as other:

        async def leads(answer: Answer) -> Answer:
            if answer.status != 200:
                return answer
            return Answer(status=307, headers=[("Location", f"http://127.0.0.1:{other}/blob?secret=1")])

        async with faulty(closed_registry, Fault(f"/blobs/{what.layers[0].digest}", leads, times=9)) as proxy:
            auths = {f"127.0.0.1:{proxy.port}": {"username": "user", "password": "s3cret"}}
            (home / ".docker" / "config.json").write_text(json.dumps({"auths": auths}))
            fetch = Fetching(Registries(), proxy.reference("test/elsewhere:v1"), tmp_path / "fetch")
            await fetch.run()
            assert any("authorization" in asked.headers for asked in proxy.asked)
    assert fetch.files["big"] == NOISE
    assert seen
    assert all("authorization" not in asked.headers for asked in seen)


@pytest.mark.parametrize("pattern", ["/manifests/", "/blobs/"])
async def test_cancellation_ends_at_once_and_keeps_what_arrived(
    registry: Registry, push: Push, tmp_path: Path, pattern: str
) -> None:
    name = push(image(layer({"run.sh": RUN, "big": NOISE}, "plain"), {"a": NOISE}))
    reached = trio.Event()

    async def hangs(answer: Answer) -> Answer:
        reached.set()
        await trio.sleep_forever()
        return answer

    async with faulty(registry, Fault(pattern, hangs, times=9)) as proxy:
        fetch = Fetching(Registries(), proxy.reference(name), tmp_path / "fetch")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch.run)
                await reached.wait()
                nursery.cancel_scope.cancel()
        assert not fetch.files
        proxy.faults = ()
        await fetch.run()
    assert fetch.files["big"] == NOISE
