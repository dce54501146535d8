"""Promises of fetchers about what they bring, and about bases that there are not."""

import re

import anyio
import pytest

from obuilder.errors import FetchError
from obuilder.testing._fetcher_bench import FetcherBench, without_times
from obuilder.types import BaseImage

__all__ = ["RootPromises"]

# Of no scheme a base: no file has such a name, and no registry takes it for an image's.
ODD_TEXTS = (
    *("-obuilder-odd", "--obuilder-odd", "--help=obuilder odd", "obuilder odd", "../obuilder odd"),
    *("obuilder\nodd", "obuilder\todd", "obuilder-ödd", "obuilder-\udce9", "$(obuilder-odd)"),
    "x" * 5000,
)
# After a scheme they may stand for something: the spec's directory.
BLANK_TEXTS = ("", " ", "\t", "\n")

# What stands on a screen, and in a log, before the build's own output is out of sight.
MESSAGE_LINES = 20
MESSAGE_CHARS = 4000

_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]+")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?")


class RootPromises:
    """See FetcherContract."""

    async def test_a_base_fills_the_root(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            _, rootfs, _ = await bench.fetch(fetcher)
        bench.check_files(rootfs)

    async def test_owners_modes_and_links_are_those_of_the_base(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            _, rootfs, _ = await bench.fetch(fetcher)
        bench.check_entries(rootfs)

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
                found.append((image, without_times(rootfs)))
        assert found[0] == found[1]

    async def test_two_fetches_at_the_same_time_are_whole(self, bench: FetcherBench) -> None:
        trees = []
        async with bench.open_fetcher() as fetcher:

            async def fetch() -> None:
                _, rootfs, _ = await bench.fetch(fetcher)
                trees.append(without_times(rootfs))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch)
                tasks.start_soon(fetch)
            await fetch()
        assert trees[0] == trees[1] == trees[2]

    async def test_a_missing_base_is_a_fetch_error(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            with pytest.raises(FetchError):
                await bench.fetch(fetcher, bench.missing_base)
            # It does no harm to the next.
            await bench.fetch(fetcher)

    async def test_an_error_is_one_short_message(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            with pytest.raises(FetchError) as caught:
                await bench.fetch(fetcher, bench.missing_base)
        what = caught.value.what
        assert what.strip()
        assert len(what.splitlines()) <= MESSAGE_LINES
        assert len(what) <= MESSAGE_CHARS

    async def test_a_text_that_is_no_base_is_a_fetch_error(self, bench: FetcherBench) -> None:
        async with bench.open_fetcher() as fetcher:
            scheme = fetcher.scheme
            texts = (*BLANK_TEXTS, *ODD_TEXTS) if scheme is None else ODD_TEXTS
            for text in texts:
                with pytest.raises(FetchError):
                    await bench.fetch(fetcher, text if scheme is None else f"{scheme}:{text}")
