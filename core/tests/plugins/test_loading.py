"""Drivers are found by entry point, and each way in which one can be wrong is told apart."""

import sys
from collections.abc import Callable

import pytest

from obuilder._core.drivers.plugins import FETCHER, SANDBOX, STORE, Plugins
from obuilder.errors import PluginError

Install = Callable[..., None]

GOOD = """
from contextlib import asynccontextmanager
from dataclasses import dataclass
from obuilder.interfaces import Sandbox

class Box(Sandbox):
    API = 1

    @dataclass(frozen=True)
    class Config:
        fast: bool = False

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir, config):
        yield cls()

    async def run(self, config, rootfs, *, log, stdin=None):
        pass
"""


def install_box(install: Install, source: str, *, name: str = "acme-box") -> None:
    install(name, {"obuilder.sandboxes": {"box": "box_module:Box"}}, {"box_module": source})


def failure(name: str = "box") -> PluginError:
    with pytest.raises(PluginError) as caught:
        Plugins().load(SANDBOX, name, where="--sandbox")
    return caught.value


def test_driver_is_loaded_by_its_entry_points_name(install: Install) -> None:
    install_box(install, GOOD)
    assert Plugins().load(SANDBOX, "box").__name__ == "Box"


def test_listing_imports_nothing(install: Install) -> None:
    install_box(install, "raise RuntimeError('imported')")
    found = {backend.name: backend for backend in Plugins().backends()}
    assert (found["box"].distribution, found["box"].version) == ("acme-box", "1.0")
    assert found["box"].kind is SANDBOX
    assert "box_module" not in sys.modules


def test_only_the_chosen_driver_is_imported(install: Install) -> None:
    install_box(install, GOOD)
    install("other", {"obuilder.sandboxes": {"other": "other_module:X"}}, {"other_module": ""})
    Plugins().load(SANDBOX, "box")
    assert "other_module" not in sys.modules


def test_unknown_driver_names_the_nearest_the_installed_and_the_package(install: Install) -> None:
    install_box(install, GOOD)
    error = failure("bax")
    assert (error.code, error.where) == ("plugin.not-installed", "--sandbox")
    hint = str(error.hint)
    assert "did you mean 'box'?" in hint
    assert "installed: box" in hint
    assert "pip install obuilder-sandbox-bax" in hint


def test_odd_name_is_no_package_to_install(install: Install) -> None:
    assert "pip install" not in str(failure("b x; rm").hint)


def test_driver_of_another_kind_is_not_found(install: Install) -> None:
    install_box(install, GOOD)
    with pytest.raises(PluginError) as caught:
        Plugins().load(STORE, "box")
    assert caught.value.code == "plugin.not-installed"


def test_two_distributions_with_one_name_are_both_named_and_neither_imported(
    install: Install,
) -> None:
    install_box(install, "raise RuntimeError('imported')")
    install("zeta-box", {"obuilder.sandboxes": {"box": "zeta_module:Box"}})
    error = failure()
    assert error.code == "plugin.conflict"
    assert "acme-box" in error.what
    assert "zeta-box" in error.what


def test_one_distribution_found_twice_is_no_conflict(install: Install) -> None:
    install_box(install, GOOD)
    install("Acme_Box", {"obuilder.sandboxes": {"box": "box_module:Box"}}, version="2.0")
    assert Plugins().load(SANDBOX, "box").__name__ == "Box"


def test_missing_module_is_named_with_its_distribution(install: Install) -> None:
    install_box(install, "import no_such_module")
    error = failure()
    assert error.code == "plugin.import"
    assert "acme-box" in error.what
    assert "'no_such_module'" in error.what


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("raise ValueError('broken')", "ValueError: broken"),
        ("assert False, 'no'", "AssertionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("Other = 1", "box_module:Box"),
        ("def (", "SyntaxError"),
    ],
)
def test_any_failure_to_import_is_one_error(install: Install, source: str, part: str) -> None:
    install_box(install, source)
    error = failure()
    assert (error.code, "acme-box" in error.what) == ("plugin.import", True)
    assert part in error.what


