"""Settings to an open builder: loads the chosen drivers, fills their options, opens them."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

from obuilder._core.build import BuildContext, Builder, BuildResult
from obuilder._core.checker.fsck import Checker
from obuilder._core.config import Settings, known_schemes
from obuilder._core.disk import disk_errors
from obuilder._core.drivers.driver_names import driver_of
from obuilder._core.drivers.plugins import FETCHER, KINDS, SANDBOX, STORE, Kind, Plugins
from obuilder._core.options import fill, option_names, unknown_key
from obuilder._core.own_sections import BUILD, HEALTHCHECK, PLUGINS
from obuilder._core.routing import RoutingFetcher
from obuilder.errors import ConfigError, ObuilderError, PluginError
from obuilder.interfaces import Fetcher, Sandbox, Store
from obuilder.spec.ast import Stage
from obuilder.spec.suggest import nearest

__all__ = ["build_sync", "load_backend", "open_builder", "open_checker"]

B = TypeVar("B")


@asynccontextmanager
async def open_builder(
    settings: Settings, *, plugins: Plugins | None = None
) -> AsyncIterator[Builder]:
    """A builder with the store, sandbox and fetchers of `settings`.

    Raises ConfigError for settings that do not fit, PluginError for drivers
    that cannot be loaded, BackendError for what the store's state is. An error
    of the block leaves it as it is, and no ExceptionGroup does.
    """
    failure: Exception | None = None
    try:
        async with AsyncExitStack() as stack:
            builder = await _open(stack, _Session(settings, plugins or Plugins()))
            try:
                yield builder
            except Exception as error:  # noqa: BLE001 - raised again outside the task groups
                failure = error
    except BaseExceptionGroup as group:
        alone = _alone(group)
        if failure is not None:
            failure.add_note(f"while closing the builder: {alone}")
        else:
            raise alone from group
    if failure is not None:
        raise failure


@asynccontextmanager
async def open_checker(
    settings: Settings, *, plugins: Plugins | None = None
) -> AsyncIterator[Checker]:
    """A checker of the store of `settings`, which opens no database and puts nothing in order.

    Opening the store itself makes what is missing of its directories. Raises as `open_builder`.
    """
    async with AsyncExitStack() as stack:
        session = _Session(settings, plugins or Plugins())
        store, sandbox, _ = await _open_places(stack, session)
        yield Checker(store, sandbox)


def build_sync(settings: Settings, spec: Stage, context: BuildContext | None = None) -> BuildResult:
    """Build `spec` from any thread, without an event loop of one's own.

    The builder runs in a thread of its own and takes no signal handler; a
    KeyboardInterrupt here cancels it, waits for its clean-up, and goes on.
    Raises what `open_builder` and `Builder.build` raise.
    """

    async def build() -> BuildResult:
        async with open_builder(settings) as builder:
            return await builder.build(spec, context)

    with start_blocking_portal("asyncio") as portal:
        return portal.call(build)


def load_backend(
    kind: Kind[B], settings: Settings, *, plugins: Plugins | None = None
) -> tuple[type[B], object]:
    """The configured class of one kind and its filled Config; nothing is opened.

    Raises as `open_builder` for settings that do not fit and drivers that cannot be loaded.
    """
    session = _Session(settings, plugins or Plugins())
    session.check_sections()
    return session.backend(kind)


class _Session:
    """Settings together with what is installed."""

    def __init__(self, settings: Settings, plugins: Plugins) -> None:
        self.settings = settings
        self.plugins = plugins

    def check_sections(self) -> None:
        """ConfigError for a section that is no driver's."""
        installed = {name for kind in KINDS for name in self.plugins.names(kind)}
        for section, values in self.settings.sections.items():
            if section in {_section(name) for name in installed}:
                continue
            sources = sorted({value.source for value in values.values()})
            meant = nearest(section, {*installed, BUILD, HEALTHCHECK, PLUGINS})
            says = f"did you mean [{meant}]? " if meant else ""
            raise ConfigError(
                f"there is a section [{section}], but no driver of that name is installed",
                where=", ".join(sources) or None,
                hint=f"{says}installed: {', '.join(sorted(installed)) or 'none'}",
                code="config.unknown-section",
            )

    def backend(self, kind: Kind[B]) -> tuple[type[B], object]:
        """The class of the configured driver of a kind, and its options."""
        name: str = getattr(self.settings, kind.name)
        backend = self.plugins.load(kind, name, where=self.settings.place(kind.name))
        return backend, self.config(kind, name, backend)

    def config(self, kind: Kind[Any], name: str, backend: type) -> object:
        """The options of one driver; ConfigError if one of them belongs to no driver."""
        section = _section(name)
        values = self.settings.sections.get(section, {})
        config: type = backend.Config  # type: ignore[attr-defined]  # check_class has seen it
        known = option_names(config)
        unknown = [key for key in values if key not in known]
        if unknown:
            # Drivers of other kinds with the same name share the section.
            known |= self._names_of_others(kind, name)
        for key in unknown:
            if key not in known:
                raise unknown_key(section, key, values[key], known=known)
        return fill(config, section, values)

    def fetchers(self) -> RoutingFetcher.Config:
        """How bases find their fetcher. Options are checked now, though no fetcher is opened."""
        plugins, settings = self.plugins, self.settings
        is_installed = settings.fetcher in plugins.names(FETCHER)
        if not settings.is_default("fetcher") and not is_installed:
            self.load_fetcher(settings.fetcher)  # says what is wrong, though no base may need it
        for driver in plugins.names(FETCHER):
            if settings.sections.get(_section(driver)):
                name = self._chosen(FETCHER, driver)
                self.config(FETCHER, name, self.load_fetcher(name))
        return RoutingFetcher.Config(
            default=settings.fetcher,
            installed=frozenset(plugins.names(FETCHER)),
            schemes=known_schemes(),
            load=self.load_fetcher,
            configure=lambda name, backend: self.config(FETCHER, name, backend),
        )

    def load_fetcher(self, name: str) -> type[Fetcher[Any]]:
        """A fetcher's class; one that is not installed says which other bases would work."""
        where = self.settings.place("fetcher") if name == self.settings.fetcher else None
        try:
            return self.plugins.load(FETCHER, name, where=where)
        except PluginError as error:
            if error.code != "plugin.not-installed":
                raise
            forms = [f"(from {scheme}:…)" for scheme in self._schemes()]
            if forms:
                error.hint = f"{error.hint}. A base {' or '.join(forms)} works without it"
            raise

    def _schemes(self) -> list[str]:
        found = []
        for name in self.plugins.names(FETCHER):
            try:
                if self.plugins.load(FETCHER, name).scheme:
                    found.append(name)
            except PluginError:  # a broken one is no way out; its own use says what is wrong
                continue
        return found

    def _chosen(self, kind: Kind[Any], driver: str) -> str:
        """The driver's name with its distribution, if the settings say one."""
        name = str(self.settings.choices[kind.name].value).partition(":")[0]
        return name if driver_of(name) == driver else driver

    def _names_of_others(self, kind: Kind[Any], name: str) -> frozenset[str]:
        known: frozenset[str] = frozenset()
        for other in KINDS:
            if other is kind or driver_of(name) not in self.plugins.names(other):
                continue
            try:
                also = self._chosen(other, driver_of(name))
                known |= option_names(self.plugins.load(other, also).Config)
            except PluginError:  # not chosen, so that it need not work; it adds no names
                continue
        return known


