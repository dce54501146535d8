"""What can be tried: a store below its location; a sandbox or fetcher in a temporary directory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from obuilder._cli.conformance_place import new_location, parents_made, remove_store
from obuilder._cli.report import say
from obuilder._core.config import Settings
from obuilder._core.drivers.plugins import FETCHER, KINDS, SANDBOX, STORE, Kind
from obuilder._core.session import load_backend
from obuilder._mounts import unmount_below
from obuilder.errors import ObuilderError
from obuilder.process import run

__all__ = ["StoreSubject", "Subject", "subject"]


class Subject:
    """A backend that is tried: its class and options, and a directory for the trial."""

    def __init__(self, kind: Kind[Any], settings: Settings) -> None:
        self.kind = kind
        self.backend, self.config = load_backend(kind, settings)
        self.location: str | None = None
        self.directory = Path()

    @property
    def suite(self) -> str:
        """The class of conformance_suite.py."""
        return f"Test{self.kind.name.title()}"

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """A temporary directory for the block; what else is made is removed after it."""
        self.directory = Path(tempfile.mkdtemp(prefix="obuilder-conformance-"))
        try:
            yield
        finally:
            anyio.run(_remove, self.directory)

    async def open_once(self) -> None:
        """What is wrong with the settings is said once, and not by each promise. ObuilderError."""
        if self.kind is SANDBOX:
            async with self.backend.open(self.directory / "first", self.config):
                return
        async with self.backend.open(self.config):
            return

    def made(self, location: str) -> None:
        """A store was made there."""

    async def remove_rest(self) -> None:
        """Remove what a trial that was cut short has left."""


class StoreSubject(Subject):
    """A store: each promise has a new one below the configured location."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(STORE, settings)
        self.location = new_location(settings.location)
        self._made: list[str] = []

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """See Subject."""
        with super().prepared(), parents_made(self.location or ""):
            yield

    async def open_once(self) -> None:
        """See Subject."""
        location = f"{self.location}-0"
        async with self.backend.open(location, self.config):
            self._made.append(location)

    def made(self, location: str) -> None:
        """See Subject."""
        self._made.append(location)

    async def remove_rest(self) -> None:
        """See Subject."""
        for location in self._made:
            if Path(location).is_absolute() and not Path(location).exists():
                continue
            try:
                await remove_store(self.backend, location, self.config)
            except (ObuilderError, OSError) as error:  # told, and the others are removed
                say(f"obuilder: {location} remains: {error}")


async def _remove(directory: Path) -> None:
    """Remove it, and nothing of what a backend has left mounted there: that is the machine's."""
    await unmount_below(directory)
    await run(("rm", "-rf", "--one-file-system", "--", str(directory)))


def subject(name: str, settings: Settings) -> Subject:
    """What is tried of a kind. Raises as `load_backend`."""
    if name == STORE.name:
        return StoreSubject(settings)
    (kind,) = (kind for kind in KINDS if kind.name == name)
    assert kind in (SANDBOX, FETCHER)  # noqa: S101 - the kinds are three
    return Subject(kind, settings)
