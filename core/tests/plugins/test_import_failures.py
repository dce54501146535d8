"""A plugin that cannot be imported says why, and everything else goes on working."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app
from obuilder._core.drivers.plugins import SANDBOX, Plugins
from obuilder.errors import PluginError

Install = Callable[..., None]
pytestmark = pytest.mark.usefixtures("fakes")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for key in ("STORE", "SANDBOX", "FETCHER", "CONFIG"):
        monkeypatch.delenv(f"OBUILDER_{key}", raising=False)


def broken(install: Install, source: str, name: str = "box") -> None:
    points = {"obuilder.sandboxes": {name: f"{name}_module:Box"}}
    install(f"acme-{name}", points, {f"{name}_module": source})


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, list(argv))


@pytest.mark.parametrize(
    ("source", "module", "advice"),
    [
        ("import no_such_thing.part", "'no_such_thing'", "--force-reinstall acme-box"),
        ("import json.nothing", "'json.nothing'", "--force-reinstall acme-box"),
        ("import obuilder.gone", "'obuilder.gone'", "--upgrade obuilder acme-box"),
        ("from obuilder.types import Gone", "'Gone'", "--upgrade obuilder acme-box"),
        ("from json import Gone", "'Gone'", "report it to the author of acme-box"),
    ],
)
def test_the_missing_module_its_distribution_and_the_remedy_are_named(
    install: Install, source: str, module: str, advice: str
) -> None:
    broken(install, source)
    with pytest.raises(PluginError) as caught:
        Plugins().load(SANDBOX, "box")
    assert caught.value.code == "plugin.import"
    assert caught.value.what.startswith("acme-box: sandbox 'box' cannot be imported: ")
    assert module in caught.value.what
    assert advice in str(caught.value.hint)


def test_a_missing_dependency_of_a_dependency_is_the_one_that_is_named(install: Install) -> None:
    install("helper", {}, {"helper_module": "import not_there"})
    broken(install, "import helper_module")
    with pytest.raises(PluginError, match="needs the module 'not_there'"):
        Plugins().load(SANDBOX, "box")


def test_what_is_no_exception_is_a_failure_like_any_other(install: Install) -> None:
    broken(install, "class Panic(BaseException): pass\nraise Panic('at import')")
    with pytest.raises(PluginError, match="Panic"):
        Plugins().load(SANDBOX, "box")


@pytest.mark.parametrize("damage", [b"\xff\xfe", b""])
def test_damaged_metadata_of_one_harms_no_other(
    install: Install, site: Path, damage: bytes
) -> None:
    broken(install, "class Box: pass")
    (site / "acme_box-1.0.dist-info" / "METADATA").write_bytes(damage)
    assert "fakebox" in Plugins().names(SANDBOX)
    assert run("--help").exit_code == 0
    assert run("backends").exit_code == 0


def test_the_others_are_listed_and_work(install: Install, tmp_path: Path) -> None:
    broken(install, "import no_such_thing")
    broken(install, "raise SystemExit(3)", "exiting")
    broken(install, "def (", "unparsable")
    listed = run("backends")
    assert listed.exit_code == 0
    rows = {line.split()[1]: line for line in listed.stdout.splitlines()[1:]}
    assert "'no_such_thing'" in rows["box"]
    assert "SystemExit" in rows["exiting"]
    assert "SyntaxError" in rows["unparsable"]
    assert rows["fakebox"].endswith("ok")

    spec = tmp_path / "spec"
    spec.write_text("((from busybox) (shell sh) (run (shell hello)))")
    (tmp_path / "source").mkdir()
    working = [f"--store=fakestore:{tmp_path}/store", "--sandbox=fakebox", "--fetcher=fakefetch"]
    built = run("build", *working, "-f", str(spec), str(tmp_path / "source"))
    assert (built.exit_code, built.stderr) == (0, "")


def test_using_the_broken_one_is_a_configuration_error(install: Install, tmp_path: Path) -> None:
    broken(install, "import no_such_thing")
    spec = tmp_path / "spec"
    spec.write_text("((from busybox) (shell sh) (run (shell hello)))")
    (tmp_path / "source").mkdir()
    chosen = [f"--store=fakestore:{tmp_path}/store", "--sandbox=box", "--fetcher=fakefetch"]
    failed = run("build", *chosen, "-f", str(spec), str(tmp_path / "source"))
    assert failed.exit_code == 2
    assert "acme-box" in failed.stderr
    assert "'no_such_thing'" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "store").exists()
