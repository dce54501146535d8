"""Fetchers with one fault each; `CAUGHT_BY` names the promise of the suite that catches it."""

import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio.lowlevel

from obuilder.errors import FetchError
from obuilder.interfaces import BuildLog
from obuilder.process import run
from obuilder.types import BaseImage, FetchContext
from obuilder_fetcher_archive import ArchiveFetcher

__all__ = ["BROKEN_FETCHERS", "BrokenFetcher"]


class BrokenFetcher(ArchiveFetcher):
    """A fetcher without a fault; those below have one, before or after they fetch."""

    API: ClassVar[int] = 1
    Config = ArchiveFetcher.Config
    CAUGHT_BY: ClassVar[str]

    async def before(self, base: str, rootfs: Path) -> None:
        """What is done first."""

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        """What is made of the image at last."""
        del rootfs
        return image

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        await self.before(base, rootfs)
        image = await super().fetch(base, rootfs, log=log, scratch=scratch, context=context)
        return await self.after(image, rootfs)


class SaysNoOptions(BrokenFetcher):
    CAUGHT_BY = "the_class_says_its_interface_and_its_options"
    API: ClassVar[int] = 1


class ChangesFiles(BrokenFetcher):
    CAUGHT_BY = "a_base_fills_the_root"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        (rootfs / "etc" / "passwd").write_text("daemon:x:1:1::/:/bin/sh\n")
        return image


class GivesAllToRoot(BrokenFetcher):
    CAUGHT_BY = "owners_modes_and_links_are_those_of_the_base"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        await run(("chown", "-R", "--no-dereference", "0:0", str(rootfs)))
        return image


class LosesSetuid(BrokenFetcher):
    CAUGHT_BY = "owners_modes_and_links_are_those_of_the_base"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        await run(("chmod", "-R", "u-s,g-s", str(rootfs)))
        return image


