"""Promises of stores about space: what is free, what a step took, what deletes give back."""

import os
from dataclasses import dataclass
from typing import Self

from obuilder.testing._tools import AnyStore, Bench, new_id

__all__ = ["SpacePromises"]

_MIB = 1 << 20
# Others may use the same disk: one of them must show what the store did.
_ATTEMPTS = 5
# What is written, at least and at most, and as a part of the file system.
_LEAST_BYTES, _MOST_BYTES, _PART = 64 * _MIB, 128 * _MIB, 0.03
# Less than this, a `df` in whole percents need not show.
_SEEN_PERCENT = 2.0
# What some file systems keep for root, which may count as free or not.
_NEAR_PERCENT = 6.0


class SpacePromises:
    """See StoreContract."""

    async def test_df_is_a_percentage(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            assert 0 < await store.df() <= 100

    async def test_deletes_that_are_complete_show_in_df(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            attempts = []
            for _ in range(_ATTEMPTS):
                attempts.append(await _Attempt.of(store))
                if attempts[-1].is_seen:
                    return
            assert all(each.is_too_little for each in attempts), attempts

    async def test_size_added_counts_what_the_step_wrote(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            base = new_id()
            async with store.build(base) as path:
                (path / "base").write_bytes(os.urandom(8 << 20))
                added = await store.size_added(base)
                if added is None:
                    return  # a store may not know
                assert 8 << 20 <= added < 9 << 20
            child = new_id()
            async with store.build(child, base=base) as path:
                assert await store.size_added(child) == 0
                (path / "new").write_bytes(os.urandom(1 << 20))
                assert 1 << 20 <= (await store.size_added(child) or 0) < 2 << 20


@dataclass(frozen=True)
class _Attempt:
    """What `df` says before data are written, with them, and without."""

    before: float
    full: float
    after: float
    written_percent: float
    """Of the file system of the store's root."""
    expected: float

    @classmethod
    async def of(cls, store: AnyStore) -> Self:
        space = os.statvfs(store.root)
        total = space.f_blocks * space.f_frsize
        size = int(min(max(_LEAST_BYTES, _PART * total), _MOST_BYTES))
        # There are file systems whose counts are those of the last sync.
        await store.complete_deletes()
        before, id = await store.df(), new_id()
        async with store.build(id) as path:
            with (path / "big").open("wb") as file:
                for _ in range(size // _MIB):
                    file.write(os.urandom(_MIB))
                file.flush()
                os.fsync(file.fileno())
        await store.complete_deletes()
        full = await store.df()
        await store.delete(id)
        await store.complete_deletes()
        free = 100 * space.f_bavail / space.f_blocks
        return cls(before, full, await store.df(), 100 * size / total, free)

    @property
    def is_seen(self) -> bool:
        """Whether it took what was written for taken, and then most of that for free."""
        return self.after - self.full >= (self.before - self.full) / 2 > 0

    @property
    def is_too_little(self) -> bool:
        """Whether nothing can be seen in numbers that may be rounded, and those are right."""
        is_rounded = self.before == self.full == self.after
        is_right = abs(self.before - self.expected) <= _NEAR_PERCENT
        return self.written_percent < _SEEN_PERCENT and is_rounded and is_right
