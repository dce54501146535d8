"""The contract of fetchers: every promise of `obuilder.interfaces.Fetcher` as a test."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from obuilder.errors import FetchError
from obuilder.testing._fetcher_bench import FetcherBench, OpenFetcher
from obuilder.testing._tools import LIMIT_S, descriptors
from obuilder.testing._traces import children, mounts
from obuilder.testing._trees import describe_tree
from obuilder.types import BaseImage, FetchContext

__all__ = ["FetcherContract"]

# From before the first system call to late in a fetch.
DELAYS_S = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

ODD_TEXTS = (
    *("", " ", "-x", "--help", "a b c", "../..", "new\nline", "\t", "é", "caf\udce9", "$(id)"),
    "x" * 5000,
)

_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]+")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?")


@pytest.mark.anyio
class FetcherContract:
    """Subclass it and give the fixtures `open_fetcher`, `base` and `missing_base`.

    `open_fetcher` is a factory without arguments: each call opens a new object.
    """

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Both event loops; one that is not installed is a failure."""
        return str(request.param)

    @pytest.fixture
    def expected_files(self) -> Mapping[str, bytes]:
        """What some files of `base` hold, by their paths in it. None: not looked at."""
        return {}

    @pytest.fixture
    def context(self, tmp_path: Path) -> FetchContext:
        """Where the base's text comes from: empty directories for spec and source."""
        for name in ("spec", "source"):
            (tmp_path / name).mkdir()
        return FetchContext(
            platform="linux/amd64", spec_dir=tmp_path / "spec", source_dir=tmp_path / "source"
        )

    @pytest.fixture
    def bench(  # noqa: PLR0917 - pytest gives them by name
        self,
        open_fetcher: OpenFetcher,
        base: str,
        missing_base: str,
        expected_files: Mapping[str, bytes],
        context: FetchContext,
        tmp_path: Path,
    ) -> FetcherBench:
        """All of it; no need to override this."""
        return FetcherBench(
            open_fetcher=open_fetcher,
            base=base,
            missing_base=missing_base,
            expected_files=expected_files,
            context=context,
            directory=tmp_path / "roots",
        )

    async def test_a_base_fills_the_root(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            _, rootfs, _ = await bench.fetch(fetcher)
        assert [path for path in rootfs.rglob("*") if path.is_file()]
        for name, content in bench.expected_files.items():
            assert (rootfs / name).read_bytes() == content, name

    async def test_what_is_told_of_an_image_is_well_formed(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            image, _, _ = await bench.fetch(fetcher)
        assert isinstance(image, BaseImage)
        assert isinstance(image.env, tuple)
        for name, value in image.env:
            assert name
            assert "=" not in name
            assert isinstance(value, str)
        assert image.digest is None or _DIGEST.fullmatch(image.digest)
        assert image.platform is None or _PLATFORM.fullmatch(image.platform)

    async def test_the_same_base_again_is_the_same(self, bench: FetcherBench) -> None:
        found = []
        for _ in range(2):
            async with bench.open_fetcher() as fetcher:
                image, rootfs, _ = await bench.fetch(fetcher)
                found.append((image, _without_times(rootfs)))
        assert found[0] == found[1]

    async def test_two_fetches_at_the_same_time_are_whole(self, bench: FetcherBench) -> None:
        trees = []
        async with bench.open_fetcher() as fetcher:

            async def fetch() -> None:
                _, rootfs, _ = await bench.fetch(fetcher)
                trees.append(_without_times(rootfs))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch)
                tasks.start_soon(fetch)
            await fetch()
        assert trees[0] == trees[1] == trees[2]

    async def test_a_missing_base_is_a_fetch_error(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            with pytest.raises(FetchError) as caught:
                await bench.fetch(fetcher, bench.missing_base)
            assert caught.value.what.strip()
            # It does no harm to the next.
            await bench.fetch(fetcher)

    async def test_a_text_that_is_no_base_is_a_fetch_error(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            for text in ODD_TEXTS:
                base = text if fetcher.scheme is None else f"{fetcher.scheme}:{text}"
                with pytest.raises(FetchError):
                    await bench.fetch(fetcher, base)

    async def test_nothing_is_written_beside_the_root_and_the_scratch(
        self, bench: FetcherBench
    ) -> None:
        here = set(os.listdir())
        async with bench.open_fetcher() as fetcher:
            _, rootfs, _ = await bench.fetch(fetcher)
        assert sorted(os.listdir(rootfs.parent)) == ["rootfs", "scratch"]
        assert set(os.listdir()) == here
        for directory in (bench.context.spec_dir, bench.context.source_dir):
            written = os.stat(directory or "/").st_mtime_ns
            async with bench.open_fetcher() as fetcher:
                await bench.fetch(fetcher)
            assert os.stat(directory or "/").st_mtime_ns == written

    async def test_a_fetch_leaves_nothing_open_or_running(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            await bench.fetch(fetcher)
            mounted, opened, started = mounts(bench.directory), len(descriptors()), children()
            await bench.fetch(fetcher)
            with pytest.raises(FetchError):
                await bench.fetch(fetcher, bench.missing_base)
            assert mounts(bench.directory) == mounted
            assert len(descriptors()) == opened
            assert children() <= started

    async def test_a_cancel_at_any_moment_stops_it(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            image, rootfs, _ = await bench.fetch(fetcher)
            whole = _without_times(rootfs)
            mounted, opened, started = mounts(bench.directory), len(descriptors()), children()
            for delay_s in DELAYS_S:
                begun = anyio.current_time()
                fetched = None
                with anyio.move_on_after(delay_s):
                    fetched = await bench.fetch(fetcher)
                if fetched is not None:  # it was done before
                    assert (fetched[0], _without_times(fetched[1])) == (image, whole)
                late_s = anyio.current_time() - begun - delay_s
                assert late_s < LIMIT_S / 4, f"went on for {late_s:.1f} s after the cancel"
                assert children() <= started, f"cancelled after {delay_s} s"
                assert len(descriptors()) == opened, f"cancelled after {delay_s} s"
                assert mounts(bench.directory) == mounted, f"cancelled after {delay_s} s"
            again, rootfs, _ = await bench.fetch(fetcher)
            assert (again, _without_times(rootfs)) == (image, whole)


def _without_times(rootfs: Path) -> dict[str, tuple[object, ...]]:
    # An engine makes a few files anew for each container.
    return {path: entry[:3] + entry[4:] for path, entry in describe_tree(rootfs).items()}
