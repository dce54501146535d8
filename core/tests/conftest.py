"""Distributions made for one test: real metadata in a directory that is put on the path."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., None]

FAKES = '''
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from obuilder.directory_store import DirectoryStore
from obuilder.errors import CommandFailed
from obuilder.interfaces import Fetcher, Sandbox
from obuilder.types import BaseImage


class FakeStore(DirectoryStore):
    API = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        mode: Literal["copy", "link"] = "copy"

    @classmethod
    @asynccontextmanager
    async def open(cls, location, config):
        yield cls(Path(location))

    async def create_tree(self, path):
        path.mkdir()

    async def clone_tree(self, source, target):
        await anyio.to_thread.run_sync(lambda: shutil.copytree(source, target, symlinks=True))

    async def remove_tree(self, path):
        shutil.rmtree(path, ignore_errors=True)

    async def complete_deletes(self):
        pass

    async def df(self):
        return 50.0


class FakeSandbox(Sandbox):
    """Understands `exit N`, `wait`, `crash`; anything else is printed."""

    API = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        prefix: str = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir, config):
        sandbox = cls()
        sandbox.config = config
        yield sandbox

    async def run(self, config, rootfs, *, log, stdin=None):
        command = config.argv[-1]
        if command.startswith("exit "):
            raise CommandFailed(config.argv, int(command[5:]))
        if command == "crash":
            raise ZeroDivisionError("a bug")
        await log.output((self.config.prefix + command + "\\n").encode("utf-8", "surrogateescape"))
        if command == "wait":
            await anyio.sleep_forever()


class FakeFetcher(Fetcher):
    API = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        registry: str = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, config):
        yield cls()

    async def fetch(self, base, rootfs, *, log, scratch, context):
        (rootfs / "base").write_text(f"{base} {context.platform}")
        return BaseImage(env=(("PATH", "/bin"),), platform=context.platform)
'''

FAKE_ENTRY_POINTS = {
    "obuilder.stores": {"fakestore": "fakes:FakeStore"},
    "obuilder.sandboxes": {"fakebox": "fakes:FakeSandbox"},
    "obuilder.fetchers": {"fakefetch": "fakes:FakeFetcher"},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory on the import path; what is imported from it is forgotten again."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Write a distribution's metadata and modules: install(name, entry_points, modules)."""

    def install(
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
    ) -> None:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = []
        for group, points in entry_points.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(dedent(source))

    return install


@pytest.fixture
def fakes(install: Install) -> None:
    """A store, a sandbox and a fetcher that work: fakestore, fakebox, fakefetch."""
    install("obuilder-fakes", FAKE_ENTRY_POINTS, {"fakes": FAKES})
