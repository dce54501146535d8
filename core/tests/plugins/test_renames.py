"""A parameter that changes its name: both are taken, the old one is warned of, and it works."""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from obuilder._core.drivers.plugins import SANDBOX, Plugins
from obuilder._core.drivers.renames import RENAMES, Rename
from obuilder.errors import PluginError
from obuilder.interfaces import API_VERSION, Fetcher, Sandbox, Store

Install = Callable[..., None]

# As if `tty` had been the name of what is now `stdin`, and `where` that of `state_dir`.
CHANGED = (
    Rename(interface=Sandbox, method="run", old="tty", new="stdin", api=2),
    Rename(interface=Sandbox, method="open", old="where", new="state_dir", api=2),
)
OLD = """
from contextlib import asynccontextmanager
from dataclasses import dataclass
from obuilder.interfaces import Sandbox

class Box(Sandbox):
    API = 1

    @dataclass(frozen=True)
    class Config:
        pass

    @classmethod
    @asynccontextmanager
    async def open(cls, where, config):
        box = cls()
        box.where = where
        yield box

    async def run(self, config, rootfs, *, log, tty=None):
        self.got = (config, rootfs, log, tty)
"""


def load(install: Install, source: str, *, api: int = 2) -> Any:
    install("acme-box", {"obuilder.sandboxes": {"box": "box_module:Box"}}, {"box_module": source})
    changed = [
        Rename(interface=each.interface, method=each.method, old=each.old, new=each.new, api=api)
        for each in CHANGED
    ]
    return Plugins(renames=changed).load(SANDBOX, "box")


def test_the_old_name_is_taken_with_a_warning_and_called_by_it(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    box = load(install, OLD)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert (
        "DeprecationWarning: acme-box: Box.run() has the parameter 'tty', which is 'stdin'"
        " from interface 2 on" in caplog.text
    )

    async def use() -> Any:
        async with box.open(state_dir="here", config=None) as opened:
            await opened.run(1, 2, log=3, stdin=4)
            return opened

    opened = anyio.run(use)
    assert (opened.where, opened.got) == ("here", (1, 2, 3, 4))
    assert (box.__name__, box.API, box.Config.__qualname__) == ("Box", 1, "Box.Config")


def test_the_new_name_is_taken_in_silence(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    box = load(install, OLD.replace("tty", "stdin").replace("where,", "state_dir,"))
    assert (caplog.text, box.__module__) == ("", "box_module")


def test_a_class_that_was_written_after_the_change_must_use_the_new_name(install: Install) -> None:
    with pytest.raises(PluginError) as caught:
        load(install, OLD, api=1)
    assert caught.value.code == "plugin.signature"


def test_a_method_without_either_name_is_refused(install: Install) -> None:
    with pytest.raises(PluginError, match="lacks the parameter 'stdin'"):
        load(install, OLD.replace("tty", "other"))


def test_every_rename_of_ours_names_what_the_interfaces_have() -> None:
    for rename in RENAMES:
        assert rename.interface in {Store, Sandbox, Fetcher}
        assert rename.method in vars(rename.interface)
        assert rename.api <= API_VERSION + 1
