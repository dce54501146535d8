"""Wheels of our distributions, and an environment that has none of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["DISTRIBUTIONS", "TOP", "build_wheel", "clean_python", "command", "install", "wheels"]

TOP = Path(__file__).parents[2]
DISTRIBUTIONS = [TOP / "core", *sorted((TOP / "plugins").iterdir())]


def build_wheel(directory: Path, out: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", out, directory],
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheels")
    for directory in DISTRIBUTIONS:
        build_wheel(directory, out)
    return out


@pytest.fixture
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
