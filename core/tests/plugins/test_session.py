"""Settings to an open builder: options, routing of bases, errors, and the call from a thread."""

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from obuilder import BuildContext, PluginError, Settings, build_sync, open_builder
from obuilder._core.build_log import StepLog
from obuilder._core.drivers.plugins import FETCHER, Plugins
from obuilder._core.options import Value
from obuilder._core.routing import RoutingFetcher
from obuilder.errors import BuildError, ConfigError
from obuilder.spec import Run, Shell, Stage
from obuilder.types import FetchContext

Install = Callable[..., None]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fakes")]

SCHEMED = """
from contextlib import asynccontextmanager
import anyio
from fakes import FakeFetcher
opened = []
class Fetch(FakeFetcher):
    API = 1
    Config = FakeFetcher.Config
    scheme = "ark"

    @classmethod
    @asynccontextmanager
    async def open(cls, config):
        async with anyio.create_task_group() as tasks:
            opened.append("open")
            yield cls()
            tasks.cancel_scope.cancel()
        opened.append("closed")
"""


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, object]:
    location = f"fakestore:{tmp_path / 'store'}"
    return {"store": location, "sandbox": "fakebox", "fetcher": "fakefetch"}


@pytest.fixture
def schemed(install: Install) -> None:
    install("acme-ark", {"obuilder.fetchers": {"ark": "ark_module:Fetch"}}, {"ark_module": SCHEMED})


def spec(base: str = "busybox", *commands: str) -> Stage:
    return Stage(from_=base, ops=(Shell(("sh",)), *(Run(shell=command) for command in commands)))


async def test_builder_builds_with_the_chosen_drivers(tree: dict[str, object]) -> None:
    async with open_builder(Settings.from_dict(tree | {"fakebox": {"prefix": ">"}})) as builder:
        result = await builder.build(spec("busybox", "hello"))
    assert (result.path / "log").read_bytes() == b">hello\n"


async def test_platform_of_the_settings_is_that_of_the_builds(tree: dict[str, object]) -> None:
    async with open_builder(Settings.from_dict(tree | {"platform": "linux/riscv64"})) as builder:
        result = await builder.build(spec())
    assert (result.path / "rootfs" / "base").read_text() == "busybox linux/riscv64"


async def failing(settings: Settings) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        async with open_builder(settings):
            pass
    return caught.value


@pytest.mark.parametrize(
    ("more", "code", "part"),
    [
        ({"fakebox": {"prefx": "x"}}, "config.unknown-key", "did you mean 'prefix'?"),
        ({"fakestore": {"mode": "lnk"}}, "config.type", "did you mean 'link'?"),
        ({"fakefetch": {"registri": ""}}, "config.unknown-key", "did you mean 'registry'?"),
        ({"fakebax": {"prefix": "x"}}, "config.unknown-section", "did you mean [fakebox]?"),
        ({"store": "fakestor:/x"}, "plugin.not-installed", "did you mean 'fakestore'?"),
        ({"sandbox": "nothing"}, "plugin.not-installed", "obuilder-sandbox-nothing"),
    ],
)
async def test_wrong_settings_are_told_before_anything_is_made(
    tree: dict[str, object], tmp_path: Path, more: dict[str, object], code: str, part: str
) -> None:
    error = await failing(Settings.from_dict(tree | more))
    assert (error.code, part in str(error.hint)) == (code, True)
    assert not (tmp_path / "store").exists()


async def test_two_drivers_of_one_name_share_a_section(
    tree: dict[str, object], install: Install
) -> None:
    install("acme-twin", {"obuilder.fetchers": {"fakebox": "fakes:FakeFetcher"}})
    shared = Settings.from_dict(tree | {"fakebox": {"registry": "r", "prefix": "p"}})
    async with open_builder(shared) as builder:
        await builder.build(spec())
    wrong = Settings.from_dict(tree | {"fakebox": {"registri": "r"}})
    assert (await failing(wrong)).code == "config.unknown-key"


@pytest.mark.usefixtures("schemed")
async def test_base_with_a_scheme_goes_whole_to_its_fetcher_which_is_closed_at_the_end(
    tree: dict[str, object],
) -> None:
    async with open_builder(Settings.from_dict(tree)) as builder:
        import ark_module  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

        assert ark_module.opened == []
        result = await builder.build(spec("ark:some/image"))
        await builder.build(spec("ark:other"))
        assert ark_module.opened == ["open"]
    assert ark_module.opened == ["open", "closed"]
    assert (result.path / "rootfs" / "base").read_text().startswith("ark:some/image ")


@pytest.mark.usefixtures("schemed")
async def test_installed_fetcher_without_a_scheme_claims_no_base(tree: dict[str, object]) -> None:
    async with open_builder(Settings.from_dict(tree)) as builder:
        result = await builder.build(spec("fakefetch:dind"))
    assert (result.path / "rootfs" / "base").read_text().startswith("fakefetch:dind ")


