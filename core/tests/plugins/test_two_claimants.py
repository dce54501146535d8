"""Two distributions that claim one driver: the error shows the way out, and the way out works."""

from collections.abc import Callable
from pathlib import Path

import pytest

from obuilder import BuildContext, Settings, open_builder
from obuilder._core.config import Settings as CoreSettings
from obuilder._core.drivers.plugins import FETCHER, SANDBOX, STORE, Kind, Plugins
from obuilder.errors import ConfigError, PluginError
from obuilder.spec import Run, Shell, Stage

Install = Callable[..., None]
pytestmark = pytest.mark.usefixtures("fakes")

RIVALS = """
from contextlib import asynccontextmanager
from fakes import FakeFetcher, FakeSandbox, FakeStore
from obuilder.types import BaseImage
from dataclasses import dataclass

class Store(FakeStore):
    API = 1
    Config = FakeStore.Config

class Sandbox(FakeSandbox):
    API = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        prefix: str = "rival "

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir, config):
        state_dir.mkdir(parents=True)
        async with super().open(state_dir, config) as sandbox:
            yield sandbox

class Fetcher(FakeFetcher):
    API = 1
    Config = FakeFetcher.Config
    scheme = "fakefetch"

    async def fetch(self, base, rootfs, *, log, scratch, context):
        (rootfs / "base").write_text("rival")
        return BaseImage(platform=context.platform)
"""


@pytest.fixture(autouse=True)
def rivals(install: Install) -> None:
    points = {
        "obuilder.stores": {"fakestore": "rivals:Store"},
        "obuilder.sandboxes": {"fakebox": "rivals:Sandbox"},
        "obuilder.fetchers": {"fakefetch": "rivals:Fetcher"},
    }
    install("My.Corp_Dist", points, {"rivals": RIVALS})


@pytest.mark.parametrize(
    ("kind", "driver", "way_out"),
    [
        (STORE, "fakestore", "--store=My.Corp_Dist/fakestore:LOCATION"),
        (SANDBOX, "fakebox", "--sandbox=My.Corp_Dist/fakebox or --sandbox=obuilder-fakes/fakebox"),
        (FETCHER, "fakefetch", "--fetcher=obuilder-fakes/fakefetch"),
    ],
)
def test_a_conflict_names_both_and_how_to_say_which(
    kind: Kind[object], driver: str, way_out: str
) -> None:
    with pytest.raises(PluginError) as caught:
        Plugins().load(kind, driver)
    assert caught.value.code == "plugin.conflict"
    assert "My.Corp_Dist" in caught.value.what
    assert "obuilder-fakes" in caught.value.what
    assert way_out in str(caught.value.hint)


@pytest.mark.parametrize("spelling", ["My.Corp_Dist", "my-corp-dist"])
def test_the_distribution_before_the_driver_says_which(spelling: str) -> None:
    assert Plugins().load(SANDBOX, f"{spelling}/fakebox").__module__ == "rivals"
    assert Plugins().load(SANDBOX, "obuilder-fakes/fakebox").__module__ == "fakes"


def test_a_distribution_without_the_driver_says_who_has_it() -> None:
    with pytest.raises(PluginError) as caught:
        Plugins().load(STORE, "other/fakestore", where="--store")
    assert (caught.value.code, caught.value.where) == ("plugin.not-installed", "--store")
    assert "--store=obuilder-fakes/fakestore:LOCATION" in str(caught.value.hint)


@pytest.mark.anyio
@pytest.mark.parametrize("base", ["busybox", "fakefetch:busybox"])
async def test_a_build_takes_all_three_from_the_one_that_is_named(
    base: str, tmp_path: Path
) -> None:
    settings = Settings.from_dict(
        {
            "store": f"my-corp-dist/fakestore:{tmp_path}/store",
            "sandbox": "my-corp-dist/fakebox",
            "fetcher": "my-corp-dist/fakefetch",
            "fakestore": {"mode": "link"},
            "fakefetch": {"registry": "here"},
        }
    )
    spec = Stage(from_=base, ops=(Shell(("sh",)), Run(shell="hello")))
    async with open_builder(settings) as builder:
        result = await builder.build(spec, BuildContext())
    assert (result.path / "log").read_bytes() == b"rival hello\n"
    assert (result.path / "rootfs" / "base").read_text() == "rival"
    sandboxes = tmp_path / "store" / "state" / "sandboxes"
    assert [path.name for path in sandboxes.iterdir()] == ["fakebox"]


def load(**choices: str) -> CoreSettings:
    return CoreSettings.load(choices=choices, environ={}, system_file=Path("/nowhere"))


def test_the_name_is_taken_apart_from_the_location() -> None:
    settings = load(store="my-corp-dist/fakestore:/pool/a:b", sandbox="my-corp-dist/fakebox")
    assert (settings.store, settings.location) == ("my-corp-dist/fakestore", "/pool/a:b")
    assert settings.sandbox == "my-corp-dist/fakebox"
    assert load(store="my-corp-dist/fakestore:").location == load(store="fakestore:").location


@pytest.mark.parametrize(
    "path", ["/pool", "./pool", "pool/store", "~/pool", "a/b/c:/pool", "../x:/y", "/x:/y", "a/:/x"]
)
def test_a_path_in_place_of_a_store_is_still_told_from_a_driver(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(store=path)
    assert caught.value.code == "config.value"
    assert "expected driver:location" in caught.value.what
    assert f"write DRIVER:{path}" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["/usr/bin/runc", "./runc", "a/b/c"])
def test_a_path_in_place_of_a_sandbox_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a driver"):
        load(sandbox=path)
