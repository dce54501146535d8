"""Promises of fetchers about what is left: by a fetch that ends, is cancelled, or is killed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio
import pytest

from obuilder.errors import FetchError
from obuilder.testing._fetcher_bench import FetcherBench, own_tmpdir, without_times
from obuilder.testing._form import check_form
from obuilder.testing._orphans import living_children, orphans_adopted, that_stay
from obuilder.testing._tools import LIMIT_S, descriptors
from obuilder.testing._traces import children, mounts
from obuilder.testing._trees import describe_tree

__all__ = ["EndPromises"]

# From before the first system call to late in a fetch.
DELAYS_S = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class _Traces:
    """What there is besides files: of what is made once and kept, a fetch may leave no more."""

    mounted: set[str]
    opened: int
    started: set[str]

    @classmethod
    def of(cls, bench: FetcherBench) -> Self:
        return cls(mounts(bench.directory), len(descriptors()), children())

    def check(self, bench: FetcherBench, when: str) -> None:
        now = self.of(bench)
        assert now.started <= self.started, when
        assert now.opened <= self.opened, when
        assert now.mounted <= self.mounted, when


class EndPromises:
    """See FetcherContract."""

    async def test_the_class_says_its_interface_and_its_options(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            check_form(type(fetcher))

    async def test_nothing_is_written_beside_the_root_and_the_scratch(
        self, bench: FetcherBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        watched = [*bench.own_directories(), tmp_path / "here"]
        before = [describe_tree(path) for path in watched]
        async with bench.open_fetcher() as fetcher:
            # Not the process's own, where others may write.
            monkeypatch.chdir(tmp_path / "here")
            await bench.fetch(fetcher)
            with pytest.raises(FetchError):
                await bench.fetch(fetcher, bench.missing_base)
        for place in bench.directory.iterdir():
            assert sorted(os.listdir(place)) == ["rootfs", "scratch"]
        for path, tree in zip(watched, before, strict=True):
            assert describe_tree(path) == tree, path

    async def test_no_temporary_file_outlives_its_fetch(self, bench: FetcherBench) -> None:
        with own_tmpdir() as tmpdir:
            async with bench.open_fetcher() as fetcher:
                await bench.fetch(fetcher)
                with pytest.raises(FetchError):
                    await bench.fetch(fetcher, bench.missing_base)
                for delay_s in DELAYS_S:
                    with anyio.move_on_after(delay_s):
                        await bench.fetch(fetcher)
            # Not before: an open fetcher may have a directory there.
            assert os.listdir(tmpdir) == []

    async def test_a_fetch_leaves_nothing_open_or_running(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            await bench.fetch(fetcher)
            before = _Traces.of(bench)
            await bench.fetch(fetcher)
            with pytest.raises(FetchError):
                await bench.fetch(fetcher, bench.missing_base)
            before.check(bench, "after a fetch and one that failed")

    async def test_a_cancel_at_any_moment_stops_it(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            image, rootfs, _ = await bench.fetch(fetcher)
            whole = without_times(rootfs)
            before = _Traces.of(bench)
            for delay_s in DELAYS_S:
                begun = anyio.current_time()
                fetched = None
                with anyio.move_on_after(delay_s):
                    fetched = await bench.fetch(fetcher)
                if fetched is not None:  # it was done before
                    assert (fetched[0], without_times(fetched[1])) == (image, whole)
                late_s = anyio.current_time() - begun - delay_s
                assert late_s < LIMIT_S / 2, f"went on for {late_s:.1f} s after the cancel"
                before.check(bench, f"cancelled after {delay_s} s")
            again, rootfs, _ = await bench.fetch(fetcher)
            assert (again, without_times(rootfs)) == (image, whole)

    async def test_no_daemon_outlives_a_fetch_or_its_cancel(self, bench: FetcherBench) -> None:
        with orphans_adopted():
            async with bench.open_fetcher() as fetcher:
                await bench.fetch(fetcher)
                before = living_children()
                await bench.fetch(fetcher)
                with pytest.raises(FetchError):
                    await bench.fetch(fetcher, bench.missing_base)
                assert await that_stay(before) == []
                for delay_s in DELAYS_S:
                    with anyio.move_on_after(delay_s):
                        await bench.fetch(fetcher)
                    assert await that_stay(before) == [], f"cancelled after {delay_s} s"

    async def test_a_killed_fetch_can_be_repeated_by_another_process(
        self, bench: FetcherBench
    ) -> None:
        # What the killed ones have started dies here, too: it is no matter of this promise.
        with orphans_adopted():
            async with bench.open_fetcher() as fetcher:
                # Of what is brought once and kept, nothing is whole yet.
                for delay_s in DELAYS_S:
                    await bench.killed_fetch(fetcher, delay_s)
                image, rootfs, _ = await bench.fetch(fetcher)
                bench.check_files(rootfs)
                bench.check_entries(rootfs)
                assert mounts(bench.directory) == set()
                whole = without_times(rootfs)
                for delay_s in DELAYS_S[::2]:
                    await bench.killed_fetch(fetcher, delay_s)
                    again, rootfs, _ = await bench.fetch(fetcher)
                    assert (again, without_times(rootfs)) == (image, whole), f"{delay_s} s"
                    assert mounts(bench.directory) == set(), f"killed after {delay_s} s"