@pytest.mark.usefixtures("schemed")
async def test_fetcher_that_is_missing_matters_only_to_a_base_that_needs_it(
    tree: dict[str, object],
) -> None:
    settings = Settings.from_dict({key: tree[key] for key in tree if key != "fetcher"})
    gone = Value(value="gone", source="defaults.toml", packaged=True)
    settings = replace(settings, choices={**settings.choices, "fetcher": gone})
    async with open_builder(settings) as builder:
        await builder.build(spec("ark:image"))
        with pytest.raises(PluginError) as caught:
            await builder.build(spec("busybox"))
    assert caught.value.code == "plugin.not-installed"
    assert "pip install obuilder-fetcher-gone" in str(caught.value.hint)
    assert "(from ark:…)" in str(caught.value.hint)


async def test_fetcher_that_was_chosen_and_is_missing_is_told_at_once(
    tree: dict[str, object],
) -> None:
    error = await failing(Settings.from_dict(tree | {"fetcher": "gone"}))
    assert (error.code, error.where) == ("plugin.not-installed", "settings: fetcher")


async def test_missing_fetcher_of_a_known_scheme_is_named(tmp_path: Path) -> None:
    config = RoutingFetcher.Config(
        default="gone",
        installed=set(),
        schemes={"lost"},
        load=lambda name: Plugins().load(FETCHER, name),
        configure=lambda _name, backend: backend.Config(),
    )
    log = StepLog(tmp_path / "log")
    where = FetchContext(platform="linux/amd64")
    async with RoutingFetcher.open(config) as router:
        for base, distribution in (("lost:x", "lost"), ("lust:x", "gone")):
            with pytest.raises(PluginError) as caught:
                await router.fetch(base, tmp_path, log=log, scratch=tmp_path, context=where)
            assert f"pip install obuilder-fetcher-{distribution}" in str(caught.value.hint)
    log.dispose()


async def test_error_of_a_backend_names_who_set_the_value(
    tree: dict[str, object], install: Install
) -> None:
    source = """
    from contextlib import asynccontextmanager
    from dataclasses import dataclass
    from fakes import FakeStore
    from obuilder.errors import ConfigError
    class Picky(FakeStore):
        API = 1
        @dataclass(frozen=True)
        class Config:
            size: int = 1
        @classmethod
        @asynccontextmanager
        async def open(cls, location, config):
            raise ConfigError("no", where="store" if config.size == 1 else "picky.size")
            yield
    """
    install("acme-picky", {"obuilder.stores": {"picky": "picky:Picky"}}, {"picky": source})
    error = await failing(Settings.from_dict(tree | {"store": "picky:/x"}))
    assert error.where == "settings: store"
    error = await failing(Settings.from_dict(tree | {"store": "picky:/x", "picky": {"size": 2}}))
    assert error.where == "settings: picky.size"


async def test_fetcher_that_cannot_be_opened_leaves_the_builder_usable(
    tree: dict[str, object], install: Install
) -> None:
    source = """
    from contextlib import asynccontextmanager
    from fakes import FakeFetcher
    from obuilder.errors import ConfigError
    class Fetch(FakeFetcher):
        API = 1
        Config = FakeFetcher.Config
        scheme = "shut"
        @classmethod
        @asynccontextmanager
        async def open(cls, config):
            raise ConfigError("no", code="test.shut")
            yield
    """
    install(
        "acme-shut", {"obuilder.fetchers": {"shut": "shut_module:Fetch"}}, {"shut_module": source}
    )
    async with open_builder(Settings.from_dict(tree)) as builder:
        for _ in range(2):
            with pytest.raises(ConfigError) as caught:
                await builder.build(spec("shut:x"))
            assert caught.value.code == "test.shut"
        await builder.build(spec("busybox"))


async def test_error_of_the_block_leaves_it_unwrapped(tree: dict[str, object]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_builder(Settings.from_dict(tree)):
            raise ZeroDivisionError


async def test_error_of_a_build_leaves_the_block_unwrapped(tree: dict[str, object]) -> None:
    with pytest.raises(BuildError) as caught:
        async with open_builder(Settings.from_dict(tree)) as builder:
            await builder.build(spec("busybox", "exit 3"))
    assert caught.value.code == "command.failed"


async def test_cancelling_passes_through_the_block(tree: dict[str, object]) -> None:
    ended = False
    with anyio.CancelScope() as scope:
        async with open_builder(Settings.from_dict(tree)) as builder:
            try:
                scope.cancel()
                await builder.build(spec("busybox", "wait"))
            finally:
                ended = True
    assert ended
    assert scope.cancelled_caught


def test_build_sync_builds_from_any_thread_and_takes_no_signal_handler(
    tree: dict[str, object],
) -> None:
    handlers: list[object] = []
    results = []

    def build() -> None:
        context = BuildContext(
            on_event=lambda _event: handlers.append(signal.getsignal(signal.SIGINT))
        )
        results.append(build_sync(Settings.from_dict(tree), spec("busybox", "hi"), context))

    before = signal.getsignal(signal.SIGINT)
    build()
    thread = threading.Thread(target=build)
    thread.start()
    thread.join(60)
    assert len(results) == 2
    assert results[0] == results[1]
    assert set(handlers) == {before}


def test_build_sync_raises_the_builds_own_error(tree: dict[str, object]) -> None:
    with pytest.raises(BuildError):
        build_sync(Settings.from_dict(tree), spec("busybox", "exit 1"))
