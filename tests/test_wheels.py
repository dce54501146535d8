"""Each distribution is a wheel of its own; the core alone says what to install."""

import shutil
import tomllib
from pathlib import Path

import pytest
from support.wheels import DISTRIBUTIONS, TOP, command, install


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
