"""docs/stability.md: what was built against interface 1 works, and the interfaces only grow."""

import inspect
import logging
import re
from abc import ABC
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wheels import TOP

from obuilder._core.drivers.checks import check_class
from obuilder._core.drivers.plugins import STORE, Plugins
from obuilder.interfaces import BuildLog, Fetcher, Sandbox, Store
from obuilder.locks import Locks
from obuilder.types import ROOT, Id

WHEEL = TOP / "tests" / "fixtures" / "obuilder_store_api1-1.0-py3-none-any.whl"
CORE = TOP / "core" / "src" / "obuilder"

# An abstract method more is a class less that loads: new ones have defaults.
ABSTRACT = {
    Store: "build cache caches complete_deletes delete delete_cache df discard leftovers log_file"
    " open result root state_dir",
    Sandbox: "open run",
    Fetcher: "fetch open",
    BuildLog: "note output pipe",
}


@pytest.mark.anyio
async def test_a_wheel_built_against_interface_1_loads_opens_and_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(WHEEL))
    kind = Plugins().load(STORE, "api1")
    assert vars(kind)["API"] == 1
    check_class(kind, Store, distribution="obuilder-store-api1")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    base, child = Id("a" * 64), Id("b" * 64)
    async with kind.open(str(tmp_path), kind.Config()) as store:
        locks = Locks(store.state_dir / "locks")
        async with locks.hold(base), store.build(base) as path:
            (path / "file").write_text("base")
        async with locks.hold(child), store.build(child, base=base) as path:
            assert (path / "file").read_text() == "base"
        async with store.cache("c", user=ROOT) as path:
            (path / "file").touch()
        assert sorted(await store.results()) == [base, child]
        assert await store.caches() == ["c"]
        await store.delete(child)
        assert await store.leftovers() == []


@pytest.mark.parametrize("interface", ABSTRACT, ids=lambda interface: interface.__name__)
def test_an_interface_demands_no_more_methods_than_interface_1(interface: type[ABC]) -> None:
    demanded = interface.__abstractmethods__
    assert sorted(demanded) == ABSTRACT[interface].split()


# The store's are those of the wheel, which has every method.
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (Sandbox.open, "state_dir config"),
        (Sandbox.run, "self config rootfs log stdin"),
        (Sandbox.leftovers, "self"),
        (Sandbox.discard, "self leftover"),
        (Fetcher.open, "config"),
        (Fetcher.fetch, "self base rootfs log scratch context"),
    ],
)
def test_a_method_has_the_parameters_of_interface_1(
    method: Callable[..., object], parameters: str
) -> None:
    assert list(inspect.signature(method).parameters) == parameters.split()


def test_the_table_of_public_modules_is_that_of_the_code() -> None:
    page = (TOP / "docs" / "stability.md").read_text()
    table = "\n".join(re.findall(r"^\| `obuilder.*$", page, re.MULTILINE))
    named = set(re.findall(r"`obuilder\.(\w+)`", table))
    found = {
        path.stem
        for path in CORE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }
    assert named == found
