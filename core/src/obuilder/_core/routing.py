"""Which fetcher brings a base: the one whose scheme it has, else the configured one."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from obuilder._core.drivers.driver_names import driver_of
from obuilder.errors import FetchError, PluginError
from obuilder.interfaces import BuildLog, Fetcher
from obuilder.types import BaseImage, FetchContext

__all__ = ["RoutingFetcher"]


class RoutingFetcher(Fetcher["RoutingFetcher.Config"]):
    """All installed fetchers as one; each is opened when the first base needs it."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """What the fetchers are, by driver name.

        `load` imports a driver's class, `configure` gives its Config; both raise
        PluginError or ConfigError. `default` need not be among `installed`, nor
        need `schemes`, which some fetcher somewhere has.
        """

        default: str
        installed: Collection[str]
        schemes: Collection[str] = ()
        load: Callable[[str], type[Fetcher[Any]]]
        configure: Callable[[str, type[Fetcher[Any]]], object]

    def __init__(self, config: Config, tasks: TaskGroup) -> None:
        self._config = config
        self._tasks = tasks
        self._closing = anyio.Event()
        self._open: dict[str, Fetcher[Any]] = {}
        self._opening: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:
        """Open no fetcher yet; those that were needed are closed at the end."""
        async with anyio.create_task_group() as tasks:
            router = cls(config, tasks)
            try:
                yield router
            finally:
                router._closing.set()

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        """Let the right fetcher bring `base`, of which it gets the whole text."""
        name = self._route(base)
        try:
            fetcher = await self._opened(name)
            return await fetcher.fetch(base, rootfs, log=log, scratch=scratch, context=context)
        except (FetchError, PluginError) as error:
            scheme = base.partition(":")[0]
            if scheme in self._config.schemes and scheme not in self._config.installed:
                error.hint = (
                    f"a base {scheme}:… has a fetcher of its own, which is not installed:"
                    f" pip install obuilder-fetcher-{scheme}"
                )
            raise

    async def _opened(self, name: str) -> Fetcher[Any]:
        async with self._opening[name]:
            if name not in self._open:
                await self._tasks.start(self._serve, name)
        return self._open[name]

    def _route(self, base: str) -> str:
        scheme, colon, _ = base.partition(":")
        if scheme == driver_of(self._config.default):
            # Also where two distributions claim the scheme, and the settings say which.
            return self._config.default
        known = colon and scheme in self._config.installed
        if known and self._config.load(scheme).scheme == scheme:
            return scheme
        return self._config.default

    async def _serve(self, name: str, *, task_status: TaskStatus[None]) -> None:
        # A task of its own: a fetcher's block may hold a cancel scope, which only
        # the task that entered it may leave, and steps come and go.
        backend = self._config.load(name)
        async with backend.open(self._config.configure(name, backend)) as fetcher:
            self._open[name] = fetcher
            task_status.started()
            await self._closing.wait()
