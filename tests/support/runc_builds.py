"""A builder whose steps really run: runc and busybox, on an rsync store or another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.builds import BusyboxFetcher, Parts, open_parts

from obuilder.interfaces import Store
from obuilder_sandbox_runc import RuncSandbox
from obuilder_store_rsync import RsyncStore

__all__ = ["SHELL", "open_runc"]

SHELL = "((from busybox) (shell /bin/sh -c)"


@asynccontextmanager
async def open_runc(root: Path, *, kind: type[Store[Any]] = RsyncStore) -> AsyncIterator[Parts]:
    """A builder on a store at `root`."""
    directory = root / "state" / "sandbox" / "runc"
    async with (
        RuncSandbox.open(directory, RuncSandbox.Config()) as sandbox,
        open_parts(root, sandbox=sandbox, fetcher=BusyboxFetcher(), kind=kind) as parts,
    ):
        yield parts