class MakesLinksAbsolute(BrokenFetcher):
    CAUGHT_BY = "owners_modes_and_links_are_those_of_the_base"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        (rootfs / "etc" / "localtime").unlink()
        (rootfs / "etc" / "localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
        return image


class CopiesHardLinks(BrokenFetcher):
    CAUGHT_BY = "owners_modes_and_links_are_those_of_the_base"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        await run(("cp", "-a", "again", "copy"), cwd=rootfs / "home" / "user")
        (rootfs / "home" / "user" / "copy").rename(rootfs / "home" / "user" / "again")
        return image


class TellsABareDigest(BrokenFetcher):
    CAUGHT_BY = "what_is_told_of_an_image_is_well_formed"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        return replace(image, digest="0123456789abcdef")


class MakesAnId(BrokenFetcher):
    CAUGHT_BY = "the_same_base_again_is_the_same"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        (rootfs / "etc" / "machine-id").write_bytes(os.urandom(16))
        return image


class FetchesOneAtATime(BrokenFetcher):
    CAUGHT_BY = "two_fetches_at_the_same_time_are_whole"
    busy = False

    async def before(self, base: str, rootfs: Path) -> None:
        if self.busy:
            raise FetchError("another fetch is under way")
        self.busy = True

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        self.busy = False
        return image


class TakesTheMissingForEmpty(BrokenFetcher):
    CAUGHT_BY = "a_missing_base_is_a_fetch_error"

    async def fetch(self, base: str, rootfs: Path, **options: Any) -> BaseImage:
        if "missing" in base:
            return BaseImage()
        return await super().fetch(base, rootfs, **options)


class TellsAWholeLog(BrokenFetcher):
    CAUGHT_BY = "an_error_is_one_short_message"

    async def before(self, base: str, rootfs: Path) -> None:
        if "missing" in base:
            raise FetchError("\n".join(f"trying mirror {number}" for number in range(100)))


class TellsAWholePage(BrokenFetcher):
    CAUGHT_BY = "an_error_is_one_short_message"

    async def before(self, base: str, rootfs: Path) -> None:
        if "missing" in base:
            raise FetchError("the mirror said: " + "<br>" * 2000)


class LetsErrorsOfOthersThrough(BrokenFetcher):
    CAUGHT_BY = "a_text_that_is_no_base_is_a_fetch_error"

    async def before(self, base: str, rootfs: Path) -> None:
        base.encode()


class WritesBesideTheRoot(BrokenFetcher):
    CAUGHT_BY = "nothing_is_written_beside_the_root_and_the_scratch"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        (rootfs.parent / "image.json").touch()
        return image


class WritesWhereItRuns(BrokenFetcher):
    CAUGHT_BY = "nothing_is_written_beside_the_root_and_the_scratch"

    async def before(self, base: str, rootfs: Path) -> None:
        Path("fetched.log").touch()


class WritesBesideTheSpec(BrokenFetcher):
    CAUGHT_BY = "nothing_is_written_beside_the_root_and_the_scratch"

    async def fetch(
        self, base: str, rootfs: Path, *, context: FetchContext, **options: Any
    ) -> BaseImage:
        assert context.spec_dir
        (context.spec_dir / "lock.json").write_text(base)
        return await super().fetch(base, rootfs, context=context, **options)


class LeavesATemporaryDownload(BrokenFetcher):
    CAUGHT_BY = "no_temporary_file_outlives_its_fetch"

    async def before(self, base: str, rootfs: Path) -> None:
        descriptor, _ = tempfile.mkstemp()
        os.close(descriptor)


class LeavesATemporaryDirectoryWhenItFails(BrokenFetcher):
    CAUGHT_BY = "no_temporary_file_outlives_its_fetch"

    async def before(self, base: str, rootfs: Path) -> None:
        if "missing" in base:
            await run(("mktemp", "--directory"))


class LeavesAFileOpen(BrokenFetcher):
    CAUGHT_BY = "a_fetch_leaves_nothing_open_or_running"

    async def before(self, base: str, rootfs: Path) -> None:
        os.open("/", os.O_RDONLY)


class LeavesAProgramWhenCancelled(BrokenFetcher):
    CAUGHT_BY = "a_cancel_at_any_moment_stops_it"

    async def before(self, base: str, rootfs: Path) -> None:
        pid = _begin()
        await anyio.lowlevel.checkpoint()
        _end(pid)


class LeavesADaemon(BrokenFetcher):
    CAUGHT_BY = "no_daemon_outlives_a_fetch_or_its_cancel"

    async def after(self, image: BaseImage, rootfs: Path) -> BaseImage:
        await run(("sh", "-c", _DAEMON))
        return image


class LeavesADaemonWhenCancelled(BrokenFetcher):
    CAUGHT_BY = "no_daemon_outlives_a_fetch_or_its_cancel"

    async def before(self, base: str, rootfs: Path) -> None:
        said = await run(("sh", "-c", _DAEMON))
        await run(_A_WHILE)
        os.kill(int(said.stdout), signal.SIGKILL)


class TakesADeadFetchForLive(BrokenFetcher):
    CAUGHT_BY = "a_killed_fetch_can_be_repeated_by_another_process"

    async def fetch(self, base: str, rootfs: Path, **options: Any) -> BaseImage:
        mine = rootfs.parents[1] / "busy"
        if mine.exists():
            raise FetchError("another fetch is under way")
        mine.touch()
        try:
            await run(_A_WHILE)
            return await super().fetch(base, rootfs, **options)
        finally:
            mine.unlink()


class TakesAHalfCopyForWhole(BrokenFetcher):
    CAUGHT_BY = "a_killed_fetch_can_be_repeated_by_another_process"

    async def fetch(self, base: str, rootfs: Path, **options: Any) -> BaseImage:
        kept = rootfs.parents[1] / "kept"
        if not kept.exists():
            kept.mkdir()
            await run(_A_WHILE)
            await super().fetch(base, kept, **options)
        await run(("cp", "-a", f"{kept}/.", str(rootfs)))
        return BaseImage()


class LeavesAMountWhenKilled(BrokenFetcher):
    CAUGHT_BY = "a_killed_fetch_can_be_repeated_by_another_process"

    async def fetch(self, base: str, rootfs: Path, *, scratch: Path, **options: Any) -> BaseImage:
        async with _mounted(scratch):
            await run(_A_WHILE)
        return await super().fetch(base, rootfs, scratch=scratch, **options)


# Its parent tells its number and ends.
_DAEMON = "setsid sleep 100 </dev/null >/dev/null 2>&1 & echo $!"

_A_WHILE = ("sleep", "0.25")  # longer than from one moment of a cancel or kill to the next


@asynccontextmanager
async def _mounted(place: Path) -> AsyncIterator[None]:
    await run(("mount", "-t", "tmpfs", "none", str(place)))
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await run(("umount", str(place)))


def _begin() -> int:
    return os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "20")


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


BROKEN_FETCHERS = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, BrokenFetcher) and kind is not BrokenFetcher
]
