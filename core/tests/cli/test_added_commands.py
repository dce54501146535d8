"""Commands of plugins: there for --help and an unknown command, and no harm to any other."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MAIN = "from obuilder._cli.main import main; main()"
GUIDE = Path(__file__).parents[3] / "docs" / "hooks.md"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

GREETER = '''
import sys
from obuilder import Settings, hookimpl
from obuilder.errors import ConfigError

print("imported", file=sys.stderr)

@hookimpl
def commands():
    return [say_hello, refuse, {more}]

def say_hello(name: str, times: int = 1) -> None:
    """Say hello."""
    print(f"hello {{name}} " * times)

def refuse(settings: Settings) -> None:
    raise ConfigError(f"not on {{settings.location}}", hint="go elsewhere", code="greeter.no")

def build() -> None:
    """Not ours."""
'''


@pytest.fixture
def run(site: Path, fakes: None, tmp_path: Path) -> Run:
    def run(*args: str, **more: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        store = ["--store=fakestore:/its/place", "--sandbox=fakebox", "--fetcher=fakefetch"]
        return subprocess.run(
            [sys.executable, "-c", MAIN, *store, *args],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def install_greeter(
    install: Callable[..., None], name: str = "greeter", *, more: str = "", module: str = GREETER
) -> None:
    points = {"obuilder.commands": {name: f"{name}_mod"}}
    install(f"obuilder-{name}", points, {f"{name}_mod": module.format(more=more)})


def test_a_command_of_a_plugin_runs_as_any_other(install: Callable[..., None], run: Run) -> None:
    install_greeter(install)
    done = run("say-hello", "you", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "hello you hello you \n")
    done = run("refuse")
    assert done.returncode == 2
    assert done.stderr == "imported\nobuilder: not on /its/place\n  hint: go elsewhere\n"
    done = run("refuse", "--store=fakestore:/another")
    assert "not on /another" in done.stderr
    done = run("say-hello")
    assert done.returncode == 2
    assert "Missing argument 'name'" in done.stderr


def test_help_lists_it_and_a_command_of_ours_does_not_import_it(
    install: Callable[..., None], run: Run
) -> None:
    install_greeter(install)
    done = run("--help")
    assert re.search(r"^  say-hello +Say hello\.$", done.stdout, re.MULTILINE)
    assert done.stderr == "imported\n"
    assert run("backends").stderr == ""
    assert "hello" in run("say-hello", "--help").stdout


def test_what_is_disabled_is_not_imported(
    install: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    install_greeter(install)
    done = run("say-hello", "you", OBUILDER_DISABLE_PLUGINS="greeter")
    assert done.returncode == 2
    assert "imported" not in done.stderr
    assert "No such command 'say-hello'" in done.stderr
    done = run("-o", 'plugins.disable=["obuilder-greeter"]', "say-hello", "you")
    assert (done.returncode, "imported" in done.stderr) == (2, False)
    (tmp_path / ".config" / "obuilder").mkdir(parents=True)
    (tmp_path / ".config" / "obuilder" / "config.toml").write_text(
        '[plugins]\ndisable = ["obuilder-greeter"]'
    )
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nothing_like_that", "nothing_like_that"),
        ("raise SystemExit(7)", "SystemExit"),
        (GREETER.replace("return [", "raise OSError(5, 'no'); return ["), "commands of obuilder-"),
        (GREETER.replace("return [", "return 3, ["), "must return functions"),
        (GREETER.replace("def commands", "async def commands"), "not awaited"),
        (GREETER.replace("def commands", "def comands"), "comands"),
        (GREETER.replace("name: str,", "name: dict,"), "the command say-hello of obuilder-bad"),
    ],
)
def test_one_that_is_broken_is_a_warning(
    install: Callable[..., None], run: Run, module: str, said: str
) -> None:
    install_greeter(install, "bad", module=module)
    done = run("--help")
    assert done.returncode == 0
    assert "healthcheck" in done.stdout
    assert said in done.stderr
    assert done.stderr.count("obuilder: WARNING: ") == 1
    assert "Traceback" not in done.stderr


def test_ours_cannot_be_replaced_and_two_of_one_name_are_not_used(
    install: Callable[..., None], run: Run
) -> None:
    install_greeter(install, more="build")
    done = run("--help")
    assert "Not ours" not in done.stdout
    assert "the command build of obuilder-greeter is not used" in done.stderr
    install_greeter(install, "other")
    done = run("say-hello", "you")
    assert done.returncode == 2
    for name in ("obuilder-greeter", "obuilder-other"):
        assert name in done.stderr
    assert run("say-hello", "you", OBUILDER_DISABLE_PLUGINS="other").stdout == "hello you \n"


def test_a_configuration_that_is_wrong_breaks_no_help(
    install: Callable[..., None], run: Run
) -> None:
    install_greeter(install)
    done = run("--config=/missing.toml", "--help")
    assert done.returncode == 0
    assert "say-hello" in done.stdout


def test_the_example_of_the_guide_works(
    install: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    install("its-results", {"obuilder.commands": {"results": "guide"}}, {"guide": example})
    store = f"--store=fakestore:{tmp_path}/store"
    (tmp_path / "spec").write_text("((from busybox) (shell sh) (run (shell one)))")
    done = run(store, "build", "-f", str(tmp_path / "spec"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    done = run("results", "--exact", store)
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert run(store, "results").stdout == "about 0\n"
