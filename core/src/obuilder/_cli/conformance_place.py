"""Where a store is tried: new stores below its location, which are removed again.

They lie side by side: a data set above them would be nobody's to remove.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from obuilder.errors import ObuilderError, StoreError
from obuilder.interfaces import Store
from obuilder.process import run

__all__ = ["new_location", "parents_made", "remove_store"]

_PREFIX = "obuilder-conformance-"


def new_location(location: str) -> str:
    """What the locations of new stores below `location` begin with."""
    return f"{location.rstrip('/')}/{_PREFIX}{secrets.token_hex(4)}"


@contextmanager
def parents_made(location: str) -> Iterator[None]:
    """Remove those directories above `location` afterwards that were not there before."""
    missing: list[Path] = []
    with suppress(RuntimeError):  # `~` of no user: the store says what is wrong
        path = Path(location).expanduser()
        if path.is_absolute():
            missing = [each for each in path.parents if not each.exists()]
    try:
        yield
    finally:
        # What is not empty stays: somebody else's, or what could not be removed and was told.
        with suppress(OSError):
            for directory in missing:
                directory.rmdir()


async def remove_store(backend: type[Store[Any]], location: str, config: object) -> None:
    """Empty the store at `location`, a new one of ours, and remove it. ObuilderError."""
    async with backend.open(location, config) as store:
        root = store.root
        if not any(part.startswith(_PREFIX) for part in root.parts):
            raise StoreError(f"the root {root} of the store {location} is not below its location")
        await _empty(store)
        await store.erase()
    # The store's own way comes first: files alone are not all that it may have made.
    await run(["rm", "-rf", "--one-file-system", "--", str(root)])


async def _empty(store: Store[Any]) -> None:
    for leftover in await store.leftovers():
        await store.discard(leftover)
    for name in await store.caches():
        await store.delete_cache(name)
    left = list(await store.results())
    while left:
        refused = []
        for id in left:
            try:
                await store.delete(id)
            except ObuilderError as error:  # others are built on it: again when those are gone
                refused.append((id, error))
        if len(refused) == len(left):
            raise refused[0][1]
        left = [id for id, _ in refused]
