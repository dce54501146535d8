"""What tests of our own stores work with, beside the contract."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from obuilder.testing._tools import AnyStore, BodyFailed, OpenStore, descriptors, new_id
from obuilder.testing._trees import describe_tree as describe
from obuilder.testing._trees import make_rich_tree
from obuilder.types import Id

__all__ = [
    "AnyStore",
    "BodyFailed",
    "OpenStore",
    "built",
    "describe",
    "descriptors",
    "failing_build",
    "make_rich_tree",
    "new_id",
]


async def built(store: AnyStore, content: str = "x", *, base: Id | None = None) -> Id:
    id = new_id()
    async with store.build(id, base=base) as path:
        (path / "rootfs").mkdir(exist_ok=True)
        (path / "rootfs" / "content").write_text(content)
        (path / "log").write_text(f"log of {content}")
    return id


async def failing_build(
    store: AnyStore, id: Id, spoil: Callable[[Path], Awaitable[None]] | None = None
) -> Path:
    """A build that dies after `spoil` has been at its directory, which is returned."""
    path = Path()
    with pytest.raises(BodyFailed):  # noqa: PT012 - what fails is the block of a build
        async with store.build(id) as path:
            if spoil is not None:
                await spoil(path)
            raise BodyFailed
    return path
