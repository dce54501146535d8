"""Each distribution is a wheel of its own; the core alone says what to install."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
DISTRIBUTIONS = [TOP / "core", *sorted((TOP / "plugins").iterdir())]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheels")
    for directory in DISTRIBUTIONS:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "build",
                "-q",
                "--wheel",
                "--no-isolation",
                "-o",
                out,
                directory,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    return out


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment that has our dependencies and none of our distributions."""
    home = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    target = home / "venv" / "lib" / version / "site-packages"
    source = Path(pytest.__file__).parents[1]
    for entry in source.iterdir():
        if "obuilder" not in entry.name and not entry.name.endswith(".pth"):
            (target / entry.name).symlink_to(entry)
    yield home / "venv" / "bin" / "python"
    shutil.rmtree(home)


def install(python: Path, *wheels: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", f"--python={python}", "install", "-q", "--no-deps"]
        + ["--no-index", *map(str, wheels)],
        check=True,
        capture_output=True,
        timeout=120,
    )


def command(python: Path, *args: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python.with_name("obuilder"), *args],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.timeout(400)
def test_wheels_alone_are_enough(
    wheels: Path, clean_python: Path, busybox_archive: Path, tmp_path: Path
) -> None:
    built = {path.name.split("-")[0]: path for path in wheels.iterdir()}
    assert len(built) == len(DISTRIBUTIONS)
    shutil.copy(busybox_archive, tmp_path / "busybox.tar")
    spec = tmp_path / "spec"
    spec.write_text('((from archive:busybox.tar) (shell /bin/sh -c) (run (shell "echo wheel")))')
    (tmp_path / "src").mkdir()
    store = f"--store=rsync:{tmp_path}/store"
    args = ("build", store, "-f", str(spec), str(tmp_path / "src"))

    install(clean_python, built.pop("obuilder"))
    alone = command(clean_python, *args, home=tmp_path)
    assert alone.returncode == 2
    assert "pip install obuilder-store-rsync" in alone.stderr
    assert command(clean_python, "backends", home=tmp_path).returncode == 0

    install(clean_python, *built.values())
    done = command(clean_python, *args, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nwheel\n" in done.stdout
    listed = command(clean_python, "backends", home=tmp_path).stdout
    for name in built:
        assert name.replace("_", "-") in listed


def test_the_extras_name_real_distributions() -> None:
    def project(directory: Path) -> dict[str, object]:
        return dict(tomllib.loads((directory / "pyproject.toml").read_text())["project"])

    names = {project(directory)["name"] for directory in DISTRIBUTIONS}
    extras = project(TOP / "core")["optional-dependencies"]
    assert isinstance(extras, dict)
    for extra, wanted in extras.items():
        for requirement in wanted:
            if requirement.startswith("obuilder"):
                assert requirement in names, extra
