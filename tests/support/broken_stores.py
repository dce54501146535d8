"""Stores with one fault each; `CAUGHT_BY` names the promise of the suite that catches it."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio

from obuilder.directory_store import run_tool
from obuilder.errors import StoreError
from obuilder.process import run
from obuilder.types import Id, Leftover
from obuilder_store_rsync import RsyncStore

__all__ = ["BROKEN", "BrokenStore"]


async def many_programs() -> None:
    """As long as a big tree would take: a kill between two parts of a fault must find it."""
    for _ in range(40):
        await run_tool(["true"], doing="wait")


class BrokenStore(RsyncStore):
    """A store without a fault; those below have one."""

    API: ClassVar[int] = 1
    Config = RsyncStore.Config
    CAUGHT_BY: ClassVar[str]


class SaysNoInterface(BrokenStore):
    CAUGHT_BY = "the_class_says_its_interface_and_its_options"
    Config = RsyncStore.Config


class HasOptionsThatChange(BrokenStore):
    CAUGHT_BY = "the_class_says_its_interface_and_its_options"
    API: ClassVar[int] = 1

    @dataclass
    class Config:
        mode: str = "copy"


class LeavesAFailedBuild(BrokenStore):
    CAUGHT_BY = "a_failed_build_leaves_nothing_and_can_be_repeated"

    async def _abandon(self, temporary: Path, reason: BaseException) -> None:
        del temporary, reason


class SavesACancelledBuild(BrokenStore):
    CAUGHT_BY = "a_cancelled_build_leaves_nothing"

    async def _abandon(self, temporary: Path, reason: BaseException) -> None:
        if isinstance(reason, Exception):
            await super()._abandon(temporary, reason)
        else:
            await self.publish(temporary, self._results / temporary.name)


class LosesAResultToALateCancel(BrokenStore):
    CAUGHT_BY = "a_cancel_after_the_block_ended_finds_the_result_saved"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as path:
            yield path
            await anyio.lowlevel.checkpoint()


class BuildsOnNothing(BrokenStore):
    CAUGHT_BY = "a_missing_base_is_a_store_error"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        known = base if base and await self.result(base) else None
        async with super().build(id, base=known) as path:
            yield path


class SharesItsTrees(BrokenStore):
    CAUGHT_BY = "neither_base_nor_clone_sees_the_others_changes"

    async def clone_tree(self, source: Path, target: Path) -> None:
        target.mkdir()
        for entry in source.iterdir():
            (target / entry.name).symlink_to(entry)


class SharesItsFiles(BrokenStore):
    CAUGHT_BY = "a_result_cannot_be_changed_by_a_later_step"

    async def clone_tree(self, source: Path, target: Path) -> None:
        await run_tool(["cp", "-al", str(source), str(target)], doing="link")


class BringsBackWhatIsRemoved(BrokenStore):
    CAUGHT_BY = "what_a_step_changes_is_kept_and_is_not_in_its_base"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as path:
            yield path
            if base:
                argv = ("rsync", "-aHAXS", "--ignore-existing", f"{self._results / base}/")
                # 23: there is a file now where the base has a directory.
                await run((*argv, f"{path}/"), ok=(0, 23))


class LosesNewModes(BrokenStore):
    CAUGHT_BY = "what_a_step_changes_is_kept_and_is_not_in_its_base"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as path:
            yield path
            if base:
                new = path.rename(path.with_name(f"{id}-new"))
                await self.clone_tree(self._results / base, path)
                argv = ("rsync", "-aHXS", "--modify-window=-1", "--no-perms", "--delete")
                await run_tool([*argv, f"{new}/", f"{path}/"], doing="merge")
                await self.remove_tree(new)


class BringsNoLogAlong(BrokenStore):
    CAUGHT_BY = "a_clone_brings_all_files_of_its_base_along"

    async def clone_tree(self, source: Path, target: Path) -> None:
        await super().clone_tree(source, target)
        (target / "log").unlink(missing_ok=True)


class _CopiesWith(BrokenStore):
    CAUGHT_BY = "everything_in_a_tree_survives_three_generations"
    OPTIONS: ClassVar[tuple[str, ...]]

    async def clone_tree(self, source: Path, target: Path) -> None:
        await run_tool(["rsync", *self.OPTIONS, f"{source}/", f"{target}/"], doing="copy")


class LosesOwners(_CopiesWith):
    OPTIONS = ("-rlptDHAXS", "--modify-window=-1")


class LosesHardLinks(_CopiesWith):
    OPTIONS = ("-aAXS", "--modify-window=-1")


class LosesAttributes(_CopiesWith):
    OPTIONS = ("-aHAS", "--modify-window=-1")


class LosesAccessLists(_CopiesWith):
    OPTIONS = ("-aHXS", "--modify-window=-1")


class LosesTimes(_CopiesWith):
    OPTIONS = ("-rlpgoDHAXS",)


class FillsHoles(_CopiesWith):
    OPTIONS = ("-aHAX", "--modify-window=-1")


class LosesDevices(_CopiesWith):
    OPTIONS = ("-rlptgoHAXS", "--modify-window=-1")


class KeepsWhatIsDeleted(BrokenStore):
    CAUGHT_BY = "delete_removes_a_result_and_only_once"

    async def delete(self, id: Id) -> None:
        del id


class DeletesDescendants(BrokenStore):
    CAUGHT_BY = "deleting_the_middle_of_a_chain_is_refused_or_leaves_descendants_whole"

    def __init__(self, root: Path, *, mode: str = "copy") -> None:
        super().__init__(root, mode=mode)
        self._children: dict[Id, list[Id]] = {}

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as path:
            yield path
        if base:
            self._children.setdefault(base, []).append(id)

    async def delete(self, id: Id) -> None:
        for child in self._children.pop(id, []):
            await self.delete(child)
        await super().delete(id)


class ListsAllThereIs(BrokenStore):
    CAUGHT_BY = "results_are_those_that_are_saved_and_no_others"

    async def results(self) -> Sequence[Id]:
        return [*await super().results(), *(Id(path.name) for path in self._temporary.iterdir())]


class DiscardsAnything(BrokenStore):
    CAUGHT_BY = "only_leftovers_can_be_discarded"

    async def discard(self, leftover: Leftover) -> None:
        if leftover.path:
            await self.remove_tree(leftover.path)


class OpensWithABroom(BrokenStore):
    CAUGHT_BY = "opening_leaves_alone_what_another_process_uses"

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Any) -> AsyncIterator[Self]:
        async with super().open(location, config) as store:
            for leftover in await store.leftovers():
                await store.discard(leftover)
            yield store


class HidesLeftovers(BrokenStore):
    CAUGHT_BY = "what_a_killed_builder_left_is_listed_and_can_be_discarded"

    async def leftovers(self) -> Sequence[Leftover]:
        return ()


class BuildsOnLeftovers(BrokenStore):
    CAUGHT_BY = "a_build_after_a_kill_starts_afresh"

    async def remove_tree(self, path: Path) -> None:
        if path.parent != self._temporary or await self.result(Id(path.name)):
            await super().remove_tree(path)


class SavesPieceByPiece(BrokenStore):
    CAUGHT_BY = "a_builder_killed_at_any_moment_leaves_all_or_nothing"

    async def publish(self, temporary: Path, result: Path) -> None:
        result.mkdir()
        for entry in sorted(temporary.iterdir(), reverse=True):
            await run_tool(["cp", "-a", str(entry), str(result)], doing="copy")
            await many_programs()
        await self.remove_tree(temporary)


class DeletesInPlace(BrokenStore):
    CAUGHT_BY = "a_delete_that_is_killed_leaves_all_or_nothing"

    async def delete(self, id: Id) -> None:
        result = self._results / id
        if result.exists():
            await self.remove_tree(result / "rootfs")
            await many_programs()
            await self.remove_tree(result)


class LocksItsBase(BrokenStore):
    CAUGHT_BY = "ten_builds_at_once_on_one_base"

    def __init__(self, root: Path, *, mode: str = "copy") -> None:
        super().__init__(root, mode=mode)
        self._one = anyio.Lock()

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with self._one, super().build(id, base=base) as path:
            yield path


class CountsWrong(BrokenStore):
    CAUGHT_BY = "df_is_a_percentage"

    async def df(self) -> float:
        return 100 * await super().df()


class CountsTwice(BrokenStore):
    CAUGHT_BY = "size_added_counts_what_the_step_wrote"

    async def size_added(self, id: Id) -> int | None:
        return 2 * (await super().size_added(id) or 0)


class SaysWhatIsFreeElsewhere(BrokenStore):
    CAUGHT_BY = "deletes_that_are_complete_show_in_df"

    def __init__(self, root: Path, *, mode: str = "copy") -> None:
        super().__init__(root, mode=mode)
        space = os.statvfs(root)
        # A number that is wrong however full this disk is.
        self._free = (100 * space.f_bavail / space.f_blocks + 50) % 100

    async def df(self) -> float:
        return self._free


class FreesWhenItIsClosed(BrokenStore):
    CAUGHT_BY = "deletes_that_are_complete_show_in_df"

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Any) -> AsyncIterator[Self]:
        async with super().open(location, config) as store:
            (store.root / "trash").mkdir(exist_ok=True)
            yield store
            await store.remove_tree(store.root / "trash")

    async def delete(self, id: Id) -> None:
        if await self.result(id):
            (self._results / id).rename(self.root / "trash" / id)


class LeaksDescriptors(BrokenStore):
    CAUGHT_BY = "use_leaks_no_descriptors"

    async def df(self) -> float:
        os.open(self.root, os.O_RDONLY)
        return await super().df()


class CannotFindItsLog(BrokenStore):
    CAUGHT_BY = "a_build_is_saved_with_its_log"

    async def log_file(self, id: Id) -> Path:
        return self._results / id / "log"


class ForgetsItsState(BrokenStore):
    CAUGHT_BY = "a_state_directory_is_there_for_the_core"

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Any) -> AsyncIterator[Self]:
        with suppress(FileNotFoundError):
            shutil.rmtree(Path(location) / "state")
        async with super().open(location, config) as store:
            yield store


class CannotSeeOthersResults(BrokenStore):
    CAUGHT_BY = "two_objects_on_one_store_see_each_others_results"

    def __init__(self, root: Path, *, mode: str = "copy") -> None:
        super().__init__(root, mode=mode)
        self._mine: set[Id] = set()

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as path:
            yield path
        self._mine.add(id)

    async def result(self, id: Id) -> Path | None:
        return await super().result(id) if id in self._mine else None


class LeavesACancelledClone(BrokenStore):
    CAUGHT_BY = "a_clone_that_is_cancelled_leaves_nothing"

    async def clone_tree(self, source: Path, target: Path) -> None:
        target.mkdir()
        await super().clone_tree(source, target)

    async def _abandon(self, temporary: Path, reason: BaseException) -> None:
        if isinstance(reason, StoreError) or list(temporary.iterdir()):
            await super()._abandon(temporary, reason)


BROKEN = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type)
    and issubclass(kind, BrokenStore)
    and kind is not BrokenStore
    and not kind.__name__.startswith("_")
]