@pytest.mark.parametrize(
    ("old", "new", "code", "part"),
    [
        ("    API = 1\n", "", "plugin.api", "API = 1"),
        ("API = 1", "API = True", "plugin.api", "API = 1"),
        ("API = 1", "API = 99", "plugin.api", "needs interface 99; this obuilder speaks 1 to 1"),
        ("Box(Sandbox)", "Box", "plugin.not-a-backend", "not a subclass of obuilder.Sandbox"),
        ("async def run(", "async def go(", "plugin.method-missing", "lacks run"),
        ("    async def run(", "    def run(", "plugin.signature", "run() must be an async def"),
        ("rootfs,", "root,", "plugin.signature", "(config, root)"),
        ("log, stdin=None", "log", "plugin.signature", "lacks the parameter 'stdin'"),
        ("stdin=None", "stdin=None, extra", "plugin.signature", "'extra'"),
        ("    @asynccontextmanager\n", "", "plugin.signature", "lacks the decorator"),
        ("    @classmethod\n", "", "plugin.signature", "open() must be a classmethod"),
        ("frozen=True", "frozen=False", "plugin.config", "not frozen"),
        ("fast: bool = False", "fast: bool", "plugin.config", "fast has no default"),
        ("fast: bool = False", "fast: set = None", "plugin.config", "fast has a type"),
        ("fast: bool = False", "fast: 'Gone' = None", "plugin.config", "Gone"),
        ("class Config", "class Options", "plugin.config", "needs Config"),
    ],
)
def test_class_of_a_wrong_form_is_refused_with_the_reason(
    install: Install, old: str, new: str, code: str, part: str
) -> None:
    assert old in GOOD
    install_box(install, GOOD.replace(old, new))
    error = failure()
    assert (error.code, "acme-box" in error.what) == (code, True)
    assert part in error.what
    assert error.hint


def test_newer_interface_says_to_upgrade_obuilder(install: Install) -> None:
    install_box(install, GOOD.replace("API = 1", "API = 2"))
    assert "pip install --upgrade obuilder" in str(failure().hint)


@pytest.mark.parametrize(
    "run",
    [
        "async def run(self, config, rootfs, *, log, stdin=None, more=1)",
        "async def run(self, config, rootfs, **options)",
        "async def run(self, *args, **options)",
    ],
)
def test_method_that_takes_more_than_is_promised_is_fine(install: Install, run: str) -> None:
    promised = "async def run(self, config, rootfs, *, log, stdin=None)"
    install_box(install, GOOD.replace(promised, run))
    Plugins().load(SANDBOX, "box")


def test_property_written_as_a_method_is_refused(install: Install, fakes: None) -> None:
    source = """
    from fakes import FakeStore
    class Store(FakeStore):
        API = 1
        Config = FakeStore.Config
        def root(self):
            pass
    """
    install("acme-store", {"obuilder.stores": {"acme": "acme_store:Store"}}, {"acme_store": source})
    with pytest.raises(PluginError) as caught:
        Plugins().load(STORE, "acme")
    assert "root is a method; it must be a property" in caught.value.what


def test_interface_number_must_stand_in_the_classs_own_body(install: Install, fakes: None) -> None:
    source = "from fakes import FakeStore\nclass Store(FakeStore):\n    Config = FakeStore.Config"
    install("acme-store", {"obuilder.stores": {"acme": "acme_store:Store"}}, {"acme_store": source})
    with pytest.raises(PluginError) as caught:
        Plugins().load(STORE, "acme")
    assert caught.value.code == "plugin.api"


def test_scheme_must_be_the_drivers_name(install: Install, fakes: None) -> None:
    source = """
    from fakes import FakeFetcher
    class Other(FakeFetcher):
        API = 1
        Config = FakeFetcher.Config
        scheme = "another"
    """
    install(
        "acme-fetch", {"obuilder.fetchers": {"acme": "acme_fetch:Other"}}, {"acme_fetch": source}
    )
    with pytest.raises(PluginError) as caught:
        Plugins().load(FETCHER, "acme")
    assert caught.value.code == "plugin.scheme"


def test_damaged_metadata_of_a_stranger_harms_nothing(install: Install, site: object) -> None:
    install_box(install, GOOD)
    info = site / "stranger-1.0.dist-info"  # type: ignore[operator]  # a Path
    info.mkdir()
    (info / "METADATA").write_text("Name: stranger\n")
    (info / "entry_points.txt").write_text("[obuilder.sandboxes]\nno equals sign\n")
    assert Plugins().load(SANDBOX, "box").__name__ == "Box"
