"""The contract of gallery sources."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from ..._gallery_errors import ArchiveTooLarge, DigestMismatch, DownloadFailed, InstallFailed
from ..._releases import InstallPhase, UnpackLimits
from ...engine import open_supervisor
from ...errors import TrioSupError
from ...gallery._settings import Galleries
from ...hookspecs import hookimpl
from ...strategies import Fetch, GallerySource
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, if_promised, leaving_nothing, run_real
from ._fetch_ground import FILES, FetchGround

_OBEY = 1.0
"""Seconds within which a cancelled `fetch` must have ended."""
_PHASES = (InstallPhase.RESOLVING, InstallPhase.DOWNLOADING, InstallPhase.VERIFYING, InstallPhase.UNPACKING)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OTHER = "0" * 64
_UNKNOWN_SIGNATURE = {"contract": "a way of signing that nobody knows"}


def _check_reason(error: BaseException) -> None:
    assert isinstance(error, (TrioSupError, OSError)), f"it raises {error!r}, which nobody expects"
    assert str(error), "the reason is shown to people"


class GallerySourceContract(StrategyContract):
    """Every gallery source must pass these. Files belong below `directory`, which is empty and new for each test.

    Attributes:
        scheme: Of the addresses that it is tried with.
        records_digests: It tells what it has fetched, and that is what a `sha256` is compared with.
        resumes: It reports DOWNLOADING, with a total, and keeps what was downloaded as files in `scratch`, as they are,
            until all of it is unpacked.
    """

    kind = "gallery source"
    scheme: ClassVar[str]
    records_digests: ClassVar[bool] = True
    resumes: ClassVar[bool] = False

    def make(self) -> GallerySource:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    def offer(self, files: Mapping[str, bytes]) -> AbstractAsyncContextManager[str]:
        """Have a release of these files (executable if they begin with ``#!``) where this source can get it.

        Returns:
            Gives its address, for the length of the block. When that is left, nothing of a server may run any more.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define offer()")

    def offer_nothing(self) -> AbstractAsyncContextManager[str]:
        """Give an address of the same kind at which nothing is; it must end in ``missing`` or ``missing:…``."""
        raise NotImplementedError(f"{type(self).__qualname__} must define offer_nothing()")

    def _ground(self, uri: str, name: str = "ground", **asked: Any) -> FetchGround:
        return FetchGround(self.directory / name, self.make(), uri, **asked)

    def _play(self, play: Callable[[], Any]) -> None:
        """Run it; what it keeps on disk is looked at by itself."""
        traces = self.directory / "traces"
        traces.mkdir()
        with leaving_nothing(traces):
            run_real(play)

    # ---- what is asked before anything is fetched

    @pytest.mark.parametrize("sha256", [None, _OTHER])
    @pytest.mark.parametrize("verification", [{}, _UNKNOWN_SIGNATURE], ids=["unsigned", "signed"])
    def test_it_says_at_once_what_would_prove_it_whatever_is_there(
        self, sha256: str | None, verification: Mapping[str, Any]
    ) -> None:
        def ask(uri: str) -> str | None:
            return self.make().proof(uri, sha256=sha256, verification=verification)

        async def play() -> None:
            async with self.offer(FILES) as uri:
                said = ask(uri)
                began = time.perf_counter()
                assert ask(uri) == said, "it says something else the second time"
                assert time.perf_counter() - began < SYNCHRONOUS_LIMIT
                assert said is None or (isinstance(said, str) and said), "a proof is text, or None"
            async with self.offer_nothing() as uri:
                assert (ask(uri) is None) == (said is None), "it looks whether something is there"

        self._play(play)

    def test_what_its_gallery_signs_in_a_way_it_does_not_know_is_refused(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri, verification=_UNKNOWN_SIGNATURE)
                with pytest.raises(InstallFailed):
                    await ground.fetch()
                ground.check_is_empty()

        self._play(play)

    def test_it_tells_a_digest_or_none(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                source = self.make()
                told = await source.digest(uri)
                assert told is None or _DIGEST.fullmatch(told), "a digest is sha256: and 64 hex digits"
                assert await source.digest(uri) == told
                recorded = (await self._ground(uri).fetch()).digest
                if told is not None and recorded is not None:
                    assert told == recorded, "what it records is not what it tells: every upgrade would find a new one"

        self._play(play)

    # ---- fetching

    def test_it_fills_the_directory_with_exactly_the_release(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                fetched = await ground.fetch()
                ground.check_is_whole()
                assert isinstance(fetched.uri, str)
                assert fetched.uri, "what was fetched is recorded"
                assert fetched.digest is None or _DIGEST.fullmatch(fetched.digest)

        self._play(play)

    def test_what_it_reports_rises_and_ends_at_its_total(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                await ground.fetch()
            assert ground.told, "nobody hears how far it has come"
            last: tuple[InstallPhase | None, int] = (None, 0)
            for phase, done, total in ground.told:
                assert phase in _PHASES, f"{phase} is not for a source to report"
                assert done >= 0
                assert total is None or done <= total
                assert phase is not last[0] or done >= last[1], f"{phase} goes back"
                last = phase, done
            phases = [phase for phase, _, _ in ground.told]
            unpacking = phases[phases.index(InstallPhase.UNPACKING) :] if InstallPhase.UNPACKING in phases else []
            assert set(unpacking) <= {InstallPhase.UNPACKING}, "all is verified before anything is unpacked"
            if self.resumes:
                assert any(done == total for phase, done, total in ground.told if phase is InstallPhase.DOWNLOADING)

        self._play(play)

    def test_it_can_be_fetched_again_over_what_an_earlier_fetch_left(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                for _ in range(3):
                    await ground.fetch()
                    ground.check_is_whole()

        self._play(play)

    def test_several_addresses_are_fetched_at_the_same_time(self) -> None:
        async def play() -> None:
            source = self.make()
            async with self.offer(FILES) as one, self.offer({"run.sh": b"#!/bin/sh\n"}) as other:
                grounds = [
                    FetchGround(self.directory / f"ground-{n}", source, uri) for n, uri in enumerate((one, other))
                ]
                fetches = [
                    Fetch(uri=ground.uri, into=ground.root / "here", scratch=ground.root / "scratch")
                    for ground in grounds
                ]
                async with trio.open_nursery() as nursery:
                    for fetch in fetches:
                        nursery.start_soon(source.fetch, fetch)
                assert (fetches[0].into / "lib" / "deep" / "numbers").is_file()
                assert [path.name for path in fetches[1].into.iterdir()] == ["run.sh"]

        self._play(play)

    @if_promised("records_digests")
    def test_what_has_the_digest_that_was_given_is_taken(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                digest = (await self._ground(uri, "first").fetch()).digest
                assert digest is not None, "it promises to record digests"
                ground = self._ground(uri, "second", sha256=digest.removeprefix("sha256:"))
                assert ground.source.proof(uri, sha256=ground.sha256, verification={})
                assert (await ground.fetch()).digest == digest
                ground.check_is_whole()

        self._play(play)

    # ---- what must not be

    def test_what_has_another_digest_is_refused_and_not_unpacked(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri, sha256=_OTHER)
                with pytest.raises(DigestMismatch if self.records_digests else InstallFailed) as caught:
                    await ground.fetch()
                ground.check_is_empty()
                assert str(caught.value)
                # And whatever it left does not spoil what follows.
                ground.sha256 = None
                await ground.fetch()
                ground.check_is_whole()

        self._play(play)

    def test_an_address_where_nothing_is_is_named(self) -> None:
        async def play() -> None:
            async with self.offer_nothing() as uri:
                ground = self._ground(uri)
                with pytest.raises(DownloadFailed, match="missing"):
                    await ground.fetch()
                ground.check_is_empty()
                try:
                    assert await ground.source.digest(uri) is None
                except DownloadFailed as error:
                    assert "missing" in str(error)  # noqa: PT017  # it need not raise

        self._play(play)

    @pytest.mark.parametrize(
        "rest", ["", "/", "//", "\0", "/a\0b", "[", "[::1", "%", "/%00", "/../..", "\u00e9", "a b"]
    )
    def test_an_address_that_cannot_be_is_refused_in_words(self, rest: str) -> None:
        async def play() -> None:
            ground = self._ground(f"{self.scheme}://{rest}", limits=UnpackLimits(max_files=10, max_bytes=1000))
            for ask in (
                ground.fetch,
                functools.partial(ground.source.digest, ground.uri),
                functools.partial(self._ask_for_proof, ground),
            ):
                try:
                    await ask()
                except Exception as error:
                    _check_reason(error)
                else:
                    assert ask is not ground.fetch, "it takes for an address what is none"

        self._play(play)

    async def _ask_for_proof(self, ground: FetchGround) -> None:
        ground.source.proof(ground.uri, sha256=None, verification={})

    @pytest.mark.parametrize("limits", [{"max_bytes": 1_000_000}, {"max_files": 3}], ids=["bytes", "files"])
    def test_what_goes_beyond_the_limits_is_refused(self, limits: Mapping[str, int]) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri, limits=UnpackLimits(**limits))
                with pytest.raises(ArchiveTooLarge):
                    await ground.fetch()
                found = [path for path in ground.into.rglob("*") if path.is_file()]
                assert sum(path.stat().st_size for path in found) <= ground.limits.max_bytes
                assert len(found) <= ground.limits.max_files

        self._play(play)

    # ---- cancellation

    async def _cancel_at(self, ground: FetchGround, phase: InstallPhase | None, after: float = 0.0) -> None:
        """Fetch, and cancel that at the first report of *phase*, or *after* so many seconds."""
        token, asked_at = trio.lowlevel.current_trio_token(), float("inf")

        def cancel() -> None:
            nonlocal asked_at
            asked_at = min(asked_at, trio.current_time())
            scope.cancel()

        ground.on_report = lambda now: token.run_sync_soon(cancel) if now is phase else None
        with trio.CancelScope() as scope:
            if phase is None:
                asked_at = trio.current_time() + after
                scope.deadline = asked_at
            await ground.fetch()
        ground.on_report = lambda now: None
        took = trio.current_time() - asked_at
        assert took < _OBEY, f"it goes on for {took:.1f} s although it is cancelled"

    @pytest.mark.parametrize("phase", _PHASES, ids=lambda phase: phase.value)
    def test_cancelled_in_any_phase_it_ends_soon_and_can_be_fetched_again(self, phase: InstallPhase) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                for _ in range(2):
                    await self._cancel_at(ground, phase)
                await ground.fetch()
                ground.check_is_whole()

        self._play(play)

    @pytest.mark.parametrize("after", [0.0, 0.001, 0.005, 0.02, 0.1])
    def test_cancelled_at_any_time_it_leaves_nothing_that_runs(self, after: float) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                await self._cancel_at(ground, None, after)
                await ground.fetch()
                ground.check_is_whole()

        self._play(play)

    @if_promised("resumes")
    def test_what_was_downloaded_when_it_was_cancelled_is_not_downloaded_again(self) -> None:
        async def play() -> None:
            async with self.offer(FILES) as uri:
                ground = self._ground(uri)
                await self._cancel_at(ground, InstallPhase.UNPACKING)
                kept = ground.downloaded()
                assert kept, "nothing is kept of what was downloaded"
                await ground.fetch()
                ground.check_is_whole()
                assert ground.downloaded() == kept, "what was there already is downloaded again"

        self._play(play)

    # ---- in use

    def test_a_supervisor_installs_from_it(self) -> None:
        contract = self

        class Plugin:
            @hookimpl
            def trio_sup_gallery_sources(self) -> Mapping[str, Callable[..., GallerySource]]:
                return {contract.scheme: contract.make}

        async def play() -> None:
            backends = self.directory / "backends"
            galleries = Galleries(backends_dir=backends, index=(), capability="default")
            async with self.offer(FILES) as uri, open_supervisor(plugins=[Plugin()], galleries=galleries) as sup:
                for _ in range(2):
                    release = await sup.install(uri, name="contract", force=True)
                    assert release.runnable
                assert (backends / "contract" / "lib" / "deep" / "numbers").read_bytes() == FILES["lib/deep/numbers"]
                async with self.offer_nothing() as missing:
                    with pytest.raises(InstallFailed):
                        await sup.install(missing, name="contract")
                assert [each.name for each in sup.installed()] == ["contract"]
            left: Sequence[Path] = [*(backends / ".trio-sup" / "work").iterdir()]
            assert not left

        self._play(play)