async def _open(stack: AsyncExitStack, session: _Session) -> Builder:
    settings, plugins = session.settings, session.plugins
    store, sandbox, fetchers = await _open_places(stack, session)
    fetcher = await stack.enter_async_context(RoutingFetcher.open(fetchers))
    builder = Builder(
        store,
        sandbox,
        fetcher,
        observer=plugins.hooks(settings.plugins.disable),
        platform=settings.platform,
        jobs=settings.build.jobs or _processors(),
        max_steps=settings.build.max_steps,
    )
    return await stack.enter_async_context(builder)


async def _open_places(
    stack: AsyncExitStack, session: _Session
) -> tuple[Store[Any], Sandbox[Any], RoutingFetcher.Config]:
    settings = session.settings
    session.check_sections()
    # All that can be wrong in the settings is said before anything is touched.
    store_class, store_config = session.backend(STORE)
    sandbox_class, sandbox_config = session.backend(SANDBOX)
    fetchers = session.fetchers()
    with _sources_named(settings), disk_errors():
        opening = store_class.open(settings.location, store_config)
        store = await stack.enter_async_context(opening)
        # Not in `sandbox`: OBuilder takes what it finds there for containers, and stops.
        sandbox_dir = store.state_dir / "sandboxes" / driver_of(settings.sandbox)
        sandbox = await stack.enter_async_context(sandbox_class.open(sandbox_dir, sandbox_config))
    return store, sandbox, fetchers


def _processors() -> int:
    # Those that this process may use, which can be fewer than there are.
    return len(os.sched_getaffinity(0))


@contextmanager
def _sources_named(settings: Settings) -> Iterator[None]:
    """Errors that name a setting say who set it, which a backend does not know."""
    try:
        yield
    except ConfigError as error:
        error.where = settings.place(error.where)
        raise


def _section(name: str) -> str:
    return driver_of(name).replace("_", "-")


def _alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that says most: an interrupt, else one of ours, else any."""
    leaves = list(_leaves(group))
    wanted: tuple[Callable[[BaseException], bool], ...] = (
        lambda error: isinstance(error, KeyboardInterrupt),
        lambda error: isinstance(error, ObuilderError),
        lambda error: isinstance(error, Exception),
        lambda _error: True,
    )
    return next(error for test in wanted for error in leaves if test(error))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
